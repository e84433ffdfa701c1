//! The three pools: how a connection is made, checked and thrown away.

use std::error::Error;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool::managed::{self, Metrics, RecycleError, RecycleResult};
use diesel::SqliteConnection;
use diesel::result::DatabaseErrorKind;
use diesel_async::sync_connection_wrapper::{SpawnBlocking, SyncConnectionWrapper};
use diesel_async::{
    AsyncConnection, AsyncMysqlConnection, SimpleAsyncConnection as _, TransactionManager as _,
};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, TryFutureExt as _};
use mysql_async::Opts;
use tokio::runtime::Handle;

use super::diagnosis::Diagnosis;
use super::error::ConnectError;
use super::postgres::connection::UnnamedPg;
use super::postgres::tls::Settings;
use super::sqlite_file::{FileId, SqliteFile};
use super::url::Target;
use super::{StoreError, StoreOptions};

/// How often a pool has made a connection, or found one broken.
#[derive(Debug, Clone, Default)]
pub(super) struct PoolEvents(Arc<AtomicU64>);

impl PoolEvents {
    pub(super) fn happened(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn count(&self) -> u64 {
        AtomicU64::load(&self.0, Ordering::SeqCst)
    }
}

pub(super) type SqliteConn = SyncConnectionWrapper<SqliteConnection, Detached>;

/// A host that swallows packets is given up on after this long: sooner than a caller that waits for a connection gives up, so that
/// he is told why.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);

/// `MySQL`'s driver does not notice by itself that its server went away: one that has rested so long is asked first.
const RESTED: Duration = Duration::from_millis(500);

/// `SQLite` has one writer at a time; more connections only wait for each other.
const SQLITE_CONNECTIONS: usize = 4;

/// The waiting limit comes first, because switching to WAL takes a lock itself. FULL, because with NORMAL a commit can be
/// lost to a power failure, and with it a refresh token that the provider has already rotated. The read at the end has the
/// write-ahead log be there.
const SQLITE_SETUP: &str = "PRAGMA busy_timeout = 5000; PRAGMA journal_mode = WAL; \
                            PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
                            SELECT COUNT(*) FROM sqlite_master;";

/// Each pool beside what its connections are made from: migrations need some of their own.
#[derive(Clone)]
pub(super) enum Pools {
    Postgres(Pool<Settings>, Arc<Settings>),
    Mysql(Pool<Opts>, Arc<Opts>),
    Sqlite(Pool<SqliteFile>, Arc<SqliteFile>),
}

pub(super) type Pool<S> = managed::Pool<Manager<S>>;

/// What the connections to one database are made from.
pub(super) trait Source: Send + Sync + 'static {
    type Connection: AsyncConnection + Send + 'static;

    fn connect(&self) -> impl Future<Output = Result<Made<Self::Connection>, ConnectError>> + Send;

    /// Whether one that has rested for so long is still of use, beside what its open transactions say.
    fn is_good(
        connection: &mut Self::Connection,
        rested: Duration,
    ) -> impl Future<Output = bool> + Send;

    /// The file that connections are made to now, for a database that is one.
    fn file(&self) -> Option<FileId> {
        None
    }
}

impl Source for Settings {
    type Connection = UnnamedPg;

    async fn connect(&self) -> Result<Made<UnnamedPg>, ConnectError> {
        connect_postgres(self).await.map(Made::to_a_server)
    }

    async fn is_good(connection: &mut UnnamedPg, _rested: Duration) -> bool {
        !connection.is_closed()
    }
}

impl Source for Opts {
    type Connection = AsyncMysqlConnection;

    async fn connect(&self) -> Result<Made<AsyncMysqlConnection>, ConnectError> {
        connect_mysql(self).await.map(Made::to_a_server)
    }

    async fn is_good(connection: &mut AsyncMysqlConnection, rested: Duration) -> bool {
        rested < RESTED || connection.batch_execute("DO 0").await.is_ok()
    }
}

impl Source for SqliteFile {
    type Connection = SqliteConn;

