//! `token-refresher connections refresh`: the same refresh as the webhook's.

use std::time::Duration;

use anyhow::{Context as _, bail};
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{ConnectionId, ConnectionState};
use pipekeeper_refresh::{Outcome, RefreshError, RefreshResult, Trigger};
use pipekeeper_service::Loaded;

use super::get;
use super::text::{state, when};
use crate::TokenRefresher;
use crate::commands::CommandRefresher;

/// How long the operator waits: another process may hold the lease.
const REFRESH_TIMEOUT: Duration = Duration::from_mins(1);

/// # Errors
/// Whatever leaves the row without a newer token, in words.
pub(super) async fn refresh(
    id: &ConnectionId,
    config: &Loaded<TokenRefresher>,
) -> anyhow::Result<String> {
    let refresher = CommandRefresher::open(config).await?;
    let told = through(&refresher, id).await;
    // What is under way is ended first, and its line written.
    refresher.close().await;
    told
}

async fn through(refresher: &CommandRefresher, id: &ConnectionId) -> anyhow::Result<String> {
    let have = get(refresher.store(), id).await?.generation;
    let result = refresher
        .refresh(id, Some(have), Trigger::Operator, REFRESH_TIMEOUT)
        .await;
    told(result, have, refresher.now())
}

pub(super) fn told(result: RefreshResult, have: i64, now: Timestamp) -> anyhow::Result<String> {
    let (what, row) = match result {
        Ok(Outcome::Refreshed(row)) => ("refreshed", row),
        Ok(Outcome::Replayed(row)) => (
            "the provider's answer to an earlier refresh was still in a journal, and is stored now",
            row,
        ),
        Ok(Outcome::AlreadyNewer(row) | Outcome::Adopted(row)) => {
            ("another process was first, and got a newer token", row)
        }
        Ok(Outcome::Revoked(_) | Outcome::RevocationUnconfirmed(_)) => {
            bail!("not refreshed: it was disconnected meanwhile")
        }
        Err(error) => return Err(why(error, now)).context("not refreshed"),
    };
    Ok(format!(
        "{what}: generation {have} → {}; the access token ends {}",
        row.generation,
        when(row.expires_at, now)
    ))
}

fn why(error: RefreshError, now: Timestamp) -> anyhow::Error {
    let until = |at: Timestamp| {
        let ends = if at > now { "ends" } else { "ended" };
        format!("the access token it has {ends} {}", when(at, now))
    };
    let text = match error {
        RefreshError::NotFound => "it is not there any more".to_owned(),
        RefreshError::Ended {
            state: ended,
            reason,
            since,
        } => {
            let next = match ended {
                ConnectionState::Revoked => "only a new consent revives it",
                ConnectionState::Active | ConnectionState::ReauthRequired => {
                    "the account has to be connected again. If the mistake was ours, `token-refresher recheck` has it tried once more"
                }
            };
            format!(
                "it is {} since {}: {next}",
                state(ended, reason.as_deref()),
                when(since, now)
            )
        }
        RefreshError::RefusedAfterRenewal { retry_at } => format!(
            "its token was renewed ahead of time a moment ago, and another would fare no better; the next renewal may come {}",
            when(retry_at, now)
        ),
        RefreshError::TryLater {
            retry_at,
            token_expires_at,
        } => format!(
            "a refresh failed a moment ago, the next may come {}; {}",
            when(retry_at, now),
            until(token_expires_at)
        ),
        RefreshError::Busy => "another process is refreshing it, or the provider is slow; \
             `token-refresher connections show` reports the result"
            .to_owned(),
        RefreshError::ClientMisconfigured {
            word,
            retry_at,
            token_expires_at,
        } => format!(
            "the provider refuses our client ({word}): check client_id and client_secret; it is asked again {}; {}",
            when(retry_at, now),
            until(token_expires_at)
        ),
        RefreshError::NotSent {
            retry_at,
            token_expires_at,
        } => format!(
            "the provider's token endpoint can't be reached; the next attempt may come {}; {}",
            when(retry_at, now),
            until(token_expires_at)
        ),
        RefreshError::Provider {
            word,
            retry_at,
            token_expires_at,
            timed_out: _,
        } => format!(
            "the provider returned an invalid response ({word}); the next attempt may come {}; {}",
            when(retry_at, now),
            until(token_expires_at)
        ),
        RefreshError::Unstored {
            retry_at,
            token_expires_at,
        } => format!(
            "the provider has given new tokens, but the database refuses to store them: the log says why. They are kept, and the database is asked again {}; {}",
            when(retry_at, now),
            until(token_expires_at)
        ),
        RefreshError::UnknownApp => "its app is not configured here".to_owned(),
        RefreshError::Store(error) => {
            return anyhow::Error::from(error).context("the database could not be used");
        }
        RefreshError::Sealed(error) => {
            return anyhow::Error::from(error).context("its stored token does not open");
        }
    };
    anyhow::Error::msg(text)
}
