use pipekeeper_core::connection::{ConnectionId, ConnectionState, HANDED_BACK};
use pipekeeper_core::store::{Backend, DueFor, Import};
use pipekeeper_testing::TestDatabase;

use super::{at, commit, consent, failure, get, insert};

fn import(row: &str, id: &ConnectionId) -> Import {
    Import {
        source_table: "App_tok".to_owned(),
        source_row: row.to_owned(),
        connection_id: id.clone(),
        token_hash: "hash".to_owned(),
        handed_back_at: None,
        replaced_at: None,
    }
}

pub(crate) async fn what_a_row_has_become_is_noted_once(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let (one, two) = (
        insert(&store, consent("acme", "jane")).await,
        insert(&store, consent("acme", "john")).await,
    );
    for row in ["1", "10", "2"] {
        store.import_put(&import(row, &one), at(0)).await.unwrap();
    }
    store.import_put(&import("1", &two), at(1)).await.unwrap();

    let found = store.import_find("App_tok", "1").await.unwrap();
    assert_eq!(found, Some(import("1", &two)));
    assert_eq!(store.import_find("other", "1").await.unwrap(), None);
    let of_one = store.imports_of_connection(&one).await.unwrap();
    assert_eq!(of_one, [import("10", &one), import("2", &one)]);
    let page = store.imports_of("App_tok", "1", 1).await.unwrap();
    assert_eq!(page[0].0, import("10", &one));
    let without = async || {
        let rows = store.connections_without_import("App_tok", None, 9).await;
        rows.unwrap()
            .into_iter()
            .map(|row| row.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(without().await, []);
    store.imports_forget(&one).await.unwrap();
    assert_eq!(without().await, [one]);
    let rows = store
        .connections_without_import("other", None, 9)
        .await
        .unwrap();
    assert_eq!(rows.len(), 2);
}

pub(crate) async fn a_row_is_handed_back_once(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    let noted = import("1", &id);
    store.import_put(&noted, at(0)).await.unwrap();

    let first = store.import_handed_back(&noted, "new", at(4)).await;
    let second = store.import_handed_back(&noted, "newer", at(5)).await;

    assert!(first.unwrap());
    assert!(!second.unwrap());
    let found = store.import_find("App_tok", "1").await.unwrap().unwrap();
    assert_eq!(
        (found.token_hash.as_str(), found.handed_back_at),
        ("new", Some(at(4)))
    );
}

pub(crate) async fn handing_back_waits_for_who_is_at_it(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    let hand_back = async |generation| store.connection_hand_back(&id, generation, at(1)).await;
    let state = ConnectionState::Active;
    assert!(store.lease_acquire(&id, 1, state, "holder").await.unwrap());

    assert!(!hand_back(1).await.unwrap(), "it is being refreshed");
    let unknown = failure(true);
    let failed = store.connection_spend_failed(&id, "holder", &unknown, at(1));
    assert!(failed.await.unwrap());
    assert!(
        !hand_back(1).await.unwrap(),
        "whether it was spent is unknown"
    );
    assert!(store.lease_acquire(&id, 1, state, "other").await.unwrap());
    let mut spent = commit();
    spent.spent_under = Some("other".to_owned());
    assert!(
        store
            .connection_commit(&id, 1, &spent, at(2))
            .await
            .unwrap()
    );
    assert!(!hand_back(1).await.unwrap(), "it was renewed since");
    assert!(hand_back(2).await.unwrap());
}

pub(crate) async fn what_is_handed_back_is_never_due_and_never_committed(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.connection_hand_back(&id, 1, at(1)).await.unwrap());

    let row = get(&store, &id).await;
    assert_eq!(
        (
            row.state,
            row.state_reason.as_deref(),
            row.generation,
            row.revoke_pending
        ),
        (ConnectionState::Revoked, Some(HANDED_BACK), 2, false)
    );
    assert!(
        !row.refresh_token.is_wiped(),
        "kept until it is where it belongs"
    );
    assert!(!store.connection_forget(&id, 2).await.unwrap());
    for due_for in [DueFor::Refresh, DueFor::Recheck, DueFor::Revocation] {
        let due = store
            .connections_due(due_for, at(1_000_000_000), None, 9)
            .await;
        assert_eq!(due.unwrap(), []);
    }
    for generation in [1, 2] {
        let late = store
            .connection_commit(&id, generation, &commit(), at(2))
            .await;
        assert!(!late.unwrap());
    }
    assert!(!store.connection_handed_back(&id, 1, at(3)).await.unwrap());
    assert!(store.connection_handed_back(&id, 2, at(3)).await.unwrap());
    let row = get(&store, &id).await;
    assert!(row.refresh_token.is_wiped() && row.access_token.is_wiped());
}
