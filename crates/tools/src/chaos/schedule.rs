//! What goes wrong, and when: all of it follows from the seed.

use std::fmt;

use super::event_log::Severed;
use super::sabotage::Sabotage;
use crate::rng::Rng;

/// One thing that goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Since the start. A step that sends a signal waits until its process has been ready for a second.
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
    KillInCall {
        point: Point,
        delay_ms: u64,
        down_ms: u64,
    },
    /// `kill -9` of whichever refresher makes the next token call, when the response is journaled and the database, which is
    /// away, has not taken it.
    KillBeforeStored {
        down_ms: u64,
    },
    /// SIGSTOP at the same moment, past the lease.
    StopBeforeStored {
        for_ms: u64,
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
    /// The database goes back to what it held so long before, as after a failover that lost the last commits.
    Restore {
        back_ms: u64,
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
    /// The slots of one journal appear in another one's directory, as when a volume is cloned.
    CopyJournal {
        from: usize,
        to: usize,
        copied: CopiedWhile,
    },
    /// The wall clock of one refresher, or of all, is wrong by so much for a while.
    Clock {
        refresher: Option<usize>,
        offset_ms: i64,
        for_ms: u64,
    },
    OnConnection {
        connection: usize,
        what: OnConnection,
    },
    /// `kill -9` of whichever refresher makes the next token call, when the response is journaled and not stored; the
    /// connection is disconnected before any process can store it.
    DisconnectBeforeStored {
        down_ms: u64,
    },
    /// The connection whose refresh comes next is ended while the provider's response is on its way; its refresher may be
    /// killed, too.
    SeverInCall {
        how: Severed,
        killed_for_ms: Option<u64>,
    },
}

/// What happens to one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConnection {
    /// Every refresher is asked at once for a newer token, while the provider is slow.
    Rush,
    /// A new consent, although it is active.
    Reconnect,
    Sever {
        how: Severed,
        notice: Notice,
    },
}

/// The provider's notice of an uninstall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    Lost,
    /// Written long after any consent: no refresh has to verify that it is about the newest one.
    LongAfter,
    /// Written at once: near a consent it is verified by a refresh.
    AtOnce,
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

/// What the refresher does into whose journal slots are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopiedWhile {
    Running,
    /// It is started afterwards.
    Down,
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

pub(super) const POINTS: [Point; 4] = [
    Point::BeforeCommit,
    Point::AfterCommit,
    Point::MidAnswer,
    Point::AfterAnswer,
];

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;

const CLOCK_OFFSETS_MS: [i64; 6] = [
    -DAY_MS,
    -55 * MINUTE_MS,
    -5 * MINUTE_MS,
    5 * MINUTE_MS,
    55 * MINUTE_MS,
    DAY_MS,
];

/// How many there are of what can be hit, and what can be done to them.
#[derive(Debug, Clone, Copy)]
pub struct Targets {
    pub refreshers: usize,
    pub data_apis: usize,
    pub journals: usize,
    pub connections: usize,
    /// Whether the run can put the refreshers' clocks wrong.
    pub has_clocks: bool,
}

/// A kind of action.
struct Kind {
    name: KindName,
    /// The mean time between two.
    mean_ms: u64,
    draw: fn(&mut Rng, &Targets) -> Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KindName {
    Kill,
    KillInCall,
    KillBeforeStored,
    StopBeforeStored,
    Stop,
    Restart,
    Database,
    Restore,
    Provider,
    Api,
    JournalFull,
    CopyJournal,
    Clock,
    Rush,
    Reconnect,
    Uninstall,
    Disconnect,
    Revoke,
    SeverInCall,
    DisconnectBeforeStored,
}

const fn kind(name: KindName, mean_ms: u64, draw: fn(&mut Rng, &Targets) -> Action) -> Kind {
    Kind {
        name,
        mean_ms,
        draw,
    }
}

const KINDS: [Kind; 20] = [
    kind(KindName::Kill, 1_200, kill),
    kind(KindName::KillInCall, 1_000, kill_in_call),
    kind(KindName::KillBeforeStored, 20_000, kill_before_stored),
    kind(KindName::StopBeforeStored, 40_000, stop_before_stored),
    kind(KindName::Stop, 14_000, stop),
    kind(KindName::Restart, 8_000, restart),
    kind(KindName::Database, 30_000, database),
    kind(KindName::Restore, 60_000, restore),
    kind(KindName::Provider, 7_000, provider),
    kind(KindName::Api, 9_000, api),
    kind(KindName::JournalFull, 40_000, journal_full),
    kind(KindName::CopyJournal, 20_000, copy_journal),
    kind(KindName::Clock, 20_000, clock),
    kind(KindName::Rush, 10_000, rush),
    kind(KindName::Reconnect, 4_000, reconnect),
    kind(KindName::Uninstall, 7_000, uninstall),
    kind(KindName::Disconnect, 7_000, disconnect),
    kind(KindName::Revoke, 150_000, revoke),
    kind(KindName::SeverInCall, 6_000, sever_in_call),
    kind(
        KindName::DisconnectBeforeStored,
        20_000,
        disconnect_before_stored,
    ),
];

impl KindName {
    fn is_played(self, targets: &Targets) -> bool {
        self != Self::Clock || targets.has_clocks
    }
}

/// How often the steps come that aim at what a sabotage breaks.
const AIMED_MEAN_MS: u64 = 1_000;

impl Sabotage {
    /// The steps that aim at what is broken.
    fn aimed(self) -> &'static [KindName] {
        match self {
            Self::JournalNotWritten
            | Self::JournalNotSynced
            | Self::JournalAfterCommit
            | Self::JournalDeleted
            | Self::JournalsNotSearched => &[KindName::KillBeforeStored],
            Self::GenerationsNotCompared => &[KindName::Rush, KindName::StopBeforeStored],
            Self::LeasesIgnored => &[KindName::Rush],
            Self::DoubtIgnored => &[KindName::KillInCall],
            Self::RevokedRevived => &[KindName::SeverInCall, KindName::DisconnectBeforeStored],
        }
    }
}

