//! Which connection a caller means who names an app, perhaps an account, perhaps an owner.
//!
//! A handful of index lookups whatever the number of rows: the keeper's unique key, or `connections_by_account` and
//! `connections_by_consent`, each read for two rows at most.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::connections::{AppKey, Connection};
use super::schema::connections::{dsl as c, table};
use super::{Store, StoreError, on_conn};
use crate::connection::{ConnectionState, KeeperName};

/// How closely the caller said whose connection is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Selector {
    App,
    Account(KeeperName),
    Keeper {
        account_id: KeeperName,
        owner: KeeperName,
    },
}

/// What several active Marketplace installs mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// The last one that was consented to, as in the n8n workflows.
    Latest,
    /// That the caller must say more.
    Strict,
}

/// What was found. `One` is the active one; where none is active the last one that was, so that a caller hears why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pick {
    None,
    One(Box<Connection>),
    Ambiguous,
}

impl From<Option<Connection>> for Pick {
    fn from(found: Option<Connection>) -> Self {
        found.map_or(Self::None, |row| Self::One(Box::new(row)))
    }
}

impl Store {
    pub async fn connections_pick(
        &self,
        app: &AppKey,
        selector: &Selector,
        selection: Selection,
    ) -> Result<Pick, StoreError> {
        let account = match selector {
            Selector::Keeper { account_id, owner } => {
                let found = self
                    .connection_find_by_keeper(app, account_id, owner)
                    .await?;
                return Ok(found.into());
            }
            Selector::Account(account_id) => Some(account_id),
            Selector::App => None,
        };
        let latest_active = self
            .latest(app, account, ConnectionState::Active, 2)
            .await?;
        match latest_active.len() {
            0 => self.latest_ended(app, account).await.map(Pick::from),
            1 => Ok(latest_active.into_iter().next().into()),
            _ => match selection {
                Selection::Latest if !self.any_login_made(app, account).await? => {
                    Ok(latest_active.into_iter().next().into())
                }
                Selection::Latest | Selection::Strict => Ok(Pick::Ambiguous),
            },
        }
    }

    async fn latest_ended(
        &self,
        app: &AppKey,
        account: Option<&KeeperName>,
    ) -> Result<Option<Connection>, StoreError> {
        let reauth = ConnectionState::ReauthRequired;
        let mut ended = self.latest(app, account, reauth, 1).await?;
        let revoked = ConnectionState::Revoked;
        ended.extend(self.latest(app, account, revoked, 1).await?);
        Ok(ended.into_iter().max_by_key(|row| row.authorized_at))
    }

    async fn latest(
        &self,
        app: &AppKey,
        account: Option<&KeeperName>,
        state: ConnectionState,
        limit: i64,
    ) -> Result<Vec<Connection>, StoreError> {
        let of_app = table
            .filter(c::platform.eq(&app.platform))
            .filter(c::app_id.eq(&app.app_id))
            .filter(c::state.eq(state.as_str()))
            .order((c::authorized_at.desc(), c::id.desc()))
            .limit(limit);
        match account {
            Some(account) => {
                let of_account = of_app.filter(c::account_id.eq(account.as_str()));
                on_conn!(self, |conn| of_account
                    .select(Connection::as_select())
                    .load(conn))
            }
            None => on_conn!(self, |conn| of_app
                .select(Connection::as_select())
                .load(conn)),
        }
    }

    /// Whether any active row is not a Marketplace install: its account sorts before or after all that begin with `~`.
    async fn any_login_made(
        &self,
        app: &AppKey,
        account: Option<&KeeperName>,
    ) -> Result<bool, StoreError> {
        if let Some(account) = account {
            return Ok(!account.is_marketplace());
        }
        let active = table
            .filter(c::platform.eq(&app.platform))
            .filter(c::app_id.eq(&app.app_id))
            .filter(c::state.eq(ConnectionState::Active.as_str()))
            // The order is `connections_by_account`'s alone: without it Postgres may walk another index, past a million
            // installs or a million ended rows.
            .order((c::account_id, c::authorized_at))
            .limit(1)
            .select(c::id);
        let before = active.filter(c::account_id.lt("~"));
        let after = active.filter(c::account_id.ge("\u{7f}"));
        Ok(
            !on_conn!(self, |conn| before.load::<String>(conn))?.is_empty()
                || !on_conn!(self, |conn| after.load::<String>(conn))?.is_empty(),
        )
    }
}
