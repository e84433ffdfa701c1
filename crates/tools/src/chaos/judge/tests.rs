use super::*;
use crate::chaos::account::Row;
use crate::chaos::chronicle::{Blow, Micros};
use crate::chaos::evidence::{Call, Grant};
use crate::chaos::load::{Answered, Outcome};

const COMPANY: u32 = 101;
const SECOND: Micros = 1_000_000;

/// A run in which one connection was refreshed twice, by refreshers with journals of their own.
fn good_run() -> Evidence {
    let mut evidence = Evidence {
        grants: vec![Grant {
            company_id: COMPANY,
            state: "active".to_owned(),
            refresh_token_fingerprint: Some("t3".to_owned()),
        }],
        rows: vec![Row {
            company: COMPANY,
            state: "active".to_owned(),
            generation: 3,
            refresh_token: Some("t3".to_owned()),
            ..Row::default()
        }],
        reach: [("one", "shared"), ("two", "shared"), ("three", "own")]
            .map(|(process, journal)| (process.to_owned(), journal.to_owned()))
            .into(),
        ..Evidence::default()
    };
    spent(&mut evidence, 1, "one", "t1", "t2");
    spent(&mut evidence, 5, "three", "t2", "t3");
    evidence.data.push(request(2, Outcome::Right));
    evidence
}

fn call(evidence: &mut Evidence, at: Micros, from: &str, presented: &str, outcome: &str) {
    evidence.calls.push(Call {
        at_us: at * SECOND,
        call: "refresh".to_owned(),
        company_id: Some(COMPANY),
        presented: Some(presented.to_owned()),
        outcome: outcome.to_owned(),
        query: format!("from={from}"),
        ..Call::default()
    });
}

fn spent(evidence: &mut Evidence, at: Micros, from: &str, presented: &str, issued: &str) {
    call(evidence, at, from, presented, "ok");
    evidence.calls.last_mut().unwrap().issued = Some(issued.to_owned());
}

/// The newest token was exchanged, its answer got lost, and the old one was shown again: the family is dead.
fn lost_answer(evidence: &mut Evidence, by: &str) {
    spent(evidence, 7, "one", "t3", "t4");
    call(evidence, 9, by, "t3", "reuse");
    evidence.calls.last_mut().unwrap().ended = true;
    evidence.grants[0].state = "revoked".to_owned();
    let row = &mut evidence.rows[0];
    row.state = "reauth_required".to_owned();
    row.reason = Some("answer_lost".to_owned());
    row.state_since_us = 9 * SECOND;
}

fn happened(evidence: &mut Evidence, at_us: Micros, what: What) {
    evidence.chronicle.push(Entry { at_us, what });
}

fn struck(evidence: &mut Evidence, at: Micros, process: &str, blow: Blow) {
    let what = What::Struck {
        process: process.to_owned(),
        blow,
        why: "at random".to_owned(),
    };
    happened(evidence, at * SECOND, what);
}

fn uninstalled(evidence: &mut Evidence, at: Micros) {
    let severed = What::Severed {
        company: COMPANY,
        how: "uninstalled".to_owned(),
    };
    happened(evidence, at * SECOND, severed);
}

/// A new consent, from its beginning to its storing.
fn mended(evidence: &mut Evidence, began: Micros, stored: Micros) {
    let mended = What::Mended {
        company: COMPANY,
        began_us: began * SECOND,
    };
    happened(evidence, stored * SECOND, mended);
}

fn request(at: Micros, outcome: Outcome) -> Answered {
    Answered {
        process: "data-api".to_owned(),
        company: COMPANY,
        began_us: at * SECOND,
        ended_us: at * SECOND + 1000,
        outcome,
    }
}

fn status(status: u16, code: &str) -> Outcome {
    Outcome::Status {
        status,
        code: code.to_owned(),
        said: String::new(),
    }
}

fn invalidated() -> Outcome {
    status(401, "TOKEN_INVALIDATED")
}

#[track_caller]
fn assert_holds(evidence: &Evidence) {
    assert_eq!(judge(evidence).violations, Vec::<String>::new());
}

#[track_caller]
fn assert_violates(evidence: &Evidence, statement: &str) {
    let violations = judge(evidence).violations;
    let hit = violations
        .iter()
        .any(|violation| violation.starts_with(statement));
    assert!(hit, "{statement} not in {violations:#?}");
}

#[test]
fn a_good_run_has_no_violations() {
    assert_holds(&good_run());
}

#[test]
fn a_reuse_after_an_answer_that_died_with_its_process_is_explained() {
    let mut evidence = good_run();
    struck(&mut evidence, 7, "one", Blow::Kill);
    lost_answer(&mut evidence, "two");

    assert_holds(&evidence);
    let told = judge(&evidence).reuses[0].to_string();
    assert!(told.contains("never fsynced: Kill at 00:00:07"), "{told}");
}

#[test]
fn a_reuse_that_nothing_led_to_is_a_violation() {
    let mut evidence = good_run();
    lost_answer(&mut evidence, "two");

    assert_violates(&evidence, "1.");
}

