//! `scripts/chaos`: kills, stops, outages and faults, and what has to hold after them.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Parser, ValueEnum as _};
use pipekeeper_core::random;
use pipekeeper_core::store::Backend;
use tools::chaos::sabotage::Sabotage;
use tools::chaos::{Options, Program, run};
use tools::measured::{Table, backend_name};

/// The time in which a sabotage has to be noticed, start included.
const NOTICED_WITHIN: Duration = Duration::from_mins(2);

/// Every sabotage, one after the other.
const ALL: &str = "all";

/// Plays a schedule of faults against the whole stack, and checks the provider's books afterwards.
#[derive(Debug, Parser)]
#[command(name = "scripts/chaos")]
struct Arguments {
    /// How long faults are played [default: 10, or 1.5 with --sabotage]
    #[arg(long)]
    minutes: Option<f64>,
    /// sqlite, postgres or mysql
    #[arg(long, default_value_t = Backend::Sqlite)]
    database: Backend,
    /// Makes the same schedule again; processes race all the same
    #[arg(long)]
    seed: Option<u64>,
    /// Where journals, database and logs are kept, also of a run in which all rules held
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    #[arg(long, default_value_t = 300)]
    connections: usize,
    /// Free ports by default
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// Start the product's token-refresher, on the machine's disk and clock
    #[arg(long)]
    product: bool,
    /// Break a promise: the run fails if the checker works. `all` prints a table of every sabotage
    #[arg(long, value_name = "NAME", conflicts_with = "product", value_parser = sabotages())]
    sabotage: Option<String>,
}

fn sabotages() -> impl clap::builder::TypedValueParser<Value = String> {
    let named = Sabotage::all().filter_map(|sabotage| sabotage.to_possible_value());
    let all = clap::builder::PossibleValue::new(ALL).help("Each of them, one after the other");
    PossibleValuesParser::new(named.chain([all])).map(|name| name)
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let played = async {
        match arguments.sabotage.as_deref() {
            None => play(&arguments, None).await,
            Some(ALL) => play_all(&arguments).await,
            Some(name) => play(&arguments, Some(Sabotage::named(name)?)).await,
        }
    };
    let played = tokio::select! {
        played = played => played,
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

fn options(arguments: &Arguments, sabotage: Option<Sabotage>) -> Options {
    let seed = arguments
        .seed
        .unwrap_or_else(|| u64::from(u32::from_be_bytes(random::bytes())));
    let name = format!("pipekeeper-chaos-{seed}-{}", std::process::id());
    let directory = match &arguments.keep {
        Some(directory) => directory.clone(),
        None => std::env::temp_dir().join(name),
    };
    let minutes = arguments
        .minutes
        .unwrap_or(if sabotage.is_some() { 1.5 } else { 10.0 });
    Options {
        backend: arguments.database,
        program: if arguments.product {
            Program::Product
        } else {
            Program::Injected { sabotage }
        },
        length: Duration::from_secs_f64(minutes * 60.0),
        seed,
        connections: arguments.connections,
        directory: match sabotage {
            Some(sabotage) => directory.join(sabotage.name()),
            None => directory,
        },
        base_port: arguments.base_port,
    }
}

async fn play(arguments: &Arguments, sabotage: Option<Sabotage>) -> anyhow::Result<()> {
    let options = options(arguments, sabotage);
    let (seed, directory) = (options.seed, options.directory.display());
    let played = Box::pin(run(&options, &mut io::stdout())).await;
    match played {
        Ok(outcome) if outcome.verdict.violations.is_empty() => {
            if arguments.keep.is_none() {
                std::fs::remove_dir_all(&options.directory)?;
            }
            Ok(())
        }
        Ok(outcome) => bail!(
            "{} violations with seed {seed}; what is left of the run is in {directory}",
            outcome.verdict.violations.len(),
        ),
        Err(error) => Err(error.context(format!(
            "not played to its end with seed {seed}; what is left of it is in {directory}",
        ))),
    }
}

/// Every sabotage; fails unless each was noticed in time.
async fn play_all(arguments: &Arguments) -> anyhow::Result<()> {
    let mut table = Table::new([
        "sabotage",
        "database",
        "seed",
        "failed after",
        "by the rule",
    ]);
    let mut unnoticed = Vec::new();
    for sabotage in Sabotage::all() {
        let options = options(arguments, Some(sabotage));
        writeln!(io::stdout(), "\n=== {}", sabotage.name())?;
        let outcome = Box::pin(run(&options, &mut io::sink())).await?;
        let expected = sabotage.expected();
        let violations = outcome.verdict.violations;
        let noticed = violations.iter().find(|found| found.rule == expected);
        let after = match noticed {
            Some(violation) if outcome.took <= NOTICED_WITHIN => {
                writeln!(io::stdout(), "{violation}")?;
                format!("{} s", outcome.took.as_secs())
            }
            _ => {
                unnoticed.push(sabotage.name());
                "-".to_owned()
            }
        };
        table.row([
            sabotage.name(),
            backend_name(options.backend).to_owned(),
            options.seed.to_string(),
            after,
            expected.text().to_owned(),
        ]);
        if arguments.keep.is_none() {
            std::fs::remove_dir_all(&options.directory)?;
        }
    }
    table.write(&mut io::stdout(), "\nAs docs/measured/sabotage.md has it:")?;
    ensure!(
        unnoticed.is_empty(),
        "not noticed within {NOTICED_WITHIN:?}: {}",
        unnoticed.join(", ")
    );
    Ok(())
}
