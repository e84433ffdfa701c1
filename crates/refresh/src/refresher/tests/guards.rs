//! What may be our own mistake costs no connections.

use pipekeeper_core::oauth::basic_auth;

use super::*;

/// So many connections beside the first one.
async fn crowd(fixture: &Fixture, others: usize) -> Vec<ConnectionId> {
    let mut ids = vec![fixture.id.clone()];
    for other in 0..others {
        ids.push(fixture.connect(&format!("user-{other}")).await);
    }
    ids
}

async fn states(fixture: &Fixture, ids: &[ConnectionId]) -> Vec<ConnectionState> {
    let mut states = Vec::new();
    for id in ids {
        states.push(fixture.row_of(id).await.state);
    }
    states
}

fn dead(states: &[ConnectionState]) -> usize {
    states
        .iter()
        .filter(|state| **state == ConnectionState::ReauthRequired)
        .count()
}

#[tokio::test]
async fn a_mass_of_refusals_is_taken_for_our_mistake() {
    let fixture = Fixture::answering((0..20).map(|_| refusal(400, "invalid_grant"))).await;
    let ids = crowd(&fixture, 7).await;
    let refreshers = [fixture.refresher(), fixture.refresher()];

    for (turn, id) in ids.iter().enumerate() {
        refresh(&refreshers[turn % 2], id, Some(1))
            .await
            .unwrap_err();
    }

    assert_eq!(dead(&states(&fixture, &ids).await), 3);
    let spared = fixture.row_of(&ids[7]).await;
    assert_eq!(
        (spared.state, spared.lease_owner.as_deref()),
        (ConnectionState::Active, None)
    );
    let retry_at = spared.retry_at.unwrap();
    assert!((at(660)..=at(720)).contains(&retry_at), "{retry_at}");
    assert_eq!(spared.last_error.as_deref(), Some("mass_rejection"));
    for refresher in &refreshers {
        assert_eq!(
            refresher.degraded_reasons(),
            ["app pipedrive: mass_rejection"]
        );
    }

    // When the window has moved on, as many more may go.
    fixture.clock.advance(Duration::from_mins(12));
    for id in &ids {
        refresh(&refreshers[0], id, Some(1)).await.unwrap_err();
    }
    assert_eq!(dead(&states(&fixture, &ids).await), 6);
}

#[tokio::test]
async fn of_many_connections_one_in_twenty_may_go_at_once() {
    let fixture = Fixture::answering((0..100).map(|_| refusal(400, "invalid_grant"))).await;
    let ids = crowd(&fixture, 99).await;
    let refresher = fixture.refresher();

    for id in &ids {
        refresh(&refresher, id, Some(1)).await.unwrap_err();
    }

    assert_eq!(dead(&states(&fixture, &ids).await), 5);
}

/// Puts connections in doubt, as a holder that is gone does.
async fn doubt(fixture: &Fixture, ids: &[ConnectionId]) {
    for id in ids {
        let active = ConnectionState::Active;
        let store = &fixture.store;
        assert!(store.lease_acquire(id, 1, active, "gone").await.unwrap());
        assert!(store.lease_take_over(id, "gone", "heir").await.unwrap());
        assert!(store.lease_release(id, "heir").await.unwrap());
    }
}

/// A crash of ours, or of the provider's, may lose many answers at once: they die of that, and no one is spared to die later.
#[tokio::test]
async fn lost_answers_are_no_mass_of_refusals() {
    let refusals = (0..20).map(|_| refusal(400, "invalid_grant"));
    let fixture = Fixture::answering([granted()].into_iter().chain(refusals)).await;
    let ids = crowd(&fixture, 10).await;
    let refresher = fixture.refresher();
    doubt(&fixture, &ids[1..7]).await;
    refreshed(refresh(&refresher, &ids[0], Some(1)).await);

    for id in &ids[1..] {
        refresh(&refresher, id, Some(1)).await.unwrap_err();
    }

    assert_eq!(dead(&states(&fixture, &ids[1..7]).await), 6);
    assert_eq!(
        dead(&states(&fixture, &ids[7..]).await),
        3,
        "and three by the provider's word"
    );
}

