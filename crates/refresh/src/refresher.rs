//! The refresh protocol.
//!
//! 1. *Single flight* (`single_flight`): one refresh per connection and process, in a task of its own; later callers join it.
//! 2. *Compare*: a token is refreshed only while the row has the generation that the caller saw fail. A newer one is returned.
//! 3. *Lease* (`lease`): one conditional update makes this process the only one that may spend the token; the others wait for
//!    the result. The lease of a holder that is gone is taken over.
//! 4. *Attempt* (`attempt`): a response that a journal holds is committed in place of a second spend. Every response is
//!    journaled before it is parsed.
//! 5. *Commit* (`commit`) compares on the generation. Where there are no new tokens, `failure` and `guard` decide what that
//!    means for the connection.
//!
//! `revoke` ends the grant of a disconnected connection under the same rules. `replay` commits what dead processes have
//! journaled, and what the database has refused (`unstored`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pipekeeper_core::clock::{SharedClock, Timestamp};
use pipekeeper_core::connection::{Connection, ConnectionId, ConnectionState};
use pipekeeper_core::provider::{App, AppChoice, Apps};
use pipekeeper_core::random;
use pipekeeper_core::store::Store;
use pipekeeper_core::tasks::Tasks;
use pipekeeper_core::vault::Vault;
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

use crate::journal::Journal;
use crate::rules::{Rule, Rules};
use crate::timing::Timing;

mod attempt;
mod backoff;
mod broken;
mod commit;
mod continuity;
mod failure;
mod guard;
mod lease;
mod log;
mod outcome;
mod replay;
mod revoke;
mod single_flight;
mod unstored;

use attempt::SpendContext;
use backoff::{Reason, UnnamedRefreshes, Wait, Waits, abs_diff};
use continuity::Continuity;
use guard::Guard;
use lease::LeaseObserver;
use log::Log;
pub use outcome::{Outcome, RefreshError, RefreshResult};
use outcome::{adopt, ended};
pub use replay::ReplayError;
use single_flight::{AttemptLog, InFlight};
use unstored::Unstored;

/// Between two looks at a lease that another process holds: at first, in the end.
const LEASE_POLL: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(400));

/// What asks for a newer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Webhook,
    /// A command of the operator; the rules for the webhook's callers apply.
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

    /// A caller says that the token has failed.
    fn is_asked(self) -> bool {
        matches!(self, Self::Webhook | Self::Operator)
    }

    /// No caller waits for it: a refresh under way in another process is left to that process.
    fn is_background(self) -> bool {
        !self.is_asked()
    }
}

/// Why a newer token is wanted, and which generation failed.
#[derive(Debug, Clone, Copy)]
struct Asked {
    trigger: Trigger,
    failed_generation: Option<i64>,
}

/// What a refresher works with.
#[derive(Debug)]
pub struct Dependencies {
    pub store: Store,
    pub clock: SharedClock,
    pub tasks: Tasks,
    pub vault: Vault,
    pub apps: Apps,
    pub client: reqwest::Client,
    pub journal: Journal,
}

