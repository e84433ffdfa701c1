//! libpq's `sslmode` and `sslrootcert`, which tokio-postgres does not read, on rustls.

use std::io;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::verifier::{Lenient, NameCheck};
use crate::store::url_parameters::{UrlError, refused_parameter, without_parameters};

/// A Postgres URL, read: where to connect, and how much TLS it takes.
pub(in crate::store) struct Settings {
    config: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Disable,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// What people paste from Prisma's or Supabase's pages; our statements need none of it.
const IGNORED: [&str; 4] = ["pgbouncer", "supa", "connection_limit", "pool_timeout"];

impl Settings {
    pub(in crate::store) fn parse(url: &str) -> Result<Self, UrlError> {
        let taken_names = [&IGNORED[..], &["sslmode", "sslrootcert"]].concat();
        let (url, taken) = without_parameters(url, &taken_names)?;
        let mut mode = Mode::Prefer;
        let mut roots = None;
        for (name, value) in &taken {
            match (name.as_str(), value.as_str()) {
                ("sslmode", word) => mode = Mode::parse(word)?,
                // libpq's word for the public authorities.
                ("sslrootcert", "system") => {}
                ("sslrootcert", path) => roots = Some(path),
                _ => {}
            }
        }
        let read = |url: &str| url.parse::<tokio_postgres::Config>();
        let mut config = read(url.as_str())
            .map_err(|_may_hold_the_password| refused_parameter(&url, |url| read(url).is_ok()))?;
        config
            .ssl_mode(match mode {
                Mode::Disable => SslMode::Disable,
                Mode::Prefer => SslMode::Prefer,
                Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
            })
            // A server that vanished without a word is noticed in half a minute rather than in two hours.
            .keepalives_idle(std::time::Duration::from_secs(30));
        let tls = match mode {
            Mode::Disable => None,
            mode => Some(MakeRustlsConnect::new(
                client_config(mode, roots)
                    .map_err(|source| UrlError::RootCertificates { source })?,
            )),
        };
        Ok(Self { config, tls })
    }

    /// Where it is to be found, as far as that is a matter of names and addresses.
    pub(in crate::store) fn hosts(&self) -> Vec<(&str, u16)> {
        let first = self.config.get_ports().first().copied().unwrap_or(5432);
        let hosts = self.config.get_hosts().iter().enumerate();
        hosts
            .filter_map(|(at, host)| match host {
                Host::Tcp(name) => {
                    let port = self.config.get_ports().get(at).copied();
                    Some((name.as_str(), port.unwrap_or(first)))
                }
                Host::Unix(_) => None,
            })
            .collect()
    }

    /// A connection whose other half runs as a task until the client is dropped.
    pub(super) async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        // On the heap: a future that holds a TLS handshake is too large to be moved about on a thread's stack.
        let Some(tls) = &self.tls else {
            let (client, connection) = Box::pin(self.config.connect(NoTls)).await?;
            drive(connection);
            return Ok(client);
        };
        let (client, connection) = Box::pin(self.config.connect(tls.clone())).await?;
        drive(connection);
        Ok(client)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "lives as long as its client, which shutdown drops with the pool"
)]
fn drive<F>(connection: F)
where
    F: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    tokio::spawn(async move {
        // The next use of the client gets its error.
        let _ended = connection.await;
    });
}

impl Mode {
    fn parse(word: &str) -> Result<Self, UrlError> {
        match word {
            "disable" => Ok(Self::Disable),
            "allow" | "prefer" => Ok(Self::Prefer),
            "require" => Ok(Self::Require),
            "verify-ca" => Ok(Self::VerifyCa),
            "verify-full" => Ok(Self::VerifyFull),
            _ => Err(UrlError::Parameter("sslmode".to_owned())),
        }
    }
}

fn client_config(mode: Mode, roots_path: Option<&str>) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    let mut pinned = Vec::new();
    match roots_path {
        Some(path) => {
            for certificate in CertificateDer::pem_file_iter(path).map_err(io::Error::other)? {
                let certificate = certificate.map_err(io::Error::other)?;
                roots.add(certificate.clone()).map_err(io::Error::other)?;
                pinned.push(certificate);
            }
        }
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
    }
    let authenticate = |names| -> io::Result<_> {
        let inner =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
                .build()
                .map_err(io::Error::other)?;
        Ok(Lenient::chain(Arc::clone(&provider), inner, pinned, names))
    };
    let verifier = match mode {
        Mode::VerifyFull => authenticate(NameCheck::Strict)?,
        Mode::VerifyCa => authenticate(NameCheck::Skip)?,
        // libpq: `require` with a root file means `verify-ca`.
        Mode::Require if roots_path.is_some() => authenticate(NameCheck::Skip)?,
        Mode::Disable | Mode::Prefer | Mode::Require => Lenient::nothing(Arc::clone(&provider)),
    };
    Ok(builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sslmode_of_libpq_is_understood() {
        for (query, mode, tls) in [
            ("", SslMode::Prefer, true),
            ("?sslmode=disable", SslMode::Disable, false),
            ("?sslmode=allow", SslMode::Prefer, true),
            ("?sslmode=require", SslMode::Require, true),
            ("?sslmode=verify-ca", SslMode::Require, true),
            (
                "?sslmode=verify-full&sslrootcert=system",
                SslMode::Require,
                true,
            ),
            (
                "?pgbouncer=true&connection_limit=1&pool_timeout=10",
                SslMode::Prefer,
                true,
            ),
        ] {
            let read = Settings::parse(&format!("postgres://u:p%40%2F@h:6543/d{query}")).unwrap();
            assert_eq!(read.config.get_ssl_mode(), mode, "{query}");
            assert_eq!(read.tls.is_some(), tls, "{query}");
            assert_eq!(read.config.get_password(), Some(b"p@/".as_slice()));
            assert_eq!(read.config.get_ports(), [6543]);
        }
    }

    /// As the project's page gives them: direct, by way of the session pooler, by way of the transaction pooler.
    #[test]
    fn supabases_three_ways_are_read_as_they_are_given() {
        for (url, user, host, port) in [
            (
                "postgresql://postgres:p@db.abcdefgh.supabase.co:5432/postgres",
                "postgres",
                "db.abcdefgh.supabase.co",
                5432,
            ),
            (
                "postgresql://postgres.abcdefgh:p@aws-0-eu-central-1.pooler.supabase.com:5432/postgres?sslmode=require",
                "postgres.abcdefgh",
                "aws-0-eu-central-1.pooler.supabase.com",
                5432,
            ),
            (
                "postgresql://postgres.abcdefgh:p@aws-0-eu-central-1.pooler.supabase.com:6543/postgres?pgbouncer=true",
                "postgres.abcdefgh",
                "aws-0-eu-central-1.pooler.supabase.com",
                6543,
            ),
        ] {
            let read = Settings::parse(url).unwrap();
            assert_eq!(read.config.get_user(), Some(user));
            assert_eq!(read.config.get_dbname(), Some("postgres"));
            assert_eq!(read.hosts(), [(host, port)]);
        }
    }

    #[test]
    fn a_misspelt_mode_or_missing_file_is_refused() {
        let parse = |query| {
            Settings::parse(&format!("postgres://u@h/d?{query}"))
                .err()
                .unwrap()
        };
        assert!(matches!(parse("sslmode=verify"), UrlError::Parameter(name) if name == "sslmode"));
        assert!(matches!(
            parse("sslmode=verify-full&sslrootcert=/nowhere/ca.pem"),
            UrlError::RootCertificates { .. }
        ));
    }
}
