//! Throw-away databases for tests, on the backends that `TEST_BACKENDS` names.
//!
//! `TEST_BACKENDS=sqlite,postgres,mysql` (default `sqlite`). One server per test process, started in a container when it
//! is first needed (or the one at `TEST_POSTGRES_URL`, `TEST_MYSQL_URL`, as a user who may create databases), and on it
//! one database per test, dropped at its end. `TEST_MYSQL_IMAGE` names another image than `mariadb:11.8`. A backend that is named and can't be had fails the test.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use url::Url;

use crate::secret::Secret;
use crate::store::{Backend, Store, StoreOptions};

mod gate;
mod lock;
mod seed;
mod server;
mod sql;

pub use gate::Gate;
pub use lock::WriteLock;
use server::Server;

/// Whether `TEST_BACKENDS` names this backend. Where it does not the run says so, once: no test is left out in silence.
pub fn is_asked_for(backend: Backend) -> bool {
    static SAID: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let asked = backends().contains(&backend);
    let mut said = SAID.lock().expect("no holder panics");
    if !asked && said.insert(backend.as_str()) {
        // Past the test harness, which shows what a test prints only when it fails.
        let note = format!("\nTEST_BACKENDS does not name {backend}: its tests do nothing\n");
        drop(std::io::stderr().write_all(note.as_bytes()));
    }
    asked
}

/// What `TEST_BACKENDS` names.
pub fn backends() -> Vec<Backend> {
    variable("TEST_BACKENDS")
        .as_deref()
        .unwrap_or("sqlite")
        .split(',')
        .map(|word| {
            let backend = word.trim().parse();
            backend.unwrap_or_else(|_| unreachable!("TEST_BACKENDS names `{word}`"))
        })
        .collect()
}

/// An empty database of its own, gone when this is dropped.
#[derive(Debug)]
pub struct TestDatabase {
    backend: Backend,
    url: String,
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
                Self {
                    backend,
                    url: with(&admin_url, |url| url.set_path(&name)),
                    home: Home::Server { admin_url, name },
                }
            }
        }
    }

    /// With its tables.
    pub async fn migrated(backend: Backend) -> Self {
        let database = Self::create(backend);
        database
            .store()
            .migrate()
            .await
            .expect("the migrations run");
        database
    }

    pub fn backend(&self) -> Backend {
        self.backend
    }

    pub fn url(&self) -> Secret {
        Secret::new(self.url.clone())
    }

    /// A store of its own pool each time.
    pub fn store(&self) -> Store {
        open(&self.url())
    }

    /// A way to this database that can be cut, for all but `SQLite`.
    pub fn gate(&self) -> Gate {
        Gate::before(&self.url)
    }

    /// Runs SQL of the test's own: the first column of each row, or for `SQLite` the one named `line`.
    ///
    /// # Errors
    /// What the database says.
    pub fn lines(&self, query: &str) -> Result<Vec<String>, String> {
        sql::lines(self.backend, &self.url, query)
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
        }
    }
}

/// A store with limits that a test has the patience for.
pub fn open(url: &Secret) -> Store {
    Store::open(url, &StoreOptions::default()).expect("a database URL that can be used")
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
        None => Server::start(backend),
    })
}

/// Other test processes may use the same server or directory.
fn unique_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let random = u32::from_be_bytes(crate::random::bytes());
    format!(
        "pipekeeper_test_{}_{count}_{random:08x}",
        std::process::id()
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