    async fn connect(&self) -> Result<Made<SqliteConn>, ConnectError> {
        let file = self.prepare()?;
        let connection = connect_sqlite(self).await?;
        if self.current()? != file {
            return Err(ConnectError::of(
                None,
                "the database file was just replaced",
            ));
        }
        self.note(file);
        Ok(Made {
            connection,
            file: Some(file),
        })
    }

    async fn is_good(_connection: &mut SqliteConn, _rested: Duration) -> bool {
        true
    }

    fn file(&self) -> Option<FileId> {
        self.current().ok()
    }
}

/// A connection, and what it was made to.
pub(super) struct Made<C> {
    connection: C,
    file: Option<FileId>,
}

impl<C> Made<C> {
    fn to_a_server(connection: C) -> Self {
        Self {
            connection,
            file: None,
        }
    }
}

impl<C> Deref for Made<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.connection
    }
}

impl<C> DerefMut for Made<C> {
    fn deref_mut(&mut self) -> &mut C {
        &mut self.connection
    }
}

/// Makes a pool's connections, and looks at each before it is lent again.
pub(super) struct Manager<S> {
    source: Arc<S>,
    home: Option<Handle>,
    events: PoolEvents,
}

impl<S: Source> Manager<S> {
    fn pool(source: &Arc<S>, size: usize, events: &PoolEvents) -> Result<Pool<S>, StoreError> {
        let manager = Self {
            source: Arc::clone(source),
            home: Handle::try_current().ok(),
            events: events.clone(),
        };
        let pool = managed::Pool::builder(manager).max_size(size).build();
        pool.map_err(StoreError::unavailable)
    }
}

impl<S: Source> managed::Manager for Manager<S> {
    type Type = Made<S::Connection>;
    type Error = ConnectError;

    async fn create(&self) -> Result<Self::Type, ConnectError> {
        self.events.happened();
        let source = Arc::clone(&self.source);
        on_owner_runtime(self.home.clone(), async move { source.connect().await }).await
    }

    async fn recycle(
        &self,
        made: &mut Self::Type,
        metrics: &Metrics,
    ) -> RecycleResult<ConnectError> {
        let half_finished =
            <S::Connection as AsyncConnection>::TransactionManager::is_broken_transaction_manager(
                &mut made.connection,
            );
        if half_finished
            || !self.is_current(made)
            || !S::is_good(&mut made.connection, metrics.last_used()).await
        {
            self.events.happened();
            return Err(RecycleError::message("of no further use"));
        }
        Ok(())
    }
}

impl<S: Source> Manager<S> {
    /// Whether the database's file is still the one that this connection was made to.
    pub(super) fn is_current(&self, made: &Made<S::Connection>) -> bool {
        made.file == self.source.file()
    }
}

/// Runs `SQLite`'s queries where blocking is allowed.
///
/// diesel-async's own way waits, when a caller goes away, for the query to end, by means that panic on the one-threaded
/// runtimes of the HTTP server's workers. No task has to wait: a query keeps its connection until it ends, and [`CheckedOut`] sees
/// to it that no other task uses that one.
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

impl Pools {
    pub(super) fn new(
        target: Target,
        options: &StoreOptions,
        events: &PoolEvents,
    ) -> Result<Self, StoreError> {
        let size = options.max_connections.max(1);
        Ok(match target {
            Target::Postgres(settings) => {
                let settings = Arc::new(*settings);
                Self::Postgres(Manager::pool(&settings, size, events)?, settings)
            }
            Target::Mysql(opts) => {
                let opts = Arc::new(*opts);
                Self::Mysql(Manager::pool(&opts, size, events)?, opts)
            }
            Target::Sqlite(path) => {
                let file = Arc::new(SqliteFile::new(path));
                let size = size.min(SQLITE_CONNECTIONS);
                Self::Sqlite(Manager::pool(&file, size, events)?, file)
            }
        })
    }
}

