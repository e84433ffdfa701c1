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
//! A disconnected grant is revoked through the same door (`revoke`). Beside it `replay` commits what processes that are gone were answered,
//! and what the database has refused (`unstored`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pipekeeper_core::clock::{SharedClock, Timestamp};
use pipekeeper_core::connection::{ConnectionId, ConnectionState};
use pipekeeper_core::provider::{App, AppChoice, Apps};
use pipekeeper_core::random;
use pipekeeper_core::store::{Connection, Store};
use pipekeeper_core::vault::Vault;
use pipekeeper_service::Context;
use pipekeeper_service::tasks::Tasks;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use crate::config::Timing;
use crate::journal::Journal;
use crate::rules::{Rule, Rules};

mod backoff;
mod broken;
mod commit;
mod continuity;
mod end;
mod flight;
mod guard;
mod lease;
mod log;
mod refused;
mod renew;
mod replay;
mod revoke;
mod unstored;

use backoff::{Reason, UnnamedRefreshes, Wait, Waits, apart};
use continuity::Continuity;
pub(crate) use end::{FlightResult, Outcome, RefreshError};
use end::{adopt, ended};
use flight::{Flight, Report};
use guard::Guard;
use lease::Watch;
use log::Log;
use renew::Spending;
use unstored::Unstored;

/// Between two looks at a lease that another process holds: at first, in the end.
const LEASE_POLL: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(400));

/// What asks for a newer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    Webhook,
    /// Somebody at a command line, who is held to what the webhook's callers are held to.
    Operator,
    /// Ahead of the access token's end.
    Sweep,
    /// Ahead of the refresh token's death by disuse.
    KeepAlive,
    /// A grant that was refused before: perhaps it was our mistake.
    Recheck,
    /// A grant that ended here, and that its provider has yet to be told of.
    Revocation,
}

impl Trigger {
    fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Operator => "operator",
            Self::Sweep => "sweep",
            Self::KeepAlive => "keep_alive",
            Self::Recheck => "recheck",
            Self::Revocation => "revocation",
        }
    }

    /// Somebody says that the token has failed.
    fn is_asked(self) -> bool {
        matches!(self, Self::Webhook | Self::Operator)
    }

    /// Nobody waits for it: what another process is at is left to that process.
    fn is_background(self) -> bool {
        !self.is_asked()
    }
}

/// Who wants a newer token, and what they know of the one that failed.
#[derive(Debug, Clone, Copy)]
struct Asked {
    trigger: Trigger,
    failed_generation: Option<i64>,
}

/// The door. One per process.
#[derive(Debug)]
pub(crate) struct Refresher {
    store: Store,
    clock: SharedClock,
    tasks: Tasks,
    vault: Vault,
    apps: Apps,
    client: reqwest::Client,
    timing: Timing,
    rules: Rules,
    journal: Journal,
    /// By the provider's key: a sick one must not use up the others' places.
    places: HashMap<String, Semaphore>,
    flights: Mutex<HashMap<ConnectionId, Flight>>,
    watch: Watch,
    waits: Waits,
    unnamed: UnnamedRefreshes,
    guard: Guard,
    continuity: Arc<Continuity>,
    log: Log,
    /// Rows that the sweep of this process can't help: until when it leaves them alone, on the monotonic clock.
    left_to_others: Mutex<HashMap<ConnectionId, Duration>>,
    unstored: Unstored,
    /// Whether refused connections have been rechecked where the app's credentials had changed.
    pub(crate) rechecked: OnceCell<()>,
}

