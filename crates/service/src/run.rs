//! A process's life: command line, configuration, signals, exit code.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use pipekeeper_core::config::Sources;
use pipekeeper_core::http_client::{self, Limits};
use pipekeeper_core::store::Schema;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::health::SchemaTooNew;
use crate::server::{Loaded, Server, Service, openapi};

/// `EX_USAGE` of sysexits.h: the configuration can't be used.
const EXIT_CONFIG: u8 = 64;

#[derive(Debug, Parser)]
struct Cli<C: Subcommand> {
    /// A TOML file over the built-in defaults; the environment goes over both [env: PIPEKEEPER_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command<C>>,
}

#[derive(Debug, Clone, Subcommand)]
enum Command<C: Subcommand> {
    /// Serve until told to stop (the default)
    Serve,
    /// Bring the database's schema up to date
    Migrate,
    /// Ask the running service whether it is ready; exit code 0 if so
    Healthcheck,
    /// Print the OpenAPI document
    Openapi,
    /// Print the effective configuration, secrets redacted
    Config,
    #[command(flatten)]
    Own(C),
}

/// The `main` of a service.
pub fn main<S: Service>() -> ExitCode {
    let command = Cli::<S::Command>::command().name(S::NAME).about(S::ABOUT);
    let cli = Cli::<S::Command>::from_arg_matches(&command.get_matches())
        .expect("clap checked the matches");
    let command = cli.command.unwrap_or(Command::Serve);
    if matches!(command, Command::Openapi) {
        return print(&serde_json::to_string_pretty(&openapi::<S>()).unwrap_or_default());
    }
    let config = match Loaded::<S>::from(&Sources::of_process(S::DEFAULTS, cli.config)) {
        Ok(config) => config,
        Err(problems) => return fail(EXIT_CONFIG, &problems.to_string()),
    };
    let outcome = match command {
        Command::Config => return print(config.effective.trim_end()),
        Command::Openapi => unreachable!("answered above, without a configuration"),
        Command::Serve => block_on(serve(config)),
        Command::Migrate => block_on(migrate(config)),
        Command::Healthcheck => block_on(healthcheck(config)),
        Command::Own(command) => block_on(own(command, config)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(1, &format!("{error:#}")),
    }
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    // HTTP workers have threads of their own; two are enough for what happens beside them.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("can't start the runtime")?
        .block_on(work)
}

async fn serve<S: Service>(config: Loaded<S>) -> anyhow::Result<()> {
    config.common.telemetry.init();
    crate::metrics::recorder();
    tracing::info!(
        service = S::NAME,
        configuration = config.effective,
        "starting"
    );
    let server = Server::start(config).await?;
    tracing::info!(service = S::NAME, listen = %server.addr(), metrics = %server.metrics_addr(), "serving");
    let stop = CancellationToken::new();
    let serving = server.run_until(stop.clone());
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = signalled() => stop.cancel(),
    }
    tracing::info!(
        service = S::NAME,
        "stopping: no new work, finishing what is under way"
    );
    tokio::select! {
        ended = serving => ended,
        () = signalled() => bail!("stopped at once by a second signal"),
    }
}

/// SIGTERM, as container engines send it, or Ctrl-C.
async fn signalled() {
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = terminate => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

async fn migrate<S: Service>(config: Loaded<S>) -> anyhow::Result<()> {
    let store = config.open_store()?;
    let applied = store.migrate().await?;
    if let Schema::Newer { unknown } = store.schema_status().await? {
        bail!(SchemaTooNew(unknown.join(", ")));
    }
    print(&format!(
        "{applied} migrations applied, the schema is current"
    ));
    Ok(())
}

async fn own<S: Service>(command: S::Command, config: Loaded<S>) -> anyhow::Result<()> {
    print(&S::command(command, config).await?);
    Ok(())
}

async fn healthcheck<S: Service>(config: Loaded<S>) -> anyhow::Result<()> {
    let mut addr = config.common.http.listen;
    if addr.ip().is_unspecified() {
        addr.set_ip(match addr {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    let limits = Limits {
        connect: Duration::from_secs(2),
        total: Duration::from_secs(5),
    };
    let response = http_client::build(limits)?
        .get(format!("http://{addr}/readyz"))
        .send()
        .await?;
    if !response.status().is_success() {
        bail!(
            "{}: {}",
            response.status(),
            response.text().await.unwrap_or_default()
        );
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "what the command was asked to print")]
fn print(text: &str) -> ExitCode {
    println!("{text}");
    ExitCode::SUCCESS
}

#[expect(
    clippy::print_stderr,
    reason = "there may be no log yet, and a person is looking"
)]
fn fail(code: u8, why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::from(code)
}
