//! Spending, and how it ends: committed, rejected, or to be tried later.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::ConnectionState;
use pipekeeper_core::lifetime::{renewal_due, renewal_due_of};
use pipekeeper_core::oauth::{self, TokenError, Tokens, Unknown};
use pipekeeper_core::provider::App;
use pipekeeper_core::random;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Commit, Connection, RefreshLogEntry, SpendFailure, StoreError};
use pipekeeper_core::vault::SealedTo;

use super::lease::Lease;
use super::waits::{PROBE_EVERY, STREAK, back_off};
use super::{FlightResult, Outcome, RefreshError, Refresher, Trigger, adopt};
use crate::spend::{outcome_of, spend, word_of};

impl Refresher {
    pub(super) async fn spend_and_commit(
        &self,
        row: Connection,
        app: &App,
        lease: &Lease,
        trigger: Trigger,
    ) -> FlightResult {
        let refresh_token = match self.vault.refresh_token(&row) {
            Ok(token) => token,
            Err(error) => {
                self.store.lease_release(&row.id, &lease.owner).await?;
                return Err(RefreshError::Sealed(error));
            }
        };
        if !self.may_call(lease) {
            self.store.lease_release(&row.id, &lease.owner).await?;
            return Err(RefreshError::Busy);
        }
        // A lease that was taken over, or an earlier answer that was lost: the token may be spent already.
        let mut in_doubt = row.in_doubt || row.lease_owner.is_some();
        let mut attempts = Vec::new();
        let mut answer = self
            .call(&row, app, &refresh_token, trigger, &mut attempts)
            .await;
        if matches!(answer, Err(TokenError::Unknown(_))) {
            in_doubt = true;
            // A provider that allows for lost answers does so for seconds: now or never. One that says when to come back
            // is there, and has not done anything.
            let told_to_wait = matches!(
                answer,
                Err(TokenError::Unknown(Unknown::Status {
                    retry_after: Some(_),
                    ..
                }))
            );
            if !told_to_wait && self.may_call(lease) {
                answer = self
                    .call(&row, app, &refresh_token, trigger, &mut attempts)
                    .await;
            }
        }
        let result = match answer {
            Ok(tokens) => self.commit(row, app, &refresh_token, tokens).await,
            Err(error) => self.refused(row, app, lease, error, in_doubt).await,
        };
        if let (Ok(Outcome::Refreshed(row)), Some(last)) = (&result, attempts.last_mut()) {
            last.generation_after = Some(row.generation);
        }
        self.write_log(&attempts).await;
        result
    }

    /// One call of the token endpoint; what came of it goes to `attempts` if it reached the provider.
    async fn call(
        &self,
        row: &Connection,
        app: &App,
        refresh_token: &Secret,
        trigger: Trigger,
        attempts: &mut Vec<RefreshLogEntry>,
    ) -> Result<Tokens, TokenError> {
        let (started_at, started) = (self.clock.now(), self.clock.monotonic());
        let answer = spend(&self.client, app, refresh_token).await;
        let took = self.clock.monotonic().saturating_sub(started);
        metrics::histogram!("pipekeeper_refresh_duration_seconds", "provider" => app.provider.key.clone())
            .record(took.as_secs_f64());
        if !matches!(answer, Err(TokenError::NotSent(_))) {
            attempts.push(RefreshLogEntry {
                connection_id: row.id.clone(),
                started_at,
                trigger: trigger.as_str().to_owned(),
                outcome: answer
                    .as_ref()
                    .err()
                    .map_or("refreshed", outcome_of)
                    .to_owned(),
                generation_before: row.generation,
                generation_after: None,
                duration_ms: i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
                error: answer.as_ref().err().map(word_of),
            });
        }
        answer
    }

    /// After everything else: the log is for people, the tokens came first.
    async fn write_log(&self, attempts: &[RefreshLogEntry]) {
        for attempt in attempts {
            if let Err(error) = self.store.refresh_log_insert(attempt).await {
                tracing::warn!(connection.id = %attempt.connection_id, "no line in refresh_log: {:#}", anyhow::Error::from(error));
            }
        }
    }

    /// Stores what was received, for as long as it takes: only this process has it.
    async fn commit(
        &self,
        row: Connection,
        app: &App,
        spent: &Secret,
        tokens: Tokens,
    ) -> FlightResult {
        let now = self.clock.now();
        let commit = self.commit_of(&row, app, spent, &tokens, now);
        let committed = self
            .insist(&row, || {
                self.store
                    .connection_commit(&row.id, row.generation, &commit, now)
            })
            .await;
        let current = self.reread(&row).await?;
        if committed {
            tracing::info!(connection.id = %row.id, generation = current.generation, "refreshed");
            return Ok(Outcome::Refreshed(Arc::new(current)));
        }
        // The row moved on meanwhile. Disconnected: what was just received must not live on at the provider.
        // Reconnected: it is the older consent's, and dropped.
        if current.state == ConnectionState::Revoked {
            let token = tokens.refresh_token.as_ref().unwrap_or(spent);
            if let Err(error) = oauth::revoke(&self.client, app, token).await {
                tracing::warn!(connection.id = %current.id, "tokens of a disconnected grant could not be revoked: {:#}", anyhow::Error::from(error));
            }
        }
        adopt(current)
    }

