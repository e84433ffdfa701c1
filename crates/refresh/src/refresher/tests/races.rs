//! What happens to the row, or to the clock, while a call is under way.

use pipekeeper_core::connection::HANDED_BACK;
use pipekeeper_core::sealed::Sealed;

use super::*;

#[tokio::test]
async fn who_loses_a_race_adopts_what_the_winner_stored() {
    let fixture = Fixture::new().await;
    let (vault, row) = (fixture.vault.clone(), fixture.row().await);
    let winner = fixture.elsewhere(move |store, id| {
        let commit = sibling(&vault, &row);
        async move {
            assert!(
                store
                    .connection_commit(&id, 1, &commit, at(0))
                    .await
                    .unwrap()
            );
        }
    });
    fixture
        .answer([after(winner, refusal(400, "invalid_grant"))])
        .await;

    let end = fixture.refresh(Some(1)).await;
    let Ok(Outcome::Adopted(row)) = end else {
        panic!("{end:?}")
    };

    assert_eq!((row.generation, row.state), (2, ConnectionState::Active));
    let token = fixture.vault.access_token(&row).unwrap();
    assert_eq!(token.expose(), "access-sibling");
    assert_eq!(fixture.row().await, *row);
}

#[tokio::test]
async fn tokens_of_a_connection_that_was_ended_meanwhile_are_revoked() {
    let fixture = Fixture::new().await;
    let user = fixture.elsewhere(|store, id| async move {
        let pending = Revocation::Pending;
        assert!(
            store
                .connection_revoke(&id, 1, "disconnected", pending, at(0))
                .await
                .unwrap()
        );
    });
    fixture.answer([after(user, granted())]).await;

    let end = fixture.refresh(Some(1)).await;

    let Err(RefreshError::Ended { state, reason, .. }) = end else {
        panic!("{end:?}")
    };
    assert_eq!(
        (state, reason.as_deref()),
        (ConnectionState::Revoked, Some("disconnected"))
    );
    let row = fixture.row().await;
    assert_eq!(
        (row.state, row.lease_owner.as_deref()),
        (ConnectionState::Revoked, None)
    );
    assert_eq!(fixture.refresher().sweep_once().await.unwrap().revoked, 1);
    let row = fixture.row().await;
    assert_eq!(
        (row.revoke_pending, row.refresh_token),
        (false, Sealed::default())
    );
    let [revocation] = &fixture.requests("/revoke").await[..] else {
        panic!("one revocation")
    };
    assert_eq!(
        revocation.body,
        b"token=refresh-2&token_type_hint=refresh_token"
    );
}

/// Not even a lease's loss makes us revoke what is somebody else's to use.
#[tokio::test]
async fn late_answer_for_a_connection_that_was_handed_back_is_not_revoked() {
    let fixture = Fixture::new().await;
    let operator = fixture.elsewhere(|store, id| async move {
        let row = store.connection_find(&id).await.unwrap().unwrap();
        let owner = row.lease_owner.unwrap();
        assert!(store.lease_release(&id, &owner).await.unwrap());
        assert!(store.connection_hand_back(&id, 1, at(0)).await.unwrap());
    });
    fixture.answer([after(operator, granted())]).await;

    let end = fixture.refresh(Some(1)).await;

    let Err(RefreshError::Ended { reason, .. }) = end else {
        panic!("{end:?}")
    };
    assert_eq!(reason.as_deref(), Some(HANDED_BACK));
    let row = fixture.row().await;
    assert!(!row.revoke_pending);
    assert_eq!(fixture.refresher().sweep_once().await.unwrap().revoked, 0);
    assert_eq!(fixture.refresher().replay_once().await.unwrap(), 0);
    assert!(fixture.requests("/revoke").await.is_empty());
    assert_eq!(fixture.row().await, row);
}

