//! `scripts/chaos`, short: the same code with the debug binaries, and faults of every kind; and that it can fail.

use std::path::Path;
use std::time::Duration;

use pipekeeper_core::store::Backend;
use pipekeeper_core::test_util::{TestDirectory, is_asked_for};
use tokio::sync::Semaphore;
use tools::chaos::sabotage::Sabotage;
use tools::chaos::{Options, Outcome, Program, run};

/// Long enough for kills at every point of a token call.
const LENGTH: Duration = Duration::from_secs(20);

/// For so long a sabotage is played, at most.
const SABOTAGED: Duration = Duration::from_secs(40);

/// The time in which it has to be noticed, start included.
const NOTICED_WITHIN: Duration = Duration::from_mins(2);

/// Each run starts a dozen processes.
static AT_ONCE: Semaphore = Semaphore::const_new(2);

/// The library with injected faults.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_rules_hold_under_injected_faults_on_sqlite() {
    let injected = Program::Injected { sabotage: None };
    Box::pin(all_rules_hold_under_faults(Backend::Sqlite, injected, 1)).await;
}

/// The product's own binaries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_rules_hold_under_faults_on_sqlite() {
    Box::pin(of_the_product(Backend::Sqlite)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_rules_hold_under_faults_on_postgres() {
    Box::pin(of_the_product(Backend::Postgres)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_rules_hold_under_faults_on_mariadb() {
    Box::pin(of_the_product(Backend::Mysql)).await;
}

async fn of_the_product(backend: Backend) {
    if is_asked_for(backend) {
        all_rules_hold_under_faults(backend, Program::Product, 2).await;
    }
}

async fn all_rules_hold_under_faults(backend: Backend, program: Program, seed: u64) {
    let home = TestDirectory::create();
    let options = options(backend, program, seed, LENGTH, &home);

    let (outcome, told) = played(&options).await;

    let (figures, verdict) = (outcome.figures, outcome.verdict);
    if !verdict.violations.is_empty() {
        // What it is understood by must not go with the test's directory.
        std::mem::forget(home);
        panic!("{told}\nkept in {}", options.directory.display());
    }
    assert!(figures.kills_and_stops() >= 10, "{figures}");
    assert!(figures.in_calls() >= 2, "{figures}");
    assert!(figures.refreshed() >= 100, "{figures}");
    assert!(figures.outages >= 2, "{figures}");
    assert!(figures.data["200"] >= 300, "{figures}");
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
    let options = options(Backend::Sqlite, program, 3, SABOTAGED, &home);

    let (outcome, told) = played(&options).await;

    let mut violations = outcome.verdict.violations.iter();
    assert!(
        violations.any(|found| found.rule == sabotage.expected()),
        "{told}"
    );
    assert!(outcome.took <= NOTICED_WITHIN, "{:?}", outcome.took);
}

fn options(
    backend: Backend,
    program: Program,
    seed: u64,
    length: Duration,
    home: &TestDirectory,
) -> Options {
    Options {
        backend,
        program,
        length,
        seed,
        connections: 80,
        directory: home.path().to_owned(),
        base_port: None,
    }
}

async fn played(options: &Options) -> (Outcome, String) {
    let _turn = AT_ONCE.acquire().await;
    let mut told = Vec::new();
    let outcome = Box::pin(run(options, &mut told)).await;
    let told = String::from_utf8_lossy(&told).into_owned();
    let logs = |directory: &Path| directory.join("logs").display().to_string();
    let outcome = outcome
        .unwrap_or_else(|error| panic!("{told}\n{error:#}\nlogs: {}", logs(&options.directory)));
    (outcome, told)
}
