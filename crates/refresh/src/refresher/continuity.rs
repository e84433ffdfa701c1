//! A database that went back in time: a replica that took over without the last commits, or a backup that was restored.
//!
//! Its rows show refresh tokens that were spent long ago, and leases are gone. Each process that notices it, by its lost
//! connections or by a row that is older than what it has seen, spends nothing for a while. Meanwhile each process writes its
//! leases and its journaled responses again, the settled ones too, so that those whose journals are elsewhere find the newest
//! tokens in the rows.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering as Memory};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pipekeeper_core::connection::{Connection, ConnectionId, ConnectionState};
use pipekeeper_core::provider::AppChoice;
use pipekeeper_core::store::{Beat, Heartbeat, StoreError};
use tokio::sync::MutexGuard as AsyncMutexGuard;

use super::attempt::received;
use super::commit::{CommitContext, Earliness, Stored};
use super::lease::Lease;
use super::replay::ReplayError;
use super::unstored::HeldBy;
use super::{RefreshError, Refresher, Rule};
use crate::journal::KeptResponse;

/// For so long nothing is spent: others need the time to write what they have.
const QUIET_FOR: Duration = Duration::from_secs(5);

/// Between two passes through the journals while nothing is spent: a response may build on one that another process has.
const PASS_EVERY: Duration = Duration::from_millis(500);

/// Rows are compared in batches of this size.
const BATCH: usize = 200;

/// A process remembers the generations of up to twice as many connections, for up to twice as long. A failover loses the last
/// moments, not more.
const SEEN_MAX: usize = 50_000;
const SEEN_FOR: Duration = Duration::from_mins(5);

/// What this process knows of its database.
#[derive(Debug)]
pub(super) struct Continuity {
    heartbeat: tokio::sync::Mutex<Heartbeat>,
    /// The store's pool events when the heartbeat was last asked.
    verified: AtomicU64,
    quiet_until: Mutex<Option<Duration>>,
    seen: Mutex<Observation>,
    held: Mutex<HashMap<ConnectionId, HeldLease>>,
}

/// The newest generations that this process has read or written, by the hash of the connection's id.
#[derive(Debug, Default)]
struct Observation {
    hasher: RandomState,
    current: HashMap<u64, i64>,
    before: HashMap<u64, i64>,
    since: Duration,
}

#[derive(Debug, Clone)]
pub(super) struct HeldLease {
    generation: i64,
    in_doubt: bool,
    lease: Lease,
}

/// As long as it lives, a database that lost the lease is given it again.
pub(super) struct LeaseGuard<'a> {
    continuity: &'a Continuity,
    id: ConnectionId,
}

impl Drop for LeaseGuard<'_> {
    fn drop(&mut self) {
        self.continuity.let_go(&self.id);
    }
}

impl Continuity {
    pub(super) fn new(heartbeat: Heartbeat) -> Self {
        Self {
            heartbeat: tokio::sync::Mutex::new(heartbeat),
            verified: AtomicU64::new(u64::MAX),
            quiet_until: Mutex::default(),
            seen: Mutex::default(),
            held: Mutex::default(),
        }
    }

    pub(super) fn is_quiet(&self, now: Duration) -> bool {
        self.quiet_until().is_some_and(|until| now < until)
    }

    fn keep_quiet(&self, now: Duration) {
        *self.quiet_until() = Some(now + QUIET_FOR);
    }

