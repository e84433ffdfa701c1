//! Throw-away databases for tests.
//!
//! One server per test process, started in a container when it
//! is first needed (or the one at `TEST_POSTGRES_URL`, `TEST_MYSQL_URL`, as a user who may create databases), and on it
//! one database per test, dropped at its end. `TEST_MYSQL_IMAGE` names another image than `mariadb:11.8`. A backend that is named and can't be had fails the test.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use url::Url;

use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, Role, Store, StoreOptions};

use crate::QueryLog;

mod full_disk;
mod gate;
mod lock;
mod migrations;
mod odd_defaults;
mod pooler;
mod seed;
mod server;
mod sql;
mod tls_server;

pub use gate::Gate;
pub use lock::WriteLock;
pub use odd_defaults::OddDefaults;
pub use pooler::Pooler;
use server::{Extras, Server};
pub use tls_server::{TlsFiles, TlsServer};

/// A busy machine starts a server in several seconds.
const START_LIMIT: Duration = Duration::from_mins(2);

/// A pooler's URL, in processes that a test starts of itself: stores reach the server by way of it.
pub const BY_WAY_OF: &str = "TEST_BY_WAY_OF";

/// Set in processes that a test starts of itself: stores have the role that `migrate --role` makes.
pub const AS_ROLE: &str = "TEST_AS_ROLE";

/// An empty database of its own, gone when this is dropped.
#[derive(Debug)]
pub struct TestDatabase {
    backend: Backend,
    url: String,
    /// What stores are opened with, where that is another one.
    store_url: Option<String>,
    role: Option<String>,
    home: Home,
}

#[derive(Debug)]
enum Home {
    Server { admin_url: String, name: String },
    Directory { _removed_with_it: TestDirectory },
}

/// An empty directory of its own, gone when this is dropped.
#[derive(Debug)]
pub struct TestDirectory(PathBuf);

