//! What was received goes into the row, by compare on the generation; what the row says otherwise is adopted.

use std::sync::Arc;
use std::time::Duration;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{Connection, ConnectionState, HANDED_BACK};
use pipekeeper_core::granted::fit_for_column;
use pipekeeper_core::oauth::Tokens;
use pipekeeper_core::provider::App;
use pipekeeper_core::random;
use pipekeeper_core::refresh_schedule::{due_at, renewal_due_of};
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Commit, StoreError};
use pipekeeper_core::vault::RowContext;

use super::attempt::{Received, Source, SpendContext};
use super::backoff::EARLY_REFRESH_WINDOW;
use super::lease::Lease;
use super::unstored::{HeldBy, RETRY_EVERY};
use super::{Outcome, RefreshError, RefreshResult, Refresher, Rule, Trigger, adopt};

impl Refresher {
    /// Stores what was received, for as long as it takes: only this process has it, and its journal.
    pub(super) async fn commit(
        &self,
        context: SpendContext<'_>,
        received: Received,
        source: Source,
    ) -> RefreshResult {
        let SpendContext {
            row,
            app,
            token,
            lease,
            trigger,
            ..
        } = context;
        let asked_for = match trigger {
            Trigger::Webhook => Some(self.clock.now()),
            Trigger::Operator
            | Trigger::Sweep
            | Trigger::KeepAlive
            | Trigger::Recheck
            | Trigger::Revocation => row.last_used_at,
        };
        let early = self.earliness(context);
        let how = CommitContext {
            asked_for,
            early,
            // Only the process that spent it, under a lease of its own, knows that no other has.
            spent_under: (source == Source::Provider).then(|| lease.owner.clone()),
        };
        let mut pause = Duration::from_secs(1);
        let stored = loop {
            match self.store_received(row, app, token, &received, &how).await {
                Ok(stored) => break stored,
                Err(refused) if received.journaled => {
                    return Err(self.left_unstored(context, refused).await);
                }
                // This is the only copy: the task must not end.
                Err(refused) => {
                    self.hold(row, row.generation, HeldBy::Task, refused).await;
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_EVERY);
                }
            }
        };
        match stored {
            Stored::Committed(row) => {
                if how.early == Earliness::Unnamed {
                    self.unnamed.early_refresh(&row.id, self.clock.monotonic());
                }
                tracing::info!(connection.id = %row.id, generation = row.generation, trigger = trigger.as_str(), "refreshed");
                let row = Arc::new(row);
                Ok(match source {
                    Source::Provider => Outcome::Refreshed(row),
                    Source::Journal => Outcome::Replayed(row),
                })
            }
            Stored::Superseded(current) => adopt(current),
            Stored::WentBack => Err(RefreshError::Busy),
            Stored::Deleted => Err(RefreshError::NotFound),
        }
    }

    /// The same for any holder of an answer, with or without a lease: the generation guards the write.
    ///
    /// # Errors
    /// What the database refuses. The answer stays unsettled in the journal.
    pub(super) async fn store_received(
        &self,
        row: &Connection,
        app: &App,
        spent: &Secret,
        received: &Received,
        how: &CommitContext,
    ) -> Result<Stored, StoreError> {
        let now = self.clock.now();
        let mut commit = self.commit_of(row, app, spent, received, how);
        let written = async |commit: &Commit| {
            self.write_over(row, |generation| {
                self.store
                    .connection_commit(&row.id, generation, commit, now)
            })
            .await
        };
        let committed = match written(&commit).await {
            Err(refused) => {
                if !self.unstored.has(row) {
                    tracing::error!(connection.id = %row.id, generation = row.generation, "the database refuses what a refresh brought; now the tokens alone, with scope and API domain as they were: {:#}", anyhow::Error::from(refused));
                }
                commit.scope = None;
                commit.api_domain = None;
                written(&commit).await?
            }
            Ok(committed) => committed,
        };
        let committed = committed || self.revive(row, &commit).await?;
        if committed {
            self.settled(row, spent);
            let current = if how.spent_under.is_some() {
                Some(after(row, commit, now))
            } else {
                self.reread(row).await?
            };
            let Some(current) = current else {
                return Ok(Stored::Deleted);
            };
            self.continuity.saw(&current, self.clock.monotonic());
            return Ok(Stored::Committed(current));
        }
        let Some(current) = self.reread(row).await? else {
            self.settled(row, spent);
            return Ok(Stored::Deleted);
        };
        if current.generation < row.generation {
            return Ok(Stored::WentBack);
        }
        // The row moved on meanwhile. Reconnected, or refreshed by another: what was received is of the past, and dropped.
        if was_handed_back(&current) {
            // Its tokens are in use elsewhere: nothing is revoked.
        } else if current.state == ConnectionState::Revoked
            && current.generation == row.generation + 1
        {
            // Disconnected: what was just received must not live on at the provider.
            let token = received.tokens.refresh_token.as_ref().unwrap_or(spent);
            if !self.schedule_revocation(&current, token).await? {
                // Another write was faster, and decides.
                let newest = self.reread(row).await?.unwrap_or(current);
                return Ok(Stored::Superseded(newest));
            }
        }
        self.settled(row, spent);
        Ok(Stored::Superseded(current))
    }

    /// The answer to this token has had its effect.
    fn settled(&self, row: &Connection, spent: &Secret) {
        self.unstored.forget(&row.id);
        self.journal.settle(&row.id, row.generation, spent);
    }

    /// Writes over the generation that the row was read with. Where the row has moved on since, only a broken rule writes all
    /// the same.
    pub(super) async fn write_over<W>(
        &self,
        row: &Connection,
        write: impl Fn(i64) -> W,
    ) -> Result<bool, StoreError>
    where
        W: Future<Output = Result<bool, StoreError>>,
    {
        let written = self
            .retry_until_stored(row, || write(row.generation))
            .await?;
        if written || self.rules.keep(Rule::CompareGenerations) {
            return Ok(written);
        }
        match self.reread(row).await? {
            Some(current) => {
                self.retry_until_stored(row, || write(current.generation))
                    .await
            }
            None => Ok(false),
        }
    }

    /// Leaves a token that lives on at the provider to the sweep's revocations, in the row that ended.
    pub(super) async fn schedule_revocation(
        &self,
        row: &Connection,
        token: &Secret,
    ) -> Result<bool, StoreError> {
        let key = row.app();
        let sealed = self
            .vault
            .seal_refresh_token(RowContext::of(row, &key), token);
        let now = self.clock.now();
        self.retry_until_stored(row, || {
            self.store
                .connection_revoke_also(&row.id, row.generation, &sealed, now)
        })
        .await
    }

    fn earliness(&self, context: SpendContext<'_>) -> Earliness {
        let SpendContext { row, app, .. } = context;
        let is_asked = context.trigger.is_asked();
        if !is_asked || self.clock.now() >= renewal_due_of(app.policy(), row) {
            Earliness::Due
        } else if context.names_generation {
            Earliness::Refused
        } else {
            Earliness::Unnamed
        }
    }

    fn commit_of(
        &self,
        row: &Connection,
        app: &App,
        spent: &Secret,
        received: &Received,
        how: &CommitContext,
    ) -> Commit {
        let Received { tokens, at, .. } = received;
        let key = row.app();
        let to = RowContext::of(row, &key);
        let expires_at = at.saturating_add(tokens.expires_in);
        let in_streak = row
            .refreshed_at
            .is_some_and(|last| at.saturating_since(last) < EARLY_REFRESH_WINDOW);
        Commit {
            spent_under: how.spent_under.clone(),
            access_token: self.vault.seal_access_token(to, &tokens.access_token),
            refresh_token: self
                .vault
                .seal_refresh_token(to, tokens.refresh_token.as_ref().unwrap_or(spent)),
            scope: tokens.scope.as_deref().map(fit_for_column),
            api_domain: api_domain(row, app, tokens),
            expires_at,
            refreshed_at: *at,
            idle_deadline: app
                .provider
                .refresh_idle
                .map(|idle| at.saturating_add(idle)),
            early_renewals: match how.early {
                Earliness::Unnamed if in_streak => row.early_renewals,
                Earliness::Refused if in_streak => row.early_renewals.saturating_add(1),
                Earliness::Refused => 1,
                Earliness::Due | Earliness::Unnamed => 0,
            },
            due_at: due_at(app, *at, expires_at, how.asked_for, self.clock.now()),
        }
    }

    /// The row as it is now: what was written has its end told, also when the answer to the write got lost.
    pub(super) async fn reread(&self, row: &Connection) -> Result<Option<Connection>, StoreError> {
        self.retry_until_stored(row, || self.store.connection_find(&row.id))
            .await
    }

    /// Goes on until the database answers: what a refresh came to must not be dropped, and what follows depends on it.
    ///
    /// # Errors
    /// It did answer, and refuses: it would again.
    pub(super) async fn retry_until_stored<T, W>(
        &self,
        row: &Connection,
        write: impl Fn() -> W,
    ) -> Result<T, StoreError>
    where
        W: Future<Output = Result<T, StoreError>>,
    {
        loop {
            match write().await {
                Err(error) if error.is_unavailable() => {
                    // The store logs the outage.
                    tracing::debug!(connection.id = %row.id, "a refresh waits for the database: {:#}", anyhow::Error::from(error));
                    let pause = (Duration::from_millis(100), Duration::from_millis(300));
                    tokio::time::sleep(random::between(pause.0, pause.1)).await;
                }
                answered => return answered,
            }
        }
    }

    /// Ends a lease by a write that leaves the row's generation as it is: from now on the lease must not be written again.
    pub(super) async fn end_lease<T, W>(
        &self,
        row: &Connection,
        write: impl Fn() -> W,
    ) -> Result<T, StoreError>
    where
        W: Future<Output = Result<T, StoreError>>,
    {
        self.continuity.let_go(&row.id);
        self.retry_until_stored(row, write).await
    }

    /// Ends a lease under which nothing more is done. One that the database does not let go of ends as an orphan's does.
    pub(super) async fn release(&self, row: &Connection, lease: &Lease) {
        let released = self
            .end_lease(row, || self.store.lease_release(&row.id, &lease.owner))
            .await;
        if let Err(error) = released {
            tracing::error!(connection.id = %row.id, "the database refuses to end a lease: {:#}", anyhow::Error::from(error));
        }
    }
}

