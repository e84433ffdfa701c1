use super::*;

use RefreshPolicy::{BeforeExpiry, EveryRequest, OnRefusal};

const POLICIES: [RefreshPolicy; 3] = [BeforeExpiry, OnRefusal, EveryRequest];
const DAY: u64 = 86_400;
const YEAR: u64 = 365 * DAY;
/// Pipedrive's.
const IDLE: u64 = 60 * DAY;

fn at(secs: u64) -> Timestamp {
    let epoch = Timestamp::from_unix_micros(1_800_000_000_000_000).unwrap();
    epoch.saturating_add(Duration::from_secs(secs))
}

fn at_ms(ms: u64) -> Timestamp {
    at(0).saturating_add(Duration::from_millis(ms))
}

/// A token minted at 0.
fn sweep(policy: RefreshPolicy, life_secs: u64, idle_secs: Option<u64>) -> Sweep {
    Sweep {
        policy,
        idle: idle_secs.map(Duration::from_secs),
        minted_at: at(0),
        expires_at: at(life_secs),
    }
}

/// As late and as early as it gets, asked for so long ago.
fn range(sweep: Sweep, asked_secs_ago: Option<u64>) -> (Timestamp, Timestamp) {
    let now = at(2 * DAY);
    let asked = asked_secs_ago.map(|ago| at(2 * DAY - ago));
    (
        sweep.due_at(asked, now, |most| most),
        sweep.due_at(asked, now, |_| Duration::ZERO),
    )
}

#[test]
fn short_lives_have_short_margins() {
    for (life, due) in [(3600, 3300), (100, 90), (0, 0)] {
        assert_eq!(renewal_due(BeforeExpiry, at(0), at(life)), at(due));
    }
}

#[test]
fn nothing_is_renewed_before_its_end_but_by_the_policy_that_says_so() {
    for life in [0, 1, 3600, 10 * YEAR] {
        assert_eq!(renewal_due(OnRefusal, at(0), at(life)), at(life));
    }
}

#[test]
fn token_of_every_request_is_renewed_after_thirty_seconds_or_at_its_end() {
    for (life, due) in [(3600, 30), (31, 30), (30, 30), (12, 12), (0, 0)] {
        assert_eq!(renewal_due(EveryRequest, at(0), at(life)), at(due));
    }
}

#[test]
fn token_that_ended_before_it_was_minted_is_due() {
    for policy in POLICIES {
        assert_eq!(renewal_due(policy, at(100), at(7)), at(7), "{policy:?}");
        let sweep = Sweep {
            minted_at: at(100),
            ..sweep(BeforeExpiry, 7, Some(IDLE))
        };
        assert_eq!(sweep.due_at(Some(at(0)), at(100), |most| most), at(101));
    }
}

#[test]
fn token_in_use_is_renewed_before_its_callers_ask_for_that() {
    let hour = sweep(BeforeExpiry, 3600, Some(IDLE));
    for asked in [0, DAY - 1] {
        assert_eq!(range(hour, Some(asked)), (at(3150), at(3300)));
    }
    let short = sweep(BeforeExpiry, 12, Some(IDLE));
    assert_eq!(range(short, Some(0)), (at_ms(10_200), at_ms(10_800)));
}

#[test]
fn unused_connection_costs_a_keep_alive_a_month() {
    for asked in [None, Some(DAY), Some(2 * DAY)] {
        let unused = sweep(BeforeExpiry, 3600, Some(IDLE));
        assert_eq!(range(unused, asked), (at(27 * DAY), at(30 * DAY)));
    }
}

#[test]
fn without_renewals_ahead_the_sweep_only_keeps_alive() {
    for policy in [OnRefusal, EveryRequest] {
        for asked in [None, Some(0)] {
            let kept = sweep(policy, 3600, Some(IDLE));
            assert_eq!(range(kept, asked), (at(27 * DAY), at(30 * DAY)));
        }
    }
}

#[test]
fn grant_that_does_not_die_of_disuse_is_not_kept_alive() {
    for policy in POLICIES {
        let (early, late) = range(sweep(policy, 3600, None), None);
        assert_eq!(
            (early, late),
            (Timestamp::far_future(), Timestamp::far_future()),
            "{policy:?}"
        );
    }
    let in_use = range(sweep(BeforeExpiry, 3600, None), Some(0));
    assert_eq!(in_use, (at(3150), at(3300)));
}

#[test]
fn no_lifetime_lets_a_grant_die_or_the_sweep_run_in_circles() {
    for policy in POLICIES {
        for life in [0, 1, 2, 30, 3600, YEAR, 10 * YEAR, 300_000 * YEAR] {
            for idle in [1, 60, 3600, DAY, IDLE, 300_000 * YEAR] {
                for asked in [None, Some(0), Some(DAY)] {
                    let (early, late) = range(sweep(policy, life, Some(idle)), asked);
                    let said = format!("{policy:?} {life} {idle} {asked:?}: {early} {late}");
                    let deadline = at(0).saturating_add(Duration::from_secs(idle));
                    assert!(early <= late && late <= deadline, "{said}");
                    let half = at_ms(idle.saturating_mul(450)).min(at(1));
                    assert!(early >= half, "{said}");
                }
            }
        }
    }
}

#[test]
fn tokens_minted_together_are_due_apart() {
    let hour = sweep(BeforeExpiry, 3600, Some(IDLE));
    let mut due: Vec<_> = (0..100)
        .map(|_| {
            hour.due_at(Some(at(0)), at(0), |most| {
                random::between(Duration::ZERO, most)
            })
        })
        .collect();
    due.sort_unstable();
    assert!(due.windows(2).all(|pair| pair[0] < pair[1]), "{due:?}");
}
