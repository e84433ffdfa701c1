//! The door as a process opens it: a slot of its own among the journals, the vault, the apps, the client. The service's and
//! a command's are the same one: any number of processes may have it open.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use pipekeeper_core::clock::{SharedClock, SystemClock};
use pipekeeper_core::http_client;
use pipekeeper_core::store::{Backend, Schema, Store};
use pipekeeper_service::tasks::Tasks;
use pipekeeper_service::{Context, Loaded};

use crate::TokenRefresher;
use crate::config::Config;
use crate::journal::Journal;
use crate::refresh::Refresher;

/// Takes a slot in the journal's directory; spawns nothing.
pub(crate) fn open(config: &Config, context: &Context) -> anyhow::Result<Arc<Refresher>> {
    let client = http_client::build(config.timing.call_limits())?;
    let vault = config.vault.clone().context("no encryption.keys")?;
    let journal = Journal::open(
        &config.journal.directory,
        config.journal.kept,
        vault.clone(),
        SharedClock::clone(&context.clock),
    )?;
    Ok(Arc::new(Refresher::new(
        context.clone(),
        vault,
        config.apps.clone(),
        client,
        journal,
        config.timing,
    )))
}

/// The database that a command reads or writes.
///
/// # Errors
/// Also a schema that is not this binary's: a command writes into no other.
pub(crate) async fn open_store(config: &Loaded<TokenRefresher>) -> anyhow::Result<Store> {
    let store = config.open_store()?;
    if store.backend() == Backend::Sqlite {
        store.migrate().await?;
    }
    match store.schema_status().await? {
        Schema::Current => {}
        Schema::Behind { missing } => {
            bail!("the schema lacks {}: run `migrate`", missing.join(", "))
        }
        Schema::Newer { unknown } => bail!(
            "the database has migrations that this binary does not know ({}): run a newer one",
            unknown.join(", ")
        ),
    }
    Ok(store)
}

/// The door of a command: no sweep, no webhook, and an end that waits for what is under way.
#[derive(Debug)]
pub(crate) struct Door {
    refresher: Arc<Refresher>,
    tasks: Tasks,
    grace: Duration,
}

impl Door {
    pub(crate) async fn open(config: &Loaded<TokenRefresher>) -> anyhow::Result<Self> {
        let store = open_store(config).await?;
        let tasks = Tasks::here();
        let context = Context {
            store,
            clock: SystemClock::shared(),
            tasks: tasks.clone(),
        };
        Ok(Self {
            refresher: open(&config.own, &context)?,
            tasks,
            grace: config.common.http.shutdown_grace,
        })
    }

    /// Waits for the refreshes that are under way, and for their lines in `refresh_log`.
    pub(crate) async fn close(self) {
        self.tasks.drain(self.grace).await;
    }
}

impl Deref for Door {
    type Target = Arc<Refresher>;

    fn deref(&self) -> &Self::Target {
        &self.refresher
    }
}
