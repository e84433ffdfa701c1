#![doc = include_str!("../README.md")]

mod config;
mod connect;
mod consent;
mod limits;
mod login;
mod page;
mod routes;
mod uninstall;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use pipekeeper_core::config::Loader;
use pipekeeper_core::http_client::{self, Limits};
use pipekeeper_core::provider::Apps;
use pipekeeper_core::refresher_client::RefresherClient;
use pipekeeper_core::vault::Vault;
use pipekeeper_service::{Context, Loaded, NoCommand, Service};
use utoipa_actix_web::service_config::ServiceConfig;

use crate::config::Config;
use crate::limits::InstallLimits;

/// Logins that have expired, and callbacks whose tokens are not stored, are kept so long: longer than a login or a code is
/// good.
const KEPT: Duration = Duration::from_mins(15);

/// Callbacks whose tokens are stored are kept so long: a browser that restores its tabs calls the callback again.
const EXCHANGED_KEPT: Duration = Duration::from_hours(30 * 24);

/// How often they are cleared away.
const PRUNE_EVERY: Duration = Duration::from_mins(1);

/// The service: its apps, and what it needs to bring a grant in.
#[derive(Debug)]
pub struct AuthCapture {
    context: Context,
    apps: Apps,
    vault: Vault,
    login: config::Login,
    client: reqwest::Client,
    refresher: RefresherClient,
    installs: InstallLimits,
}

impl Service for AuthCapture {
    const NAME: &'static str = "auth-capture";
    const ABOUT: &'static str =
        "Sends a user to the provider, receives the code, stores the tokens sealed";
    const DEFAULTS: &'static str = include_str!("../config.default.toml");
    const ALIASES: &'static [(&'static str, &'static str)] = &[
        (
            "/webhook/aae545fb-a69d-4e20-91ce-65f105d0ea2f",
            "/webhook/pipedrive/callback",
        ),
        ("/auth/callback", "/webhook/pipedrive/callback"),
    ];

    type Config = Config;
    type Command = NoCommand;

    fn configure(loader: &mut Loader) -> Config {
        Config::load(loader)
    }

    fn build(config: Config, context: Context) -> anyhow::Result<Self> {
        let limits = Limits {
            connect: Duration::from_secs(3),
            total: Duration::from_secs(15),
        };
        context.every(PRUNE_EVERY, |context| async move {
            let now = context.clock.now();
            let (before, exchanged) =
                (now.saturating_sub(KEPT), now.saturating_sub(EXCHANGED_KEPT));
            context.store.logins_prune(before).await?;
            context
                .store
                .callbacks_prune(before, exchanged)
                .await
                .map(drop)
        });
        Ok(Self {
            apps: config.apps,
            vault: config.vault.context("no encryption.keys")?,
            client: http_client::build(limits)?,
            refresher: config.refresher.client()?,
            installs: InstallLimits::new(
                config.login.marketplace_concurrency,
                config.login.installs_per_minute,
                config.login.trusted_proxies.clone(),
                Arc::clone(&context.clock),
            ),
            login: config.login,
            context,
        })
    }

    fn vault(&self) -> &Vault {
        &self.vault
    }

    async fn command(command: NoCommand, _config: Loaded<Self>) -> anyhow::Result<String> {
        match command {}
    }

    fn routes(routes: &mut ServiceConfig<'_>) {
        // Browsers, sent by the provider.
        routes
            .service(routes::callback)
            .service(routes::app_callback);
        // Pipedrive itself.
        routes
            .service(routes::uninstalled)
            .service(routes::app_uninstalled);
        // Browsers, sent by us.
        routes.service(routes::start_login);
    }
}
