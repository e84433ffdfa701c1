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
use pipekeeper_core::lifetime::{renewal_due, renewal_due_of};
use pipekeeper_core::oauth::{self, TokenError, Tokens, Unknown};
use pipekeeper_core::provider::{App, AppChoice, Apps};
use pipekeeper_core::random;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{
    Commit, Connection, RefreshLogEntry, SpendFailure, Store, StoreError,
};
use pipekeeper_core::vault::{SealedTo, Vault};
use pipekeeper_service::Context;
use pipekeeper_service::tasks::Tasks;
use tokio::sync::{Semaphore, watch};
use tracing::Instrument as _;

use crate::config::Timing;
use crate::spend::{outcome_of, spend, word_of};

/// Between two looks at a lease that another process holds: at first, in the end.
const LEASE_POLL: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(400));

/// Back-off after a transient failure: at least, at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// A provider that asks for more patience than this is asked again anyway.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// How often an app that the provider refuses is tried again.
const PROBE_EVERY: Duration = Duration::from_mins(1);

/// A renewed token that was refused within this time belongs to the streak that the waits grow along.
const STREAK: Duration = Duration::from_mins(10);

/// How far the clocks of two machines may differ before the protocol takes a time for one from before a jump.
const CLOCK_SKEW: Duration = Duration::from_mins(5);

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

/// This process is the one that refreshes a connection.
#[derive(Debug)]
struct Lease {
    owner: String,
    /// When it was asked for, on the monotonic clock and the wall clock.
    asked_at: Duration,
    asked_at_wall: Timestamp,
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
    /// Leases of other holders, and when this process first saw each (monotonic).
    seen_leases: Mutex<HashMap<ConnectionId, (String, Duration)>>,
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
            seen_leases: Mutex::default(),
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
        let give_up = self.clock.monotonic() + self.timing.lease + self.timing.orphan_grace;
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

    /// The lease on this generation, if nobody has it, or if whoever had it is gone.
    async fn acquire(&self, row: &Connection) -> Result<Option<Lease>, StoreError> {
        let (asked_at, asked_at_wall) = (self.clock.monotonic(), self.clock.now());
        let mine = format!("{}/{}", self.process, random::token());
        let acquired = match &row.lease_owner {
            None => {
                self.store
                    .lease_acquire(&row.id, row.generation, &mine)
                    .await?
            }
            Some(holder) if self.is_orphan(&row.id, holder) => {
                tracing::warn!(connection.id = %row.id, "taking over the lease of a holder that is gone");
                metrics::counter!("pipekeeper_refresh_orphans_total").increment(1);
                self.store.lease_take_over(&row.id, holder, &mine).await?
            }
            Some(_) => false,
        };
        if acquired {
            self.seen_leases
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .remove(&row.id);
        }
        Ok(acquired.then_some(Lease {
            owner: mine,
            asked_at,
            asked_at_wall,
        }))
    }

    /// Whether a call begun now ends while the lease is still respected, by both clocks: one of them may have stood still
    /// or jumped.
    fn may_call(&self, lease: &Lease) -> bool {
        let by_monotonic = self.clock.monotonic().saturating_sub(lease.asked_at);
        let by_wall = self.clock.now().saturating_since(lease.asked_at_wall);
        by_monotonic.max(by_wall) + self.timing.call <= self.timing.lease
    }

    /// A lease has no clock of its own: its age is the time for which this process has seen the same owner, and an owner's
    /// name is never used twice.
    fn is_orphan(&self, id: &ConnectionId, holder: &str) -> bool {
        let now = self.clock.monotonic();
        let mut seen = self
            .seen_leases
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match seen.entry(id.clone()) {
            Entry::Occupied(lease) if lease.get().0 == holder => {
                now.saturating_sub(lease.get().1) > self.timing.lease + self.timing.orphan_grace
            }
            Entry::Occupied(mut lease) => {
                lease.insert((holder.to_owned(), now));
                false
            }
            Entry::Vacant(place) => {
                place.insert((holder.to_owned(), now));
                false
            }
        }
    }