    /// Holds on to a lease for as long as the guard lives.
    pub(super) fn hold(&self, row: &Connection, lease: &Lease) -> LeaseGuard<'_> {
        let held = HeldLease {
            generation: row.generation,
            in_doubt: row.in_doubt || lease.taken_over,
            lease: lease.clone(),
        };
        self.held().insert(row.id.clone(), held);
        LeaseGuard {
            continuity: self,
            id: row.id.clone(),
        }
    }

    /// From now on the connection's lease is not written again: it is about to be ended.
    pub(super) fn let_go(&self, id: &ConnectionId) {
        self.held().remove(id);
    }

    fn holds(&self, id: &ConnectionId, owner: &str) -> bool {
        let held = self.held();
        held.get(id).is_some_and(|held| held.lease.owner == owner)
    }

    /// Remembers the row's generation. False if it is older than one that was seen before.
    pub(super) fn saw(&self, row: &Connection, now: Duration) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(seen.since) >= SEEN_FOR || seen.current.len() >= SEEN_MAX {
            seen.before = std::mem::take(&mut seen.current);
            seen.since = now;
        }
        let key = seen.hasher.hash_one(row.id.as_str());
        let before = seen.current.get(&key).or_else(|| seen.before.get(&key));
        let is_older = before.is_some_and(|newest| row.generation < *newest);
        // The older one counts from now on: what can't be written again must not keep all processes quiet for ever.
        seen.current.insert(key, row.generation);
        !is_older
    }

    fn quiet_until(&self) -> MutexGuard<'_, Option<Duration>> {
        self.quiet_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn held(&self) -> MutexGuard<'_, HashMap<ConnectionId, HeldLease>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Refresher {
    /// Whether nothing is spent for now.
    pub(super) fn is_quiet(&self) -> bool {
        self.continuity.is_quiet(self.clock.monotonic())
    }

    /// Asked after a lease was taken, so that it covers the reading of the row too: whether the database has been the same one,
    /// as far as this process can tell.
    pub(super) async fn may_have_lost_commits(&self) -> bool {
        let verified = &self.continuity.verified;
        if self.store.pool_events() != verified.load(Memory::SeqCst) {
            let heartbeat = self.continuity.heartbeat.lock().await;
            let is_stale = self.store.pool_events() != verified.load(Memory::SeqCst);
            if is_stale && self.beat(heartbeat).await.is_err() {
                return true;
            }
        }
        self.is_quiet()
    }

    /// Ends a lease that was just taken, where the database may have lost what it is based on. One that was taken over is given back:
    /// perhaps this process alone can read what its holder wrote down, and others have to go on waiting for that.
    pub(super) async fn release_if_quiet(
        &self,
        row: &Connection,
        lease: &Lease,
    ) -> Result<(), RefreshError> {
        if !self.may_have_lost_commits().await {
            return Ok(());
        }
        // Until it is done: no other process would end the lease of a living one.
        match &row.lease_owner {
            None => self.release(row, lease).await,
            Some(holder) => {
                let give_back = || self.take_over(row, &lease.owner, holder);
                self.end_lease(row, give_back).await?;
            }
        }
        Err(RefreshError::Busy)
    }

    /// A row that is older than what was seen of it: nothing is spent for now.
    pub(super) fn check_age(&self, row: &Connection) -> Result<(), RefreshError> {
        let now = self.clock.monotonic();
        if self.continuity.saw(row, now) {
            return Ok(());
        }
        tracing::error!(connection.id = %row.id, generation = row.generation, "the database has lost commits: nothing is spent for {QUIET_FOR:?} while journaled responses are written again");
        self.continuity.keep_quiet(now);
        Err(RefreshError::Busy)
    }

    async fn beat(&self, mut heartbeat: AsyncMutexGuard<'_, Heartbeat>) -> Result<(), StoreError> {
        let events = self.store.pool_events();
        match heartbeat.beat().await {
            Ok(Beat::Steady) => {}
            Ok(Beat::Reconnected) => {
                tracing::warn!(
                    "the database's connections were lost: nothing is spent for {QUIET_FOR:?} while journaled responses are written again"
                );
                self.continuity.keep_quiet(self.clock.monotonic());
            }
            Err(error) => {
                // Whatever the pool reaches meanwhile has to be verified again.
                self.continuity.verified.store(u64::MAX, Memory::SeqCst);
                return Err(error);
            }
        }
        self.continuity.verified.store(events, Memory::SeqCst);
        Ok(())
    }

    /// Asks the database whether it is the same one, and gives one that is not what this process has. Returns how many rows
    /// got newer by it.
    pub async fn keep_continuity(&self) -> Result<usize, ReplayError> {
        self.beat(self.continuity.heartbeat.lock().await).await?;
        if !self.is_quiet() || !self.rules.keep(Rule::SearchJournals) {
            return Ok(0);
        }
        // First and last: their holders may be spending, and some can be had only when the responses before them are there.
        self.rewrite_leases().await?;
        let (mut rewritten, mut ahead) = (0, Vec::new());
        for segment in self.journal.kept_segments().await? {
            let responses = self.journal.kept_responses(segment).await?;
            let (count, later) = self.rewrite(responses).await?;
            rewritten += count;
            ahead.extend(later);
        }
        let mut leases_ahead = self.rewrite_leases().await?;
        while self.is_quiet() && (leases_ahead || !ahead.is_empty()) && !self.is_stopping() {
            let (count, later) = self.rewrite(ahead).await?;
            rewritten += count;
            ahead = later;
            leases_ahead = self.rewrite_leases().await?;
            tokio::time::sleep(PASS_EVERY).await;
        }
        Ok(rewritten)
    }

    /// Takes the leases again under which this process is spending. True if the row of one of them is still older than that.
    async fn rewrite_leases(&self) -> Result<bool, StoreError> {
        let held = self.continuity.held().clone();
        let mut any_ahead = false;
        for (id, held) in held {
            let Some(row) = self.store.connection_find(&id).await? else {
                continue;
            };
            let ended = row.state == ConnectionState::Revoked && row.revoke_pending;
            let generation = row.generation - i64::from(ended);
            any_ahead |= generation < held.generation;
            if generation == held.generation {
                self.rewrite_lease(&row, &held, ended).await?;
            }
        }
        Ok(any_ahead)
    }

    pub(super) async fn rewrite_lease(
        &self,
        row: &Connection,
        held: &HeldLease,
        ended: bool,
    ) -> Result<(), StoreError> {
        let mine = &held.lease.owner;
        let is_respected = self.is_respected(&held.lease);
        // The refresh may have ended the lease since `held` was copied, and would not end it a second time.
        let is_held = || self.continuity.holds(&row.id, mine);
        match &row.lease_owner {
            None => {
                let taken = self
                    .store
                    .lease_acquire(&row.id, row.generation, row.state, mine)
                    .await?;
                // One that has lasted too long may have been taken over.
                if taken && self.doubt(held.in_doubt || ended || !is_respected) {
                    self.store.lease_take_over(&row.id, mine, mine).await?;
                }
                if taken && !is_held() {
                    self.store.lease_release(&row.id, mine).await?;
                }
            }
            // Two believe that they hold it. That of the one from whom the other took it over has lasted too long.
            Some(other) if other != mine && is_respected && is_held() => {
                let taken = self.take_over(row, other, mine).await?;
                if taken && !is_held() {
                    self.take_over(row, mine, other).await?;
                }
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Commits again what is missing. Returns how many rows got newer, and the responses whose rows are older than they can
    /// follow upon: they build on responses that other processes have, or that come later in the same pass.
    async fn rewrite(
        &self,
        responses: Vec<KeptResponse>,
    ) -> Result<(usize, Vec<KeptResponse>), ReplayError> {
        let (mut rewritten, mut ahead) = (0, Vec::new());
        let mut responses = responses.into_iter();
        loop {
            let batch: Vec<_> = responses.by_ref().take(BATCH).collect();
            if batch.is_empty() {
                return Ok((rewritten, ahead));
            }
            let ids: Vec<_> = batch.iter().map(KeptResponse::connection).collect();
            let spent_at = self.store.connections_spent_at(&ids).await?;
            let spent_at: HashMap<_, _> = spent_at.into_iter().collect();
            for response in batch {
                let Some(current) = spent_at.get(response.connection()) else {
                    continue;
                };
                match response.generation().cmp(current) {
                    Ordering::Less => {}
                    Ordering::Equal => {
                        rewritten += usize::from(self.rewrite_response(&response).await?);
                    }
                    Ordering::Greater => ahead.push(response),
                }
            }
        }
    }

    /// Commits a response again, if the row is exactly as it was when the response came.
    async fn rewrite_response(&self, response: &KeptResponse) -> Result<bool, ReplayError> {
        let Some(row) = self.store.connection_find(response.connection()).await? else {
            return Ok(false);
        };
        let ended = row.state == ConnectionState::Revoked;
        let fits = row.generation - i64::from(ended) == response.generation()
            && row.authorized_at <= response.received_at;
        if !fits || (ended && !row.revoke_pending) {
            return Ok(false);
        }
        let unsettled = response.unsettled();
        let AppChoice::One(app) = self.apps.find(Some(&row.app_id), Some(&row.platform)) else {
            return Ok(false);
        };
        let Ok(token) = self.vault.refresh_token(&row) else {
            return Ok(false);
        };
        if !self.journal.is_of(&unsettled, &token) {
            return Ok(false);
        }
        let answers = self.journal.read(&unsettled)?;
        let Some(found) = answers.into_iter().find_map(|answer| received(answer, app)) else {
            return Ok(false);
        };
        let stays_revoked = self.stays_revoked(&row);
        let written = match &found.tokens.refresh_token {
            None if stays_revoked => return Ok(false),
            Some(newest) if stays_revoked => self.schedule_revocation(&row, newest).await,
            _ => {
                let how = CommitContext {
                    asked_for: row.last_used_at,
                    early: Earliness::Due,
                    spent_under: None,
                };
                let stored = self.store_received(&row, app, &token, &found, &how).await;
                stored.map(|stored| matches!(stored, Stored::Committed(_)))
            }
        };
        match written {
            Ok(true) if !ended => {
                tracing::warn!(connection.id = %row.id, generation = row.generation, "wrote a journaled response again that the database had lost");
                Ok(true)
            }
            Ok(is_written) => Ok(is_written),
            Err(refused) => {
                let spent_at = response.generation();
                self.hold(&row, spent_at, HeldBy::Journal, refused).await;
                Ok(false)
            }
        }
    }
}
