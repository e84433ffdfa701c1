//! `scripts/chaos`: kills, stops, outages and faults, and what has to hold after them.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::Parser;
use pipekeeper_core::random;
use pipekeeper_core::store::Backend;
use tools::chaos::{Options, run};

/// Plays a schedule of faults against the whole stack, and checks the provider's books afterwards.
#[derive(Debug, Parser)]
#[command(name = "scripts/chaos")]
struct Arguments {
    /// How long faults are played
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// sqlite, postgres or mysql
    #[arg(long, default_value_t = Backend::Sqlite)]
    database: Backend,
    /// Makes the same schedule again; processes race all the same
    #[arg(long)]
    seed: Option<u64>,
    /// Where journals, database and logs are kept, also of a run in which all held
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    #[arg(long, default_value_t = 300)]
    connections: usize,
    /// Free ports by default
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let played = tokio::select! {
        played = play(Arguments::parse()) => played,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "\nscripts/chaos: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

async fn play(arguments: Arguments) -> anyhow::Result<()> {
    let seed = arguments
        .seed
        .unwrap_or_else(|| u64::from(u32::from_be_bytes(random::bytes())));
    let name = format!("pipekeeper-chaos-{seed}-{}", std::process::id());
    let directory = match &arguments.keep {
        Some(directory) => directory.clone(),
        None => std::env::temp_dir().join(name),
    };
    let options = Options {
        backend: arguments.database,
        length: Duration::from_secs_f64(arguments.minutes * 60.0),
        seed,
        connections: arguments.connections,
        directory: directory.clone(),
        base_port: arguments.base_port,
    };
    let played = Box::pin(run(&options, &mut io::stdout())).await;
    match played {
        Ok(outcome) if outcome.verdict.violations.is_empty() => {
            if arguments.keep.is_none() {
                std::fs::remove_dir_all(&directory)?;
            }
            Ok(())
        }
        Ok(outcome) => bail!(
            "{} violations with seed {seed}; what is left of the run is in {}",
            outcome.verdict.violations.len(),
            directory.display()
        ),
        Err(error) => Err(error.context(format!(
            "not played to its end with seed {seed}; what is left of it is in {}",
            directory.display()
        ))),
    }
}
