use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::granted::Consent;
use pipekeeper_core::sealed::Sealed;
use pipekeeper_core::store::{Backend, DueFor, NewConnection, Revocation};
use pipekeeper_testing::TestDatabase;

use super::{app, at, consent, get, insert, other_app, sealed};

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

/// What others write between two pages decides about their own rows alone.
pub(crate) async fn pages_neither_skip_nor_repeat_what_stays_where_it_is(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let mut ids = Vec::new();
    for owner in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let given = Consent {
            // Of one instant, so that the ids alone tell them apart.
            due_at: at(10),
            ..consent("acme", owner)
        };
        ids.push(insert(&store, given).await);
    }
    ids.sort();
    let places = [
        // renewed: behind everything that is due
        (0, at(9000)),
        // seen, and due once more: comes again at its new place
        (1, at(20)),
        // not seen yet: moved before the page, and waits for the next pass
        (5, at(5)),
        // not seen yet: moved out of this pass
        (6, at(31)),
    ];

    let mut came = Vec::new();
    let mut after = None;
    loop {
        let page = store
            .connections_due(
                DueFor::Refresh,
                at(30),
                after.as_ref().map(|(at, id)| (*at, id)),
                2,
            )
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        if after.is_none() {
            for (index, due_at) in places {
                let moved = store.connection_postpone(&ids[index], 1, due_at).await;
                assert!(moved.unwrap());
            }
        }
        after = Some((last.due_at, last.id.clone()));
        came.extend(page.into_iter().map(|row| row.id));
    }

    let expected = [0, 1, 2, 3, 4, 7, 1].map(|index| ids[index].clone());
    assert_eq!(came, expected);
    let next_pass = store
        .connections_due(DueFor::Refresh, at(30), None, 1)
        .await
        .unwrap();
    assert_eq!(next_pass[0].id, ids[5]);
}

pub(crate) async fn refused_rows_are_due_when_somebody_asks(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let refused = insert(&store, consent("acme", "jane")).await;
    let active = insert(&store, consent("acme", "joe")).await;
    let elsewhere = ConnectionId::generate();
    let new = NewConnection {
        id: elsewhere.clone(),
        app: other_app(),
        consent: consent("acme", "jane"),
    };
    store.connection_insert(&new, at(0)).await.unwrap();
    for id in [&refused, &elsewhere] {
        let ended = store.connection_reauth_required(id, 1, false, None, at(1));
        assert!(ended.await.unwrap());
    }
    let due = async |due_for, now| {
        let rows = store.connections_due(due_for, now, None, 9).await.unwrap();
        rows.into_iter().map(|row| row.id).collect::<Vec<_>>()
    };
    let ever = at(1_000_000_000);
    assert_eq!(due(DueFor::Recheck, ever).await, []);
    assert_eq!(
        due(DueFor::Refresh, ever).await,
        std::slice::from_ref(&active)
    );

    assert_eq!(store.connections_recheck(&app(), at(50)).await.unwrap(), 1);

    assert_eq!(due(DueFor::Recheck, at(49)).await, []);
    assert_eq!(
        due(DueFor::Recheck, at(50)).await,
        std::slice::from_ref(&refused)
    );
    assert_eq!(due(DueFor::Recheck, ever).await, [refused]);
    assert_eq!(get(&store, &active).await.due_at, at(3000));
}

pub(crate) async fn the_sweeps_delay_is_told_by_active_rows(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    assert_eq!(store.due_since(at(100)).await.unwrap(), None);
    for (owner, due) in [("a", 30), ("b", 10), ("c", 5)] {
        let given = Consent {
            due_at: at(due),
            ..consent("acme", owner)
        };
        let id = insert(&store, given).await;
        if owner == "c" {
            let pending = Revocation::Pending;
            let ended = store.connection_revoke(&id, 1, "disconnected", pending, at(5));
            assert!(ended.await.unwrap());
        }
    }

    assert_eq!(store.due_since(at(9)).await.unwrap(), None);
    assert_eq!(store.due_since(at(10)).await.unwrap(), Some(at(10)));
    assert_eq!(store.due_since(at(100)).await.unwrap(), Some(at(10)));
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
            .connection_revocation_told(&told_here, 1, None, at(2))
            .await
            .unwrap()
    );
    assert!(
        store
            .connection_revocation_told(&told_here, 2, None, at(2))
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
