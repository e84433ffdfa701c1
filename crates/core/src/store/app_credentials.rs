//! With which credentials an app was last seen: a change of them is worth asking the provider again about what it refused.

use diesel::prelude::*;
use diesel::sql_types::Bool;
use diesel_async::RunQueryDsl;

use super::{Store, StoreError, on_conn};
use crate::clock::Timestamp;
use crate::connection::AppKey;
use crate::schema::app_credentials::{dsl as a, table};

impl Store {
    /// The fingerprint that was noted last.
    pub async fn app_credentials(&self, app: &AppKey) -> Result<Option<String>, StoreError> {
        let noted = on_conn!(self, |conn| table
            .find((&app.platform, &app.app_id))
            .select(a::fingerprint)
            .load(conn))?;
        Ok(noted.into_iter().next())
    }

    /// Notes this fingerprint, and says whether it replaced another: of several processes that note the same one, one hears
    /// that it did.
    pub async fn app_credentials_note(
        &self,
        app: &AppKey,
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        if self.app_credentials_replace(app, fingerprint, now).await? {
            return Ok(true);
        }
        match self.app_credentials_insert(app, fingerprint, now).await {
            Ok(()) => Ok(false),
            // It is there: this one, or what another process has noted since we looked.
            Err(StoreError::Duplicate) => self.app_credentials_replace(app, fingerprint, now).await,
            Err(error) => Err(error),
        }
    }

    /// A write that changes nothing: whether the database takes any.
    pub(super) async fn app_credentials_touch_none(&self) -> Result<(), StoreError> {
        on_conn!(self, |conn| diesel::update(
            table.filter(false.into_sql::<Bool>())
        )
        .set(a::fingerprint.eq(a::fingerprint))
        .execute(conn))
        .map(drop)
    }

    async fn app_credentials_replace(
        &self,
        app: &AppKey,
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let changed = on_conn!(self, |conn| diesel::update(
            table
                .find((&app.platform, &app.app_id))
                .filter(a::fingerprint.ne(fingerprint)),
        )
        .set((a::fingerprint.eq(fingerprint), a::updated_at.eq(now)))
        .execute(conn))?;
        Ok(changed == 1)
    }

    async fn app_credentials_insert(
        &self,
        app: &AppKey,
        fingerprint: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        on_conn!(self, |conn| diesel::insert_into(table)
            .values((
                a::platform.eq(&app.platform),
                a::app_id.eq(&app.app_id),
                a::fingerprint.eq(fingerprint),
                a::updated_at.eq(now),
            ))
            .execute(conn))?;
        Ok(())
    }
}
