//! A `MySQL` or `MariaDB` server whose defaults are not those of its image.

use super::server::{Extras, Server};
use super::{sql, with};
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::Backend;

/// Each of these is some administrator's choice.
const DEFAULTS: [&str; 6] = [
    "SET GLOBAL autocommit = 0",
    "SET GLOBAL init_connect = 'SET autocommit = 0'",
    "SET GLOBAL sql_mode = 'ANSI,PAD_CHAR_TO_FULL_LENGTH,EMPTY_STRING_IS_NULL'",
    "SET GLOBAL sql_select_limit = 1",
    "SET GLOBAL foreign_key_checks = 0",
    "SET GLOBAL TRANSACTION READ ONLY",
];

/// For statements of a test's own.
const USUAL: &str = "SET SESSION TRANSACTION READ WRITE; SET SESSION autocommit = 1, sql_mode = ''";

/// Gone when this is dropped.
#[derive(Debug)]
pub struct OddDefaults(Server);

impl OddDefaults {
    pub fn start() -> Self {
        let server = Self(Server::start(Backend::Mysql, &Extras::default()));
        for default in DEFAULTS {
            server.run(default);
        }
        server
    }

    /// An empty database, for the administrator.
    pub fn database(&self, name: &str) -> Secret {
        self.run(&format!("CREATE DATABASE {name}"));
        Secret::new(with(&self.0.admin_url, |url| url.set_path(name)))
    }

    /// An empty database, for a user who may do everything in it, and who is no administrator.
    pub fn database_of(&self, user: &str, name: &str) -> Secret {
        let database = self.database(name);
        self.run(&format!("CREATE USER {user} IDENTIFIED BY 'secret'"));
        self.run(&format!("GRANT ALL ON {name}.* TO {user}"));
        Secret::new(with(database.expose(), |url| {
            url.set_username(user).expect("a URL that has a host");
            url.set_password(Some("secret"))
                .expect("a URL that has a host");
        }))
    }

    /// Runs a statement as the administrator.
    pub fn run(&self, statement: &str) {
        Self::run_at(&Secret::new(self.0.admin_url.clone()), statement);
    }

    pub fn run_at(url: &Secret, statement: &str) {
        let statement = format!("{USUAL}; {statement}");
        sql::lines(Backend::Mysql, url.expose(), &statement).expect("the server takes it");
    }
}
