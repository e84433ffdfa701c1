//! `scripts/chaos`, short, with debug binaries on `SQLite`: faults of every kind break no rule, and a broken rule is noticed.
//! Other databases and the product's own binaries are played by hand: on a machine that is busy with something else their
//! limits in time mean nothing.

use std::path::Path;
use std::time::Duration;

use pipekeeper_core::store::Backend;
use pipekeeper_testing::TestDirectory;
use tokio::sync::Mutex;
use tools::chaos::sabotage::Sabotage;
use tools::chaos::{Options, Outcome, Program, run};

/// Long enough for kills at every point of a token call.
const LENGTH: Duration = Duration::from_secs(20);

/// For so long a sabotage is played, at most.
const SABOTAGED: Duration = Duration::from_secs(40);

/// The time in which it has to be noticed, start included.
const NOTICED_WITHIN: Duration = Duration::from_mins(2);

/// Each run starts a dozen processes, and its rules count on their being served.
static ONE: Mutex<()> = Mutex::const_new(());

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_rules_hold_under_faults() {
    let program = Program::Injected { sabotage: None };
    let home = TestDirectory::create();
    let options = options(program, 1, LENGTH, &home);

    let (outcome, told) = played(&options).await;

    let (figures, verdict) = (outcome.figures, outcome.verdict);
    if !verdict.violations.is_empty() {
        // What it is understood by must not go with the test's directory.
        std::mem::forget(home);
        panic!("{told}\nkept in {}", options.directory.display());
    }
    assert!(figures.kills_and_stops() >= 5, "{figures}");
    assert!(figures.in_calls() >= 1, "{figures}");
    assert!(figures.refreshed() >= 50, "{figures}");
    assert!(figures.outages >= 2, "{figures}");
    assert!(figures.data["200"] >= 100, "{figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journals_that_are_not_searched_are_noticed() {
    Box::pin(is_noticed(Sabotage::JournalsNotSearched)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn generations_that_are_not_compared_are_noticed() {
    Box::pin(is_noticed(Sabotage::GenerationsNotCompared)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_rows_that_are_revived_are_noticed() {
    Box::pin(is_noticed(Sabotage::RevokedRevived)).await;
}

async fn is_noticed(sabotage: Sabotage) {
    let home = TestDirectory::create();
    let program = Program::Injected {
        sabotage: Some(sabotage),
    };
    let options = options(program, 3, SABOTAGED, &home);

    let (outcome, told) = played(&options).await;

    let mut violations = outcome.verdict.violations.iter();
    assert!(
        violations.any(|found| found.rule == sabotage.expected()),
        "{told}"
    );
    assert!(outcome.took <= NOTICED_WITHIN, "{:?}", outcome.took);
}

fn options(program: Program, seed: u64, length: Duration, home: &TestDirectory) -> Options {
    Options {
        backend: Backend::Sqlite,
        program,
        length,
        seed,
        connections: 40,
        directory: home.path().to_owned(),
        base_port: None,
    }
}

async fn played(options: &Options) -> (Outcome, String) {
    let _turn = ONE.lock().await;
    let mut told = Vec::new();
    let outcome = Box::pin(run(options, &mut told)).await;
    let told = String::from_utf8_lossy(&told).into_owned();
    let logs = |directory: &Path| directory.join("logs").display().to_string();
    let outcome = outcome
        .unwrap_or_else(|error| panic!("{told}\n{error:#}\nlogs: {}", logs(&options.directory)));
    (outcome, told)
}
