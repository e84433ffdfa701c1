//! `scripts/chaos`, short: the same code with the debug binaries, and faults of every kind.

use std::time::Duration;

use pipekeeper_core::store::Backend;
use pipekeeper_core::test_util::{TestDirectory, is_asked_for};
use tools::chaos::{Options, run};

/// Long enough for kills at every point of a token call.
const LENGTH: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_four_statements_hold_under_faults_on_sqlite() {
    Box::pin(the_four_statements_hold_under_faults(Backend::Sqlite, 1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_four_statements_hold_under_faults_on_postgres() {
    if is_asked_for(Backend::Postgres) {
        Box::pin(the_four_statements_hold_under_faults(Backend::Postgres, 2)).await;
    }
}

async fn the_four_statements_hold_under_faults(backend: Backend, seed: u64) {
    let home = TestDirectory::create();
    let options = Options {
        backend,
        length: LENGTH,
        seed,
        connections: 80,
        directory: home.path().to_owned(),
        base_port: None,
    };
    let mut told = Vec::new();

    let outcome = run(&options, &mut told).await;

    let told = String::from_utf8_lossy(&told);
    let outcome = outcome.unwrap_or_else(|error| panic!("{told}\n{error:#}"));
    let (figures, verdict) = (outcome.figures, outcome.verdict);
    if !verdict.violations.is_empty() {
        // What it is understood by must not go with the test's directory.
        std::mem::forget(home);
        panic!("{told}\nkept in {}", options.directory.display());
    }
    assert!(figures.kills_and_stops() >= 25, "{figures}");
    assert!(figures.at_commit_points() >= 8, "{figures}");
    assert!(figures.refreshed() >= 100, "{figures}");
    assert!(figures.outages >= 2, "{figures}");
    assert!(figures.data["200"] >= 300, "{figures}");
}
