//! Which rows of an old table a connection was taken over from, what those rows were given since, and the way back.

use diesel::mysql::Mysql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;
use diesel_async::RunQueryDsl;

use super::{Store, StoreError, on_conn};
use crate::clock::Timestamp;
use crate::connection::{Connection, ConnectionId, ConnectionState, HANDED_BACK};
use crate::schema::connections::{dsl as c, table as connections};
use crate::schema::imports::{self, dsl as i, table};
use crate::sealed::Sealed;

/// A row of the old table, and whose it is. One connection may have come from several.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = imports, check_for_backend(Pg, Mysql, Sqlite))]
pub struct Import {
    pub source_table: String,
    pub source_row: String,
    pub connection_id: ConnectionId,
    /// SHA-256 of the refresh token that the row holds: a row with another one is not overwritten.
    pub token_hash: String,
    /// When the row's tokens were given back to n8n.
    pub handed_back_at: Option<Timestamp>,
    /// When the row's refresh token was last found changed and replaced the connection's.
    pub replaced_at: Option<Timestamp>,
}

impl Store {
    /// What a row of an old table has become, if it has.
    pub async fn import_find(
        &self,
        source_table: &str,
        source_row: &str,
    ) -> Result<Option<Import>, StoreError> {
        let found = on_conn!(self, |conn| table
            .find((source_table, source_row))
            .select(Import::as_select())
            .load::<Import>(conn))?;
        // To MySQL "1 " is "1".
        Ok(found
            .into_iter()
            .find(|import| import.source_row == source_row))
    }

    /// The rows that a connection came from.
    pub async fn imports_of_connection(
        &self,
        id: &ConnectionId,
    ) -> Result<Vec<Import>, StoreError> {
        on_conn!(self, |conn| table
            .filter(i::connection_id.eq(id.as_str()))
            .order((i::source_table, i::source_row))
            .select(Import::as_select())
            .load(conn))
    }

    /// Notes what a row has become, in place of what was noted of it before.
    pub async fn import_put(&self, import: &Import, now: Timestamp) -> Result<(), StoreError> {
        if self.import_replace(import, now).await? {
            return Ok(());
        }
        let inserted = on_conn!(self, |conn| diesel::insert_into(table)
            .values((
                i::source_table.eq(&import.source_table),
                i::source_row.eq(&import.source_row),
                i::connection_id.eq(import.connection_id.as_str()),
                i::token_hash.eq(&import.token_hash),
                i::handed_back_at.eq(import.handed_back_at),
                i::replaced_at.eq(import.replaced_at),
                i::created_at.eq(now),
                i::updated_at.eq(now),
            ))
            .execute(conn));
        match inserted.map(drop) {
            // Another process put it there since we looked.
            Err(StoreError::Duplicate) => self.import_replace(import, now).await.map(drop),
            done => done,
        }
    }

    async fn import_replace(&self, import: &Import, now: Timestamp) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table.find((&import.source_table, &import.source_row))
        )
        .set((
            i::connection_id.eq(import.connection_id.as_str()),
            i::token_hash.eq(&import.token_hash),
            i::handed_back_at.eq(import.handed_back_at),
            i::replaced_at.eq(import.replaced_at),
            i::updated_at.eq(now),
        ))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// Takes back all that was noted of a connection.
    pub async fn imports_forget(&self, id: &ConnectionId) -> Result<(), StoreError> {
        on_conn!(self, |conn| diesel::delete(
            table.filter(i::connection_id.eq(id.as_str()))
        )
        .execute(conn))?;
        Ok(())
    }

    /// A page of what came from this table, in the order of its rows; `after` is the last one of the page before.
    pub async fn imports_of(
        &self,
        source_table: &str,
        after: &str,
        limit: u16,
    ) -> Result<Vec<(Import, Connection)>, StoreError> {
        on_conn!(self, |conn| table
            .inner_join(connections)
            .filter(i::source_table.eq(source_table))
            .filter(i::source_row.gt(after))
            .order(i::source_row)
            .limit(limit.into())
            .select((Import::as_select(), Connection::as_select()))
            .load(conn))
    }

    /// The active connections that no row of this table is waiting for: made here, or anew since they were handed back.
    pub async fn connections_without_import(
        &self,
        source_table: &str,
        after: Option<&ConnectionId>,
        limit: u16,
    ) -> Result<Vec<Connection>, StoreError> {
        let after = after.map_or("", ConnectionId::as_str);
        let imported = table
            .filter(i::source_table.eq(source_table))
            .filter(i::handed_back_at.is_null())
            .filter(i::connection_id.gt(after))
            .select(i::connection_id);
        on_conn!(self, |conn| connections
            .filter(c::state.eq(ConnectionState::Active.as_str()))
            .filter(c::id.gt(after))
            .filter(diesel::dsl::not(c::id.eq_any(imported)))
            .order(c::id)
            .limit(limit.into())
            .select(Connection::as_select())
            .load(conn))
    }

    /// The row holds this refresh token, and n8n spends it again.
    pub async fn import_handed_back(
        &self,
        seen: &Import,
        token_hash: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .find((&seen.source_table, &seen.source_row))
                .filter(i::connection_id.eq(seen.connection_id.as_str()))
                .filter(i::handed_back_at.is_null()),
        )
        .set((
            i::handed_back_at.eq(now),
            i::token_hash.eq(token_hash),
            i::updated_at.eq(now),
        ))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// Ends our own spending of a connection, and keeps its tokens to be handed back: never due, never revoked at the
    /// provider. Takes effect only without a lease and without doubt about the newest token.
    pub async fn connection_hand_back(
        &self,
        id: &ConnectionId,
        generation: i64,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            connections
                .find(id.as_str())
                .filter(c::generation.eq(generation))
                .filter(c::state.eq(ConnectionState::Active.as_str()))
                .filter(c::in_doubt.eq(false))
                .filter(c::lease_owner.is_null()),
        )
        .set((
            c::generation.eq(c::generation + 1),
            c::state.eq(ConnectionState::Revoked.as_str()),
            c::state_reason.eq(HANDED_BACK),
            c::state_since.eq(now),
            c::retry_at.eq(None::<Timestamp>),
            c::revoke_pending.eq(false),
            c::due_at.eq(Timestamp::far_future()),
            c::updated_at.eq(now),
        ))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// The tokens are where they came from: ours are wiped.
    pub async fn connection_handed_back(
        &self,
        id: &ConnectionId,
        generation: i64,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            connections
                .find(id.as_str())
                .filter(c::generation.eq(generation))
                .filter(c::state.eq(ConnectionState::Revoked.as_str()))
                .filter(c::state_reason.eq(HANDED_BACK)),
        )
        .set((
            c::access_token.eq(Sealed::default()),
            c::refresh_token.eq(Sealed::default()),
            c::updated_at.eq(now),
        ))
        .execute(conn))?;
        Ok(changed == 1)
    }
}