impl Refresher {
    pub(crate) fn new(
        context: Context,
        vault: Vault,
        apps: Apps,
        client: reqwest::Client,
        journal: Journal,
        timing: Timing,
        rules: Rules,
    ) -> Self {
        let places = |app: &Arc<App>| {
            let places = Semaphore::new(timing.max_concurrent_calls);
            (app.provider.key.clone(), places)
        };
        Self {
            waits: Waits::new(SharedClock::clone(&context.clock)),
            unnamed: UnnamedRefreshes::default(),
            guard: Guard::new(context.store.clone(), SharedClock::clone(&context.clock)),
            continuity: Arc::new(Continuity::new(context.store.heartbeat())),
            log: Log::new(context.store.clone()),
            store: context.store,
            clock: context.clock,
            tasks: context.tasks,
            vault,
            places: apps.iter().map(places).collect(),
            apps,
            client,
            timing,
            rules,
            journal,
            flights: Mutex::default(),
            watch: Watch::default(),
            left_to_others: Mutex::default(),
            unstored: Unstored::default(),
            rechecked: OnceCell::new(),
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

    pub(crate) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.tasks.stopping().is_cancelled()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    pub(crate) fn left_to_others(&self) -> MutexGuard<'_, HashMap<ConnectionId, Duration>> {
        self.left_to_others
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn timing(&self) -> Timing {
        self.timing
    }

    /// Sees to it that the row holds a token newer than `have`, the generation that the caller saw fail.
    ///
    /// Waits no longer than `patience`; the refresh itself goes on.
    pub(crate) async fn refresh(
        self: &Arc<Self>,
        id: &ConnectionId,
        have: Option<i64>,
        trigger: Trigger,
        patience: Duration,
    ) -> FlightResult {
        let answered = async {
            loop {
                let flight = self.board(id, have, trigger);
                let (same_generation, began) = (flight.have == have, flight.trigger);
                if trigger.is_background() && began != trigger {
                    return Err(RefreshError::Busy);
                }
                let result = flight.end().await;
                // One that nobody waits for gives up sooner, and a revocation is no answer to who wants a token.
                let answers_us = began == trigger
                    || (began != Trigger::Revocation && !matches!(result, Err(RefreshError::Busy)));
                // One about another generation is none of ours.
                if same_generation && answers_us {
                    return result;
                }
            }
        };
        tokio::time::timeout(patience, answered)
            .await
            .unwrap_or(Err(RefreshError::Busy))
    }

    async fn fly(
        &self,
        id: &ConnectionId,
        mut have: Option<i64>,
        trigger: Trigger,
        report: &mut Report,
    ) -> FlightResult {
        // Long enough to see an orphan for what it is.
        let gives_up_after = self.timing.lease + self.timing.orphan_grace + LEASE_POLL.1 * 4;
        let begun = self.clock.monotonic();
        let mut pause = LEASE_POLL.0;
        let mut waiting_since = None;
        let told_wait = |since: Option<Duration>| {
            let waited = since.map_or(Duration::ZERO, |since| {
                self.clock.monotonic().saturating_sub(since)
            });
            metrics::histogram!("pipekeeper_refresh_lease_wait_seconds")
                .record(waited.as_secs_f64());
        };
        loop {
            let mut row = self.find(id).await?;
            let AppChoice::One(app) = self.apps.find(Some(&row.app_id), Some(&row.platform)) else {
                return Err(RefreshError::UnknownApp);
            };
            report.provider.clone_from(&app.provider.key);
            if trigger == Trigger::Revocation {
                return self.revoke(app, row, report).await;
            }
            self.check_age(&row)?;
            if self.is_newer(&row, have, trigger)? {
                if waiting_since.is_some() {
                    told_wait(waiting_since);
                }
                return Ok(Outcome::AlreadyNewer(Arc::new(row)));
            }
            if self.may_be_taken(&row).await {
                // A place first: a lease must not wait in a queue.
                let (place, queued) = self.place(app).await;
                if queued {
                    row = self.find(id).await?;
                    if self.is_newer(&row, have, trigger)? {
                        return Ok(Outcome::AlreadyNewer(Arc::new(row)));
                    }
                }
                self.check_held(app, &row)?;
                // Before the lease: who lacks the key takes none.
                let token = self
                    .vault
                    .refresh_token(&row)
                    .map_err(RefreshError::Sealed)?;
                // Nothing is begun that the process might not be there to end.
                if self.is_stopping() || self.is_quiet() {
                    return Err(RefreshError::Busy);
                }
                if let Some(lease) = self.acquire(&row).await? {
                    let _held = self.continuity.hold(&row, &lease);
                    self.release_if_quiet(&row, &lease).await?;
                    told_wait(waiting_since);
                    let asked = Asked {
                        trigger,
                        failed_generation: have,
                    };
                    let spending = Spending::new(&row, app, &token, &lease, asked);
                    match self.renew(spending, report).await? {
                        Outcome::Replayed(row) if self.is_past(&row, app).await => {
                            have = Some(row.generation);
                            continue;
                        }
                        outcome => return Ok(outcome),
                    }
                }
                drop(place);
            }
            let now = self.clock.monotonic();
            waiting_since.get_or_insert(now);
            if trigger.is_background() || now.saturating_sub(begun) > gives_up_after {
                return Err(RefreshError::Busy);
            }
            tokio::time::sleep(random::between(pause, pause * 2)).await;
            pause = (pause * 2).min(LEASE_POLL.1);
        }
    }

    async fn find(&self, id: &ConnectionId) -> Result<Connection, RefreshError> {
        let found = self.store.connection_find(id).await?;
        found.ok_or(RefreshError::NotFound)
    }

    /// An answer from a journal may have had its time: the journals hold the next one, or it is renewed.
    async fn is_past(&self, row: &Connection, app: &App) -> bool {
        if self.clock.now() >= row.expires_at {
            return true;
        }
        let Ok(token) = self.vault.refresh_token(row) else {
            return false;
        };
        let next = self
            .journal
            .find(&row.id, row.generation, &token, |answer| {
                renew::received(answer, app)
            })
            .await;
        next.is_ok_and(|next| next.is_some())
    }

    /// A place at the provider's token endpoint, and whether it had to be waited for.
    async fn place(&self, app: &App) -> (Option<SemaphorePermit<'_>>, bool) {
        let Some(places) = self.places.get(&app.provider.key) else {
            return (None, false);
        };
        match places.try_acquire() {
            Ok(place) => (Some(place), false),
            Err(_all_taken) => (places.acquire().await.ok(), true),
        }
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
            (_, ConnectionState::Revoked) if !self.stays_revoked(row) => {}
            _ => {
                if let Some(ended) = ended(row) {
                    return Err(ended);
                }
            }
        }
        let newer = if let Some(generation) = have {
            generation != row.generation && self.rules.keep(Rule::CompareGenerations)
        } else {
            let shortest = self.timing.minted_recently;
            let window = self
                .unnamed
                .window(&row.id, self.clock.monotonic(), shortest);
            row.refreshed_at.is_some_and(|at| apart(at, now) < window)
        };
        if newer {
            return Ok(true);
        }
        let monotonic = self.clock.monotonic();
        if let Some(wait) = self.unstored.wait(&row.id, row.generation, monotonic) {
            return Err(RefreshError::Unstored {
                retry_at: now.saturating_add(wait),
                token_expires_at: row.expires_at,
            });
        }
        // Who names no generation has a window of its own for that.
        let early = have.and_then(|_| Wait::after_early_refresh(row, now));
        if let Some(retry_at) = self.waits.pending(&row.id, Reason::EarlyRefresh, early) {
            return Err(RefreshError::RefusedAfterRenewal { retry_at });
        }
        let failure = Wait::after_failure(row);
        match self.waits.pending(&row.id, Reason::Failure, failure) {
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
        troubles.extend(self.unstored.troubles());
        if !self.journal.healthy() {
            troubles.push("journal: can't be written".to_owned());
        }
        troubles
    }
}

#[cfg(test)]
mod tests;
