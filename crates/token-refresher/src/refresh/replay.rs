//! Answers of processes that are gone, and that no row shows yet.

use pipekeeper_core::connection::ConnectionState;
use pipekeeper_core::provider::AppChoice;
use pipekeeper_core::store::{Connection, StoreError};

use super::commit::{Earliness, Provenance, Stored, came_too_late};
use super::renew::received;
use super::{Refresher, Rule};
use crate::journal::{JournalError, Unsettled};

/// Why the journals could not be gone through.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error("the journals can't be read")]
    Journal(#[from] JournalError),
    #[error("the database could not be used")]
    Store(#[from] StoreError),
}

impl Refresher {
    /// Commits what processes that are gone were answered; says how many rows got newer by it.
    pub(crate) async fn replay_once(&self) -> Result<usize, ReplayError> {
        let mut replayed = 0;
        if !self.rules.keep(Rule::SearchJournals) {
            return Ok(replayed);
        }
        for answer in self.journal.orphaned().await? {
            let row = self.store.connection_find(&answer.connection).await?;
            let fate = match row {
                None => Fate::Settled,
                Some(row) => self.replay(&answer, &row).await?,
            };
            match fate {
                Fate::Replayed => replayed += 1,
                Fate::Settled => {}
                Fate::Kept => continue,
            }
            self.journal.settle_orphan(&answer);
        }
        Ok(replayed)
    }

    async fn replay(&self, answer: &Unsettled, row: &Connection) -> Result<Fate, ReplayError> {
        // The row moved on without it, or it ended while the answer was on its way: then, and not by an answer of long ago,
        // there is one more token to revoke.
        let ended =
            row.state == ConnectionState::Revoked && row.generation == answer.generation + 1;
        if row.generation > answer.generation && !ended {
            return Ok(Fate::Settled);
        }
        // A database that went back in time, beyond this answer: those before it come first.
        if row.generation < answer.generation {
            return Ok(Fate::Kept);
        }
        let AppChoice::One(app) = self.apps.find(Some(&row.app_id), Some(&row.platform)) else {
            return Ok(Fate::Kept);
        };
        let found = match self.journal.read(answer) {
            Ok(answers) => answers.into_iter().find_map(|answer| received(answer, app)),
            Err(error) if error.lacks_key() => return Ok(Fate::Kept),
            Err(error @ (JournalError::Sealed(_) | JournalError::Lost)) => {
                tracing::error!(connection.id = %row.id, generation = answer.generation, "an answer is lost: {:#}", anyhow::Error::from(error));
                None
            }
            Err(error) => {
                tracing::warn!(connection.id = %row.id, generation = answer.generation, "an answer can't be read for now: {:#}", anyhow::Error::from(error));
                return Ok(Fate::Kept);
            }
        };
        let Some(found) = found else {
            return Ok(Fate::Settled);
        };
        if ended && came_too_late(row) {
            return Ok(Fate::Settled);
        }
        if ended {
            return Ok(match &found.tokens.refresh_token {
                Some(token) if !self.leave_to_revoke(row, token).await => Fate::Kept,
                _ => Fate::Settled,
            });
        }
        let Ok(token) = self.vault.refresh_token(row) else {
            return Ok(Fate::Kept);
        };
        if !self.journal.is_of(answer, &token) {
            return Ok(Fate::Settled);
        }
        let how = Provenance {
            asked_for: row.last_used_at,
            early: Earliness::Due,
            spent_under: None,
        };
        let stored = self.store_received(row, app, &token, found, &how).await;
        Ok(match stored {
            Stored::Committed(row) => {
                metrics::counter!("pipekeeper_refresh_total", "provider" => app.provider.key.clone(), "outcome" => "replayed")
                    .increment(1);
                tracing::warn!(connection.id = %row.id, generation = row.generation, "committed the answer that a process left in its journal");
                Fate::Replayed
            }
            Stored::MovedOn(_) | Stored::Gone => Fate::Settled,
            Stored::WentBack => Fate::Kept,
        })
    }
}

/// What is to become of an answer in a journal.
enum Fate {
    Replayed,
    /// Of no more use.
    Settled,
    /// Not yet.
    Kept,
}
