//! Spans of time: when connections had ended, when processes were down, when journals took nothing.

use std::collections::BTreeMap;

use crate::chaos::event_log::{Event, Micros, Signal};
use crate::chaos::evidence::Evidence;
use crate::chaos::stack::load::Answered;

/// From one instant to another; for ever without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: Micros,
    pub(super) until: Option<Micros>,
}

impl Window {
    /// Open still.
    pub(super) fn since(from: Micros) -> Self {
        Self { from, until: None }
    }

    /// Closes those that are open.
    pub(super) fn close(windows: &mut [Self], at_us: Micros) {
        for window in windows.iter_mut().filter(|window| window.until.is_none()) {
            window.until = Some(at_us);
        }
    }

    pub(super) fn holds(&self, at_us: Micros) -> bool {
        self.overlaps(at_us, at_us)
    }

    pub(super) fn overlaps(&self, from: Micros, until: Micros) -> bool {
        self.from <= until && self.until.is_none_or(|end| from <= end)
    }

    /// Whether some of the time of this request lies in it.
    pub(super) fn touches(&self, answered: &Answered) -> bool {
        self.overlaps(answered.began_us, answered.ended_us)
    }
}

/// Whether some of the request's time lies in one of these.
pub(super) fn any_touches(windows: Option<&Vec<Window>>, answered: &Answered) -> bool {
    windows.is_some_and(|windows| windows.iter().any(|window| window.touches(answered)))
}

/// When each connection was over: from what ended it, here or at the provider, to the next consent.
pub(super) fn ended(evidence: &Evidence) -> BTreeMap<u32, Vec<Window>> {
    let mut ends: BTreeMap<u32, Vec<Micros>> = BTreeMap::new();
    let mut consents: BTreeMap<u32, Vec<(Micros, Micros)>> = BTreeMap::new();
    for entry in &evidence.event_log {
        match &entry.event {
            Event::Severed { company, .. } => ends.entry(*company).or_default().push(entry.at_us),
            Event::Consented { company, began_us } => {
                consents
                    .entry(*company)
                    .or_default()
                    .push((*began_us, entry.at_us));
            }
            _ => {}
        }
    }
    for call in evidence.calls.iter().filter(|call| call.ended) {
        if let Some(company) = call.company_id {
            ends.entry(company).or_default().push(call.at_us);
        }
    }
    let mut windows = replaced(evidence, &consents);
    for (company, ends) in ends {
        let consents = consents
            .get(&company)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let window = |from: Micros| Window {
            from,
            until: consents
                .iter()
                .find(|(began, _)| *began >= from)
                .map(|(_, stored)| *stored),
        };
        windows
            .entry(company)
            .or_default()
            .extend(ends.into_iter().map(window));
    }
    windows
}

/// A new consent replaces the tokens of the one before at the provider a moment before it is stored here: from a refusal in
/// between to its storing the connection was over, by the provider's word.
fn replaced(
    evidence: &Evidence,
    consents: &BTreeMap<u32, Vec<(Micros, Micros)>>,
) -> BTreeMap<u32, Vec<Window>> {
    let mut windows: BTreeMap<u32, Vec<Window>> = BTreeMap::new();
    // A fault that only tells us of the call leaves the response the provider's own.
    let is_own = |fault: &Option<String>| {
        let fault = fault.as_deref();
        fault.is_none_or(|fault| fault.starts_with("call "))
    };
    let refused = evidence
        .calls
        .iter()
        .filter(|call| call.outcome == "invalid_grant" && is_own(&call.fault));
    for call in refused {
        let Some(company) = call.company_id else {
            continue;
        };
        let consents = consents
            .get(&company)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let within = consents
            .iter()
            .find(|(began, stored)| *began <= call.at_us && call.at_us <= *stored);
        if let Some((_, stored)) = within {
            windows.entry(company).or_default().push(Window {
                from: call.at_us,
                until: Some(*stored),
            });
        }
    }
    windows
}

/// When each process was not there, or on its way out.
pub(super) fn down(evidence: &Evidence) -> BTreeMap<&str, Vec<Window>> {
    let mut down: BTreeMap<&str, Vec<Window>> = BTreeMap::new();
    for entry in &evidence.event_log {
        match &entry.event {
            Event::Signal {
                process,
                signal: Signal::Kill | Signal::Terminate | Signal::Stop,
                ..
            }
            | Event::Ended { process, .. } => {
                let windows = down.entry(process).or_default();
                if windows.last().is_none_or(|last| last.until.is_some()) {
                    windows.push(Window::since(entry.at_us));
                }
            }
            Event::Ready { process, .. }
            | Event::Signal {
                process,
                signal: Signal::Continue,
                ..
            } => {
                if let Some(windows) = down.get_mut(process.as_str()) {
                    Window::close(windows, entry.at_us);
                }
            }
            _ => {}
        }
    }
    down
}

/// When each refresher's journal took nothing, and a moment more: a process that is refused its journal needs a while to end.
pub(super) fn journals_away(evidence: &Evidence) -> BTreeMap<&str, Vec<Window>> {
    let moment = 500_000;
    let mut away: BTreeMap<&str, Vec<Window>> = BTreeMap::new();
    for (refresher, journal) in &evidence.journal_of {
        let name = crate::chaos::journals::outage_of(journal);
        let windows = away.entry(refresher).or_default();
        for entry in &evidence.event_log {
            match &entry.event {
                Event::Outage { of } if *of == name => windows.push(Window::since(entry.at_us)),
                Event::Back { of } if *of == name => Window::close(windows, entry.at_us + moment),
                _ => {}
            }
        }
    }
    away
}
