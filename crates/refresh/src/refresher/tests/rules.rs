//! What is decided without a call: pure rules, and comparisons with the row.

use std::collections::BTreeSet;

use pipekeeper_core::crypto::OpenError;
use pipekeeper_core::store::StoreError;

use super::*;
use crate::refresher::backoff::{Reason, Wait, Waits};
use crate::refresher::outcome::outcome_label;

/// Until when the wait after an early refresh lasts.
fn early_refresh_allowed_at(row: &Connection, now: Timestamp) -> Option<Timestamp> {
    Waits::new(ManualClock::at(now)).pending(
        &row.id,
        Reason::EarlyRefresh,
        Wait::after_early_refresh(row, now),
    )
}

async fn row_with(early_renewals: i32, refreshed_at: Option<Timestamp>) -> Connection {
    let mut row = Fixture::new().await.row().await;
    row.early_renewals = early_renewals;
    row.refreshed_at = refreshed_at;
    row
}

#[tokio::test]
async fn a_streak_of_early_renewals_waits_twice_as_long_each_time_up_to_a_minute() {
    for (early_renewals, secs) in [
        (1, 1),
        (2, 2),
        (3, 4),
        (4, 8),
        (5, 16),
        (6, 32),
        (7, 60),
        (8, 60),
        (i32::MAX, 60),
    ] {
        let row = row_with(early_renewals, Some(at(100))).await;
        assert_eq!(
            early_refresh_allowed_at(&row, at(100)),
            Some(at(100 + secs)),
            "{early_renewals}"
        );
        assert_eq!(early_refresh_allowed_at(&row, at(100 + secs)), None);
    }
}

#[tokio::test]
async fn only_a_streak_waits_and_never_with_an_expired_token() {
    for none in [i32::MIN, -1, 0] {
        assert_eq!(
            early_refresh_allowed_at(&row_with(none, Some(at(100))).await, at(100)),
            None
        );
    }
    assert_eq!(
        early_refresh_allowed_at(&row_with(3, None).await, at(100)),
        None
    );
    let mut expired = row_with(7, Some(at(100))).await;
    expired.expires_at = at(110);
    assert!(early_refresh_allowed_at(&expired, at(109)).is_some());
    assert_eq!(early_refresh_allowed_at(&expired, at(110)), None);
}

#[test]
fn back_off_stays_within_its_bounds() {
    for (failures, most) in [
        (-1, 3),
        (0, 3),
        (1, 9),
        (2, 27),
        (3, 60),
        (30, 60),
        (i32::MAX, 60),
    ] {
        for _ in 0..50 {
            let wait = back_off(failures, None);
            let bounds = Duration::from_secs(1)..=Duration::from_secs(most);
            assert!(bounds.contains(&wait), "{failures}: {wait:?}");
        }
    }
}

#[test]
fn back_off_honours_retry_after_within_reason() {
    let secs = Duration::from_secs;
    assert_eq!(back_off(0, Some(secs(120))), secs(120));
    assert_eq!(back_off(9, Some(secs(3600))), secs(3600));
    assert_eq!(back_off(0, Some(secs(3601))), secs(3600));
    assert_eq!(back_off(0, Some(Duration::MAX)), secs(3600));
    assert!(back_off(0, Some(Duration::ZERO)) >= secs(1));
}

#[tokio::test]
async fn every_outcome_has_its_word() {
    let row = Arc::new(Fixture::new().await.row().await);
    let (retry_at, token_expires_at) = (at(1), at(2));
    let results: Vec<RefreshResult> = vec![
        Ok(Outcome::Refreshed(Arc::clone(&row))),
        Ok(Outcome::AlreadyNewer(Arc::clone(&row))),
        Ok(Outcome::Adopted(Arc::clone(&row))),
        Ok(Outcome::Replayed(Arc::clone(&row))),
        Ok(Outcome::Revoked(row)),
        Err(RefreshError::NotFound),
        Err(RefreshError::Ended {
            state: ConnectionState::Revoked,
            reason: None,
            since: at(0),
        }),
        Err(RefreshError::RefusedAfterRenewal { retry_at }),
        Err(RefreshError::TryLater {
            retry_at,
            token_expires_at,
        }),
        Err(RefreshError::Busy),
        Err(RefreshError::ClientMisconfigured {
            word: "invalid_client",
            retry_at,
            token_expires_at,
        }),
        Err(RefreshError::UnknownApp),
        Err(RefreshError::NotSent {
            retry_at,
            token_expires_at,
        }),
        Err(RefreshError::Provider {
            word: "timeout".to_owned(),
            timed_out: true,
            retry_at,
            token_expires_at,
        }),
        Err(StoreError::Duplicate.into()),
        Err(RefreshError::Sealed(OpenError::Malformed)),
    ];
    let words: BTreeSet<&str> = results.iter().map(|end| outcome_label(end, true)).collect();
    assert_eq!(
        words.into_iter().collect::<Vec<_>>(),
        [
            "adopted",
            "already_newer",
            "busy",
            "not_found",
            "not_sent",
            "our_fault",
            "refreshed",
            "refused_after_renewal",
            "rejected",
            "replayed",
            "revoked",
            "sealed",
            "store",
            "try_later",
            "unknown",
        ]
    );
}

