//! Whether the database is the same one as a moment ago.
//!
//! A database that failed over to a replica, or was restored, may have lost its last commits. Its clients notice nothing but
//! broken connections, or, behind a pooler, another server. So one connection, beside the pool, is asked all the time which
//! server it talks to. A broken connection of the pool alone proves nothing: firewalls and idle limits close them as well.

use std::sync::Arc;
use std::time::Duration;

use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncMysqlConnection, RunQueryDsl as _};

use super::pool::{Pools, connect_mysql, connect_postgres, unanswered};
use super::postgres::connection::UnnamedPg;
use super::sqlite_file::SqliteFile;
use super::{Store, StoreError};

/// An unanswered question counts as a broken connection.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Asks which server it is, and since when: a restart may have lost commits as well.
const POSTGRES_SERVER: &str = "SELECT concat(pg_postmaster_start_time(), ' ', inet_server_addr(), ' ', inet_server_port()) AS server";

/// The same without the start, which every user may not ask for.
const MYSQL_SERVER: &str = "SELECT CONCAT(@@hostname, ' ', @@port, ' ', @@server_id) AS server";

/// The connection beside the pool.
#[derive(Debug)]
pub struct Heartbeat {
    store: Store,
    connection: Option<Asking>,
    /// As it last named itself.
    server: Option<String>,
}

enum Asking {
    Postgres(UnnamedPg),
    Mysql(AsyncMysqlConnection),
    /// No server: the file, which may be replaced.
    Sqlite(Arc<SqliteFile>),
}

impl std::fmt::Debug for Asking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asking")
    }
}

/// What a heartbeat found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beat {
    /// The same connection to the same server as before, or the first one.
    Steady,
    /// Another connection after a loss, or another server: commits may be missing.
    Reconnected,
}

#[derive(QueryableByName)]
struct Server {
    #[diesel(sql_type = Text)]
    server: String,
}

impl Store {
    /// Changes whenever a connection of the pool was made or found broken. As long as it doesn't, no query can have reached
    /// another server than the last [`Heartbeat::beat`] did.
    pub fn pool_events(&self) -> u64 {
        self.events.count()
    }

    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat {
            store: self.clone(),
            connection: None,
            server: None,
        }
    }
}

impl Heartbeat {
    /// Asks the server once.
    ///
    /// # Errors
    /// The connection broke, or none can be made. The next success is [`Beat::Reconnected`].
    pub async fn beat(&mut self) -> Result<Beat, StoreError> {
        let kept = self.connection.take();
        let is_new = kept.is_none();
        let mut connection = match kept {
            Some(connection) => connection,
            None => Asking::connect(&self.store.pools).await?,
        };
        let server = tokio::time::timeout(ANSWER_LIMIT, connection.server())
            .await
            .unwrap_or_else(|_elapsed| Err(unanswered().into()))?;
        self.connection = Some(connection);
        let before = self.server.replace(server.clone());
        Ok(match before {
            None => Beat::Steady,
            Some(before) if before == server && !is_new => Beat::Steady,
            Some(_) => Beat::Reconnected,
        })
    }
}

impl Asking {
    async fn connect(pools: &Pools) -> Result<Self, StoreError> {
        Ok(match pools {
            Pools::Postgres(_, settings) => Self::Postgres(connect_postgres(settings).await?),
            Pools::Mysql(_, opts) => Self::Mysql(connect_mysql(opts).await?),
            Pools::Sqlite(_, file) => Self::Sqlite(Arc::clone(file)),
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "no table is asked: the server names itself"
    )]
    async fn server(&mut self) -> Result<String, StoreError> {
        let named: Vec<Server> = match self {
            Self::Postgres(connection) => sql_query(POSTGRES_SERVER).load(connection).await?,
            Self::Mysql(connection) => sql_query(MYSQL_SERVER).load(connection).await?,
            Self::Sqlite(file) => return Ok(format!("{:?}", file.current()?)),
        };
        Ok(named.into_iter().map(|row| row.server).collect())
    }
}
