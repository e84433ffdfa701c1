//! The rows of `connections`: read, made, and moved from state to state.
//!
//! A write that a refresh in flight must lose to adds one to `generation`, in SQL. Every write compares on the generation
//! (or, in `leases`, on the lease's owner) that its caller has seen, and says whether it took effect.

use diesel::dsl::case_when;
use diesel::prelude::*;
use diesel::result::Error as DieselError;
use diesel::sql_types::{Bool, Nullable, Text};
use diesel_async::{AsyncConnection as _, RunQueryDsl};

use super::default_connections::NewDefault;
use super::{Store, StoreError, on_conn};
use crate::clock::Timestamp;
use crate::connection::{AccountName, AppKey, Connection, ConnectionId, ConnectionState};
use crate::granted::Consent;
use crate::schema::Instant;
use crate::schema::callbacks::{dsl as b, table as callbacks};
use crate::schema::connections::{dsl as c, table};
use crate::schema::default_connections::{dsl as d, table as default_connections};
use crate::sealed::Sealed;

/// A connection that did not exist: active, generation 1.
#[derive(Debug, Clone)]
pub struct NewConnection {
    /// Made by the caller, because the tokens are sealed to it.
    pub id: ConnectionId,
    pub app: AppKey,
    pub consent: Consent,
}

/// All that one consent writes.
#[derive(Debug, Clone, Copy)]
pub struct PlacedConsent<'a> {
    pub id: &'a ConnectionId,
    pub row: PlacedRow<'a>,
    pub consent: &'a Consent,
    /// Makes room for it.
    pub removes: Option<RemovedRow<'a>>,
    /// What the connection becomes the default of.
    pub defaults: &'a [NewDefault],
    /// The callback that brought the code, by its id: it is marked as one whose tokens are stored.
    pub callback: Option<&'a str>,
}

/// The row of a consent.
#[derive(Debug, Clone, Copy)]
pub enum PlacedRow<'a> {
    New(&'a AppKey),
    /// As it has been seen.
    Existing {
        generation: i64,
    },
}

/// A row that has ended, as it has been seen; removed only if its tokens are wiped.
#[derive(Debug, Clone, Copy)]
pub struct RemovedRow<'a> {
    pub id: &'a ConnectionId,
    pub generation: i64,
    /// Where it was the default connection, the consent's row is it from now on.
    pub default_follows: bool,
}

/// What a refresh gave.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The lease that the token was spent under, for the process that spent it: only its holder knows that no other process has.
    pub spent_under: Option<String>,
    pub access_token: Sealed,
    pub refresh_token: Sealed,
    /// `None` leaves the column as it is.
    pub scope: Option<String>,
    /// `None` leaves the column as it is.
    pub api_domain: Option<String>,
    pub expires_at: Timestamp,
    pub refreshed_at: Timestamp,
    pub idle_deadline: Option<Timestamp>,
    pub early_renewals: i32,
    pub due_at: Timestamp,
}

/// Whether the provider knows that a connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// Ended here: the refresh token stays until the provider has been told.
    Pending,
    /// Ended there: the tokens are worthless, and wiped.
    Known,
}

