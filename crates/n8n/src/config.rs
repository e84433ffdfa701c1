//! `[old_table]`, checked.

use anyhow::Context as _;
use pipekeeper_core::config::Loader;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{AppTok, Store, TableName};
use serde::Deserialize;

/// `[old_table]`: where n8n's workflows keep their tokens.
#[derive(Debug, Clone)]
pub struct OldTable {
    /// Empty where there is none.
    pub url: Secret,
    /// `None` beside a problem alone.
    pub table: Option<TableName>,
    pub mirror: bool,
    pub api_domain: String,
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
    /// Reads `[old_table]`; every fault is noted in the loader.
    pub fn load(loader: &mut Loader) -> Self {
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

    /// # Errors
    /// No table is configured.
    pub fn open(&self) -> anyhow::Result<AppTok> {
        let table = self
            .table
            .clone()
            .filter(|_| !self.url.is_empty())
            .context("old_table.url (or old_table.url_file) does not say where the table is")?;
        AppTok::open(&self.url, table).context("can't open the old table's database")
    }
}
