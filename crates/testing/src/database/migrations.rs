//! Migrations, taken back.

use diesel::backend::Backend as DieselBackend;
use diesel::prelude::*;
use diesel_async::{
    AsyncConnection as _, AsyncMigrationHarness, AsyncMysqlConnection, AsyncPgConnection,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use pipekeeper_core::store::Backend;

use super::TestDatabase;
use super::sql::on_own_runtime;

const POSTGRES: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");
const MYSQL: EmbeddedMigrations = embed_migrations!("../../migrations/mysql");
const SQLITE: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");

impl TestDatabase {
    /// Takes every migration back, and with them every row. Returns how many those were.
    pub fn revert_all(&self) -> usize {
        self.revert(None)
    }

    /// Takes back this version and all later ones.
    pub fn revert_from(&self, first: &str) -> usize {
        self.revert(Some(first))
    }

    fn revert(&self, first: Option<&str>) -> usize {
        let (url, first) = (self.url.clone(), first.map(str::to_owned));
        match self.backend {
            Backend::Sqlite => {
                let path = url.trim_start_matches("sqlite:");
                let mut connection =
                    SqliteConnection::establish(path).expect("the test's database file");
                revert(&mut connection, || SQLITE, first.as_deref())
            }
            Backend::Postgres => on_own_runtime(async || {
                let connection = AsyncPgConnection::establish(&url).await;
                let mut harness =
                    AsyncMigrationHarness::new(connection.expect("the test's database"));
                let work = move || revert(&mut harness, || POSTGRES, first.as_deref());
                tokio::task::spawn_blocking(work)
                    .await
                    .expect("the migrations can be taken back")
            }),
            Backend::Mysql => on_own_runtime(async || {
                let connection = AsyncMysqlConnection::establish(&url).await;
                let mut harness =
                    AsyncMigrationHarness::new(connection.expect("the test's database"));
                let work = move || revert(&mut harness, || MYSQL, first.as_deref());
                tokio::task::spawn_blocking(work)
                    .await
                    .expect("the migrations can be taken back")
            }),
        }
    }
}

fn revert<B: DieselBackend>(
    harness: &mut impl MigrationHarness<B>,
    migrations: impl Fn() -> EmbeddedMigrations,
    first: Option<&str>,
) -> usize
where
    EmbeddedMigrations: diesel::migration::MigrationSource<B>,
{
    let Some(first) = first else {
        let reverted = harness.revert_all_migrations(migrations());
        return reverted.expect("every migration can be taken back").len();
    };
    let mut count = 1;
    while harness
        .revert_last_migration(migrations())
        .expect("the migration can be taken back")
        .to_string()
        != first
    {
        count += 1;
    }
    count
}