    async fn spend_and_commit(
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
            // A provider that allows for lost answers does so for seconds: now or never.
            if self.may_call(lease) {
                answer = self
                    .call(&row, app, &refresh_token, trigger, &mut attempts)
                    .await;
            }
        }
        let result = match answer {
            Ok(tokens) => self.commit(row, app, &refresh_token, tokens).await,
            Err(error) => self.refused(row, app, lease, &error, in_doubt).await,
        };
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
                generation_after: answer.is_ok().then_some(row.generation + 1),
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
        let mut told = false;
        let committed = loop {
            match self
                .store
                .connection_commit(&row.id, row.generation, &commit, now)
                .await
            {
                Ok(committed) => break committed,
                Err(error) if error.is_unavailable() => {
                    if !told {
                        told = true;
                        tracing::error!(connection.id = %row.id, "holding new tokens until the database is back: {:#}", anyhow::Error::from(error));
                    }
                    tokio::time::sleep(random::between(
                        Duration::from_millis(100),
                        Duration::from_millis(300),
                    ))
                    .await;
                }
                Err(error) => return Err(error.into()),
            }
        };
        let current = self.reread(&row.id).await?;
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
        error: &TokenError,
        in_doubt: bool,
    ) -> FlightResult {
        let now = self.clock.now();
        let token_expires_at = row.expires_at;
        match error {
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
                    self.store
                        .connection_spend_failed(&row.id, &lease.owner, &failure, now)
                        .await?;
                } else {
                    self.store.lease_release(&row.id, &lease.owner).await?;
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
                let asked = match error {
                    TokenError::TurnedAway { retry_after, .. } => *retry_after,
                    _ => None,
                };
                let wait = back_off(row.failures, asked);
                let retry_at = now.saturating_add(wait);
                let word = word_of(error);
                let failure = SpendFailure {
                    retry_at,
                    last_error: word.clone(),
                    in_doubt: matches!(error, TokenError::Unknown(_)) || in_doubt,
                    due_at: row.due_at.max(retry_at),
                };
                self.store
                    .connection_spend_failed(&row.id, &lease.owner, &failure, now)
                    .await?;
                tracing::warn!(connection.id = %row.id, generation = row.generation, retry_at = %retry_at, "no refresh: {error} ({word})");
                Err(RefreshError::Provider {
                    timed_out: matches!(error, TokenError::Unknown(Unknown::TimedOut)),
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
        let ended = self
            .store
            .connection_reauth_required(&row.id, row.generation, reason, Some("invalid_grant"), now)
            .await?;
        let current = self.reread(&row.id).await?;
        if ended {
            tracing::error!(connection.id = %row.id, generation = row.generation, reason, "the provider refused the refresh token: a new consent is needed");
        }
        adopt(current)
    }

    async fn reread(&self, id: &ConnectionId) -> Result<Connection, RefreshError> {
        self.store
            .connection_find(id)
            .await?
            .ok_or(RefreshError::NotFound)
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
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}

/// When a token that was itself minted for a 401 may be renewed for another: after 1, 2, 4 … 60 s. `None`: now.
fn early_again_at(row: &Connection, now: Timestamp) -> Option<Timestamp> {
    if row.early_renewals <= 0 || now >= row.expires_at {
        return None;
    }
    let doublings = u32::try_from(row.early_renewals - 1).unwrap_or(0).min(6);
    let wait = Duration::from_secs((1_u64 << doublings).min(60));
    row.refreshed_at
        .map(|at| at.saturating_add(wait))
        .filter(|at| lies_ahead(*at, now, wait))
}

/// Whether a wait of `most` at most still lasts. One that would last much longer was written before the wall clock was
/// set back, and is over.
fn lies_ahead(until: Timestamp, now: Timestamp, most: Duration) -> bool {
    until > now && until.saturating_since(now) <= most + CLOCK_SKEW
}

/// Either may be the later one: the clocks of two machines differ.
fn apart(one: Timestamp, other: Timestamp) -> Duration {
    one.saturating_since(other).max(other.saturating_since(one))
}

/// Decorrelated: between the shortest wait and three times the last, which the number of failures stands for.
fn back_off(failures: i32, asked: Option<Duration>) -> Duration {
    let tripled = u32::try_from(failures)
        .unwrap_or(0)
        .saturating_add(1)
        .min(8);
    let most = BACK_OFF
        .0
        .saturating_mul(3_u32.saturating_pow(tripled))
        .min(BACK_OFF.1);
    let wait = random::between(BACK_OFF.0, most);
    asked.map_or(wait, |asked| wait.max(asked.min(RETRY_AFTER_MAX)))
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