/// Everything that goes wrong within this time, in order. Every kind does so once at least.
pub fn draw(seed: u64, length_ms: u64, targets: &Targets, sabotage: Option<Sabotage>) -> Vec<Step> {
    let kinds = (0..).zip(KINDS);
    let played = kinds.filter(|(_, kind)| kind.name.is_played(targets));
    let mut steps: Vec<Step> = played
        .flat_map(|(index, kind)| {
            // Each kind has rng of its own: a change of one leaves the others as they are.
            let rng = Rng::new(seed.wrapping_mul(31).wrapping_add(index));
            kind.steps(rng, length_ms, targets, sabotage)
        })
        .collect();
    steps.sort_by_key(|step| step.at_ms);
    steps
}

impl Kind {
    fn steps(
        &self,
        mut rng: Rng,
        length_ms: u64,
        targets: &Targets,
        sabotage: Option<Sabotage>,
    ) -> Vec<Step> {
        let is_aimed = sabotage.is_some_and(|sabotage| sabotage.aimed().contains(&self.name));
        let mean_ms = if is_aimed {
            AIMED_MEAN_MS
        } else {
            self.mean_ms
        };
        let mut steps = Vec::new();
        let mut at_ms = rng.between(0, (mean_ms * 2).min(length_ms * 3 / 4));
        while at_ms < length_ms {
            let action = (self.draw)(&mut rng, targets);
            steps.push(Step { at_ms, action });
            at_ms += rng.between(mean_ms / 4, mean_ms * 7 / 4);
        }
        steps
    }
}

fn kill(rng: &mut Rng, targets: &Targets) -> Action {
    Action::Kill {
        refresher: rng.below(targets.refreshers),
        down_ms: rng.between(0, 300),
    }
}

fn kill_in_call(rng: &mut Rng, _: &Targets) -> Action {
    let point = rng.one_of(&POINTS);
    let delay_ms = match point {
        // Between the response's arrival and its commit there are a few milliseconds.
        Point::AfterAnswer => rng.between(0, 12),
        Point::BeforeCommit | Point::AfterCommit | Point::MidAnswer => 0,
    };
    Action::KillInCall {
        point,
        delay_ms,
        down_ms: rng.between(0, 300),
    }
}

fn kill_before_stored(rng: &mut Rng, _: &Targets) -> Action {
    Action::KillBeforeStored {
        down_ms: rng.between(0, 300),
    }
}

fn stop_before_stored(rng: &mut Rng, _: &Targets) -> Action {
    Action::StopBeforeStored {
        for_ms: past_the_lease(rng),
    }
}

fn stop(rng: &mut Rng, targets: &Targets) -> Action {
    Action::Stop {
        refresher: rng.below(targets.refreshers),
        for_ms: past_the_lease(rng),
    }
}

/// Past the lease, and at times past the orphan's grace too.
fn past_the_lease(rng: &mut Rng) -> u64 {
    let lease_ms = u64::from(super::LEASE_SECS) * 1000;
    let grace_ms = u64::from(super::ORPHAN_GRACE_SECS) * 1000;
    lease_ms + rng.between(200, grace_ms * 3 / 2)
}

