//! A process's life: command line, configuration, signals, exit code.

use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use pipekeeper_core::config::Sources;
use pipekeeper_core::http_client::{self, Limits};
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Diagnosis, Role, Schema, Store};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::health::{SchemaTooNew, explain};
use crate::server::{Loaded, Server, Service, openapi};
use crate::telemetry::Telemetry;

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
    Migrate(Migrate),
    /// Ask the running service whether it is ready; exit code 0 if so
    Healthcheck,
    /// Print the OpenAPI document
    Openapi,
    /// Print the effective configuration, secrets redacted
    Config,
    #[command(flatten)]
    Own(C),
}

#[derive(Debug, Clone, Args)]
struct Migrate {
    /// Wait so long for a database that is not up yet
    #[arg(long, value_name = "SECS", default_value_t = 60)]
    wait_secs: u32,
    /// Make a role of this name that can do what the services need and nothing else, or renew its rights
    #[arg(long, value_name = "NAME")]
    role: Option<String>,
    /// Let the role log in with the password in this file
    #[arg(long, value_name = "FILE", requires = "role")]
    role_password_file: Option<PathBuf>,
}

impl Migrate {
    fn role(&self) -> anyhow::Result<Option<Role>> {
        let Some(name) = &self.role else {
            return Ok(None);
        };
        let password = match &self.role_password_file {
            None => None,
            Some(path) => {
                let read = Secret::read(path);
                Some(read.with_context(|| format!("can't read {}", path.display()))?)
            }
        };
        Ok(Some(Role::new(name, password)?))
    }
}

/// `0.1.0 (5d9c1ab9a7f4)`: the version, and the commit that this was built from.
const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("PIPEKEEPER_COMMIT"),
    ")"
);

/// The `main` of a service.
pub fn main<S: Service>() -> ExitCode {
    let command = Cli::<S::Command>::command()
        .name(S::NAME)
        .about(S::ABOUT)
        .version(VERSION);
    let cli = Cli::<S::Command>::from_arg_matches(&command.get_matches())
        .expect("clap checked the matches");
    let command = cli.command.unwrap_or(Command::Serve);
    if matches!(command, Command::Openapi) {
        return print(&serde_json::to_string_pretty(&openapi::<S>()).unwrap_or_default());
    }
    let config = match Loaded::<S>::from(&Sources::of_process(S::DEFAULTS, cli.config)) {
        Ok(config) => config,
        Err(problems) => {
            say(&problems.to_string());
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    if !matches!(command, Command::Serve | Command::Healthcheck) {
        for warning in &config.warnings {
            say(&format!("warning: {warning}"));
        }
    }
    let outcome = match command {
        Command::Config => return print(config.effective.trim_end()),
        Command::Openapi => unreachable!("answered above, without a configuration"),
        Command::Serve => block_on(serve(config)).map(|()| ExitCode::SUCCESS),
        Command::Migrate(asked) => block_on(migrate(&asked, config)).map(|said| print(&said)),
        Command::Healthcheck => block_on(healthcheck(config)).map(|()| ExitCode::SUCCESS),
        Command::Own(command) => block_on(S::command(command, config)).map(|said| print(&said)),
    };
    let code = outcome.unwrap_or_else(|error| {
        say(&explain(&error));
        ExitCode::FAILURE
    });
    Telemetry::flush();
    code
}

fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
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
    crate::metrics::record_build(S::NAME);
    tracing::info!(service = S::NAME, version = VERSION, "starting");
    tracing::debug!(configuration = config.effective, "configured");
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
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

async fn migrate<S: Service>(asked: &Migrate, config: Loaded<S>) -> anyhow::Result<String> {
    let role = asked.role()?;
    let store = config.open_store()?;
    let patience = Duration::from_secs(asked.wait_secs.into());
    let applied = migrate_when_up(&store, patience).await?;
    if let Schema::Newer { unknown } = store.schema_status().await? {
        bail!(SchemaTooNew(unknown.join(", ")));
    }
    let mut said = format!("{applied} migrations applied, the schema is current");
    if let Some(role) = role {
        store
            .role_grant(&role)
            .await
            .with_context(|| format!("{said}, but the role {role} can't do what it needs"))?;
        said = format!("{said}\nthe role {role} can do what the services need");
    }
    Ok(said)
}

/// A database that starts beside us comes up later; a mistake does not go away by waiting.
async fn migrate_when_up(store: &Store, patience: Duration) -> anyhow::Result<usize> {
    let until = tokio::time::Instant::now() + patience;
    let mut said = String::new();
    loop {
        let error = match store.migrate().await {
            Ok(applied) => return Ok(applied),
            Err(error) => error,
        };
        let passes = error.is_unavailable() && error.diagnosis().is_none_or(Diagnosis::may_pass);
        let error = anyhow::Error::from(error);
        if !passes || tokio::time::Instant::now() >= until {
            return Err(error);
        }
        let why = explain(&error);
        if why != said {
            say(&format!("waiting for the database: {why}"));
            said = why;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
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

/// Prints what the command was asked for. A reader that has seen enough, such as `head`, is no failure.
fn print(text: &str) -> ExitCode {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("can't write to standard output: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// For the person who started the process: there may be no log yet. Waits a moment for a reader that stalls, and fails with
/// none.
fn say(text: &str) {
    let (said, is_said) = channel();
    let line = format!("{text}\n");
    thread::spawn(move || {
        let _nobody_reads = std::io::stderr().write_all(line.as_bytes());
        let _gave_up = said.send(());
    });
    let _gave_up = is_said.recv_timeout(Duration::from_secs(1));
}
