//! Under a lease: look before spending, spend, and once more where nobody knows what the first call did.

use std::time::Duration;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::oauth::{TokenBody, TokenError, Tokens, Unknown};
use pipekeeper_core::provider::App;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Connection, RefreshLogEntry, StoreError};

use super::commit::Source;
use super::lease::Lease;
use super::log::{outcome_of, word_of};
use super::{
    Asked, FlightResult, Outcome, RefreshError, Refresher, Report, Rule, Trigger, adopt, ended,
};
use crate::journal::{Answer, JournalError};
use crate::spend::spend;

/// What an attempt to spend came to.
pub(super) enum Attempt {
    /// A journal has the answer.
    Found(Received),
    /// The lease is somebody else's, or nobody's; the row as it is, if it is.
    Overtaken(Option<Box<Connection>>),
    Unreadable(JournalError),
    /// The database refuses to show the row.
    Refused(StoreError),
    /// What is left of the lease is no time for a call.
    TooLate,
    Answered(Result<Received, TokenError>),
}

/// What the provider gave, and when.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) tokens: Tokens,
    pub(super) at: Timestamp,
    /// Whether the journal has it: if not, this is the only copy.
    pub(super) journaled: bool,
}

/// A connection, its app, and the token that is to be spent under this lease.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spending<'a> {
    pub(super) row: &'a Connection,
    pub(super) app: &'a App,
    pub(super) token: &'a Secret,
    pub(super) lease: &'a Lease,
    pub(super) trigger: Trigger,
    /// Whether the caller said which generation was refused.
    pub(super) names_generation: bool,
}

impl<'a> Spending<'a> {
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
    pub(super) async fn renew(&self, spending: Spending<'_>, report: &mut Report) -> FlightResult {
        let Spending {
            row, app, lease, ..
        } = spending;
        // Whoever had the lease may have been answered.
        let mut in_doubt = self.doubt(row.in_doubt || lease.taken_over);
        match self.attempts(spending, &mut in_doubt, report).await {
            Attempt::Found(received) => self.commit(spending, received, Source::Journal).await,
            Attempt::Overtaken(Some(current)) if current.generation == row.generation => {
                Err(ended(&current).unwrap_or(RefreshError::Busy))
            }
            Attempt::Overtaken(Some(current)) => adopt(*current),
            Attempt::Overtaken(None) => Err(RefreshError::NotFound),
            Attempt::Unreadable(error) => self.unreadable(spending, error).await,
            Attempt::Refused(error) => Err(error.into()),
            Attempt::TooLate => {
                self.release(row, lease).await;
                Err(RefreshError::Busy)
            }
            Attempt::Answered(Ok(received)) => {
                self.guard.granted(app);
                let result = self.commit(spending, received, Source::Provider).await;
                if let (Ok(Outcome::Refreshed(row)), Some(last)) =
                    (&result, report.attempts.last_mut())
                {
                    last.generation_after = Some(row.generation);
                }
                result
            }
            Attempt::Answered(Err(TokenError::InvalidGrant)) if in_doubt => {
                // The last holder may have been frozen, and have written down its answer since the last look.
                match self.look(spending).await {
                    Ok(Some(received)) => self.commit(spending, received, Source::Journal).await,
                    Ok(None) => self.rejected(spending, in_doubt).await,
                    Err(error) => self.unreadable(spending, error).await,
                }
            }
            Attempt::Answered(Err(TokenError::InvalidGrant)) => {
                self.rejected(spending, in_doubt).await
            }
            Attempt::Answered(Err(error)) => self.failed(spending, error, in_doubt).await,
        }
    }

