//! The refresh protocol: the one door to newer tokens.
//!
//! 1. *Flight*: one per connection and process, a task of its own; later callers join it.
//! 2. *Compare*: spend only what the caller saw fail; anything newer is answer enough.
//! 3. *Lease*: one conditional update makes this process the spender; others wait for what it brings.
//! 4. *Spend*, and one more try where nobody knows what the first did.
//! 5. *Commit* by compare on the generation, or say what the refusal means.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pipekeeper_core::clock::{SharedClock, Timestamp};
use pipekeeper_core::connection::{ConnectionId, ConnectionState};
use pipekeeper_core::crypto::OpenError;
use pipekeeper_core::provider::{App, AppChoice, Apps};
use pipekeeper_core::random;
use pipekeeper_core::store::{Connection, Store, StoreError};
use pipekeeper_core::vault::Vault;
use pipekeeper_service::Context;
use pipekeeper_service::tasks::Tasks;
use tokio::sync::{Semaphore, watch};
use tracing::Instrument as _;

use crate::config::Timing;

mod ends;
mod lease;
mod waits;

use lease::Watched;
use waits::{PROBE_EVERY, RETRY_AFTER_MAX, apart, early_again_at, lies_ahead};

/// Between two looks at a lease that another process holds: at first, in the end.
const LEASE_POLL: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(400));

/// What asks for a newer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Webhook,
}

impl Trigger {
    fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
        }
    }
}

/// The row holds a newer token than the caller's.
#[derive(Debug, Clone)]
pub enum Outcome {
    Refreshed(Arc<Connection>),
    /// Somebody else's refresh, or a reconnect, was there first.
    AlreadyNewer(Arc<Connection>),
}

/// Why there is no newer token.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RefreshError {
    #[error("no such connection")]
    NotFound,
    #[error("the connection is {}", state.as_str())]
    Ended {
        state: ConnectionState,
        reason: Option<String>,
        since: Timestamp,
    },
    /// The token is fresh from a refresh that a 401 asked for, and got a 401 again.
    #[error("refused again right after a renewal")]
    RefusedAfterRenewal { retry_at: Timestamp },
    #[error("a refresh failed a moment ago")]
    TryLater {
        retry_at: Timestamp,
        token_expires_at: Timestamp,
    },
    #[error("another holder is refreshing")]
    Busy,
    #[error("the provider refuses our client ({word})")]
    ClientMisconfigured {
        word: &'static str,
        retry_at: Timestamp,
        token_expires_at: Timestamp,
    },
    #[error("the provider made no sense ({word})")]
    Provider {
        word: String,
        timed_out: bool,
        retry_at: Timestamp,
        token_expires_at: Timestamp,
    },
    #[error("the connection's app is not configured here")]
    UnknownApp,
    #[error("the database could not be used")]
    Store(#[source] Arc<StoreError>),
    #[error("the stored token does not open")]
    Sealed(#[source] OpenError),
}

impl From<StoreError> for RefreshError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

type FlightResult = Result<Outcome, RefreshError>;

/// A refresh under way: what it began with, and where its end is told.
#[derive(Debug, Clone)]
struct Flight {
    have: Option<i64>,
    ended: watch::Receiver<Option<FlightResult>>,
}

impl Flight {
    async fn end(mut self) -> FlightResult {
        match self.ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Err(RefreshError::Busy)),
            // The task died. Its lease is an orphan now: whoever asks next waits for it like for any other.
            Err(_closed) => Err(RefreshError::Busy),
        }
    }
}

