//! The event log by what it is about: the lives of processes, and what happened to everything else.

use std::collections::BTreeMap;

use crate::chaos::database::DATABASE;
use crate::chaos::event_log::{Entry, Event, Life, Micros, Severed, Signal};

use super::windows::Window;

/// The tests of this crate start debug binaries, on whatever machine they are run.
const IS_SLOW: bool = cfg!(all(debug_assertions, not(test)));

/// A response that is not synced so soon after its arrival is held up by something.
pub(super) const SYNCED_WITHIN_US: Micros = if IS_SLOW { 1_000_000 } else { 50_000 };

/// A process is sent no signal sooner; the clocks that this is measured by may differ a little.
const READY_FOR_US: Micros = 990_000;

/// The longest that a busy machine excuses.
const LATE_MAX_US: Micros = if IS_SLOW { 2_000_000 } else { 250_000 };

#[derive(Debug, Default)]
pub(super) struct Timeline<'a> {
    lives: BTreeMap<(&'a str, Life), LifeTime>,
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
    pub(super) fn of(event_log: &'a [Entry]) -> Self {
        let mut timeline = Self::default();
        for entry in event_log {
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
            Event::Outage { .. }
            | Event::Back { .. }
            | Event::Clock { .. }
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

    /// Until when a response that arrived then may be without a sync: 50 ms, and as long again as the machine was too busy to
    /// run what was due.
    pub(super) fn synced_by(&self, arrived_us: Micros) -> Micros {
        let within = SYNCED_WITHIN_US + self.late_within(arrived_us, SYNCED_WITHIN_US);
        arrived_us.saturating_add(within)
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

impl LifeTime {
    fn is_up_throughout(&self, from: Micros, until: Micros) -> bool {
        let end = self.killed.or(self.ended);
        self.ready.is_some_and(|ready| ready <= from)
            && end.is_none_or(|end| end >= until)
            && !self.stops.iter().any(|stop| stop.overlaps(from, until))
    }
}
