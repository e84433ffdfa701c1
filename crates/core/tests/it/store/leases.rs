use pipekeeper_core::connection::ConnectionState::{Active, ReauthRequired, Revoked};
use pipekeeper_core::store::{Backend, Revocation, SpendFailure, never};
use pipekeeper_core::test_util::TestDatabase;
use tokio::task::JoinSet;

use super::{app, at, commit, consent, get, insert, sealed};

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
    assert_eq!((row.generation, row.state), (3, Active));
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
    assert!(!forget(1).await.unwrap(), "the row has moved on");

    assert!(forget(2).await.unwrap());

    assert_eq!(store.connection_find(&id).await.unwrap(), None);
}

pub(crate) async fn reauth_required_never_overrides_a_moved_generation(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, Active, "a").await.unwrap());
    assert!(
        store
            .connection_commit(&id, 1, &commit(), at(60))
            .await
            .unwrap()
    );

    assert!(
        !store
            .connection_reauth_required(&id, 1, false, None, at(61))
            .await
            .unwrap()
    );
    assert_eq!(get(&store, &id).await.state, Active);

    assert!(store.lease_acquire(&id, 2, Active, "b").await.unwrap());
    assert!(
        store
            .connection_reauth_required(&id, 2, false, None, at(62))
            .await
            .unwrap()
    );
    let row = get(&store, &id).await;
    assert_eq!((row.generation, row.lease_owner), (2, None));
    assert_eq!(row.refresh_token, sealed("refresh-2"), "kept");
    assert_eq!(row.due_at, never());
    assert!(
        !store
            .connection_reauth_required(&id, 2, false, None, at(63))
            .await
            .unwrap()
    );
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

/// An answer that comes late revives the row, but somebody else has spent the same token since: the provider may hold that
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

/// Whoever has taken the lease over may have spent the same token by now.
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

/// An answer that was under way when a row ended is told by the generation from those of long ago.
pub(crate) async fn ending_twice_moves_the_generation_once(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    for (generation, revocation) in [(1, Revocation::Pending), (2, Revocation::Known)] {
        let ended = store.connection_revoke(&id, generation, "gone", revocation, at(1));
        assert!(ended.await.unwrap());
    }
    let row = get(&store, &id).await;
    assert_eq!((row.generation, row.revoke_pending), (2, false));
}

/// What a refresh brought after its connection had ended is revoked in place of the token that it was brought for.
pub(crate) async fn a_late_token_is_revoked_in_place_of_the_older_one(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    let late = sealed("refresh-2");
    assert!(
        !store
            .connection_revoke_also(&id, 1, &late, at(1))
            .await
            .unwrap(),
        "it is active"
    );
    let ended = store.connection_revoke(&id, 1, "disconnected", Revocation::Pending, at(1));
    assert!(ended.await.unwrap());
    let of_another = store.connection_revoke_also(&id, 1, &late, at(2));
    assert!(!of_another.await.unwrap(), "the row has moved on");

    assert!(
        store
            .connection_revoke_also(&id, 2, &late, at(2))
            .await
            .unwrap()
    );

    // A sweep that was revoking the older one is told that there is more to do.
    assert!(
        !store
            .connection_revocation_told(&id, 2, at(3))
            .await
            .unwrap()
    );
    let row = get(&store, &id).await;
    assert_eq!((row.refresh_token, row.revoke_pending), (late, true));
    assert_eq!((row.state, row.due_at), (Revoked, at(2)));
    assert!(
        store
            .connection_revocation_told(&id, 3, at(3))
            .await
            .unwrap()
    );
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

pub(crate) async fn a_recheck_that_is_refused_again_changes_neither_reason_nor_since(
    backend: Backend,
) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    let refused = store.connection_reauth_required(&id, 1, false, Some("invalid_grant"), at(1));
    assert!(refused.await.unwrap());
    let before = get(&store, &id).await;
    assert_eq!(store.connections_recheck(&app(), at(5)).await.unwrap(), 1);
    let acquire = async |owner| {
        let acquired = store.lease_acquire(&id, 1, ReauthRequired, owner).await;
        assert!(acquired.unwrap());
    };
    acquire("a").await;
    let no_answer = store
        .connection_spend_failed(&id, "a", &failure(false), at(6))
        .await;
    assert!(no_answer.unwrap());
    acquire("b").await;

    let stranger = store.connection_still_refused(&id, "a", at(7)).await;
    assert!(!stranger.unwrap());
    let holder = store.connection_still_refused(&id, "b", at(8)).await;
    assert!(holder.unwrap());

    let row = get(&store, &id).await;
    assert_eq!((row.lease_owner, row.retry_at), (None, None));
    assert_eq!((row.due_at, row.updated_at), (never(), at(8)));
    assert_eq!(
        (row.state, row.state_reason, row.state_since, row.generation),
        (ReauthRequired, before.state_reason, at(1), 1)
    );
}

pub(crate) async fn an_active_row_is_never_still_refused(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, Active, "a").await.unwrap());
    let before = get(&store, &id).await;

    let told = store.connection_still_refused(&id, "a", at(1)).await;

    assert!(!told.unwrap());
    assert_eq!(get(&store, &id).await, before);
}
