//! The event log by what it is about: the lives of processes, and what happened to everything else.

use std::collections::BTreeMap;

use crate::chaos::database::DATABASE;
use crate::chaos::event_log::{Entry, Event, Life, Micros, Severed, Signal};

use super::windows::Window;

/// A response that is not synced so soon after its arrival is held up by something.
const SYNCED_WITHIN_US: Micros = 50_000;

#[derive(Debug, Default)]
pub(super) struct Timeline<'a> {
    lives: BTreeMap<(&'a str, Life), LifeTime>,
    /// When timers were late.
    late: Vec<Window>,
    /// When the database went back to what it had held before.
    restores: Vec<Micros>,
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
    /// From SIGSTOP to SIGCONT.
    pub(super) stops: Vec<Window>,
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
            Event::Restored { .. } => self.restores.push(at_us),
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
        arrived_us + SYNCED_WITHIN_US + self.late_within(arrived_us, SYNCED_WITHIN_US)
    }

    /// How late timers were within so much time from this instant on.
    pub(super) fn late_within(&self, from_us: Micros, length_us: Micros) -> Micros {
        let mut late = 0;
        for window in &self.late {
            let until = window.until.unwrap_or(window.from);
            if window.from <= from_us + length_us + late && until >= from_us {
                late += until - window.from;
            }
        }
        late
    }

    /// The last time that the database went back between two instants.
    pub(super) fn restored_between(&self, from: Micros, until: Micros) -> Option<Micros> {
        let restores = self.restores.iter().copied();
        restores
            .filter(|at_us| from <= *at_us && *at_us <= until)
            .max()
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
