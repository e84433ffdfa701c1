//! `scripts/up`: the whole stack on this machine, with one command.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;
use pipekeeper_core::secret::Secret;
use tokio::signal::unix::{Signal, SignalKind, signal};
use up::client::{PERSON, REFRESH};
use up::demo;
use up::processes::{Plan, Processes, Registration, SERVICES, SIMULATOR};

/// Starts the stack and keeps it running until Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "scripts/up", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("PIPEKEEPER_COMMIT"), ")"))]
struct Arguments {
    /// Play the whole demo, check every step of it, and stop; exit code 0 only if all of it held
    #[arg(long)]
    demo: bool,
    /// Where database, secrets and logs are kept
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// auth-capture's port; data-api and token-refresher take the next two, the simulator the one ten further on, metrics a
    /// thousand further on
    #[arg(long, value_name = "PORT", default_value_t = 8080, value_parser = clap::value_parser!(u16).range(1..=64_533))]
    base_port: u16,
    /// Leave a process out, to see what the others make of it; repeatable
    #[arg(long, value_name = "PROCESS", value_parser = [SIMULATOR, "token-refresher", "data-api", "auth-capture"])]
    without: Vec<String>,
    /// Set a configuration key of one service: SERVICE.SECTION.KEY=VALUE; repeatable
    #[arg(long, value_name = "KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("has no `=`")?;
    let service = key.split('.').next().unwrap_or_default();
    if SERVICES.contains(&service) {
        Ok((key.to_owned(), value.to_owned()))
    } else {
        Err(format!("begins with none of {}", SERVICES.join(", ")))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "\nscripts/up: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let mut plan = Plan::new(arguments.data, arguments.base_port);
    plan.registration = registration()?;
    plan.without = arguments.without;
    plan.set = arguments.set;
    if arguments.demo && plan.registration.is_some() {
        bail!(
            "the demo is played with the simulator: unset PIPE_DRIVE_CLIENT_ID, _SECRET and _REDIRECT_URL"
        );
    }
    // From before the first process on: a signal's default is to end this one and leave the others running.
    let mut interrupted = Interrupted::listen()?;
    let mut processes = Processes::prepare(plan.clone())?;
    let outcome = tokio::select! {
        outcome = work(&mut processes, arguments.demo, &plan) => outcome,
        () = interrupted.next() => Ok(()),
    };
    let stopped = processes.stop().await;
    outcome.and(stopped)
}

async fn work(processes: &mut Processes, demo: bool, plan: &Plan) -> anyhow::Result<()> {
    processes.start_all().await?;
    tokio::select! {
        ended = processes.first_to_end() => {
            let (process, status) = ended?;
            Err(anyhow::anyhow!("{process} ended with {status}; its log is in the data directory"))
        }
        told = serve(demo, plan) => told,
    }
}

async fn serve(demo: bool, plan: &Plan) -> anyhow::Result<()> {
    if demo {
        return demo::play(&plan.client()?, &mut io::stdout()).await;
    }
    io::stdout().write_all(welcome(plan)?.as_bytes())?;
    std::future::pending().await
}

/// All three variables, or none: half a registration is a mistake.
#[expect(
    clippy::disallowed_methods,
    reason = "the names that ported deployments already have"
)]
fn registration() -> anyhow::Result<Option<Registration>> {
    let names = [
        "PIPE_DRIVE_CLIENT_ID",
        "PIPE_DRIVE_CLIENT_SECRET",
        "PIPE_DRIVE_REDIRECT_URL",
    ];
    let values = names.map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    match values {
        [None, None, None] => Ok(None),
        [Some(client_id), Some(client_secret), Some(redirect_url)] => Ok(Some(Registration {
            client_id,
            client_secret: Secret::new(client_secret),
            redirect_url,
        })),
        _ => bail!("set all of {}, or none of them", names.join(", ")),
    }
}

fn welcome(plan: &Plan) -> anyhow::Result<String> {
    let client = plan.client()?;
    let secrets = plan.data.join("secrets");
    let secrets = secrets.display();
    let (auth, data, refresher) = (
        &client.auth_capture,
        &client.data_api,
        &client.token_refresher,
    );
    let id = &client.client_id;
    let simulator = &client.simulator;
    let (pipedrive, login, first, connect) = if let Some(registration) = &plan.registration {
        // The browser has to meet auth-capture where Pipedrive sends it back to: its cookie belongs to that origin.
        let callback = url::Url::parse(&registration.redirect_url)?;
        let origin = callback.origin().ascii_serialization();
        (
            format!("the real one; {origin} has to lead to {auth}"),
            format!("{origin}/auth/login"),
            "where a login sends the browser",
            format!("curl -si '{auth}/auth/login'"),
        )
    } else {
        let redirect: String =
            url::form_urlencoded::byte_serialize(client.redirect_url.as_bytes()).collect();
        (
            format!("{simulator}  (simulated; its controls: {simulator}/openapi.json)"),
            format!("{auth}/auth/login"),
            "consent, and the code on its way to auth-capture",
            format!(
                "curl -sL '{simulator}/oauth/authorize?client_id={id}&redirect_uri={redirect}&auto=approve'"
            ),
        )
    };
    Ok(format!(
        "
Pipekeeper is up.

  auth-capture     {auth}
  data-api         {data}
  token-refresher  {refresher}
  Pipedrive        {pipedrive}

  secrets  {secrets}
  logs     {logs}

Connect an account: {login}

or, without a browser, three calls that work:

  # 1. {first}
  {connect}

  # 2. who has this email?
  curl -su \"n8n:$(cat '{secrets}/webhook.password')\" -H 'content-type: application/json' \\
    -d '{{\"person\":{{\"email\":\"jane@example.com\"}}}}' {data}{PERSON}

  # 3. a newer token, as n8n's workflow asks for it
  curl -su \"pipekeeper:$(cat '{secrets}/refresher.password')\" -H 'content-type: application/json' \\
    -d '{{\"appId\":\"{id}\"}}' {refresher}{REFRESH}

Ctrl-C stops everything.
",
        logs = plan.data.join("logs").display(),
    ))
}

/// Ctrl-C, or what a supervisor sends.
struct Interrupted {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupted {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