impl TestDirectory {
    pub fn create() -> Self {
        let path = std::env::temp_dir().join(unique_name());
        std::fs::create_dir(&path).expect("a directory for the test");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TestDirectory {
    fn drop(&mut self) {
        // Another test's failure must not be hidden by this one's clean-up.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl TestDatabase {
    /// Without tables yet: call [`Store::migrate`].
    pub fn create(backend: Backend) -> Self {
        match backend {
            Backend::Sqlite => {
                let directory = TestDirectory::create();
                Self {
                    backend,
                    url: format!("sqlite:{}/test.db", directory.path().display()),
                    store_url: None,
                    role: None,
                    home: Home::Directory {
                        _removed_with_it: directory,
                    },
                }
            }
            Backend::Postgres | Backend::Mysql => {
                let admin_url = shared_server(backend).admin_url.clone();
                let name = unique_name();
                sql::lines(backend, &admin_url, &format!("CREATE DATABASE {name}"))
                    .expect("the test server makes a database");
                let url = with(&admin_url, |url| url.set_path(&name));
                Self {
                    backend,
                    store_url: variable(BY_WAY_OF).map(|pooler| pooler::by_way_of(&pooler, &url)),
                    role: None,
                    url,
                    home: Home::Server { admin_url, name },
                }
            }
        }
    }

    /// With its tables.
    pub async fn migrated(backend: Backend) -> Self {
        let mut database = Self::create(backend);
        database
            .store()
            .migrate()
            .await
            .expect("the migrations run");
        if variable(AS_ROLE).is_some() {
            database.become_role(&role_name(), "secret").await;
        }
        database
    }

    /// From now on stores are opened by a role that has the rights of a service.
    pub async fn become_role(&mut self, name: &str, password: &str) {
        let role = Role::new(name, Some(Secret::from(password))).expect("a name for a role");
        let owner = self.store();
        owner.role_grant(&role).await.expect("the owner may do so");
        self.role = Some(name.to_owned());
        let url = self.url_by(name, password);
        self.store_url = Some(url.expose().to_owned());
    }

    /// This database for another user.
    pub fn url_by(&self, name: &str, password: &str) -> Secret {
        Secret::new(with(self.url().expose(), |url| {
            url.set_username(name).expect("a URL that has a host");
            url.set_password(Some(password))
                .expect("a URL that has a host");
        }))
    }

    pub fn backend(&self) -> Backend {
        self.backend
    }

    pub fn url(&self) -> Secret {
        Secret::new(self.store_url.as_ref().unwrap_or(&self.url).clone())
    }

    /// A store of its own pool each time.
    pub fn store(&self) -> Store {
        open(&self.url())
    }

    /// A store, and the queries that it sends.
    pub fn logged_store(&self) -> (Store, QueryLog) {
        let log = QueryLog::default();
        let options = StoreOptions {
            query_observer: Some(log.observer()),
            ..patient()
        };
        let store = Store::open(&self.url(), &options).expect("a database URL that can be used");
        (store, log)
    }

    /// A way to this database that can be cut, for all but `SQLite`.
    pub fn gate(&self) -> Gate {
        Gate::before(self.url().expose())
    }

    /// Runs SQL of the test's own: the first column of each row, or for `SQLite` the one named `line`.
    ///
    /// # Errors
    /// What the database says.
    pub fn lines(&self, query: &str) -> Result<Vec<String>, String> {
        sql::lines(self.backend, &self.url, query)
    }

    /// The same with another user's URL.
    ///
    /// # Errors
    /// What the database says.
    pub fn lines_by(&self, url: &Secret, query: &str) -> Result<Vec<String>, String> {
        sql::lines(self.backend, url.expose(), query)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if let Home::Server { admin_url, name } = &self.home {
            let force = match self.backend {
                Backend::Postgres => " WITH (FORCE)",
                Backend::Mysql | Backend::Sqlite => "",
            };
            let drop_it = format!("DROP DATABASE {name}{force}");
            // Another test's failure must not be hidden by this one's clean-up.
            drop(sql::lines(self.backend, admin_url, &drop_it));
            if let Some(role) = &self.role {
                // Whatever it had went with the database.
                let drop_it = match self.backend {
                    Backend::Postgres => format!("DROP ROLE \"{}\"", role.replace('"', "\"\"")),
                    _ => format!("DROP USER '{}'@'%'", role.replace('\'', "''")),
                };
                drop(sql::lines(self.backend, admin_url, &drop_it));
            }
        }
    }
}

/// A store whose limits no slow machine reaches.
pub fn open(url: &Secret) -> Store {
    Store::open(url, &patient()).expect("a database URL that can be used")
}

/// The options of such a store.
pub fn patient() -> StoreOptions {
    StoreOptions {
        acquire_timeout: Duration::from_mins(2),
        query_timeout: Duration::from_mins(2),
        ..StoreOptions::default()
    }
}

fn shared_server(backend: Backend) -> &'static Server {
    static POSTGRES: OnceLock<Server> = OnceLock::new();
    static MYSQL: OnceLock<Server> = OnceLock::new();
    let (once, url) = match backend {
        Backend::Postgres => (&POSTGRES, "TEST_POSTGRES_URL"),
        Backend::Mysql => (&MYSQL, "TEST_MYSQL_URL"),
        Backend::Sqlite => unreachable!("SQLite has no server"),
    };
    once.get_or_init(|| match variable(url) {
        Some(admin_url) => Server::given(admin_url),
        None => Server::start(backend, &Extras::default()),
    })
}

/// The server that the databases of this process are on, as its administrator.
pub fn admin_url(backend: Backend) -> Secret {
    Secret::new(shared_server(backend).admin_url.clone())
}

/// Other test processes may use the same server or directory.
fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let random = u32::from_be_bytes(pipekeeper_core::random::bytes());
    format!(
        "pipekeeper_test_{}_{count}_{random:08x}",
        std::process::id()
    )
}

/// Roles belong to the server, and have short names on `MySQL`.
pub fn role_name() -> String {
    format!(
        "role_{:08x}",
        u32::from_be_bytes(pipekeeper_core::random::bytes())
    )
}

fn with(url: &str, change: impl FnOnce(&mut Url)) -> String {
    let mut url = Url::parse(url).expect("the test server's URL");
    change(&mut url);
    url.into()
}

#[expect(
    clippy::disallowed_methods,
    reason = "settings of the test run, not of the program"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
