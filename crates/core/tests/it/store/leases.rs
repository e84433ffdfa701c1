use pipekeeper_core::connection::ConnectionState;
use pipekeeper_core::store::{Backend, Revocation, SpendFailure};
use pipekeeper_core::test_util::TestDatabase;
use tokio::task::JoinSet;

use super::{at, commit, consent, get, insert, sealed};

fn failure(in_doubt: bool) -> SpendFailure {
    SpendFailure {
        retry_at: at(30),
        last_error: "timeout".to_owned(),
        in_doubt,
        due_at: at(31),
    }
}

pub(crate) async fn lease_is_exclusive(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let id = insert(&database.store(), consent("acme", "jane")).await;

    let mut racers = JoinSet::new();
    for racer in 0..16 {
        // A pool of its own each, as in as many processes.
        let (store, id) = (database.store(), id.clone());
        racers.spawn(async move { store.lease_acquire(&id, 1, &format!("slot/{racer}")).await });
    }
    let won = racers.join_all().await;

    let won: Vec<bool> = won.into_iter().map(Result::unwrap).collect();
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
    let row = get(&database.store(), &id).await;
    assert!(row.lease_owner.unwrap().starts_with("slot/"));
}

pub(crate) async fn lease_needs_an_active_row_of_the_same_generation(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;

    assert!(!store.lease_acquire(&id, 0, "a").await.unwrap());
    assert!(!store.lease_acquire(&id, 2, "a").await.unwrap());
    assert!(store.lease_acquire(&id, 1, "a").await.unwrap());
    assert!(store.lease_release(&id, "a").await.unwrap());
    store
        .connection_reauth_required(&id, 1, "rejected", None, at(1))
        .await
        .unwrap();

    assert!(!store.lease_acquire(&id, 1, "a").await.unwrap());
}

pub(crate) async fn lease_ends_by_its_holders_word_alone(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, "slot/a").await.unwrap());

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
    assert!(store.lease_acquire(&id, 1, "dead").await.unwrap());

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
    assert_eq!((row.generation, row.state), (1, ConnectionState::Active));
}

pub(crate) async fn stale_generation_cannot_commit(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;

    assert!(
        store
            .connection_commit(&id, 1, &commit(), at(60))
            .await
            .unwrap()
    );
    let stale = super::Commit {
        access_token: sealed("stale"),
        ..commit()
    };
    assert!(
        !store
            .connection_commit(&id, 1, &stale, at(61))
            .await
            .unwrap()
    );

    let row = get(&store, &id).await;
    assert_eq!(row.generation, 2);
    assert_eq!(row.access_token, sealed("access-2"));
}

pub(crate) async fn commit_clears_what_went_before(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, "a").await.unwrap());
    assert!(
        store
            .connection_spend_failed(&id, "a", &failure(true), at(1))
            .await
            .unwrap()
    );
    assert!(
        store
            .connection_reauth_required(&id, 1, "answer_lost", Some("x"), at(2))
            .await
            .unwrap()
    );
    assert_eq!(get(&store, &id).await.state_since, at(2));

    assert!(
        store
            .connection_commit(&id, 1, &commit(), at(60))
            .await
            .unwrap()
    );

    let row = get(&store, &id).await;
    assert_eq!(row.state, ConnectionState::Active);
    assert_eq!(row.state_since, at(60));
    assert_eq!(
        (row.state_reason, row.last_error, row.retry_at),
        (None, None, None)
    );
    assert_eq!(
        (row.in_doubt, row.failures, row.early_renewals),
        (false, 0, 2)
    );
    assert_eq!((row.refreshed_at, row.due_at), (Some(at(60)), at(6000)));

    assert!(
        store
            .connection_commit(&id, 2, &commit(), at(90))
            .await
            .unwrap()
    );
    assert_eq!(
        get(&store, &id).await.state_since,
        at(60),
        "it was active before"
    );
}

