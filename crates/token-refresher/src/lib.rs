#![doc = include_str!("../README.md")]

mod commands;
mod config;
mod gauges;
mod routes;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pipekeeper_core::clock::SharedClock;
use pipekeeper_core::config::Loader;
use pipekeeper_core::http_client;
use pipekeeper_core::vault::Vault;
use pipekeeper_n8n::mirror::Mirror;
use pipekeeper_refresh::{Dependencies, Disk, Journal, MachineDisk, Refresher, Rules};
use pipekeeper_service::auth::WebhookSection;
use pipekeeper_service::{Context, Loaded, Service};
use utoipa_actix_web::service_config::ServiceConfig;

pub use crate::commands::Command;

use crate::config::Config;

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
    let dependencies = Dependencies {
        store: context.store.clone(),
        clock: SharedClock::clone(&context.clock),
        tasks: context.tasks.clone(),
        vault,
        apps: config.apps.clone(),
        client,
        journal,
    };
    Ok(Arc::new(Refresher::new(
        dependencies,
        config.timing,
        parts.rules,
    )))
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
        let refresher = open(&config, context, parts)?;
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
            gauges::report(&refresher).await
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
        let mut degraded_reasons = self.refresher.degraded_reasons();
        degraded_reasons.extend(
            self.mirror
                .iter()
                .flat_map(|mirror| mirror.degraded_reasons()),
        );
        degraded_reasons
    }

    async fn command(command: Command, config: Loaded<Self>) -> anyhow::Result<String> {
        command.run(config).await
    }

    fn routes(routes: &mut ServiceConfig<'_>) {
        routes.service(routes::refresh);
    }
}
