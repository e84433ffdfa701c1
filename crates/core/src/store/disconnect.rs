//! Ends a connection from our side: no caller gets its tokens from then on, and a sweep of token-refresher revokes them at the
//! provider.

use super::{Revocation, Store, StoreError};
use crate::clock::Timestamp;
use crate::connection::{Connection, ConnectionId, ConnectionState};

/// What `state_reason` says of it.
const REASON: &str = "disconnected";

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disconnected {
    Unknown,
    /// The row as it was a moment before.
    Now(Box<Connection>),
    /// It had ended already; the row as it is.
    Before(Box<Connection>),
}

/// Ends it in whatever state it is; a refresh or a consent that comes in between is ended with it.
pub async fn disconnect(
    store: &Store,
    id: &ConnectionId,
    now: Timestamp,
) -> Result<Disconnected, StoreError> {
    loop {
        let Some(row) = store.connection_find(id).await? else {
            return Ok(Disconnected::Unknown);
        };
        if row.state == ConnectionState::Revoked {
            return Ok(Disconnected::Before(Box::new(row)));
        }
        let pending = Revocation::Pending;
        if store
            .connection_revoke(id, row.generation, REASON, pending, now)
            .await?
        {
            return Ok(Disconnected::Now(Box::new(row)));
        }
    }
}
