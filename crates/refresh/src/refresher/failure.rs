//! No newer token: what that means for the connection, and when it is tried again.

use std::time::Duration;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::ConnectionState;
use pipekeeper_core::oauth::{TokenError, Unknown};
use pipekeeper_core::random;
use pipekeeper_core::store::SpendFailure;

use super::attempt::SpendContext;
use super::backoff::{self, back_off};
use super::guard::{MASS_WINDOW, PROBE_EVERY};
use super::log::error_code;
use super::{RefreshError, RefreshResult, Refresher, adopt};
use crate::journal::JournalError;

impl Refresher {
    /// `invalid_grant` is a hint until the write that compares on the generation: a sibling may have been faster.
    pub(super) async fn on_invalid_grant(
        &self,
        context: SpendContext<'_>,
        in_doubt: bool,
    ) -> RefreshResult {
        let SpendContext {
            row, app, lease, ..
        } = context;
        let now = self.clock.now();
        if row.state == ConnectionState::ReauthRequired {
            // Rechecked, and dead it is: since when and why stays as it was.
            self.end_lease(row, || {
                self.store
                    .connection_still_refused(&row.id, &lease.owner, now)
            })
            .await?;
        } else {
            let _one_at_a_time = self.guard.one_at_a_time().await;
            if !self
                .retry_until_stored(row, || self.guard.may_reject(app, in_doubt))
                .await?
            {
                return self.defer_rejection(context, in_doubt).await;
            }
            let word = Some("invalid_grant");
            // The write leaves the generation as it is: a held lease would be written again.
            self.continuity.let_go(&row.id);
            let ended = self
                .write_over(row, |generation| {
                    self.store
                        .connection_reauth_required(&row.id, generation, in_doubt, word, now)
                })
                .await?;
            if ended {
                tracing::error!(connection.id = %row.id, generation = row.generation, in_doubt, "the provider refused the refresh token: a new consent is needed");
            } else {
                // Of a row that was disconnected meanwhile.
                self.release(row, lease).await;
            }
        }
        adopt(self.reread(row).await?.ok_or(RefreshError::NotFound)?)
    }

    /// One refusal of too many at once: the connection is kept, and tried again when they have stopped. One in doubt is tried
    /// again soon: if the provider gives others new tokens by then, it died of its lost answer.
    async fn defer_rejection(&self, context: SpendContext<'_>, in_doubt: bool) -> RefreshResult {
        let (word, wait) = if in_doubt {
            ("refused_in_doubt", back_off(context.row.failures, None))
        } else {
            // Not all at once, and not before the window has moved on.
            let wait = random::between(MASS_WINDOW * 11 / 10, MASS_WINDOW * 12 / 10);
            ("mass_rejection", wait)
        };
        let retry_at = self.record_failure(context, word, wait, in_doubt).await;
        Err(provider(word.to_owned(), false, retry_at, context))
    }

    /// The response to the last holder of the lease can't be searched for: the connection waits until it can.
    pub(super) async fn unreadable(
        &self,
        context: SpendContext<'_>,
        error: JournalError,
    ) -> RefreshResult {
        let row = context.row;
        let word = "journal_unreadable";
        let wait = back_off(row.failures, None);
        let retry_at = self.record_failure(context, word, wait, true).await;
        tracing::error!(connection.id = %row.id, generation = row.generation, "no refresh: a journal that may hold the answer can't be read: {:#}", anyhow::Error::from(error));
        Err(provider(word.to_owned(), false, retry_at, context))
    }

    /// Anything but a refusal of the grant.
    pub(super) async fn failed(
        &self,
        context: SpendContext<'_>,
        error: TokenError,
        in_doubt: bool,
    ) -> RefreshResult {
        let SpendContext {
            row, app, lease, ..
        } = context;
        let token_expires_at = row.expires_at;
        let word = error_code(&error);
        if let TokenError::ClientRefused(refused) = error {
            // Ours to mend: no connection pays for it.
            let retry_at = self.guard.suspend(app, refused);
            if in_doubt && !row.in_doubt {
                // The doubt of the first call outlives the refusal of the second.
                self.record_failure(context, &word, PROBE_EVERY, in_doubt)
                    .await;
            } else {
                self.release(row, lease).await;
            }
            tracing::error!(
                app = app.key,
                "the provider refuses our client ({word}): check client_id and client_secret"
            );
            return Err(RefreshError::ClientMisconfigured {
                word: refused,
                retry_at,
                token_expires_at,
            });
        }
        let asked = error.retry_after();
        let in_doubt = matches!(&error, TokenError::Unknown(_)) || in_doubt;
        let wait = back_off(row.failures, asked);
        let retry_at = self.record_failure(context, &word, wait, in_doubt).await;
        let timed_out = matches!(&error, TokenError::Unknown(Unknown::TimedOut(_)));
        let not_sent = matches!(&error, TokenError::NotSent(_));
        tracing::warn!(connection.id = %row.id, generation = row.generation, retry_at = %retry_at, "no refresh ({word}): {:#}", anyhow::Error::from(error));
        Err(if not_sent {
            RefreshError::NotSent {
                retry_at,
                token_expires_at,
            }
        } else {
            provider(word, timed_out, retry_at, context)
        })
    }

    /// Ends the lease of a spend that came to nothing. Returns when the connection may be tried again.
    async fn record_failure(
        &self,
        context: SpendContext<'_>,
        word: &str,
        wait: Duration,
        in_doubt: bool,
    ) -> Timestamp {
        let SpendContext { row, lease, .. } = context;
        let retry_at = self.waits.set(&row.id, backoff::Reason::Failure, wait);
        let failure = SpendFailure {
            retry_at,
            last_error: word.to_owned(),
            in_doubt: self.doubt(in_doubt),
            due_at: row.due_at.max(retry_at),
        };
        let now = self.clock.now();
        let written = self
            .end_lease(row, || {
                self.store
                    .connection_spend_failed(&row.id, &lease.owner, &failure, now)
            })
            .await;
        if let Err(error) = written {
            tracing::error!(connection.id = %row.id, "the database refuses to note that a refresh failed ({word}): {:#}", anyhow::Error::from(error));
        }
        retry_at
    }
}

fn provider(
    word: String,
    timed_out: bool,
    retry_at: Timestamp,
    context: SpendContext<'_>,
) -> RefreshError {
    RefreshError::Provider {
        word,
        timed_out,
        retry_at,
        token_expires_at: context.row.expires_at,
    }
}