/// The door. One per process.
#[derive(Debug)]
pub struct Refresher {
    store: Store,
    clock: SharedClock,
    tasks: Tasks,
    vault: Vault,
    apps: Apps,
    client: reqwest::Client,
    timing: Timing,
    /// The first part of this process's lease owners.
    process: String,
    calls: Semaphore,
    flights: Mutex<HashMap<ConnectionId, Flight>>,
    /// Leases of other holders that flights wait for.
    watched: Mutex<HashMap<ConnectionId, Watched>>,
    /// Apps that the provider refuses, and until when they are left alone.
    held_apps: Mutex<HashMap<String, (&'static str, Timestamp)>>,
}

impl Refresher {
    pub(crate) fn new(
        context: Context,
        vault: Vault,
        apps: Apps,
        client: reqwest::Client,
        timing: Timing,
    ) -> Self {
        Self {
            store: context.store,
            clock: context.clock,
            tasks: context.tasks,
            vault,
            apps,
            client,
            timing,
            process: random::token(),
            calls: Semaphore::new(timing.max_concurrent_calls),
            flights: Mutex::default(),
            watched: Mutex::default(),
            held_apps: Mutex::default(),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn apps(&self) -> &Apps {
        &self.apps
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn timing(&self) -> Timing {
        self.timing
    }

    /// Sees to it that the row holds a token newer than `have`, the generation that the caller saw fail.
    ///
    /// Waits no longer than `patience`; the refresh itself goes on.
    pub async fn refresh(
        self: &Arc<Self>,
        id: &ConnectionId,
        have: Option<i64>,
        trigger: Trigger,
        patience: Duration,
    ) -> FlightResult {
        let answered = async {
            loop {
                let flight = self.board(id, have, trigger);
                let same = flight.have == have;
                let result = flight.end().await;
                if same {
                    return result;
                }
                // It was about another generation: ours is compared anew.
            }
        };
        let result = tokio::time::timeout(patience, answered)
            .await
            .unwrap_or(Err(RefreshError::Busy));
        metrics::counter!("pipekeeper_refresh_total", "outcome" => outcome_word(&result))
            .increment(1);
        result
    }

    /// Joins the connection's flight, or starts one.
    fn board(self: &Arc<Self>, id: &ConnectionId, have: Option<i64>, trigger: Trigger) -> Flight {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        match flights.entry(id.clone()) {
            Entry::Occupied(flight) => flight.get().clone(),
            Entry::Vacant(place) => {
                let (tell, ended) = watch::channel(None);
                let flight = Flight { have, ended };
                place.insert(flight.clone());
                let (door, id) = (Arc::clone(self), id.clone());
                let landing = Landing {
                    door: Arc::clone(self),
                    id: id.clone(),
                };
                let span = tracing::Span::current();
                let task = async move {
                    let result = door.fly(&id, have, trigger).await;
                    // Off the board before its end is told: who comes now is answered by the row.
                    drop(landing);
                    tell.send_replace(Some(result));
                };
                self.tasks.spawn(task.instrument(span));
                flight
            }
        }
    }

    async fn fly(&self, id: &ConnectionId, have: Option<i64>, trigger: Trigger) -> FlightResult {
        // Long enough to see an orphan for what it is.
        let watch = self.timing.lease + self.timing.orphan_grace + LEASE_POLL.1 * 4;
        let give_up = self.clock.monotonic() + watch;
        let mut pause = LEASE_POLL.0;
        loop {
            let row = self
                .store
                .connection_find(id)
                .await?
                .ok_or(RefreshError::NotFound)?;
            if self.is_newer(&row, have)? {
                return Ok(Outcome::AlreadyNewer(Arc::new(row)));
            }
            let AppChoice::One(app) = self.apps.find(Some(&row.app_id), Some(&row.platform)) else {
                return Err(RefreshError::UnknownApp);
            };
            self.check_held(app, &row)?;
            // A place first: a lease must not wait in a queue.
            let place = self.calls.acquire().await;
            if let Some(lease) = self.acquire(&row).await? {
                return self.spend_and_commit(row, app, &lease, trigger).await;
            }
            drop(place);
            if self.clock.monotonic() > give_up {
                return Err(RefreshError::Busy);
            }
            tokio::time::sleep(random::between(pause, pause * 2)).await;
            pause = (pause * 2).min(LEASE_POLL.1);
        }
    }

    /// Whether the row's token is newer than what the caller has; an error if it may not be renewed now.
    fn is_newer(&self, row: &Connection, have: Option<i64>) -> Result<bool, RefreshError> {
        let now = self.clock.now();
        if let Some(ended) = ended(row) {
            return Err(ended);
        }
        let newer = match have {
            Some(generation) => generation != row.generation,
            // An n8n caller: it has just seen a 401, so what was minted since is news to it.
            None => row
                .refreshed_at
                .is_some_and(|at| apart(at, now) < self.timing.minted_recently),
        };
        if newer {
            return Ok(true);
        }
        if let Some(retry_at) = early_again_at(row, now) {
            return Err(RefreshError::RefusedAfterRenewal { retry_at });
        }
        match row
            .retry_at
            .filter(|at| lies_ahead(*at, now, RETRY_AFTER_MAX))
        {
            Some(retry_at) => Err(RefreshError::TryLater {
                retry_at,
                token_expires_at: row.expires_at,
            }),
            None => Ok(false),
        }
    }

    fn check_held(&self, app: &App, row: &Connection) -> Result<(), RefreshError> {
        let held = self
            .held_apps
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match held.get(&app.key) {
            Some((word, until)) if lies_ahead(*until, self.clock.now(), PROBE_EVERY) => {
                Err(RefreshError::ClientMisconfigured {
                    word,
                    retry_at: *until,
                    token_expires_at: row.expires_at,
                })
            }
            _ => Ok(()),
        }
    }
}

/// A row that moved on since it was read is as good as refreshed, unless it ended.
fn adopt(current: Connection) -> FlightResult {
    match ended(&current) {
        Some(ended) => Err(ended),
        None => Ok(Outcome::AlreadyNewer(Arc::new(current))),
    }
}

fn ended(row: &Connection) -> Option<RefreshError> {
    match row.state {
        ConnectionState::Active => None,
        state @ (ConnectionState::ReauthRequired | ConnectionState::Revoked) => {
            Some(RefreshError::Ended {
                state,
                reason: row.state_reason.clone(),
                since: row.state_since,
            })
        }
    }
}

/// Takes a flight off the board, also when its task is dropped or panics.
struct Landing {
    door: Arc<Refresher>,
    id: ConnectionId,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.door
            .watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
        self.door
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

fn outcome_word(result: &FlightResult) -> &'static str {
    match result {
        Ok(Outcome::Refreshed(_)) => "refreshed",
        Ok(Outcome::AlreadyNewer(_)) => "already_newer",
        Err(RefreshError::NotFound) => "not_found",
        Err(RefreshError::Ended { .. }) => "rejected",
        Err(RefreshError::RefusedAfterRenewal { .. }) => "refused_after_renewal",
        Err(RefreshError::TryLater { .. }) => "try_later",
        Err(RefreshError::Busy) => "busy",
        Err(RefreshError::ClientMisconfigured { .. } | RefreshError::UnknownApp) => "our_fault",
        Err(RefreshError::Provider { .. }) => "unknown",
        Err(RefreshError::Store(_)) => "store",
        Err(RefreshError::Sealed(_)) => "sealed",
    }
}

#[cfg(test)]
mod tests;