pub(crate) async fn commit_never_revives_a_revoked_row(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, "a").await.unwrap());
    let pending = Revocation::Pending;
    assert!(
        store
            .connection_revoke(&id, 1, "disconnected", pending, at(1))
            .await
            .unwrap()
    );
    let revoked = get(&store, &id).await;
    assert_eq!(
        (revoked.generation, revoked.lease_owner.as_deref()),
        (2, None)
    );

    assert!(
        !store
            .connection_commit(&id, 1, &commit(), at(60))
            .await
            .unwrap()
    );
    assert!(
        !store
            .connection_commit(&id, 2, &commit(), at(60))
            .await
            .unwrap()
    );

    assert_eq!(get(&store, &id).await, revoked);
    assert!(
        !store
            .connection_revoke(&id, 1, "again", pending, at(2))
            .await
            .unwrap()
    );
}

pub(crate) async fn reconnect_revives_a_revoked_row(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(
        store
            .connection_revoke(&id, 1, "gone", Revocation::Pending, at(1))
            .await
            .unwrap()
    );
    let again = super::Consent {
        access_token: sealed("access-9"),
        authorized_at: at(100),
        ..consent("acme", "joe")
    };

    assert!(
        !store
            .connection_reconnect(&id, 1, &again, at(100))
            .await
            .unwrap()
    );
    assert!(
        store
            .connection_reconnect(&id, 2, &again, at(100))
            .await
            .unwrap()
    );

    let row = get(&store, &id).await;
    assert_eq!((row.generation, row.state), (3, ConnectionState::Active));
    assert_eq!((row.state_since, row.state_reason), (at(100), None));
    assert_eq!(row.owner.as_str(), "joe");
    assert_eq!(row.access_token, sealed("access-9"));
    assert_eq!((row.revoke_pending, row.refreshed_at), (false, None));
}

/// A row with a token that the provider would still take is kept, whoever asks.
pub(crate) async fn only_what_has_ended_for_good_is_forgotten(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    let forget = |generation| store.connection_forget(&id, generation);
    let (pending, known) = (Revocation::Pending, Revocation::Known);

    assert!(!forget(1).await.unwrap(), "active");
    store
        .connection_revoke(&id, 1, "gone", pending, at(1))
        .await
        .unwrap();
    assert!(!forget(2).await.unwrap(), "the provider does not know yet");
    store
        .connection_revoke(&id, 2, "gone", known, at(2))
        .await
        .unwrap();
    assert!(!forget(2).await.unwrap(), "the row has moved on");

    assert!(forget(3).await.unwrap());

    assert_eq!(store.connection_find(&id).await.unwrap(), None);
}

pub(crate) async fn reauth_required_never_overrides_a_moved_generation(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, "a").await.unwrap());
    assert!(
        store
            .connection_commit(&id, 1, &commit(), at(60))
            .await
            .unwrap()
    );

    assert!(
        !store
            .connection_reauth_required(&id, 1, "rejected", None, at(61))
            .await
            .unwrap()
    );
    assert_eq!(get(&store, &id).await.state, ConnectionState::Active);

    assert!(store.lease_acquire(&id, 2, "b").await.unwrap());
    assert!(
        store
            .connection_reauth_required(&id, 2, "rejected", None, at(62))
            .await
            .unwrap()
    );
    let row = get(&store, &id).await;
    assert_eq!((row.generation, row.lease_owner), (2, None));
    assert_eq!(row.refresh_token, sealed("refresh-2"), "kept");
    assert!(
        !store
            .connection_reauth_required(&id, 2, "rejected", None, at(63))
            .await
            .unwrap()
    );
}

pub(crate) async fn failed_spend_of_a_stale_lease_owner_changes_nothing(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, "old").await.unwrap());
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

pub(crate) async fn doubt_stays_until_a_commit(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;

    for (turn, in_doubt) in [(1, false), (2, true), (3, false)] {
        assert!(store.lease_acquire(&id, 1, "a").await.unwrap());
        assert!(
            store
                .connection_spend_failed(&id, "a", &failure(in_doubt), at(turn))
                .await
                .unwrap()
        );
        let row = get(&store, &id).await;
        assert_eq!((i64::from(row.failures), row.in_doubt), (turn, turn > 1));
        assert_eq!((row.lease_owner, row.retry_at), (None, Some(at(30))));
        assert_eq!(row.last_error.as_deref(), Some("timeout"));
    }
}
