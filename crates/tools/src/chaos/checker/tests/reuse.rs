//! Each cause of a reuse, and what is none.

use super::*;

const NEVER: &str = "nothing kept its refresher from that";

#[test]
fn reuse_of_a_token_whose_response_had_arrived_and_was_not_synced_has_no_cause() {
    let mut run = Run::good();
    run.reused("two", 8 * SECOND);

    run.breaks(Invariant::ReuseHasCause, NEVER);
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
            run.breaks(Invariant::ReuseHasCause, NEVER);
        }
    }
}

#[test]
fn busy_machine_gets_as_much_longer_as_its_timers_were_late() {
    let mut run = Run::good();
    run.reused("two", 8 * SECOND);
    run.killed(7 * SECOND + 90 * MILLI, "one");
    run.breaks(Invariant::ReuseHasCause, NEVER);

    let by_us = 60 * MILLI;
    run.event(7 * SECOND + 70 * MILLI, Event::Late { by_us });

    assert!(matches!(run.cause(), Cause::Interrupted(_)));
}

#[test]
fn machine_whose_syncs_are_slow_gets_longer() {
    let mut run = Run::good();
    run.reused("two", 8 * SECOND);
    run.killed(7 * SECOND + 90 * MILLI, "one");
    run.breaks(Invariant::ReuseHasCause, NEVER);

    for company in 1_000..2_000 {
        let (old, new) = (format!("{company} old"), format!("{company} new"));
        run.exchanged(3 * SECOND, "one", &old, &new).company_id = Some(company);
        run.synced(3 * SECOND + 31 * MILLI, &new, "shared");
    }

    assert!(matches!(run.cause(), Cause::Interrupted(_)));
}

#[test]
fn kill_of_another_process_or_of_another_life_explains_nothing() {
    let mut run = Run::good();
    run.reused("two", 8 * SECOND);
    run.killed(7 * SECOND + 10 * MILLI, "three");
    run.breaks(Invariant::ReuseHasCause, NEVER);

    let mut run = Run::good();
    run.reused("two", 8 * SECOND);
    run.killed(6 * SECOND, "one");
    run.0.calls[2].query = "from=one&life=2".to_owned();
    run.breaks(Invariant::ReuseHasCause, NEVER);
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

    run.breaks(Invariant::ReuseHasCause, "company 102");
}

#[test]
fn process_that_was_stopped_when_the_response_came_had_not_synced_it() {
    let mut run = Run::good();
    run.reused("two", 13 * SECOND);
    run.signal(6 * SECOND + 900 * MILLI, "one", Signal::Stop);
    run.signal(14 * SECOND, "one", Signal::Continue);
    assert!(matches!(run.cause(), Cause::Interrupted(_)));

    // What is stopped for less than the call may take is no excuse once it went on.
    for (until, explains) in [(600, false), (1_100, true)] {
        let mut run = Run::good();
        run.reused("two", 13 * SECOND);
        run.signal(6 * SECOND + 990 * MILLI, "one", Signal::Stop);
        run.signal(7 * SECOND + until * MILLI, "one", Signal::Continue);
        if explains {
            run.cause();
        } else {
            run.breaks(Invariant::ReuseHasCause, NEVER);
        }
    }

    let mut run = Run::good();
    run.reused("two", 13 * SECOND);
    run.signal(6 * SECOND + 900 * MILLI, "one", Signal::Stop);
    run.signal(14 * SECOND, "one", Signal::Continue);

    // It went on before the other one's search, and synced it.
    run.synced(10 * SECOND, "t4", "shared");
    run.breaks(Invariant::ReuseHasCause, "which the second one reads");
}

#[test]
fn response_that_was_synced_in_reach_is_no_excuse_whatever_happened_since() {
    let mut run = Run::good();
    run.reused("two", 8 * SECOND);
    run.synced(7 * SECOND + 5 * MILLI, "t4", "shared");
    run.killed(7 * SECOND + 10 * MILLI, "one");

    run.breaks(Invariant::ReuseHasCause, "which the second one reads");
}

