#![doc = include_str!("../README.md")]

mod columns;
mod command;
mod config;
mod connections;
mod figures;
mod hand_back;
mod import;
mod journal;
mod mirror;
mod old_row;
mod recheck;
mod refresh;
mod routes;
mod rules;
mod spend;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use pipekeeper_core::config::Loader;
use pipekeeper_core::vault::Vault;
use pipekeeper_service::caller::WebhookSection;
use pipekeeper_service::{Context, Loaded, Service};
use utoipa_actix_web::service_config::ServiceConfig;

pub use crate::journal::{Disk, MachineDisk, SegmentFile};
pub use crate::rules::{Rule, Rules};

use crate::config::Config;
use crate::mirror::Mirror;
use crate::refresh::Refresher;

/// How often old lines of `refresh_log` and of the journal are cleared away.
const TRIM_EVERY: Duration = Duration::from_hours(1);

/// How often answers of processes that are gone are looked for.
const REPLAY_EVERY: Duration = Duration::from_secs(5);

/// How often the database is asked whether it is the same one.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// How often the gauges are set.
const REPORT_EVERY: Duration = Duration::from_mins(1);

/// How often the old table is looked at, while it is a mirror.
const MIRROR_EVERY: Duration = Duration::from_secs(1);

/// What it does on the command line, beside serving.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Have connections refreshed that the provider refused: perhaps it was our mistake
    Recheck {
        /// The app's key in the configuration; all of them by default
        #[arg(long)]
        app: Option<String>,
    },
    /// Look at single connections, refresh or disconnect them
    #[command(subcommand)]
    Connections(connections::Connections),
    /// Take over the grants of n8n's table, of its CSV or JSON export, or of the CRM integration's documents
    Import(import::Arguments),
    /// Give the grants that came from n8n's table back to it, and spend them no more
    HandBack(hand_back::Arguments),
}

/// Runs a task of the refresher periodically.
fn every<W, E>(
    context: &Context,
    period: Duration,
    refresher: &Arc<Refresher>,
    work: impl Fn(Arc<Refresher>) -> W + Send + 'static,
) where
    W: Future<Output = Result<(), E>> + Send,
    E: Into<anyhow::Error> + Send,
{
    let refresher = Arc::clone(refresher);
    context.every(period, move |_| work(Arc::clone(&refresher)));
}

/// The service: its refresher, and the credentials of its callers.
#[derive(Debug)]
pub struct TokenRefresher {
    refresher: Arc<Refresher>,
    webhook: WebhookSection,
    mirror: Option<Arc<Mirror>>,
}

/// What the service is made of beside its configuration and its context: by default the machine's disk and every rule.
#[derive(Debug, Clone)]
pub struct Parts {
    pub disk: Arc<dyn Disk>,
    pub rules: Rules,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            disk: Arc::new(MachineDisk),
            rules: Rules::default(),
        }
    }
}

impl TokenRefresher {
    /// [`Service::build`], with other parts than the product's.
    pub fn build_with(config: Config, context: &Context, parts: Parts) -> anyhow::Result<Self> {
        let refresher = command::open(&config, context, parts)?;
        let log_kept = config.timing.log_kept;
        context.every(TRIM_EVERY, move |context| async move {
            let before = context.clock.now().saturating_sub(log_kept);
            context.store.refresh_log_trim(before).await.map(drop)
        });
        every(context, TRIM_EVERY, &refresher, |refresher| async move {
            refresher.journal().compact().await
        });
        every(context, REPLAY_EVERY, &refresher, |refresher| async move {
            refresher.replay_once().await.map(drop)
        });
        every(
            context,
            HEARTBEAT_EVERY,
            &refresher,
            |refresher| async move { refresher.keep_continuity().await.map(drop) },
        );
        every(context, REPORT_EVERY, &refresher, |refresher| async move {
            refresher.report().await
        });
        every(
            context,
            config.timing.sweep_every,
            &refresher,
            |refresher| async move {
                refresher.recheck_after_changes().await?;
                refresher.sweep_once().await.map(drop)
            },
        );
        let mirror = Mirror::of(&config.old_table, &refresher)?;
        if let Some(mirror) = &mirror {
            let mirror = Arc::clone(mirror);
            context.every(MIRROR_EVERY, move |_| {
                let mirror = Arc::clone(&mirror);
                async move { mirror.sync_once().await }
            });
        }
        Ok(Self {
            refresher,
            webhook: config.webhook,
            mirror,
        })
    }
}

impl Service for TokenRefresher {
    const NAME: &'static str = "token-refresher";
    const ABOUT: &'static str = "The only spender of refresh tokens";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");
    const ALIASES: &'static [(&'static str, &'static str)] = &[(
        "/webhook/937a8843-a28a-400a-b473-bdc598366fa0",
        "/webhook/pipedrive/refresh",
    )];

    type Config = Config;
    type Command = Command;

    fn configure(loader: &mut Loader) -> Config {
        Config::load(loader)
    }

    fn build(config: Config, context: Context) -> anyhow::Result<Self> {
        Self::build_with(config, &context, Parts::default())
    }

    fn vault(&self) -> &Vault {
        self.refresher.vault()
    }

    fn degraded(&self) -> Vec<String> {
        let mut troubles = self.refresher.troubles();
        troubles.extend(self.mirror.iter().flat_map(|mirror| mirror.troubles()));
        troubles
    }

    async fn command(command: Command, config: Loaded<Self>) -> anyhow::Result<String> {
        // On the heap, and without their types: nested as deep as they are, these are too much for the compiler in one piece.
        let work: LocalBoxFuture<'static, anyhow::Result<String>> = match command {
            Command::Recheck { app } => {
                async move { recheck::recheck(app.as_deref(), config).await }.boxed_local()
            }
            Command::Connections(connections) => {
                async move { connections.run(config).await }.boxed_local()
            }
            Command::Import(arguments) => import::import(arguments, config).boxed_local(),
            Command::HandBack(arguments) => hand_back::hand_back(arguments, config).boxed_local(),
        };
        work.await
    }

    fn routes(routes: &mut ServiceConfig<'_>) {
        routes.service(routes::refresh);
    }
}
