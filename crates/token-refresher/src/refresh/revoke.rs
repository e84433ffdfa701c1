//! A connection that was disconnected here: its provider is told (RFC 7009), until it has heard it.

use std::sync::Arc;

use pipekeeper_core::connection::ConnectionState;
use pipekeeper_core::oauth::{self, TokenError};
use pipekeeper_core::provider::App;
use pipekeeper_core::store::Connection;

use super::log::word_of;
use super::waits::back_off;
use super::{FlightResult, Outcome, RefreshError, Refresher, adopt};

impl Refresher {
    pub(super) async fn revoke(&self, app: &App, row: Connection) -> FlightResult {
        self.check_held(app, &row)?;
        let (_place, _queued) = self.place(app).await;
        // As it is now: a new consent must not be revoked with the old one.
        let row = self.find(&row.id).await?;
        if row.state != ConnectionState::Revoked || !row.revoke_pending {
            return adopt(row);
        }
        let token = self
            .vault
            .refresh_token(&row)
            .map_err(RefreshError::Sealed)?;
        match oauth::revoke(&self.client, app, &token).await {
            // A grant that the provider knows nothing of has ended, too.
            Ok(()) | Err(TokenError::InvalidGrant) => {
                self.store
                    .connection_revocation_told(&row.id, row.generation, self.clock.now())
                    .await?;
                tracing::info!(connection.id = %row.id, "revoked at the provider");
                Ok(Outcome::Revoked(Arc::new(row)))
            }
            Err(error) => {
                let word = word_of(&error);
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
}
