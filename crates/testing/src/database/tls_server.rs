//! A server that speaks TLS, with certificates that a test has made.

use std::thread;
use std::time::Duration;

use super::server::{Extras, Server};
use super::sql;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::Backend;

/// PEM texts: two certificates for one key, of which the first is in use.
#[derive(Debug)]
pub struct TlsFiles {
    pub certificate: String,
    pub other_certificate: String,
    pub key: String,
}

/// Gone when this is dropped.
#[derive(Debug)]
pub struct TlsServer {
    backend: Backend,
    server: Server,
}

/// The key has to belong to the server's user, which depends on the image.
const POSTGRES_SETUP: &str = r#"
for name in server.crt other.crt server.key; do
    cp "/tls/$name" "$PGDATA/$name"
    chmod 600 "$PGDATA/$name"
    [ "$(id -u)" != 0 ] || chown postgres "$PGDATA/$name"
done
echo "ssl = on" >>"$PGDATA/postgresql.conf"
"#;

impl TlsServer {
    pub fn start(backend: Backend, tls: TlsFiles) -> Self {
        let mut extras = Extras {
            files: vec![
                ("/tls/server.crt", tls.certificate),
                ("/tls/other.crt", tls.other_certificate),
                ("/tls/server.key", tls.key),
            ],
            arguments: Vec::new(),
        };
        if backend == Backend::Postgres {
            let setup = (
                "/docker-entrypoint-initdb.d/tls.sh",
                POSTGRES_SETUP.to_owned(),
            );
            extras.files.push(setup);
        } else {
            extras.arguments = vec!["--ssl-cert=/tls/server.crt", "--ssl-key=/tls/server.key"];
        }
        Self {
            backend,
            server: Server::start(backend, &extras),
        }
    }

    /// As an administrator; nothing is said of TLS.
    pub fn url(&self) -> Secret {
        Secret::new(self.server.admin_url.clone())
    }

    /// Has Postgres take the other certificate.
    pub fn change_certificate(&self) {
        self.run("ALTER SYSTEM SET ssl_cert_file = 'other.crt'");
        self.run("SELECT pg_reload_conf()");
        // A new connection is of the server as it is then.
        while self.run("SHOW ssl_cert_file") != ["other.crt"] {
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Turns away who comes without TLS, from now on.
    pub fn only_tls(&self) {
        if self.backend != Backend::Postgres {
            self.run("SET GLOBAL require_secure_transport = ON");
            return;
        }
        let rule = "COPY (SELECT 'hostssl all all all scram-sha-256') TO PROGRAM";
        self.run(&format!("{rule} 'cat >\"$PGDATA/pg_hba.conf\"'"));
        self.run("SELECT pg_reload_conf()");
        while self.lines("SELECT 1").is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn run(&self, statement: &str) -> Vec<String> {
        self.lines(statement).expect("an administrator")
    }

    /// Runs SQL of the test's own, without TLS: the first column of each row.
    ///
    /// # Errors
    /// What the database says.
    pub fn lines(&self, query: &str) -> Result<Vec<String>, String> {
        sql::lines(self.backend, &self.server.admin_url, query)
    }
}