fn restart(rng: &mut Rng, targets: &Targets) -> Action {
    let services = [
        (Restarted::Refresher, targets.refreshers),
        (Restarted::DataApi, targets.data_apis),
        (Restarted::AuthCapture, 1),
    ];
    let (service, several) = rng.one_of(&services);
    Action::Restart {
        service,
        number: rng.below(several),
    }
}

fn database(rng: &mut Rng, _: &Targets) -> Action {
    let outages = [Outage::Cut, Outage::Stalled];
    Action::Database {
        outage: rng.one_of(&outages),
        for_ms: rng.between(1_000, 6_000),
    }
}

fn restore(rng: &mut Rng, _: &Targets) -> Action {
    Action::Restore {
        back_ms: rng.between(500, 2_500),
    }
}

fn provider(rng: &mut Rng, _: &Targets) -> Action {
    Action::Provider {
        fault: rng.one_of(&TOKEN_FAULTS),
        times: rng.between(1, 5),
    }
}

fn api(rng: &mut Rng, _: &Targets) -> Action {
    Action::Api {
        fault: rng.one_of(&API_FAULTS),
        times: rng.between(1, 5),
    }
}

fn journal_full(rng: &mut Rng, targets: &Targets) -> Action {
    Action::JournalFull {
        directory: rng.below(targets.journals),
        for_ms: rng.between(2_000, 6_000),
    }
}

/// From any journal into one that a single refresher reads.
fn copy_journal(rng: &mut Rng, targets: &Targets) -> Action {
    let to = 1 + rng.below(targets.journals - 1);
    let from = (to + 1 + rng.below(targets.journals - 1)) % targets.journals;
    Action::CopyJournal {
        from,
        to,
        copied: rng.one_of(&[CopiedWhile::Running, CopiedWhile::Down]),
    }
}

fn clock(rng: &mut Rng, targets: &Targets) -> Action {
    let one = rng.below(targets.refreshers);
    Action::Clock {
        refresher: rng.percent(75).then_some(one),
        offset_ms: rng.one_of(&CLOCK_OFFSETS_MS),
        for_ms: rng.between(2_000, 8_000),
    }
}

fn on_connection(rng: &mut Rng, targets: &Targets, what: OnConnection) -> Action {
    Action::OnConnection {
        connection: rng.below(targets.connections),
        what,
    }
}

fn rush(rng: &mut Rng, targets: &Targets) -> Action {
    on_connection(rng, targets, OnConnection::Rush)
}

fn reconnect(rng: &mut Rng, targets: &Targets) -> Action {
    on_connection(rng, targets, OnConnection::Reconnect)
}

fn uninstall(rng: &mut Rng, targets: &Targets) -> Action {
    let notice = match rng.below(10) {
        0 => Notice::Lost,
        1..=5 => Notice::LongAfter,
        _ => Notice::AtOnce,
    };
    let how = Severed::Uninstalled;
    on_connection(rng, targets, OnConnection::Sever { how, notice })
}

fn disconnect(rng: &mut Rng, targets: &Targets) -> Action {
    let (how, notice) = (Severed::Disconnected, Notice::Lost);
    on_connection(rng, targets, OnConnection::Sever { how, notice })
}

fn revoke(rng: &mut Rng, targets: &Targets) -> Action {
    let (how, notice) = (Severed::Revoked, Notice::Lost);
    on_connection(rng, targets, OnConnection::Sever { how, notice })
}

fn disconnect_before_stored(rng: &mut Rng, _: &Targets) -> Action {
    Action::DisconnectBeforeStored {
        down_ms: rng.between(0, 300),
    }
}