/// After an outage many are in doubt. A provider that then refuses everybody is not believed.
#[tokio::test]
async fn doubts_are_no_leave_to_refuse_everybody() {
    let refusals = (0..10).map(|_| refusal(400, "invalid_grant"));
    let after = [granted(), refusal(400, "invalid_grant")];
    let fixture = Fixture::answering(refusals.chain(after)).await;
    let ids = crowd(&fixture, 9).await;
    let refresher = fixture.refresher();
    doubt(&fixture, &ids).await;

    for id in &ids {
        refresh(&refresher, id, Some(1)).await.unwrap_err();
    }

    assert_eq!(dead(&states(&fixture, &ids).await), 3);
    assert_eq!(
        refresher.degraded_reasons(),
        ["app pipedrive: mass_rejection"]
    );
    let spared = fixture.row_of(&ids[9]).await;
    assert_eq!(
        (spared.state, spared.in_doubt),
        (ConnectionState::Active, true)
    );

    // When it gives new tokens again, it is believed.
    fixture.clock.advance(Duration::from_mins(1));
    refreshed(refresh(&refresher, &ids[8], Some(1)).await);
    refresh(&refresher, &ids[9], Some(1)).await.unwrap_err();
    let row = fixture.row_of(&ids[9]).await;
    assert_eq!(row.state_reason.as_deref(), Some("answer_lost"));
    assert_eq!(refresher.degraded_reasons(), [""; 0]);
}

#[tokio::test]
async fn when_a_hold_is_over_one_caller_tries_for_all() {
    let refused = || refusal(401, "invalid_client");
    let fixture = Fixture::answering((0..20).map(|_| refused())).await;
    let ids = crowd(&fixture, 9).await;
    let refresher = fixture.refresher();
    refresh(&refresher, &ids[0], Some(1)).await.unwrap_err();
    fixture.clock.advance(Duration::from_mins(1));

    let all = ids.iter().map(|id| refresh(&refresher, id, Some(1)));
    for end in futures_util::future::join_all(all).await {
        assert!(
            matches!(end, Err(RefreshError::ClientMisconfigured { .. })),
            "{end:?}"
        );
    }

    assert_eq!(fixture.calls().await, 2);
}

#[tokio::test]
async fn a_recheck_revives_what_was_refused_by_mistake() {
    let fixture = Fixture::answering([refusal(400, "invalid_grant"), granted()]).await;
    let refresher = fixture.refresher();
    refresh(&refresher, &fixture.id, Some(1)).await.unwrap_err();
    assert_eq!(
        refresher.sweep_once().await.unwrap().refreshed,
        0,
        "not by itself"
    );

    assert_eq!(
        fixture
            .store
            .connections_recheck(&app(), at(0))
            .await
            .unwrap(),
        1
    );
    assert_eq!(refresher.sweep_once().await.unwrap().refreshed, 1);

    let row = fixture.row().await;
    assert_eq!((row.state, row.generation), (ConnectionState::Active, 2));
    assert_eq!((row.state_reason, row.lease_owner), (None, None));
}

#[tokio::test]
async fn a_recheck_of_what_is_dead_changes_nothing() {
    let fixture = Fixture::answering((0..3).map(|_| refusal(400, "invalid_grant"))).await;
    let refresher = fixture.refresher();
    refresh(&refresher, &fixture.id, Some(1)).await.unwrap_err();
    let before = fixture.row().await;
    fixture.clock.advance(Duration::from_secs(7));
    let now = at(7);

    assert_eq!(
        fixture
            .store
            .connections_recheck(&app(), now)
            .await
            .unwrap(),
        1
    );
    refresher.sweep_once().await.unwrap();
    refresher.sweep_once().await.unwrap();

    let row = fixture.row().await;
    assert_eq!(
        (row.state, row.state_reason, row.state_since, row.due_at),
        (
            before.state,
            before.state_reason,
            before.state_since,
            before.due_at
        )
    );
    assert_eq!((row.lease_owner, fixture.calls().await), (None, 2));
}

