//! What the provider holds as good we hold too, and nothing is over that the provider didn't end.

use std::collections::BTreeMap;

use super::reuse::{Cause, Reuse};
use super::timeline::Timeline;
use super::{Invariant, Violation, clock};
use crate::chaos::event_log::{Event, Micros};
use crate::chaos::evidence::{Call, Evidence};
use crate::chaos::stack::account::Row;

/// Every grant that the provider holds as good is `active` here, with its newest refresh token.
pub(super) fn good_grants_are_held(evidence: &Evidence) -> Vec<Violation> {
    let rows: BTreeMap<u32, &Row> = evidence.rows.iter().map(|row| (row.company, row)).collect();
    let mut violations = Vec::new();
    let good = evidence.grants.iter().filter(|it| it.state == "active");
    for grant in good {
        let company = grant.company_id;
        let what = match rows.get(&company) {
            None => format!("company {company}: the grant is good, and there is no row"),
            Some(row) if row.state != "active" => format!(
                "company {company}: the grant is good, and the row is {} ({})",
                row.state,
                row.reason.as_deref().unwrap_or_default()
            ),
            Some(row) if row.refresh_token != grant.refresh_token_fingerprint => format!(
                "company {company}: the newest refresh token is {}, and the row has {} (generation {})",
                grant.refresh_token_fingerprint.as_deref().unwrap_or("none"),
                row.refresh_token.as_deref().unwrap_or("none"),
                row.generation
            ),
            Some(_) => continue,
        };
        violations.push(Violation {
            rule: Invariant::GoodGrantsAreHeld,
            what,
        });
    }
    violations
}

/// Nothing is `reauth_required` that the provider didn't refuse, and where the provider refused because a response had been
/// lost, that is what the row says.
pub(super) fn ends_are_true(evidence: &Evidence, reuses: &[Reuse]) -> Vec<Violation> {
    let ended = evidence.rows.iter().chain(&evidence.ended);
    ended
        .filter(|row| row.state == "reauth_required")
        .filter_map(|row| untrue_end(evidence, reuses, row))
        .map(|what| Violation {
            rule: Invariant::EndsAreTrue,
            what,
        })
        .collect()
}

fn untrue_end(evidence: &Evidence, reuses: &[Reuse], row: &Row) -> Option<String> {
    let company = row.company;
    let of_company = |call: &&Call| call.company_id == Some(company);
    let refusal = evidence.calls.iter().filter(of_company).find(|call| {
        call.call == "refresh"
            && call.presented == row.refresh_token
            && matches!(call.outcome.as_str(), "reuse" | "invalid_grant")
    });
    let Some(refusal) = refusal else {
        return Some(format!(
            "company {company} needs a new consent since {}, and the provider never refused its token",
            clock(row.state_since_us)
        ));
    };
    let since = clock(refusal.at_us);
    let end = evidence
        .calls
        .iter()
        .filter(of_company)
        .rfind(|call| call.ended && call.seq <= refusal.seq);
    match end {
        None => Some(format!(
            "company {company}: its token was refused at {since}, and its grant had never ended"
        )),
        // No response was lost: a call that its sender could not wait for took effect after the next one.
        Some(end) if was_overtaken(reuses, end) => None,
        Some(end) if end.outcome == "reuse" && row.reason.as_deref() != Some("answer_lost") => {
            Some(format!(
                "company {company}: its grant was revoked at {} because a response had been lost, and the row says {} (generation {})",
                clock(end.at_us),
                row.reason.as_deref().unwrap_or("nothing"),
                row.generation
            ))
        }
        Some(_) => None,
    }
}

fn was_overtaken(reuses: &[Reuse], end: &Call) -> bool {
    let by_this_call = |reuse: &&Reuse| {
        reuse.company == end.company_id && Some(&reuse.token) == end.presented.as_ref()
    };
    let mut reuses = reuses.iter().filter(by_this_call);
    reuses.any(|reuse| {
        matches!(reuse.cause, Ok(Cause::Overtaken(_))) && reuse.first.1 == end.arrived_us()
    })
}

/// A row that was revoked, as was said or seen, is not seen active before there was a new consent, unless the database went back
/// meanwhile.
pub(super) fn revoked_stays_revoked(
    evidence: &Evidence,
    timeline: &Timeline<'_>,
) -> Vec<Violation> {
    let mut violations = Vec::new();
    // By company: since when, and at which generation.
    let mut revoked: BTreeMap<u32, (Micros, Option<i64>)> = BTreeMap::new();
    for entry in &evidence.event_log {
        let (company, generation, read_us) = match &entry.event {
            Event::Revoked {
                company,
                generation,
            } => {
                revoked.insert(*company, (entry.at_us, *generation));
                continue;
            }
            Event::RowState {
                company,
                state,
                generation,
                read_us,
            } if state == "revoked" => {
                revoked
                    .entry(*company)
                    .or_insert((*read_us, Some(*generation)));
                continue;
            }
            Event::RowState {
                company,
                state,
                generation,
                read_us,
            } if state == "active" => (*company, *generation, *read_us),
            _ => continue,
        };
        let Some((revoked_us, at_generation)) = revoked.get(&company).copied() else {
            continue;
        };
        // What was being read when it was revoked may be older.
        if read_us < revoked_us {
            continue;
        }
        let consents = timeline.consents.get(&company).into_iter().flatten();
        let consented = consents
            .filter(|consent| consent.overlaps(revoked_us, entry.at_us))
            .count();
        let restored = timeline.lost_by_restore(revoked_us, entry.at_us);
        revoked.remove(&company);
        if consented == 0 && restored.is_none() {
            let at_generation =
                at_generation.map_or_else(String::new, |at| format!(" (generation {at})"));
            violations.push(Violation {
                rule: Invariant::RevokedStaysRevoked,
                what: format!(
                    "company {company}: its row was revoked at {}{at_generation}, and active at {} (generation {generation}) without a new consent",
                    clock(revoked_us),
                    clock(read_us)
                ),
            });
        }
    }
    violations
}
