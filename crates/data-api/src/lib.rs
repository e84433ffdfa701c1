#![doc = include_str!("../README.md")]

mod config;
mod routes;
mod tokens;
mod upstream;

use std::sync::Arc;

use actix_web::web::{self, Data};
use anyhow::Context as _;
use pipekeeper_core::clock::SharedClock;
use pipekeeper_core::config::Loader;
use pipekeeper_core::http_client;
use pipekeeper_core::vault::Vault;
use pipekeeper_service::{Context, Loaded, NoCommand, Service};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::config::Config;
use crate::tokens::Tokens;
use crate::upstream::Upstream;

/// The service: its tokens, and what it may do with them.
#[derive(Debug)]
pub struct DataApi {
    config: Config,
    tokens: Arc<Tokens>,
    context: Context,
    client: reqwest::Client,
}

impl Service for DataApi {
    const NAME: &'static str = "data-api";
    const ABOUT: &'static str = "Answers requests for Pipedrive data with the stored token";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");
    const ALIASES: &'static [(&'static str, &'static str)] = &[(
        "/webhook/47704458-bfa6-4d95-adf1-97fc78e35d8a",
        "/webhook/pipedrive/person",
    )];

    type Config = Config;
    type Command = NoCommand;

    fn configure(loader: &mut Loader) -> Config {
        Config::load(loader)
    }

    fn build(config: Config, context: Context) -> anyhow::Result<Self> {
        let refresher = config.refresher.client()?;
        let vault = config.vault.clone().context("no encryption.keys")?;
        let tokens = Tokens::new(&config, context.clone(), vault, refresher);
        let client = http_client::build(config.upstream.call_limits())?;
        Ok(Self {
            config,
            tokens: Arc::new(tokens),
            context,
            client,
        })
    }

    fn vault(&self) -> &Vault {
        self.tokens.vault()
    }

    async fn command(command: NoCommand, _config: Loaded<Self>) -> anyhow::Result<String> {
        match command {}
    }

    fn routes(routes: &mut ServiceConfig<'_>) {
        routes.service(routes::person);
    }

    fn worker_data(&self, worker: &mut web::ServiceConfig) {
        // A client per worker: its connections then live on the thread that uses them.
        let client = http_client::build(self.config.upstream.call_limits())
            .unwrap_or_else(|_no_tls| self.client.clone());
        worker.app_data(Data::new(Upstream::new(
            client,
            Arc::clone(&self.tokens),
            SharedClock::clone(&self.context.clock),
            self.config.upstream.max_wait,
        )));
    }
}
