//! What goes wrong, and when: all of it follows from the seed.

use std::fmt;

use crate::dice::Dice;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Since the start.
    pub at_ms: u64,
    pub action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// `kill -9` of this refresher.
    Kill {
        refresher: usize,
        down_ms: u64,
    },
    /// `kill -9` of whichever refresher makes the next token call, at this point of the call; `delay_ms` later for
    /// [`Point::AfterAnswer`].
    Aim {
        point: Point,
        delay_ms: u64,
        down_ms: u64,
    },
    /// SIGSTOP, and SIGCONT after a while.
    Stop {
        refresher: usize,
        for_ms: u64,
    },
    /// SIGTERM; started again as soon as it has ended.
    Restart {
        service: Restarted,
        number: usize,
    },
    Database {
        outage: Outage,
        for_ms: u64,
    },
    /// The provider's token endpoint, for refreshes alone.
    Provider {
        fault: Fault,
        times: u64,
    },
    /// The provider's API.
    Api {
        fault: Fault,
        times: u64,
    },
    /// No journal entry of this directory can be written.
    JournalFull {
        directory: usize,
        for_ms: u64,
    },
    /// A new consent for a connection that lives.
    Reconnect {
        connection: usize,
    },
    /// At the provider; the notice may get lost.
    Uninstall {
        connection: usize,
        notify: bool,
    },
    /// Here; the provider is told by the sweep.
    Disconnect {
        connection: usize,
    },
    /// At the provider, who tells nobody.
    Revoke {
        connection: usize,
    },
}

/// Where in a token call the caller dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    BeforeCommit,
    AfterCommit,
    MidAnswer,
    AfterAnswer,
}

impl Point {
    /// As the simulator's `call` fault has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BeforeCommit => "before_commit",
            Self::AfterCommit => "after_commit",
            Self::MidAnswer => "mid_answer",
            Self::AfterAnswer => "after_answer",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restarted {
    Refresher,
    DataApi,
    AuthCapture,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// Connections are closed, and new ones at once. On `SQLite` another writer holds the lock.
    Cut,
    /// Nothing moves. On `SQLite` as [`Outage::Cut`].
    Stalled,
}

/// The simulator's faults that a run plays; all of them pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub name: &'static str,
    /// For `slow_ms`.
    pub ms: u64,
}

const fn fault(name: &'static str) -> Fault {
    Fault { name, ms: 0 }
}

/// Slower than [`super::CALL_TIMEOUT_SECS`].
const TOO_SLOW: Fault = Fault {
    name: "slow_ms",
    ms: 1_600,
};

const TOKEN_FAULTS: [Fault; 11] = [
    fault("500"),
    fault("503_html"),
    fault("429_burst"),
    fault("timeout"),
    fault("reset"),
    fault("garbage"),
    TOO_SLOW,
    fault("commit_then_reset"),
    fault("commit_then_hang"),
    fault("truncated"),
    fault("403_cloudflare_html"),
];

const API_FAULTS: [Fault; 6] = [
    fault("500"),
    fault("503_html"),
    fault("429_burst"),
    fault("reset"),
    fault("truncated"),
    Fault {
        name: "slow_ms",
        ms: 400,
    },
];

const POINTS: [Point; 4] = [
    Point::BeforeCommit,
    Point::AfterCommit,
    Point::MidAnswer,
    Point::AfterAnswer,
];

/// How many there are of what can be hit.
#[derive(Debug, Clone, Copy)]
pub struct Targets {
    pub refreshers: usize,
    pub data_apis: usize,
    pub journals: usize,
    pub connections: usize,
}

/// A kind of action: its mean distance in milliseconds, and how one is drawn.
type Kind = (u64, fn(&mut Dice, &Targets) -> Action);

const KINDS: [Kind; 12] = [
    (1_000, kill),
    (900, aim),
    (11_000, stop),
    (8_000, restart),
    (30_000, database),
    (7_000, provider),
    (9_000, api),
    (45_000, journal_full),
    (4_000, reconnect),
    (7_000, uninstall),
    (7_000, disconnect),
    (150_000, revoke),
];

/// Everything that goes wrong within this time, in order. Every kind does so once at least.
pub fn draw(seed: u64, length_ms: u64, targets: &Targets) -> Vec<Step> {
    let mut steps = Vec::new();
    for (index, (mean_ms, action)) in (0..).zip(KINDS) {
        // Each kind has dice of its own: a change of one leaves the others as they are.
        let mut dice = Dice::new(seed.wrapping_mul(31).wrapping_add(index));
        let mut at_ms = dice.between(0, (mean_ms * 2).min(length_ms * 3 / 4));
        while at_ms < length_ms {
            let action = action(&mut dice, targets);
            steps.push(Step { at_ms, action });
            at_ms += dice.between(mean_ms / 4, mean_ms * 7 / 4);
        }
    }
    steps.sort_by_key(|step| step.at_ms);
    steps
}

fn index(dice: &mut Dice, end: usize) -> usize {
    usize::try_from(dice.between(0, u64::try_from(end).unwrap_or(1))).unwrap_or(0)
}

fn kill(dice: &mut Dice, targets: &Targets) -> Action {
    Action::Kill {
        refresher: index(dice, targets.refreshers),
        down_ms: dice.between(0, 300),
    }
}

fn aim(dice: &mut Dice, _: &Targets) -> Action {
    let point = dice.one_of(&POINTS);
    let delay_ms = match point {
        // Between the answer's arrival and its commit there are a few milliseconds.
        Point::AfterAnswer => dice.between(0, 12),
        Point::BeforeCommit | Point::AfterCommit | Point::MidAnswer => 0,
    };
    Action::Aim {
        point,
        delay_ms,
        down_ms: dice.between(0, 300),
    }
}