#[tokio::test]
async fn only_the_generation_that_failed_is_spent() {
    let fixture = Fixture::answering([granted()]).await;
    for other in [0, 2, -1, i64::MAX] {
        let row = already_newer(fixture.refresh(Some(other)).await);
        assert_eq!(row.generation, 1);
    }
    assert_eq!(fixture.calls().await, 0);

    let row = refreshed(fixture.refresh(Some(1)).await);

    assert_eq!((row.generation, fixture.calls().await), (2, 1));
    assert_eq!(already_newer(fixture.refresh(Some(1)).await).generation, 2);
    assert_eq!(fixture.calls().await, 1);
}

#[tokio::test]
async fn without_a_generation_what_was_minted_in_the_last_five_seconds_is_newer() {
    let fixture = Fixture::answering([granted(), granted()]).await;
    refreshed(fixture.refresh(None).await);

    fixture.clock.advance(Duration::from_millis(4999));
    assert_eq!(already_newer(fixture.refresh(None).await).generation, 2);
    fixture.clock.advance(Duration::from_millis(1));
    assert_eq!(refreshed(fixture.refresh(None).await).generation, 3);

    assert_eq!(fixture.calls().await, 2);
}

#[tokio::test]
async fn an_upstream_that_refuses_everything_costs_ever_fewer_refreshes() {
    let fixture = Fixture::answering((0..9).map(|_| granted())).await;
    let refresher = fixture.refresher();
    refreshed(refresh(&refresher, &fixture.id, Some(1)).await);
    let waits = [1, 2, 4, 8, 16, 32, 60, 60];
    for (generation, secs) in (2..).zip(waits) {
        let wait = Duration::from_secs(secs);
        let minted = fixture.row().await.refreshed_at.unwrap();

        let refused = refresh(&refresher, &fixture.id, Some(generation)).await;
        let Err(RefreshError::RefusedAfterRenewal { retry_at }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(retry_at, minted.saturating_add(wait));
        assert_eq!(fixture.row().await.state, ConnectionState::Active);

        fixture.clock.advance(wait);
        refreshed(refresh(&refresher, &fixture.id, Some(generation)).await);
    }
    assert_eq!(fixture.calls().await, 9);
}

/// n8n's workflows name no generation: one that asks too often must not keep others from the token they need.
#[tokio::test]
async fn a_noisy_caller_that_names_no_generation_delays_nobody_but_itself() {
    let fixture = Fixture::answering((0..20).map(|_| granted())).await;
    let refresher = fixture.refresher();
    for _ in 0..100 {
        fixture.clock.advance(Duration::from_secs(6));
        let result = refresh(&refresher, &fixture.id, None).await;
        assert!(
            matches!(result, Ok(Outcome::Refreshed(_) | Outcome::AlreadyNewer(_))),
            "{result:?}"
        );
    }
    let spent = fixture.calls().await;
    assert!(
        (10..=14).contains(&spent),
        "{spent} refreshes in ten minutes"
    );

    let row = fixture.row().await;
    let others = refreshed(refresh(&refresher, &fixture.id, Some(row.generation)).await);

    assert_eq!(others.early_renewals, 1, "their own streak begins here");
}

#[tokio::test]
async fn a_renewal_at_its_time_is_no_streak() {
    let fixture = Fixture::answering([granted(), granted()]).await;
    fixture.clock.advance(Duration::from_secs(3400));
    assert_eq!(refreshed(fixture.refresh(Some(1)).await).early_renewals, 0);

    let row = refreshed(fixture.refresh(Some(2)).await);

    assert_eq!(row.early_renewals, 1, "that one came early");
}

#[tokio::test]
async fn what_cannot_be_refreshed_says_why_without_a_call() {
    let fixture = Fixture::answering([]).await;
    let refresher = fixture.refresher();
    let nobody = ConnectionId::generate();
    assert!(matches!(
        refresh(&refresher, &nobody, None).await,
        Err(RefreshError::NotFound)
    ));

    let pending = Revocation::Pending;
    let gone = fixture.connect("joe").await;
    fixture
        .store
        .connection_revoke(&gone, 1, "disconnected", pending, at(7))
        .await
        .unwrap();
    let dead = fixture.connect("jim").await;
    fixture
        .store
        .connection_reauth_required(&dead, 1, false, None, at(8))
        .await
        .unwrap();
    for (id, expected, word) in [
        (&gone, ConnectionState::Revoked, "disconnected"),
        (&dead, ConnectionState::ReauthRequired, "rejected"),
    ] {
        for failed_generation in [None, Some(0), Some(1), Some(2)] {
            let ended = refresh(&refresher, id, failed_generation).await;
            let Err(RefreshError::Ended { state, reason, .. }) = ended else {
                panic!("{ended:?}")
            };
            assert_eq!((state, reason.as_deref()), (expected, Some(word)));
        }
    }

    fixture
        .database
        .lines("UPDATE connections SET app_id = 'another' WHERE owner = 'jane'")
        .unwrap();
    assert!(matches!(
        fixture.refresh(Some(1)).await,
        Err(RefreshError::UnknownApp)
    ));
    assert_eq!(fixture.calls().await, 0);
}

#[tokio::test]
async fn a_token_that_does_not_open_changes_nothing() {
    let fixture = Fixture::answering([]).await;
    fixture
        .database
        .lines("UPDATE connections SET account_id = 'mallory'")
        .unwrap();
    let before = fixture.row().await;

    let sealed = fixture.refresh(Some(1)).await;

    assert!(
        matches!(sealed, Err(RefreshError::Sealed(OpenError::Tampered))),
        "{sealed:?}"
    );
    assert_eq!(fixture.row().await, before);
    assert_eq!(fixture.calls().await, 0);
}

const JUMPS: [i64; 4] = [-24 * 60, -5, 5, 24 * 60];

/// The wall clock, so many minutes from what it is.
fn jump(clock: &ManualClock, minutes: i64) {
    let by = Duration::from_secs(minutes.unsigned_abs() * 60);
    let now = clock.now();
    clock.set_wall(if minutes < 0 {
        now.saturating_sub(by)
    } else {
        now.saturating_add(by)
    });
}

/// The wait that a refusal names, by the clock as it is now.
#[track_caller]
fn wait(clock: &ManualClock, result: RefreshResult) -> Duration {
    match result {
        Err(
            RefreshError::TryLater { retry_at, .. }
            | RefreshError::Provider { retry_at, .. }
            | RefreshError::RefusedAfterRenewal { retry_at },
        ) => retry_at.saturating_since(clock.now()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_has_set_a_wait_keeps_to_its_length_whatever_the_wall_clock_does() {
    for minutes in JUMPS {
        let failing = plain(ResponseTemplate::new(503).insert_header("retry-after", "40"));
        let fixture = Fixture::answering([failing, granted()]).await;
        let refresher = fixture.refresher();
        let asked = refresh(&refresher, &fixture.id, Some(1)).await;
        assert_eq!(wait(&fixture.clock, asked), Duration::from_secs(40));

        jump(&fixture.clock, minutes);
        for _ in 0..2 {
            fixture.clock.advance(Duration::from_millis(19_990));
            refresh(&refresher, &fixture.id, Some(1)).await.unwrap_err();
        }
        assert_eq!(fixture.calls().await, 1, "{minutes}");
        fixture.clock.advance(Duration::from_millis(20));
        refreshed(refresh(&refresher, &fixture.id, Some(1)).await);
    }
}

#[tokio::test]
async fn who_meets_a_wait_waits_no_longer_than_it_was_meant_to_last() {
    for minutes in JUMPS {
        let failing = plain(ResponseTemplate::new(503).insert_header("retry-after", "40"));
        let fixture = Fixture::answering([failing, granted(), granted()]).await;
        fixture.refresh(Some(1)).await.unwrap_err();
        jump(&fixture.clock, minutes);
        let refresher = fixture.refresher();

        if minutes < 0 {
            let told = refresh(&refresher, &fixture.id, Some(1)).await;
            assert_eq!(wait(&fixture.clock, told), Duration::from_secs(40));
            fixture.clock.advance(Duration::from_secs(40));
        }
        refreshed(refresh(&refresher, &fixture.id, Some(1)).await);

        // The same of the wait after an early refresh.
        jump(&fixture.clock, minutes);
        if minutes < 0 {
            let told = refresh(&refresher, &fixture.id, Some(2)).await;
            assert_eq!(wait(&fixture.clock, told), Duration::from_secs(1));
            fixture.clock.advance(Duration::from_secs(1));
        }
        refreshed(refresh(&refresher, &fixture.id, Some(2)).await);
    }
}

#[tokio::test]
async fn a_wall_clock_that_was_set_back_holds_nobody_up_for_a_day() {
    let yesterday = at(0).saturating_sub(DAY);
    let fixture = Fixture::answering([granted(), granted()]).await;
    refreshed(fixture.refresh(Some(1)).await);
    fixture.clock.set_wall(yesterday);
    assert_eq!(refreshed(fixture.refresh(None).await).generation, 3);

    let fixture = Fixture::answering([refusal(401, "invalid_client"), granted()]).await;
    let refresher = fixture.refresher();
    refresh(&refresher, &fixture.id, Some(1)).await.unwrap_err();
    fixture.clock.set_wall(yesterday);
    fixture.clock.advance(Duration::from_mins(1));
    refreshed(refresh(&refresher, &fixture.id, Some(1)).await);
}
