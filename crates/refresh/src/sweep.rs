//! What is done without being asked: renewal ahead of expiry, keep-alive, pending revocations, rechecks.
//!
//! All of it is found by an index range on (`state`, `due_at`), and all refreshes are those of `refresh`. Replicas share the
//! work by the leases alone: the second one finds the row newer, or leased.

use std::ops::Add;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::Connection;
use pipekeeper_core::provider::AppChoice;
use pipekeeper_core::random;
use pipekeeper_core::refresh_schedule::{due_at_of, is_due, is_in_use};
use pipekeeper_core::store::{DueFor, StoreError};
use tracing::Instrument as _;

use crate::refresher::{Outcome, RefreshError, Refresher, Trigger};

/// Rows are read so many at a time.
const PAGE: u16 = 200;

/// Revocations, and rechecks, that are under way at a time.
const ASIDE: usize = 8;

/// How long the sweep waits for one connection before it turns to the next; the refresh itself goes on.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(15);

/// Rows that can't be helped now are looked at again after this long, at least and at most: not all at once.
const LATER: (Duration, Duration) = (Duration::from_mins(1), Duration::from_mins(5));

/// A process remembers up to this many rows that it leaves to others; beyond it, those that it would try again are forgotten.
const LEFT_TO_OTHERS_MAX: usize = 65_536;

/// What one sweep came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    pub refreshed: usize,
    pub postponed: usize,
    pub revoked: usize,
    /// No newer token, for a reason that was logged.
    pub failed: usize,
}

impl Add for Swept {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            refreshed: self.refreshed + other.refreshed,
            postponed: self.postponed + other.postponed,
            revoked: self.revoked + other.revoked,
            failed: self.failed + other.failed,
        }
    }
}

impl Refresher {
    /// Does all that is due.
    ///
    /// # Errors
    /// The database can't be used. What is not done stays due.
    pub async fn sweep_once(self: &Arc<Self>) -> Result<Swept, StoreError> {
        // Some places at the token endpoint stay free for callers who wait.
        let at_once = (self.timing().max_concurrent_calls * 3 / 4).max(1);
        let (renewed, revoked, rechecked) = tokio::join!(
            self.sweep_for(DueFor::Refresh, at_once),
            self.sweep_for(DueFor::Revocation, ASIDE),
            self.sweep_for(DueFor::Recheck, ASIDE),
        );
        let swept = renewed? + revoked? + rechecked?;
        if swept != Swept::default() {
            tracing::debug!(?swept, "swept");
        }
        Ok(swept)
    }

    async fn sweep_for(
        self: &Arc<Self>,
        due_for: DueFor,
        at_once: usize,
    ) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        let mut done = self
            .due(due_for)
            .map_ok(|row| async move { Ok(self.attend(due_for, row).await) })
            .try_buffer_unordered(at_once)
            .boxed();
        while let Some(did) = done.try_next().await? {
            match did {
                Attended::Refreshed => swept.refreshed += 1,
                Attended::Postponed => swept.postponed += 1,
                Attended::Revoked => swept.revoked += 1,
                Attended::Failed => swept.failed += 1,
                Attended::Nothing => {}
            }
        }
        Ok(swept)
    }

    /// The rows that are due, each once, until the process is told to stop.
    fn due(
        self: &Arc<Self>,
        due_for: DueFor,
    ) -> impl Stream<Item = Result<Connection, StoreError>> + Send {
        let now = self.now();
        let pages = stream::try_unfold(Some(None), move |after| async move {
            let Some(after) = after.filter(|_| !self.is_stopping()) else {
                return Ok::<_, StoreError>(None);
            };
            let after: Option<(Timestamp, _)> = after;
            let after = after.as_ref().map(|(at, id)| (*at, id));
            let page = self
                .store()
                .connections_due(due_for, now, after, PAGE)
                .await?;
            let next = page
                .last()
                .filter(|_| page.len() == usize::from(PAGE))
                .map(|last| Some((last.due_at, last.id.clone())));
            Ok(Some((stream::iter(page.into_iter().map(Ok)), next)))
        });
        pages.try_flatten()
    }

    async fn attend(self: &Arc<Self>, due_for: DueFor, row: Connection) -> Attended {
        let span =
            tracing::info_span!("sweep", connection.id = %row.id, generation = row.generation);
        if self.is_left_to_others(&row) {
            return Attended::Nothing;
        }
        let attended = async {
            let AppChoice::One(app) = self.apps().find(Some(&row.app_id), Some(&row.platform))
            else {
                return Ok(self.leave_to_others(&row));
            };
            match due_for {
                DueFor::Revocation => self.have_refreshed(&row, Trigger::Revocation).await,
                DueFor::Recheck => self.have_refreshed(&row, Trigger::Recheck).await,
                DueFor::Refresh => {
                    let now = self.now();
                    if !is_due(app, &row, now) {
                        return self.postpone(&row, due_at_of(app, &row, now)).await;
                    }
                    let trigger = if is_in_use(&row, now) {
                        Trigger::Sweep
                    } else {
                        Trigger::KeepAlive
                    };
                    self.have_refreshed(&row, trigger).await
                }
            }
        };
        match attended.instrument(span).await {
            Ok(did) => did,
            Err(error) => {
                tracing::debug!(connection.id = %row.id, "left for the next sweep: {:#}", anyhow::Error::from(error));
                Attended::Failed
            }
        }
    }

    async fn have_refreshed(
        self: &Arc<Self>,
        row: &Connection,
        trigger: Trigger,
    ) -> Result<Attended, StoreError> {
        let end = self
            .refresh(&row.id, Some(row.generation), trigger, REFRESH_TIMEOUT)
            .await;
        match end {
            Ok(Outcome::Revoked(_)) => Ok(Attended::Revoked),
            Ok(Outcome::RevocationUnconfirmed(_)) => Ok(Attended::Failed),
            Ok(_) => Ok(Attended::Refreshed),
            // The row is left as it was, and would be first in the next sweep, too.
            Err(RefreshError::ClientMisconfigured { .. }) => {
                self.postpone(row, later(self.now())).await
            }
            Err(RefreshError::Sealed(_)) => Ok(self.leave_to_others(row)),
            Err(RefreshError::Provider { .. }) if trigger == Trigger::Revocation => {
                self.postpone(row, later(self.now())).await
            }
            Err(_) => Ok(Attended::Failed),
        }
    }

    /// Another process may have the key or the app that this one lacks: for it the row stays due, and this one looks again
    /// later.
    fn leave_to_others(&self, row: &Connection) -> Attended {
        let now = self.monotonic();
        let mut left = self.left_to_others();
        if left.len() >= LEFT_TO_OTHERS_MAX {
            left.retain(|_, until| *until > now);
        }
        left.insert(row.id.clone(), now + random::between(LATER.0, LATER.1));
        Attended::Postponed
    }

    fn is_left_to_others(&self, row: &Connection) -> bool {
        let until = self.left_to_others().get(&row.id).copied();
        until.is_some_and(|until| until > self.monotonic())
    }

    async fn postpone(&self, row: &Connection, until: Timestamp) -> Result<Attended, StoreError> {
        self.store()
            .connection_postpone(&row.id, row.generation, until)
            .await?;
        Ok(Attended::Postponed)
    }
}

/// What was done about one row.
enum Attended {
    Nothing,
    Refreshed,
    Postponed,
    Revoked,
    Failed,
}

fn later(now: Timestamp) -> Timestamp {
    now.saturating_add(random::between(LATER.0, LATER.1))
}