/// Whether a token was renewed although it had not come to its end, and for whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Earliness {
    /// At its time.
    Due,
    /// For a caller that named the generation that was refused.
    Refused,
    /// For one that named none: it has a back-off of its own (`UnnamedRefreshes`).
    Unnamed,
}

/// How an answer came about, as far as the row depends on it.
#[derive(Debug)]
pub(super) struct CommitContext {
    pub(super) asked_for: Option<Timestamp>,
    pub(super) early: Earliness,
    pub(super) spent_under: Option<String>,
}

/// What became of an answer.
#[derive(Debug)]
pub(super) enum Stored {
    Committed(Connection),
    /// The row had another generation.
    Superseded(Connection),
    /// The row is older than it was: the database has lost commits. The response stays in the journal for it.
    WentBack,
    Deleted,
}

/// Whether the row went back to where it came from before an answer for it was there. Says so: there the older tokens are.
pub(super) fn was_handed_back(row: &Connection) -> bool {
    let is_handed_back =
        row.state == ConnectionState::Revoked && row.state_reason.as_deref() == Some(HANDED_BACK);
    if is_handed_back {
        tracing::error!(connection.id = %row.id, "an answer came after the connection had been handed back, and is dropped: if it is refused there, it has to be connected again");
    }
    is_handed_back
}

