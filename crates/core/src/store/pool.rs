//! The three pools: how a connection is made, checked and thrown away.

use std::error::Error;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diesel::result::DatabaseErrorKind;
use diesel::{ConnectionError, ConnectionResult, SqliteConnection};
use diesel_async::pooled_connection::deadpool::{Hook, HookError, Pool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, PoolError, RecyclingMethod,
};
use diesel_async::sync_connection_wrapper::{SpawnBlocking, SyncConnectionWrapper};
use diesel_async::{AsyncConnection as _, AsyncMysqlConnection, SimpleAsyncConnection as _};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryFutureExt as _};
use mysql_async::Opts;
use tokio::runtime::Handle;

use super::postgres::connection::UnnamedPg;
use super::postgres::tls::Settings;
use super::target::Target;
use super::{StoreError, StoreOptions};

pub(super) type SqliteConn = SyncConnectionWrapper<SqliteConnection, Detached>;

/// A host that swallows packets is given up on after this long.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// `MySQL`'s driver does not notice by itself that its server went away: one that has rested so long is asked first.
const RESTED: Duration = Duration::from_millis(500);

/// `SQLite` has one writer at a time; more connections only wait for each other.
const SQLITE_CONNECTIONS: usize = 4;

/// The waiting limit comes first, because switching to WAL takes a lock itself. FULL, because with NORMAL a commit can be
/// lost to a power failure, and with it a refresh token that the provider has already rotated.
const SQLITE_SETUP: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
                            PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;";

/// Each pool beside what its connections are made from: migrations need some of their own.
#[derive(Clone)]
pub(super) enum Pools {
    Postgres(Pool<UnnamedPg>, Arc<Settings>),
    Mysql(Pool<AsyncMysqlConnection>, Arc<Opts>),
    Sqlite(Pool<SqliteConn>, Arc<Path>),
}

/// Runs `SQLite`'s queries where blocking is allowed.
///
/// diesel-async's own way waits, when a caller goes away, for the query to end, by means that panic on the one-threaded
/// runtimes of the HTTP server's workers. Nobody has to wait: a query keeps its connection until it ends, and [`Lent`] sees
/// to it that nobody else uses that one.
pub(super) struct Detached(Handle);

impl SpawnBlocking for Detached {
    fn spawn_blocking<'a, R: Send + 'static>(
        &mut self,
        task: impl FnOnce() -> R + Send + 'static,
    ) -> BoxFuture<'a, Result<R, Box<dyn Error + Send + Sync>>> {
        self.0.spawn_blocking(task).map_err(Box::from).boxed()
    }

    fn get_runtime() -> Self {
        Self(Handle::current())
    }
}

/// The pool never sees the URL: what it would print or repeat holds a password.
macro_rules! builder {
    ($source:expr, $connect:path) => {{
        let source = Arc::clone(&$source);
        let mut config = ManagerConfig::default();
        // A closed or half-finished connection is dropped; no query is spent on asking.
        config.recycling_method = RecyclingMethod::Fast;
        let home = Handle::try_current().ok();
        config.custom_setup = Box::new(move |_url| {
            let source = Arc::clone(&source);
            at_home(home.clone(), async move { $connect(&source).await }).boxed()
        });
        Pool::builder(AsyncDieselConnectionManager::new_with_config("", config))
    }};
}

