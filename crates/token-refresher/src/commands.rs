//! What the binary does beside serving. Commands run next to the services: they open the refresher as a service does, with a
//! journal slot of their own.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use pipekeeper_core::clock::SystemClock;
use pipekeeper_core::tasks::Tasks;
use pipekeeper_n8n::import::{self, Import};
use pipekeeper_n8n::rollback::{self, Rollback};
use pipekeeper_refresh::Refresher;
use pipekeeper_service::{Context, Loaded};

use crate::{Parts, TokenRefresher, open};

mod connections;
mod recheck;

/// What the binary does beside serving.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Retry connections that the provider refused, for example after fixing the client secret
    Recheck {
        /// The app's key in the configuration; all of them by default
        #[arg(long)]
        app: Option<String>,
    },
    /// List, show, refresh or disconnect connections
    #[command(subcommand)]
    Connections(connections::Connections),
    /// Import grants from n8n's table, from its CSV or JSON export, or from the CRM integration's documents
    Import(import::Arguments),
    /// Return imported grants to n8n's table and stop refreshing them
    #[command(name = "rollback-to-n8n", alias = "hand-back")]
    Rollback(rollback::Arguments),
}

impl Command {
    pub(crate) async fn run(self, config: Loaded<TokenRefresher>) -> anyhow::Result<String> {
        // On the heap, and without their types: nested as deep as they are, these are too much for the compiler in one piece.
        let work: LocalBoxFuture<'static, anyhow::Result<String>> = match self {
            Self::Recheck { app } => {
                async move { recheck::recheck(app.as_deref(), config).await }.boxed_local()
            }
            Self::Connections(connections) => {
                async move { connections.run(config).await }.boxed_local()
            }
            Self::Import(arguments) => import(arguments, config).boxed_local(),
            Self::Rollback(arguments) => rollback(arguments, config).boxed_local(),
        };
        work.await
    }
}

async fn import(
    arguments: import::Arguments,
    config: Loaded<TokenRefresher>,
) -> anyhow::Result<String> {
    let old_table = &config.own.old_table;
    let import = Import::prepare(arguments, old_table, &config.own.apps).await?;
    let refresher = CommandRefresher::open(&config).await?;
    let report = import.run(old_table, &refresher).await;
    refresher.close().await;
    report
}

async fn rollback(
    arguments: rollback::Arguments,
    config: Loaded<TokenRefresher>,
) -> anyhow::Result<String> {
    let rollback = Rollback::prepare(&arguments, &config.own.old_table, &config.own.apps)?;
    let refresher = CommandRefresher::open(&config).await?;
    let report = rollback.run(&refresher).await;
    refresher.close().await;
    report
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
