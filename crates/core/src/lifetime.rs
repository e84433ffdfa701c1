//! When an access token is renewed ahead of its end.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::store::Connection;

/// How long before its end a token of ordinary life is renewed.
const MARGIN: Duration = Duration::from_mins(5);

/// From when on a token is renewed ahead of its end: five minutes before it, or a tenth of a short life.
pub fn renewal_due(minted_at: Timestamp, expires_at: Timestamp) -> Timestamp {
    let lifetime = expires_at.saturating_since(minted_at);
    expires_at.saturating_sub(MARGIN.min(lifetime / 10))
}

/// The same of a row: minted at its last refresh or, before the first one, at its consent.
pub fn renewal_due_of(row: &Connection) -> Timestamp {
    renewal_due(
        row.refreshed_at.unwrap_or(row.authorized_at),
        row.expires_at,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_lives_have_short_margins() {
        let minted = Timestamp::from_unix_micros(0).unwrap();
        for (life, due) in [(3600, 3300), (100, 90), (0, 0)] {
            let expires = minted.saturating_add(Duration::from_secs(life));
            assert_eq!(
                renewal_due(minted, expires),
                minted.saturating_add(Duration::from_secs(due))
            );
        }
    }
}
