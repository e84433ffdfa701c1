//! How a refresh ends: with a newer token, or with the reason why there is none.

use std::sync::Arc;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{Connection, ConnectionState};
use pipekeeper_core::crypto::OpenError;
use pipekeeper_core::store::StoreError;

/// The row holds a newer token than the caller's.
#[derive(Debug, Clone)]
pub enum Outcome {
    Refreshed(Arc<Connection>),
    /// By an answer that a process had left in its journal.
    Replayed(Arc<Connection>),
    /// Another refresh, or a reconnect, was first.
    AlreadyNewer(Arc<Connection>),
    /// The same, found out only after a race with them.
    Adopted(Arc<Connection>),
    /// The grant of the ended connection was revoked at the provider.
    Revoked(Arc<Connection>),
    /// It can't be: the grant's newest token is unknown.
    RevocationUnconfirmed(Arc<Connection>),
}

/// Why there is no newer token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RefreshError {
    #[error("no such connection")]
    NotFound,
    #[error("the connection is {}", state.as_str())]
    Ended {
        state: ConnectionState,
        reason: Option<String>,
        since: Timestamp,
    },
    /// The token is fresh from a refresh that a 401 asked for, and got a 401 again.
    #[error("refused again right after a renewal")]
    RefusedAfterRenewal { retry_at: Timestamp },
    #[error("a refresh failed a moment ago")]
    TryLater {
        retry_at: Timestamp,
        token_expires_at: Timestamp,
    },
    #[error("another holder is refreshing")]
    Busy,
    #[error("the provider refuses our client ({word})")]
    ClientMisconfigured {
        word: &'static str,
        retry_at: Timestamp,
        token_expires_at: Timestamp,
    },
    #[error("the provider can't be reached")]
    NotSent {
        retry_at: Timestamp,
        token_expires_at: Timestamp,
    },
    #[error("the provider returned an invalid response ({word})")]
    Provider {
        word: String,
        timed_out: bool,
        retry_at: Timestamp,
        token_expires_at: Timestamp,
    },
    #[error("the connection's app is not configured here")]
    UnknownApp,
    /// The provider has given new tokens, and the database refuses them.
    #[error("the database refuses the new tokens")]
    Unstored {
        retry_at: Timestamp,
        token_expires_at: Timestamp,
    },
    #[error("the database could not be used")]
    Store(#[source] Arc<StoreError>),
    #[error("the stored token does not open")]
    Sealed(#[source] OpenError),
}

impl From<StoreError> for RefreshError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

pub type RefreshResult = Result<Outcome, RefreshError>;

/// A row that moved on since it was read is as good as refreshed, unless it ended.
pub(super) fn adopt(current: Connection) -> RefreshResult {
    match ended(&current) {
        Some(ended) => Err(ended),
        None => Ok(Outcome::Adopted(Arc::new(current))),
    }
}

pub(super) fn ended(row: &Connection) -> Option<RefreshError> {
    match row.state {
        ConnectionState::Active => None,
        state @ (ConnectionState::ReauthRequired | ConnectionState::Revoked) => {
            Some(RefreshError::Ended {
                state,
                reason: row.state_reason.clone(),
                since: row.state_since,
            })
        }
    }
}

/// The outcomes that metrics count; `asked`: whether a provider was.
pub(super) fn outcome_label(result: &RefreshResult, asked: bool) -> &'static str {
    match result {
        Ok(Outcome::Refreshed(_)) => "refreshed",
        Ok(Outcome::Replayed(_)) => "replayed",
        Ok(Outcome::AlreadyNewer(_)) => "already_newer",
        Ok(Outcome::Adopted(_)) => "adopted",
        Err(RefreshError::NotFound) => "not_found",
        Ok(Outcome::Revoked(_)) => "revoked",
        Ok(Outcome::RevocationUnconfirmed(_)) => "revocation_unconfirmed",
        Err(RefreshError::Ended { .. }) if asked => "rejected",
        Err(RefreshError::Ended { .. }) => "ended",
        Err(RefreshError::RefusedAfterRenewal { .. }) => "refused_after_renewal",
        Err(RefreshError::TryLater { .. }) => "try_later",
        Err(RefreshError::Busy) => "busy",
        Err(RefreshError::ClientMisconfigured { .. } | RefreshError::UnknownApp) => "our_fault",
        Err(RefreshError::NotSent { .. }) => "not_sent",
        Err(RefreshError::Provider { .. }) => "unknown",
        Err(RefreshError::Unstored { .. }) => "unstored",
        Err(RefreshError::Store(_)) => "store",
        Err(RefreshError::Sealed(_)) => "sealed",
    }
}
