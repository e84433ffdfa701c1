//! When an access token is renewed ahead of its end, and when the sweep looks at its connection.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::connection::Connection;
use crate::provider::{App, RefreshPolicy};
use crate::random;

/// How long before its end a token of ordinary life is renewed.
const MARGIN: Duration = Duration::from_mins(5);

/// A token that is renewed before each call is used for so long first.
const REUSED_FOR: Duration = Duration::from_secs(30);

/// A connection that was not used within this time is only kept alive.
const IN_USE: Duration = Duration::from_hours(24);

/// Between a token's minting and the sweep's renewal of it, at least: a life of no length costs no endless renewals.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// From when on a token may be renewed without a 401.
pub fn renewal_due(
    policy: RefreshPolicy,
    minted_at: Timestamp,
    expires_at: Timestamp,
) -> Timestamp {
    match policy {
        RefreshPolicy::BeforeExpiry => expires_at.saturating_sub(margin(minted_at, expires_at)),
        RefreshPolicy::OnRefusal => expires_at,
        RefreshPolicy::EveryRequest => minted_at.saturating_add(REUSED_FOR).min(expires_at),
    }
}

/// The same of a row.
pub fn renewal_due_of(policy: RefreshPolicy, row: &Connection) -> Timestamp {
    renewal_due(policy, minted_at(row), row.expires_at)
}

/// When a row's access token was minted: at its last refresh or, before the first one, at its consent.
pub fn minted_at(row: &Connection) -> Timestamp {
    row.refreshed_at.unwrap_or(row.authorized_at)
}

/// When the sweep is to look at a connection whose token lives from `minted_at` to `expires_at`.
///
/// A token that was asked for within a day is renewed shortly before its callers would ask for that themselves; any other
/// one when half the time is over after which its grant dies of disuse. Tokens minted together are due at different times.
pub fn due_at(
    app: &App,
    minted_at: Timestamp,
    expires_at: Timestamp,
    last_asked_for: Option<Timestamp>,
    now: Timestamp,
) -> Timestamp {
    Sweep::of(app, minted_at, expires_at).due_at(last_asked_for, now, |most| {
        random::between(Duration::ZERO, most)
    })
}

/// The same of a row that is as it is.
pub fn due_at_of(app: &App, row: &Connection, now: Timestamp) -> Timestamp {
    due_at(app, minted_at(row), row.expires_at, row.last_used_at, now)
}

/// Whether the sweep renews a row that it looks at; one that was not used since it was planned waits for its
/// [`due_at_of`].
pub fn is_due(app: &App, row: &Connection, now: Timestamp) -> bool {
    let sweep = Sweep::of(app, minted_at(row), row.expires_at);
    now >= sweep.due_at(row.last_used_at, now, |most| most)
}

/// Whether a caller has asked for a row's token within a day.
pub fn is_in_use(row: &Connection, now: Timestamp) -> bool {
    row.last_used_at.is_some_and(|at| was_recent(at, now))
}

fn was_recent(at: Timestamp, now: Timestamp) -> bool {
    now.saturating_since(at) < IN_USE
}

/// What the sweep's times depend on.
#[derive(Debug, Clone, Copy)]
struct Sweep {
    policy: RefreshPolicy,
    idle: Option<Duration>,
    minted_at: Timestamp,
    expires_at: Timestamp,
}

impl Sweep {
    fn of(app: &App, minted_at: Timestamp, expires_at: Timestamp) -> Self {
        Self {
            policy: app.policy(),
            idle: app.provider.refresh_idle,
            minted_at,
            expires_at,
        }
    }

    /// `early` says how much sooner, up to the most that it is given.
    fn due_at(
        &self,
        last_asked_for: Option<Timestamp>,
        now: Timestamp,
        early: impl Fn(Duration) -> Duration,
    ) -> Timestamp {
        let kept_alive_at = self.idle.map_or(Timestamp::far_future(), |idle| {
            let wait = (idle / 2).saturating_sub(early(idle / 20));
            self.minted_at.saturating_add(wait)
        });
        let in_use = last_asked_for.is_some_and(|at| was_recent(at, now));
        match self.policy {
            RefreshPolicy::BeforeExpiry if in_use => {
                let soonest = self.minted_at.saturating_add(SWEEP_PAUSE);
                renewal_due(self.policy, self.minted_at, self.expires_at)
                    .saturating_sub(early(margin(self.minted_at, self.expires_at) / 2))
                    .max(soonest)
                    // An access token may outlive its grant.
                    .min(kept_alive_at)
            }
            RefreshPolicy::BeforeExpiry
            | RefreshPolicy::OnRefusal
            | RefreshPolicy::EveryRequest => kept_alive_at,
        }
    }
}

/// Five minutes, or a tenth of a short life.
fn margin(minted_at: Timestamp, expires_at: Timestamp) -> Duration {
    MARGIN.min(expires_at.saturating_since(minted_at) / 10)
}

#[cfg(test)]
mod tests;
