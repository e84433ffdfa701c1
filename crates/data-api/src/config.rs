//! What data-api is told: whom it answers, whom it asks, how long it waits.

use std::time::Duration;

use pipekeeper_core::config::Loader;
use pipekeeper_core::http_client::Limits;
use pipekeeper_core::provider::{AppUse, Apps};
use pipekeeper_core::vault::Vault;
use pipekeeper_service::auth::WebhookSection;
use pipekeeper_service::config::vault;
use pipekeeper_service::refresher::RefresherSection;
use serde::Deserialize;

/// A valid configuration; what is optional here was a problem for the loader.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) apps: Apps,
    pub(crate) vault: Option<Vault>,
    pub(crate) webhook: WebhookSection,
    pub(crate) refresher: RefresherSection,
    pub(crate) upstream: UpstreamSection,
    pub(crate) cached_connections: u64,
}

/// `[upstream]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpstreamSection {
    pub(crate) timeout: Duration,
    pub(crate) max_wait: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUpstream {
    timeout_secs: u16,
    max_wait_secs: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCache {
    max_connections: u32,
}

impl Config {
    pub(crate) fn load(loader: &mut Loader) -> Self {
        Self {
            apps: Apps::load(loader, AppUse::Read),
            vault: vault(loader),
            webhook: WebhookSection::load(loader),
            refresher: RefresherSection::load(loader),
            upstream: UpstreamSection::load(loader),
            cached_connections: cached_connections(loader),
        }
    }
}

/// `[cache]`.
fn cached_connections(loader: &mut Loader) -> u64 {
    let max = loader
        .section::<RawCache>("cache")
        .map_or(1, |cache| cache.max_connections);
    if max == 0 {
        loader.problem("cache.max_connections", "is 0");
    }
    max.into()
}

impl UpstreamSection {
    fn load(loader: &mut Loader) -> Self {
        let raw = loader
            .section::<RawUpstream>("upstream")
            .unwrap_or(RawUpstream {
                timeout_secs: 1,
                max_wait_secs: 0,
            });
        if raw.timeout_secs == 0 {
            loader.problem("upstream.timeout_secs", "is 0");
        }
        Self {
            timeout: Duration::from_secs(raw.timeout_secs.into()),
            max_wait: Duration::from_secs(raw.max_wait_secs.into()),
        }
    }

    pub(crate) fn call_limits(self) -> Limits {
        Limits {
            // A first packet that gets lost is sent again after one, three and seven seconds.
            connect: self.timeout.min(Duration::from_secs(10)),
            total: self.timeout,
        }
    }
}
