//! What a connection is: its id, its account and owner, its states.

use std::fmt;
use std::str::FromStr;

use diesel::mysql::Mysql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;
use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;
use crate::schema::connections;
use crate::sealed::Sealed;

/// Our name for a connection: `UUIDv7` text, so that ids sort by birth.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ConnectionId(String);

impl ConnectionId {
    pub fn generate() -> Self {
        Self(uuid::Uuid::now_v7().to_string())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ConnectionId {
    type Err = InvalidName;

    /// Takes any plain ASCII word: whether it names a row is the database's to say.
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.len() {
            0 => Err(InvalidName::Empty),
            1..=64 if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(Self(text.to_owned())),
            1..=64 => Err(InvalidName::Characters),
            _ => Err(InvalidName::TooLong),
        }
    }
}

/// Who keeps a connection: a tenant (`account_id`) and its user (`owner`), in the caller's own words.
///
/// 1 to 128 bytes, no control characters, no outer white space, compared byte for byte. (`MySQL` ignores trailing
/// blanks when it compares: without the rule two of its rows would be one.)
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct AccountName(String);

/// What installs that no login of ours started are filed under, and no caller's name begins with.
pub const MARKETPLACE_PREFIX: &str = "~pipedrive:";

impl AccountName {
    pub const MAX_BYTES: usize = 128;

    /// `~pipedrive:<id>`: the account of an install that no login of ours started.
    pub fn marketplace(upstream_id: &str) -> Result<Self, InvalidName> {
        Self::checked(format!("{MARKETPLACE_PREFIX}{upstream_id}"))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_marketplace(&self) -> bool {
        self.0.starts_with('~')
    }

    fn checked(text: String) -> Result<Self, InvalidName> {
        if text.is_empty() {
            Err(InvalidName::Empty)
        } else if text.len() > Self::MAX_BYTES {
            Err(InvalidName::TooLong)
        } else if text.chars().any(char::is_control) || text.trim() != text {
            Err(InvalidName::Characters)
        } else {
            Ok(Self(text))
        }
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for AccountName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        Self::checked(text.to_owned())
    }
}

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    #[error("is empty")]
    Empty,
    #[error("is too long")]
    TooLong,
    #[error("has control characters or outer white space")]
    Characters,
}

/// Whether a connection can be used. Only the provider's own word makes one `ReauthRequired`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    Active,
    /// The provider refused the refresh token; a login or a reinstall heals it.
    ReauthRequired,
    /// Disconnected here or uninstalled there; no refresh ever revives it, a new consent does.
    Revoked,
}

impl ConnectionState {
    /// The word in the database and in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::ReauthRequired => "reauth_required",
            Self::Revoked => "revoked",
        }
    }
}

impl FromStr for ConnectionState {
    type Err = UnknownState;

    fn from_str(word: &str) -> Result<Self, UnknownState> {
        match word {
            "active" => Ok(Self::Active),
            "reauth_required" => Ok(Self::ReauthRequired),
            "revoked" => Ok(Self::Revoked),
            _ => Err(UnknownState(word.to_owned())),
        }
    }
}

/// A word that is no state: the row was written by something else.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no connection state")]
pub struct UnknownState(String);

/// Why a connection is `revoked` whose tokens went back to the table that they came from.
pub const HANDED_BACK: &str = "handed_back";

/// n8n's `Platform` (the provider's `platform`) and `AppId` (the OAuth client id).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppKey {
    pub platform: String,
    pub app_id: String,
}

/// One row; tokens sealed.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = connections, check_for_backend(Pg, Mysql, Sqlite))]
pub struct Connection {
    pub id: ConnectionId,
    pub platform: String,
    pub app_id: String,
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
    pub refreshed_at: Option<Timestamp>,
    pub authorized_at: Timestamp,
    pub idle_deadline: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub generation: i64,
    pub state: ConnectionState,
    pub state_reason: Option<String>,
    pub state_since: Timestamp,
    pub in_doubt: bool,
    pub lease_owner: Option<String>,
    pub due_at: Timestamp,
    pub early_renewals: i32,
    pub failures: i32,
    pub retry_at: Option<Timestamp>,
    pub last_error: Option<String>,
    pub revoke_pending: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Connection {
    pub fn app(&self) -> AppKey {
        AppKey {
            platform: self.platform.clone(),
            app_id: self.app_id.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_databases_compare_differently_are_refused() {
        for bad in [
            "",
            " a",
            "a ",
            "a\u{0}",
            "a\nb",
            "\u{a0}a",
            &"x".repeat(129),
        ] {
            assert!(bad.parse::<AccountName>().is_err(), "{bad:?}");
        }
        for good in ["a", "A", "ä", "a b", "~pipedrive:7", &"x".repeat(128)] {
            assert!(good.parse::<AccountName>().is_ok(), "{good:?}");
        }
    }

    #[test]
    fn states_are_the_words_they_are_stored_as() {
        for state in [
            ConnectionState::Active,
            ConnectionState::ReauthRequired,
            ConnectionState::Revoked,
        ] {
            assert_eq!(state.as_str().parse::<ConnectionState>().unwrap(), state);
        }
        assert!("dead".parse::<ConnectionState>().is_err());
    }
}
