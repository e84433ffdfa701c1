//! Three processes that write one `SQLite` file.

use pipekeeper_core::connection::{ConnectionId, ConnectionState};
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, RefreshLogEntry, Store};
use pipekeeper_testing::{TestDatabase, open};
use tokio::task::JoinSet;

use super::again::at_once;
use super::{app, at, commit, consent, get, insert, name};

/// Set for the processes that a test starts of itself.
const CHILD: &str = "PIPEKEEPER_TEST_WRITE";

const PROCESSES: usize = 3;
const TASKS: usize = 4;
const ROUNDS: i64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_write_one_file_and_no_write_is_lost() {
    #[expect(clippy::disallowed_methods, reason = "how a child learns its database")]
    let child = std::env::var(CHILD);
    if let Ok(url) = child {
        write(&open(&Secret::new(url))).await;
        return;
    }
    let database = TestDatabase::migrated(Backend::Sqlite).await;
    let store = database.store();
    let contended = insert(&store, consent("acme", "jane")).await;

    let url = database.url();
    at_once(PROCESSES, &["store::shared_file::"], (CHILD, url.expose()));

    // Each commit that was told to have taken effect is one entry of the log and one generation of the row.
    let count = |query| database.lines(query).unwrap().remove(0);
    let commits = i64::try_from(PROCESSES * TASKS).unwrap() * ROUNDS;
    let row = get(&store, &contended).await;
    assert_eq!((row.generation, row.lease_owner), (1 + commits, None));
    assert_eq!(
        count("SELECT CAST(COUNT(*) AS TEXT) AS line FROM refresh_log"),
        commits.to_string()
    );
    assert_eq!(
        count("SELECT CAST(COUNT(*) AS TEXT) AS line FROM connections"),
        (1 + commits).to_string()
    );
}

/// All of them want the same row, and add rows of their own meanwhile. That the database is busy reaches none.
async fn write(store: &Store) {
    let found = store
        .connection_find_by_owner(&app(), &name("acme"), &name("jane"))
        .await;
    let id = found.unwrap().unwrap().id;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (store, id) = (store.clone(), id.clone());
        tasks.spawn(async move {
            let owner = format!("{}/{task}", std::process::id());
            for round in 0..ROUNDS {
                insert(&store, consent(&owner, &round.to_string())).await;
                commit_once(&store, &id, &owner).await;
            }
        });
    }
    tasks.join_all().await;
}

async fn commit_once(store: &Store, id: &ConnectionId, owner: &str) {
    loop {
        let seen = get(store, id).await.generation;
        let leased = store
            .lease_acquire(id, seen, ConnectionState::Active, owner)
            .await
            .unwrap();
        if !leased {
            tokio::task::yield_now().await;
            continue;
        }
        assert!(
            store
                .connection_commit(id, seen, &commit(), at(1))
                .await
                .unwrap()
        );
        let entry = RefreshLogEntry {
            connection_id: id.clone(),
            started_at: at(1),
            trigger: "sweep".to_owned(),
            outcome: "refreshed".to_owned(),
            generation_before: seen,
            generation_after: Some(seen + 1),
            duration_ms: 1,
            error: None,
        };
        store.refresh_log_insert(&[entry]).await.unwrap();
        return;
    }
}