#[tokio::test]
async fn tokens_of_a_connection_that_was_reconnected_and_ended_meanwhile_are_dropped() {
    let fixture = Fixture::new().await;
    let vault = fixture.vault.clone();
    let user = fixture.elsewhere(move |store, id| {
        let vault = vault.clone();
        async move { reconnected_and_ended(&vault, &store, &id).await }
    });
    fixture.answer([after(user, granted())]).await;

    fixture.refresh(Some(1)).await.unwrap_err();

    assert_eq!(fixture.refresher().sweep_once().await.unwrap().revoked, 1);
    let [revocation] = &fixture.requests("/revoke").await[..] else {
        panic!("one revocation")
    };
    assert!(revocation.body.starts_with(b"token=refresh-9&"));
}

#[tokio::test]
async fn a_reconnect_meanwhile_wins_and_the_older_tokens_are_dropped() {
    for answer in [
        granted(),
        refusal(400, "invalid_grant"),
        refusal(401, "invalid_client"),
    ] {
        let fixture = Fixture::new().await;
        let vault = fixture.vault.clone();
        let user = fixture.elsewhere(move |store, id| {
            let again = consent(&vault, &id, "jane", "access-9", "refresh-9");
            async move {
                assert!(
                    store
                        .connection_reconnect(&id, 1, &again, at(1))
                        .await
                        .unwrap()
                );
            }
        });
        fixture.answer([after(user, answer)]).await;

        let end = fixture.refresh(Some(1)).await;

        let row = fixture.row().await;
        assert_eq!(
            (row.generation, row.state),
            (2, ConnectionState::Active),
            "{end:?}"
        );
        assert_eq!(
            fixture.vault.access_token(&row).unwrap().expose(),
            "access-9"
        );
        assert_eq!(
            fixture.vault.refresh_token(&row).unwrap().expose(),
            "refresh-9"
        );
        assert_eq!((row.lease_owner, row.failures), (None, 0));
        assert_eq!(fixture.requests("/revoke").await.len(), 0);
    }
}

#[tokio::test]
async fn a_failure_after_a_reconnect_leaves_the_new_row_alone() {
    let fixture = Fixture::new().await;
    let vault = fixture.vault.clone();
    let user = fixture.elsewhere(move |store, id| {
        let again = consent(&vault, &id, "jane", "access-9", "refresh-9");
        async move {
            store
                .connection_reconnect(&id, 1, &again, at(1))
                .await
                .unwrap();
        }
    });
    fixture.answer([after(user, status(500))]).await;

    let end = fixture.refresh(Some(1)).await;

    assert!(matches!(end, Ok(Outcome::Adopted(_))), "{end:?}");
    let row = fixture.row().await;
    assert_eq!((row.generation, row.failures, row.in_doubt), (2, 0, false));
    assert_eq!(fixture.calls().await, 1, "the old token is not tried again");
    assert_eq!((row.retry_at, row.lease_owner), (None, None));
}

#[tokio::test]
async fn a_lease_that_was_taken_over_changes_the_row_only_by_a_commit() {
    let taken = |fixture: &Fixture| {
        fixture.elsewhere(|store, id| async move {
            let row = store.connection_find(&id).await.unwrap().unwrap();
            let holder = row.lease_owner.unwrap();
            assert!(store.lease_take_over(&id, &holder, "heir/1").await.unwrap());
        })
    };
    let fixture = Fixture::new().await;
    fixture.answer([after(taken(&fixture), status(500))]).await;
    let end = fixture.refresh(Some(1)).await;
    assert!(matches!(end, Err(RefreshError::Busy)), "{end:?}");
    assert_eq!(fixture.calls().await, 1, "the token is the heir's to spend");
    let row = fixture.row().await;
    assert_eq!(
        (row.lease_owner.as_deref(), row.failures),
        (Some("heir/1"), 0)
    );

    let fixture = Fixture::new().await;
    fixture.answer([after(taken(&fixture), granted())]).await;
    let row = refreshed(fixture.refresh(Some(1)).await);
    assert_eq!((row.generation, row.lease_owner.as_deref()), (2, None));
}

