//! A disconnect while a refresh is under way, or while no one knows what became of the last one.

use pipekeeper_core::oauth::TokenBody;

use super::*;
use crate::journal::Holder;

async fn disconnect(fixture: &Fixture) {
    let row = fixture.row().await;
    let pending = Revocation::Pending;
    let ended = fixture
        .store
        .connection_revoke(&row.id, row.generation, "disconnected", pending, at(0))
        .await;
    assert!(ended.unwrap());
}

/// A process that has taken the lease, spent the token, and died before the response was durable.
async fn died_while_spending(fixture: &Fixture) {
    let journal = fixture.journal(&fixture.journals);
    let owner = format!("{}/0123456789abcdef", journal.process());
    fixture.leased_by(&owner).await;
    journal.die();
    assert_eq!(journal.holder(&owner).await, Holder::Gone);
}

/// The refresh tokens that the provider was told to revoke.
async fn revoked(fixture: &Fixture) -> Vec<String> {
    let sent = fixture.requests("/revoke").await;
    let body = |sent: &Request| String::from_utf8(sent.body.clone()).unwrap();
    let token = |body: String| body.split(['=', '&']).nth(1).map(str::to_owned);
    sent.iter().map(body).filter_map(token).collect()
}

/// The provider's newest token is refresh-2, which no one has: revoking refresh-1 would end nothing.
#[tokio::test]
async fn a_grant_whose_last_response_was_lost_is_refreshed_once_and_revoked() {
    let fixture = Fixture::answering([granted()]).await;
    died_while_spending(&fixture).await;
    disconnect(&fixture).await;
    let row = fixture.row().await;
    assert!(
        row.in_doubt && row.state == ConnectionState::Revoked,
        "{row:?}"
    );
    assert!(matches!(
        fixture.refresh(Some(1)).await,
        Err(RefreshError::Ended { .. })
    ));

    assert_eq!(fixture.refresher().sweep_once().await.unwrap().revoked, 1);

    assert_eq!(fixture.calls().await, 1);
    assert_eq!(revoked(&fixture).await, ["refresh-2"]);
    let row = fixture.row().await;
    assert!(
        !row.revoke_pending && row.refresh_token.is_wiped(),
        "{row:?}"
    );
    assert_eq!((row.in_doubt, row.lease_owner), (false, None));
    assert_eq!(row.last_error, None);
}

#[tokio::test]
async fn a_response_that_a_dead_process_left_is_revoked_in_place_of_a_refresh() {
    let fixture = Fixture::answering([]).await;
    let journal = fixture.journal(&fixture.journals);
    let owner = format!("{}/0123456789abcdef", journal.process());
    fixture.leased_by(&owner).await;
    let body = tokens().to_string();
    let spent = Secret::from("refresh-1");
    journal
        .record(
            &fixture.id,
            1,
            &spent,
            at(0),
            &TokenBody::plain(body.as_bytes()),
        )
        .await
        .unwrap();
    journal.die();
    disconnect(&fixture).await;

    assert_eq!(fixture.refresher().sweep_once().await.unwrap().revoked, 1);

    assert_eq!(
        (fixture.calls().await, revoked(&fixture).await),
        (0, vec!["refresh-2".to_owned()])
    );
    assert!(!fixture.row().await.revoke_pending);
}

#[tokio::test]
async fn a_grant_that_the_provider_refuses_meanwhile_is_reported_as_unconfirmed() {
    let fixture = Fixture::answering([refusal(400, "invalid_grant")]).await;
    died_while_spending(&fixture).await;
    disconnect(&fixture).await;

    assert_eq!(fixture.refresher().sweep_once().await.unwrap().failed, 1);

    let row = fixture.row().await;
    assert_eq!(row.last_error.as_deref(), Some("revocation_unconfirmed"));
    assert!(
        !row.revoke_pending && row.refresh_token.is_wiped(),
        "{row:?}"
    );
    assert_eq!(revoked(&fixture).await, [""; 0]);
    assert_eq!(
        fixture.refresher().sweep_once().await.unwrap(),
        Swept::default()
    );
}

/// What it received goes into the row that ended, and is revoked there.
#[tokio::test]
async fn a_holder_that_runs_brings_its_response_before_anything_is_revoked() {
    let fixture = Fixture::new().await;
    let sweeping = fixture.refresher();
    let disconnected = fixture.elsewhere(|store, id| async move {
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
    fixture.answer([after(waits, granted())]).await;
    let refreshing = fixture.refresher();
    let swept_meanwhile = async {
        while !fixture.row().await.revoke_pending {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let swept = sweeping.sweep_once().await.unwrap();
        respond.send(()).unwrap();
        swept
    };

    let (end, swept) = tokio::join!(refresh(&refreshing, &fixture.id, Some(1)), swept_meanwhile);

    assert!(matches!(end, Err(RefreshError::Ended { .. })), "{end:?}");
    assert_eq!(
        (swept.revoked, swept.failed),
        (0, 1),
        "the holder has its time"
    );
    assert_eq!(sweeping.sweep_once().await.unwrap().revoked, 1);
    assert_eq!(
        (fixture.calls().await, revoked(&fixture).await),
        (1, vec!["refresh-2".to_owned()])
    );
}

#[tokio::test]
async fn a_holder_that_is_refused_meanwhile_leaves_nothing_to_wait_for() {
    let fixture = Fixture::new().await;
    let disconnected = fixture.elsewhere(|store, id| async move {
        let pending = Revocation::Pending;
        store
            .connection_revoke(&id, 1, "disconnected", pending, at(0))
            .await
            .unwrap();
    });
    let refused = || refusal(400, "invalid_grant");
    fixture
        .answer([after(disconnected, refused()), refused()])
        .await;

    let end = fixture.refresh(Some(1)).await;

    assert!(matches!(end, Err(RefreshError::Ended { .. })), "{end:?}");
    assert_eq!(fixture.row().await.lease_owner, None);
    assert_eq!(fixture.refresher().sweep_once().await.unwrap().failed, 1);
    assert!(!fixture.row().await.revoke_pending);
}

#[tokio::test]
async fn a_refresh_that_fails_leaves_the_revocation_due() {
    let fixture = Fixture::answering([status(500), status(500), granted()]).await;
    died_while_spending(&fixture).await;
    disconnect(&fixture).await;
    let refresher = fixture.refresher();

    assert_eq!(refresher.sweep_once().await.unwrap().postponed, 1);
    let row = fixture.row().await;
    assert!(row.revoke_pending && row.in_doubt, "{row:?}");
    assert_eq!(row.lease_owner, None);

    fixture.clock.advance(Duration::from_mins(5));
    assert_eq!(refresher.sweep_once().await.unwrap().revoked, 1);
    assert_eq!(revoked(&fixture).await, ["refresh-2"]);
}
