use pipekeeper_core::connection::ConnectionState::Active;
use pipekeeper_core::store::{Backend, Revocation};
use pipekeeper_core::test_util::TestDatabase;

use super::{at, commit, consent, failure, get, insert, sealed};

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
    assert!(store.lease_acquire(&id, 1, Active, "a").await.unwrap());
    assert!(
        store
            .connection_spend_failed(&id, "a", &failure(true), at(1))
            .await
            .unwrap()
    );
    assert!(
        store
            .connection_reauth_required(&id, 1, true, Some("x"), at(2))
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
    assert_eq!(row.state, Active);
    assert_eq!(row.state_since, at(60));
    assert_eq!(
        (row.state_reason, row.last_error, row.retry_at),
        (None, None, None)
    );
    assert_eq!((row.failures, row.early_renewals), (0, 2));
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
    assert!(store.lease_acquire(&id, 1, Active, "a").await.unwrap());
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
        (2, Some("a"))
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