impl Store {
    /// Writes what one consent comes to, all of it or nothing; says whether the rows were as they had been seen.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] if another row holds the account and owner, or the upstream grant, or another default was set since.
    #[expect(clippy::too_many_lines, reason = "one transaction of many columns")]
    pub async fn consent_place(
        &self,
        placed: &PlacedConsent<'_>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let PlacedConsent {
            id,
            row,
            consent,
            removes,
            defaults,
            callback,
        } = placed;
        let active = ConnectionState::Active.as_str();
        let granted = (
            c::account_id.eq(consent.account_id.as_str()),
            c::owner.eq(consent.owner.as_str()),
            c::company_id.eq(&consent.company_id),
            c::company_domain.eq(&consent.company_domain),
            c::company_name.eq(&consent.company_name),
            c::user_id.eq(&consent.user_id),
            c::user_name.eq(&consent.user_name),
            c::api_domain.eq(&consent.api_domain),
            c::scope.eq(&consent.scope),
            c::access_token.eq(&consent.access_token),
            c::refresh_token.eq(&consent.refresh_token),
            c::expires_at.eq(consent.expires_at),
            c::refreshed_at.eq(None::<Timestamp>),
            c::authorized_at.eq(consent.authorized_at),
            c::idle_deadline.eq(consent.idle_deadline),
        );
        let (insert, update) = match row {
            PlacedRow::New(app) => {
                let insert = diesel::insert_into(table).values((
                    (
                        c::id.eq(id.as_str()),
                        c::platform.eq(&app.platform),
                        c::app_id.eq(&app.app_id),
                    ),
                    granted,
                    (
                        c::generation.eq(1),
                        c::state.eq(active),
                        c::state_since.eq(now),
                        c::in_doubt.eq(false),
                        c::due_at.eq(consent.due_at),
                        c::early_renewals.eq(0),
                        c::failures.eq(0),
                        c::revoke_pending.eq(false),
                        c::created_at.eq(now),
                        c::updated_at.eq(now),
                    ),
                ));
                (Some(insert), None)
            }
            PlacedRow::Existing { generation } => {
                let seen = table
                    .find(id.as_str())
                    .filter(c::generation.eq(*generation));
                let update = diesel::update(seen).set((
                    granted,
                    (
                        c::generation.eq(c::generation + 1),
                        // Before `state`: MySQL assigns from left to right and reads what it has just assigned.
                        c::state_since.eq(case_when(c::state.eq(active), c::state_since)
                            .otherwise(now.into_sql::<Instant>())),
                        c::state.eq(active),
                        c::state_reason.eq(None::<&str>),
                        c::in_doubt.eq(false),
                        c::lease_owner.eq(None::<&str>),
                        c::due_at.eq(consent.due_at),
                        c::early_renewals.eq(0),
                        c::failures.eq(0),
                        c::retry_at.eq(None::<Timestamp>),
                        c::last_error.eq(None::<&str>),
                        c::revoke_pending.eq(false),
                        c::updated_at.eq(now),
                    ),
                ));
                (None, Some(update))
            }
        };
        let removal = removes.map(|removed| {
            let gone = table
                .find(removed.id.as_str())
                .filter(c::generation.eq(removed.generation))
                .filter(c::state.eq(ConnectionState::Revoked.as_str()))
                .filter(c::refresh_token.eq(Sealed::default()));
            let its_defaults = default_connections.filter(d::connection_id.eq(removed.id.as_str()));
            let follow = diesel::update(its_defaults).set(d::connection_id.eq(id.as_str()));
            (
                diesel::delete(gone),
                removed.default_follows.then_some(follow),
            )
        });
        let defaults: Vec<_> = defaults
            .iter()
            .map(|new| {
                let values = new.values(id, &consent.company_id, &consent.user_id, now);
                diesel::insert_into(default_connections).values(values)
            })
            .collect();
        let mark =
            callback.map(|id| diesel::update(callbacks.find(id)).set(b::tokens_stored.eq(true)));
        let written = on_conn!(self, |conn| conn.transaction(async |conn| {
            if let Some((delete, follow)) = &removal {
                if delete.clone().execute(conn).await? != 1 {
                    return Err(DieselError::RollbackTransaction);
                }
                if let Some(follow) = follow {
                    follow.clone().execute(conn).await?;
                }
            }
            let mut written = 0;
            if let Some(insert) = insert {
                written += insert.execute(conn).await?;
            }
            if let Some(update) = &update {
                written += update.clone().execute(conn).await?;
            }
            if written != 1 {
                return Err(DieselError::RollbackTransaction);
            }
            for default in &defaults {
                (*default).execute(conn).await?;
            }
            if let Some(mark) = &mark {
                mark.clone().execute(conn).await?;
            }
            Ok(written)
        }));
        match written {
            Ok(_) => Ok(true),
            Err(StoreError::Query {
                source: DieselError::RollbackTransaction,
            }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// # Errors
    /// [`StoreError::Duplicate`] if another row holds the account and owner, or the upstream grant.
    pub async fn connection_insert(
        &self,
        new: &NewConnection,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let placed = PlacedConsent {
            id: &new.id,
            row: PlacedRow::New(&new.app),
            consent: &new.consent,
            removes: None,
            defaults: &[],
            callback: None,
        };
        self.consent_place(&placed, now).await.map(drop)
    }

    pub async fn connection_find(
        &self,
        id: &ConnectionId,
    ) -> Result<Option<Connection>, StoreError> {
        let found = on_conn!(self, |conn| table
            .find(id.as_str())
            .select(Connection::as_select())
            .load(conn))?;
        Ok(found.into_iter().next())
    }

    /// At which generation a response to the refresh token would have been given, of those connections whose token counts:
    /// all but the revoked, and of these those that are still to be revoked at the provider.
    pub async fn connections_spent_at(
        &self,
        ids: &[&ConnectionId],
    ) -> Result<Vec<(ConnectionId, i64)>, StoreError> {
        let ids: Vec<&str> = ids.iter().map(|id| id.as_str()).collect();
        let revoked = c::state.eq(ConnectionState::Revoked.as_str());
        on_conn!(self, |conn| table
            .filter(c::id.eq_any(&ids))
            .filter(c::revoke_pending.or(c::state.ne(ConnectionState::Revoked.as_str())))
            // Ending a row moves its generation.
            .select((
                c::id,
                case_when(revoked, c::generation - 1).otherwise(c::generation)
            ))
            .load(conn))
    }

    /// The active rows that are due first and last. The last one's tokens were sealed last, as far as that tells; a row
    /// whose tokens do not open is not renewed, and becomes the first.
    pub async fn connections_due_first_and_last(&self) -> Result<Vec<Connection>, StoreError> {
        let active = table.filter(c::state.eq(ConnectionState::Active.as_str()));
        let first = active.order((c::due_at, c::id)).limit(1);
        let last = active.order((c::due_at.desc(), c::id.desc())).limit(1);
        let mut ends: Vec<Connection> = on_conn!(self, |conn| first
            .select(Connection::as_select())
            .load(conn))?;
        let last = on_conn!(self, |conn| last.select(Connection::as_select()).load(conn))?;
        ends.extend(last);
        Ok(ends)
    }

    pub async fn connection_find_by_owner(
        &self,
        app: &AppKey,
        account_id: &AccountName,
        owner: &AccountName,
    ) -> Result<Option<Connection>, StoreError> {
        let found = on_conn!(self, |conn| table
            .filter(c::platform.eq(&app.platform))
            .filter(c::app_id.eq(&app.app_id))
            .filter(c::account_id.eq(account_id.as_str()))
            .filter(c::owner.eq(owner.as_str()))
            .select(Connection::as_select())
            .load(conn))?;
        Ok(found.into_iter().next())
    }

    /// The row that holds what this person of this company granted to this app.
    pub async fn connection_find_by_grant(
        &self,
        app: &AppKey,
        company_id: &str,
        user_id: &str,
    ) -> Result<Option<Connection>, StoreError> {
        let found = on_conn!(self, |conn| table
            .filter(c::platform.eq(&app.platform))
            .filter(c::app_id.eq(&app.app_id))
            .filter(c::company_id.eq(company_id))
            .filter(c::user_id.eq(user_id))
            .select(Connection::as_select())
            .load(conn))?;
        // To MySQL "1 " is "1".
        Ok(found
            .into_iter()
            .find(|row| row.company_id == company_id && row.user_id == user_id))
    }

    /// Stores what a refresh gave, also under another's lease; never revives a revoked row.
    ///
    /// Where it revives one in doubt, the doubt stays: while this answer was on its way another process spent the same token,
    /// and the provider may hold that against the newer one.
    pub async fn connection_commit(
        &self,
        id: &ConnectionId,
        generation: i64,
        commit: &Commit,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let active = ConnectionState::Active.as_str();
        // No lease has an empty owner.
        let spent_under = commit.spent_under.as_deref().unwrap_or_default();
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .find(id.as_str())
                .filter(c::generation.eq(generation))
                .filter(c::state.ne(ConnectionState::Revoked.as_str())),
        )
        .set((
            c::access_token.eq(&commit.access_token),
            c::refresh_token.eq(&commit.refresh_token),
            commit.scope.as_ref().map(|scope| c::scope.eq(scope)),
            commit
                .api_domain
                .as_ref()
                .map(|domain| c::api_domain.eq(domain)),
            c::expires_at.eq(commit.expires_at),
            c::refreshed_at.eq(commit.refreshed_at),
            c::idle_deadline.eq(commit.idle_deadline),
            c::early_renewals.eq(commit.early_renewals),
            c::generation.eq(c::generation + 1),
            // Both before `state`: MySQL assigns from left to right and reads what it has just assigned.
            c::in_doubt.eq(case_when(
                c::state
                    .eq(active)
                    .and(c::lease_owner.is_not_null())
                    .and(c::lease_owner.assume_not_null().eq(spent_under)),
                false.into_sql::<Bool>(),
            )
            .otherwise(c::in_doubt)),
            c::state_since
                .eq(case_when(c::state.eq(active), c::state_since)
                    .otherwise(now.into_sql::<Instant>())),
            c::state.eq(active),
            c::state_reason.eq(None::<&str>),
            c::failures.eq(0),
            c::retry_at.eq(None::<Timestamp>),
            c::last_error.eq(None::<&str>),
            c::lease_owner.eq(None::<&str>),
            c::due_at.eq(commit.due_at),
            c::updated_at.eq(now),
        ))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// Gives a row a new consent, and with it perhaps another account and owner; revives any state.
    ///
    /// # Errors
    /// [`StoreError::Duplicate`] if another row holds the account and owner, or the upstream grant.
    pub async fn connection_reconnect(
        &self,
        id: &ConnectionId,
        generation: i64,
        consent: &Consent,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let placed = PlacedConsent {
            id,
            row: PlacedRow::Existing { generation },
            consent,
            removes: None,
            defaults: &[],
            callback: None,
        };
        self.consent_place(&placed, now).await
    }

    /// Ends a connection. A pending revocation is due at once, a known one never. A row that had ended keeps its generation:
    /// the answer to a refresh that was under way is told by it from those of long ago.
    ///
    /// A lease that is held while a revocation is pending stays: the token may just be being spent, and then another one has to
    /// be revoked in its place. Until that is settled the row is in doubt.
    pub async fn connection_revoke(
        &self,
        id: &ConnectionId,
        generation: i64,
        reason: &str,
        revocation: Revocation,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let pending = revocation == Revocation::Pending;
        let wiped = (!pending).then(Sealed::default);
        let revoked = ConnectionState::Revoked.as_str();
        let changed = on_conn!(self, |conn| diesel::update(
            table.find(id.as_str()).filter(c::generation.eq(generation)),
        )
        .set((
            // Before `state`: MySQL assigns from left to right and reads what it has just assigned.
            c::generation
                .eq(case_when(c::state.eq(revoked), c::generation).otherwise(c::generation + 1)),
            c::state.eq(revoked),
            c::state_reason.eq(reason),
            c::state_since.eq(now),
            pending.then(|| c::in_doubt.eq(c::in_doubt.or(c::lease_owner.is_not_null()))),
            // `None` leaves a column as it is.
            (!pending).then(|| c::lease_owner.eq(None::<&str>)),
            c::retry_at.eq(None::<Timestamp>),
            wiped.as_ref().map(|empty| c::access_token.eq(empty)),
            wiped.as_ref().map(|empty| c::refresh_token.eq(empty)),
            c::revoke_pending.eq(pending),
            c::due_at.eq(if pending {
                now
            } else {
                Timestamp::far_future()
            }),
            c::updated_at.eq(now),
        ))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// Removes a row that has ended and whose tokens are wiped: its names are free for a new consent.
    pub async fn connection_forget(
        &self,
        id: &ConnectionId,
        generation: i64,
    ) -> Result<bool, StoreError> {
        let removed = on_conn!(self, |conn| diesel::delete(
            table
                .find(id.as_str())
                .filter(c::generation.eq(generation))
                .filter(c::state.eq(ConnectionState::Revoked.as_str()))
                .filter(c::refresh_token.eq(Sealed::default())),
        )
        .execute(conn))?;
        Ok(removed == 1)
    }

    /// The provider refused the token that is still current: `rejected`, or `answer_lost` if another process may have spent it
    /// before, by the row's own doubt or the caller's. Does not move the generation, keeps the tokens; is not due again
    /// until a recheck is asked for.
    pub async fn connection_reauth_required(
        &self,
        id: &ConnectionId,
        generation: i64,
        in_doubt: bool,
        error: Option<&str>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .find(id.as_str())
                .filter(c::generation.eq(generation))
                .filter(c::state.eq(ConnectionState::Active.as_str())),
        )
        .set((
            c::state.eq(ConnectionState::ReauthRequired.as_str()),
            c::state_reason.eq(case_when(
                c::in_doubt.or(in_doubt.into_sql::<Bool>()),
                "answer_lost".into_sql::<Nullable<Text>>(),
            )
            .otherwise("rejected".into_sql::<Nullable<Text>>())),
            c::state_since.eq(now),
            c::lease_owner.eq(None::<&str>),
            c::retry_at.eq(None::<Timestamp>),
            c::last_error.eq(error),
            c::due_at.eq(Timestamp::far_future()),
            c::updated_at.eq(now),
        ))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// Notes that it was used, and lets the sweep come sooner: what is in use is renewed ahead of its end. Never later,
    /// and only for an active row.
    pub async fn connection_touch(
        &self,
        id: &ConnectionId,
        now: Timestamp,
        due_at: Timestamp,
    ) -> Result<(), StoreError> {
        let sooner = c::state
            .eq(ConnectionState::Active.as_str())
            .and(c::due_at.gt(due_at));
        on_conn!(self, |conn| diesel::update(table.find(id.as_str()))
            .set((
                c::last_used_at.eq(now),
                c::due_at.eq(case_when(sooner, due_at.into_sql::<Instant>()).otherwise(c::due_at)),
            ))
            .execute(conn))?;
        Ok(())
    }
}
