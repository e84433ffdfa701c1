//! Logins in which an authenticated caller named the account. Each is good for one callback: see [`super::Callback`].

use std::fmt;

use diesel::mysql::Mysql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;
use diesel_async::RunQueryDsl;

use super::{Store, StoreError, on_conn};
use crate::clock::Timestamp;
use crate::connection::{AccountName, AppKey};
use crate::schema::logins::{self, dsl as l, table};
use crate::sealed::Sealed;

/// A login that begins.
#[derive(Clone)]
pub struct NewLogin {
    pub state_hash: String,
    pub app: AppKey,
    pub account_id: Option<AccountName>,
    pub owner: Option<AccountName>,
    /// PKCE.
    pub verifier: Option<Sealed>,
    /// Of the cookie that binds it to one browser.
    pub binding_hash: String,
    pub forward_url: Option<String>,
    pub expires_at: Timestamp,
}

/// A login as it was begun.
#[derive(Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = logins, check_for_backend(Pg, Mysql, Sqlite))]
pub struct Login {
    pub state_hash: String,
    pub platform: String,
    pub app_id: String,
    pub account_id: Option<AccountName>,
    pub owner: Option<AccountName>,
    pub verifier: Option<Sealed>,
    pub binding_hash: String,
    pub forward_url: Option<String>,
    pub expires_at: Timestamp,
    pub created_at: Timestamp,
}

/// Without the hashes, and without the query of the forward URL, which is the caller's own business.
impl fmt::Debug for NewLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewLogin")
            .field("app", &self.app)
            .field("account_id", &self.account_id)
            .field("owner", &self.owner)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// As of [`NewLogin`].
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login")
            .field("platform", &self.platform)
            .field("app_id", &self.app_id)
            .field("account_id", &self.account_id)
            .field("owner", &self.owner)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl Store {
    pub async fn login_insert(&self, new: &NewLogin, now: Timestamp) -> Result<(), StoreError> {
        on_conn!(self, |conn| diesel::insert_into(table)
            .values((
                l::state_hash.eq(&new.state_hash),
                l::platform.eq(&new.app.platform),
                l::app_id.eq(&new.app.app_id),
                l::account_id.eq(new.account_id.as_ref().map(AccountName::as_str)),
                l::owner.eq(new.owner.as_ref().map(AccountName::as_str)),
                l::verifier.eq(&new.verifier),
                l::binding_hash.eq(&new.binding_hash),
                l::forward_url.eq(&new.forward_url),
                l::expires_at.eq(new.expires_at),
                l::created_at.eq(now),
            ))
            .execute(conn))?;
        Ok(())
    }

    /// The login that this state began, expired or not.
    pub async fn login_find(&self, state_hash: &str) -> Result<Option<Login>, StoreError> {
        let found = on_conn!(self, |conn| table
            .find(state_hash)
            .select(Login::as_select())
            .load(conn))?;
        Ok(found.into_iter().next())
    }

    /// Deletes the logins that expired before this.
    pub async fn logins_prune(&self, before: Timestamp) -> Result<usize, StoreError> {
        on_conn!(self, |conn| diesel::delete(
            table.filter(l::expires_at.lt(before)),
        )
        .execute(conn))
    }
}
