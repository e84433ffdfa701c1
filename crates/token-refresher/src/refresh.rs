//! The refresh protocol: the one door to newer tokens.
//!
//! 1. *Flight*: one per connection and process, a task of its own; later callers join it.
//! 2. *Compare*: spend only what the caller saw fail; anything newer is answer enough.
//! 3. *Lease* (`lease`): one conditional update makes this process the spender; others wait for what it brings. A lease
//!    whose holder is gone is taken over.
//! 4. *Look, then spend* (`renew`): an answer that a journal holds is committed in place of a second spend. Every answer is
//!    journaled before it is read.
//! 5. *Commit* by compare on the generation (`commit`), or say what the refusal means (`refused`, `guard`).
//!
//! Beside it `replay` commits what processes that are gone were answered.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pipekeeper_core::clock::{SharedClock, Timestamp};
use pipekeeper_core::connection::{ConnectionId, ConnectionState};
use pipekeeper_core::crypto::OpenError;
use pipekeeper_core::provider::{App, AppChoice, Apps};
use pipekeeper_core::random;
use pipekeeper_core::store::{Connection, RefreshLogEntry, Store, StoreError};
use pipekeeper_core::vault::Vault;
use pipekeeper_service::Context;
use pipekeeper_service::tasks::Tasks;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tracing::Instrument as _;

use crate::config::Timing;
use crate::journal::Journal;

mod commit;
mod guard;
mod lease;
mod log;
mod refused;
mod renew;
mod replay;
mod waits;

use guard::Guard;
use lease::Watch;
use log::Log;
use waits::{RETRY_AFTER_MAX, apart, early_again_at, lies_ahead};

/// Between two looks at a lease that another process holds: at first, in the end.
const LEASE_POLL: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(400));

/// What asks for a newer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Webhook,
    /// Ahead of the access token's end.
    Sweep,
    /// Ahead of the refresh token's death by disuse.
    KeepAlive,
    /// A grant that was refused before: perhaps it was our mistake.
    Recheck,
}

impl Trigger {
    fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Sweep => "sweep",
            Self::KeepAlive => "keep_alive",
            Self::Recheck => "recheck",
        }
    }

    /// Nobody waits for it: what another process is at is left to that process.
    fn is_background(self) -> bool {
        self != Self::Webhook
    }
}

/// The row holds a newer token than the caller's.
#[derive(Debug, Clone)]
pub enum Outcome {
    Refreshed(Arc<Connection>),
    /// By an answer that a process had left in its journal.
    Replayed(Arc<Connection>),
    /// Somebody else's refresh, or a reconnect, was there first.
    AlreadyNewer(Arc<Connection>),
    /// The same, found out only after a race with them.
    Adopted(Arc<Connection>),
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
    #[error("the provider can't be reached")]
    NotSent {
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
    trigger: Trigger,
    ended: watch::Receiver<Option<FlightResult>>,
}

/// What a flight leaves behind for people.
#[derive(Debug, Default)]
struct Record {
    /// The provider's key, once it is known.
    provider: String,
    attempts: Vec<RefreshLogEntry>,
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
    journal: Journal,
    /// By the provider's key: a sick one must not use up the others' places.
    calls: HashMap<String, Semaphore>,
    flights: Mutex<HashMap<ConnectionId, Flight>>,
    watch: Watch,
    guard: Guard,
    log: Log,
}

impl Refresher {
    pub(crate) fn new(
        context: Context,
        vault: Vault,
        apps: Apps,
        client: reqwest::Client,
        journal: Journal,
        timing: Timing,
    ) -> Self {
        let places = |app: &Arc<App>| {
            let places = Semaphore::new(timing.max_concurrent_calls);
            (app.provider.key.clone(), places)
        };
        Self {
            guard: Guard::new(context.store.clone(), SharedClock::clone(&context.clock)),
            log: Log::new(context.store.clone()),
            store: context.store,
            clock: context.clock,
            tasks: context.tasks,
            vault,
            calls: apps.iter().map(places).collect(),
            apps,
            client,
            timing,
            journal,
            flights: Mutex::default(),
            watch: Watch::default(),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    pub(crate) fn apps(&self) -> &Apps {
        &self.apps
    }

    pub(crate) fn vault(&self) -> &Vault {
        &self.vault
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.tasks.stopping().is_cancelled()
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
                // One about another generation is none of ours, and one that nobody waits for gives up sooner.
                let (same, patient) = (flight.have == have, flight.trigger == trigger);
                if trigger.is_background() && !patient {
                    return Err(RefreshError::Busy);
                }
                let result = flight.end().await;
                if same && (patient || !matches!(result, Err(RefreshError::Busy))) {
                    return result;
                }
            }
        };
        tokio::time::timeout(patience, answered)
            .await
            .unwrap_or(Err(RefreshError::Busy))
    }

    /// Joins the connection's flight, or starts one.
    fn board(self: &Arc<Self>, id: &ConnectionId, have: Option<i64>, trigger: Trigger) -> Flight {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        match flights.entry(id.clone()) {
            Entry::Occupied(flight) => flight.get().clone(),
            Entry::Vacant(place) => {
                let (tell, ended) = watch::channel(None);
                let flight = Flight {
                    have,
                    trigger,
                    ended,
                };
                place.insert(flight.clone());
                let (door, id) = (Arc::clone(self), id.clone());
                let landing = Landing {
                    door: Arc::clone(self),
                    id: id.clone(),
                };
                let span = tracing::Span::current();
                let task = async move {
                    let mut record = Record::default();
                    let result = door.fly(&id, have, trigger, &mut record).await;
                    metrics::counter!("pipekeeper_refresh_total", "provider" => record.provider, "outcome" => outcome_word(&result))
                        .increment(1);
                    // Off the board before its end is told: who comes now is answered by the row.
                    drop(landing);
                    tell.send_replace(Some(result));
                    door.log.write(record.attempts).await;
                };
                self.tasks.spawn(task.instrument(span));
                flight
            }
        }
    }

