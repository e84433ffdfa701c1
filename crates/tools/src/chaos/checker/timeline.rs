//! The event log by what it is about: the lives of processes, and what happened to everything else.

use std::collections::BTreeMap;

use crate::chaos::database::DATABASE;
use crate::chaos::event_log::{Event, Life, Micros, Severed, Signal};
use crate::chaos::evidence::{Call, Evidence};
use crate::chaos::responses::{Kept, OnDisk, Responses};

use super::windows::Window;

/// The tests of this crate start debug binaries, on whatever machine they are run.
const IS_SLOW: bool = cfg!(all(debug_assertions, not(test)));

/// A response that is not synced so soon after its arrival is held up by something: on a fast machine.
pub(super) const SYNCED_WITHIN_US: Micros = if IS_SLOW { 1_000_000 } else { 50_000 };

/// On a slower machine a limit is four times as long as the step took for most calls of the run: 99 of 100 for a sync. A run
/// with fewer steps than this sets no limit of its own.
const SLOWER_THAN_MOST: Micros = 4;
const ENOUGH_STEPS: usize = 1_000;
const MOST_SYNCS: usize = 99;

/// 90 of 100 for a commit: the others met a database outage, or queued behind the commits that an outage had held up.
const MOST_COMMITS: usize = 90;
const COMMITTED_WITHIN_MAX_US: Micros = 4 * LATE_MAX_US;

/// What a clock that is put wrong, or right again, can change: a call that is under way, and the moments until it is read.
const CLOCK_LASTS_US: (Micros, Micros) = (50_000, 1_000_000);

/// A process is sent no signal sooner; the clocks that this is results by may differ a little.
const READY_FOR_US: Micros = 990_000;

/// The longest that a busy machine excuses.
const LATE_MAX_US: Micros = if IS_SLOW { 2_000_000 } else { 250_000 };

#[derive(Debug, Default)]
pub(super) struct Timeline<'a> {
    lives: BTreeMap<(&'a str, Life), LifeTime>,
    /// So soon after its arrival a response is synced.
    pub(super) synced_within_us: Micros,
    /// So soon after its sync it is committed.
    committed_within_us: Micros,
    /// By process: when its wall clock was wrong.
    wrong_clocks: BTreeMap<&'a str, Vec<Window>>,
    /// When timers were late.
    late: Vec<Window>,
    /// When the database went back, and to when.
    restores: Vec<Restored>,
    pub(super) copies: Vec<Copied<'a>>,
    pub(super) database_away: Vec<Window>,
    /// By company.
    pub(super) severed: BTreeMap<u32, Vec<(Micros, Severed)>>,
    /// By company: when each consent began and was stored.
    pub(super) consents: BTreeMap<u32, Vec<Window>>,
    /// From when on access tokens live how long.
    pub(super) lifetimes: Vec<(Micros, Micros)>,
}

/// From the start of a process to its end.
#[derive(Debug, Default)]
pub(super) struct LifeTime {
    pub(super) killed: Option<Micros>,
    pub(super) ended: Option<Micros>,
    pub(super) ready: Option<Micros>,
    /// When it was sent signals that need it to have been ready for a second.
    pub(super) struck: Vec<Micros>,
    /// From SIGSTOP to SIGCONT.
    pub(super) stops: Vec<Window>,
}

#[derive(Debug)]
struct Restored {
    snapshot_us: Micros,
    at_us: Micros,
}

#[derive(Debug)]
pub(super) struct Copied<'a> {
    pub(super) from: &'a str,
    pub(super) to: &'a str,
    pub(super) began_us: Micros,
    pub(super) at_us: Micros,
}

impl<'a> Timeline<'a> {
    pub(super) fn of(evidence: &'a Evidence) -> Self {
        let mut timeline = Self {
            synced_within_us: within(evidence, MOST_SYNCS, synced_after, LATE_MAX_US),
            committed_within_us: within(
                evidence,
                MOST_COMMITS,
                committed_after,
                COMMITTED_WITHIN_MAX_US,
            ),
            ..Self::default()
        };
        for entry in &evidence.event_log {
            timeline.add(entry.at_us, &entry.event);
        }
        timeline
    }

