//! The lease: which process refreshes a connection, and when its holder is thought gone.

use std::sync::PoisonError;
use std::time::Duration;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::random;
use pipekeeper_core::store::{Connection, StoreError};

use super::Refresher;

/// This process is the one that refreshes a connection.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) owner: String,
    /// When it was asked for, on the monotonic clock and the wall clock.
    asked_at: Duration,
    asked_at_wall: Timestamp,
}

/// Another holder's lease, as this process has watched it (monotonic).
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) holder: String,
    pub(super) first_seen: Duration,
    pub(super) last_seen: Duration,
}

impl Refresher {
    /// The lease on this generation, if nobody has it, or if whoever had it is gone.
    pub(super) async fn acquire(&self, row: &Connection) -> Result<Option<Lease>, StoreError> {
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
        Ok(acquired.then_some(Lease {
            owner: mine,
            asked_at,
            asked_at_wall,
        }))
    }

    /// Whether a call begun now ends while the lease is still respected, by both clocks: one of them may have stood still
    /// or jumped.
    pub(super) fn may_call(&self, lease: &Lease) -> bool {
        let by_monotonic = self.clock.monotonic().saturating_sub(lease.asked_at);
        let by_wall = self.clock.now().saturating_since(lease.asked_at_wall);
        by_monotonic.max(by_wall) + self.timing.call <= self.timing.lease
    }

    /// A lease has no clock of its own: its age is the time for which this process has watched the same owner. After a gap
    /// in which the database or this process was away its holder gets the whole time again, to write what it has. An
    /// owner's name is never used twice.
    fn is_orphan(&self, id: &ConnectionId, holder: &str) -> bool {
        let now = self.clock.monotonic();
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = match watched.get(id) {
            Some(lease)
                if lease.holder == holder
                    && now.saturating_sub(lease.last_seen) < self.timing.lease =>
            {
                lease.first_seen
            }
            _ => now,
        };
        let lease = Watched {
            holder: holder.to_owned(),
            first_seen: begun,
            last_seen: now,
        };
        watched.insert(id.clone(), lease);
        now.saturating_sub(begun) > self.timing.lease + self.timing.orphan_grace
    }
}
