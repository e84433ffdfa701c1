//! Rows beside the provider's books.

use super::*;

/// The response to `t3` was lost by a kill, and the token presented again.
fn lost() -> Run {
    let mut run = Run::good();
    run.reused("two", 8 * SECOND);
    run.killed(7 * SECOND, "one");
    run
}

#[test]
fn good_grant_with_an_older_token_here_is_named() {
    let mut run = Run::good();
    run.0.rows[0].refresh_token = Some("t2".to_owned());

    run.breaks(
        Invariant::GoodGrantsAreHeld,
        "the newest refresh token is t3",
    );
}

#[test]
fn good_grant_of_a_row_that_has_ended_is_named() {
    let mut run = Run::good();
    run.0.rows[0].state = "revoked".to_owned();

    run.breaks(Invariant::GoodGrantsAreHeld, "the row is revoked");
}

#[test]
fn good_grant_without_a_row_is_named() {
    let mut run = Run::good();
    run.0.rows.clear();

    run.breaks(Invariant::GoodGrantsAreHeld, "there is no row");
}

#[test]
fn end_that_the_provider_did_not_cause_is_named() {
    let mut run = Run::good();
    let row = Row {
        company: COMPANY,
        state: "reauth_required".to_owned(),
        refresh_token: Some("t2".to_owned()),
        ..Row::default()
    };
    run.0.ended.push(row);

    run.breaks(Invariant::EndsAreTrue, "never refused its token");
}

#[test]
fn refusal_of_a_grant_that_had_not_ended_is_named() {
    let mut run = lost();
    run.0.calls[3].ended = false;

    run.breaks(Invariant::EndsAreTrue, "had never ended");
}

#[test]
fn lost_response_is_reported_as_answer_lost() {
    let mut run = lost();
    run.holds();

    run.0.rows[0].reason = Some("rejected".to_owned());

    run.breaks(
        Invariant::EndsAreTrue,
        "because a response had been lost, and the row says rejected",
    );
}

#[test]
fn revoked_row_becomes_active_by_a_new_consent_alone() {
    let mut run = Run::good();
    run.row_state(6 * SECOND, "revoked", 3);
    run.row_state(9 * SECOND, "active", 4);
    run.breaks(Invariant::RevokedStaysRevoked, "active at");

    run.consented(7 * SECOND, 8 * SECOND);
    run.holds();

    let mut run = Run::good();
    run.row_state(6 * SECOND, "revoked", 3);
    run.row_state(9 * SECOND, "active", 4);
    let snapshot_us = 5 * SECOND;
    run.event(8 * SECOND, Event::Restored { snapshot_us });
    run.holds();
}

#[test]
fn row_that_is_active_after_whoever_ended_it_was_told_so_is_named_though_nobody_saw_it_revoked() {
    let revoked = Event::Revoked {
        company: COMPANY,
        generation: Some(3),
    };
    let mut run = Run::good();
    run.row_state(5 * SECOND, "active", 2);
    run.event(6 * SECOND, revoked);
    run.holds();

    run.row_state(7 * SECOND, "active", 4);

    run.breaks(
        Invariant::RevokedStaysRevoked,
        "(generation 3), and active at 00:00:07.000000 (generation 4)",
    );
}
