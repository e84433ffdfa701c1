//! The database URL: which database, and everything its driver does not read from one.

use std::io;
use std::path::{Path, PathBuf};

use mysql_async::{Opts, OptsBuilder};
use url::Url;

use super::postgres::tls;
use crate::secret::Secret;

/// Where the rows live, checked but not connected to.
pub(super) enum Target {
    Postgres(Box<tls::Settings>),
    Mysql(Box<Opts>),
    Sqlite(PathBuf),
}

/// Why a database URL can't be used. Says nothing of what it holds: a password with an unescaped `/`, `?` or `#` ends
/// up in any part of it.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    #[error("it begins with none of postgres:, postgresql:, mysql:, mariadb:, sqlite:")]
    UnknownScheme,
    #[error("it does not read as a URL (special characters of a password must be percent-encoded)")]
    Malformed,
    #[error("it has a parameter that is not known here, or a value that makes no sense")]
    Parameter,
    #[error("it names no file, or has parameters, which sqlite: does not take")]
    SqliteFile,
    #[error(
        "verify_identity=false does not work: name the host that the certificate is for with ssl_host=NAME, or check \
         nothing with verify_ca=false"
    )]
    Identity,
    #[error("the root certificates that it names can't be used")]
    RootCertificates {
        #[source]
        source: io::Error,
    },
}

impl Target {
    pub(super) fn parse(url: &Secret) -> Result<Self, UrlError> {
        let (scheme, rest) = url
            .expose()
            .split_once(':')
            .ok_or(UrlError::UnknownScheme)?;
        match scheme {
            "postgres" | "postgresql" => tls::Settings::parse(url.expose())
                .map(Box::new)
                .map(Self::Postgres),
            "mysql" | "mariadb" => mysql(rest).map(Box::new).map(Self::Mysql),
            "sqlite" => sqlite(rest).map(Self::Sqlite),
            _ => Err(UrlError::UnknownScheme),
        }
    }
}

fn sqlite(rest: &str) -> Result<PathBuf, UrlError> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    // A pool of in-memory databases would be several databases.
    if path.is_empty() || path.contains(['?', '#']) || path.contains(":memory:") {
        return Err(UrlError::SqliteFile);
    }
    Ok(Path::new(path).to_owned())
}

fn mysql(rest: &str) -> Result<Opts, UrlError> {
    let (url, taken) = without_parameters(&format!("mysql:{rest}"), &["ssl_ca", "ssl_host"])?;
    let opts =
        Opts::from_url(url.as_str()).map_err(|_may_hold_the_password| UrlError::Parameter)?;
    let mut ssl = opts.ssl_opts().cloned();
    for (name, value) in taken {
        let asked = ssl.unwrap_or_default();
        ssl = Some(match name.as_str() {
            "ssl_ca" => {
                let pem =
                    std::fs::read(value).map_err(|source| UrlError::RootCertificates { source })?;
                asked
                    .with_root_certs(vec![pem.into()])
                    .with_disable_built_in_roots(true)
            }
            _ => asked.with_danger_tls_hostname_override(Some(value)),
        });
    }
    // The driver takes the word and goes on to compare the name.
    if ssl
        .as_ref()
        .is_some_and(|ssl| ssl.skip_domain_validation() && !ssl.accept_invalid_certs())
    {
        return Err(UrlError::Identity);
    }
    // The driver would look up a name with brackets.
    let host = opts.ip_or_hostname();
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    Ok(Opts::from(
        OptsBuilder::from_opts(opts)
            .ip_or_hostname(host)
            .ssl_opts(ssl)
            // By default the driver moves to the server's own socket path when the server is on loopback: with a
            // container or a tunnel that path names another server, or none.
            .prefer_socket(false)
            .tcp_keepalive(Some(30_000_u32))
            // diesel-async has a cache of its own, and takes rows matched for rows affected.
            .stmt_cache_size(0)
            .client_found_rows(true),
    ))
}

/// The URL without the named parameters, and these.
pub(super) fn without_parameters(
    url: &str,
    names: &[&str],
) -> Result<(Url, Vec<(String, String)>), UrlError> {
    let mut url = Url::parse(url).map_err(|_says_nothing_more| UrlError::Malformed)?;
    let (taken, kept): (Vec<_>, Vec<_>) = url
        .query_pairs()
        .into_owned()
        .partition(|(name, _)| names.contains(&name.as_str()));
    if kept.is_empty() {
        url.set_query(None);
    } else {
        url.query_pairs_mut().clear().extend_pairs(kept);
    }
    Ok((url, taken))
}