#[tokio::test]
async fn a_recheck_goes_on_after_an_outage() {
    let fixture = Fixture::answering([refusal(400, "invalid_grant"), status(429), granted()]).await;
    let refresher = fixture.refresher();
    refresh(&refresher, &fixture.id, Some(1)).await.unwrap_err();
    fixture
        .store
        .connections_recheck(&app(), at(0))
        .await
        .unwrap();

    refresher.sweep_once().await.unwrap();
    assert_eq!(fixture.row().await.state, ConnectionState::ReauthRequired);
    fixture.clock.advance(Duration::from_mins(1));
    refresher.sweep_once().await.unwrap();

    assert_eq!(fixture.row().await.state, ConnectionState::Active);
}

#[tokio::test]
async fn a_change_of_credentials_has_refused_connections_rechecked() {
    let fixture = Fixture::answering([refusal(400, "invalid_grant"), granted()]).await;
    let refresher = fixture.refresher();
    refresh(&refresher, &fixture.id, Some(1)).await.unwrap_err();
    refresher.recheck_after_changes().await.unwrap();
    fixture.refresher().recheck_after_changes().await.unwrap();
    assert_eq!(
        refresher.sweep_once().await.unwrap().refreshed,
        0,
        "nothing has changed"
    );

    let changed = [("APPS__PIPEDRIVE__CLIENT_SECRET", "n3w")];
    let refresher = fixture.door_with(&changed, &fixture.journals);
    refresher.recheck_after_changes().await.unwrap();

    assert_eq!(refresher.sweep_once().await.unwrap().refreshed, 1);
    assert_eq!(fixture.row().await.state, ConnectionState::Active);
}

#[tokio::test]
async fn the_second_secret_is_tried_when_the_first_is_refused() {
    let fixture = Fixture::answering([refusal(401, "invalid_client"), granted(), granted()]).await;
    let settings = [("APPS__PIPEDRIVE__SECOND_CLIENT_SECRET", "n3w")];
    let refresher = fixture.door_with(&settings, &fixture.journals);

    assert_eq!(
        refreshed(refresh(&refresher, &fixture.id, Some(1)).await).generation,
        2
    );
    fixture.clock.advance(Duration::from_mins(1));
    assert_eq!(
        refreshed(refresh(&refresher, &fixture.id, Some(2)).await).generation,
        3
    );

    let sent: Vec<_> = fixture
        .requests("/token")
        .await
        .iter()
        .map(|request| request.headers["authorization"].clone())
        .collect();
    let with = |secret| basic_auth(CLIENT_ID, &Secret::from(secret));
    assert_eq!(sent, [with("s3cret"), with("n3w"), with("n3w")]);
    assert_eq!(refresher.degraded_reasons(), [""; 0]);
}

#[tokio::test]
async fn two_refused_secrets_are_our_fault() {
    let refused = || refusal(400, "invalid_client");
    let fixture = Fixture::answering([refused(), refused()]).await;
    let settings = [("APPS__PIPEDRIVE__SECOND_CLIENT_SECRET", "n3w")];
    let refresher = fixture.door_with(&settings, &fixture.journals);

    let end = refresh(&refresher, &fixture.id, Some(1)).await;

    assert!(
        matches!(end, Err(RefreshError::ClientMisconfigured { .. })),
        "{end:?}"
    );
    assert_eq!(fixture.calls().await, 2);
    assert_eq!(fixture.row().await.state, ConnectionState::Active);
    assert_eq!(
        refresher.degraded_reasons(),
        ["app pipedrive: invalid_client"]
    );
}
