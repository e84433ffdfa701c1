//! The rows: one store over Postgres, `MySQL`/`MariaDB` and `SQLite`; the only module that writes SQL.
//!
//! Each query is written once and expanded per dialect by `on_conn!`, in the subset of SQL that all three share
//! (`migrations/README.md`). Contention is settled by conditional updates and their row counts. Every instant comes from
//! the caller.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::secret::Secret;
use outages::{Outages, Outcome};

mod app_credentials;
mod app_tok;
mod callbacks;
mod connections;
mod deadlines;
mod default_connections;
mod diagnosis;
mod disconnect;
mod error;
mod heartbeat;
mod imports;
mod leases;
mod listing;
mod logins;
mod migrate;
mod outages;
mod page_marks;
mod pool;
mod postgres;
mod query_observer;
mod refresh_log;
mod retry;
mod role;
mod selection;
mod sqlite_file;
mod sweep;
mod url;
mod url_parameters;

pub use app_tok::{AppTok, AppTokRow, BadTableName, RowTokens, RowWrite, TableName, usable};
pub use callbacks::{Callback, Claim, NewCallback};
pub use connections::{Commit, NewConnection, PlacedConsent, PlacedRow, RemovedRow, Revocation};
pub use deadlines::IdleDeadlines;
pub use default_connections::{DefaultConnection, NewDefault};
pub use diagnosis::Diagnosis;
pub use disconnect::{Disconnected, disconnect};
pub use error::StoreError;
pub use heartbeat::{Beat, Heartbeat};
pub use imports::Import;
pub use leases::SpendFailure;
pub use listing::{Listing, Overview, Page};
pub use logins::{Login, NewLogin};
pub use migrate::Schema;
pub use page_marks::PageMark;
pub use query_observer::QueryObserver;
pub use refresh_log::RefreshLogEntry;
pub use role::{Role, RoleError};
pub use selection::{Selection, Selector};
pub use sweep::DueFor;
pub use url_parameters::UrlError;

/// How many connections a store holds, and how long it waits.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// At most so many at a time; four for `SQLite`, whatever is asked for.
    pub max_connections: usize,
    /// For a connection to be free, or made.
    pub acquire_timeout: Duration,
    /// For one query to be answered.
    pub query_timeout: Duration,
    /// Which database this is, in the log.
    pub name: &'static str,
    /// Is shown each query, for tests of what is sent.
    pub query_observer: Option<QueryObserver>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            max_connections: 10,
            acquire_timeout: Duration::from_secs(5),
            query_timeout: Duration::from_secs(10),
            name: "the database",
            query_observer: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Backend {
    Postgres,
    Mysql,
    Sqlite,
}

impl Backend {
    /// The word for it in URLs, settings and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Mysql => "mysql",
            Self::Sqlite => "sqlite",
        }
    }
}

impl FromStr for Backend {
    type Err = UnknownBackend;

    fn from_str(word: &str) -> Result<Self, UnknownBackend> {
        [Self::Postgres, Self::Mysql, Self::Sqlite]
            .into_iter()
            .find(|backend| backend.as_str() == word)
            .ok_or(UnknownBackend)
    }
}

/// A word that names no database of ours.
#[derive(Debug, thiserror::Error)]
#[error("is none of sqlite, postgres, mysql")]
pub struct UnknownBackend;

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The database, behind a pool that connects when it is needed and again when it was lost. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pools: pool::Pools,
    events: pool::PoolEvents,
    acquire_timeout: Duration,
    query_timeout: Duration,
    outages: Arc<Outages>,
    query_observer: Option<QueryObserver>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("backend", &self.backend())
            .finish_non_exhaustive()
    }
}

