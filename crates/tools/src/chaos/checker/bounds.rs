//! Bounds: how often tokens are renewed, for whom, and how many requests succeed.

use std::collections::BTreeMap;
use std::iter;

use pipekeeper_core::refresher_client::RefreshOutcome;

use super::timeline::Timeline;
use super::windows::{Window, any_touches, down, ended};
use super::{Invariant, Violation, clock};
use crate::chaos::event_log::{Event, Micros, Severed};
use crate::chaos::evidence::{Call, Evidence};
use crate::chaos::stack::load::{Answered, Asked, Outcome};

/// Renewals of one access token within its lifetime that no caller has asked for.
const RENEWALS: usize = 2;

/// After the database was away, or back in time, refreshers spend nothing for so long.
const RECOVERS_WITHIN_US: Micros = 6_000_000;

/// Fewer requests than this, in number and per cent of all, say nothing.
const ENOUGH: usize = 100;
const ENOUGH_PER_CENT: usize = 20;

/// Within one lifetime of an access token there are two more refreshes at most, and one more for each caller that asked for
/// one meanwhile and was not told that there had been a newer one before, and for each uninstall, whose notice may be verified.
/// A token whose lifetime was reckoned by a wrong clock may seem to be over at once.
pub(super) fn few_refreshes(evidence: &Evidence, timeline: &Timeline<'_>) -> Vec<Violation> {
    let mut minted: BTreeMap<u32, Vec<&Call>> = BTreeMap::new();
    for call in &evidence.calls {
        if let Some(company) = call.company_id
            && call.outcome == "ok"
            && matches!(call.call.as_str(), "refresh" | "exchange")
        {
            minted.entry(company).or_default().push(call);
        }
    }
    let mut asked: BTreeMap<u32, Vec<&Answered>> = BTreeMap::new();
    let caused = |ask: &&Asked| !matches!(ask.newer, Some((_, RefreshOutcome::AlreadyNewer)));
    for ask in evidence.refreshes.iter().filter(caused) {
        let of_company = asked.entry(ask.answered.company).or_default();
        of_company.push(&ask.answered);
    }
    let mut violations = Vec::new();
    for (company, minted) in &minted {
        let asked = asked.get(company).map(Vec::as_slice).unwrap_or_default();
        for (index, call) in minted.iter().enumerate() {
            let until = call.at_us + lifetime_at(timeline, call.at_us);
            let later = minted.iter().skip(index + 1);
            let later = later.take_while(|later| later.at_us < until);
            let renewals: Vec<_> = later.filter(|later| later.call == "refresh").collect();
            let mut reckoned = iter::once(call).chain(renewals.iter().copied());
            if reckoned.any(|call| timeline.had_wrong_clock(call)) {
                continue;
            }
            let renewals = renewals.len();
            let window = Window {
                from: call.at_us,
                until: Some(until),
            };
            let severed = timeline.severed.get(company).into_iter().flatten();
            let verified = severed
                .filter(|(at_us, how)| *how == Severed::Uninstalled && window.holds(*at_us))
                .count();
            let callers = asked.iter().filter(|ask| window.touches(ask)).count() + verified;
            if renewals > RENEWALS + callers {
                violations.push(Violation {
                    rule: Invariant::FewRefreshes,
                    what: format!(
                        "company {company}: {renewals} refreshes between {} and {}, and {callers} callers asked for one",
                        clock(call.at_us),
                        clock(until)
                    ),
                });
                // The next windows say the same.
                break;
            }
        }
    }
    violations
}

fn lifetime_at(timeline: &Timeline<'_>, at_us: Micros) -> Micros {
    let lifetimes = timeline.lifetimes.iter().rev();
    let mut since = lifetimes.filter(|(from, _)| *from <= at_us);
    since.next().map_or(0, |(_, lifetime)| *lifetime)
}