    /// One attempt, and one more each where nobody knows what the first did, and where the provider knows us by our other
    /// secret alone.
    pub(super) async fn attempts(
        &self,
        spending: Spending<'_>,
        in_doubt: &mut bool,
        report: &mut Report,
    ) -> Attempt {
        let (mut secret, mut other) = self.guard.secrets(spending.app);
        let mut asked_again = false;
        let mut last = None;
        loop {
            let attempt = self.attempt(spending, secret, *in_doubt, report).await;
            match (&attempt, other) {
                (Attempt::Answered(Err(TokenError::Unknown(unknown))), _) => {
                    *in_doubt = self.doubt(true);
                    // A provider that allows for lost answers does so for seconds: now or never.
                    if asked_again || is_told_to_wait(unknown) || self.is_stopping() {
                        return attempt;
                    }
                    asked_again = true;
                }
                // Nothing was looked at but who we are.
                (
                    Attempt::Answered(Err(TokenError::ClientRefused("invalid_client"))),
                    Some(second),
                ) => {
                    (secret, other) = (second, None);
                }
                (Attempt::TooLate, _) => return last.unwrap_or(attempt),
                (Attempt::Answered(Ok(_) | Err(TokenError::InvalidGrant)), _) => {
                    self.guard.known_by(spending.app, secret);
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
        spending: Spending<'_>,
        secret: &Secret,
        in_doubt: bool,
        report: &mut Report,
    ) -> Attempt {
        let Spending { row, lease, .. } = spending;
        let looked_at = self.clock.monotonic();
        match self.look(spending).await {
            Ok(Some(received)) => return Attempt::Found(received),
            Ok(None) => {}
            Err(error) if in_doubt => return Attempt::Unreadable(error),
            Err(error) => tracing::warn!(
                connection.id = %row.id,
                "spending without a look into the journals: {:#}", anyhow::Error::from(error)
            ),
        }
        if in_doubt {
            // A disk that takes nothing keeps an answer out of the journal, but not out of the row.
            let current = match self.reread(row).await {
                Ok(current) => current,
                Err(error) => return Attempt::Refused(error),
            };
            let is_mine = current
                .as_ref()
                .is_some_and(|row| row.lease_owner.as_deref() == Some(&lease.owner));
            if !is_mine {
                return Attempt::Overtaken(current.map(Box::new));
            }
        }
        if !self.may_call(lease) {
            return Attempt::TooLate;
        }
        let looked_at = in_doubt.then_some(looked_at);
        Attempt::Answered(self.call(spending, secret, looked_at, report).await)
    }

    /// The provider's answer to this very token, if a journal in reach has it.
    pub(super) async fn look(
        &self,
        spending: Spending<'_>,
    ) -> Result<Option<Received>, JournalError> {
        let Spending { row, token, .. } = spending;
        if !self.rules.keep(Rule::SearchJournals) {
            return Ok(None);
        }
        let usable = |answer| received(answer, spending.app);
        self.journal
            .find(&row.id, row.generation, token, usable)
            .await
    }

    /// One call of the token endpoint; what came of it is recorded if it reached the provider.
    async fn call(
        &self,
        spending: Spending<'_>,
        secret: &Secret,
        looked_at: Option<Duration>,
        report: &mut Report,
    ) -> Result<Received, TokenError> {
        let Spending {
            row,
            app,
            token,
            lease,
            trigger,
            ..
        } = spending;
        let (started_at, started) = (self.clock.now(), self.clock.monotonic());
        let answer = spend(
            &self.client,
            app,
            secret,
            token,
            self.in_time(lease, looked_at),
        )
        .await;
        let took = self.clock.monotonic().saturating_sub(started);
        let at = self.clock.now();
        let mut journaled = false;
        let answer = match answer {
            Ok(answer) if answer.status.is_success() => {
                journaled = self.write_down(spending, at, &answer.body).await;
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
            report.attempts.push(RefreshLogEntry {
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
        answer.map(|tokens| Received {
            tokens,
            at,
            journaled,
        })
    }

    /// Makes an answer durable, before anything can go wrong with it. If the disk does not take it, the database may.
    async fn write_down(&self, spending: Spending<'_>, at: Timestamp, body: &TokenBody) -> bool {
        let Spending { row, token, .. } = spending;
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
pub(super) fn received(answer: Answer, app: &App) -> Option<Received> {
    let Answer { received_at, body } = answer;
    Some(Received {
        tokens: body.tokens(&app.provider)?,
        at: received_at,
        journaled: true,
    })
}
