//! A disconnect while a refresh is under way, or while nobody knows what became of the last one.

use pipekeeper_core::oauth::TokenBody;

use super::*;
use crate::journal::Holder;

async fn disconnect(world: &World) {
    let row = world.row().await;
    let pending = Revocation::Pending;
    let ended = world
        .store
        .connection_revoke(&row.id, row.generation, "disconnected", pending, at(0))
        .await;
    assert!(ended.unwrap());
}

/// A process that has taken the lease, spent the token, and died before the response was durable.
async fn died_while_spending(world: &World) {
    let journal = world.journal(&world.journals);
    let owner = format!("{}/0123456789abcdef", journal.process());
    world.leased_by(&owner).await;
    journal.die();
    assert_eq!(journal.holder(&owner).await, Holder::Gone);
}

/// The refresh tokens that the provider was told to revoke.
async fn revoked(world: &World) -> Vec<String> {
    let sent = world.requests("/revoke").await;
    let body = |sent: &Request| String::from_utf8(sent.body.clone()).unwrap();
    let token = |body: String| body.split(['=', '&']).nth(1).map(str::to_owned);
    sent.iter().map(body).filter_map(token).collect()
}

/// The provider's newest token is refresh-2, which nobody has: revoking refresh-1 would end nothing.
#[tokio::test]
async fn a_grant_whose_last_response_was_lost_is_refreshed_once_and_revoked() {
    let world = World::answering([granted()]).await;
    died_while_spending(&world).await;
    disconnect(&world).await;
    let row = world.row().await;
    assert!(
        row.in_doubt && row.state == ConnectionState::Revoked,
        "{row:?}"
    );
    assert!(matches!(
        world.refresh(Some(1)).await,
        Err(RefreshError::Ended { .. })
    ));

    assert_eq!(world.refresher().sweep_once().await.unwrap().revoked, 1);

    assert_eq!(world.calls().await, 1);
    assert_eq!(revoked(&world).await, ["refresh-2"]);
    let row = world.row().await;
    assert!(
        !row.revoke_pending && row.refresh_token.is_wiped(),
        "{row:?}"
    );
    assert_eq!((row.in_doubt, row.lease_owner), (false, None));
    assert_eq!(row.last_error, None);
}

#[tokio::test]
async fn a_response_that_a_dead_process_left_is_revoked_in_place_of_a_refresh() {
    let world = World::answering([]).await;
    let journal = world.journal(&world.journals);
    let owner = format!("{}/0123456789abcdef", journal.process());
    world.leased_by(&owner).await;
    let body = tokens().to_string();
    let spent = Secret::from("refresh-1");
    journal
        .record(
            &world.id,
            1,
            &spent,
            at(0),
            &TokenBody::plain(body.as_bytes()),
        )
        .await
        .unwrap();
    journal.die();
    disconnect(&world).await;

    assert_eq!(world.refresher().sweep_once().await.unwrap().revoked, 1);

    assert_eq!(
        (world.calls().await, revoked(&world).await),
        (0, vec!["refresh-2".to_owned()])
    );
    assert!(!world.row().await.revoke_pending);
}

#[tokio::test]
async fn a_grant_that_the_provider_refuses_meanwhile_is_reported_as_unconfirmed() {
    let world = World::answering([refusal(400, "invalid_grant")]).await;
    died_while_spending(&world).await;
    disconnect(&world).await;

    assert_eq!(world.refresher().sweep_once().await.unwrap().failed, 1);

    let row = world.row().await;
    assert_eq!(row.last_error.as_deref(), Some("revocation_unconfirmed"));
    assert!(
        !row.revoke_pending && row.refresh_token.is_wiped(),
        "{row:?}"
    );
    assert_eq!(revoked(&world).await, [""; 0]);
    assert_eq!(
        world.refresher().sweep_once().await.unwrap(),
        Swept::default()
    );
}

/// What it received goes into the row that ended, and is revoked there.
#[tokio::test]
async fn a_holder_that_runs_brings_its_response_before_anything_is_revoked() {
    let world = World::new().await;
    let sweeping = world.refresher();
    let disconnected = world.elsewhere(|store, id| async move {
        let pending = Revocation::Pending;
        store
            .connection_revoke(&id, 1, "disconnected", pending, at(0))
            .await
            .unwrap();
    });
    let (respond, may_respond) = std::sync::mpsc::channel();
    let may_respond = Mutex::new(may_respond);
    let waits = move || {
        disconnected();
        may_respond.lock().unwrap().recv().unwrap();
    };
    world.answer([after(waits, granted())]).await;
    let refreshing = world.refresher();
    let swept_meanwhile = async {
        while !world.row().await.revoke_pending {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let swept = sweeping.sweep_once().await.unwrap();
        respond.send(()).unwrap();
        swept
    };

    let (end, swept) = tokio::join!(refresh(&refreshing, &world.id, Some(1)), swept_meanwhile);

    assert!(matches!(end, Err(RefreshError::Ended { .. })), "{end:?}");
    assert_eq!(
        (swept.revoked, swept.failed),
        (0, 1),
        "the holder has its time"
    );
    assert_eq!(sweeping.sweep_once().await.unwrap().revoked, 1);
    assert_eq!(
        (world.calls().await, revoked(&world).await),
        (1, vec!["refresh-2".to_owned()])
    );
}

#[tokio::test]
async fn a_holder_that_is_refused_meanwhile_leaves_nothing_to_wait_for() {
    let world = World::new().await;
    let disconnected = world.elsewhere(|store, id| async move {
        let pending = Revocation::Pending;
        store
            .connection_revoke(&id, 1, "disconnected", pending, at(0))
            .await
            .unwrap();
    });
    let refused = || refusal(400, "invalid_grant");
    world
        .answer([after(disconnected, refused()), refused()])
        .await;

    let end = world.refresh(Some(1)).await;

    assert!(matches!(end, Err(RefreshError::Ended { .. })), "{end:?}");
    assert_eq!(world.row().await.lease_owner, None);
    assert_eq!(world.refresher().sweep_once().await.unwrap().failed, 1);
    assert!(!world.row().await.revoke_pending);
}

#[tokio::test]
async fn a_refresh_that_fails_leaves_the_revocation_due() {
    let world = World::answering([status(500), status(500), granted()]).await;
    died_while_spending(&world).await;
    disconnect(&world).await;
    let refresher = world.refresher();

    assert_eq!(refresher.sweep_once().await.unwrap().postponed, 1);
    let row = world.row().await;
    assert!(row.revoke_pending && row.in_doubt, "{row:?}");
    assert_eq!(row.lease_owner, None);

    world.clock.advance(Duration::from_mins(5));
    assert_eq!(refresher.sweep_once().await.unwrap().revoked, 1);
    assert_eq!(revoked(&world).await, ["refresh-2"]);
}