#[test]
fn blows_to_others_or_long_before_explain_nothing() {
    let mut evidence = good_run();
    struck(&mut evidence, 2, "one", Blow::Kill);
    struck(&mut evidence, 7, "two", Blow::Kill);
    struck(&mut evidence, 10, "one", Blow::Kill);
    lost_answer(&mut evidence, "two");

    assert_violates(&evidence, "1.");
}

#[test]
fn a_refresher_may_end_by_itself_while_its_journal_takes_nothing() {
    let mut evidence = good_run();
    let of = "journal own".to_owned();
    happened(&mut evidence, SECOND, What::Outage { of: of.clone() });
    let ended = |process: &str| What::Ended {
        process: process.to_owned(),
        status: "exit status: 1".to_owned(),
        by_itself: true,
    };
    happened(&mut evidence, 2 * SECOND, ended("three"));
    happened(&mut evidence, 3 * SECOND, What::Back { of });
    assert_holds(&evidence);

    let mut other = evidence.clone();
    happened(&mut other, 2 * SECOND, ended("one"));
    assert_violates(&other, "one ended by itself");
    happened(&mut evidence, 4 * SECOND, ended("three"));
    assert_violates(&evidence, "three ended by itself");
}

#[test]
fn a_process_that_stood_still_when_it_was_answered_explains_a_reuse() {
    let mut evidence = good_run();
    struck(&mut evidence, 2, "one", Blow::Stop);
    lost_answer(&mut evidence, "two");
    assert_holds(&evidence);

    struck(&mut evidence, 3, "one", Blow::Continue);
    evidence.chronicle.sort_by_key(|entry| entry.at_us);
    assert_violates(&evidence, "1.");
}

#[test]
fn a_reuse_although_the_answer_was_in_a_journal_in_reach_is_a_violation() {
    let mut evidence = good_run();
    struck(&mut evidence, 7, "one", Blow::Kill);
    lost_answer(&mut evidence, "two");
    let shared = evidence.journals.entry("shared".to_owned()).or_default();
    shared.insert("t4".to_owned(), 7 * SECOND);

    assert_violates(&evidence, "1.");
}

#[test]
fn an_answer_on_a_disk_out_of_reach_is_told_apart() {
    let mut evidence = good_run();
    struck(&mut evidence, 7, "one", Blow::Kill);
    lost_answer(&mut evidence, "three");
    let shared = evidence.journals.entry("shared".to_owned()).or_default();
    shared.insert("t4".to_owned(), 7 * SECOND);

    assert_holds(&evidence);
    let reuses = judge(&evidence).reuses;
    assert!(matches!(reuses[0].cause, Cause::OutOfReach(_)));
}

#[test]
fn a_reuse_of_a_token_whose_successor_was_used_is_a_violation() {
    let mut evidence = good_run();
    struck(&mut evidence, 1, "one", Blow::Kill);
    call(&mut evidence, 6, "two", "t1", "reuse");

    assert_violates(&evidence, "1.");
}

/// The sender of `t3` is lost; the next one gets `t4`, and writes it down; then the first call takes effect.
fn overtaken_call(evidence: &mut Evidence) {
    spent(evidence, 8, "one", "t3", "t4");
    let shared = evidence.journals.entry("shared".to_owned()).or_default();
    shared.insert("t4".to_owned(), 8 * SECOND);
    call(evidence, 9, "two", "t3", "reuse");
    let reuse = evidence.calls.last_mut().unwrap();
    reuse.arrived_at_us = Some(7 * SECOND);
    reuse.ended = true;
    call(evidence, 10, "one", "t4", "invalid_grant");
    evidence.grants[0].state = "revoked".to_owned();
    let row = &mut evidence.rows[0];
    row.state = "reauth_required".to_owned();
    row.reason = Some("rejected".to_owned());
    row.refresh_token = Some("t4".to_owned());
    row.state_since_us = 10 * SECOND;
}

#[test]
fn a_call_that_the_provider_kept_waiting_until_its_sender_was_lost_is_no_reuse_of_ours() {
    let mut evidence = good_run();
    struck(&mut evidence, 7, "two", Blow::Kill);
    overtaken_call(&mut evidence);

    assert_holds(&evidence);
}

#[test]
fn two_calls_with_one_token_at_once_are_a_violation() {
    let mut evidence = good_run();
    overtaken_call(&mut evidence);

    assert_violates(&evidence, "1.");
}

#[test]
fn a_good_grant_whose_row_has_an_older_token_is_a_violation() {
    let mut evidence = good_run();
    evidence.rows[0].refresh_token = Some("t2".to_owned());

    assert_violates(&evidence, "2.");
}

#[test]
fn a_good_grant_whose_row_has_ended_or_is_gone_is_a_violation() {
    let mut evidence = good_run();
    evidence.rows[0].state = "revoked".to_owned();
    assert_violates(&evidence, "2.");

    evidence.rows.clear();
    assert_violates(&evidence, "2.");
}

#[test]
fn a_row_that_wants_a_consent_although_nobody_refused_its_token_is_a_violation() {
    let mut evidence = good_run();
    struck(&mut evidence, 7, "one", Blow::Kill);
    lost_answer(&mut evidence, "two");
    evidence.rows[0].refresh_token = Some("t9".to_owned());

    assert_violates(&evidence, "3.");
}