    fn add(&mut self, at_us: Micros, event: &'a Event) {
        match event {
            Event::Started { process, life } => {
                self.lives.entry((process, *life)).or_default();
            }
            Event::Ready { process, life } => self.life_time(process, *life).ready = Some(at_us),
            Event::Signal {
                process,
                life,
                signal,
                ..
            } => {
                let life = self.life_time(process, *life);
                if *signal != Signal::Continue {
                    life.struck.push(at_us);
                }
                match signal {
                    Signal::Kill => life.killed = Some(at_us),
                    Signal::Stop => life.stops.push(Window::since(at_us)),
                    Signal::Continue => Window::close(&mut life.stops, at_us),
                    // A process that is asked to end finishes what it has begun.
                    Signal::Terminate => {}
                }
            }
            Event::Ended { process, life, .. } => {
                self.life_time(process, *life).ended = Some(at_us);
            }
            Event::Outage { of } if of == DATABASE => {
                self.database_away.push(Window::since(at_us));
            }
            Event::Back { of } if of == DATABASE => {
                Window::close(&mut self.database_away, at_us);
            }
            Event::Restored { snapshot_us } => self.restores.push(Restored {
                snapshot_us: *snapshot_us,
                at_us,
            }),
            Event::Copied { from, to, began_us } => self.copies.push(Copied {
                from,
                to,
                began_us: *began_us,
                at_us,
            }),
            Event::Severed { company, how } => {
                let severed = self.severed.entry(*company).or_default();
                severed.push((at_us, *how));
            }
            Event::Consenting { company } => {
                let consents = self.consents.entry(*company).or_default();
                consents.push(Window::since(at_us));
            }
            Event::Consented { company, .. } => {
                Window::close(self.consents.entry(*company).or_default(), at_us);
            }
            Event::Late { by_us } => self.late.push(Window {
                from: at_us - by_us,
                until: Some(at_us),
            }),
            Event::TokenLifetime { secs } => {
                let secs = Micros::try_from(*secs).unwrap_or(Micros::MAX / 1_000_000);
                self.lifetimes.push((at_us, secs * 1_000_000));
            }
            Event::Clock { process, offset_ms } => {
                let wrong = self.wrong_clocks.entry(process).or_default();
                Window::close(wrong, at_us);
                if *offset_ms != 0 {
                    wrong.push(Window::since(at_us));
                }
            }
            Event::Outage { .. }
            | Event::Back { .. }
            | Event::RowState { .. }
            | Event::Revoked { .. }
            | Event::Failed { .. } => {}
        }
    }

    fn life_time(&mut self, process: &'a str, life: Life) -> &mut LifeTime {
        self.lives.entry((process, life)).or_default()
    }

