//! `scripts/chaos`, short: the same code with the debug binaries, and faults of every kind; and that it can fail.

use std::path::Path;
use std::time::Duration;

use pipekeeper_core::store::Backend;
use pipekeeper_core::test_util::{TestDirectory, is_asked_for};
use tools::chaos::checker::Rule;
use tools::chaos::sabotage::Sabotage;
use tools::chaos::{Options, Outcome, Program, run};

/// Long enough for kills at every point of a token call.
const LENGTH: Duration = Duration::from_secs(20);

/// What is broken is noticed long before.
const SABOTAGED: Duration = Duration::from_secs(30);

const INJECTED: Program = Program::Injected { sabotage: None };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_rules_hold_under_faults_on_sqlite() {
    Box::pin(all_rules_hold_under_faults(Backend::Sqlite, INJECTED, 1)).await;
}

/// The product's own binaries, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_rules_hold_under_faults_on_postgres() {
    if is_asked_for(Backend::Postgres) {
        let product = Program::Product;
        Box::pin(all_rules_hold_under_faults(Backend::Postgres, product, 2)).await;
    }
}

async fn all_rules_hold_under_faults(backend: Backend, program: Program, seed: u64) {
    let home = TestDirectory::create();
    let options = Options {
        backend,
        program,
        length: LENGTH,
        seed,
        connections: 80,
        directory: home.path().to_owned(),
        base_port: None,
    };

    let (outcome, told) = played(&options).await;

    let (figures, verdict) = (outcome.figures, outcome.verdict);
    if !verdict.violations.is_empty() {
        // What it is understood by must not go with the test's directory.
        std::mem::forget(home);
        panic!("{told}\nkept in {}", options.directory.display());
    }
    assert!(figures.kills_and_stops() >= 20, "{figures}");
    assert!(figures.in_calls() >= 8, "{figures}");
    assert!(figures.refreshed() >= 100, "{figures}");
    assert!(figures.outages >= 2, "{figures}");
    assert!(figures.data["200"] >= 300, "{figures}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn journals_that_are_deleted_are_noticed() {
    Box::pin(is_noticed(Sabotage::JournalDeleted, Rule::ReuseHasCause)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doubt_that_is_ignored_is_noticed() {
    Box::pin(is_noticed(Sabotage::DoubtIgnored, Rule::EndsAreTrue)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_rows_that_are_revived_are_noticed() {
    Box::pin(is_noticed(
        Sabotage::RevokedRevived,
        Rule::RevokedStaysRevoked,
    ))
    .await;
}

async fn is_noticed(sabotage: Sabotage, rule: Rule) {
    let home = TestDirectory::create();
    let options = Options {
        backend: Backend::Sqlite,
        program: Program::Injected {
            sabotage: Some(sabotage),
        },
        length: SABOTAGED,
        seed: 3,
        connections: 80,
        directory: home.path().to_owned(),
        base_port: None,
    };

    let (outcome, told) = played(&options).await;

    let violations = outcome.verdict.violations;
    assert!(violations.iter().any(|found| found.rule == rule), "{told}");
}

async fn played(options: &Options) -> (Outcome, String) {
    let mut told = Vec::new();
    let outcome = Box::pin(run(options, &mut told)).await;
    let told = String::from_utf8_lossy(&told).into_owned();
    let logs = |directory: &Path| directory.join("logs").display().to_string();
    let outcome = outcome
        .unwrap_or_else(|error| panic!("{told}\n{error:#}\nlogs: {}", logs(&options.directory)));
    (outcome, told)
}
