//! Statements 2 and 3: what the provider holds as good we hold too, and nothing is over that it didn't end.

use std::collections::BTreeMap;

use super::clock;
use super::reuse::{Cause, Reuse};
use crate::chaos::account::Row;
use crate::chaos::evidence::{Call, Evidence};

/// 2. Every grant that the provider holds as good is `active` here, with its newest refresh token.
pub(super) fn good_grants_are_held(evidence: &Evidence) -> Vec<String> {
    let rows: BTreeMap<u32, &Row> = evidence.rows.iter().map(|row| (row.company, row)).collect();
    let mut violations = Vec::new();
    for grant in evidence
        .grants
        .iter()
        .filter(|grant| grant.state == "active")
    {
        let company = grant.company_id;
        let Some(row) = rows.get(&company) else {
            violations.push(format!(
                "2. company {company}: the grant is good, and there is no row"
            ));
            continue;
        };
        if row.state != "active" {
            violations.push(format!(
                "2. company {company}: the grant is good, and the row is {} ({})",
                row.state,
                row.reason.as_deref().unwrap_or_default()
            ));
        } else if row.refresh_token != grant.refresh_token_fingerprint {
            violations.push(format!(
                "2. company {company}: the newest refresh token is {}, and the row has {} (generation {})",
                grant.refresh_token_fingerprint.as_deref().unwrap_or("none"),
                row.refresh_token.as_deref().unwrap_or("none"),
                row.generation
            ));
        }
    }
    violations
}

/// 3. Nothing is `reauth_required` that the provider didn't refuse; destroyed answers are called `answer_lost`.
pub(super) fn only_the_refused_need_a_consent(
    evidence: &Evidence,
    reuses: &[Reuse],
) -> Vec<String> {
    let at_rest = evidence.rows.iter();
    at_rest
        .chain(&evidence.deaths)
        .filter(|row| row.state == "reauth_required")
        .filter_map(|row| wrongly_over(evidence, reuses, row))
        .collect()
}

fn wrongly_over(evidence: &Evidence, reuses: &[Reuse], row: &Row) -> Option<String> {
    let company = row.company;
    let since = clock(row.state_since_us);
    let of_company = |call: &&Call| call.company_id == Some(company);
    let refused = evidence.calls.iter().filter(of_company).find(|call| {
        call.call == "refresh"
            && call.presented == row.refresh_token
            && matches!(call.outcome.as_str(), "reuse" | "invalid_grant")
    });
    if refused.is_none() {
        return Some(format!(
            "3. company {company} needs a new consent since {since}, and the provider never refused its token"
        ));
    }
    // The row may say so a moment before or after the provider's own clock does.
    let moment = 1_000_000;
    let end = evidence
        .calls
        .iter()
        .filter(of_company)
        .rfind(|call| call.ended && call.at_us <= row.state_since_us + moment);
    match end {
        None => Some(format!(
            "3. company {company} needs a new consent since {since}, and its grant had never ended"
        )),
        // No answer was destroyed: a call that its sender could not wait for took effect after the next one.
        Some(end) if was_overtaken(reuses, end) => None,
        Some(end) if end.outcome == "reuse" && row.reason.as_deref() != Some("answer_lost") => {
            Some(format!(
                "3. company {company}: revoked for the reuse at {}, and called {} (since {since}, generation {})",
                clock(end.at_us),
                row.reason.as_deref().unwrap_or("nothing"),
                row.generation
            ))
        }
        Some(_) => None,
    }
}

fn was_overtaken(reuses: &[Reuse], end: &Call) -> bool {
    reuses.iter().any(|reuse| {
        reuse.at_us == end.at_us
            && reuse.company == end.company_id
            && matches!(reuse.cause, Cause::Overtaken(_))
    })
}
