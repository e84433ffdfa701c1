//! Each cause of a reuse, and what is none.

use super::*;

const NEVER: &str = "nothing kept its refresher from that";

#[test]
fn reuse_of_a_token_whose_response_had_arrived_and_was_not_synced_has_no_cause() {
    let mut run = Run::good();
    run.reused("two", 8 * SECOND);

    run.breaks(Rule::ReuseHasCause, NEVER);
}

#[test]
fn response_that_the_provider_did_not_send_never_arrived() {
    for fault in [Some("commit_then_reset"), Some("truncated"), None] {
        let mut run = Run::good();
        run.reused("one", 7 * SECOND + 500 * MILLI);
        let spent = &mut run.0.calls[2];
        spent.fault = fault.map(str::to_owned);
        if fault.is_none() {
            spent.answered_at_us = None;
        }

        assert!(matches!(run.cause(), Cause::NeverArrived(_)), "{fault:?}");
    }
}

#[test]
fn response_to_a_process_that_was_killed_before_it_was_sent_never_arrived() {
    let mut run = Run::good();
    run.reused("two", 8 * SECOND);
    run.killed(7 * SECOND, "one");

    assert!(matches!(run.cause(), Cause::NeverArrived(_)));
}

#[test]
fn response_that_came_after_its_sender_had_given_up_never_arrived() {
    let mut run = Run::good();
    run.reused("one", 8 * SECOND);
    run.0.calls[2].answered_at_us = Some(8 * SECOND + 600 * MILLI);

    assert!(matches!(run.cause(), Cause::NeverArrived(_)));
}

#[test]
fn kill_within_fifty_milliseconds_of_the_response_explains_a_reuse_and_a_later_one_does_not() {
    let arrived = 7 * SECOND + MILLI;
    for (after, explains) in [(0, true), (49, true), (60, false)] {
        let mut run = Run::good();
        run.reused("two", 8 * SECOND);
        run.killed(arrived + after * MILLI, "one");

        if explains {
            let cause = run.cause();
            assert!(
                matches!(cause, Cause::Interrupted(_)) || after == 0,
                "{cause:?}"
            );
        } else {
            run.breaks(Rule::ReuseHasCause, NEVER);
        }
    }
}

#[test]
fn busy_machine_gets_as_much_longer_as_its_timers_were_late() {
    let mut run = Run::good();
    run.reused("two", 8 * SECOND);
    run.killed(7 * SECOND + 90 * MILLI, "one");
    run.breaks(Rule::ReuseHasCause, NEVER);

    let by_us = 60 * MILLI;
    run.event(7 * SECOND + 70 * MILLI, Event::Late { by_us });

    assert!(matches!(run.cause(), Cause::Interrupted(_)));
}

#[test]
fn kill_of_another_process_or_of_another_life_explains_nothing() {
    let mut run = Run::good();
    run.reused("two", 8 * SECOND);
    run.killed(7 * SECOND + 10 * MILLI, "three");
    run.breaks(Rule::ReuseHasCause, NEVER);

    let mut run = Run::good();
    run.reused("two", 8 * SECOND);
    run.killed(6 * SECOND, "one");
    run.0.calls[2].query = "from=one&life=2".to_owned();
    run.breaks(Rule::ReuseHasCause, NEVER);
}

#[test]
fn one_kill_explains_only_the_responses_that_were_on_their_way() {
    let mut run = Run::good();
    run.reused("two", 8 * SECOND);
    // Another connection's response had arrived long before.
    run.exchanged(6 * SECOND, "one", "u1", "u2").company_id = Some(102);
    let again = run.call(8 * SECOND, "two", "u1", "reuse");
    again.company_id = Some(102);
    run.killed(7 * SECOND + 10 * MILLI, "one");

    run.breaks(Rule::ReuseHasCause, "company 102");
}

#[test]
fn process_that_was_stopped_when_the_response_came_had_not_synced_it() {
    let mut run = Run::good();
    run.reused("two", 13 * SECOND);
    run.signal(6 * SECOND + 900 * MILLI, "one", Signal::Stop);
    run.signal(14 * SECOND, "one", Signal::Continue);
    assert!(matches!(run.cause(), Cause::Interrupted(_)));

    // It went on before the other one's search, and synced it.
    run.synced(10 * SECOND, "t4", "shared");
    run.breaks(Rule::ReuseHasCause, "which the second one reads");
}

#[test]
fn response_that_was_synced_in_reach_is_no_excuse_whatever_happened_since() {
    let mut run = Run::good();
    run.reused("two", 8 * SECOND);
    run.synced(7 * SECOND + 5 * MILLI, "t4", "shared");
    run.killed(7 * SECOND + 10 * MILLI, "one");

    run.breaks(Rule::ReuseHasCause, "which the second one reads");
}

#[test]
fn response_on_another_disk_explains_a_reuse_after_lease_and_grace() {
    for (at, explains) in [(9, false), (15, true)] {
        let mut run = Run::good();
        run.reused("three", at * SECOND);
        run.synced(7 * SECOND + 5 * MILLI, "t4", "shared");
        run.killed(7 * SECOND + 200 * MILLI, "one");

        if explains {
            assert!(matches!(run.cause(), Cause::OutOfReach(_)));
        } else {
            run.breaks(Rule::ReuseHasCause, "had not passed");
        }
    }
}

