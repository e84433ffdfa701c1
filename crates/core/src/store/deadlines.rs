//! How many: what the guard against mass rejections and the metrics ask. Each is counted over an index alone.

use std::time::Duration;

use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;

use super::{Store, StoreError, on_conn};
use crate::clock::Timestamp;
use crate::connection::{AppKey, ConnectionState};
use crate::schema::connections::{dsl as c, table};

const DAY: Duration = Duration::from_hours(24);

/// How many active rows' refresh tokens die of disuse, and how soon. Each figure includes the ones before it, and what is
/// overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleDeadlines {
    pub within_day: i64,
    pub within_week: i64,
    pub within_month: i64,
    /// When the one that dies first was last refreshed, or consented to.
    pub oldest_refresh: Option<Timestamp>,
}

impl Store {
    /// How many of an app's rows the provider has refused since then for this reason, and refuses still.
    pub async fn rejections_since(
        &self,
        app: &AppKey,
        reason: &str,
        since: Timestamp,
    ) -> Result<i64, StoreError> {
        on_conn!(self, |conn| table
            .filter(c::platform.eq(&app.platform))
            .filter(c::app_id.eq(&app.app_id))
            .filter(c::state.eq(ConnectionState::ReauthRequired.as_str()))
            .filter(c::state_since.ge(since))
            .filter(c::state_reason.eq(reason))
            .select(how_many())
            .get_result(conn))
    }

    /// How many of an app's rows are active. Reads an entry of an index for each: keep the answer for minutes.
    pub async fn connections_active(&self, app: &AppKey) -> Result<i64, StoreError> {
        on_conn!(self, |conn| table
            .filter(c::platform.eq(&app.platform))
            .filter(c::app_id.eq(&app.app_id))
            .filter(c::state.eq(ConnectionState::Active.as_str()))
            .select(how_many())
            .get_result(conn))
    }

    /// Reads an entry of an index for each row that dies within a month.
    pub async fn idle_deadlines(&self, now: Timestamp) -> Result<IdleDeadlines, StoreError> {
        let [day, week, month] = [1, 7, 30].map(|days| now.saturating_add(DAY * days));
        let within_day = self.idle_until(None, day).await?;
        let within_week = within_day + self.idle_until(Some(day), week).await?;
        let within_month = within_week + self.idle_until(Some(week), month).await?;
        Ok(IdleDeadlines {
            within_day,
            within_week,
            within_month,
            oldest_refresh: self.oldest_refresh().await?,
        })
    }

    async fn idle_until(
        &self,
        after: Option<Timestamp>,
        until: Timestamp,
    ) -> Result<i64, StoreError> {
        let idle = table
            .filter(c::state.eq(ConnectionState::Active.as_str()))
            .filter(c::idle_deadline.le(until));
        match after {
            Some(after) => {
                let later = idle.filter(c::idle_deadline.gt(after));
                on_conn!(self, |conn| later.select(how_many()).get_result(conn))
            }
            None => on_conn!(self, |conn| idle.select(how_many()).get_result(conn)),
        }
    }

    async fn oldest_refresh(&self) -> Result<Option<Timestamp>, StoreError> {
        let first = on_conn!(self, |conn| table
            .filter(c::state.eq(ConnectionState::Active.as_str()))
            .filter(c::idle_deadline.is_not_null())
            .order(c::idle_deadline)
            .limit(1)
            .select((c::refreshed_at, c::authorized_at))
            .load::<(Option<Timestamp>, Timestamp)>(conn))?;
        Ok(first
            .into_iter()
            .next()
            .map(|(refreshed_at, authorized_at)| refreshed_at.unwrap_or(authorized_at)))
    }
}

/// In words of its own, so that diesel prepares the query anew each time: a statement that `MariaDB` 11.8 has prepared before
/// others read rows of the table counts by reading all of it, index or no index.
fn how_many() -> SqlLiteral<BigInt> {
    sql("COUNT(*)")
}
