//! A connection that was disconnected here: its provider is told (RFC 7009), until it has heard it.
//!
//! A disconnect does not wait for a refresh that is under way. If one was, or if the result of the last one is unknown, then
//! the provider may hold a newer token than the row, and revoking the row's own would end nothing (RFC 7009 §2.2: an unknown
//! token counts as revoked). So the doubt is settled first: the lease's holder has its time, its response is looked for in the
//! journals, and if there is none the token is refreshed once more. What comes of that is revoked.

use std::sync::Arc;

use pipekeeper_core::connection::{Connection, ConnectionState};
use pipekeeper_core::oauth::{self, TokenError};
use pipekeeper_core::provider::App;

use super::attempt::{Attempt, Received, SpendContext};
use super::backoff::back_off;
use super::lease::Lease;
use super::log::error_code;
use super::{Asked, AttemptLog, Outcome, RefreshError, RefreshResult, Refresher, Trigger, adopt};

/// `last_error` of a connection whose grant may live on at the provider.
const UNCONFIRMED: &str = "revocation_unconfirmed";

impl Refresher {
    pub(super) async fn revoke(
        &self,
        app: &App,
        row: Connection,
        attempt_log: &mut AttemptLog,
    ) -> RefreshResult {
        self.check_suspended(app, &row)?;
        let (_permit, _queued) = self.permit(app).await;
        // As it is now: a new consent must not be revoked with the old one.
        let row = self.find(&row.id).await?;
        if row.state != ConnectionState::Revoked || !row.revoke_pending {
            return adopt(row);
        }
        // A newer token may yet come back from a journal.
        if self.may_have_lost_commits().await {
            return Err(RefreshError::Busy);
        }
        if self.doubt(row.in_doubt || row.lease_owner.is_some()) {
            self.settle_doubt(app, row, attempt_log).await
        } else {
            self.revoke_token(app, row).await
        }
    }

    async fn revoke_token(&self, app: &App, row: Connection) -> RefreshResult {
        let token = self
            .vault
            .refresh_token(&row)
            .map_err(RefreshError::Sealed)?;
        match oauth::revoke(&self.client, app, &token).await {
            // A grant that the provider knows nothing of has ended, too.
            Ok(()) | Err(TokenError::InvalidGrant) => {
                let now = self.clock.now();
                self.store
                    .connection_revocation_told(&row.id, row.generation, None, now)
                    .await?;
                tracing::info!(connection.id = %row.id, "revoked at the provider");
                Ok(Outcome::Revoked(Arc::new(row)))
            }
            Err(error) => {
                let word = error_code(&error);
                tracing::warn!(connection.id = %row.id, "a disconnected grant lives on at the provider for now ({word}): {:#}", anyhow::Error::from(error));
                Err(RefreshError::Provider {
                    timed_out: false,
                    word,
                    retry_at: self.clock.now().saturating_add(back_off(0, None)),
                    token_expires_at: row.expires_at,
                })
            }
        }
    }

    /// Finds out which token is the newest, and has that one revoked.
    async fn settle_doubt(
        &self,
        app: &App,
        row: Connection,
        attempt_log: &mut AttemptLog,
    ) -> RefreshResult {
        let token = self
            .vault
            .refresh_token(&row)
            .map_err(RefreshError::Sealed)?;
        if !self.is_available(&row).await || self.is_stopping() {
            return Err(RefreshError::Busy);
        }
        let Some(lease) = self.acquire(&row).await? else {
            return Err(RefreshError::Busy);
        };
        let _held = self.continuity.hold(&row, &lease);
        self.release_if_quiet(&row, &lease).await?;
        let asked = Asked {
            trigger: Trigger::Revocation,
            failed_generation: Some(row.generation),
        };
        // Ending the row moved its generation. The response is journaled under the one before, and so is that to this refresh: it
        // is the same token's.
        let before = Connection {
            generation: row.generation - 1,
            ..row.clone()
        };
        let context = SpendContext::new(&before, app, &token, &lease, asked);
        match self.attempts(context, &mut true, attempt_log).await {
            Attempt::FoundInJournal(received) | Attempt::Response(Ok(received)) => {
                self.revoke_newest(context, &row, received).await
            }
            Attempt::Response(Err(TokenError::InvalidGrant)) => {
                // The last holder may have been frozen, and have written down its response since the last look.
                match self.find_journaled_response(context).await {
                    Ok(Some(received)) => self.revoke_newest(context, &row, received).await,
                    Ok(None) => self.unconfirmed(&row, &lease).await,
                    Err(error) => self.unreadable(context, error).await,
                }
            }
            Attempt::Response(Err(error)) => self.failed(context, error, true).await,
            Attempt::JournalUnreadable(error) => self.unreadable(context, error).await,
            Attempt::StoreRefused(error) => Err(error.into()),
            Attempt::LeaseLost(current) => adopt(*current.ok_or(RefreshError::NotFound)?),
            Attempt::DeadlinePassed => {
                self.release(&row, &lease).await;
                Err(RefreshError::Busy)
            }
        }
    }

    async fn revoke_newest(
        &self,
        context: SpendContext<'_>,
        row: &Connection,
        received: Received,
    ) -> RefreshResult {
        let (spent, spent_at) = (context.token, context.row.generation);
        let newest = received.tokens.refresh_token.as_ref().unwrap_or(spent);
        let is_stored = match self.schedule_revocation(row, newest).await {
            Ok(is_stored) => is_stored,
            Err(refused) => return Err(self.left_unstored(context, refused).await),
        };
        self.journal.settle(&row.id, spent_at, spent);
        let row = self.reread(row).await?.ok_or(RefreshError::NotFound)?;
        if is_stored {
            self.revoke_token(context.app, row).await
        } else {
            adopt(row)
        }
    }

    async fn unconfirmed(&self, row: &Connection, lease: &Lease) -> RefreshResult {
        let now = self.clock.now();
        let is_stored = self
            .retry_until_stored(row, || {
                let error = Some(UNCONFIRMED);
                self.store
                    .connection_revocation_told(&row.id, row.generation, error, now)
            })
            .await?;
        if !is_stored {
            // A new consent came meanwhile.
            self.release(row, lease).await;
            return adopt(self.reread(row).await?.ok_or(RefreshError::NotFound)?);
        }
        tracing::error!(connection.id = %row.id, company.domain = row.company_domain, "revocation unconfirmed: uninstall the app in Pipedrive. The response to this connection's last refresh was lost, and the provider refuses the token from before it");
        Ok(Outcome::RevocationUnconfirmed(Arc::new(row.clone())))
    }
}