#[test]
fn copied_journal_is_in_reach_with_what_was_in_it_when_it_was_copied() {
    for (copied, in_reach) in [(7, false), (8, true)] {
        let mut run = Run::good();
        run.reused("three", 15 * SECOND);
        run.synced(7 * SECOND + 5 * MILLI, "t4", "shared");
        run.killed(7 * SECOND + 200 * MILLI, "one");
        let copy = Event::Copied {
            from: "shared".to_owned(),
            to: "own".to_owned(),
            began_us: copied * SECOND,
        };
        run.event(copied * SECOND + MILLI, copy);

        if in_reach {
            run.breaks(Rule::ReuseHasCause, "which the second one reads");
        } else {
            assert!(matches!(run.cause(), Cause::OutOfReach(_)));
        }
    }
}

#[test]
fn database_that_went_back_is_healed_by_whoever_is_up() {
    let snapshot_us = 6 * SECOND;
    let mut run = Run::good();
    run.reused("three", 20 * SECOND);
    run.synced(7 * SECOND + 5 * MILLI, "t4", "shared");
    run.event(12 * SECOND, Event::Restored { snapshot_us });
    run.breaks(Rule::ReuseHasCause, "did not commit the response again");

    run.killed(13 * SECOND, "one");
    run.signal(13 * SECOND, "two", Signal::Stop);
    assert!(matches!(run.cause(), Cause::OutOfReach(_)));
}

#[test]
fn kill_before_the_commit_of_what_the_disk_refused_explains_a_reuse() {
    let mut run = Run::good();
    run.reused("two", 9 * SECOND);
    run.killed(7 * SECOND + 300 * MILLI, "one");
    let refused = OnDisk {
        at_us: 7 * SECOND + 5 * MILLI,
        journal: "shared".to_owned(),
    };
    run.0.responses.refused = [("t4".to_owned(), vec![refused])].into();
    // Time enough for the commit.
    run.breaks(Rule::ReuseHasCause, NEVER);

    let of = crate::chaos::database::DATABASE.to_owned();
    run.event(6 * SECOND, Event::Outage { of: of.clone() });
    run.event(8 * SECOND, Event::Back { of });
    assert!(matches!(run.cause(), Cause::DiskRefused(_)));
}

#[test]
fn token_of_a_response_that_was_used_had_arrived() {
    let mut run = Run::good();
    run.exchanged(7 * SECOND, "one", "t3", "t4").answered_at_us = None;
    run.exchanged(8 * SECOND, "one", "t4", "t5");
    run.refused("two", 9 * SECOND);

    run.breaks(Rule::ReuseHasCause, "the response had arrived");
}

#[test]
fn call_that_takes_effect_after_its_senders_end_was_overtaken() {
    let mut run = Run::good();
    run.exchanged(8 * SECOND, "two", "t3", "t4");
    run.refused("one", 9 * SECOND);
    run.0.calls[3].arrived_at_us = Some(7 * SECOND);
    run.breaks(Rule::ReuseHasCause, "its sender was waiting");

    run.killed(7 * SECOND + 100 * MILLI, "one");
    // No response was lost: the row may say that the token was rejected.
    run.0.rows[0].reason = Some("rejected".to_owned());
    assert!(matches!(run.cause(), Cause::Overtaken(_)));
}

#[test]
fn call_that_is_delayed_past_its_senders_lease_was_overtaken() {
    let mut run = Run::good();
    run.exchanged(13 * SECOND, "two", "t3", "t4");
    run.refused("one", 14 * SECOND);
    run.0.calls[3].arrived_at_us = Some(7 * SECOND);

    assert!(matches!(run.cause(), Cause::Overtaken(_)));
}

#[test]
fn sender_that_has_given_up_asks_once_more_and_may_be_faster() {
    let mut run = Run::good();
    run.exchanged(8 * SECOND, "one", "t3", "t4");
    run.refused("one", 8 * SECOND + 600 * MILLI);
    run.0.calls[3].arrived_at_us = Some(7 * SECOND);

    assert!(matches!(run.cause(), Cause::NeverArrived(_)));
}

#[test]
fn disconnected_connection_in_doubt_is_refreshed_once() {
    let mut run = Run::good();
    run.reused("two", 15 * SECOND);
    run.killed(7 * SECOND, "one");
    run.severed(8 * SECOND, Severed::Disconnected);

    assert!(matches!(run.cause(), Cause::Disconnected(_)));
}

#[test]
fn refused_token_is_tried_again_after_a_back_off_alone() {
    for (pause, holds) in [(200, false), (1_100, true)] {
        let mut run = Run::good();
        run.reused("two", 8 * SECOND);
        run.killed(7 * SECOND, "one");
        run.call(8 * SECOND + pause * MILLI, "three", "t3", "reuse");

        if holds {
            run.cause();
        } else {
            run.breaks(Rule::ReuseHasCause, "no back-off was kept");
        }
    }
}

#[test]
fn token_that_the_provider_never_exchanged_can_not_be_reused() {
    let mut run = Run::good();
    for second in [8, 10] {
        run.refused("two", second * SECOND);
    }

    let violations = check(&run.0, Moment::AtRest).violations;

    assert_eq!(violations[0].rule, Rule::ReuseHasCause);
    assert!(violations[0].what.contains("never exchanged"));
}
