//! When what was away: connections that had ended, processes that were down.

use std::collections::BTreeMap;

use crate::chaos::chronicle::{Blow, Micros, What};
use crate::chaos::evidence::Evidence;
use crate::chaos::load::Answered;

/// From one instant to another; for ever without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from: Micros,
    pub(super) until: Option<Micros>,
}

impl Window {
    pub(super) fn holds(&self, at_us: Micros) -> bool {
        self.from <= at_us && self.until.is_none_or(|until| at_us <= until)
    }

    /// Whether some of the time of this request lies in it.
    pub(super) fn touches(&self, answered: &Answered) -> bool {
        answered.ended_us >= self.from && self.until.is_none_or(|until| answered.began_us <= until)
    }
}

/// When each connection was over: from what ended it, here or at the provider, to the next consent.
pub(super) fn ended(evidence: &Evidence) -> BTreeMap<u32, Vec<Window>> {
    let mut ends: BTreeMap<u32, Vec<Micros>> = BTreeMap::new();
    let mut mends: BTreeMap<u32, Vec<(Micros, Micros)>> = BTreeMap::new();
    for entry in &evidence.chronicle {
        match &entry.what {
            What::Severed { company, .. } => ends.entry(*company).or_default().push(entry.at_us),
            What::Mended { company, began_us } => {
                mends
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
    let mut windows = replaced(evidence, &mends);
    for (company, ends) in ends {
        let mends = mends.get(&company).map(Vec::as_slice).unwrap_or_default();
        let window = |from: Micros| Window {
            from,
            until: mends
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
    mends: &BTreeMap<u32, Vec<(Micros, Micros)>>,
) -> BTreeMap<u32, Vec<Window>> {
    let mut windows: BTreeMap<u32, Vec<Window>> = BTreeMap::new();
    // A fault that only tells us of the call leaves the answer the provider's own.
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
        let mends = mends.get(&company).map(Vec::as_slice).unwrap_or_default();
        let within = mends
            .iter()
            .find(|(began, stored)| *began <= call.at_us && call.at_us <= *stored);
        if let Some((_, stored)) = within {
            let window = Window {
                from: call.at_us,
                until: Some(*stored),
            };
            windows.entry(company).or_default().push(window);
        }
    }
    windows
}

/// When each process was not there, or on its way out.
pub(super) fn down(evidence: &Evidence) -> BTreeMap<&str, Vec<Window>> {
    let mut down: BTreeMap<&str, Vec<Window>> = BTreeMap::new();
    for entry in &evidence.chronicle {
        match &entry.what {
            What::Struck {
                process,
                blow: Blow::Kill | Blow::Terminate | Blow::Stop,
                ..
            } => {
                let windows = down.entry(process).or_default();
                if windows.last().is_none_or(|last| last.until.is_some()) {
                    windows.push(Window {
                        from: entry.at_us,
                        until: None,
                    });
                }
            }
            What::Ready { process }
            | What::Struck {
                process,
                blow: Blow::Continue,
                ..
            } => {
                if let Some(last) = down
                    .get_mut(process.as_str())
                    .and_then(|all| all.last_mut())
                {
                    last.until.get_or_insert(entry.at_us);
                }
            }
            _ => {}
        }
    }
    down
}

/// When each refresher's journal took nothing, and a moment more: who is refused its journal needs a while to end.
pub(super) fn journals_away(evidence: &Evidence) -> BTreeMap<&str, Vec<Window>> {
    let moment = 500_000;
    let mut away: BTreeMap<&str, Vec<Window>> = BTreeMap::new();
    for (refresher, journal) in &evidence.reach {
        let name = super::super::journals::outage_of(journal);
        let windows = away.entry(refresher).or_default();
        for entry in &evidence.chronicle {
            match &entry.what {
                What::Outage { of } if *of == name => windows.push(Window {
                    from: entry.at_us,
                    until: None,
                }),
                What::Back { of } if *of == name => {
                    let until = entry.at_us + moment;
                    for window in windows.iter_mut().filter(|window| window.until.is_none()) {
                        window.until = Some(until);
                    }
                }
                _ => {}
            }
        }
    }
    away
}