/// A refresh for a caller who names a generation makes the next one, or one more if a journal holds the next one and that has
/// had its time. If anything newer was known to be there before, nothing is refreshed.
pub(super) fn old_generations_are_not_refreshed(
    evidence: &Evidence,
    timeline: &Timeline<'_>,
) -> Vec<Violation> {
    let mut violations = Vec::new();
    let known = known_generations(evidence);
    for asked in &evidence.refreshes {
        let (Some(named), Some((newer, RefreshOutcome::Refreshed))) =
            (asked.generation, asked.newer)
        else {
            continue;
        };
        let Answered {
            company,
            process,
            began_us,
            ended_us,
            ..
        } = &asked.answered;
        let gone_back = timeline
            .restored_between(began_us - RECOVERS_WITHIN_US, *ended_us)
            .is_some();
        let known = known.get(company).into_iter().flatten();
        let known = known
            .filter(|(at_us, _)| at_us < began_us)
            .map(|(_, generation)| *generation);
        let was_newer = known.max().is_some_and(|known| known > named);
        if (newer > named + 2 || was_newer) && !gone_back {
            violations.push(Violation {
                rule: Invariant::OldGenerationsAreNotRefreshed,
                what: format!(
                    "company {company}: {process} was asked at {} by a caller with generation {named}, and refreshed to generation {newer}",
                    clock(*began_us)
                ),
            });
        }
    }
    violations
}

/// By company: the generations that were read or told of, and when.
fn known_generations(evidence: &Evidence) -> BTreeMap<u32, Vec<(Micros, i64)>> {
    let mut known: BTreeMap<u32, Vec<(Micros, i64)>> = BTreeMap::new();
    for entry in &evidence.event_log {
        if let Event::RowState {
            company,
            generation,
            ..
        } = &entry.event
        {
            let of_company = known.entry(*company).or_default();
            of_company.push((entry.at_us, *generation));
        }
    }
    for asked in &evidence.refreshes {
        if let Some((generation, _)) = asked.newer {
            let of_company = known.entry(asked.answered.company).or_default();
            of_company.push((asked.answered.ended_us, generation));
        }
    }
    known
}

/// How many of the requests succeeded that had all they need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Availability {
    /// For grants that were good, while the data-api, the refresher that it asks and the database were up.
    pub requests: usize,
    pub succeeded: usize,
    /// All requests.
    pub of: usize,
}

impl Availability {
    pub(super) fn of(evidence: &Evidence, timeline: &Timeline<'_>) -> Self {
        let (ended, down) = (ended(evidence), down(evidence));
        let away: Vec<Window> = timeline
            .database_away
            .iter()
            .map(|window| Window {
                until: window.until.map(|until| until + RECOVERS_WITHIN_US),
                ..*window
            })
            .collect();
        let is_down = |process: &str, answered: &Answered| any_touches(down.get(process), answered);
        let has_all = |answered: &&Answered| {
            let refresher = evidence.refresher_of.get(&answered.process);
            !any_touches(ended.get(&answered.company), answered)
                && !any_touches(Some(&away), answered)
                && !is_down(&answered.process, answered)
                && !refresher.is_some_and(|refresher| is_down(refresher, answered))
        };
        let mut availability = Self {
            of: evidence.data.len(),
            ..Self::default()
        };
        for answered in evidence.data.iter().filter(has_all) {
            availability.requests += 1;
            availability.succeeded += usize::from(answered.outcome == Outcome::Right);
        }
        availability
    }

    /// In hundredths of a per cent, rounded down.
    pub fn per_ten_thousand(self) -> usize {
        self.succeeded * 10_000 / self.requests.max(1)
    }

    pub(super) fn violation(self) -> Option<Violation> {
        let Self {
            requests,
            succeeded,
            of,
        } = self;
        let what = if requests < ENOUGH || requests * 100 < of * ENOUGH_PER_CENT {
            format!("only {requests} of {of} data requests had all they need: that proves nothing")
        } else if succeeded * 100 < requests * 95 {
            format!("{succeeded} of {requests} data requests succeeded")
        } else {
            return None;
        };
        Some(Violation {
            rule: Invariant::DataIsAvailable,
            what,
        })
    }
}
