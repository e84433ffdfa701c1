use pipekeeper_core::connection::ConnectionState::{Active, ReauthRequired};
use pipekeeper_core::store::Backend;
use pipekeeper_testing::TestDatabase;
use tokio::task::JoinSet;

use super::{at, consent, failure, get, insert};

pub(crate) async fn lease_is_exclusive(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let id = insert(&database.store(), consent("acme", "jane")).await;

    let mut racers = JoinSet::new();
    for racer in 0..16 {
        // A pool of its own each, as in as many processes.
        let (store, id) = (database.store(), id.clone());
        racers.spawn(async move {
            store
                .lease_acquire(&id, 1, Active, &format!("slot/{racer}"))
                .await
        });
    }
    let won = racers.join_all().await;

    let won: Vec<bool> = won.into_iter().map(Result::unwrap).collect();
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    let row = get(&database.store(), &id).await;
    assert!(row.lease_owner.unwrap().starts_with("slot/"));
}

pub(crate) async fn lease_needs_a_row_that_is_as_it_was_seen(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;

    assert!(!store.lease_acquire(&id, 0, Active, "a").await.unwrap());
    assert!(!store.lease_acquire(&id, 2, Active, "a").await.unwrap());
    let recheck = store.lease_acquire(&id, 1, ReauthRequired, "a");
    assert!(!recheck.await.unwrap());
    assert!(store.lease_acquire(&id, 1, Active, "a").await.unwrap());
    assert!(store.lease_release(&id, "a").await.unwrap());
    store
        .connection_reauth_required(&id, 1, false, None, at(1))
        .await
        .unwrap();

    assert!(!store.lease_acquire(&id, 1, Active, "a").await.unwrap());
    let recheck = store.lease_acquire(&id, 1, ReauthRequired, "a");
    assert!(recheck.await.unwrap());
    let second = store.lease_acquire(&id, 1, ReauthRequired, "b");
    assert!(!second.await.unwrap(), "held");
}

pub(crate) async fn lease_ends_by_its_holders_word_alone(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, Active, "slot/a").await.unwrap());

    assert!(!store.lease_release(&id, "slot/A").await.unwrap());
    assert!(!store.lease_release(&id, "slot/b").await.unwrap());

    assert_eq!(
        get(&store, &id).await.lease_owner.as_deref(),
        Some("slot/a")
    );
    assert!(store.lease_release(&id, "slot/a").await.unwrap());
    assert_eq!(get(&store, &id).await.lease_owner, None);
}

pub(crate) async fn orphan_is_taken_over_by_one_and_in_doubt(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, Active, "dead").await.unwrap());

    let mut heirs = JoinSet::new();
    for heir in 0..8 {
        let (store, id) = (database.store(), id.clone());
        heirs.spawn(async move {
            store
                .lease_take_over(&id, "dead", &format!("heir/{heir}"))
                .await
                .unwrap()
        });
    }
    let took = heirs.join_all().await;

    assert_eq!(took.iter().filter(|took| **took).count(), 1);
    let row = get(&store, &id).await;
    assert!(row.in_doubt);
    assert_eq!((row.generation, row.state), (1, Active));
}

pub(crate) async fn failed_spend_of_a_stale_lease_owner_changes_nothing(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, Active, "old").await.unwrap());
    assert!(store.lease_take_over(&id, "old", "new").await.unwrap());
    let before = get(&store, &id).await;

    assert!(
        !store
            .connection_spend_failed(&id, "old", &failure(true), at(1))
            .await
            .unwrap()
    );

    assert_eq!(get(&store, &id).await, before);
}
