//! What the refresher's sweep reads and writes, by the index `connections_due`.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{Store, StoreError, on_conn};
use crate::clock::Timestamp;
use crate::connection::{AppKey, Connection, ConnectionId, ConnectionState};
use crate::schema::connections::{dsl as c, table};
use crate::sealed::Sealed;

/// What a connection is due for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DueFor {
    Refresh,
    /// Refused by the provider, and to be rechecked.
    Recheck,
    /// Ended here, and the provider has yet to be told.
    Revocation,
}

impl Store {
    /// The next of those that are due, in the order of their time; `after` is the last one of the page before.
    ///
    /// With one `now` the pages come to an end whatever is written meanwhile, and none of the rows that stay as they are is
    /// left out. A row that is moved ahead comes again; one that is moved back waits for the next pass.
    pub async fn connections_due(
        &self,
        due_for: DueFor,
        now: Timestamp,
        after: Option<(Timestamp, &ConnectionId)>,
        limit: u16,
    ) -> Result<Vec<Connection>, StoreError> {
        let state = match due_for {
            DueFor::Refresh => ConnectionState::Active,
            DueFor::Recheck => ConnectionState::ReauthRequired,
            DueFor::Revocation => ConnectionState::Revoked,
        };
        let due = table
            .filter(c::state.eq(state.as_str()))
            .filter(c::due_at.le(now))
            .order((c::due_at, c::id))
            .limit(limit.into());
        match after {
            // The first condition is the one that an index range can start from.
            Some((at, id)) => {
                let rest = due
                    .filter(c::due_at.ge(at))
                    .filter(c::due_at.gt(at).or(c::id.gt(id.as_str())));
                on_conn!(self, |conn| rest.select(Connection::as_select()).load(conn))
            }
            None => on_conn!(self, |conn| due.select(Connection::as_select()).load(conn)),
        }
    }

    /// Since when the sweep is late: when the first of the active rows was due, if it is.
    pub async fn due_since(&self, now: Timestamp) -> Result<Option<Timestamp>, StoreError> {
        let due = on_conn!(self, |conn| table
            .filter(c::state.eq(ConnectionState::Active.as_str()))
            .filter(c::due_at.le(now))
            .order((c::due_at, c::id))
            .limit(1)
            .select(c::due_at)
            .load(conn))?;
        Ok(due.into_iter().next())
    }

    /// Has everything of an app's that the provider refused asked about once more, and says how many those are.
    pub async fn connections_recheck(
        &self,
        app: &AppKey,
        now: Timestamp,
    ) -> Result<usize, StoreError> {
        on_conn!(self, |conn| diesel::update(
            table
                .filter(c::platform.eq(&app.platform))
                .filter(c::app_id.eq(&app.app_id))
                .filter(c::state.eq(ConnectionState::ReauthRequired.as_str())),
        )
        .set(c::due_at.eq(now))
        .execute(conn))
    }

    /// Lets the sweep look later (or sooner), if nothing has happened since.
    pub async fn connection_postpone(
        &self,
        id: &ConnectionId,
        generation: i64,
        due_at: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table.find(id.as_str()).filter(c::generation.eq(generation)),
        )
        .set(c::due_at.eq(due_at))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// A row that ended has one more token to be revoked at its provider, which makes that of before worthless: it came in
    /// answer to a refresh that was under way when the row ended. With it the doubt ends, and whatever lease was held.
    pub async fn connection_revoke_also(
        &self,
        id: &ConnectionId,
        generation: i64,
        refresh_token: &Sealed,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .find(id.as_str())
                .filter(c::generation.eq(generation))
                .filter(c::state.eq(ConnectionState::Revoked.as_str())),
        )
        .set((
            // A revocation of the older token that is under way must not count for this one.
            c::generation.eq(c::generation + 1),
            c::refresh_token.eq(refresh_token),
            c::in_doubt.eq(false),
            c::lease_owner.eq(None::<&str>),
            c::revoke_pending.eq(true),
            c::due_at.eq(now),
            c::updated_at.eq(now),
        ))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// The provider knows now, or can't be told (`error` says why): the tokens are wiped, and the row is never due again.
    pub async fn connection_revocation_told(
        &self,
        id: &ConnectionId,
        generation: i64,
        error: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .find(id.as_str())
                .filter(c::generation.eq(generation))
                .filter(c::revoke_pending.eq(true)),
        )
        .set((
            c::revoke_pending.eq(false),
            c::in_doubt.eq(false),
            c::lease_owner.eq(None::<&str>),
            c::last_error.eq(error),
            c::access_token.eq(Sealed::default()),
            c::refresh_token.eq(Sealed::default()),
            c::due_at.eq(Timestamp::far_future()),
            c::updated_at.eq(now),
        ))
        .execute(conn))?;
        Ok(changed == 1)
    }
}
