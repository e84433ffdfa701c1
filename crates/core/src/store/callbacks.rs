//! Callbacks with an authorization code: each code is exchanged at most once, by the process that claims it first, on whichever
//! replica.
//!
//! The claim is a row that is inserted before the exchange: its id is the code's hash. While the claimer works it counts
//! heartbeats; then it stores the result, for the same callback when it comes again. A process that waits for a result watches the
//! heartbeats by a clock of its own: no clocks of two machines are compared.
//!
//! The transaction that stores the tokens of a code marks its callback ([`Store::consent_place`]). Such a callback is kept long
//! after its result: the provider ends a grant whose code is exchanged again.

use std::fmt;

use diesel::mysql::Mysql;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sqlite::Sqlite;
use diesel_async::RunQueryDsl;

use super::{Store, StoreError, on_conn};
use crate::clock::Timestamp;
use crate::schema::callbacks::{self, dsl as b, table};
use crate::sealed::Sealed;

/// A callback that was claimed.
#[derive(Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = callbacks, check_for_backend(Pg, Mysql, Sqlite))]
pub struct Callback {
    /// SHA-256 of the code; of the state where the provider sent an error in place of a code.
    pub id: String,
    /// Of the state that came with it, if it was one of ours. It is good for one callback.
    pub state_hash: Option<String>,
    /// Made anew for each claim.
    pub claimer: String,
    /// Counted by the claimer while it works.
    pub heartbeats: i64,
    /// Whether a connection holds the tokens that the code was exchanged for.
    pub tokens_stored: bool,
    /// What the browser was told.
    pub result: Option<Sealed>,
    pub claimed_at: Timestamp,
    /// `None` while the claimer works, or died.
    pub finished_at: Option<Timestamp>,
}

/// Without the hashes.
impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback")
            .field("heartbeats", &self.heartbeats)
            .field("tokens_stored", &self.tokens_stored)
            .field("claimed_at", &self.claimed_at)
            .field("finished_at", &self.finished_at)
            .finish_non_exhaustive()
    }
}

/// A claim on a callback.
#[derive(Clone)]
pub struct NewCallback {
    pub id: String,
    pub state_hash: Option<String>,
    pub claimer: String,
}

/// Without the hashes.
impl fmt::Debug for NewCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewCallback").finish_non_exhaustive()
    }
}

/// What a claim comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    PlainGrant,
    /// The same code was claimed before.
    Taken(Box<Callback>),
    /// The state came with another code before.
    StateUsed,
}

impl Store {
    /// Claims a callback. Repeated after an answer that was lost, it finds its own claim.
    pub async fn callback_claim(
        &self,
        new: &NewCallback,
        now: Timestamp,
    ) -> Result<Claim, StoreError> {
        let inserted = on_conn!(self, |conn| diesel::insert_into(table)
            .values((
                b::id.eq(&new.id),
                b::state_hash.eq(&new.state_hash),
                b::claimer.eq(&new.claimer),
                b::heartbeats.eq(0),
                b::tokens_stored.eq(false),
                b::claimed_at.eq(now),
            ))
            .execute(conn));
        match inserted {
            Ok(_) => Ok(Claim::PlainGrant),
            Err(StoreError::Duplicate) => Ok(match self.callback_find(&new.id).await? {
                Some(own) if own.claimer == new.claimer => Claim::PlainGrant,
                Some(taken) => Claim::Taken(Box::new(taken)),
                None => Claim::StateUsed,
            }),
            Err(error) => Err(error),
        }
    }

    pub async fn callback_find(&self, id: &str) -> Result<Option<Callback>, StoreError> {
        let found = on_conn!(self, |conn| table
            .find(id)
            .select(Callback::as_select())
            .load(conn))?;
        Ok(found.into_iter().next())
    }

    /// Shows that the claimer is alive.
    pub async fn callback_heartbeat(&self, claim: &NewCallback) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .find(&claim.id)
                .filter(b::claimer.eq(&claim.claimer))
                .filter(b::finished_at.is_null()),
        )
        .set(b::heartbeats.eq(b::heartbeats + 1))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// Stores the result of a claimed callback.
    pub async fn callback_finish(
        &self,
        claim: &NewCallback,
        result: &Sealed,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .find(&claim.id)
                .filter(b::claimer.eq(&claim.claimer))
                .filter(b::finished_at.is_null()),
        )
        .set((b::result.eq(result), b::finished_at.eq(now)))
        .execute(conn))?;
        Ok(changed == 1)
    }

    /// Deletes the callbacks that were claimed before `before` and whose tokens were not stored, and all that were claimed
    /// before `stored_before`. Of the rest the results that are older than `before` are wiped: only the hashes stay.
    pub async fn callbacks_prune(
        &self,
        before: Timestamp,
        stored_before: Timestamp,
    ) -> Result<usize, StoreError> {
        let deleted = on_conn!(self, |conn| diesel::delete(
            table.filter(b::claimed_at.lt(before)).filter(
                b::tokens_stored
                    .eq(false)
                    .or(b::claimed_at.lt(stored_before))
            ),
        )
        .execute(conn))?;
        on_conn!(self, |conn| diesel::update(
            table
                .filter(b::claimed_at.lt(before))
                .filter(b::result.is_not_null()),
        )
        .set(b::result.eq(None::<Sealed>))
        .execute(conn))?;
        Ok(deleted)
    }
}
