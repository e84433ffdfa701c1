//! Leases: who is refreshing a connection (`lease_owner`; NULL = no process). They have no expiry and know no clock.

use diesel::dsl::case_when;
use diesel::prelude::*;
use diesel::sql_types::Bool;
use diesel_async::RunQueryDsl;

use crate::schema::Instant;
use crate::schema::connections::{dsl as c, table};

use super::{Store, StoreError, on_conn};
use crate::clock::Timestamp;
use crate::connection::{ConnectionId, ConnectionState};

/// Trouble that kills nothing: what to remember, and when to come back.
#[derive(Debug, Clone)]
pub struct SpendFailure {
    pub retry_at: Timestamp,
    pub last_error: String,
    /// True if the token may have been spent; an earlier doubt stays in either case.
    pub in_doubt: bool,
    pub due_at: Timestamp,
}

impl Store {
    /// Takes the lease of a connection that is not leased, and is as its caller has seen it: `Active`, `ReauthRequired` for
    /// a recheck, or `Revoked` for the refresh that ends a doubt, as long as the provider has not been told.
    pub async fn lease_acquire(
        &self,
        id: &ConnectionId,
        generation: i64,
        state: ConnectionState,
        owner: &str,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .find(id.as_str())
                .filter(c::generation.eq(generation))
                .filter(c::state.eq(state.as_str()))
                .filter(c::revoke_pending.or(c::state.ne(ConnectionState::Revoked.as_str())))
                .filter(c::lease_owner.is_null()),
        )
        .set(c::lease_owner.eq(owner))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// Ends a lease that spent nothing.
    pub async fn lease_release(&self, id: &ConnectionId, owner: &str) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table.find(id.as_str()).filter(c::lease_owner.eq(owner)),
        )
        .set(c::lease_owner.eq(None::<&str>))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// Takes an orphan's lease, if it is still the one that was seen. What its holder sent is unknown: `in_doubt`.
    pub async fn lease_take_over(
        &self,
        id: &ConnectionId,
        seen_owner: &str,
        new_owner: &str,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .find(id.as_str())
                .filter(c::lease_owner.eq(seen_owner)),
        )
        .set((c::lease_owner.eq(new_owner), c::in_doubt.eq(true)))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// Ends a lease whose spend came to nothing; from anyone but its holder it changes nothing. A revocation that was ordered
    /// meanwhile stays due.
    pub async fn connection_spend_failed(
        &self,
        id: &ConnectionId,
        lease_owner: &str,
        failure: &SpendFailure,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .find(id.as_str())
                .filter(c::lease_owner.eq(lease_owner)),
        )
        .set((
            c::failures.eq(c::failures + 1),
            c::retry_at.eq(failure.retry_at),
            c::last_error.eq(&failure.last_error),
            c::in_doubt.eq(c::in_doubt.or(failure.in_doubt.into_sql::<Bool>())),
            c::due_at.eq(case_when(c::revoke_pending, c::due_at)
                .otherwise(failure.due_at.into_sql::<Instant>())),
            c::lease_owner.eq(None::<&str>),
            c::updated_at.eq(now),
        ))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// Makes all processes wait with a row whose refresh token was spent by a process that can't store the response yet. The lease
    /// stays whose it is.
    pub async fn connection_hold(
        &self,
        id: &ConnectionId,
        generation: i64,
        hold: &SpendFailure,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .find(id.as_str())
                .filter(c::generation.eq(generation))
                .filter(c::state.ne(ConnectionState::Revoked.as_str())),
        )
        .set((
            c::retry_at.eq(hold.retry_at),
            c::last_error.eq(&hold.last_error),
            c::in_doubt.eq(c::in_doubt.or(hold.in_doubt.into_sql::<Bool>())),
            c::due_at.eq(hold.due_at),
            c::updated_at.eq(now),
        ))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// Ends the lease of a recheck that the provider refused again: not due until the next recheck. Why and since when
    /// stays as it was; from anyone but the lease's holder it changes nothing.
    pub async fn connection_still_refused(
        &self,
        id: &ConnectionId,
        lease_owner: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .find(id.as_str())
                .filter(c::state.eq(ConnectionState::ReauthRequired.as_str()))
                .filter(c::lease_owner.eq(lease_owner)),
        )
        .set((
            c::retry_at.eq(None::<Timestamp>),
            c::due_at.eq(Timestamp::far_future()),
            c::lease_owner.eq(None::<&str>),
            c::updated_at.eq(now),
        ))
        .execute(conn))?;
        Ok(changed == 1)
    }
}