#[test]
fn response_on_another_disk_explains_a_reuse_after_lease_and_grace() {
    for (after, explains) in [(2_000, false), (5_500, false), (7_000, true)] {
        let mut run = Run::good();
        run.reused("three", 7 * SECOND + after * MILLI);
        run.synced(7 * SECOND + 5 * MILLI, "t4", "shared");
        run.killed(7 * SECOND + 40 * MILLI, "one");

        if explains {
            assert!(matches!(run.cause(), Cause::OutOfReach(_)));
        } else {
            run.breaks(Invariant::ReuseHasCause, "had not passed");
        }
    }
}

#[test]
fn copied_journal_is_in_reach_with_what_was_in_it_when_it_was_copied() {
    for (copied, in_reach) in [(7, false), (8, true)] {
        let mut run = Run::good();
        run.reused("three", 15 * SECOND);
        run.synced(7 * SECOND + 5 * MILLI, "t4", "shared");
        run.killed(7 * SECOND + 40 * MILLI, "one");
        let copy = Event::Copied {
            from: "shared".to_owned(),
            to: "own".to_owned(),
            began_us: copied * SECOND,
        };
        run.event(copied * SECOND + MILLI, copy);

        if in_reach {
            run.breaks(Invariant::ReuseHasCause, "which the second one reads");
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
    run.breaks(
        Invariant::ReuseHasCause,
        "did not commit the response again",
    );

    run.killed(13 * SECOND, "one");
    run.signal(13 * SECOND, "two", Signal::Stop);
    assert!(matches!(run.cause(), Cause::OutOfReach(_)));
}

#[test]
fn kill_before_the_commit_of_what_the_disk_refused_explains_a_reuse() {
    let mut run = Run::good();
    run.reused("two", 9 * SECOND);
    run.killed(7 * SECOND + 300 * MILLI, "one");
    run.refused_by_disk(7 * SECOND + 5 * MILLI, "t4", "shared");
    // Time enough for the commit.
    run.breaks(Invariant::ReuseHasCause, NEVER);

    run.database_away(6 * SECOND, 8 * SECOND);
    assert!(matches!(run.cause(), Cause::DiskRefused(_)));
    // A journal that was away is no note of this response.
    run.0.responses.refused.clear();
    let of = crate::chaos::journals::outage_of("shared");
    run.event(6 * SECOND, Event::Outage { of });
    run.breaks(Invariant::ReuseHasCause, NEVER);
    run.0.responses.kept = crate::chaos::responses::Kept::ByJournal;
    assert!(matches!(run.cause(), Cause::DiskRefused(_)));
}

#[test]
fn response_that_waits_for_the_database_longer_than_a_lease_is_under_way() {
    let mut run = Run::good();
    run.reused("two", 20 * SECOND);
    run.killed(15 * SECOND, "one");
    run.refused_by_disk(7 * SECOND + 5 * MILLI, "t4", "shared");
    run.database_away(6 * SECOND, 16 * SECOND);

    assert!(matches!(run.cause(), Cause::DiskRefused(_)));
}

#[test]
fn commits_that_queue_get_longer() {
    let mut run = Run::good();
    run.reused("two", 9 * SECOND);
    run.killed(7 * SECOND + 100 * MILLI, "one");
    run.refused_by_disk(7 * SECOND + 5 * MILLI, "t4", "shared");
    run.breaks(Invariant::ReuseHasCause, NEVER);

    for company in 1_000..2_000 {
        let (old, new) = (format!("{company} old"), format!("{company} new"));
        run.exchanged(3 * SECOND, "one", &old, &new).company_id = Some(company);
        run.synced(3 * SECOND + 5 * MILLI, &new, "shared");
        run.settled(3 * SECOND + 35 * MILLI, &new, "shared");
    }

    assert!(matches!(run.cause(), Cause::DiskRefused(_)));
}

#[test]
fn token_of_a_response_that_was_used_had_arrived() {
    let mut run = Run::good();
    run.exchanged(7 * SECOND, "one", "t3", "t4").answered_at_us = None;
    run.exchanged(8 * SECOND, "one", "t4", "t5");
    run.refused("two", 9 * SECOND);

    run.breaks(Invariant::ReuseHasCause, "the response had arrived");

    // Whatever came of it: a revocation, or a fault.
    for (call, outcome) in [("revoke", "ok"), ("refresh", "500")] {
        let mut run = Run::good();
        run.exchanged(7 * SECOND, "one", "t3", "t4").answered_at_us = None;
        run.call(8 * SECOND, "one", "t4", outcome).call = call.to_owned();
        run.refused("two", 9 * SECOND);
        run.breaks(Invariant::ReuseHasCause, "the response had arrived");
    }
}

#[test]
fn response_that_was_committed_is_no_excuse_unless_the_database_went_back() {
    let mut run = Run::good();
    run.reused("three", 15 * SECOND);
    run.synced(7 * SECOND + 5 * MILLI, "t4", "shared");
    run.settled(7 * SECOND + 9 * MILLI, "t4", "shared");
    run.signal(7 * SECOND + 40 * MILLI, "one", Signal::Kill);
    run.breaks(Invariant::ReuseHasCause, "had been committed");

    // To a time after the commit: nothing was lost.
    run.signal(8 * SECOND, "two", Signal::Stop);
    let restored = |second| Event::Restored {
        snapshot_us: second * SECOND,
    };
    run.event(9 * SECOND, restored(8));
    run.breaks(Invariant::ReuseHasCause, "had been committed");
    run.event(9 * SECOND, restored(6));
    assert!(matches!(run.cause(), Cause::OutOfReach(_)));
}

#[test]
fn response_out_of_reach_that_nothing_kept_from_the_commit_is_no_excuse() {
    let synced = || {
        let mut run = Run::good();
        run.reused("three", 15 * SECOND);
        run.synced(7 * SECOND + 5 * MILLI, "t4", "shared");
        run
    };
    synced().breaks(Invariant::ReuseHasCause, "nothing kept its refresher from");

    let mut run = synced();
    run.killed(9 * SECOND, "one");
    run.breaks(Invariant::ReuseHasCause, "nothing kept its refresher from");
    run.database_away(7 * SECOND, 8 * SECOND + 500 * MILLI);
    assert!(matches!(run.cause(), Cause::OutOfReach(_)));
}

#[test]
fn call_that_takes_effect_after_its_senders_end_was_overtaken() {
    let mut run = Run::good();
    run.exchanged(8 * SECOND, "two", "t3", "t4");
    run.refused("one", 9 * SECOND);
    run.0.calls[3].arrived_at_us = Some(7 * SECOND);
    run.breaks(Invariant::ReuseHasCause, "its sender was waiting");

    run.killed(7 * SECOND + 100 * MILLI, "one");
    // No response was lost: the row may say that the token was rejected.
    run.0.rows[0].reason = Some("rejected".to_owned());
    assert!(matches!(run.cause(), Cause::Overtaken(_)));
}

#[test]
fn call_that_is_delayed_past_its_senders_lease_was_overtaken() {
    for (after, stopped, explains) in [
        (1_500, false, false),
        (2_000, false, true),
        (2_000, true, false),
        (5_000, true, true),
    ] {
        let mut run = Run::good();
        run.exchanged(7 * SECOND + after * MILLI, "two", "t3", "t4");
        run.refused("one", 14 * SECOND);
        run.0.calls[3].arrived_at_us = Some(7 * SECOND);
        if stopped {
            run.signal(7 * SECOND + 100 * MILLI, "one", Signal::Stop);
            run.signal(13 * SECOND, "one", Signal::Continue);
        }

        if explains {
            assert!(matches!(run.cause(), Cause::Overtaken(_)), "{after}");
        } else {
            run.breaks(Invariant::ReuseHasCause, "its sender was waiting");
        }
    }
}

#[test]
fn sender_that_has_given_up_asks_once_more_and_may_be_faster() {
    let mut run = Run::good();
    run.exchanged(8 * SECOND, "one", "t3", "t4");
    run.refused("one", 8 * SECOND + 600 * MILLI);
    run.0.calls[3].arrived_at_us = Some(7 * SECOND);

    // No response was lost: the newer tokens are there.
    run.0.rows[0].reason = Some("rejected".to_owned());
    assert!(matches!(run.cause(), Cause::Overtaken(_)));
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
fn refused_token_is_tried_again_for_a_known_reason_after_a_back_off() {
    let tried_again = |pause| {
        let mut run = Run::good();
        run.reused("two", 8 * SECOND);
        run.killed(7 * SECOND, "one");
        run.call(8 * SECOND + pause * MILLI, "two", "t3", "reuse");
        run
    };
    tried_again(200).breaks(Invariant::ReuseHasCause, "no back-off was kept");
    tried_again(1_100).breaks(
        Invariant::ReuseHasCause,
        "nothing kept its refresher from noting",
    );

    // It was killed before it had noted the refusal.
    let mut run = tried_again(200);
    run.killed(8 * SECOND + 20 * MILLI, "two");
    assert_eq!(run.holds().reuses.len(), 2);

    // The disconnect came while the call was under way.
    let mut run = tried_again(500);
    run.severed(8 * SECOND - 200 * MILLI, Severed::Disconnected);
    assert_eq!(run.holds().reuses.len(), 2);
    let mut run = tried_again(500);
    run.severed(6 * SECOND, Severed::Disconnected);
    run.breaks(Invariant::ReuseHasCause, "no back-off was kept");

    // Many were refused, and it had not seen that others are given tokens.
    let not_believed = |pause| {
        let mut run = tried_again(pause);
        for company in 102..105 {
            let token = format!("of {company}");
            run.call(7 * SECOND, "three", &token, "invalid_grant")
                .company_id = Some(company);
        }
        run
    };
    assert_eq!(not_believed(1_100).holds().reuses.len(), 2);
    let mut run = not_believed(200);
    run.breaks(Invariant::ReuseHasCause, "no back-off was kept");
    // To a clock that is ahead the back-off is over.
    let offset_ms = 3_300_000;
    let process = "two".to_owned();
    run.event(7 * SECOND, Event::Clock { process, offset_ms });
    assert_eq!(run.holds().reuses.len(), 2);
    let mut run = not_believed(1_100);
    // Not for ever.
    for pause in 3..9 {
        run.call((8 + pause) * SECOND, "two", "t3", "reuse");
    }
    let violations = check(&run.0, Moment::AtRest).violations;
    assert!(
        violations[0].what.contains("refused 6 times"),
        "{violations:?}"
    );
}

#[test]
fn strike_explains_no_more_responses_than_were_under_way() {
    let company = 102;
    let mut run = Run::good();
    run.reused("two", 15 * SECOND);
    run.severed(8 * SECOND, Severed::Disconnected);
    run.killed(7 * SECOND, "one");
    assert_eq!(run.holds().lost, Lost::default(), "it was disconnected");

    // Two tokens of one connection, and one disconnect.
    run.call(6 * SECOND, "three", "u1", "ok").issued = Some("u2".to_owned());
    run.0.calls.last_mut().unwrap().answered_at_us = None;
    run.call(15 * SECOND, "two", "u1", "reuse");
    run.breaks(Invariant::FewResponsesAreLost, "explains 2 lost responses");

    // One kill, and another's calls.
    let mut run = Run::good();
    run.reused("two", 8 * SECOND);
    run.killed(7 * SECOND, "one");
    assert_eq!(
        run.holds().lost,
        Lost {
            responses: 1,
            under_way: 1,
        }
    );
    run.exchanged(SECOND + SECOND / 2, "one", "u1", "u2")
        .answered_at_us = Some(7 * SECOND);
    let call = run.0.calls.last_mut().unwrap();
    call.company_id = Some(company);
    run.call(8 * SECOND, "two", "u1", "reuse").company_id = Some(company);
    run.breaks(
        Invariant::FewResponsesAreLost,
        "explains 2 lost responses, and 1 calls",
    );
}

#[test]
fn run_that_only_a_busy_machine_explains_proves_nothing() {
    let mut run = Run::good();
    run.killed(7 * SECOND + 90 * MILLI, "one");
    for company in 102..112 {
        let (old, new) = (format!("{company} old"), format!("{company} new"));
        run.exchanged(7 * SECOND, "one", &old, &new).company_id = Some(company);
        run.call(8 * SECOND, "two", &old, "reuse").company_id = Some(company);
    }
    let by_us = 60 * MILLI;
    run.event(7 * SECOND + 70 * MILLI, Event::Late { by_us });

    run.breaks(
        Invariant::RunsAsPlanned,
        "only because this machine was busy",
    );
}

#[test]
fn token_that_the_provider_never_exchanged_can_not_be_reused() {
    let mut run = Run::good();
    for second in [8, 10] {
        run.refused("two", second * SECOND);
    }

    let violations = check(&run.0, Moment::AtRest).violations;

    assert_eq!(violations[0].rule, Invariant::ReuseHasCause);
    assert!(violations[0].what.contains("never exchanged"));
}
