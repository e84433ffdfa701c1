//! Responses that the database refuses to store: new tokens that only the journal holds.
//!
//! Such a response stays unsettled in the journal. Until it is stored no process may spend the connection's refresh token again:
//! in this process the list kept here says so, in others the row itself ([`Refresher::hold`]), for as long as this process
//! goes on saying so.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pipekeeper_core::connection::{Connection, ConnectionId};
use pipekeeper_core::store::{SpendFailure, StoreError};

use super::attempt::SpendContext;
use super::{RefreshError, Refresher};

/// How often the database is asked again to store a response that it has refused.
pub(super) const RETRY_EVERY: Duration = Duration::from_mins(1);

/// How long other processes leave the token alone after they have last been told to.
const HELD_FOR: Duration = Duration::from_mins(5);

/// At most this many connections are named in `/readyz`.
const NAMED_MAX: usize = 10;

/// The connections whose newer tokens wait to be stored.
#[derive(Debug, Default)]
pub(super) struct Unstored(Mutex<HashMap<ConnectionId, Waiting>>);

#[derive(Debug)]
struct Waiting {
    generation: i64,
    held_by: HeldBy,
    /// On the monotonic clock.
    retry_at: Duration,
}

/// What has the response until it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldBy {
    Journal,
    /// The task that received it, because the journal did not take it: it goes on trying.
    Task,
}

impl Unstored {
    /// Notes a refusal; says whether it is the first one.
    fn note(&self, id: &ConnectionId, waiting: Waiting) -> bool {
        let generation = waiting.generation;
        let before = self.all().insert(id.clone(), waiting);
        before.is_none_or(|before| before.generation != generation)
    }

    /// How long the response to the token of this generation still waits for another try; `None` if it does not.
    pub(super) fn wait(
        &self,
        id: &ConnectionId,
        generation: i64,
        now: Duration,
    ) -> Option<Duration> {
        let all = self.all();
        let waiting = all.get(id).filter(|it| it.generation == generation)?;
        Some(waiting.retry_at.saturating_sub(now))
    }

    pub(super) fn has(&self, row: &Connection) -> bool {
        self.wait(&row.id, row.generation, Duration::ZERO).is_some()
    }

    pub(super) fn forget(&self, id: &ConnectionId) {
        self.all().remove(id);
    }

    /// Forgets those whose response no journal holds as unsettled any more: another process has stored them.
    pub(super) fn retain(&self, is_unsettled: impl Fn(&ConnectionId) -> bool) {
        self.all()
            .retain(|id, waiting| waiting.held_by == HeldBy::Task || is_unsettled(id));
    }

    pub(super) fn degraded_reasons(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.all().keys().map(ConnectionId::to_string).collect();
        ids.sort();
        let more = ids.len().saturating_sub(NAMED_MAX);
        ids.truncate(NAMED_MAX);
        let named = ids
            .iter()
            .map(|id| format!("connection {id}: the database refuses its new tokens"));
        let others = (more > 0).then(|| format!("{more} more connections: as before"));
        named.chain(others).collect()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<ConnectionId, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refresher {
    /// Ends a refresh whose response is journaled and that the database refuses: replay goes on with it.
    pub(super) async fn left_unstored(
        &self,
        context: SpendContext<'_>,
        refused: StoreError,
    ) -> RefreshError {
        let SpendContext {
            row, token, lease, ..
        } = context;
        self.journal.leave(&row.id, row.generation, token);
        self.hold(row, row.generation, HeldBy::Journal, refused)
            .await;
        self.release(row, lease).await;
        RefreshError::Unstored {
            retry_at: self.clock.now().saturating_add(RETRY_EVERY),
            token_expires_at: row.expires_at,
        }
    }

    /// Notes that the database refuses the response to this row's token of `generation`, tells people, and has all processes
    /// leave the token alone.
    pub(super) async fn hold(
        &self,
        row: &Connection,
        generation: i64,
        held_by: HeldBy,
        refused: StoreError,
    ) {
        let waiting = Waiting {
            generation,
            held_by,
            retry_at: self.clock.monotonic() + RETRY_EVERY,
        };
        if self.unstored.note(&row.id, waiting) {
            tracing::error!(connection.id = %row.id, generation = row.generation, "the database refuses the new tokens of a connection; they are kept, and it is asked again every minute: {:#}", anyhow::Error::from(refused));
        }
        let now = self.clock.now();
        let retry_at = now.saturating_add(HELD_FOR);
        let failure = SpendFailure {
            retry_at,
            last_error: "commit_refused".to_owned(),
            in_doubt: self.doubt(true),
            due_at: row.due_at.max(retry_at),
        };
        let written = self
            .retry_until_stored(row, || {
                self.store
                    .connection_hold(&row.id, row.generation, &failure, now)
            })
            .await;
        if let Err(error) = written {
            tracing::error!(connection.id = %row.id, "other processes can't be told to leave a spent token alone: {:#}", anyhow::Error::from(error));
        }
    }
}