/// Runs one query on whichever database the store was opened with.
///
/// A connection that turns out to be lost is thrown away, and with it all that rest in the pool: what broke one has most
/// likely broken them, and each would fail a request of its own. The query is not repeated: it may have taken effect.
/// A connection that takes no writes is thrown away alone: reads go on.
///
/// A query that the database undid because of a conflict with another one is repeated, from its beginning: a query that is
/// a transaction is repeated as a whole.
macro_rules! on_conn {
    ($store:expr, |$conn:ident| $query:expr) => {
        match &$store.pools {
            $crate::store::pool::Pools::Postgres(pool, _) => {
                $crate::store::on_conn!(@run $store, pool, $conn, $query)
            }
            $crate::store::pool::Pools::Mysql(pool, _) => {
                $crate::store::on_conn!(@run $store, pool, $conn, $query)
            }
            $crate::store::pool::Pools::Sqlite(pool, _) => {
                $crate::store::on_conn!(@run $store, pool, $conn, $query)
            }
        }
    };
    (@run $store:expr, $pool:expr, $conn:ident, $query:expr) => {{
        let mut attempts = $crate::store::retry::Attempts::begin();
        let result = loop {
            let mut lent = match $store.check_out($pool.get()).await {
                Ok(made) => $crate::store::pool::CheckedOut::new(made, |object| {
                    drop(::deadpool::managed::Object::take(object));
                }),
                Err(error) => break Err(error),
            };
            let mut answer = {
                let $conn = &mut ***lent.object();
                if let Some(observer) = &$store.query_observer {
                    ::diesel_async::AsyncConnection::set_instrumentation($conn, observer.clone());
                }
                ::tokio::time::timeout($store.query_timeout, async { $query.await })
                    .await
                    .unwrap_or_else(|_elapsed| Err($crate::store::pool::unanswered()))
            };
            if !$pool.manager().is_current(lent.object()) {
                answer = Err($crate::store::pool::replaced());
            }
            let useless = match &answer {
                Ok(_) => $crate::store::error::Useless::None,
                Err(error) => $crate::store::error::Useless::after(error),
            };
            match useless {
                $crate::store::error::Useless::None => lent.return_to_pool(),
                $crate::store::error::Useless::This => drop(lent),
                $crate::store::error::Useless::All => {
                    $store.events.happened();
                    drop(lent);
                    $pool.retain(|_, _| false);
                }
            }
            let repeat = answer.as_ref().is_err_and($crate::store::error::may_be_repeated);
            if !(repeat && attempts.pause().await) {
                break answer.map_err($crate::store::StoreError::from);
            }
        };
        $store.noted(result)
    }};
}
use on_conn;

impl Store {
    /// Reads the URL; connects to nothing yet. Its connections live on the runtime that this is called on.
    ///
    /// `postgres://`, `postgresql://` (libpq's `sslmode` and `sslrootcert`), `mysql://`, `mariadb://` (`require_ssl`,
    /// `verify_ca`, `ssl_ca`, `ssl_host`), `sqlite:PATH` or `sqlite://PATH`.
    ///
    /// # Errors
    /// [`StoreError::Url`], which says nothing of the URL's contents.
    pub fn open(url: &Secret, options: &StoreOptions) -> Result<Self, StoreError> {
        let events = pool::PoolEvents::default();
        Ok(Self {
            pools: pool::Pools::new(url::Target::parse(url)?, options, &events)?,
            events,
            acquire_timeout: options.acquire_timeout,
            query_timeout: options.query_timeout,
            outages: Arc::new(Outages::of(options.name)),
            query_observer: options.query_observer.clone(),
        })
    }

    /// Whether [`Store::open`] would take this URL.
    pub fn check_url(url: &Secret) -> Result<(), UrlError> {
        url::Target::parse(url).map(drop)
    }

    pub fn backend(&self) -> Backend {
        match self.pools {
            pool::Pools::Postgres(..) => Backend::Postgres,
            pool::Pools::Mysql(..) => Backend::Mysql,
            pool::Pools::Sqlite(..) => Backend::Sqlite,
        }
    }

    /// Why writes are refused by a database that answers: what was seen last of them, and on a server an attempt that
    /// changes nothing.
    pub async fn refuses_writes(&self) -> Option<Diagnosis> {
        if self.backend() != Backend::Sqlite {
            // Its error is noted.
            let _noted = self.app_credentials_touch_none().await;
        }
        self.outages.refuses_writes()
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        use diesel_async::SimpleAsyncConnection as _;
        on_conn!(self, |conn| conn.batch_execute("SELECT 1"))
    }

    /// The result, once the log knows of it.
    fn noted<T: Outcome>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match &result {
            Ok(done) => self.outages.succeeded(done.effect()),
            Err(error) => self.outages.failed(error),
        }
        result
    }

    async fn check_out<C>(
        &self,
        getting: impl Future<Output = Result<C, deadpool::managed::PoolError<error::ConnectError>>>,
    ) -> Result<C, StoreError> {
        match tokio::time::timeout(self.acquire_timeout, getting).await {
            Ok(lent) => Ok(lent?),
            Err(elapsed) => Err(StoreError::unavailable(elapsed)),
        }
    }
}
