use pipekeeper_core::store::{Backend, Consent, DueFor, Revocation, Sealed};
use pipekeeper_core::test_util::TestDatabase;

use super::{at, consent, get, insert, sealed};

pub(crate) async fn due_rows_come_in_pages_and_in_order(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let mut expected = Vec::new();
    for (owner, due) in [
        ("a", 30),
        ("b", 10),
        ("c", 20),
        ("d", 20),
        ("e", 20),
        ("f", 31),
    ] {
        let given = Consent {
            due_at: at(due),
            ..consent("acme", owner)
        };
        expected.push((at(due), insert(&store, given).await));
    }
    expected.pop();
    expected.sort();

    let mut seen = Vec::new();
    loop {
        let after = seen.last().map(|(due, id)| (*due, id));
        let page = store
            .connections_due(DueFor::Refresh, at(30), after, 2)
            .await
            .unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|row| (row.due_at, row.id)));
    }

    assert_eq!(seen, expected);
}

pub(crate) async fn only_pending_revocations_are_due(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let told_here = insert(&store, consent("acme", "jane")).await;
    let known_there = insert(&store, consent("acme", "joe")).await;
    store
        .connection_revoke(&told_here, 1, "disconnected", Revocation::Pending, at(1))
        .await
        .unwrap();
    store
        .connection_revoke(&known_there, 1, "uninstalled", Revocation::Known, at(1))
        .await
        .unwrap();
    let due = async || {
        let rows = store
            .connections_due(DueFor::Revocation, at(1_000_000_000), None, 9)
            .await
            .unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };

    assert_eq!(due().await, std::slice::from_ref(&told_here));
    let row = get(&store, &told_here).await;
    assert_eq!(
        row.refresh_token,
        sealed("refresh-1"),
        "needed to tell the provider"
    );
    assert_eq!(
        get(&store, &known_there).await.refresh_token,
        Sealed::default()
    );

    assert!(
        !store
            .connection_revocation_told(&told_here, 1, at(2))
            .await
            .unwrap()
    );
    assert!(
        store
            .connection_revocation_told(&told_here, 2, at(2))
            .await
            .unwrap()
    );
    assert_eq!(due().await, []);
    let row = get(&store, &told_here).await;
    assert_eq!(
        (row.revoke_pending, row.refresh_token),
        (false, Sealed::default())
    );
}

pub(crate) async fn a_row_is_postponed_unless_it_moved(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;

    assert!(store.connection_postpone(&id, 1, at(5)).await.unwrap());
    assert!(!store.connection_postpone(&id, 2, at(6)).await.unwrap());

    assert_eq!(get(&store, &id).await.due_at, at(5));
}
