//! Which connection a caller means who names an app, perhaps an account, perhaps an owner.
//!
//! An account with its owner is a unique key. An app or an account alone means its default connection; where none is set, its
//! only one. Installs without an authenticated caller do not count there: they are not served to callers that name no account, and
//! they make nothing ambiguous.
//!
//! A handful of index lookups whatever the number of rows: primary and unique keys, and `connections_by_account`, read for
//! two rows at most.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::{Store, StoreError, on_conn};
use crate::connection::{AccountName, AppKey, Connection, ConnectionState};
use crate::schema::connections::{dsl as c, table};

/// How closely the caller said whose connection is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    App,
    Account(AccountName),
    Owner {
        account_id: AccountName,
        owner: AccountName,
    },
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    None,
    /// It may have ended: then the caller hears so, and no other connection takes its place.
    One(Box<Connection>),
    /// There are several, and none is the default.
    Ambiguous,
    /// The default connection was removed, or given to another account, company or user.
    DefaultGone,
}

impl From<Option<Connection>> for Selection {
    fn from(found: Option<Connection>) -> Self {
        found.map_or(Self::None, |row| Self::One(Box::new(row)))
    }
}

impl Store {
    pub async fn connection_select(
        &self,
        app: &AppKey,
        selector: &Selector,
    ) -> Result<Selection, StoreError> {
        let account = match selector {
            Selector::Owner { account_id, owner } => {
                let found = self
                    .connection_find_by_owner(app, account_id, owner)
                    .await?;
                return Ok(found.into());
            }
            Selector::Account(account_id) => Some(account_id),
            Selector::App => None,
        };
        if let Some((default, row)) = self.default_connection(app, account).await? {
            let row = row.filter(|row| default.is(row));
            return Ok(row.map_or(Selection::DefaultGone, |row| Selection::One(Box::new(row))));
        }
        // One that lives before those that have ended, which only say why nothing does.
        let states = [
            ConnectionState::Active,
            ConnectionState::ReauthRequired,
            ConnectionState::Revoked,
        ];
        for state in states {
            let mut rows = self.two_of(app, account, state).await?.into_iter();
            match (rows.next(), rows.next()) {
                (None, _) => {}
                (one, None) => return Ok(one.into()),
                (Some(_), Some(_)) => return Ok(Selection::Ambiguous),
            }
        }
        Ok(Selection::None)
    }

    /// Two at most of an account; of an app those that a login made, whose accounts sort before or after all that begin
    /// with `~`.
    async fn two_of(
        &self,
        app: &AppKey,
        account: Option<&AccountName>,
        state: ConnectionState,
    ) -> Result<Vec<Connection>, StoreError> {
        let of_app = table
            .filter(c::platform.eq(&app.platform))
            .filter(c::app_id.eq(&app.app_id))
            .filter(c::state.eq(state.as_str()))
            // The order is `connections_by_account`'s alone: without it Postgres may walk another index, past a million
            // installs or a million ended rows.
            .order((c::account_id, c::authorized_at, c::id))
            .limit(2);
        if let Some(account) = account {
            let of_account = of_app.filter(c::account_id.eq(account.as_str()));
            return on_conn!(self, |conn| of_account
                .select(Connection::as_select())
                .load(conn));
        }
        let (before, after) = (
            of_app.filter(c::account_id.lt("~")),
            of_app.filter(c::account_id.ge("\u{7f}")),
        );
        let mut rows = on_conn!(self, |conn| before
            .select(Connection::as_select())
            .load(conn))?;
        rows.extend(on_conn!(self, |conn| after
            .select(Connection::as_select())
            .load(conn))?);
        Ok(rows)
    }
}
