#![doc = include_str!("../README.md")]

mod config;
mod figures;
mod journal;
mod recheck;
mod refresh;
mod routes;
mod spend;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pipekeeper_core::clock::SharedClock;
use pipekeeper_core::config::Loader;
use pipekeeper_core::http_client;
use pipekeeper_service::caller::WebhookSection;
use pipekeeper_service::{Context, Loaded, Service};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::config::Config;
use crate::journal::Journal;
use crate::refresh::Refresher;

/// How often old lines of `refresh_log` and of the journal are cleared away.
const TRIM_EVERY: Duration = Duration::from_hours(1);

/// How often answers of processes that are gone are looked for.
const REPLAY_EVERY: Duration = Duration::from_secs(5);

/// How often the gauges are set.
const REPORT_EVERY: Duration = Duration::from_mins(1);

/// What it does on the command line, beside serving.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Have connections refreshed that the provider refused: perhaps it was our mistake
    Recheck {
        /// The app's key in the configuration; all of them by default
        #[arg(long)]
        app: Option<String>,
    },
}

/// Has the door do some of its own work now and then.
fn every<W, E>(
    context: &Context,
    period: Duration,
    door: &Arc<Refresher>,
    work: impl Fn(Arc<Refresher>) -> W + Send + 'static,
) where
    W: Future<Output = Result<(), E>> + Send,
    E: Into<anyhow::Error> + Send,
{
    let door = Arc::clone(door);
    context.every(period, move |_| work(Arc::clone(&door)));
}

/// The service: its door, and who may knock.
#[derive(Debug)]
pub struct TokenRefresher {
    door: Arc<Refresher>,
    webhook: WebhookSection,
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
        let client = http_client::build(config.timing.call_limits())?;
        let vault = config.vault.context("no encryption.keys")?;
        let journal = Journal::open(
            &config.journal.directory,
            config.journal.kept,
            vault.clone(),
            SharedClock::clone(&context.clock),
        )?;
        let log_kept = config.timing.log_kept;
        let door = Arc::new(Refresher::new(
            context.clone(),
            vault,
            config.apps,
            client,
            journal,
            config.timing,
        ));
        context.every(TRIM_EVERY, move |context| async move {
            let before = context.clock.now().saturating_sub(log_kept);
            context.store.refresh_log_trim(before).await.map(drop)
        });
        every(&context, TRIM_EVERY, &door, |door| async move {
            door.journal().compact().await
        });
        every(&context, REPLAY_EVERY, &door, |door| async move {
            door.replay_once().await.map(drop)
        });
        every(&context, REPORT_EVERY, &door, |door| async move {
            door.report().await
        });
        every(
            &context,
            config.timing.sweep_every,
            &door,
            |door| async move {
                door.recheck_after_changes().await?;
                door.sweep_once().await.map(drop)
            },
        );
        Ok(Self {
            door,
            webhook: config.webhook,
        })
    }

    fn degraded(&self) -> Vec<String> {
        self.door.troubles()
    }

    async fn command(command: Command, config: Loaded<Self>) -> anyhow::Result<String> {
        match command {
            Command::Recheck { app } => recheck::recheck(app.as_deref(), config).await,
        }
    }

    fn routes(routes: &mut ServiceConfig<'_>) {
        routes.service(routes::refresh);
    }
}
