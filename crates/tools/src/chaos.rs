//! `scripts/chaos`: the refresh protocol under faults, and the four statements that have to hold afterwards.

pub mod account;
mod actions;
mod calm;
pub mod chronicle;
pub mod crew;
pub mod database;
pub mod evidence;
mod journaled;
pub mod journals;
pub mod judge;
pub mod load;
pub mod report;
pub mod schedule;
pub mod trigger;
pub mod world;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pipekeeper_core::store::Backend;
use tokio_util::sync::CancellationToken;

use evidence::Evidence;
use judge::{Verdict, judge};
use load::Answers;
use report::Figures;
use world::World;

/// The refreshers' times, as short as they may be.
const CALL_TIMEOUT_SECS: u16 = 1;
const LEASE_SECS: u16 = 5;
const ORPHAN_GRACE_SECS: u16 = 2;

/// What is played.
#[derive(Debug, Clone)]
pub struct Options {
    pub backend: Backend,
    pub length: Duration,
    pub seed: u64,
    pub connections: usize,
    /// Holds everything that the run leaves behind.
    pub directory: PathBuf,
    /// Free ones, if none is given.
    pub base_port: Option<u16>,
}

/// What became of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub figures: Figures,
    pub verdict: Verdict,
}

/// Plays one run, tells `out` about it, and leaves what it is understood by in its directory.
///
/// # Errors
/// What kept it from being played to its end; what does not hold is in the verdict.
pub async fn run(options: &Options, out: &mut (dyn Write + Send)) -> anyhow::Result<Outcome> {
    let length_ms = u64::try_from(options.length.as_millis())?;
    let steps = schedule::draw(options.seed, length_ms, &World::targets(options));
    let schedule: Vec<_> = steps.iter().map(ToString::to_string).collect();
    let schedule = schedule.join("\n");
    std::fs::create_dir_all(&options.directory)?;
    std::fs::write(options.directory.join("schedule.txt"), &schedule)?;
    writeln!(
        out,
        "seed {} on {}, {} connections, {} s, {} steps\n{schedule}\n",
        options.seed,
        options.backend,
        options.connections,
        options.length.as_secs(),
        steps.len()
    )?;

    let world = Arc::new(World::start(options).await?);
    writeln!(out, "journals: {:?}; playing …", world.journals.how())?;
    let answers = Arc::new(Answers::default());
    let stop = CancellationToken::new();
    let load = load::play(&world, options.seed, &answers, &stop);
    let faults = async {
        actions::play(&world, &steps).await;
        calm::put_back(&world).await?;
        stop.cancel();
        Ok::<_, anyhow::Error>(())
    };
    let (faults, ()) = tokio::join!(faults, load);
    faults?;
    writeln!(out, "played; waiting for rest …")?;
    let restless = calm::settle(&world).await?;
    let at_rest = calm::ask_all(&world).await?;

    let mut evidence = Evidence::collect(&world, &answers, restless).await?;
    evidence.data.extend(at_rest);
    evidence.keep(&options.directory)?;
    world.journals.keep(&options.directory.join("journals"))?;
    let verdict = judge(&evidence);
    let figures = Figures::of(&evidence, &verdict);
    tell(out, &figures, &verdict)?;
    report::table(options, &figures, &verdict).write(
        out,
        "\nAs docs/measured/chaos.md has it, a row for each run:",
    )?;
    Ok(Outcome { figures, verdict })
}

fn tell(out: &mut dyn Write, figures: &Figures, verdict: &Verdict) -> std::io::Result<()> {
    writeln!(out, "\nReuses of a refresh token that the provider saw:")?;
    for reuse in &verdict.reuses {
        writeln!(out, "  {reuse}")?;
    }
    writeln!(out, "\n{figures}")?;
    if verdict.violations.is_empty() {
        return writeln!(out, "All four statements hold.");
    }
    writeln!(out, "{} violations:", verdict.violations.len())?;
    for violation in &verdict.violations {
        writeln!(out, "  {violation}")?;
    }
    Ok(())
}
