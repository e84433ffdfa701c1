//! Under a lease: search the journals, spend the token, and spend it once more where the result of the first call is unknown.

use std::time::Duration;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::Connection;
use pipekeeper_core::oauth::{TokenBody, TokenError, Tokens, Unknown};
use pipekeeper_core::provider::App;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{RefreshLogEntry, StoreError};

use super::lease::Lease;
use super::log::{error_code, outcome_of};
use super::{
    Asked, AttemptLog, Outcome, RefreshError, RefreshResult, Refresher, Rule, Trigger, adopt, ended,
};
use crate::journal::{JournalError, JournaledResponse};
use crate::token_request::spend;

/// What an attempt to spend came to.
pub(super) enum Attempt {
    /// A journal has the answer.
    FoundInJournal(Received),
    /// This process no longer holds the lease; the row as it is now, if there is one.
    LeaseLost(Option<Box<Connection>>),
    JournalUnreadable(JournalError),
    /// The database refuses to show the row.
    StoreRefused(StoreError),
    /// What is left of the lease is no time for a call.
    DeadlinePassed,
    Response(Result<Received, TokenError>),
}

/// What the provider gave, and when.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) tokens: Tokens,
    pub(super) at: Timestamp,
    /// Whether the journal has it: if not, this is the only copy.
    pub(super) journaled: bool,
}

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Provider,
    Journal,
}

/// A connection, its app, and the token that is to be spent under this lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct SpendContext<'a> {
    pub(super) row: &'a Connection,
    pub(super) app: &'a App,
    pub(super) token: &'a Secret,
    pub(super) lease: &'a Lease,
    pub(super) trigger: Trigger,
    /// Whether the caller said which generation was refused.
    pub(super) names_generation: bool,
}

impl<'a> SpendContext<'a> {
    pub(super) fn new(
        row: &'a Connection,
        app: &'a App,
        token: &'a Secret,
        lease: &'a Lease,
        asked: Asked,
    ) -> Self {
        Self {
            row,
            app,
            token,
            lease,
            trigger: asked.trigger,
            names_generation: asked.failed_generation.is_some(),
        }
    }
}

impl Refresher {
    pub(super) async fn refresh_under_lease(
        &self,
        context: SpendContext<'_>,
        attempt_log: &mut AttemptLog,
    ) -> RefreshResult {
        let SpendContext {
            row, app, lease, ..
        } = context;
        // The last holder of the lease may have got a response.
        let mut in_doubt = self.doubt(row.in_doubt || lease.taken_over);
        match self.attempts(context, &mut in_doubt, attempt_log).await {
            Attempt::FoundInJournal(received) => {
                self.commit(context, received, Source::Journal).await
            }
            Attempt::LeaseLost(Some(current)) if current.generation == row.generation => {
                Err(ended(&current).unwrap_or(RefreshError::Busy))
            }
            Attempt::LeaseLost(Some(current)) => adopt(*current),
            Attempt::LeaseLost(None) => Err(RefreshError::NotFound),
            Attempt::JournalUnreadable(error) => self.unreadable(context, error).await,
            Attempt::StoreRefused(error) => Err(error.into()),
            Attempt::DeadlinePassed => {
                self.release(row, lease).await;
                Err(RefreshError::Busy)
            }
            Attempt::Response(Ok(received)) => {
                self.guard.record_success(app);
                let result = self.commit(context, received, Source::Provider).await;
                if let (Ok(Outcome::Refreshed(row)), Some(last)) =
                    (&result, attempt_log.attempts.last_mut())
                {
                    last.generation_after = Some(row.generation);
                }
                result
            }
            Attempt::Response(Err(TokenError::InvalidGrant)) if in_doubt => {
                // The last holder may have been frozen, and have journaled its response since the last search.
                match self.find_journaled_response(context).await {
                    Ok(Some(received)) => self.commit(context, received, Source::Journal).await,
                    Ok(None) => self.on_invalid_grant(context, in_doubt).await,
                    Err(error) => self.unreadable(context, error).await,
                }
            }
            Attempt::Response(Err(TokenError::InvalidGrant)) => {
                self.on_invalid_grant(context, in_doubt).await
            }
            Attempt::Response(Err(error)) => self.failed(context, error, in_doubt).await,
        }
    }

    /// One attempt, and one more each where the result of the first is unknown, and where the provider knows us by our other
    /// secret alone.
    pub(super) async fn attempts(
        &self,
        context: SpendContext<'_>,
        in_doubt: &mut bool,
        attempt_log: &mut AttemptLog,
    ) -> Attempt {
        let (mut secret, mut other) = self.guard.secrets(context.app);
        let mut asked_again = false;
        let mut last = None;
        loop {
            let attempt = self.attempt(context, secret, *in_doubt, attempt_log).await;
            match (&attempt, other) {
                (Attempt::Response(Err(TokenError::Unknown(unknown))), _) => {
                    *in_doubt = self.doubt(true);
                    // A provider that allows for lost answers does so for seconds: now or never.
                    if asked_again || is_told_to_wait(unknown) || self.is_stopping() {
                        return attempt;
                    }
                    asked_again = true;
                }
                // The provider checked our credentials only.
                (
                    Attempt::Response(Err(TokenError::ClientRefused("invalid_client"))),
                    Some(second),
                ) => {
                    (secret, other) = (second, None);
                }
                (Attempt::DeadlinePassed, _) => return last.unwrap_or(attempt),
                (Attempt::Response(Ok(_) | Err(TokenError::InvalidGrant)), _) => {
                    self.guard.record_accepted_secret(context.app, secret);
                    return attempt;
                }
                _ => return attempt,
            }
            last = Some(attempt);
        }
    }

