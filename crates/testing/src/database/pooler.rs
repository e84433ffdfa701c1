//! `PgBouncer` in transaction mode before the test server, as a stand-in for any transaction pooler.

use std::collections::BTreeMap;

use testcontainers::core::{Host, IntoContainerPort as _, WaitFor};
use testcontainers::{GenericImage, ImageExt as _};

use super::server::{Extras, Reaper, start};
use super::sql::{self, on_own_runtime};
use super::{TestDatabase, shared_server, with};
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::Backend;

/// As Supabase's poolers have it: a user with a project's name in it.
const USER: &str = "postgres.abcdefgh";

/// A pooler with two connections to the server per database and user. Gone when this is dropped.
#[derive(Debug)]
pub struct Pooler {
    url: String,
    _reaper: Reaper,
}

impl Pooler {
    pub const USER: &str = USER;

    /// `max_prepared_statements`: 0 passes no named statement on; `None` is `PgBouncer`'s own default.
    pub fn start(max_prepared_statements: Option<u16>) -> Self {
        let server = shared_server(Backend::Postgres);
        // Its tests make databases by the server's own administrator, and tables in them by this one.
        let make_user = format!(
            "DO $$ BEGIN CREATE ROLE \"{USER}\" SUPERUSER LOGIN PASSWORD 'pooled'; \
             EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        );
        sql::lines(Backend::Postgres, &server.admin_url, &make_user).expect("an administrator");
        let mut settings = BTreeMap::from([
            ("DB_HOST", server.inner_host.clone()),
            ("DB_PORT", server.inner_port.to_string()),
            ("DB_USER", USER.to_owned()),
            ("DB_PASSWORD", "pooled".to_owned()),
            ("AUTH_TYPE", "scram-sha-256".to_owned()),
            ("POOL_MODE", "transaction".to_owned()),
            ("DEFAULT_POOL_SIZE", "2".to_owned()),
        ]);
        if let Some(count) = max_prepared_statements {
            settings.insert("MAX_PREPARED_STATEMENTS", count.to_string());
        }
        let started = on_own_runtime(async || {
            let image = GenericImage::new("edoburu/pgbouncer", "v1.24.1-p1")
                .with_exposed_port(5432.tcp())
                .with_wait_for(WaitFor::message_on_stderr("process up"));
            let request = settings.iter().fold(
                image.with_host("host.docker.internal", Host::HostGateway),
                |request, (name, value)| request.with_env_var(*name, value),
            );
            start(request, &Extras::default(), 5432).await
        });
        let started =
            started.expect("TEST_BACKENDS names Postgres, so a container engine starts it");
        Self {
            url: format!(
                "postgres://{USER}:pooled@{}/postgres",
                started.host_and_port
            ),
            _reaper: started.reaper,
        }
    }

    /// Where processes find it that a test starts of itself.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// That database by way of this pooler.
    pub fn url_of(&self, database: &TestDatabase) -> Secret {
        Secret::new(by_way_of(&self.url, database.url().expose()))
    }
}

/// The same database by way of that pooler.
pub(super) fn by_way_of(pooler: &str, url: &str) -> String {
    let database = url::Url::parse(url).expect("a URL").path().to_owned();
    with(pooler, |url| url.set_path(&database))
}
