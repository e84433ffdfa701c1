//! `connections` as operators read it: the columns of the view `connections_overview`, a row or a page at a time.
//!
//! Tokens and lease are not even read. Each order is one that an index has, so a page costs the same wherever it lies.

use diesel::mysql::Mysql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;
use diesel_async::RunQueryDsl;
use serde::Serialize;

use super::{Store, StoreError, on_conn};
use crate::clock::Timestamp;
use crate::connection::{AccountName, AppKey, ConnectionId, ConnectionState};
use crate::schema::connections;
use crate::schema::connections::{dsl as c, table};

/// One row without its secrets. Serialized it has the names of the view's columns.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Serialize)]
#[diesel(table_name = connections, check_for_backend(Pg, Mysql, Sqlite))]
pub struct Overview {
    pub id: ConnectionId,
    pub platform: String,
    pub app_id: String,
    pub account_id: AccountName,
    pub owner: AccountName,
    pub company_id: String,
    pub company_domain: String,
    pub company_name: String,
    pub user_id: String,
    pub user_name: String,
    pub api_domain: String,
    pub scope: String,
    pub expires_at: Timestamp,
    pub refreshed_at: Option<Timestamp>,
    pub authorized_at: Timestamp,
    pub idle_deadline: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub generation: i64,
    pub state: ConnectionState,
    pub state_reason: Option<String>,
    pub state_since: Timestamp,
    pub in_doubt: bool,
    pub due_at: Timestamp,
    pub early_renewals: i32,
    pub failures: i32,
    pub retry_at: Option<Timestamp>,
    pub last_error: Option<String>,
    pub revoke_pending: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

impl Overview {
    pub fn app(&self) -> AppKey {
        AppKey {
            platform: self.platform.clone(),
            app_id: self.app_id.clone(),
        }
    }
}

/// Which rows, and thereby in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listing {
    /// By birth.
    All,
    /// By account and owner; those in one state by their last consent, the newest first.
    Of {
        app: AppKey,
        account_id: Option<AccountName>,
        state: Option<ConnectionState>,
    },
}

/// Some rows, and whether there are more behind the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub rows: Vec<Overview>,
    pub more: bool,
}

impl Store {
    pub async fn connection_overview(
        &self,
        id: &ConnectionId,
    ) -> Result<Option<Overview>, StoreError> {
        let found = on_conn!(self, |conn| table
            .find(id.as_str())
            .select(Overview::as_select())
            .load(conn))?;
        Ok(found.into_iter().next())
    }

    /// The next so many; `after` is the last one of the page before, as it is now.
    pub async fn connections_page(
        &self,
        listing: &Listing,
        after: Option<&Overview>,
        limit: u16,
    ) -> Result<Page, StoreError> {
        let limit = usize::from(limit);
        // One more than is shown tells whether there are more.
        let one_more = i64::try_from(limit + 1).unwrap_or(i64::MAX);
        let mut rows = on_conn!(self, |conn| {
            let mut listed = table
                .select(Overview::as_select())
                .limit(one_more)
                .into_boxed();
            match listing {
                Listing::All => {
                    // No id is empty.
                    let after = after.map_or("", |row| row.id.as_str());
                    listed = listed.filter(c::id.gt(after)).order(c::id);
                }
                Listing::Of {
                    app,
                    account_id,
                    state,
                } => {
                    listed = listed
                        .filter(c::platform.eq(&app.platform))
                        .filter(c::app_id.eq(&app.app_id));
                    if let Some(account_id) = account_id {
                        listed = listed.filter(c::account_id.eq(account_id.as_str()));
                    }
                    // The first condition of each two is the one that an index range can start from.
                    if let Some(state) = state {
                        listed = listed
                            .filter(c::state.eq(state.as_str()))
                            .order((c::authorized_at.desc(), c::id.desc()));
                        if let Some(after) = after {
                            let (at, id) = (after.authorized_at, after.id.as_str());
                            listed = listed
                                .filter(c::authorized_at.le(at))
                                .filter(c::authorized_at.lt(at).or(c::id.lt(id)));
                        }
                    } else {
                        listed = listed.order((c::account_id, c::owner));
                        if let Some(after) = after {
                            let (account, owner) =
                                (after.account_id.as_str(), after.owner.as_str());
                            listed = listed
                                .filter(c::account_id.ge(account))
                                .filter(c::account_id.gt(account).or(c::owner.gt(owner)));
                        }
                    }
                }
            }
            listed.load(conn)
        })?;
        let more = rows.len() > limit;
        rows.truncate(limit);
        Ok(Page { rows, more })
    }
}
