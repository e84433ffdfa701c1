//! The counters and the books that `GET /_sim/stats` shows. Tokens appear as fingerprints only.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::outside::rfc3339;
use crate::world::grants::{Grant, GrantState, Grants};

type Tally = BTreeMap<String, u64>;

/// Counted since the start or the last reset.
#[derive(Debug, Default, Clone, Serialize, ToSchema)]
pub(crate) struct Counters {
    /// Consents by outcome: `approve`, `decline`, `refused`.
    pub(crate) authorizations: Tally,
    /// Token calls by grant type, then by outcome: `ok`, `answer_lost` (it took effect, and the response was lost), an OAuth error
    /// word, or the name of the fault that answered in place of the token endpoint.
    pub(crate) token: BTreeMap<String, Tally>,
    /// Codes that became tokens.
    pub(crate) exchanges: u64,
    /// Refreshes that took effect.
    pub(crate) refreshes: u64,
    /// Refresh tokens shown again after they had been exchanged for another one.
    pub(crate) refresh_token_reuse: u64,
    /// Revocations by what they hit: `grant`, `access_token`, `nothing`, or the fault that answered.
    pub(crate) revocations: Tally,
    /// API calls by route, then by status; `no_answer` where a fault withheld it.
    pub(crate) api: BTreeMap<&'static str, Tally>,
    /// API calls whose bearer was missing, unknown, expired or revoked.
    pub(crate) bearers_refused: u64,
    /// Uninstall notices by outcome: the status that came back, or `failed`.
    pub(crate) notices: Tally,
}

impl Counters {
    pub(crate) fn token(&mut self, grant_type: &str, outcome: &str) {
        let tally = match self.token.get_mut(grant_type) {
            Some(tally) => tally,
            None => self.token.entry(grant_type.to_owned()).or_default(),
        };
        count(tally, outcome);
    }

    pub(crate) fn api(&mut self, route: &'static str, outcome: &str) {
        count(self.api.entry(route).or_default(), outcome);
    }
}

/// One more; allocates at the first of its kind alone.
pub(crate) fn count(tally: &mut Tally, outcome: &str) {
    match tally.get_mut(outcome) {
        Some(seen) => *seen += 1,
        None => {
            tally.insert(outcome.to_owned(), 1);
        }
    }
}

/// The answer of `GET /_sim/stats`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Stats {
    #[serde(flatten)]
    pub(crate) counters: Counters,
    pub(crate) books: Vec<Entry>,
}

/// One grant in the books.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Entry {
    client_id: String,
    company_id: u64,
    user_id: u64,
    state: GrantState,
    scope: String,
    /// First 16 hex digits of the SHA-256 of the newest refresh token; null once the grant is dead.
    refresh_token_fingerprint: Option<String>,
    /// Those of the access tokens that the API takes, in the order in which they were issued.
    access_token_fingerprints: Vec<String>,
    consents: u64,
    refreshes: u64,
    issued_at: String,
    refreshed_at: Option<String>,
}

/// Every grant as it stands now.
pub(crate) fn entries(grants: &Grants, now: u64) -> Vec<Entry> {
    let entry = |grant| Entry::new(grant, grants.access_tokens_good(grant, now));
    grants.iter().map(entry).collect()
}

impl Entry {
    fn new<'a>(grant: &Grant, access_tokens: impl Iterator<Item = &'a str>) -> Self {
        Self {
            client_id: grant.holder.client_id.clone(),
            company_id: grant.holder.company_id,
            user_id: grant.holder.user_id,
            state: grant.state,
            scope: grant.scopes.join(","),
            refresh_token_fingerprint: grant.refresh_tokens.last().map(|token| fingerprint(token)),
            access_token_fingerprints: access_tokens.map(fingerprint).collect(),
            consents: grant.consents,
            refreshes: grant.refreshes,
            issued_at: rfc3339(grant.issued_at),
            refreshed_at: grant.refreshed_at.map(rfc3339),
        }
    }
}

pub(crate) fn fingerprint(token: &str) -> String {
    let mut digest = hex::encode(Sha256::digest(token.as_bytes()));
    digest.truncate(16);
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_beginning_of_the_sha_256() {
        assert_eq!(fingerprint("abc"), "ba7816bf8f01cfea");
    }

    #[test]
    fn outcomes_are_counted_by_kind() {
        let mut counters = Counters::default();
        counters.token("refresh_token", "ok");
        counters.token("refresh_token", "ok");
        counters.token("refresh_token", "invalid_grant");

        assert_eq!(counters.token["refresh_token"]["ok"], 2);
        assert_eq!(counters.token["refresh_token"]["invalid_grant"], 1);
    }
}