#[test]
fn a_destroyed_answer_that_is_called_anything_else_is_a_violation() {
    let mut evidence = good_run();
    struck(&mut evidence, 7, "one", Blow::Kill);
    lost_answer(&mut evidence, "two");
    evidence.rows[0].reason = Some("rejected".to_owned());

    assert_violates(&evidence, "3.");
}

#[test]
fn what_was_wrong_before_a_new_consent_mended_it_counts_too() {
    let mut evidence = good_run();
    let death = Row {
        company: COMPANY,
        state: "reauth_required".to_owned(),
        reason: Some("rejected".to_owned()),
        refresh_token: Some("t3".to_owned()),
        ..Row::default()
    };
    evidence.deaths.push(death);

    assert_violates(&evidence, "3.");
}

#[test]
fn honest_refusals_are_no_violation() {
    let mut evidence = good_run();
    for honest in [429, 502, 503, 504] {
        evidence.data.push(request(3, status(honest, "ANY")));
    }

    assert_holds(&evidence);
}

#[test]
fn other_data_and_other_statuses_are_violations() {
    for wrong in [
        Outcome::Wrong {
            said: "Jane Doe of Company 102".to_owned(),
        },
        status(500, "INTERNAL"),
        status(404, "CONNECTION_NOT_FOUND"),
        invalidated(),
    ] {
        let mut evidence = good_run();
        evidence.data.push(request(3, wrong));
        assert_violates(&evidence, "4.");
    }
}

#[test]
fn a_401_is_right_from_the_end_of_a_connection_to_its_next_consent() {
    let mut evidence = good_run();
    uninstalled(&mut evidence, 10);
    mended(&mut evidence, 12, 13);
    evidence.data.push(request(11, invalidated()));
    assert_holds(&evidence);

    let mut late = evidence.clone();
    late.data.push(request(14, invalidated()));
    assert_violates(&late, "4.");
    evidence.data.push(request(9, invalidated()));
    assert_violates(&evidence, "4.");
}

#[test]
fn a_401_is_right_between_a_new_consent_and_its_storing_if_the_provider_refused_the_old_one() {
    let mut evidence = good_run();
    mended(&mut evidence, 10, 14);
    evidence.data.push(request(12, invalidated()));
    assert_violates(&evidence, "4.");

    call(
        &mut evidence,
        11,
        "token-refresher",
        "replaced",
        "invalid_grant",
    );
    assert_holds(&evidence);
    let last = evidence.calls.last_mut().unwrap();
    last.fault = Some("call after_answer".to_owned());
    assert_holds(&evidence);

    evidence.data.push(request(15, invalidated()));
    assert_violates(&evidence, "4.");
}

#[test]
fn a_consent_that_began_before_the_end_mends_nothing() {
    let mut evidence = good_run();
    uninstalled(&mut evidence, 10);
    mended(&mut evidence, 9, 11);
    evidence.data.push(request(14, invalidated()));

    assert_holds(&evidence);
}

#[test]
fn no_answer_is_excused_by_a_restart_alone() {
    let broken = || {
        request(
            20,
            Outcome::Broken {
                how: "connection refused".to_owned(),
            },
        )
    };
    let mut evidence = good_run();
    evidence.data.push(broken());
    assert_violates(&evidence, "4.");

    struck(&mut evidence, 19, "data-api", Blow::Terminate);
    let ready = What::Ready {
        process: "data-api".to_owned(),
    };
    happened(&mut evidence, 21 * SECOND, ready);
    assert_holds(&evidence);
    evidence.data[1].began_us = 22 * SECOND;
    evidence.data[1].ended_us = 22 * SECOND;
    assert_violates(&evidence, "4.");
}

#[test]
fn a_webhook_that_calls_a_living_connection_dead_is_a_violation() {
    let mut evidence = good_run();
    evidence
        .refreshes
        .push(request(3, status(409, "TOKEN_INVALIDATED")));

    assert_violates(&evidence, "4.");
}

#[test]
fn a_request_that_came_too_late_is_excused_by_a_stop_alone() {
    let mut evidence = good_run();
    let mut late = request(20, status(408, ""));
    late.process = "token-refresher".to_owned();
    evidence.refreshes.push(late);
    assert_violates(&evidence, "4.");

    struck(&mut evidence, 19, "token-refresher", Blow::Stop);
    struck(&mut evidence, 21, "token-refresher", Blow::Continue);
    assert_holds(&evidence);
}

#[test]
fn a_process_that_ends_by_itself_and_a_row_that_finds_no_rest_are_violations() {
    let mut evidence = good_run();
    evidence.restless.push("company 101: in doubt".to_owned());
    assert_violates(&evidence, "not at rest");

    let ended = What::Ended {
        process: "data-api".to_owned(),
        status: "exit status: 1".to_owned(),
        by_itself: true,
    };
    happened(&mut evidence, SECOND, ended);
    assert_violates(&evidence, "data-api ended by itself");
}
