//! The four statements, checked from what is left after a run:
//!
//! 1. every reuse of a refresh token is explained by an answer that never reached a journal (`reuse`);
//! 2. every grant that the provider holds as good is `active` here, with the newest refresh token (`rows`);
//! 3. nothing is `reauth_required` that the provider didn't refuse; destroyed answers are told as `answer_lost` (`rows`);
//! 4. every data request got the right answer or an honest 429, 502, 503 or 504 (`answers`).

mod answers;
mod reuse;
mod rows;
mod windows;

use std::collections::BTreeMap;

use self::windows::Window;
use super::chronicle::{Entry, What};
use super::evidence::Evidence;

pub use reuse::{Cause, Reuse};

/// What a run proved.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// What does not hold, in words; empty after a good run.
    pub violations: Vec<String>,
    /// Refresh tokens that the provider saw again although an answer had been given for them.
    pub reuses: Vec<Reuse>,
}

/// Holds a run against the four statements.
pub fn judge(evidence: &Evidence) -> Verdict {
    let reuses = reuse::all(evidence);
    let mut violations: Vec<String> = reuses
        .iter()
        .filter(|reuse| reuse.is_unexplained())
        .map(|reuse| format!("1. unexplained reuse: {reuse}"))
        .collect();
    violations.extend(rows::good_grants_are_held(evidence));
    violations.extend(rows::only_the_refused_need_a_consent(evidence, &reuses));
    violations.extend(answers::data_is_right_or_honestly_missing(evidence));
    violations.extend(answers::refreshes_are_honest(evidence));
    let restless = &evidence.restless;
    violations.extend(restless.iter().map(|why| format!("not at rest: {why}")));
    let full = windows::journals_away(evidence);
    let chronicle = evidence.chronicle.iter();
    violations.extend(chronicle.filter_map(|entry| surprising(entry, &full)));
    Verdict { violations, reuses }
}

/// Whatever the run wanted to do it did, and no process ended by itself; but a refresher does not start without a journal
/// that it can write to.
fn surprising(entry: &Entry, full: &BTreeMap<&str, Vec<Window>>) -> Option<String> {
    let at = clock(entry.at_us);
    match &entry.what {
        What::Ended {
            process,
            status,
            by_itself: true,
        } => {
            let of_process = full.get(process.as_str());
            let is_full = of_process
                .is_some_and(|windows| windows.iter().any(|window| window.holds(entry.at_us)));
            (!is_full).then(|| format!("{process} ended by itself at {at}: {status}"))
        }
        What::Failed { what } => Some(format!("could not {what}, at {at}")),
        _ => None,
    }
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