    async fn fly(
        &self,
        id: &ConnectionId,
        mut have: Option<i64>,
        trigger: Trigger,
        record: &mut Record,
    ) -> FlightResult {
        // Long enough to see an orphan for what it is.
        let watch = self.timing.lease + self.timing.orphan_grace + LEASE_POLL.1 * 4;
        let begun = self.clock.monotonic();
        let mut pause = LEASE_POLL.0;
        loop {
            let row = self
                .store
                .connection_find(id)
                .await?
                .ok_or(RefreshError::NotFound)?;
            let AppChoice::One(app) = self.apps.find(Some(&row.app_id), Some(&row.platform)) else {
                return Err(RefreshError::UnknownApp);
            };
            record.provider.clone_from(&app.provider.key);
            if self.is_newer(&row, have, trigger)? {
                return Ok(Outcome::AlreadyNewer(Arc::new(row)));
            }
            self.check_held(app, &row)?;
            // A place first: a lease must not wait in a queue.
            let place = self.place(app).await;
            if let Some(lease) = self.acquire(&row).await? {
                let waited = self.clock.monotonic().saturating_sub(begun);
                metrics::histogram!("pipekeeper_refresh_lease_wait_seconds")
                    .record(waited.as_secs_f64());
                match self.renew(&row, app, &lease, trigger, record).await? {
                    Outcome::Replayed(row) if self.is_past(&row).await => {
                        have = Some(row.generation);
                        continue;
                    }
                    outcome => return Ok(outcome),
                }
            }
            drop(place);
            let waited = self.clock.monotonic().saturating_sub(begun);
            if trigger.is_background() || waited > watch {
                return Err(RefreshError::Busy);
            }
            tokio::time::sleep(random::between(pause, pause * 2)).await;
            pause = (pause * 2).min(LEASE_POLL.1);
        }
    }

    /// An answer from a journal may have had its time: the journals hold the next one, or it is renewed.
    async fn is_past(&self, row: &Connection) -> bool {
        if self.clock.now() >= row.expires_at {
            return true;
        }
        let Ok(token) = self.vault.refresh_token(row) else {
            return false;
        };
        let next = self.journal.find(&row.id, row.generation, &token).await;
        next.is_ok_and(|next| next.is_some())
    }

    /// A place at the provider's token endpoint.
    async fn place(&self, app: &App) -> Option<SemaphorePermit<'_>> {
        self.calls.get(&app.provider.key)?.acquire().await.ok()
    }

    /// Whether the row's token is newer than what the caller has; an error if it may not be renewed now.
    fn is_newer(
        &self,
        row: &Connection,
        have: Option<i64>,
        trigger: Trigger,
    ) -> Result<bool, RefreshError> {
        let now = self.clock.now();
        match (trigger, row.state) {
            (Trigger::Recheck, ConnectionState::ReauthRequired) => {}
            (Trigger::Recheck, ConnectionState::Active) => return Ok(true),
            _ => {
                if let Some(ended) = ended(row) {
                    return Err(ended);
                }
            }
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
        match self.guard.held(app) {
            Some((word, retry_at)) => Err(RefreshError::ClientMisconfigured {
                word,
                retry_at,
                token_expires_at: row.expires_at,
            }),
            None => Ok(()),
        }
    }

    /// What works, but not as it should.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let mut troubles = self.guard.troubles();
        if !self.journal.healthy() {
            troubles.push("journal: can't be written".to_owned());
        }
        troubles
    }
}

/// A row that moved on since it was read is as good as refreshed, unless it ended.
fn adopt(current: Connection) -> FlightResult {
    match ended(&current) {
        Some(ended) => Err(ended),
        None => Ok(Outcome::Adopted(Arc::new(current))),
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
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

/// The outcomes that metrics count.
fn outcome_word(result: &FlightResult) -> &'static str {
    match result {
        Ok(Outcome::Refreshed(_)) => "refreshed",
        Ok(Outcome::Replayed(_)) => "replayed",
        Ok(Outcome::AlreadyNewer(_)) => "already_newer",
        Ok(Outcome::Adopted(_)) => "adopted",
        Err(RefreshError::NotFound) => "not_found",
        Err(RefreshError::Ended { .. }) => "rejected",
        Err(RefreshError::RefusedAfterRenewal { .. }) => "refused_after_renewal",
        Err(RefreshError::TryLater { .. }) => "try_later",
        Err(RefreshError::Busy) => "busy",
        Err(RefreshError::ClientMisconfigured { .. } | RefreshError::UnknownApp) => "our_fault",
        Err(RefreshError::NotSent { .. }) => "not_sent",
        Err(RefreshError::Provider { .. }) => "unknown",
        Err(RefreshError::Store(_)) => "store",
        Err(RefreshError::Sealed(_)) => "sealed",
    }
}

#[cfg(test)]
mod tests;