/// Past the lease length, and at times past the orphan's grace too.
fn stop(dice: &mut Dice, targets: &Targets) -> Action {
    let lease_ms = u64::from(super::LEASE_SECS) * 1000;
    let grace_ms = u64::from(super::ORPHAN_GRACE_SECS) * 1000;
    Action::Stop {
        refresher: index(dice, targets.refreshers),
        for_ms: lease_ms + dice.between(200, grace_ms * 3 / 2),
    }
}

fn restart(dice: &mut Dice, targets: &Targets) -> Action {
    let services = [
        (Restarted::Refresher, targets.refreshers),
        (Restarted::DataApi, targets.data_apis),
        (Restarted::AuthCapture, 1),
    ];
    let (service, several) = dice.one_of(&services);
    Action::Restart {
        service,
        number: index(dice, several),
    }
}

fn database(dice: &mut Dice, _: &Targets) -> Action {
    let outages = [Outage::Cut, Outage::Stalled];
    Action::Database {
        outage: dice.one_of(&outages),
        for_ms: dice.between(1_000, 6_000),
    }
}

fn provider(dice: &mut Dice, _: &Targets) -> Action {
    Action::Provider {
        fault: dice.one_of(&TOKEN_FAULTS),
        times: dice.between(1, 5),
    }
}

fn api(dice: &mut Dice, _: &Targets) -> Action {
    Action::Api {
        fault: dice.one_of(&API_FAULTS),
        times: dice.between(1, 5),
    }
}

fn journal_full(dice: &mut Dice, targets: &Targets) -> Action {
    Action::JournalFull {
        directory: index(dice, targets.journals),
        for_ms: dice.between(2_000, 6_000),
    }
}

fn reconnect(dice: &mut Dice, targets: &Targets) -> Action {
    let connection = index(dice, targets.connections);
    Action::Reconnect { connection }
}

fn uninstall(dice: &mut Dice, targets: &Targets) -> Action {
    Action::Uninstall {
        connection: index(dice, targets.connections),
        notify: dice.percent(90),
    }
}

fn disconnect(dice: &mut Dice, targets: &Targets) -> Action {
    let connection = index(dice, targets.connections);
    Action::Disconnect { connection }
}

fn revoke(dice: &mut Dice, targets: &Targets) -> Action {
    let connection = index(dice, targets.connections);
    Action::Revoke { connection }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>6}.{:03}  {}",
            self.at_ms / 1000,
            self.at_ms % 1000,
            self.action
        )
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { refresher, down_ms } => {
                write!(f, "kill refresher {refresher}, back after {down_ms} ms")
            }
            Self::Aim {
                point,
                delay_ms,
                down_ms,
            } => write!(
                f,
                "kill the next to refresh at {} + {delay_ms} ms, back after {down_ms} ms",
                point.name()
            ),
            Self::Stop { refresher, for_ms } => {
                write!(f, "stop refresher {refresher} for {for_ms} ms")
            }
            Self::Restart { service, number } => write!(f, "restart {service:?} {number}"),
            Self::Database { outage, for_ms } => {
                write!(f, "database away ({outage:?}) for {for_ms} ms")
            }
            Self::Provider { fault, times } => {
                write!(f, "token endpoint: {} {times} times", fault.name)
            }
            Self::Api { fault, times } => write!(f, "API: {} {times} times", fault.name),
            Self::JournalFull { directory, for_ms } => {
                write!(f, "journal {directory} can't be written for {for_ms} ms")
            }
            Self::Reconnect { connection } => write!(f, "reconnect connection {connection}"),
            Self::Uninstall { connection, notify } => {
                let notice = if *notify { "" } else { ", the notice is lost" };
                write!(f, "uninstall connection {connection}{notice}")
            }
            Self::Disconnect { connection } => write!(f, "disconnect connection {connection}"),
            Self::Revoke { connection } => {
                write!(f, "the provider revokes connection {connection}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: Targets = Targets {
        refreshers: 3,
        data_apis: 3,
        journals: 2,
        connections: 100,
    };

    #[test]
    fn the_same_seed_makes_the_same_schedule_and_another_one_another() {
        let schedule = |seed| draw(seed, 60_000, &TARGETS);

        assert_eq!(schedule(7), schedule(7));
        assert_ne!(schedule(7), schedule(8));
    }

    #[test]
    fn ten_minutes_have_more_than_a_thousand_kills_and_stops_and_three_hundred_at_commit_points() {
        for seed in 0..20 {
            let steps = draw(seed, 600_000, &TARGETS);
            let count =
                |of: fn(&Action) -> bool| steps.iter().filter(|step| of(&step.action)).count();
            let aimed = count(
                |action| matches!(action, Action::Aim { point, .. } if *point != Point::AfterAnswer),
            );
            let struck = count(|action| {
                matches!(
                    action,
                    Action::Kill { .. } | Action::Aim { .. } | Action::Stop { .. }
                )
            });
            assert!(struck >= 1_200, "{struck}");
            assert!(aimed >= 400, "{aimed}");
        }
    }

    #[test]
    fn everything_goes_wrong_within_half_a_minute_too() {
        for seed in 0..20 {
            let steps = draw(seed, 20_000, &TARGETS);
            let mut kinds: Vec<_> = steps
                .iter()
                .map(|step| std::mem::discriminant(&step.action))
                .collect();
            kinds.dedup();
            let mut seen = Vec::new();
            for kind in kinds {
                if !seen.contains(&kind) {
                    seen.push(kind);
                }
            }
            assert_eq!(seen.len(), KINDS.len());
        }
    }
}
