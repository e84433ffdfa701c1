//! `pipedrive-sim`: serves until it is told to stop.

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use pipedrive_sim::{App, Options, Settings, Simulator, openapi};
use tokio::signal::unix::{SignalKind, signal};

/// A Pipedrive that behaves, and misbehaves on request.
#[derive(Debug, Parser)]
#[command(version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("PIPEKEEPER_COMMIT"), ")"))]
struct Arguments {
    #[arg(long, default_value = "127.0.0.1:8090", global = true)]
    listen: SocketAddr,
    /// A registered app, `client_id:client_secret:redirect_url`; repeatable. Without any, there is one with well-known
    /// credentials.
    #[arg(long = "app", value_parser = parse_app)]
    apps: Vec<App>,
    /// The redirect URL of the app with well-known credentials.
    #[arg(long, conflicts_with = "apps")]
    redirect_url: Option<String>,
    /// Scopes of the apps, separated by commas.
    #[arg(long, value_delimiter = ',')]
    scopes: Vec<String>,
    /// The settings at the start and after a reset, as JSON; those not named keep their defaults.
    #[arg(long, value_parser = parse_settings, default_value = "{}", hide_default_value = true)]
    settings: Settings,
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// The same seed gives the same codes and tokens.
    #[arg(long)]
    seed: Option<u64>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum Command {
    /// Serves; so does no command at all.
    Serve,
    /// Asks the simulator at `--listen` whether it is alive.
    Healthcheck,
    /// Prints the document that describes every URL.
    Openapi,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.command.unwrap_or(Command::Serve) {
        Command::Serve => serve(arguments).await?,
        Command::Healthcheck => return Ok(healthcheck(arguments.listen).await),
        Command::Openapi => match writeln!(std::io::stdout(), "{}", openapi()?) {
            // Its reader has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            printed => printed?,
        },
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(arguments: Arguments) -> anyhow::Result<()> {
    let mut options = Options {
        listen: arguments.listen,
        workers: arguments.workers,
        seed: arguments.seed,
        settings: arguments.settings,
        ..Options::default()
    };
    if !arguments.apps.is_empty() {
        options.apps = arguments.apps;
    }
    if let Some(url) = arguments.redirect_url {
        for app in &mut options.apps {
            app.redirect_url.clone_from(&url);
        }
    }
    if !arguments.scopes.is_empty() {
        for app in &mut options.apps {
            app.scopes.clone_from(&arguments.scopes);
        }
    }
    let simulator = Simulator::start(options)
        .await
        .context("start the simulator")?;
    writeln!(std::io::stderr(), "listening on {}", simulator.url())?;

    let mut terminated = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    simulator.stop().await;
    Ok(())
}

async fn healthcheck(listen: SocketAddr) -> ExitCode {
    if pipedrive_sim::healthy(listen).await {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn parse_app(text: &str) -> Result<App, &'static str> {
    let mut parts = text.splitn(3, ':');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(id), Some(secret), Some(url)) if !url.is_empty() => Ok(App {
            client_id: id.to_owned(),
            client_secret: secret.to_owned(),
            redirect_url: url.to_owned(),
            ..App::default()
        }),
        _ => Err("not client_id:client_secret:redirect_url"),
    }
}

fn parse_settings(text: &str) -> Result<Settings, serde_json::Error> {
    serde_json::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_is_given_in_one_word_whose_url_keeps_its_colons() {
        let app = parse_app("id:secret:http://127.0.0.1:8080/callback").unwrap();

        assert_eq!(
            (app.client_id.as_str(), app.client_secret.as_str()),
            ("id", "secret")
        );
        assert_eq!(app.redirect_url, "http://127.0.0.1:8080/callback");
        assert!(parse_app("id:secret").is_err());
        assert!(parse_app("id:secret:").is_err());
    }

    #[test]
    fn settings_that_are_not_known_are_refused() {
        assert!(parse_settings(r#"{"rotation": "single_use"}"#).is_ok());
        assert!(parse_settings(r#"{"colour": "red"}"#).is_err());
    }
}
