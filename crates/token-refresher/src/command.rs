//! How a process opens the refresher: with its own journal slot, the vault, the apps and the HTTP client. Services and commands
//! open it alike; any number of processes may.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pipekeeper_core::clock::{SharedClock, SystemClock};
use pipekeeper_core::http_client;
use pipekeeper_core::provider::{App, Apps};
use pipekeeper_service::tasks::Tasks;
use pipekeeper_service::{Context, Loaded};

use crate::config::Config;
use crate::journal::Journal;
use crate::refresh::Refresher;
use crate::{Parts, TokenRefresher};

/// Takes a slot in the journal's directory; spawns nothing.
pub(crate) fn open(
    config: &Config,
    context: &Context,
    parts: Parts,
) -> anyhow::Result<Arc<Refresher>> {
    let client = http_client::build(config.timing.call_limits())?;
    let vault = config.vault.clone().context("no encryption.keys")?;
    let journal = Journal::open(
        parts.disk,
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
        parts.rules,
    )))
}

/// How long a command that refreshes many connections waits for each.
pub(crate) const REFRESH_TIMEOUT: Duration = Duration::from_secs(45);

/// The app of an operator's `--app KEY`.
pub(crate) fn app_named<'a>(apps: &'a Apps, key: &str) -> anyhow::Result<&'a Arc<App>> {
    apps.named(key)
        .with_context(|| format!("no app `{key}` is configured"))
}

/// The refresher of a command: without sweep and webhook. `close` waits for what is under way.
#[derive(Debug)]
pub(crate) struct CommandRefresher {
    refresher: Arc<Refresher>,
    tasks: Tasks,
    grace: Duration,
}

impl CommandRefresher {
    pub(crate) async fn open(config: &Loaded<TokenRefresher>) -> anyhow::Result<Self> {
        let store = config.open_current_store().await?;
        let tasks = Tasks::here();
        let context = Context {
            store,
            clock: SystemClock::shared(),
            tasks: tasks.clone(),
        };
        Ok(Self {
            refresher: open(&config.own, &context, Parts::default())?,
            tasks,
            grace: config.common.http.shutdown_grace,
        })
    }

    /// Waits for the refreshes that are under way, and for their lines in `refresh_log`.
    pub(crate) async fn close(self) {
        self.tasks.drain(self.grace).await;
    }
}

impl Deref for CommandRefresher {
    type Target = Arc<Refresher>;

    fn deref(&self) -> &Self::Target {
        &self.refresher
    }
}
