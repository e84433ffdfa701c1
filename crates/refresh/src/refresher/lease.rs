//! The lease: which process refreshes a connection, and when its holder is thought gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pipekeeper_core::clock::{SharedClock, Timestamp};
use pipekeeper_core::connection::{Connection, ConnectionId};
use pipekeeper_core::random;
use pipekeeper_core::store::StoreError;

use super::{Refresher, Rule};
use crate::journal::Holder;
use crate::timing::{LEASE_MARGIN, Timing};

/// How long a search of the journals stays valid; longer than connecting to a provider takes.
const SEARCH_VALID_FOR: Duration = Duration::from_secs(2);

/// Beyond this number, leases that were not observed for a while are forgotten.
const OBSERVED_MAX: usize = 1024;

/// This process is the one that refreshes a connection.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) owner: String,
    /// Its last holder did not end it: whether the token was spent is unknown.
    pub(super) taken_over: bool,
    /// When it was asked for, on the monotonic clock and the wall clock.
    asked_at: Duration,
    asked_at_wall: Timestamp,
}

impl Lease {
    /// By the clock that has gone further: one of them may have stood still (a suspended machine) or jumped.
    fn age(&self, clock: &SharedClock) -> Duration {
        let by_monotonic = clock.monotonic().saturating_sub(self.asked_at);
        let by_wall = clock.now().saturating_since(self.asked_at_wall);
        by_monotonic.max(by_wall)
    }
}

/// Other holders' leases, as this process has seen them (monotonic).
///
/// A lease has no clock of its own: its age is the time for which the same owner has been seen. After a gap in which the
/// database or this process was away its holder gets the whole time again, to write what it has. An owner's name is
/// never used twice.
#[derive(Debug, Default)]
pub(super) struct LeaseObserver(pub(super) Mutex<HashMap<ConnectionId, Observation>>);

#[derive(Debug)]
pub(super) struct Observation {
    pub(super) owner: String,
    pub(super) first: Duration,
    pub(super) last: Duration,
}

impl LeaseObserver {
    /// Notes that `owner` holds the lease, and says for how long it has been seen to.
    fn held_for(&self, id: &ConnectionId, owner: &str, now: Duration, gap: Duration) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() > OBSERVED_MAX {
            all.retain(|_, seen| now.saturating_sub(seen.last) < gap);
        }
        let first = match all.get(id) {
            Some(seen) if seen.owner == owner && now.saturating_sub(seen.last) < gap => seen.first,
            _ => now,
        };
        let owner = owner.to_owned();
        let last = now;
        all.insert(id.clone(), Observation { owner, first, last });
        now.saturating_sub(first)
    }

    fn forget(&self, id: &ConnectionId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(id);
    }
}

impl Refresher {
    /// Whether there is no lease, or its holder is gone.
    pub(super) async fn is_available(&self, row: &Connection) -> bool {
        match &row.lease_owner {
            None => true,
            Some(_) if !self.rules.keep(Rule::RespectLeases) => true,
            Some(owner) => self.is_orphan(&row.id, owner).await,
        }
    }

    /// The lease on this generation, of a row whose lease may be taken.
    pub(super) async fn acquire(&self, row: &Connection) -> Result<Option<Lease>, StoreError> {
        let (asked_at, asked_at_wall) = (self.clock.monotonic(), self.clock.now());
        let nonce = hex::encode(random::bytes::<8>());
        let mine = format!("{}/{nonce}", self.journal.process());
        let acquired = match &row.lease_owner {
            None => {
                let generation = self.lease_generation(row).await?;
                self.store
                    .lease_acquire(&row.id, generation, row.state, &mine)
                    .await?
            }
            Some(owner) => {
                tracing::warn!(connection.id = %row.id, generation = row.generation, "taking over the lease of a holder that is gone");
                metrics::counter!("pipekeeper_refresh_orphans_total").increment(1);
                self.take_over(row, owner, &mine).await?
            }
        };
        if acquired {
            self.lease_observer.forget(&row.id);
        }
        Ok(acquired.then(|| Lease {
            owner: mine,
            taken_over: row.lease_owner.is_some(),
            asked_at,
            asked_at_wall,
        }))
    }

    /// Whether a call begun now ends, and its answer is in the journal, while the lease is still respected.
    pub(super) fn may_call(&self, lease: &Lease) -> bool {
        lease.age(&self.clock) + self.timing.call_timeout + LEASE_MARGIN <= self.timing.lease
    }

    /// Whether no process can have taken the lease over yet, however late the response to a call under it comes in.
    pub(super) fn is_respected(&self, lease: &Lease) -> bool {
        lease.age(&self.clock) <= self.timing.lease.saturating_sub(LEASE_MARGIN)
    }

    /// Asked when the token leaves: a process may have been frozen since it decided to call. Where the token's last holder
    /// may still journal its response, the search for it (monotonic time) must not be long ago either.
    pub(super) fn before_deadline(
        &self,
        lease: &Lease,
        searched_at: Option<Duration>,
    ) -> impl Fn() -> bool + Send + Sync + use<> {
        let (clock, lease) = (SharedClock::clone(&self.clock), lease.clone());
        let continuity = Arc::clone(&self.continuity);
        let most = self.timing.lease.saturating_sub(LEASE_MARGIN);
        move || {
            if continuity.is_quiet(clock.monotonic()) {
                return false;
            }
            let just_searched = searched_at
                .is_none_or(|at| clock.monotonic().saturating_sub(at) <= SEARCH_VALID_FOR);
            lease.age(&clock) <= most && just_searched
        }
    }

    /// A dead holder's lease is one at once. One that may live is left alone for as long as it could be calling; one whose
    /// journal can't be read from here for longer: what it was answered may yet come.
    async fn is_orphan(&self, id: &ConnectionId, owner: &str) -> bool {
        let Timing {
            lease,
            orphan_grace,
            ..
        } = self.timing;
        // Without callers, only sweeps observe it.
        let gap = lease.max(self.timing.sweep_every * 2);
        let held_for = self
            .lease_observer
            .held_for(id, owner, self.clock.monotonic(), gap);
        match self.journal.holder(owner).await {
            Holder::Gone => true,
            Holder::Running => held_for > lease,
            Holder::OutOfReach => held_for > lease + orphan_grace,
        }
    }
}
