//! `scripts/chaos`: the refresh protocol under faults, and the rules that it is held to afterwards.

mod actions;
pub mod checker;
pub mod database;
pub mod event_log;
pub mod evidence;
pub mod injected;
pub mod invariant;
pub mod journals;
mod quiesce;
pub mod report;
pub mod responses;
pub mod sabotage;
pub mod schedule;
pub mod stack;
pub mod trigger;
mod watch;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pipekeeper_core::clock::SystemClock;
use pipekeeper_core::store::{Backend, StoreError};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::checker::{Moment, Verdict, check};
use self::evidence::Evidence;
use self::report::Figures;
use self::sabotage::Sabotage;
use self::stack::Stack;

/// The refreshers' times, as short as they may be.
const CALL_TIMEOUT_SECS: u16 = 1;
const LEASE_SECS: u16 = 5;
const ORPHAN_GRACE_SECS: u16 = 2;

/// How often a sabotaged run is looked at while it lasts.
const CHECKED_EVERY: Duration = Duration::from_secs(3);

/// What is played.
#[derive(Debug, Clone)]
pub struct Options {
    pub backend: Backend,
    pub program: Program,
    pub length: Duration,
    pub seed: u64,
    pub connections: usize,
    /// Holds everything that the run leaves behind.
    pub directory: PathBuf,
    /// Free ones, if none is given.
    pub base_port: Option<u16>,
}

/// What is started as token-refresher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The product's own program.
    Product,
    /// The product's library on a disk and a clock of the run's own.
    Injected { sabotage: Option<Sabotage> },
}

/// What became of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub figures: Figures,
    pub verdict: Verdict,
    /// From the first process's start.
    pub took: Duration,
}

/// Plays one run, tells `out` about it, and leaves what it is understood by in its directory. A sabotaged run ends when the rule
/// is broken that the sabotage is about.
///
/// # Errors
/// What kept it from being played to its end; what does not hold is in the verdict.
pub async fn run(options: &Options, out: &mut (dyn Write + Send)) -> anyhow::Result<Outcome> {
    let clock = SystemClock::shared();
    let sabotage = match options.program {
        Program::Product => None,
        Program::Injected { sabotage } => sabotage,
    };
    let length_ms = u64::try_from(options.length.as_millis())?;
    let steps = schedule::draw(options.seed, length_ms, &Stack::targets(options), sabotage);
    let schedule: Vec<_> = steps.iter().map(ToString::to_string).collect();
    let schedule = schedule.join("\n");
    std::fs::create_dir_all(&options.directory)?;
    std::fs::write(options.directory.join("schedule.txt"), &schedule)?;
    writeln!(
        out,
        "seed {} on {}, {:?}, {} connections, {} s, {} steps\n{schedule}\n",
        options.seed,
        options.backend,
        options.program,
        options.connections,
        options.length.as_secs(),
        steps.len()
    )?;

    let (stack, hits) = Stack::start(options).await?;
    let _timers = watch::Timers::start(&stack.event_log, &options.directory.join("probe"))?;
    let stack = Arc::new(stack);
    writeln!(out, "journals: {:?}; playing …", stack.journals.how())?;
    let mut aside = JoinSet::new();
    aside.spawn(stack::in_call::serve(Arc::clone(&stack), hits));
    aside.spawn(watch::rows(Arc::clone(&stack)));
    if sabotage == Some(Sabotage::JournalDeleted) {
        aside.spawn(watch::delete_journals(Arc::clone(&stack)));
    }
    let (evidence, moment) = tokio::select! {
        played = play(options, &stack, &steps, out) => (played?, Moment::AtRest),
        found = noticed(&stack, sabotage) => (found?, Moment::During),
    };
    evidence.keep(&options.directory)?;
    stack
        .database
        .keep(&options.directory.join("pipekeeper.db"))?;
    stack.journals.keep(&options.directory.join("journals"))?;
    let (verdict, figures) = tokio::task::spawn_blocking(move || {
        let verdict = check(&evidence, moment);
        let figures = Figures::of(&evidence, &verdict);
        (verdict, figures)
    })
    .await?;
    let took = clock.monotonic();
    tell(out, &figures, &verdict)?;
    report::table(options, &figures, &verdict).write(
        out,
        "\nAs docs/results/chaos.md has it, a row for each run:",
    )?;
    Ok(Outcome {
        figures,
        verdict,
        took,
    })
}

/// Plays all steps under load, and waits for rest.
async fn play(
    options: &Options,
    stack: &Arc<Stack>,
    steps: &[schedule::Step],
    out: &mut (dyn Write + Send),
) -> anyhow::Result<Evidence> {
    let stop = CancellationToken::new();
    let load = stack::load::play(stack, options.seed, &stop);
    let faults = async {
        actions::play(stack, steps).await;
        quiesce::put_back(stack).await?;
        stop.cancel();
        Ok::<_, anyhow::Error>(())
    };
    let (faults, ()) = tokio::join!(faults, load);
    faults?;
    writeln!(out, "played; waiting for rest …")?;
    let restless = quiesce::settle(stack).await?;
    let at_rest = quiesce::ask_all(stack).await?;
    let mut evidence = Evidence::collect(stack, restless).await?;
    evidence.data.extend(at_rest);
    Ok(evidence)
}

/// Looks at a sabotaged run now and then, until the rule is broken that the sabotage is about; at others never ends.
async fn noticed(stack: &Arc<Stack>, sabotage: Option<Sabotage>) -> anyhow::Result<Evidence> {
    let Some(sabotage) = sabotage else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(CHECKED_EVERY).await;
        let evidence = match Evidence::collect(stack, Vec::new()).await {
            Ok(evidence) => evidence,
            Err(error) if database_is_away(&error) => continue,
            Err(error) => return Err(error.context("look at the run")),
        };
        let (evidence, is_noticed) = tokio::task::spawn_blocking(move || {
            let violations = check(&evidence, Moment::During).violations;
            let expected = sabotage.expected();
            let is_noticed = violations.iter().any(|found| found.rule == expected);
            (evidence, is_noticed)
        })
        .await?;
        if is_noticed {
            return Ok(evidence);
        }
    }
}

fn database_is_away(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| {
        let store = cause.downcast_ref::<StoreError>();
        store.is_some_and(StoreError::is_unavailable)
    })
}

fn tell(out: &mut dyn Write, figures: &Figures, verdict: &Verdict) -> std::io::Result<()> {
    writeln!(out, "\nRefresh tokens that were presented again:")?;
    for reuse in &verdict.reuses {
        writeln!(out, "  {reuse}")?;
    }
    writeln!(out, "\n{figures}")?;
    if verdict.violations.is_empty() {
        return writeln!(out, "All rules hold.");
    }
    writeln!(out, "{} violations:", verdict.violations.len())?;
    for violation in &verdict.violations {
        writeln!(out, "  {violation}")?;
    }
    Ok(())
}
