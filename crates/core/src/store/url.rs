//! The database URL: which database, and everything its driver does not read from one.

use std::path::{Path, PathBuf};

use mysql_async::{Opts, OptsBuilder};
use url::form_urlencoded;

use super::postgres::tls;
use super::url_parameters::{UrlError, is_name, refused_parameter, without_parameters};
use crate::secret::Secret;

/// Where the rows live, checked but not connected to.
pub(super) enum Target {
    Postgres(Box<tls::Settings>),
    Mysql(Box<Opts>),
    Sqlite(PathBuf),
}

/// Set on every `MySQL` and `MariaDB` connection when it is made: what a server's defaults and its `init_connect` say of
/// these is not relied on. With autocommit off every write would be lost; without a strict mode a value that is too long
/// would be cut; the other modes change what our SQL means; and errors are told apart by their English texts, because
/// diesel keeps no numbers.
const MYSQL_SESSION: [&str; 2] = [
    "SET SESSION autocommit = 1, sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', lc_messages = 'en_US', \
     foreign_key_checks = 1, sql_select_limit = 18446744073709551615",
    "SET SESSION TRANSACTION READ WRITE",
];

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
    if let Some((_, query)) = path.split_once('?') {
        let first = form_urlencoded::parse(query.as_bytes()).next();
        let name = first.map(|(name, _)| name.into_owned()).unwrap_or_default();
        if is_name(&name) {
            return Err(UrlError::NoParameters(name));
        }
    }
    // A pool of in-memory databases would be several databases.
    if path.is_empty() || path.contains(['?', '#']) || path.contains(":memory:") {
        return Err(UrlError::SqliteFile);
    }
    Ok(Path::new(path).to_owned())
}

fn mysql(rest: &str) -> Result<Opts, UrlError> {
    let (url, taken) = without_parameters(&format!("mysql:{rest}"), &["ssl_ca", "ssl_host"])?;
    let opts = Opts::from_url(url.as_str()).map_err(|_may_hold_the_password| {
        refused_parameter(&url, |url| Opts::from_url(url).is_ok())
    })?;
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
            .setup(MYSQL_SESSION.to_vec())
            // diesel-async has a cache of its own, and takes rows matched for rows affected.
            .stmt_cache_size(0)
            .client_found_rows(true),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        let Err(error) = Target::parse(&Secret::from(url)) else {
            unreachable!("{url} is refused");
        };
        error.to_string()
    }

    #[test]
    fn a_parameter_that_is_refused_is_named() {
        for (url, name) in [
            ("postgres://u:p@h/d?schema=public", "schema"),
            ("postgres://u:p@h/d?sslmode=require&ssl=true", "ssl"),
            ("postgres://u:p@h/d?sslmode=no-verify", "sslmode"),
            ("postgres://u:p@h/d?sslcrt=x", "sslcrt"),
            (
                "postgres://u:p@h/d?connect_timeout=soon&port=1",
                "connect_timeout",
            ),
            ("postgres://u:p@h/d?%73chema=public", "schema"),
            ("mysql://u:p@h/d?sslmode=require", "sslmode"),
            ("mysql://u:p@h/d?require_ssl=maybe", "require_ssl"),
            ("mariadb://u:p@h/d?require_ssl=true&charset=utf8", "charset"),
        ] {
            let says = format!("its parameter `{name}` is unknown, or has an invalid value");
            assert_eq!(refused(url), says, "{url}");
        }
        for (url, name) in [
            ("sqlite:pipekeeper.db?mode=ro", "mode"),
            ("sqlite:///data/pipekeeper.db?cache=shared&mode=rw", "cache"),
        ] {
            let says = format!("sqlite: takes no parameters, and it has `{name}`");
            assert_eq!(refused(url), says, "{url}");
        }
        let several = refused("postgres://u:p@a:5432,b:5432/d");
        assert!(several.contains("several hosts"), "{several}");
        let unsaid = refused("postgres://u:p@h/d?a%20name%20like%20no%20other=1");
        assert!(unsaid.contains("does not read as a URL"), "{unsaid}");
    }

    #[test]
    fn what_stays_of_a_query_arrives_as_it_was_written() {
        for (query, kept) in [
            (
                "options=-c%20search_path%3Dtools",
                "options=-c%20search_path%3Dtools",
            ),
            ("application_name=my+app", "application_name=my%2Bapp"),
            (
                "application_name=my%20app&sslmode=require",
                "application_name=my%20app",
            ),
            ("sslmode=require", ""),
            ("host=%2Frun%2Fpostgresql", "host=%2Frun%2Fpostgresql"),
            (
                "application_name=%C3%A4%26b%3D",
                "application_name=%C3%A4%26b%3D",
            ),
        ] {
            let text = format!("postgres://u:p@h/d?{query}");
            let (url, _) = without_parameters(&text, &["sslmode"]).unwrap();
            assert_eq!(url.query().unwrap_or_default(), kept, "{query}");
        }
        let (_, taken) =
            without_parameters("postgres://u@h/d?sslrootcert=%2Fa+b.pem", &["sslrootcert"])
                .unwrap();
        assert_eq!(taken, [("sslrootcert".to_owned(), "/a+b.pem".to_owned())]);
    }
}
