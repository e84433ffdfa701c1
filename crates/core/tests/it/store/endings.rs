//! Connections that end: refused, disconnected, uninstalled; and what revives or removes them.

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::connection::ConnectionState::{Active, ReauthRequired, Revoked};
use pipekeeper_core::store::{Backend, Revocation};
use pipekeeper_testing::TestDatabase;

use super::{app, at, commit, consent, failure, get, insert, sealed};

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

/// A row with a token that the provider would still take is kept, for every caller.
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
    assert_eq!(row.due_at, Timestamp::far_future());
    assert!(
        !store
            .connection_reauth_required(&id, 2, false, None, at(63))
            .await
            .unwrap()
    );
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
            .connection_revocation_told(&id, 2, None, at(3))
            .await
            .unwrap()
    );
    let row = get(&store, &id).await;
    assert_eq!((row.refresh_token, row.revoke_pending), (late, true));
    assert_eq!((row.state, row.due_at), (Revoked, at(2)));
    assert!(
        store
            .connection_revocation_told(&id, 3, None, at(3))
            .await
            .unwrap()
    );
}

/// The token may just be being spent: what is known to be revoked then is not the newest.
pub(crate) async fn a_disconnect_leaves_the_lease_of_a_refresh_under_way_and_a_doubt(
    backend: Backend,
) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    for (lease, revocation, left) in [
        (None, Revocation::Pending, (None, false)),
        (Some("a"), Revocation::Pending, (Some("a"), true)),
        (Some("a"), Revocation::Known, (None, false)),
    ] {
        let id = insert(
            &store,
            consent("acme", &format!("{lease:?} {revocation:?}")),
        )
        .await;
        if let Some(owner) = lease {
            assert!(store.lease_acquire(&id, 1, Active, owner).await.unwrap());
        }
        let ended = store.connection_revoke(&id, 1, "gone", revocation, at(1));
        assert!(ended.await.unwrap());
        let row = get(&store, &id).await;
        assert_eq!((row.lease_owner.as_deref(), row.in_doubt), left);
    }

    // Whose refresh comes to nothing leaves the revocation due.
    let id = insert(&store, consent("acme", "joe")).await;
    assert!(store.lease_acquire(&id, 1, Active, "a").await.unwrap());
    let ended = store.connection_revoke(&id, 1, "gone", Revocation::Pending, at(1));
    assert!(ended.await.unwrap());
    let failed = store
        .connection_spend_failed(&id, "a", &failure(true), at(2))
        .await;
    assert!(failed.unwrap());
    let row = get(&store, &id).await;
    assert_eq!(
        (row.due_at, row.in_doubt, row.lease_owner),
        (at(1), true, None)
    );

    // Whose refresh brings a token ends the doubt.
    assert!(store.lease_acquire(&id, 2, Revoked, "b").await.unwrap());
    let late = sealed("refresh-2");
    let stored = store.connection_revoke_also(&id, 2, &late, at(3)).await;
    assert!(stored.unwrap());
    let row = get(&store, &id).await;
    assert_eq!((row.in_doubt, row.lease_owner), (false, None));

    // So does a refusal, of which people are told.
    assert!(store.lease_acquire(&id, 3, Revoked, "c").await.unwrap());
    assert!(store.lease_take_over(&id, "c", "d").await.unwrap());
    let told = store.connection_revocation_told(&id, 3, Some("unconfirmed"), at(4));
    assert!(told.await.unwrap());
    let row = get(&store, &id).await;
    assert_eq!((row.in_doubt, row.lease_owner), (false, None));
    assert_eq!(row.last_error.as_deref(), Some("unconfirmed"));
    // A process that has read the row before spends nothing for it any more.
    assert!(!store.lease_acquire(&id, 3, Revoked, "e").await.unwrap());
}

pub(crate) async fn a_response_is_looked_for_at_the_generation_that_it_was_given_for(
    backend: Backend,
) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let mut ids = Vec::new();
    for owner in ["active", "refused", "to revoke", "revoked"] {
        ids.push(insert(&store, consent("acme", owner)).await);
    }
    let refused = store.connection_reauth_required(&ids[1], 1, false, None, at(1));
    assert!(refused.await.unwrap());
    for (id, revocation) in [(&ids[2], Revocation::Pending), (&ids[3], Revocation::Known)] {
        let ended = store.connection_revoke(id, 1, "gone", revocation, at(1));
        assert!(ended.await.unwrap());
    }
    let unknown = ConnectionId::generate();

    let asked: Vec<_> = ids.iter().chain([&unknown]).collect();
    let mut spent_at = store.connections_spent_at(&asked).await.unwrap();

    spent_at.sort_by_key(|(id, _)| ids.iter().position(|known| known == id));
    let expected: Vec<_> = ids[..3].iter().map(|id| (id.clone(), 1)).collect();
    assert_eq!(spent_at, expected);
    assert_eq!(store.connections_spent_at(&[]).await.unwrap(), []);
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
    assert_eq!(
        (row.due_at, row.updated_at),
        (Timestamp::far_future(), at(8))
    );
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