    fn commit_of(
        &self,
        row: &Connection,
        app: &App,
        spent: &Secret,
        tokens: &Tokens,
        now: Timestamp,
    ) -> Commit {
        let key = row.app();
        let to = SealedTo {
            id: &row.id,
            app: &key,
            account_id: &row.account_id,
            owner: &row.owner,
        };
        let expires_at = now.saturating_add(tokens.expires_in);
        let api_domain = match tokens
            .api_domain
            .as_deref()
            .map(|text| app.provider.api_domain(text))
        {
            Some(Ok(domain)) => domain.as_str().to_owned(),
            Some(Err(error)) => {
                tracing::error!(connection.id = %row.id, "the provider named an api_domain that {error}: keeping the old one");
                row.api_domain.clone()
            }
            None => row.api_domain.clone(),
        };
        // Was the renewed token good by its own word? Then it was a 401 that asked.
        let early = now < renewal_due_of(row);
        let in_streak = row
            .refreshed_at
            .is_some_and(|at| now.saturating_since(at) < STREAK);
        Commit {
            access_token: self.vault.seal_access_token(to, &tokens.access_token),
            refresh_token: self
                .vault
                .seal_refresh_token(to, tokens.refresh_token.as_ref().unwrap_or(spent)),
            scope: tokens.scope.clone().unwrap_or_else(|| row.scope.clone()),
            api_domain,
            expires_at,
            refreshed_at: now,
            idle_deadline: app
                .provider
                .refresh_idle
                .map(|idle| now.saturating_add(idle)),
            early_renewals: match (early, in_streak) {
                (false, _) => 0,
                (true, false) => 1,
                (true, true) => row.early_renewals.saturating_add(1),
            },
            due_at: renewal_due(now, expires_at),
        }
    }

    async fn refused(
        &self,
        row: Connection,
        app: &App,
        lease: &Lease,
        error: TokenError,
        in_doubt: bool,
    ) -> FlightResult {
        let now = self.clock.now();
        let token_expires_at = row.expires_at;
        match &error {
            TokenError::InvalidGrant => self.rejected(row, in_doubt).await,
            TokenError::ClientRefused(word) => {
                // Ours to mend: no connection pays for it.
                let until = now.saturating_add(PROBE_EVERY);
                self.held_apps
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(app.key.clone(), (word, until));
                if in_doubt && !row.in_doubt {
                    // The doubt of the first call outlives the refusal of the second.
                    let failure = SpendFailure {
                        retry_at: until,
                        last_error: (*word).to_owned(),
                        in_doubt,
                        due_at: row.due_at.max(until),
                    };
                    self.insist(&row, || {
                        self.store
                            .connection_spend_failed(&row.id, &lease.owner, &failure, now)
                    })
                    .await;
                } else {
                    self.insist(&row, || self.store.lease_release(&row.id, &lease.owner))
                        .await;
                }
                tracing::error!(
                    app = app.key,
                    "the provider refuses our client ({word}): check client_id and client_secret"
                );
                Err(RefreshError::ClientMisconfigured {
                    word,
                    retry_at: until,
                    token_expires_at,
                })
            }
            TokenError::NotSent(_) | TokenError::TurnedAway { .. } | TokenError::Unknown(_) => {
                let asked = match &error {
                    TokenError::TurnedAway { retry_after, .. }
                    | TokenError::Unknown(Unknown::Status { retry_after, .. }) => *retry_after,
                    _ => None,
                };
                let wait = back_off(row.failures, asked);
                let retry_at = now.saturating_add(wait);
                let word = word_of(&error);
                let timed_out = matches!(&error, TokenError::Unknown(Unknown::TimedOut));
                let failure = SpendFailure {
                    retry_at,
                    last_error: word.clone(),
                    in_doubt: matches!(&error, TokenError::Unknown(_)) || in_doubt,
                    due_at: row.due_at.max(retry_at),
                };
                self.insist(&row, || {
                    self.store
                        .connection_spend_failed(&row.id, &lease.owner, &failure, now)
                })
                .await;
                tracing::warn!(connection.id = %row.id, generation = row.generation, retry_at = %retry_at, "no refresh ({word}): {:#}", anyhow::Error::from(error));
                Err(RefreshError::Provider {
                    timed_out,
                    word,
                    retry_at,
                    token_expires_at,
                })
            }
        }
    }

    /// `invalid_grant` is a hint until the row has been read again: a sibling may have been faster.
    async fn rejected(&self, row: Connection, in_doubt: bool) -> FlightResult {
        let reason = if in_doubt { "answer_lost" } else { "rejected" };
        let now = self.clock.now();
        let word = Some("invalid_grant");
        let ended = self
            .insist(&row, || {
                self.store
                    .connection_reauth_required(&row.id, row.generation, reason, word, now)
            })
            .await;
        let current = self.reread(&row).await?;
        if ended {
            tracing::error!(connection.id = %row.id, generation = row.generation, reason, "the provider refused the refresh token: a new consent is needed");
        }
        adopt(current)
    }

    /// The row as it is now: what was written has its end told, also when the answer to the write got lost.
    async fn reread(&self, row: &Connection) -> Result<Connection, RefreshError> {
        let found = self
            .insist(row, || self.store.connection_find(&row.id))
            .await;
        found.ok_or(RefreshError::NotFound)
    }

    /// Writes what only this process knows, for as long as it takes: whatever keeps the database from taking it may pass, and
    /// nothing else has it.
    async fn insist<T, W>(&self, row: &Connection, write: impl Fn() -> W) -> T
    where
        W: Future<Output = Result<T, StoreError>>,
    {
        let mut told = false;
        loop {
            match write().await {
                Ok(written) => return written,
                Err(error) => {
                    if !told {
                        told = true;
                        tracing::error!(connection.id = %row.id, "holding the provider's answer until the database takes it: {:#}", anyhow::Error::from(error));
                    }
                    let pause = (Duration::from_millis(100), Duration::from_millis(300));
                    tokio::time::sleep(random::between(pause.0, pause.1)).await;
                }
            }
        }
    }
}
