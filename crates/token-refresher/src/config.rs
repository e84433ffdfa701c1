//! `[refresh]`, `[journal]`, `[sweep]`, `[old_table]` and `[webhook]`, checked: timings that must hold do hold before anything starts.

use std::path::PathBuf;
use std::time::Duration;

use pipekeeper_core::config::Loader;
use pipekeeper_core::http_client::Limits;
use pipekeeper_core::provider::{AppUse, Apps};
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Store, TableName};
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
    pub(crate) journal: JournalSection,
    pub(crate) old_table: OldTable,
}

/// `[journal]`.
#[derive(Debug, Clone)]
pub(crate) struct JournalSection {
    pub(crate) directory: PathBuf,
    pub(crate) kept: Duration,
}

/// Between the end of the last call that a lease allows and the end of the lease: what was answered gets into the journal,
/// where the next holder of the lease searches for it.
pub(crate) const LEASE_MARGIN: Duration = Duration::from_secs(2);

/// The times that the protocol keeps.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    pub(crate) call_timeout: Duration,
    pub(crate) lease: Duration,
    pub(crate) orphan_grace: Duration,
    pub(crate) minted_recently: Duration,
    pub(crate) default_deadline: Duration,
    pub(crate) max_concurrent_calls: usize,
    pub(crate) log_kept: Duration,
    pub(crate) sweep_every: Duration,
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
            journal: JournalSection::load(loader),
            old_table: OldTable::load(loader),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawJournal {
    directory: PathBuf,
    keep_hours: u16,
}

impl JournalSection {
    fn load(loader: &mut Loader) -> Self {
        let raw = loader
            .section::<RawJournal>("journal")
            .unwrap_or(RawJournal {
                directory: PathBuf::new(),
                keep_hours: 1,
            });
        if raw.directory.as_os_str().is_empty() {
            loader.problem("journal.directory", "is not set");
        }
        if raw.keep_hours == 0 {
            loader.problem("journal.keep_hours", "is 0");
        }
        Self {
            directory: raw.directory,
            kept: Duration::from_hours(raw.keep_hours.into()),
        }
    }
}

/// `[old_table]`: where n8n's workflows keep their tokens.
#[derive(Debug, Clone)]
pub(crate) struct OldTable {
    /// Empty where there is none.
    pub(crate) url: Secret,
    /// `None` beside a problem alone.
    pub(crate) table: Option<TableName>,
    pub(crate) mirror: bool,
    pub(crate) api_domain: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOldTable {
    url: Secret,
    url_file: String,
    table: String,
    mirror: bool,
    api_domain: String,
}

impl OldTable {
    fn load(loader: &mut Loader) -> Self {
        let Some(raw) = loader.section::<RawOldTable>("old_table") else {
            return Self {
                url: Secret::default(),
                table: None,
                mirror: false,
                api_domain: String::new(),
            };
        };
        let url = loader.secret("old_table.url", raw.url, &raw.url_file);
        if url.is_empty() {
            if raw.mirror {
                loader.problem(
                    "old_table.mirror",
                    "is on, and old_table.url does not say where the table is",
                );
            }
        } else if let Err(error) = Store::check_url(&url) {
            loader.problem("old_table.url", &error.to_string());
        }
        let table = raw.table.parse::<TableName>();
        if let Err(error) = &table {
            loader.problem("old_table.table", &error.to_string());
        }
        Self {
            url,
            table: table.ok(),
            mirror: raw.mirror,
            api_domain: raw.api_domain,
        }
    }
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
    fn load(loader: &mut Loader) -> Self {
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

    pub(crate) fn call_limits(&self) -> Limits {
        Limits {
            connect: self.call_timeout.min(Duration::from_secs(3)),
            total: self.call_timeout,
        }
    }
}

#[cfg(test)]
mod tests {
    use pipekeeper_core::config::{Loader, Sources};

    use super::{OldTable, Timing};

    /// The keys that are complained of.
    fn problems(set: &[(&str, &str)]) -> Vec<String> {
        let variable = |(key, value): &(&str, &str)| {
            let name = key.to_uppercase().replace('.', "__");
            (format!("PIPEKEEPER__{name}"), (*value).to_owned())
        };
        let mut loader = Loader::new(&Sources {
            defaults: include_str!("../config.default.toml"),
            file: None,
            env: set.iter().map(variable).collect(),
        })
        .unwrap();
        Timing::load(&mut loader);
        OldTable::load(&mut loader);
        let told = loader.finish().err().map(|told| told.to_string());
        told.unwrap_or_default()
            .lines()
            .filter_map(|line| Some(line.trim().split_once(": ")?.0.to_owned()))
            .filter(|key| key.contains('.') && !key.starts_with("database"))
            .collect()
    }

    #[test]
    fn the_shipped_timings_hold() {
        assert_eq!(problems(&[]), [""; 0]);
    }

    #[test]
    fn timings_that_do_not_hold_are_named() {
        for (set, key) in [
            (
                [("refresh.lease_secs", "22")].as_slice(),
                "refresh.lease_secs",
            ),
            (&[("refresh.timeout_secs", "14")], "refresh.lease_secs"),
            (
                &[("http.shutdown_grace_secs", "11")],
                "http.shutdown_grace_secs",
            ),
            (
                &[("refresh.default_deadline_secs", "61")],
                "refresh.default_deadline_secs",
            ),
            (&[("refresh.timeout_secs", "0")], "refresh.timeout_secs"),
            (
                &[("refresh.max_concurrent_calls", "0")],
                "refresh.max_concurrent_calls",
            ),
            (&[("refresh.log_days", "0")], "refresh.log_days"),
            (&[("sweep.every_secs", "0")], "sweep.every_secs"),
            (&[("old_table.mirror", "true")], "old_table.mirror"),
            (&[("old_table.table", "a b")], "old_table.table"),
            (&[("old_table.url", "oracle://h/db")], "old_table.url"),
        ] {
            assert_eq!(problems(set), [key], "{set:?}");
        }
        for holds in [
            [("refresh.lease_secs", "23")].as_slice(),
            &[("refresh.timeout_secs", "13")],
            &[("http.shutdown_grace_secs", "12")],
        ] {
            assert_eq!(problems(holds), [""; 0], "{holds:?}");
        }
    }
}
