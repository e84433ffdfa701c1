//! `[journal]` and `[webhook]`, checked; [`Timing`] and [`OldTable`] check their own sections.

use std::path::PathBuf;
use std::time::Duration;

use pipekeeper_core::config::Loader;
use pipekeeper_core::provider::{AppUse, Apps};
use pipekeeper_core::vault::Vault;
use pipekeeper_n8n::OldTable;
use pipekeeper_refresh::Timing;
use pipekeeper_service::auth::WebhookSection;
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