fn sever_in_call(rng: &mut Rng, _: &Targets) -> Action {
    let down_ms = rng.between(0, 300);
    Action::SeverInCall {
        how: rng.one_of(&[Severed::Disconnected, Severed::Uninstalled]),
        killed_for_ms: rng.percent(50).then_some(down_ms),
    }
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
            Self::KillInCall {
                point,
                delay_ms,
                down_ms,
            } => write!(
                f,
                "kill the next refresher that calls at {} + {delay_ms} ms, back after {down_ms} ms",
                point.name()
            ),
            Self::KillBeforeStored { down_ms } => write!(
                f,
                "kill the next refresher that calls between journal and database, back after {down_ms} ms"
            ),
            Self::StopBeforeStored { for_ms } => write!(
                f,
                "stop the next refresher that calls between journal and database for {for_ms} ms"
            ),
            Self::Stop { refresher, for_ms } => {
                write!(f, "stop refresher {refresher} for {for_ms} ms")
            }
            Self::Restart { service, number } => write!(f, "restart {service:?} {number}"),
            Self::Database { outage, for_ms } => {
                write!(f, "database away ({outage:?}) for {for_ms} ms")
            }
            Self::Restore { back_ms } => write!(f, "database goes back by {back_ms} ms"),
            Self::Provider { fault, times } => {
                write!(f, "token endpoint: {} {times} times", fault.name)
            }
            Self::Api { fault, times } => write!(f, "API: {} {times} times", fault.name),
            Self::JournalFull { directory, for_ms } => {
                write!(f, "journal {directory} can't be written for {for_ms} ms")
            }
            Self::CopyJournal { from, to, copied } => write!(
                f,
                "copy the slots of journal {from} into journal {to} ({copied:?})"
            ),
            Self::Clock {
                refresher,
                offset_ms,
                for_ms,
            } => match refresher {
                Some(refresher) => write!(
                    f,
                    "clock of refresher {refresher} wrong by {offset_ms} ms for {for_ms} ms"
                ),
                None => write!(f, "all clocks wrong by {offset_ms} ms for {for_ms} ms"),
            },
            Self::OnConnection { connection, what } => match what {
                OnConnection::Rush => {
                    write!(f, "all refreshers are asked for connection {connection}")
                }
                OnConnection::Reconnect => write!(f, "reconnect connection {connection}"),
                OnConnection::Sever { how, notice } => {
                    let notice = match (how, notice) {
                        (Severed::Uninstalled, Notice::Lost) => ", the notice is lost",
                        (Severed::Uninstalled, Notice::LongAfter) => ", the notice is dated later",
                        (Severed::Uninstalled, Notice::AtOnce)
                        | (Severed::Disconnected | Severed::Revoked, _) => "",
                    };
                    write!(f, "connection {connection}: {how:?}{notice}")
                }
            },
            Self::DisconnectBeforeStored { down_ms } => write!(
                f,
                "kill the next refresher that calls between journal and database, back after {down_ms} ms, and disconnect the connection"
            ),
            Self::SeverInCall { how, killed_for_ms } => {
                write!(
                    f,
                    "the next connection that is refreshed: {how:?} meanwhile"
                )?;
                match killed_for_ms {
                    Some(ms) => write!(f, ", its refresher killed, back after {ms} ms"),
                    None => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGETS: Targets = Targets {
        refreshers: 4,
        data_apis: 3,
        journals: 3,
        connections: 100,
        has_clocks: true,
    };

    #[test]
    fn the_same_seed_makes_the_same_schedule_and_another_one_another() {
        let schedule = |seed| draw(seed, 60_000, &TARGETS, None);

        assert_eq!(schedule(7), schedule(7));
        assert_ne!(schedule(7), schedule(8));
    }

    #[test]
    fn ten_minutes_have_a_thousand_signals_and_four_hundred_in_token_calls() {
        for seed in 0..20 {
            let steps = draw(seed, 600_000, &TARGETS, None);
            let count =
                |of: fn(&Action) -> bool| steps.iter().filter(|step| of(&step.action)).count();
            let in_calls = count(
                |action| matches!(action, Action::KillInCall { point, .. } if *point != Point::AfterAnswer),
            );
            let signals = count(|action| {
                matches!(
                    action,
                    Action::Kill { .. }
                        | Action::KillInCall { .. }
                        | Action::KillBeforeStored { .. }
                        | Action::StopBeforeStored { .. }
                        | Action::Stop { .. }
                )
            });
            assert!(signals >= 1_000, "{signals}");
            assert!(in_calls >= 400, "{in_calls}");
        }
    }

    #[test]
    fn everything_goes_wrong_within_half_a_minute_too() {
        for seed in 0..20 {
            for kind in KINDS {
                let steps = kind.steps(Rng::new(seed), 20_000, &TARGETS, None);
                assert!(!steps.is_empty(), "{:?}", kind.name);
            }
        }
    }

    #[test]
    fn no_journal_is_copied_into_itself_or_into_the_shared_one() {
        let mut rng = Rng::new(1);
        for _ in 0..100 {
            let action = copy_journal(&mut rng, &TARGETS);
            let Action::CopyJournal { from, to, .. } = action else {
                panic!("{action}");
            };
            assert!(from != to && to > 0 && from < 3 && to < 3, "{action}");
        }
    }

    #[test]
    fn a_sabotage_is_aimed_at_every_second() {
        for sabotage in Sabotage::all() {
            assert!(!sabotage.aimed().is_empty(), "{sabotage:?}");
            for name in sabotage.aimed() {
                let kind = KINDS.iter().find(|kind| kind.name == *name);
                let kind = kind.expect("every step has a kind");
                let steps = kind.steps(Rng::new(1), 20_000, &TARGETS, Some(sabotage));
                assert!(steps.len() >= 10, "{sabotage:?} {name:?}");
            }
        }
    }
}
