//! `scripts/up`: the whole stack on this machine, with one command.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use clap::Parser;
use pipekeeper_core::secret::Secret;
use stack_tests::client::{PERSON, REFRESH};
use stack_tests::processes::{Plan, Processes, Registration, SERVICES, SIMULATOR};
use stack_tests::story;
use tokio::signal::unix::{SignalKind, signal};

/// Starts the stack and keeps it running until Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "scripts/up")]
struct Arguments {
    /// Play the whole story, check every step of it, and stop; exit code 0 only if all of it held
    #[arg(long)]
    demo: bool,
    /// Where database, secrets and logs are kept
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// auth-capture's port; data-api and token-refresher take the next two, the simulator the tenth
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
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
    let mut processes = Processes::start(plan.clone()).await?;
    let outcome = tokio::select! {
        ended = processes.first_to_end() => {
            let (process, status) = ended?;
            Err(anyhow::anyhow!("{process} ended with {status}; its log is in the data directory"))
        }
        () = interrupted() => Ok(()),
        told = serve(arguments.demo, &plan) => told,
    };
    processes.stop().await?;
    outcome
}

async fn serve(demo: bool, plan: &Plan) -> anyhow::Result<()> {
    if demo {
        return story::play(&plan.client()?, &mut io::stdout()).await;
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
    let (pipedrive, connect) = if plan.registration.is_some() {
        (
            "the real one".to_owned(),
            format!("open {auth}/auth/login in a browser"),
        )
    } else {
        let redirect: String =
            url::form_urlencoded::byte_serialize(client.redirect_url.as_bytes()).collect();
        (
            format!("{simulator}  (simulated; its controls: {simulator}/openapi.json)"),
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

Connect an account: {auth}/auth/login

or, without a browser, three calls that work:

  # 1. consent, and the code on its way to auth-capture
  {connect}

  # 2. who has this email?
  curl -su \"n8n:$(cat {secrets}/webhook.password)\" -H 'content-type: application/json' \\
    -d '{{\"person\":{{\"email\":\"jane@example.com\"}}}}' {data}{PERSON}

  # 3. a newer token, as n8n's workflow asks for it
  curl -su \"pipekeeper:$(cat {secrets}/refresher.password)\" -H 'content-type: application/json' \\
    -d '{{\"appId\":\"{id}\"}}' {refresher}{REFRESH}

Ctrl-C stops everything.
",
        logs = plan.data.join("logs").display(),
    ))
}

async fn interrupted() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
