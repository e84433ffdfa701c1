//! Which connection callers get who name only an app, or only an account.
//!
//! A default is set once. [`crate::placement::default_reason`] says when. After that [`Store::default_connection_set`], the
//! operator's command, changes which connection it is; and where a row that has ended is removed in favour of another row of
//! the same person, the default moves to that one ([`Store::consent_place`]). If its row becomes another account's, company's
//! or user's, callers are told that the default is gone.

use diesel::dsl::{Eq, exists, not};
use diesel::mysql::Mysql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;
use diesel_async::RunQueryDsl;

use super::{Store, StoreError, on_conn};
use crate::clock::Timestamp;
use crate::connection::{AccountName, AppKey, Connection, ConnectionId};
use crate::placement::{Beside, DefaultReason};
use crate::schema::connections::{dsl as c, table as connections};
use crate::schema::default_connections::{self, dsl as d, table};

/// The default connection of an app or of one of its accounts.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = default_connections, check_for_backend(Pg, Mysql, Sqlite))]
pub struct DefaultConnection {
    pub platform: String,
    pub app_id: String,
    /// Empty: of the app itself.
    pub account_id: String,
    pub connection_id: ConnectionId,
    /// The company and user that it was connected as when it became the default: no other company's data is served in its place.
    pub company_id: String,
    pub user_id: String,
    /// A [`DefaultReason`], or `migration`.
    pub reason: String,
    pub set_at: Timestamp,
}

impl DefaultConnection {
    /// Whether the row is still what was made the default. It may have been given to another account, company or user.
    pub fn is(&self, row: &Connection) -> bool {
        self.connection_id == row.id
            && self.company_id == row.company_id
            && self.user_id == row.user_id
            && (self.account_id.is_empty() || self.account_id == row.account_id.as_str())
    }
}

/// A connection that becomes the default of its app (`account` is `None`) or of its account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDefault {
    pub app: AppKey,
    pub account: Option<AccountName>,
    pub reason: DefaultReason,
}

type Values<'a> = (
    Eq<d::platform, &'a String>,
    Eq<d::app_id, &'a String>,
    Eq<d::account_id, &'a str>,
    Eq<d::connection_id, &'a str>,
    Eq<d::company_id, &'a str>,
    Eq<d::user_id, &'a str>,
    Eq<d::reason, &'static str>,
    Eq<d::set_at, Timestamp>,
);

impl NewDefault {
    /// What is inserted for this connection.
    pub(super) fn values<'a>(
        &'a self,
        id: &'a ConnectionId,
        company_id: &'a str,
        user_id: &'a str,
        now: Timestamp,
    ) -> Values<'a> {
        (
            d::platform.eq(&self.app.platform),
            d::app_id.eq(&self.app.app_id),
            d::account_id.eq(account_key(self.account.as_ref())),
            d::connection_id.eq(id.as_str()),
            d::company_id.eq(company_id),
            d::user_id.eq(user_id),
            d::reason.eq(self.reason.as_str()),
            d::set_at.eq(now),
        )
    }
}

/// The key's third part.
fn account_key(account: Option<&AccountName>) -> &str {
    account.map_or("", AccountName::as_str)
}

impl Store {
    /// The default connection of an app or an account, and its row; no row if it was removed.
    pub async fn default_connection(
        &self,
        app: &AppKey,
        account: Option<&AccountName>,
    ) -> Result<Option<(DefaultConnection, Option<Connection>)>, StoreError> {
        let found = on_conn!(self, |conn| table
            .left_join(connections)
            .filter(d::platform.eq(&app.platform))
            .filter(d::app_id.eq(&app.app_id))
            .filter(d::account_id.eq(account_key(account)))
            .select((
                DefaultConnection::as_select(),
                Option::<Connection>::as_select(),
            ))
            .load(conn))?;
        Ok(found.into_iter().next())
    }

    /// The defaults that these connections are.
    pub async fn defaults_of(
        &self,
        ids: &[&ConnectionId],
    ) -> Result<Vec<DefaultConnection>, StoreError> {
        let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
        on_conn!(self, |conn| table
            .filter(d::connection_id.eq_any(&ids))
            .order((d::platform, d::app_id, d::account_id))
            .select(DefaultConnection::as_select())
            .load(conn))
    }

    /// The defaults of an app and its accounts that are gone: their row was removed, or given to another account, company or
    /// user.
    pub async fn defaults_gone(
        &self,
        app: &AppKey,
        limit: u16,
    ) -> Result<Vec<DefaultConnection>, StoreError> {
        let is_there = connections
            .filter(c::id.eq(d::connection_id))
            .filter(c::company_id.eq(d::company_id))
            .filter(c::user_id.eq(d::user_id))
            .filter(d::account_id.eq("").or(c::account_id.eq(d::account_id)));
        on_conn!(self, |conn| table
            .filter(d::platform.eq(&app.platform))
            .filter(d::app_id.eq(&app.app_id))
            .filter(not(exists(is_there)))
            .order(d::account_id)
            .limit(limit.into())
            .select(DefaultConnection::as_select())
            .load(conn))
    }

    /// What there is beside a connection that was just authorized; `id` is its own, if it has one already.
    pub async fn default_beside(
        &self,
        app: &AppKey,
        account: Option<&AccountName>,
        id: Option<&ConnectionId>,
    ) -> Result<Beside, StoreError> {
        if self.default_connection(app, account).await?.is_some() {
            return Ok(Beside::Default);
        }
        // No id is empty.
        let own = id.map_or("", ConnectionId::as_str);
        let of_app = connections
            .filter(c::platform.eq(&app.platform))
            .filter(c::app_id.eq(&app.app_id))
            .filter(c::id.ne(own))
            .limit(1)
            .select(c::id);
        let others: Vec<String> = match account {
            Some(account) => {
                let of_account = of_app.filter(c::account_id.eq(account.as_str()));
                on_conn!(self, |conn| of_account.load(conn))?
            }
            None => on_conn!(self, |conn| of_app.load(conn))?,
        };
        Ok(if others.is_empty() {
            Beside::Nothing
        } else {
            Beside::Others
        })
    }

    /// Makes a connection the default of its app or account in place of any other.
    pub async fn default_connection_set(
        &self,
        row: &Connection,
        new: &NewDefault,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if self.default_connection_replace(row, new, now).await?
            || self.default_connection_set_if_absent(row, new, now).await?
        {
            return Ok(());
        }
        // Another process set one since we looked.
        self.default_connection_replace(row, new, now)
            .await
            .map(drop)
    }

    /// Makes a connection the default where none is set; says whether it is it now by this call.
    pub async fn default_connection_set_if_absent(
        &self,
        row: &Connection,
        new: &NewDefault,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let inserted = on_conn!(self, |conn| diesel::insert_into(table)
            .values(new.values(&row.id, &row.company_id, &row.user_id, now))
            .execute(conn));
        match inserted {
            Ok(_) => Ok(true),
            Err(StoreError::Duplicate) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn default_connection_replace(
        &self,
        row: &Connection,
        new: &NewDefault,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .filter(d::platform.eq(&new.app.platform))
                .filter(d::app_id.eq(&new.app.app_id))
                .filter(d::account_id.eq(account_key(new.account.as_ref())))
        )
        .set((
            d::connection_id.eq(row.id.as_str()),
            d::company_id.eq(&row.company_id),
            d::user_id.eq(&row.user_id),
            d::reason.eq(new.reason.as_str()),
            d::set_at.eq(now),
        ))
        .execute(conn))?;
        Ok(changed == 1)
    }
}
