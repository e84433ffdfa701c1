#![doc = include_str!("../README.md")]

mod config;
pub mod refresh;
mod routes;
mod spend;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pipekeeper_core::config::Loader;
use pipekeeper_core::http_client;
use pipekeeper_service::caller::WebhookSection;
use pipekeeper_service::{Context, Service};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::config::Config;
use crate::refresh::Refresher;

/// How often old lines of `refresh_log` are cleared away.
const TRIM_EVERY: Duration = Duration::from_hours(1);

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

    fn configure(loader: &mut Loader) -> Config {
        Config::load(loader)
    }

    fn build(config: Config, context: Context) -> anyhow::Result<Self> {
        let log_kept = config.timing.log_kept;
        context.every(TRIM_EVERY, move |context| async move {
            let before = context.clock.now().saturating_sub(log_kept);
            context.store.refresh_log_trim(before).await.map(drop)
        });
        let client = http_client::build(config.timing.call_limits())?;
        let vault = config.vault.context("no encryption.keys")?;
        Ok(Self {
            door: Arc::new(Refresher::new(
                context,
                vault,
                config.apps,
                client,
                config.timing,
            )),
            webhook: config.webhook,
        })
    }

    fn routes(routes: &mut ServiceConfig<'_>) {
        routes.service(routes::refresh);
    }
}
