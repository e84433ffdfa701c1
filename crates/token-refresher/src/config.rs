//! `[refresh]` and `[webhook]`, checked: timings that must hold do hold before anything starts.

use std::time::Duration;

use pipekeeper_core::config::Loader;
use pipekeeper_core::http_client::Limits;
use pipekeeper_core::provider::{AppUse, Apps};
use pipekeeper_core::vault::Vault;
use pipekeeper_service::caller::WebhookSection;
use pipekeeper_service::config::vault;
use serde::Deserialize;

/// What token-refresher is told.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) apps: Apps,
    pub(crate) vault: Option<Vault>,
    pub(crate) webhook: WebhookSection,
    pub(crate) timing: Timing,
}

/// The times that the protocol keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) call: Duration,
    pub(crate) lease: Duration,
    pub(crate) orphan_grace: Duration,
    pub(crate) minted_recently: Duration,
    pub(crate) default_deadline: Duration,
    pub(crate) max_concurrent_calls: usize,
    pub(crate) log_kept: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRefresh {
    timeout_secs: u16,
    lease_secs: u16,
    orphan_grace_secs: u16,
    minted_recently_secs: u16,
    default_deadline_secs: u16,
    max_concurrent_calls: u16,
    log_days: u16,
}

impl Config {
    pub(crate) fn load(loader: &mut Loader) -> Self {
        Self {
            apps: Apps::load(loader, AppUse::Refresh),
            vault: vault(loader),
            webhook: WebhookSection::load(loader),
            timing: Timing::load(loader),
        }
    }
}

impl Timing {
    fn load(loader: &mut Loader) -> Self {
        let raw = loader
            .section::<RawRefresh>("refresh")
            .unwrap_or(RawRefresh {
                timeout_secs: 1,
                lease_secs: 3,
                orphan_grace_secs: 0,
                minted_recently_secs: 0,
                default_deadline_secs: 1,
                max_concurrent_calls: 1,
                log_days: 1,
            });
        if raw.timeout_secs == 0 {
            loader.problem("refresh.timeout_secs", "is 0");
        }
        if raw.max_concurrent_calls == 0 {
            loader.problem("refresh.max_concurrent_calls", "is 0");
        }
        // A lease that ends before its holder's calls do would let a second process spend the same token.
        if raw.lease_secs <= raw.timeout_secs.saturating_mul(2) {
            loader.problem(
                "refresh.lease_secs",
                "is not more than twice refresh.timeout_secs: a flight makes two calls at most",
            );
        }
        let secs = |secs: u16| Duration::from_secs(secs.into());
        Self {
            call: secs(raw.timeout_secs),
            lease: secs(raw.lease_secs),
            orphan_grace: secs(raw.orphan_grace_secs),
            minted_recently: secs(raw.minted_recently_secs),
            default_deadline: secs(raw.default_deadline_secs),
            max_concurrent_calls: raw.max_concurrent_calls.into(),
            log_kept: Duration::from_hours(24 * u64::from(raw.log_days)),
        }
    }

    pub(crate) fn call_limits(&self) -> Limits {
        Limits {
            connect: self.call.min(Duration::from_secs(3)),
            total: self.call,
        }
    }
}
