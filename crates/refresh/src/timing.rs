//! `[refresh]` and `[sweep]`: timings that must hold do hold before anything starts.

use std::time::Duration;

use pipekeeper_core::config::Loader;
use pipekeeper_core::http_client::Limits;
use serde::Deserialize;

/// Between the end of the last call that a lease allows and the end of the lease: what was answered gets into the journal,
/// where the next holder of the lease searches for it.
pub(crate) const LEASE_MARGIN: Duration = Duration::from_secs(2);

/// The times that the protocol keeps.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    pub call_timeout: Duration,
    pub lease: Duration,
    pub orphan_grace: Duration,
    pub minted_recently: Duration,
    pub default_deadline: Duration,
    pub max_concurrent_calls: usize,
    pub log_kept: Duration,
    pub sweep_every: Duration,
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

/// What `[http]` says beside what every service reads of it.
#[derive(Debug, Deserialize)]
struct RawGrace {
    shutdown_grace_secs: u16,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSweep {
    every_secs: u16,
}

/// `[sweep]`.
fn sweep_every(loader: &mut Loader) -> Duration {
    let every = loader
        .section::<RawSweep>("sweep")
        .map_or(1, |sweep| sweep.every_secs);
    if every == 0 {
        loader.problem("sweep.every_secs", "is 0");
    }
    Duration::from_secs(every.into())
}

impl Timing {
    /// Reads `[refresh]` and `[sweep]`; every fault is noted in the loader.
    pub fn load(loader: &mut Loader) -> Self {
        let raw = loader
            .section::<RawRefresh>("refresh")
            .unwrap_or(RawRefresh {
                timeout_secs: 1,
                lease_secs: 5,
                orphan_grace_secs: 0,
                minted_recently_secs: 0,
                default_deadline_secs: 1,
                max_concurrent_calls: 1,
                log_days: 1,
            });
        let secs = |secs: u16| Duration::from_secs(secs.into());
        if raw.timeout_secs == 0 {
            loader.problem("refresh.timeout_secs", "is 0");
        }
        if raw.log_days == 0 {
            loader.problem("refresh.log_days", "is 0");
        }
        // A stopping process ends the calls that it has begun.
        let grace = loader.section::<RawGrace>("http");
        if grace.is_some_and(|http| {
            secs(http.shutdown_grace_secs) < secs(raw.timeout_secs) + LEASE_MARGIN
        }) {
            loader.problem(
                "http.shutdown_grace_secs",
                "is less than refresh.timeout_secs and two seconds: a stopping process would cut off the calls it has begun",
            );
        }
        if raw.max_concurrent_calls == 0 {
            loader.problem("refresh.max_concurrent_calls", "is 0");
        }
        // A lease that ends before its holder's calls do would let a second process spend the same token.
        if secs(raw.lease_secs) <= secs(raw.timeout_secs) * 2 + LEASE_MARGIN {
            loader.problem(
                "refresh.lease_secs",
                "is not more than twice refresh.timeout_secs and two seconds: an unanswered call is made once more",
            );
        }
        if raw.default_deadline_secs > 60 {
            loader.problem(
                "refresh.default_deadline_secs",
                "is more than 60: no caller is kept longer",
            );
        }
        Self {
            call_timeout: secs(raw.timeout_secs),
            lease: secs(raw.lease_secs),
            orphan_grace: secs(raw.orphan_grace_secs),
            minted_recently: secs(raw.minted_recently_secs),
            default_deadline: secs(raw.default_deadline_secs),
            max_concurrent_calls: raw.max_concurrent_calls.into(),
            log_kept: Duration::from_hours(24 * u64::from(raw.log_days)),
            sweep_every: sweep_every(loader),
        }
    }

    pub fn call_limits(&self) -> Limits {
        Limits {
            connect: self.call_timeout.min(Duration::from_secs(3)),
            total: self.call_timeout,
        }
    }
}
