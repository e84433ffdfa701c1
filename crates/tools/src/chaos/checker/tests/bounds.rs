//! How often tokens are renewed, for whom, and how many requests succeed.

use super::*;

#[test]
fn token_that_is_renewed_three_times_in_its_lifetime_is_named_unless_callers_asked() {
    let mut run = Run::good();
    for (number, token) in (3..).zip(["t4", "t5", "t6"]) {
        let presented = format!("t{number}");
        run.exchanged((number + 3) * SECOND, "one", &presented, token);
    }
    run.0.rows[0].refresh_token = Some("t6".to_owned());
    run.0.grants[0].refresh_token_fingerprint = Some("t6".to_owned());
    run.breaks(Invariant::FewRefreshes, "3 refreshes");

    // No refresh was made for that one.
    run.asked(7 * SECOND, 4, (5, RefreshOutcome::AlreadyNewer));
    run.breaks(Invariant::FewRefreshes, "3 refreshes");

    run.asked(7 * SECOND, 5, (6, RefreshOutcome::Refreshed));
    run.holds();
}

#[test]
fn token_whose_lifetime_a_wrong_clock_reckoned_may_be_renewed_sooner() {
    let clock = |offset_ms| Event::Clock {
        process: "one".to_owned(),
        offset_ms,
    };
    for (wrong, right, excused) in [(1, 3, false), (5, 7, true)] {
        let mut run = Run::good();
        for (number, token) in (3..).zip(["t4", "t5", "t6"]) {
            let presented = format!("t{number}");
            run.exchanged((number + 3) * SECOND, "one", &presented, token);
        }
        run.0.rows[0].refresh_token = Some("t6".to_owned());
        run.0.grants[0].refresh_token_fingerprint = Some("t6".to_owned());
        run.event(wrong * SECOND, clock(-86_400_000));
        run.event(right * SECOND, clock(0));

        if excused {
            run.holds();
        } else {
            run.breaks(Invariant::FewRefreshes, "3 refreshes");
        }
    }
}

#[test]
fn refresh_for_a_caller_with_an_older_generation_is_named() {
    let mut run = Run::good();
    run.asked(9 * SECOND, 1, (9, RefreshOutcome::AlreadyNewer));
    // What a journal held had had its time.
    run.asked(8 * SECOND, 1, (3, RefreshOutcome::Refreshed));
    run.holds();
    // Unless it had been seen before.
    let mut seen = run;
    seen.row_state(7 * SECOND, "active", 2);
    seen.breaks(
        Invariant::OldGenerationsAreNotRefreshed,
        "refreshed to generation 3",
    );

    let mut run = Run::good();
    run.asked(10 * SECOND, 1, (4, RefreshOutcome::Refreshed));
    run.breaks(
        Invariant::OldGenerationsAreNotRefreshed,
        "with generation 1, and refreshed to generation 4",
    );

    let snapshot_us = 6 * SECOND;
    run.event(9 * SECOND, Event::Restored { snapshot_us });
    run.holds();
}

/// A run with so many requests at 9 s, of which some succeeded.
fn requests(succeeded: usize, failed: usize) -> Run {
    let mut run = Run::good();
    run.0.data.clear();
    for _ in 0..succeeded {
        run.request(9 * SECOND, Outcome::Right);
    }
    for _ in 0..failed {
        run.request(9 * SECOND, status(503, "REFRESH_BUSY"));
    }
    run
}

#[test]
fn fewer_than_95_of_a_hundred_requests_are_too_few() {
    assert_eq!(
        requests(950, 50).holds().availability.per_ten_thousand(),
        9_500
    );
    requests(949, 51).breaks(Invariant::DataIsAvailable, "949 of 1000");
}

#[test]
fn requests_count_only_while_all_that_they_need_is_up() {
    let of = crate::chaos::database::DATABASE.to_owned();
    let outage = [
        (8, Event::Outage { of: of.clone() }),
        (10, Event::Back { of }),
    ];
    let signal = |process: &str, signal| Event::Signal {
        process: process.to_owned(),
        life: 1,
        signal,
        why: String::new(),
    };
    let severed = Event::Severed {
        company: COMPANY,
        how: Severed::Revoked,
    };
    let excuses: [&[(Micros, Event)]; 4] = [
        &outage,
        &[
            (8, signal("one", Signal::Stop)),
            (10, signal("one", Signal::Continue)),
        ],
        &[(8, signal("data-api", Signal::Terminate))],
        &[(8, severed)],
    ];
    for excuse in excuses {
        let mut run = Run::good();
        for _ in 0..ENOUGH {
            run.request(9 * SECOND, status(503, "REFRESH_BUSY"));
        }
        for (second, event) in excuse {
            run.event(second * SECOND, event.clone());
        }
        assert_eq!(run.holds().availability.requests, ENOUGH, "{excuse:?}");
    }
    // The refresher that another data-api asks.
    let mut run = requests(0, 1_000);
    run.event(8 * SECOND, signal("three", Signal::Stop));
    run.breaks(Invariant::DataIsAvailable, "0 of 1000");
}

#[test]
fn run_in_which_few_requests_had_all_they_need_proves_nothing() {
    requests(99, 0).breaks(Invariant::DataIsAvailable, "only 99 of 99");

    let mut run = Run::good();
    for _ in 0..ENOUGH * 5 {
        run.request(9 * SECOND, status(503, "STORE_UNAVAILABLE"));
    }
    run.database_away(8 * SECOND, 10 * SECOND);
    run.breaks(Invariant::DataIsAvailable, "only 200 of 1200");
}
