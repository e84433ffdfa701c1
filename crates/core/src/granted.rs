//! What a provider has granted, on its way into a row.

use crate::clock::Timestamp;
use crate::connection::{AccountName, ConnectionId};
use crate::oauth::Identity;
use crate::provider::{ApiDomain, App};
use crate::refresh_schedule::due_at;
use crate::sealed::Sealed;
use crate::secret::Secret;
use crate::vault::{RowContext, Vault};

/// As many characters as `MySQL`'s `TEXT`, of 65 535 bytes, holds whatever they are.
const TEXT_MAX_CHARS: usize = 65_535 / 4;

/// A provider's text for people, as the columns of every database hold it: without control characters (`PostgreSQL`
/// refuses U+0000) and not too long.
pub fn fit_for_column(text: &str) -> String {
    text.chars()
        .filter_map(|c| match c {
            '\t' | '\n' | '\r' => Some(' '),
            c => (!c.is_control()).then_some(c),
        })
        .take(TEXT_MAX_CHARS)
        .collect()
}

/// Tokens, and whose they are; not yet sealed to the row that keeps them.
#[derive(Debug)]
pub struct PlainGrant<'a> {
    pub identity: &'a Identity,
    pub access_token: &'a Secret,
    pub refresh_token: &'a Secret,
    pub api_domain: &'a ApiDomain,
    pub scope: &'a str,
    pub expires_at: Timestamp,
    /// When the tokens began to age.
    pub authorized_at: Timestamp,
    /// When a caller last asked for a token of the row that these go into.
    pub last_used_at: Option<Timestamp>,
}

impl PlainGrant<'_> {
    /// What the row `id` is to hold, kept by this tenant and user.
    pub fn sealed(
        &self,
        vault: &Vault,
        app: &App,
        id: &ConnectionId,
        (account_id, owner): (AccountName, AccountName),
    ) -> Consent {
        let at = self.authorized_at;
        let to = RowContext {
            id,
            app: &app.app_key(),
            account_id: &account_id,
            owner: &owner,
        };
        let (access_token, refresh_token) = (
            vault.seal_access_token(to, self.access_token),
            vault.seal_refresh_token(to, self.refresh_token),
        );
        let identity = self.identity.clone();
        Consent {
            account_id,
            owner,
            company_id: identity.company_id,
            company_domain: fit_for_column(&identity.company_domain),
            company_name: fit_for_column(&identity.company_name),
            user_id: identity.user_id,
            user_name: fit_for_column(&identity.user_name),
            api_domain: self.api_domain.as_str().to_owned(),
            scope: fit_for_column(self.scope),
            access_token,
            refresh_token,
            expires_at: self.expires_at,
            authorized_at: at,
            idle_deadline: app
                .provider
                .refresh_idle
                .map(|idle| at.saturating_add(idle)),
            due_at: due_at(app, at, self.expires_at, self.last_used_at, at),
        }
    }
}

/// What a login or an install gives: who keeps it, who consented upstream, and the tokens.
#[derive(Debug, Clone)]
pub struct Consent {
    pub account_id: AccountName,
    pub owner: AccountName,
    pub company_id: String,
    pub company_domain: String,
    pub company_name: String,
    pub user_id: String,
    pub user_name: String,
    pub api_domain: String,
    pub scope: String,
    pub access_token: Sealed,
    pub refresh_token: Sealed,
    pub expires_at: Timestamp,
    pub authorized_at: Timestamp,
    pub idle_deadline: Option<Timestamp>,
    pub due_at: Timestamp,
}