/// The only spender of refresh tokens. One per process.
#[derive(Debug)]
pub struct Refresher {
    store: Store,
    clock: SharedClock,
    tasks: Tasks,
    vault: Vault,
    apps: Apps,
    client: reqwest::Client,
    timing: Timing,
    rules: Rules,
    journal: Journal,
    /// By the provider's key: a sick one must not use up the others' permits.
    permits: HashMap<String, Semaphore>,
    in_flight: Mutex<HashMap<ConnectionId, InFlight>>,
    lease_observer: LeaseObserver,
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
    pub fn new(dependencies: Dependencies, timing: Timing, rules: Rules) -> Self {
        let Dependencies {
            store,
            clock,
            tasks,
            vault,
            apps,
            client,
            journal,
        } = dependencies;
        let permits = |app: &Arc<App>| {
            let permits = Semaphore::new(timing.max_concurrent_calls);
            (app.provider.key.clone(), permits)
        };
        Self {
            waits: Waits::new(SharedClock::clone(&clock)),
            unnamed: UnnamedRefreshes::default(),
            guard: Guard::new(store.clone(), SharedClock::clone(&clock)),
            continuity: Arc::new(Continuity::new(store.heartbeat())),
            log: Log::new(store.clone()),
            permits: apps.iter().map(permits).collect(),
            store,
            clock,
            tasks,
            vault,
            apps,
            client,
            timing,
            rules,
            journal,
            in_flight: Mutex::default(),
            lease_observer: LeaseObserver::default(),
            left_to_others: Mutex::default(),
            unstored: Unstored::default(),
            rechecked: OnceCell::new(),
        }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn apps(&self) -> &Apps {
        &self.apps
    }

    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    pub fn is_stopping(&self) -> bool {
        self.tasks.stopping().is_cancelled()
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }

    pub(crate) fn left_to_others(&self) -> MutexGuard<'_, HashMap<ConnectionId, Duration>> {
        self.left_to_others
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub fn timing(&self) -> Timing {
        self.timing
    }

    /// Makes sure that the row holds a newer token than `failed_generation`, which the caller saw fail.
    ///
    /// Waits no longer than `timeout`; the refresh itself goes on.
    pub async fn refresh(
        self: &Arc<Self>,
        id: &ConnectionId,
        failed_generation: Option<i64>,
        trigger: Trigger,
        timeout: Duration,
    ) -> RefreshResult {
        let finished = async {
            loop {
                let in_flight = self.join_or_start(id, failed_generation, trigger);
                let (same_generation, began) = (
                    in_flight.failed_generation == failed_generation,
                    in_flight.trigger,
                );
                if trigger.is_background() && began != trigger {
                    return Err(RefreshError::Busy);
                }
                let result = in_flight.result().await;
                // A background refresh gives up sooner, and a revocation brings no token.
                let is_ours = began == trigger
                    || (began != Trigger::Revocation && !matches!(result, Err(RefreshError::Busy)));
                // A refresh for another generation says nothing about this one.
                if same_generation && is_ours {
                    return result;
                }
            }
        };
        tokio::time::timeout(timeout, finished)
            .await
            .unwrap_or(Err(RefreshError::Busy))
    }

    async fn run(
        &self,
        id: &ConnectionId,
        mut failed_generation: Option<i64>,
        trigger: Trigger,
        attempt_log: &mut AttemptLog,
    ) -> RefreshResult {
        // Long enough to recognise an orphaned lease.
        let gives_up_after = self.timing.lease + self.timing.orphan_grace + LEASE_POLL.1 * 4;
        let begun = self.clock.monotonic();
        let mut pause = LEASE_POLL.0;
        let mut waiting_since = None;
        let record_lease_wait = |since: Option<Duration>| {
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
            attempt_log.provider.clone_from(&app.provider.key);
            if trigger == Trigger::Revocation {
                return self.revoke(app, row, attempt_log).await;
            }
            self.check_age(&row)?;
            if self.is_newer(&row, failed_generation, trigger)? {
                if waiting_since.is_some() {
                    record_lease_wait(waiting_since);
                }
                return Ok(Outcome::AlreadyNewer(Arc::new(row)));
            }
            if self.is_available(&row).await {
                // A permit first: a lease must not wait in a queue.
                let (permit, queued) = self.permit(app).await;
                if queued {
                    row = self.find(id).await?;
                    if self.is_newer(&row, failed_generation, trigger)? {
                        return Ok(Outcome::AlreadyNewer(Arc::new(row)));
                    }
                }
                self.check_suspended(app, &row)?;
                // Before the lease: a process without the key must not take one.
                let token = self
                    .vault
                    .refresh_token(&row)
                    .map_err(RefreshError::Sealed)?;
                // A stopping process starts nothing.
                if self.is_stopping() || self.is_quiet() {
                    return Err(RefreshError::Busy);
                }
                if let Some(lease) = self.acquire(&row).await? {
                    let _held = self.continuity.hold(&row, &lease);
                    self.release_if_quiet(&row, &lease).await?;
                    record_lease_wait(waiting_since);
                    let asked = Asked {
                        trigger,
                        failed_generation,
                    };
                    let context = SpendContext::new(&row, app, &token, &lease, asked);
                    match self.refresh_under_lease(context, attempt_log).await? {
                        Outcome::Replayed(row) if self.is_stale(&row, app).await => {
                            failed_generation = Some(row.generation);
                            continue;
                        }
                        outcome => return Ok(outcome),
                    }
                }
                drop(permit);
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

    /// Whether a token from a journal is no longer good: it has expired, or a journal holds the next one.
    async fn is_stale(&self, row: &Connection, app: &App) -> bool {
        if self.clock.now() >= row.expires_at {
            return true;
        }
        let Ok(token) = self.vault.refresh_token(row) else {
            return false;
        };
        let next = self
            .journal
            .find(&row.id, row.generation, &token, |answer| {
                attempt::received(answer, app)
            })
            .await;
        next.is_ok_and(|next| next.is_some())
    }

    /// A permit at the provider's token endpoint, and whether it had to be waited for.
    async fn permit(&self, app: &App) -> (Option<SemaphorePermit<'_>>, bool) {
        let Some(permits) = self.permits.get(&app.provider.key) else {
            return (None, false);
        };
        match permits.try_acquire() {
            Ok(permit) => (Some(permit), false),
            Err(_all_taken) => (permits.acquire().await.ok(), true),
        }
    }

    /// Whether the row's token is newer than the caller's; an error if it may not be refreshed now.
    fn is_newer(
        &self,
        row: &Connection,
        failed_generation: Option<i64>,
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
        let newer = if let Some(generation) = failed_generation {
            generation != row.generation && self.rules.keep(Rule::CompareGenerations)
        } else {
            let shortest = self.timing.minted_recently;
            let window = self
                .unnamed
                .window(&row.id, self.clock.monotonic(), shortest);
            row.refreshed_at
                .is_some_and(|at| abs_diff(at, now) < window)
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
        // Callers without a generation have a window of their own.
        let early = failed_generation.and_then(|_| Wait::after_early_refresh(row, now));
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

    fn check_suspended(&self, app: &App, row: &Connection) -> Result<(), RefreshError> {
        match self.guard.suspended(app) {
            Some((word, retry_at)) => Err(RefreshError::ClientMisconfigured {
                word,
                retry_at,
                token_expires_at: row.expires_at,
            }),
            None => Ok(()),
        }
    }

    /// What works, but not as it should.
    pub fn degraded_reasons(&self) -> Vec<String> {
        let mut degraded_reasons = self.guard.degraded_reasons();
        degraded_reasons.extend(self.unstored.degraded_reasons());
        if !self.journal.healthy() {
            degraded_reasons.push("journal: can't be written".to_owned());
        }
        degraded_reasons
    }
}

#[cfg(test)]
mod tests;