impl Pools {
    pub(super) fn new(target: Target, options: &StoreOptions) -> Result<Self, StoreError> {
        let size = options.max_connections.max(1);
        match target {
            Target::Postgres(settings) => {
                let settings = Arc::new(*settings);
                let pool = builder!(settings, connect_postgres).max_size(size).build();
                pool.map(|pool| Self::Postgres(pool, settings))
            }
            Target::Mysql(opts) => {
                let opts = Arc::new(*opts);
                let pool = builder!(opts, connect_mysql)
                    .max_size(size)
                    .pre_recycle(Hook::async_fn(
                        |connection: &mut AsyncMysqlConnection, metrics| {
                            async move {
                                if metrics.last_used() < RESTED {
                                    return Ok(());
                                }
                                connection.batch_execute("DO 0").await.map_err(|error| {
                                    HookError::Backend(PoolError::QueryError(error))
                                })
                            }
                            .boxed()
                        },
                    ))
                    .build();
                pool.map(|pool| Self::Mysql(pool, opts))
            }
            Target::Sqlite(path) => {
                let path: Arc<Path> = path.into();
                let size = size.min(SQLITE_CONNECTIONS);
                let pool = builder!(path, connect_sqlite).max_size(size).build();
                pool.map(|pool| Self::Sqlite(pool, path))
            }
        }
        .map_err(StoreError::unavailable)
    }
}

/// A connection is served by the runtime that it was made on, and dies with it. Requests come from the short-lived
/// runtimes of the HTTP server's workers; so it is made on the one that opened the store.
async fn at_home<C: Send + 'static>(
    home: Option<Handle>,
    connecting: impl Future<Output = ConnectionResult<C>> + Send + 'static,
) -> ConnectionResult<C> {
    let Some(home) = home else {
        return connecting.await;
    };
    home.spawn(connecting)
        .await
        .unwrap_or_else(|gone| Err(ConnectionError::BadConnection(gone.to_string())))
}

pub(super) async fn connect_postgres(settings: &Settings) -> ConnectionResult<UnnamedPg> {
    in_time(UnnamedPg::connect(settings)).await
}

pub(super) async fn connect_mysql(opts: &Opts) -> ConnectionResult<AsyncMysqlConnection> {
    in_time(async {
        let connection = mysql_async::Conn::new(opts.clone())
            .await
            .map_err(|error| ConnectionError::BadConnection(error.to_string()))?;
        AsyncMysqlConnection::try_from(connection).await
    })
    .await
}

pub(super) async fn connect_sqlite(path: &Path) -> ConnectionResult<SqliteConn> {
    create_private(path)
        .map_err(|error| ConnectionError::BadConnection(format!("{}: {error}", path.display())))?;
    let mut connection = SqliteConn::establish(&path.to_string_lossy()).await?;
    connection
        .batch_execute(SQLITE_SETUP)
        .await
        .map_err(ConnectionError::CouldntSetupConfiguration)?;
    Ok(connection)
}

/// A pooled object in use. Unless it is given back it is thrown away: a caller that went away in the middle of a query
/// leaves an answer on the line that the next query would take for its own.
pub(super) struct Lent<T> {
    object: Option<T>,
    discard: fn(T),
}

impl<T> Lent<T> {
    pub(super) fn new(object: T, discard: fn(T)) -> Self {
        Self {
            object: Some(object),
            discard,
        }
    }

    pub(super) fn object(&mut self) -> &mut T {
        self.object.as_mut().expect("taken by the two ends alone")
    }

    pub(super) fn give_back(mut self) {
        self.object = None;
    }
}

impl<T> Drop for Lent<T> {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            (self.discard)(object);
        }
    }
}

/// `SQLite` itself would create the file readable by everyone, and gives its `-wal` and `-shm` files the rights of this one.
fn create_private(path: &Path) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map(drop)
}

async fn in_time<C>(connecting: impl Future<Output = ConnectionResult<C>>) -> ConnectionResult<C> {
    tokio::time::timeout(CONNECT_LIMIT, connecting)
        .await
        .unwrap_or_else(|_elapsed| {
            Err(ConnectionError::BadConnection(
                "no connection within the time limit".to_owned(),
            ))
        })
}

/// A query that is not answered in time leaves its connection in an unknown state: it counts as lost.
pub(super) fn unanswered() -> diesel::result::Error {
    diesel::result::Error::DatabaseError(
        DatabaseErrorKind::UnableToSendCommand,
        Box::new("no answer within the time limit".to_owned()),
    )
}
