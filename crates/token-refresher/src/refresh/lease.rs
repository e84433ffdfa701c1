//! The lease: which process refreshes a connection, and when its holder is thought gone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pipekeeper_core::clock::{SharedClock, Timestamp};
use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::random;
use pipekeeper_core::store::{Connection, StoreError};

use super::{Refresher, Rule};
use crate::config::{LEASE_MARGIN, Timing};
use crate::journal::Holder;

/// How long a look into the journals counts; longer than it takes to connect to a provider.
const LOOK_LASTS: Duration = Duration::from_secs(2);

/// Beyond so many watched leases those are forgotten that nobody has looked at for long.
const WATCHED_MAX: usize = 1024;

/// This process is the one that refreshes a connection.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    pub(super) owner: String,
    /// Its last holder did not end it: what became of the token, nobody knows.
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
pub(super) struct Watch(pub(super) Mutex<HashMap<ConnectionId, Seen>>);

#[derive(Debug)]
pub(super) struct Seen {
    pub(super) owner: String,
    pub(super) first: Duration,
    pub(super) last: Duration,
}

impl Watch {
    /// Notes that `owner` holds the lease, and says for how long it has been seen to.
    fn held_for(&self, id: &ConnectionId, owner: &str, now: Duration, gap: Duration) -> Duration {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() > WATCHED_MAX {
            all.retain(|_, seen| now.saturating_sub(seen.last) < gap);
        }
        let first = match all.get(id) {
            Some(seen) if seen.owner == owner && now.saturating_sub(seen.last) < gap => seen.first,
            _ => now,
        };
        let owner = owner.to_owned();
        let last = now;
        all.insert(id.clone(), Seen { owner, first, last });
        now.saturating_sub(first)
    }

    fn forget(&self, id: &ConnectionId) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.remove(id);
    }
}

impl Refresher {
    /// Whether nobody has the lease, or whoever had it is gone.
    pub(super) async fn may_be_taken(&self, row: &Connection) -> bool {
        match &row.lease_owner {
            None => true,
            Some(_) if !self.rules.keep(Rule::RespectLeases) => true,
            Some(owner) => self.is_orphan(&row.id, owner).await,
        }
    }

    /// The lease on this generation, of a row whose lease may be taken.
    pub(super) async fn acquire(&self, row: &Connection) -> Result<Option<Lease>, StoreError> {
        let (asked_at, asked_at_wall) = (self.clock.monotonic(), self.clock.now());
        let flight = hex::encode(random::bytes::<8>());
        let mine = format!("{}/{flight}", self.journal.process());
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
            self.watch.forget(&row.id);
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

    /// Whether nobody can have taken the lease over yet, however the response to a call under it comes in.
    pub(super) fn is_respected(&self, lease: &Lease) -> bool {
        lease.age(&self.clock) <= self.timing.lease.saturating_sub(LEASE_MARGIN)
    }

    /// Asked when the token leaves: a process may have been frozen since it decided to call. Where the token's last holder
    /// may yet write down its answer, the look for it (monotonic) must not be long ago either.
    pub(super) fn in_time(
        &self,
        lease: &Lease,
        looked_at: Option<Duration>,
    ) -> impl Fn() -> bool + Send + Sync + use<> {
        let (clock, lease) = (SharedClock::clone(&self.clock), lease.clone());
        let continuity = Arc::clone(&self.continuity);
        let most = self.timing.lease.saturating_sub(LEASE_MARGIN);
        move || {
            if continuity.is_quiet(clock.monotonic()) {
                return false;
            }
            let just_looked =
                looked_at.is_none_or(|at| clock.monotonic().saturating_sub(at) <= LOOK_LASTS);
            lease.age(&clock) <= most && just_looked
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
        // Where nobody waits for it, sweeps are all that look at it.
        let gap = lease.max(self.timing.sweep_every * 2);
        let held_for = self.watch.held_for(id, owner, self.clock.monotonic(), gap);
        match self.journal.holder(owner).await {
            Holder::Gone => true,
            Holder::Running => held_for > lease,
            Holder::OutOfReach => held_for > lease + orphan_grace,
        }
    }
}