/// Where bearers go from now on: as the provider says, if it is a host of its own; otherwise as before.
fn api_domain(row: &Connection, app: &App, tokens: &Tokens) -> Option<String> {
    match app.provider.api_domain(tokens.api_domain.as_deref()?) {
        Ok(domain) => Some(domain.as_str().to_owned()),
        Err(error) => {
            tracing::error!(connection.id = %row.id, "the provider named an api_domain that {error}: keeping the old one");
            None
        }
    }
}

/// The row as [`connection_commit`](pipekeeper_core::store::Store::connection_commit) leaves it for who has spent its token.
fn after(row: &Connection, commit: Commit, now: Timestamp) -> Connection {
    let was_active = row.state == ConnectionState::Active;
    Connection {
        access_token: commit.access_token,
        refresh_token: commit.refresh_token,
        scope: commit.scope.unwrap_or_else(|| row.scope.clone()),
        api_domain: commit.api_domain.unwrap_or_else(|| row.api_domain.clone()),
        expires_at: commit.expires_at,
        refreshed_at: Some(commit.refreshed_at),
        idle_deadline: commit.idle_deadline,
        early_renewals: commit.early_renewals,
        due_at: commit.due_at,
        generation: row.generation + 1,
        state: ConnectionState::Active,
        state_reason: None,
        state_since: if was_active { row.state_since } else { now },
        in_doubt: row.in_doubt && !was_active,
        lease_owner: None,
        failures: 0,
        retry_at: None,
        last_error: None,
        updated_at: now,
        ..row.clone()
    }
}
