//! Statement 1: every reuse of a refresh token is explained by an answer that was never fsynced, was fsynced where the next
//! holder can't read, or came from a call that took effect after a later one had (its sender was lost, or had given up).

use std::collections::BTreeMap;
use std::fmt;

use super::clock;
use crate::chaos::chronicle::{Blow, Micros, What};
use crate::chaos::evidence::{Call, Evidence};

/// A token that was shown again after the provider had exchanged it.
#[derive(Debug, Clone)]
pub struct Reuse {
    pub company: Option<u32>,
    pub token: String,
    /// Who showed it again, and when.
    pub by: String,
    pub at_us: Micros,
    /// Who had exchanged it, and when.
    pub spent_by: String,
    pub spent_at_us: Micros,
    pub cause: Cause,
}

/// What became of the answer to the first exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It was in no journal in reach of who showed the token again; this had happened to it.
    Lost(String),
    /// It was in a journal on a disk that the other one does not see, whose owner was away for too long.
    OutOfReach(String),
    /// It was there to be found.
    Journaled { at_us: Micros },
    /// It was not shown again: this call had been read before the other one took effect, and was kept waiting by the
    /// provider. Its sender had been lost meanwhile.
    Overtaken(String),
    /// It had arrived: the token in it was used before.
    Used { at_us: Micros },
    /// Nothing happened to it.
    Nothing,
    /// The simulator knows no exchange of the token.
    NeverExchanged,
}

impl Reuse {
    pub fn is_unexplained(&self) -> bool {
        match self.cause {
            Cause::Lost(_) | Cause::OutOfReach(_) | Cause::Overtaken(_) => false,
            Cause::Journaled { .. }
            | Cause::Used { .. }
            | Cause::Nothing
            | Cause::NeverExchanged => true,
        }
    }
}

impl fmt::Display for Reuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "company {}, token {}: spent {} by {}, shown again {} by {}; the answer ",
            self.company.unwrap_or_default(),
            self.token,
            clock(self.spent_at_us),
            self.spent_by,
            clock(self.at_us),
            self.by,
        )?;
        match &self.cause {
            Cause::Lost(how) => write!(f, "was never fsynced: {how}"),
            Cause::OutOfReach(how) => write!(f, "was fsynced out of reach: {how}"),
            Cause::Overtaken(how) => write!(
                f,
                "was fsynced, and then an earlier call took effect whose sender was lost: {how}"
            ),
            Cause::Journaled { at_us } => {
                write!(f, "was in a journal in reach since {}", clock(*at_us))
            }
            Cause::Used { at_us } => write!(f, "had been used at {}", clock(*at_us)),
            Cause::Nothing => write!(f, "was given and nothing had happened to it"),
            Cause::NeverExchanged => write!(f, "is not in the simulator's log"),
        }
    }
}

/// Every reuse that the simulator saw.
pub(super) fn all(evidence: &Evidence) -> Vec<Reuse> {
    let mut exchanged: BTreeMap<&str, &Call> = BTreeMap::new();
    let mut used: BTreeMap<&str, Micros> = BTreeMap::new();
    let mut reuses = Vec::new();
    for call in evidence.calls.iter().filter(|call| call.call == "refresh") {
        let Some(token) = call.presented.as_deref() else {
            continue;
        };
        if call.outcome == "reuse" {
            reuses.push(explain(
                evidence,
                call,
                token,
                exchanged.get(token).copied(),
                &used,
            ));
        }
        used.entry(token).or_insert(call.at_us);
        if call.outcome == "ok" {
            exchanged.insert(token, call);
        }
    }
    reuses
}

fn explain(
    evidence: &Evidence,
    call: &Call,
    token: &str,
    spent: Option<&Call>,
    used: &BTreeMap<&str, Micros>,
) -> Reuse {
    let cause = spent.map_or(Cause::NeverExchanged, |spent| {
        let answer = spent.issued.as_deref().unwrap_or_default();
        if let Some(arrived_at_us) = call.arrived_at_us.filter(|at_us| *at_us < spent.at_us) {
            let lost = fate(evidence, call, arrived_at_us, spent.at_us);
            return lost.map_or(Cause::Nothing, Cause::Overtaken);
        }
        if let Some(at_us) = used.get(answer) {
            return Cause::Used { at_us: *at_us };
        }
        let mut written = written(evidence, answer, call.at_us);
        if let Some(at_us) = evidence
            .reach
            .get(call.from())
            .and_then(|journal| written.remove(journal.as_str()))
        {
            return Cause::Journaled { at_us };
        }
        match (
            fate(evidence, spent, spent.at_us, call.at_us),
            written.first_key_value(),
        ) {
            (None, _) => Cause::Nothing,
            (Some(how), None) => Cause::Lost(how),
            (Some(how), Some((journal, at_us))) => Cause::OutOfReach(format!(
                "in journal {journal} since {}; {how}",
                clock(*at_us)
            )),
        }
    });
    Reuse {
        company: call.company_id,
        token: token.to_owned(),
        by: call.from().to_owned(),
        at_us: call.at_us,
        spent_by: spent.map_or("nobody", Call::from).to_owned(),
        spent_at_us: spent.map_or(0, |spent| spent.at_us),
        cause,
    }
}

/// The journals that held the answer when the token was shown again.
fn written<'a>(evidence: &'a Evidence, answer: &str, before: Micros) -> BTreeMap<&'a str, Micros> {
    evidence
        .journals
        .iter()
        .filter_map(|(journal, entries)| {
            let at_us = entries.get(answer).filter(|at_us| **at_us <= before)?;
            Some((journal.as_str(), *at_us))
        })
        .collect()
}

/// What happened to a call's answer on its way, or to who was to get it: the fault that was played, and the blows from one
/// instant to the other.
fn fate(evidence: &Evidence, call: &Call, since: Micros, before: Micros) -> Option<String> {
    let fault = call.fault.iter().map(|fault| format!("fault {fault}"));
    let mut told: Vec<String> = fault.collect();
    let mut stopped = None;
    for entry in &evidence.chronicle {
        let What::Struck { process, blow, why } = &entry.what else {
            continue;
        };
        if process != call.from() || entry.at_us > before {
            continue;
        }
        let blow_at = || format!("{blow:?} at {} ({why})", clock(entry.at_us));
        match blow {
            // One that lasted.
            Blow::Stop if entry.at_us <= since => stopped = Some(blow_at()),
            Blow::Continue if entry.at_us <= since => stopped = None,
            // A process that is asked to end finishes what it has begun.
            Blow::Continue | Blow::Terminate => {}
            Blow::Kill | Blow::Stop => {
                if entry.at_us >= since - EARLIER {
                    told.push(blow_at());
                }
            }
        }
    }
    told.extend(stopped);
    (!told.is_empty()).then(|| told.join(", "))
}

/// A killed process's request may be committed a moment later.
const EARLIER: Micros = 300_000;
