//! token-refresher as a run starts it: the same library, on a disk and a clock that the run can turn, and with the rule broken
//! that a sabotage is about.

mod clock;
mod disk;

use std::path::PathBuf;
use std::sync::Arc;

use actix_web::web::{self, Data};
use pipekeeper_core::clock::SystemClock;
use pipekeeper_core::config::Loader;
use pipekeeper_core::vault::Vault;
use pipekeeper_refresh::Rules;
use pipekeeper_service::{Context, Loaded, NoCommand, Service};
use serde::Deserialize;
use token_refresher::{Parts, TokenRefresher};
use utoipa_actix_web::service_config::ServiceConfig;

use self::clock::OffsetClock;
use self::disk::PowerCutDisk;
use super::sabotage::{DiskMode, Sabotage};

pub(super) use self::disk::{Note, Noted};

/// The service; what it is made of beside the product's configuration is in `[chaos]`.
#[derive(Debug)]
pub struct ChaosRefresher(Data<TokenRefresher>);

#[derive(Debug, Clone)]
pub struct Config {
    refresher: <TokenRefresher as Service>::Config,
    chaos: Option<Chaos>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Chaos {
    /// Holds by how many milliseconds the wall clock is wrong.
    clock_file: PathBuf,
    /// While it exists the journal's disk is full.
    full_file: PathBuf,
    /// Where each sync is noted.
    sync_log: PathBuf,
    /// [`Sabotage`], or nothing.
    sabotage: String,
}

impl Service for ChaosRefresher {
    const NAME: &'static str = TokenRefresher::NAME;
    const ABOUT: &'static str = "The token-refresher of scripts/chaos";
    const DEFAULTS: &'static str = concat!(
        include_str!("../../../token-refresher/config.default.toml"),
        "\n[chaos]\nclock_file = \"\"\nfull_file = \"\"\nsync_log = \"\"\nsabotage = \"\"\n",
    );
    const ALIASES: &'static [(&'static str, &'static str)] = TokenRefresher::ALIASES;

    type Config = Config;
    type Command = NoCommand;

    fn configure(loader: &mut Loader) -> Config {
        Config {
            refresher: TokenRefresher::configure(loader),
            chaos: loader.section("chaos"),
        }
    }

    fn build(config: Config, context: Context) -> anyhow::Result<Self> {
        let chaos = config.chaos.expect("the section is read, or a problem");
        let sabotage = match chaos.sabotage.as_str() {
            "" => None,
            name => Some(Sabotage::named(name)?),
        };
        let context = Context {
            clock: OffsetClock::shared(context.clock, chaos.clock_file),
            ..context
        };
        let disk = PowerCutDisk::new(
            sabotage.map_or(DiskMode::Reliable, Sabotage::disk_mode),
            chaos.full_file,
            &chaos.sync_log,
            SystemClock::shared(),
        )?;
        let parts = Parts {
            disk: Arc::new(disk),
            rules: sabotage.map_or_else(Rules::default, Sabotage::rules),
        };
        let service = TokenRefresher::build_with(config.refresher, &context, parts)?;
        Ok(Self(Data::new(service)))
    }

    fn vault(&self) -> &Vault {
        self.0.vault()
    }

    fn degraded(&self) -> Vec<String> {
        self.0.degraded()
    }

    fn worker_data(&self, routes: &mut web::ServiceConfig) {
        routes.app_data(Data::clone(&self.0));
    }

    async fn command(command: NoCommand, _: Loaded<Self>) -> anyhow::Result<String> {
        match command {}
    }

    fn routes(routes: &mut ServiceConfig<'_>) {
        TokenRefresher::routes(routes);
    }
}