    /// What is known of the sender of a call.
    pub(super) fn life<'b>(&'b self, sender: Option<(&'b str, Life)>) -> Option<&'b LifeTime> {
        self.lives.get(&sender?)
    }

    /// Whether the sender of a call may have read a wrong time when the response came.
    pub(super) fn had_wrong_clock(&self, call: &Call) -> bool {
        let wrong = call
            .sender()
            .and_then(|(process, _)| self.wrong_clocks.get(process));
        let (before, after) = CLOCK_LASTS_US;
        let mut wrong = wrong.into_iter().flatten();
        wrong.any(|window| window.overlaps(call.at_us - before, call.at_us + after))
    }

    /// Until when a response that arrived then may be without a sync, and as long again as the machine was too busy to run what
    /// was due.
    pub(super) fn synced_by(&self, arrived_us: Micros) -> Micros {
        self.due_by(arrived_us, self.synced_within_us)
    }

    /// Until when a response that was synced then, or refused by the disk, may be without a commit.
    pub(super) fn committed_by(&self, synced_us: Micros) -> Micros {
        self.due_by(synced_us, self.committed_within_us)
    }

    fn due_by(&self, from_us: Micros, within_us: Micros) -> Micros {
        from_us.saturating_add(within_us + self.late_within(from_us, within_us))
    }

    /// How late timers were within so much time from this instant on.
    pub(super) fn late_within(&self, from_us: Micros, length_us: Micros) -> Micros {
        let mut late = 0;
        for window in &self.late {
            let until = window.until.unwrap_or(window.from);
            if window.from <= from_us.saturating_add(length_us + late) && until >= from_us {
                late += until - window.from;
            }
        }
        late.min(LATE_MAX_US)
    }

    /// The lives of processes that were sent a signal before they had been ready, or had gone on, for a second.
    pub(super) fn struck_too_soon(&self) -> Vec<(&str, Micros)> {
        let mut too_soon = Vec::new();
        for ((process, _), life) in &self.lives {
            for at_us in &life.struck {
                let went_on = life.stops.iter().filter_map(|stop| stop.until);
                let went_on = went_on.filter(|until| until <= at_us).max();
                let since = life.ready.max(went_on);
                if since.is_none_or(|since| *at_us < since + READY_FOR_US) {
                    too_soon.push((*process, *at_us));
                }
            }
        }
        too_soon
    }

    /// The last time that the database went back between two instants.
    pub(super) fn restored_between(&self, from: Micros, until: Micros) -> Option<Micros> {
        let restores = self.restores.iter().map(|restored| restored.at_us);
        restores
            .filter(|at_us| from <= *at_us && *at_us <= until)
            .max()
    }

    /// The last time before an instant that the database went back to before a commit.
    pub(super) fn lost_by_restore(&self, committed_us: Micros, until: Micros) -> Option<Micros> {
        let restores = self.restores.iter();
        let lost = restores.filter(|restored| {
            restored.snapshot_us <= committed_us && (committed_us..=until).contains(&restored.at_us)
        });
        lost.map(|restored| restored.at_us).max()
    }

    /// Whether some life of a process was ready and not stopped throughout.
    pub(super) fn was_up(&self, process: &str, from: Micros, until: Micros) -> bool {
        self.lives
            .iter()
            .any(|((name, _), life)| *name == process && life.is_up_throughout(from, until))
    }
}

/// How long a step may take, by how long it took for `most` of 100 calls of this run; `longest` in a run that did not note it.
fn within(
    evidence: &Evidence,
    most: usize,
    took: fn(&Responses, &Call) -> Option<Micros>,
    longest: Micros,
) -> Micros {
    let responses = &evidence.responses;
    if responses.kept == Kept::ByJournal {
        return longest;
    }
    let calls = evidence.calls.iter();
    let mut took: Vec<Micros> = calls.filter_map(|call| took(responses, call)).collect();
    took.sort_unstable();
    let slow = took.get(took.len() * most / 100);
    let slow = slow.filter(|_| took.len() >= ENOUGH_STEPS);
    let slow = slow.copied().unwrap_or_default();
    (slow * SLOWER_THAN_MOST).clamp(SYNCED_WITHIN_US, longest)
}

fn synced_after(responses: &Responses, call: &Call) -> Option<Micros> {
    Some(first(&responses.synced, call)? - call.answered_at_us?)
}

fn committed_after(responses: &Responses, call: &Call) -> Option<Micros> {
    Some(first(&responses.settled, call)? - first(&responses.synced, call)?)
}

fn first(noted: &BTreeMap<String, Vec<OnDisk>>, call: &Call) -> Option<Micros> {
    let noted = noted.get(call.issued.as_deref()?)?;
    noted.iter().map(|on_disk| on_disk.at_us).min()
}

impl LifeTime {
    fn is_up_throughout(&self, from: Micros, until: Micros) -> bool {
        let end = self.killed.or(self.ended);
        self.ready.is_some_and(|ready| ready <= from)
            && end.is_none_or(|end| end >= until)
            && !self.stops.iter().any(|stop| stop.overlaps(from, until))
    }
}