#[tokio::test]
async fn a_jump_of_the_wall_clock_in_a_flight_does_no_harm() {
    for (now, calls) in [
        (at(0).saturating_add(DAY), 1),
        (at(0).saturating_sub(DAY), 2),
    ] {
        let fixture = Fixture::new().await;
        let clock = Arc::clone(&fixture.clock);
        fixture
            .answer([after(move || clock.set_wall(now), granted())])
            .await;

        let row = refreshed(fixture.refresh(Some(1)).await);

        assert_eq!((row.generation, row.lease_owner.as_deref()), (2, None));
        assert_eq!(row.refreshed_at, Some(now));
        assert_eq!(row.expires_at, now.saturating_add(Duration::from_hours(1)));

        // With an answer lost: a second call only while the lease holds by both clocks.
        let fixture = Fixture::new().await;
        let clock = Arc::clone(&fixture.clock);
        let jump = move || clock.set_wall(now);
        fixture
            .answer([after(jump, status(500)), status(500)])
            .await;

        fixture.refresh(Some(1)).await.unwrap_err();

        let row = fixture.row().await;
        assert_eq!((row.state, row.in_doubt), (ConnectionState::Active, true));
        assert_eq!((row.lease_owner, fixture.calls().await), (None, calls));
    }
}

#[tokio::test]
async fn no_call_begins_that_would_outlive_the_lease() {
    let fixture = Fixture::new().await;
    let clock = Arc::clone(&fixture.clock);
    // What is left of the thirty seconds is less than a call may take.
    let slow = move || clock.advance(Duration::from_millis(20_001));
    fixture.answer([after(slow, status(500)), granted()]).await;

    fixture.refresh(Some(1)).await.unwrap_err();

    let row = fixture.row().await;
    assert_eq!((row.in_doubt, row.lease_owner), (true, None));
    assert_eq!(fixture.calls().await, 1);
}

/// Asked when the token leaves: the process may have been frozen since it decided to call.
#[tokio::test]
async fn no_token_leaves_so_late_that_its_answer_could_miss_the_leases_end() {
    let by_wall = |clock: &ManualClock, by| clock.set_wall(clock.now().saturating_add(by));
    let by_monotonic = |clock: &ManualClock, by| {
        let wall = clock.now();
        clock.advance(by);
        clock.set_wall(wall);
    };
    let clocks: [fn(&ManualClock, Duration); 2] = [by_wall, by_monotonic];
    for pass in clocks {
        let fixture = Fixture::new().await;
        let refresher = fixture.refresher();
        let lease = refresher
            .acquire(&fixture.row().await)
            .await
            .unwrap()
            .unwrap();
        let before_deadline = refresher.before_deadline(&lease, None);

        pass(&fixture.clock, Duration::from_secs(18));
        assert!(refresher.may_call(&lease));
        pass(&fixture.clock, Duration::from_millis(1));
        assert!(!refresher.may_call(&lease), "a call may take ten seconds");

        pass(&fixture.clock, Duration::from_millis(9_999));
        assert!(before_deadline());
        pass(&fixture.clock, Duration::from_millis(1));
        assert!(!before_deadline(), "two are kept to write its answer down");
    }
}

#[tokio::test]
async fn whatever_the_database_says_what_the_provider_said_is_kept_until_it_is_stored() {
    let (active, dead) = (ConnectionState::Active, ConnectionState::ReauthRequired);
    for (answer, state, generation) in [
        (granted(), active, 2),
        (refusal(400, "invalid_grant"), dead, 1),
    ] {
        let (answer, mut held) = Held::before(answer);
        let fixture = Fixture::answering([answer]).await;
        let rename = |from: &str, to: &str| {
            let sql = format!("ALTER TABLE {from} RENAME TO {to}");
            fixture.database.lines(&sql).unwrap();
        };
        let operator = async {
            held.reached().await;
            rename("connections", "elsewhere");
            held.release();
            tokio::time::sleep(Duration::from_secs(1)).await;
            rename("elsewhere", "connections");
        };

        let (end, ()) = tokio::join!(fixture.refresh(Some(1)), operator);

        let row = fixture.row().await;
        assert_eq!((row.state, row.generation), (state, generation), "{end:?}");
        assert_eq!((row.lease_owner, fixture.calls().await), (None, 1));
        assert_eq!(end.is_ok(), state == active, "{end:?}");
    }
}
