//! The sections that services share: `[database]`, `[http]`, `[cors]`, `[telemetry]`, `[encryption]`.

use std::net::SocketAddr;
use std::time::Duration;

use pipekeeper_core::config::Loader;
use pipekeeper_core::crypto::Keyring;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::Store;
use pipekeeper_core::vault::Vault;
use serde::Deserialize;
use url::Url;

use crate::telemetry::Telemetry;

/// What every service is told.
#[derive(Debug, Clone)]
pub struct Common {
    pub database: Database,
    pub http: Http,
    pub telemetry: Telemetry,
}

/// `[database]`.
#[derive(Debug, Clone)]
pub struct Database {
    pub url: Secret,
    pub max_connections: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDatabase {
    url: Secret,
    url_file: String,
    max_connections: u16,
}

/// `[http]`.
#[derive(Debug, Clone)]
pub struct Http {
    pub listen: SocketAddr,
    pub metrics_listen: SocketAddr,
    pub workers: usize,
    pub allowed_origins: Vec<String>,
    pub shutdown_grace: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHttp {
    listen: String,
    metrics_listen: String,
    workers: u16,
    shutdown_grace_secs: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCors {
    allowed_origins: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEncryption {
    keys: Secret,
    keys_file: String,
}

impl Common {
    /// Every problem goes to the loader; what is returned then is not used.
    pub fn load(loader: &mut Loader) -> Self {
        let database = Database::load(loader);
        Self {
            database,
            http: Http::load(loader),
            telemetry: Telemetry::load(loader),
        }
    }
}

impl Database {
    fn load(loader: &mut Loader) -> Self {
        let Some(raw) = loader.section::<RawDatabase>("database") else {
            return Self {
                url: Secret::default(),
                max_connections: 1,
            };
        };
        // The default is there to be replaced: a file that is named wins over it.
        let in_place = if raw.url_file.is_empty() {
            raw.url
        } else {
            Secret::default()
        };
        let url = loader.secret("database.url", in_place, &raw.url_file);
        if let Err(error) = Store::check_url(&url) {
            loader.problem("database.url", &error.to_string());
        }
        if raw.max_connections == 0 {
            loader.problem("database.max_connections", "is 0");
        }
        Self {
            url,
            max_connections: raw.max_connections.into(),
        }
    }
}

impl Http {
    fn load(loader: &mut Loader) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        // Text rather than an array: an environment variable can hold it.
        let allowed_origins = loader
            .section::<RawCors>("cors")
            .map_or_else(Vec::new, |cors| {
                cors.allowed_origins
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect()
            });
        for origin in &allowed_origins {
            let is_origin = Url::parse(origin)
                .is_ok_and(|url| url.has_host() && url.origin().ascii_serialization() == *origin);
            if !is_origin {
                loader.problem(
                    "cors.allowed_origins",
                    &format!("`{origin}` is no origin such as https://app.example.com"),
                );
            }
        }
        let Some(raw) = loader.section::<RawHttp>("http") else {
            return Self {
                listen: nowhere,
                metrics_listen: nowhere,
                workers: 1,
                allowed_origins,
                shutdown_grace: Duration::ZERO,
            };
        };
        let mut address = |name: &str, text: &str| {
            text.parse().unwrap_or_else(|_| {
                loader.problem(name, "is not an address and port such as 127.0.0.1:8080");
                nowhere
            })
        };
        Self {
            listen: address("http.listen", &raw.listen),
            metrics_listen: address("http.metrics_listen", &raw.metrics_listen),
            workers: raw.workers.into(),
            allowed_origins,
            shutdown_grace: Duration::from_secs(raw.shutdown_grace_secs.into()),
        }
    }
}

/// `[encryption]`: there is no start without a key.
pub fn vault(loader: &mut Loader) -> Option<Vault> {
    let raw = loader.section::<RawEncryption>("encryption")?;
    let keys = loader.secret("encryption.keys", raw.keys, &raw.keys_file);
    Keyring::parse(&keys)
        .map(Vault::new)
        .map_err(|error| loader.problem("encryption.keys", &error.to_string()))
        .ok()
}