    /// Looks, and then calls.
    async fn attempt(
        &self,
        context: SpendContext<'_>,
        secret: &Secret,
        in_doubt: bool,
        attempt_log: &mut AttemptLog,
    ) -> Attempt {
        let SpendContext { row, lease, .. } = context;
        let searched_at = self.clock.monotonic();
        match self.find_journaled_response(context).await {
            Ok(Some(received)) => return Attempt::FoundInJournal(received),
            Ok(None) => {}
            Err(error) if in_doubt => return Attempt::JournalUnreadable(error),
            Err(error) => tracing::warn!(
                connection.id = %row.id,
                "spending without a look into the journals: {:#}", anyhow::Error::from(error)
            ),
        }
        if in_doubt {
            // A disk that takes nothing keeps an answer out of the journal, but not out of the row.
            let current = match self.reread(row).await {
                Ok(current) => current,
                Err(error) => return Attempt::StoreRefused(error),
            };
            let is_mine = current
                .as_ref()
                .is_some_and(|row| row.lease_owner.as_deref() == Some(&lease.owner));
            if !is_mine {
                return Attempt::LeaseLost(current.map(Box::new));
            }
        }
        if !self.may_call(lease) {
            return Attempt::DeadlinePassed;
        }
        let searched_at = in_doubt.then_some(searched_at);
        Attempt::Response(self.call(context, secret, searched_at, attempt_log).await)
    }

    /// The provider's answer to this very token, if a journal in reach has it.
    pub(super) async fn find_journaled_response(
        &self,
        context: SpendContext<'_>,
    ) -> Result<Option<Received>, JournalError> {
        let SpendContext { row, token, .. } = context;
        if !self.rules.keep(Rule::SearchJournals) {
            return Ok(None);
        }
        let usable = |answer| received(answer, context.app);
        self.journal
            .find(&row.id, row.generation, token, usable)
            .await
    }

    /// Whether a journal in reach holds a response to this token of the row: then the row does not have the newest one.
    ///
    /// # Errors
    /// Not all journals in reach could be searched.
    pub async fn has_journaled_response(
        &self,
        row: &Connection,
        token: &Secret,
    ) -> Result<bool, JournalError> {
        let found = self.journal.find(&row.id, row.generation, token, Some);
        Ok(found.await?.is_some())
    }

    /// One call of the token endpoint; what came of it is recorded if it reached the provider.
    async fn call(
        &self,
        context: SpendContext<'_>,
        secret: &Secret,
        searched_at: Option<Duration>,
        attempt_log: &mut AttemptLog,
    ) -> Result<Received, TokenError> {
        let SpendContext {
            row,
            app,
            token,
            lease,
            trigger,
            ..
        } = context;
        let (started_at, started) = (self.clock.now(), self.clock.monotonic());
        let answer = spend(
            &self.client,
            app,
            secret,
            token,
            self.before_deadline(lease, searched_at),
        )
        .await;
        let took = self.clock.monotonic().saturating_sub(started);
        let at = self.clock.now();
        let mut journaled = false;
        let answer = match answer {
            Ok(answer) if answer.status.is_success() => {
                journaled = self.journal_response(context, at, &answer.body).await;
                let tokens = answer.interpret(&app.provider);
                if tokens.is_err() {
                    self.journal.keep_unread(&row.id, row.generation, token);
                }
                tokens
            }
            Ok(answer) => answer.interpret(&app.provider),
            Err(error) => Err(error),
        };
        metrics::histogram!("pipekeeper_refresh_duration_seconds", "provider" => app.provider.key.clone())
            .record(took.as_secs_f64());
        if !matches!(answer, Err(TokenError::NotSent(_))) {
            attempt_log.attempts.push(RefreshLogEntry {
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
                error: answer.as_ref().err().map(error_code),
            });
        }
        answer.map(|tokens| Received {
            tokens,
            at,
            journaled,
        })
    }

    /// Makes an answer durable, before anything can go wrong with it. If the disk does not take it, the database may.
    async fn journal_response(
        &self,
        context: SpendContext<'_>,
        at: Timestamp,
        body: &TokenBody,
    ) -> bool {
        let SpendContext { row, token, .. } = context;
        let worked = self.journal.healthy();
        let written = self
            .journal
            .record(&row.id, row.generation, token, at, body)
            .await;
        let Err(error) = written else {
            return true;
        };
        metrics::counter!("pipekeeper_journal_failures_total").increment(1);
        if worked {
            tracing::error!(connection.id = %row.id, "an answer is not in the journal, it goes straight to the database: {:#}", anyhow::Error::from(error));
        }
        false
    }
}

/// A provider that says when to come back is there, and has not done anything.
fn is_told_to_wait(unknown: &Unknown) -> bool {
    matches!(
        unknown,
        Unknown::Status {
            retry_after: Some(_),
            ..
        }
    )
}

/// A journaled answer as tokens. One that is none (a provider's error page with status 200), or that this version can't
/// read, is as good as no answer.
pub(super) fn received(answer: JournaledResponse, app: &App) -> Option<Received> {
    let JournaledResponse { received_at, body } = answer;
    Some(Received {
        tokens: body.tokens(&app.provider)?,
        at: received_at,
        journaled: true,
    })
}
