//! Whether a token may have been spent without an answer, and who may say that it was not.

use pipekeeper_core::connection::ConnectionState::Active;
use pipekeeper_core::store::Backend;
use pipekeeper_testing::TestDatabase;

use super::{at, commit, consent, failure, get, insert};

pub(crate) async fn doubt_stays_until_a_commit(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;

    for (turn, in_doubt) in [(1, false), (2, true), (3, false)] {
        assert!(store.lease_acquire(&id, 1, Active, "a").await.unwrap());
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

/// An answer that comes late revives the row, but another process has spent the same token since: the provider may hold that
/// against the newer one, and if it does it is our loss, not the user's doing.
pub(crate) async fn doubt_outlives_a_commit_that_revives(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, Active, "frozen").await.unwrap());
    assert!(store.lease_take_over(&id, "frozen", "heir").await.unwrap());
    let refused = store.connection_reauth_required(&id, 1, true, None, at(1));
    assert!(refused.await.unwrap());

    let late = store.connection_commit(&id, 1, &commit(), at(2)).await;
    assert!(late.unwrap());

    let row = get(&store, &id).await;
    assert_eq!((row.state, row.in_doubt), (Active, true));
    assert!(store.lease_acquire(&id, 2, Active, "b").await.unwrap());
    let next = store.connection_commit(&id, 2, &under("b"), at(3)).await;
    assert!(next.unwrap());
    assert!(!get(&store, &id).await.in_doubt);
}

fn under(lease_owner: &str) -> super::Commit {
    super::Commit {
        spent_under: Some(lease_owner.to_owned()),
        ..commit()
    }
}

/// The process that has taken the lease over may have spent the same token by now.
pub(crate) async fn doubt_ends_under_its_own_lease_alone(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    for (spent_under, in_doubt) in [
        (under("heir"), false),
        (under("frozen"), true),
        (commit(), true),
    ] {
        let owner = format!("{:?}", spent_under.spent_under);
        let id = insert(&store, consent("acme", &owner)).await;
        assert!(store.lease_acquire(&id, 1, Active, "frozen").await.unwrap());
        assert!(store.lease_take_over(&id, "frozen", "heir").await.unwrap());

        let committed = store.connection_commit(&id, 1, &spent_under, at(2)).await;
        assert!(committed.unwrap());

        assert_eq!(get(&store, &id).await.in_doubt, in_doubt, "{owner}");
    }
}

pub(crate) async fn what_was_never_in_doubt_is_revived_without_any(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    let refused = store.connection_reauth_required(&id, 1, false, None, at(1));
    assert!(refused.await.unwrap());

    let revived = store.connection_commit(&id, 1, &commit(), at(2)).await;
    assert!(revived.unwrap());

    assert!(!get(&store, &id).await.in_doubt);
}

/// The doubt of others counts, also one that was not there yet when the caller read the row.
pub(crate) async fn a_refusal_reads_the_rows_own_doubt(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    for (of_row, of_caller, reason) in [
        (false, false, "rejected"),
        (false, true, "answer_lost"),
        (true, false, "answer_lost"),
        (true, true, "answer_lost"),
    ] {
        let owner = format!("{of_row} {of_caller}");
        let id = insert(&store, consent("acme", &owner)).await;
        assert!(store.lease_acquire(&id, 1, Active, "a").await.unwrap());
        if of_row {
            assert!(store.lease_take_over(&id, "a", "b").await.unwrap());
        }

        let refused = store.connection_reauth_required(&id, 1, of_caller, None, at(1));
        assert!(refused.await.unwrap());

        let row = get(&store, &id).await;
        assert_eq!(row.state_reason.as_deref(), Some(reason), "{owner}");
    }
}
