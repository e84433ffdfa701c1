//! When a connection may be tried again, whatever the wall clocks do meanwhile.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pipekeeper_core::clock::{SharedClock, Timestamp};
use pipekeeper_core::connection::{Connection, ConnectionId};
use pipekeeper_core::random;

/// Shortest and longest back-off after a transient failure.
pub(super) const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// A provider that asks for a longer wait than this is asked again anyway.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// Longest wait between two refreshes that were asked for although the token had not expired.
const EARLY_REFRESH_MAX: Duration = Duration::from_mins(1);

/// An early refresh within this time of the one before belongs to the same streak: the waits grow along it.
pub(super) const EARLY_REFRESH_WINDOW: Duration = Duration::from_mins(10);

/// A process remembers up to this many waits; beyond it, those that are over are forgotten.
const REMEMBERED: usize = 4096;

/// A wait that ends at a stored instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    pub(super) until: Timestamp,
    pub(super) length: Duration,
}

/// Why a connection waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    /// `retry_at`: the last refresh failed.
    Failure,
    /// The last refresh was an early one.
    EarlyRefresh,
}

impl Wait {
    /// The wait after a failure: written together with `updated_at`, from which it lasts.
    pub(super) fn after_failure(row: &Connection) -> Option<Self> {
        let until = row.retry_at?;
        let length = until.saturating_since(row.updated_at).min(RETRY_AFTER_MAX);
        Some(Self { until, length })
    }

    /// The wait after an early refresh: 1, 2, 4 … 60 s along the streak. None once the token has expired.
    pub(super) fn after_early_refresh(row: &Connection, now: Timestamp) -> Option<Self> {
        if row.early_renewals <= 0 || now >= row.expires_at {
            return None;
        }
        let doublings = u32::try_from(row.early_renewals - 1).unwrap_or(0);
        let length = doubled(Duration::from_secs(1), doublings);
        let until = row.refreshed_at?.saturating_add(length);
        Some(Self { until, length })
    }
}

/// The waits that this process has set or met, on its monotonic clock.
///
/// A stored instant is read off the wall clock of the machine that wrote it, and that clock, or this machine's, may have been
/// set since. So no process waits longer than the wait was meant to last, counted from when this process first met it, and a
/// process that set a wait itself keeps to its length exactly.
#[derive(Debug)]
pub(super) struct Waits {
    clock: SharedClock,
    known: Mutex<HashMap<(ConnectionId, Reason), Known>>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    until: Timestamp,
    /// On the monotonic clock.
    deadline: Duration,
}

impl Waits {
    pub(super) fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            known: Mutex::default(),
        }
    }

    /// Remembers a wait that this process is about to store, and returns when it ends.
    pub(super) fn set(&self, id: &ConnectionId, reason: Reason, length: Duration) -> Timestamp {
        let until = self.clock.now().saturating_add(length);
        self.remember(id, reason, until, length);
        until
    }

    /// When the wait ends, by this machine's wall clock as it is now. `None`: it is over.
    pub(super) fn pending(
        &self,
        id: &ConnectionId,
        reason: Reason,
        wait: Option<Wait>,
    ) -> Option<Timestamp> {
        let Wait { until, length } = wait?;
        let now = self.clock.now();
        let known = self.known().get(&(id.clone(), reason)).copied();
        let left = if let Some(known) = known.filter(|known| known.until == until) {
            known.deadline.saturating_sub(self.clock.monotonic())
        } else {
            let left = until.saturating_since(now).min(length);
            if !left.is_zero() {
                self.remember(id, reason, until, left);
            }
            left
        };
        (!left.is_zero()).then(|| now.saturating_add(left))
    }

    fn remember(&self, id: &ConnectionId, reason: Reason, until: Timestamp, left: Duration) {
        let now = self.clock.monotonic();
        let mut known = self.known();
        if known.len() >= REMEMBERED {
            known.retain(|_, known| known.deadline > now);
        }
        let deadline = now + left;
        known.insert((id.clone(), reason), Known { until, deadline });
    }

    fn known(&self) -> MutexGuard<'_, HashMap<(ConnectionId, Reason), Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refreshes for callers that name no generation, as n8n's workflows do.
///
/// Such a caller has just been refused a token, and does not say which. Whatever was minted a moment ago is new to it, so it is
/// told so. The more often early refreshes follow each other, the longer that moment is: its own refreshes grow rarer,
/// and delays no other caller.
#[derive(Debug, Default)]
pub(super) struct UnnamedRefreshes(Mutex<HashMap<ConnectionId, Streak>>);

#[derive(Debug, Clone, Copy)]
struct Streak {
    early: u32,
    /// On the monotonic clock.
    last: Duration,
}

impl UnnamedRefreshes {
    /// For how long after a refresh its token is new to a caller that names no generation.
    pub(super) fn window(&self, id: &ConnectionId, now: Duration, shortest: Duration) -> Duration {
        let streak = self.streaks().get(id).copied();
        match streak.filter(|streak| now.saturating_sub(streak.last) < EARLY_REFRESH_WINDOW) {
            Some(streak) => doubled(shortest, streak.early),
            None => shortest,
        }
    }

    pub(super) fn early_refresh(&self, id: &ConnectionId, now: Duration) {
        let mut streaks = self.streaks();
        if streaks.len() >= REMEMBERED {
            streaks.retain(|_, streak| now.saturating_sub(streak.last) < EARLY_REFRESH_WINDOW);
        }
        let streak = streaks.entry(id.clone()).or_insert(Streak {
            early: 0,
            last: now,
        });
        let goes_on = now.saturating_sub(streak.last) < EARLY_REFRESH_WINDOW;
        *streak = Streak {
            early: if goes_on { streak.early + 1 } else { 1 },
            last: now,
        };
    }

    fn streaks(&self) -> MutexGuard<'_, HashMap<ConnectionId, Streak>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Up to a minute, unless it was longer to begin with.
fn doubled(shortest: Duration, times: u32) -> Duration {
    let grown = shortest.saturating_mul(2_u32.saturating_pow(times.min(6)));
    grown.min(EARLY_REFRESH_MAX.max(shortest))
}

/// How far two instants are apart: either may be the later one, for the clocks of two machines differ.
pub(super) fn abs_diff(one: Timestamp, other: Timestamp) -> Duration {
    one.saturating_since(other).max(other.saturating_since(one))
}

/// Decorrelated: between the shortest wait and three times the last, which the number of failures stands for.
pub(super) fn back_off(failures: i32, asked: Option<Duration>) -> Duration {
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
