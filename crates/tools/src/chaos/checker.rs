//! The rules that a run is held to, checked from what is left of it by pure functions.

mod bounds;
mod requests;
mod reuse;
mod rows;
mod timeline;
mod windows;

use std::fmt;

use self::timeline::Timeline;
use super::event_log::{Entry, Event};
use super::evidence::Evidence;

pub use bounds::Availability;
pub use reuse::{Cause, Lost, Reuse};

use super::invariant::Invariant;

/// What breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub rule: Invariant,
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (rule: {})", self.what, self.rule.text())
    }
}

/// What a run proved.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Empty after a good run.
    pub violations: Vec<Violation>,
    /// Refresh tokens that were presented again although the provider had exchanged them.
    pub reuses: Vec<Reuse>,
    pub lost: Lost,
    pub availability: Availability,
}

/// How much of a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Faults are still played: what is under way is not held against it.
    During,
    /// Everything was put back, and had the time to come to rest.
    AtRest,
}

/// Holds a run against the rules.
pub fn check(evidence: &Evidence, moment: Moment) -> Verdict {
    let timeline = Timeline::of(evidence);
    let (reuses, lost, mut violations) = reuse::all(evidence, &timeline);
    violations.extend(bounds::few_refreshes(evidence, &timeline));
    violations.extend(bounds::old_generations_are_not_refreshed(
        evidence, &timeline,
    ));
    violations.extend(rows::ends_are_true(evidence, &reuses));
    violations.extend(rows::revoked_stays_revoked(evidence, &timeline));
    violations.extend(requests::data_is_right(evidence));
    violations.extend(requests::refreshes_are_honest(evidence));
    let availability = Availability::of(evidence, &timeline);
    if moment == Moment::AtRest {
        violations.extend(availability.violation());
        violations.extend(rows::good_grants_are_held(evidence));
        violations.extend(evidence.restless.iter().map(|why| Violation {
            rule: Invariant::ComesToRest,
            what: why.clone(),
        }));
        violations.extend(unplanned(evidence));
    }
    let too_soon = timeline.struck_too_soon().into_iter();
    violations.extend(too_soon.map(|(process, at_us)| Violation {
        rule: Invariant::RunsAsPlanned,
        what: format!(
            "{process} was sent a signal at {}, before it had been ready for a second",
            clock(at_us)
        ),
    }));
    Verdict {
        violations,
        reuses,
        lost,
        availability,
    }
}

/// Processes that ended unasked, but for refreshers that could not write to their journal when they started; and what the run
/// could not do.
fn unplanned(evidence: &Evidence) -> Vec<Violation> {
    let full = windows::journals_away(evidence);
    let unplanned = |entry: &Entry| {
        let at = clock(entry.at_us);
        match &entry.event {
            Event::Ended {
                process,
                status,
                unasked: true,
                ..
            } => {
                let of_process = full.get(process.as_str());
                let is_full = of_process
                    .is_some_and(|windows| windows.iter().any(|window| window.holds(entry.at_us)));
                (!is_full).then(|| format!("{process} ended unasked at {at}: {status}"))
            }
            Event::Failed { what } => Some(format!("could not {what}, at {at}")),
            _ => None,
        }
    };
    let entries = evidence.event_log.iter();
    entries
        .filter_map(unplanned)
        .map(|what| Violation {
            rule: Invariant::RunsAsPlanned,
            what,
        })
        .collect()
}

/// Microseconds since 1970 as a time of day.
pub fn clock(at_us: i64) -> String {
    let in_day = at_us.rem_euclid(86_400_000_000);
    let (seconds, micros) = (in_day / 1_000_000, in_day % 1_000_000);
    let (minutes, seconds) = (seconds / 60, seconds % 60);
    format!(
        "{:02}:{:02}:{seconds:02}.{micros:06}",
        minutes / 60,
        minutes % 60
    )
}

#[cfg(test)]
mod tests;
