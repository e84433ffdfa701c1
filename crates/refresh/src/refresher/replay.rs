//! Answers that no row shows yet and that no task is about to commit: of processes that are gone, and those that the database
//! has refused.

use pipekeeper_core::connection::{Connection, ConnectionState};
use pipekeeper_core::provider::AppChoice;
use pipekeeper_core::store::StoreError;

use super::attempt::received;
use super::commit::{CommitContext, Earliness, Stored, was_handed_back};
use super::unstored::HeldBy;
use super::{Refresher, Rule};
use crate::journal::{JournalError, Unsettled};

/// Why the journals could not be gone through.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("the journals can't be read")]
    Journal(#[from] JournalError),
    #[error("the database could not be used")]
    Store(#[from] StoreError),
}

impl Refresher {
    /// Commits what processes that are gone were answered; says how many rows got newer by it. What can't be committed now
    /// keeps nothing else from it.
    pub async fn replay_once(&self) -> Result<usize, ReplayError> {
        if !self.rules.keep(Rule::SearchJournals) {
            return Ok(0);
        }
        let orphaned = self.journal.orphaned().await?;
        self.unstored
            .retain(|id| orphaned.iter().any(|answer| answer.connection == *id));
        let mut replayed = 0;
        for answer in orphaned {
            let (id, generation) = (&answer.connection, answer.generation);
            let wait = self.unstored.wait(id, generation, self.clock.monotonic());
            if wait.is_some_and(|wait| !wait.is_zero()) {
                continue;
            }
            let fate = tokio::select! {
                // Nothing gets lost: the next process goes on with it.
                () = self.tasks.stopping().cancelled() => return Ok(replayed),
                fate = self.replay(&answer) => fate?,
            };
            match fate {
                Fate::Replayed => replayed += 1,
                Fate::Settled => {}
                Fate::Kept => continue,
            }
            self.unstored.forget(id);
            self.journal.settle_orphan(&answer);
        }
        Ok(replayed)
    }

    async fn replay(&self, answer: &Unsettled) -> Result<Fate, ReplayError> {
        let id = &answer.connection;
        let row = match self.store.connection_find(id).await {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(Fate::Settled),
            Err(error) if error.is_unavailable() => return Err(error.into()),
            Err(error) => {
                tracing::warn!(connection.id = %id, "the database refuses to show a row whose tokens wait in the journal: {:#}", anyhow::Error::from(error));
                return Ok(Fate::Kept);
            }
        };
        match self.replay_into(&row, answer).await {
            Err(ReplayError::Store(error)) if !error.is_unavailable() => {
                self.hold(&row, answer.generation, HeldBy::Journal, error)
                    .await;
                Ok(Fate::Kept)
            }
            fate => fate,
        }
    }

    async fn replay_into(&self, row: &Connection, answer: &Unsettled) -> Result<Fate, ReplayError> {
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
        let answers = match self.journal.read(answer) {
            Ok(answers) => answers,
            Err(error) if error.lacks_key() => return Ok(Fate::Kept),
            // Another process may have the key: this one's has the same id, and perhaps other bytes.
            Err(error @ JournalError::Sealed(_)) => {
                tracing::error!(connection.id = %row.id, generation = answer.generation, "a response can't be opened, and is kept: {:#}", anyhow::Error::from(error));
                self.journal.keep_unread_orphan(answer);
                return Ok(Fate::Kept);
            }
            Err(error @ JournalError::Lost) => {
                tracing::error!(connection.id = %row.id, generation = answer.generation, "an answer is lost: {:#}", anyhow::Error::from(error));
                return Ok(Fate::Settled);
            }
            Err(error) => {
                tracing::warn!(connection.id = %row.id, generation = answer.generation, "an answer can't be read for now: {:#}", anyhow::Error::from(error));
                return Ok(Fate::Kept);
            }
        };
        let found = answers.into_iter().find_map(|answer| received(answer, app));
        let Some(found) = found else {
            // A later version, or a person, may know better.
            self.journal.keep_unread_orphan(answer);
            return Ok(Fate::Kept);
        };
        if ended && was_handed_back(row) {
            return Ok(Fate::Settled);
        }
        if self.stays_revoked(row) {
            return Ok(match &found.tokens.refresh_token {
                Some(token) if !self.schedule_revocation(row, token).await? => Fate::Kept,
                _ => Fate::Settled,
            });
        }
        let Ok(token) = self.vault.refresh_token(row) else {
            return Ok(Fate::Kept);
        };
        if !self.journal.is_of(answer, &token) {
            return Ok(Fate::Settled);
        }
        let how = CommitContext {
            asked_for: row.last_used_at,
            early: Earliness::Due,
            spent_under: None,
        };
        let stored = self.store_received(row, app, &token, &found, &how).await?;
        Ok(match stored {
            Stored::Committed(row) => {
                metrics::counter!("pipekeeper_refresh_total", "provider" => app.provider.key.clone(), "outcome" => "replayed")
                    .increment(1);
                tracing::warn!(connection.id = %row.id, generation = row.generation, "committed the answer that a process left in its journal");
                Fate::Replayed
            }
            Stored::Superseded(_) | Stored::Deleted => Fate::Settled,
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
