//! What happened to a connection's tokens: one row per attempt that reached the provider.

use diesel::mysql::Mysql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;
use diesel_async::{AsyncConnection as _, RunQueryDsl};

use super::pool::Pools;
use super::{Store, StoreError, on_conn};
use crate::clock::Timestamp;
use crate::connection::ConnectionId;
use crate::schema::refresh_log::{self, dsl as r, table};

/// Of nine values each; `SQLite` takes 32 766 values in one statement.
const ENTRIES_PER_STATEMENT: usize = 1000;

#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = refresh_log, check_for_backend(Pg, Mysql, Sqlite))]
pub struct RefreshLogEntry {
    pub connection_id: ConnectionId,
    pub started_at: Timestamp,
    /// Who asked.
    #[diesel(column_name = trigger_kind)]
    pub trigger: String,
    pub outcome: String,
    pub generation_before: i64,
    pub generation_after: Option<i64>,
    pub duration_ms: i64,
    /// A word, never the provider's text.
    pub error: Option<String>,
}

impl Store {
    /// Writes them in one statement (on `SQLite` in one transaction), or as few as their values fit into.
    pub async fn refresh_log_insert(&self, entries: &[RefreshLogEntry]) -> Result<(), StoreError> {
        for entries in entries.chunks(ENTRIES_PER_STATEMENT) {
            let rows: Vec<_> = entries
                .iter()
                .map(|entry| {
                    (
                        r::id.eq(uuid::Uuid::now_v7().to_string()),
                        r::connection_id.eq(entry.connection_id.as_str()),
                        r::started_at.eq(entry.started_at),
                        r::trigger_kind.eq(&entry.trigger),
                        r::outcome.eq(&entry.outcome),
                        r::generation_before.eq(entry.generation_before),
                        r::generation_after.eq(entry.generation_after),
                        r::duration_ms.eq(entry.duration_ms),
                        r::error.eq(&entry.error),
                    )
                })
                .collect();
            match &self.pools {
                Pools::Postgres(pool, _) => {
                    on_conn!(@run self, pool, conn, diesel::insert_into(table)
                        .values(&rows)
                        .execute(conn))?;
                }
                Pools::Mysql(pool, _) => {
                    on_conn!(@run self, pool, conn, diesel::insert_into(table)
                        .values(&rows)
                        .execute(conn))?;
                }
                // Diesel has no statement of several rows for it; what costs there is the commit.
                Pools::Sqlite(pool, _) => {
                    on_conn!(@run self, pool, conn, conn.transaction(
                        async |conn| -> QueryResult<usize> {
                            for row in &rows {
                                diesel::insert_into(table).values(row).execute(conn).await?;
                            }
                            Ok(rows.len())
                        }
                    ))?;
                }
            }
        }
        Ok(())
    }

    /// The last attempts, newest first.
    pub async fn refresh_log_for(
        &self,
        id: &ConnectionId,
        limit: u16,
    ) -> Result<Vec<RefreshLogEntry>, StoreError> {
        on_conn!(self, |conn| table
            .filter(r::connection_id.eq(id.as_str()))
            .order((r::started_at.desc(), r::id.desc()))
            .limit(limit.into())
            .select(RefreshLogEntry::as_select())
            .load(conn))
    }

    /// Deletes what started before this.
    pub async fn refresh_log_trim(&self, before: Timestamp) -> Result<usize, StoreError> {
        on_conn!(self, |conn| diesel::delete(
            table.filter(r::started_at.lt(before)),
        )
        .execute(conn))
    }
}