/// A connection is served by the runtime that it was made on, and dies with it. Requests come from the short-lived
/// runtimes of the HTTP server's workers; so it is made on the one that opened the store.
async fn on_owner_runtime<C: Send + 'static>(
    home: Option<Handle>,
    connecting: impl Future<Output = Result<C, ConnectError>> + Send + 'static,
) -> Result<C, ConnectError> {
    let Some(home) = home else {
        return connecting.await;
    };
    home.spawn(connecting)
        .await
        .unwrap_or_else(|gone| Err(ConnectError::of(None, gone.to_string())))
}

pub(super) async fn connect_postgres(settings: &Settings) -> Result<UnnamedPg, ConnectError> {
    let made = in_time(UnnamedPg::connect(settings)).await;
    explained(made, settings.hosts()).await
}

pub(super) async fn connect_mysql(opts: &Opts) -> Result<AsyncMysqlConnection, ConnectError> {
    let made = in_time(async {
        let connection = mysql_async::Conn::new(opts.clone())
            .await
            .map_err(|error| ConnectError::of(Diagnosis::of_mysql(&error), error.to_string()))?;
        Ok(AsyncMysqlConnection::try_from(connection).await?)
    })
    .await;
    explained(made, vec![(opts.ip_or_hostname(), opts.tcp_port())]).await
}

pub(super) async fn connect_sqlite(file: &SqliteFile) -> Result<SqliteConn, ConnectError> {
    file.prepare()?;
    let mut connection = SqliteConn::establish(&file.path().to_string_lossy()).await?;
    connection.batch_execute(SQLITE_SETUP).await?;
    Ok(connection)
}

/// Supabase's direct hosts have IPv6 addresses alone, and few container networks have IPv6.
async fn explained<C>(
    made: Result<C, ConnectError>,
    hosts: Vec<(&str, u16)>,
) -> Result<C, ConnectError> {
    let mut error = match made {
        Err(error) if error.diagnosis == Some(Diagnosis::Unreachable) => error,
        made => return made,
    };
    let mut addresses = Vec::new();
    for (host, port) in hosts {
        if let Ok(found) = tokio::net::lookup_host((host, port)).await {
            addresses.extend(found);
        }
    }
    if !addresses.is_empty() && addresses.iter().all(std::net::SocketAddr::is_ipv6) {
        error.diagnosis = Some(Diagnosis::Ipv6Only);
    }
    Err(error)
}

/// A pooled object in use. Unless it is given back it is thrown away: a caller that went away in the middle of a query
/// leaves an answer on the line that the next query would take for its own.
pub(super) struct CheckedOut<T> {
    object: Option<T>,
    discard: fn(T),
}

impl<T> CheckedOut<T> {
    pub(super) fn new(object: T, discard: fn(T)) -> Self {
        Self {
            object: Some(object),
            discard,
        }
    }

    pub(super) fn object(&mut self) -> &mut T {
        self.object.as_mut().expect("taken by the two ends alone")
    }

    pub(super) fn return_to_pool(mut self) {
        self.object = None;
    }
}

impl<T> Drop for CheckedOut<T> {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            (self.discard)(object);
        }
    }
}

async fn in_time<C>(
    connecting: impl Future<Output = Result<C, ConnectError>>,
) -> Result<C, ConnectError> {
    tokio::time::timeout(CONNECT_LIMIT, connecting)
        .await
        .unwrap_or_else(|_elapsed| {
            Err(ConnectError::of(
                Some(Diagnosis::Silent),
                "no connection within the time limit",
            ))
        })
}

/// A query that is not answered in time leaves its connection in an unknown state: it counts as lost.
pub(super) fn unanswered() -> diesel::result::Error {
    lost("no answer within the time limit")
}

/// What was read or written may have been in a file that is no longer the database's.
pub(super) fn replaced() -> diesel::result::Error {
    lost("the database file was replaced or removed")
}

fn lost(said: &str) -> diesel::result::Error {
    diesel::result::Error::DatabaseError(
        DatabaseErrorKind::UnableToSendCommand,
        Box::new(said.to_owned()),
    )
}
