//! The schema: embedded migrations, run by one process at a time.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use diesel::migration::MigrationSource;
use diesel::prelude::*;
use diesel::query_builder::SqlQuery;
use diesel::sql_types::{Bool, Nullable};
use diesel::sqlite::Sqlite;
use diesel_async::{
    AsyncMigrationHarness, AsyncMysqlConnection, RunQueryDsl, SimpleAsyncConnection as _,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use mysql_async::Opts;

use super::pool::{self, Pools};
use super::postgres::connection::UnnamedPg;
use super::postgres::tls::Settings;
use super::sqlite_file::SqliteFile;
use super::{Store, StoreError, on_conn};
use crate::schema::__diesel_schema_migrations as applied;

const POSTGRES: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");
const MYSQL: EmbeddedMigrations = embed_migrations!("../../migrations/mysql");
const SQLITE: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");

/// How long a process waits for another one's migrations.
const LOCK_LIMIT: Duration = Duration::from_mins(5);
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// How the database's schema compares with the one that this program knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schema {
    Current,
    /// `migrate` has yet to run these.
    Behind {
        missing: Vec<String>,
    },
    /// A newer program ran these.
    Newer {
        unknown: Vec<String>,
    },
}

#[derive(QueryableByName)]
struct Said {
    #[diesel(sql_type = Nullable<Bool>)]
    yes: Option<bool>,
}

/// One process at a time: diesel takes no lock of its own, and of several that start at once most would fail.
macro_rules! run {
    ($lock:expr, $connection:expr, $migrations:expr) => {{
        let (lock, connection) = ($lock, $connection);
        // Diesel's harness is synchronous, and refuses to run on a runtime of one thread.
        let done = tokio::task::spawn_blocking(move || {
            let mut harness = AsyncMigrationHarness::new(connection);
            let count = harness
                .run_pending_migrations($migrations)
                .map(|versions| versions.len());
            drop(lock);
            count
        });
        done.await
            .map_err(StoreError::migrate)?
            .map_err(StoreError::migrate)
    }};
}

impl Store {
    /// Runs what has not run yet, and says how many that were. Several processes may call it at once.
    pub async fn migrate(&self) -> Result<usize, StoreError> {
        match &self.pools {
            Pools::Postgres(_, settings) => {
                let lock = in_time(lock_postgres(settings)).await?;
                let connection = pool::connect_postgres(settings).await?;
                run!(lock, connection, POSTGRES)
            }
            Pools::Mysql(_, opts) => {
                let lock = in_time(lock_mysql(opts)).await?;
                let connection = pool::connect_mysql(opts).await?;
                run!(lock, connection, MYSQL)
            }
            Pools::Sqlite(_, file) => {
                let lock = in_time(lock_sqlite(file)).await?;
                let connection = pool::connect_sqlite(file).await?;
                run!(lock, connection, SQLITE)
            }
        }
    }

    /// Compares the schema with this program's; changes nothing.
    pub async fn schema_status(&self) -> Result<Schema, StoreError> {
        let ours = names(&SQLITE)?;
        let ran: BTreeSet<String> = if self.has_migrations_table().await? {
            on_conn!(self, |conn| applied::table
                .select(applied::version)
                .load::<String>(conn))?
            .into_iter()
            .collect()
        } else {
            BTreeSet::new()
        };
        let unknown: Vec<String> = ran
            .iter()
            .filter(|version| ours.iter().all(|(ours, _)| ours != *version))
            .cloned()
            .collect();
        let missing: Vec<String> = ours
            .into_iter()
            .filter(|(version, _)| !ran.contains(version))
            .map(|(_, name)| name)
            .collect();
        Ok(if !unknown.is_empty() {
            Schema::Newer { unknown }
        } else if missing.is_empty() {
            Schema::Current
        } else {
            Schema::Behind { missing }
        })
    }

    async fn has_migrations_table(&self) -> Result<bool, StoreError> {
        let question = sql(match self.pools {
            Pools::Postgres(..) => {
                "SELECT to_regclass('__diesel_schema_migrations') IS NOT NULL AS yes"
            }
            Pools::Mysql(..) => {
                "SELECT COUNT(*) > 0 AS yes FROM information_schema.tables \
                 WHERE table_schema = DATABASE() AND table_name = '__diesel_schema_migrations'"
            }
            Pools::Sqlite(..) => {
                "SELECT COUNT(*) > 0 AS yes FROM sqlite_master \
                 WHERE type = 'table' AND name = '__diesel_schema_migrations'"
            }
        });
        let said = on_conn!(self, |conn| question.clone().load::<Said>(conn))?;
        Ok(is_yes(&said))
    }
}

/// A transaction on a connection of its own: unlike a session it holds one server connection even behind a transaction
/// pooler. It tries and sleeps, because waiters inside of a transaction would use up the pooler's server connections.
pub(super) async fn lock_postgres(settings: &Settings) -> Result<UnnamedPg, StoreError> {
    let mut connection = pool::connect_postgres(settings).await?;
    loop {
        connection.batch_execute("BEGIN").await?;
        let said = sql("SELECT pg_try_advisory_xact_lock(7270010926) AS yes")
            .load::<Said>(&mut connection)
            .await?;
        if is_yes(&said) {
            return Ok(connection);
        }
        connection.batch_execute("ROLLBACK").await?;
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

/// These locks are the server's, not the database's: hence the name.
async fn lock_mysql(opts: &Opts) -> Result<AsyncMysqlConnection, StoreError> {
    let mut connection = pool::connect_mysql(opts).await?;
    loop {
        let said = sql("SELECT GET_LOCK(CONCAT('pipekeeper.', MD5(DATABASE())), 10) = 1 AS yes")
            .load::<Said>(&mut connection)
            .await?;
        if is_yes(&said) {
            return Ok(connection);
        }
    }
}

async fn lock_sqlite(database: &SqliteFile) -> Result<File, StoreError> {
    let mut path = database.path().as_os_str().to_owned();
    path.push(".migrate.lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| database.cant_use(&error, false))?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => tokio::time::sleep(LOCK_PAUSE).await,
            Err(TryLockError::Error(error)) => return Err(StoreError::unavailable(error)),
        }
    }
}

async fn in_time<L>(locking: impl Future<Output = Result<L, StoreError>>) -> Result<L, StoreError> {
    match tokio::time::timeout(LOCK_LIMIT, locking).await {
        Ok(locked) => locked,
        Err(elapsed) => Err(StoreError::unavailable(elapsed)),
    }
}

fn is_yes(said: &[Said]) -> bool {
    said.first().and_then(|said| said.yes) == Some(true)
}

/// Version and name of each migration.
fn names(migrations: &EmbeddedMigrations) -> Result<Vec<(String, String)>, StoreError> {
    let migrations =
        MigrationSource::<Sqlite>::migrations(migrations).map_err(StoreError::migrate)?;
    Ok(migrations
        .iter()
        .map(|migration| migration.name())
        .map(|name| (name.version().to_string(), name.to_string()))
        .collect())
}

#[expect(
    clippy::disallowed_methods,
    reason = "what each dialect has its own words for; fixed texts only"
)]
pub(super) fn sql(text: &'static str) -> SqlQuery {
    diesel::sql_query(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_folders_list_the_same_migrations() {
        let sqlite = names(&SQLITE).unwrap();
        assert!(!sqlite.is_empty());
        assert_eq!(names(&POSTGRES).unwrap(), sqlite);
        assert_eq!(names(&MYSQL).unwrap(), sqlite);
    }
}
