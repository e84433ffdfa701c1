//! When to come back: after a refusal, after a failure, whatever the wall clock does meanwhile.

use std::time::Duration;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::random;
use pipekeeper_core::store::Connection;

/// Back-off after a transient failure: at least, at most.
pub(super) const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// A provider that asks for more patience than this is asked again anyway.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);

/// A renewed token that was refused within this time belongs to the streak that the waits grow along.
pub(super) const STREAK: Duration = Duration::from_mins(10);

/// How far the clocks of two machines may differ before the protocol takes a time for one from before a jump.
pub(super) const CLOCK_SKEW: Duration = Duration::from_mins(5);

/// When a token that was itself minted for a 401 may be renewed for another: after 1, 2, 4 … 60 s. `None`: now.
pub(super) fn early_again_at(row: &Connection, now: Timestamp) -> Option<Timestamp> {
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
pub(super) fn lies_ahead(until: Timestamp, now: Timestamp, most: Duration) -> bool {
    until > now && until.saturating_since(now) <= most + CLOCK_SKEW
}

/// Either may be the later one: the clocks of two machines differ.
pub(super) fn apart(one: Timestamp, other: Timestamp) -> Duration {
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
