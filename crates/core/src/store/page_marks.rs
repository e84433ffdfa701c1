//! Where in a provider's cursor-paged listing a numeric `start` lies.

use diesel::mysql::Mysql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;
use diesel_async::RunQueryDsl;

use super::{Store, StoreError, on_conn};
use crate::clock::Timestamp;
use crate::connection::ConnectionId;
use crate::schema::page_marks::{self, dsl as p, table};

#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = page_marks, check_for_backend(Pg, Mysql, Sqlite))]
pub struct PageMark {
    pub connection_id: ConnectionId,
    /// Hash of the record type and its filters.
    pub listing: String,
    /// How many records lie before it.
    pub start: i64,
    /// The provider's word for the page that begins there.
    #[diesel(column_name = page_cursor)]
    pub cursor: String,
    /// Of the last record before it.
    pub last_id: i64,
    pub expires_at: Timestamp,
}

impl Store {
    /// Keeps a mark. Of two for one place the earlier record stays: to repeat one is better than to skip one.
    pub async fn page_mark_put(&self, mark: &PageMark, now: Timestamp) -> Result<(), StoreError> {
        let place = || {
            table.find((
                mark.connection_id.as_str(),
                mark.listing.as_str(),
                mark.start,
            ))
        };
        let updated = on_conn!(self, |conn| diesel::update(
            place().filter(p::expires_at.le(now).or(p::last_id.ge(mark.last_id))),
        )
        .set((
            p::page_cursor.eq(&mark.cursor),
            p::last_id.eq(mark.last_id),
            p::expires_at.eq(mark.expires_at),
        ))
        .execute(conn))?;
        if updated == 1 {
            return Ok(());
        }
        let inserted = on_conn!(self, |conn| diesel::insert_into(table)
            .values((
                p::connection_id.eq(mark.connection_id.as_str()),
                p::listing.eq(&mark.listing),
                p::start.eq(mark.start),
                p::page_cursor.eq(&mark.cursor),
                p::last_id.eq(mark.last_id),
                p::expires_at.eq(mark.expires_at),
            ))
            .execute(conn));
        match inserted {
            // The one that is there is the earlier one, or another caller's of the same moment.
            Ok(_) | Err(StoreError::Duplicate) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The last mark at or before `start`.
    pub async fn page_mark_nearest(
        &self,
        id: &ConnectionId,
        listing: &str,
        start: i64,
        now: Timestamp,
    ) -> Result<Option<PageMark>, StoreError> {
        let found = on_conn!(self, |conn| table
            .filter(p::connection_id.eq(id.as_str()))
            .filter(p::listing.eq(listing))
            .filter(p::start.le(start))
            .filter(p::expires_at.gt(now))
            .order(p::start.desc())
            .limit(1)
            .select(PageMark::as_select())
            .load(conn))?;
        Ok(found.into_iter().next())
    }

    /// Deletes the marks that ended before this.
    pub async fn page_marks_prune(&self, before: Timestamp) -> Result<usize, StoreError> {
        on_conn!(self, |conn| diesel::delete(
            table.filter(p::expires_at.lt(before)),
        )
        .execute(conn))
    }
}
