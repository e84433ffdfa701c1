//! `scripts/chaos`: kills, stops, outages and faults, and what has to hold after them.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Parser, ValueEnum as _};
use pipekeeper_core::random;
use pipekeeper_core::store::Backend;
use tools::chaos::invariant::Invariant;
use tools::chaos::sabotage::Sabotage;
use tools::chaos::{Options, Outcome, Program, run};
use tools::results::{Table, backend_name};

/// The time in which a sabotage has to be noticed, start included.
const NOTICED_WITHIN: Duration = Duration::from_mins(2);

const EXIT_CODES: &str = "\
Exit codes:
  0  All rules hold. With --sabotage all: each sabotage was noticed
  1  A rule is broken, or the run could not be played. With --sabotage NAME: the rule that it is about was broken within two
     minutes, as it has to be. With --sabotage all: not each was noticed
  2  Wrong arguments
  3  With --sabotage NAME: other rules were broken, or too late";

/// Every sabotage, one after the other.
const ALL: &str = "all";

/// Plays a schedule of faults against the whole stack, and checks the provider's books afterwards.
#[derive(Debug, Parser)]
#[command(name = "scripts/chaos", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("PIPEKEEPER_COMMIT"), ")"), after_help = EXIT_CODES)]
struct Arguments {
    /// How long faults are played, in minutes [default: 10, or 1.5 with --sabotage]
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
            None => play(&arguments).await,
            Some(ALL) => play_all(&arguments).await,
            Some(name) => play_sabotage(&arguments, Sabotage::named(name)?).await,
        }
    };
    let played = tokio::select! {
        played = played => played,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    match played {
        Ok(code) => code,
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

async fn play(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let options = options(arguments, None);
    let played = Box::pin(run(&options, &mut io::stdout())).await;
    let (seed, directory) = (options.seed, options.directory.display());
    let outcome = played.with_context(|| {
        format!("not played to its end with seed {seed}; what is left of it is in {directory}")
    })?;
    let violations = outcome.verdict.violations.len();
    ensure!(
        violations == 0,
        "{violations} violations with seed {seed}; what is left of the run is in {directory}"
    );
    forget(arguments, &options)?;
    Ok(ExitCode::SUCCESS)
}

async fn play_sabotage(arguments: &Arguments, sabotage: Sabotage) -> anyhow::Result<ExitCode> {
    let options = options(arguments, Some(sabotage));
    let outcome = Box::pin(run(&options, &mut io::stdout())).await?;
    let noticed = Noticed::of(sabotage, &outcome);
    writeln!(io::stdout(), "\n{}: {}", sabotage.name(), noticed.after())?;
    Ok(if noticed.in_time() {
        forget(arguments, &options)?;
        ExitCode::FAILURE
    } else {
        let directory = options.directory.display();
        writeln!(io::stdout(), "what is left of the run is in {directory}")?;
        if noticed.broken.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(3)
        }
    })
}

/// Which rules a sabotage broke, and when.
struct Noticed {
    expected: Invariant,
    broken: BTreeSet<Invariant>,
    took: Duration,
}

impl Noticed {
    fn of(sabotage: Sabotage, outcome: &Outcome) -> Self {
        let violations = outcome.verdict.violations.iter();
        Self {
            expected: sabotage.expected(),
            broken: violations.map(|violation| violation.rule).collect(),
            took: outcome.took,
        }
    }

    fn in_time(&self) -> bool {
        self.broken.contains(&self.expected) && self.took <= NOTICED_WITHIN
    }

    fn after(&self) -> String {
        if self.broken.contains(&self.expected) {
            return format!("{} s", self.took.as_secs());
        }
        let others: Vec<&str> = self.broken.iter().map(|rule| rule.text()).collect();
        if others.is_empty() {
            "never".to_owned()
        } else {
            format!("never; broken was: {}", others.join("; "))
        }
    }
}

/// Removes what is left of a run that came out as it had to.
fn forget(arguments: &Arguments, options: &Options) -> io::Result<()> {
    if arguments.keep.is_none() {
        std::fs::remove_dir_all(&options.directory)?;
    }
    Ok(())
}

/// Every sabotage; fails unless each was noticed in time.
async fn play_all(arguments: &Arguments) -> anyhow::Result<ExitCode> {
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
        let played = Box::pin(run(&options, &mut io::sink())).await;
        let (after, in_time) = match &played {
            Ok(outcome) => {
                let noticed = Noticed::of(sabotage, outcome);
                let mut violations = outcome.verdict.violations.iter();
                if let Some(violation) = violations.find(|found| found.rule == noticed.expected) {
                    writeln!(io::stdout(), "{violation}")?;
                }
                (noticed.after(), noticed.in_time())
            }
            Err(error) => (format!("not played to its end: {error:#}"), false),
        };
        writeln!(io::stdout(), "{after}")?;
        if in_time {
            forget(arguments, &options)?;
        } else {
            let directory = options.directory.display();
            unnoticed.push(format!("{} ({directory})", sabotage.name()));
        }
        table.row([
            sabotage.name(),
            backend_name(options.backend).to_owned(),
            options.seed.to_string(),
            after,
            sabotage.expected().text().to_owned(),
        ]);
    }
    table.write(&mut io::stdout(), "\nAs docs/results/sabotage.md has it:")?;
    ensure!(
        unnoticed.is_empty(),
        "not noticed within {NOTICED_WITHIN:?}: {}",
        unnoticed.join(", ")
    );
    Ok(ExitCode::SUCCESS)
}
