//! A database that answers and takes no writes.

use pipekeeper_core::store::{Backend, Diagnosis, Store};
use pipekeeper_testing::{TestDatabase, admin_url, open};

use super::{at, consent, get, insert};

/// Reads succeed, writes are refused for this reason; then neither.
async fn is_refused_and_taken_again(
    store: &Store,
    diagnosis: Diagnosis,
    begin: impl AsyncFnOnce(),
    end: impl FnOnce(),
) {
    let id = insert(store, consent("acme", "jane")).await;
    assert_eq!(store.refuses_writes().await, None);

    begin().await;

    let error = store.connection_touch(&id, at(1), at(1)).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    assert_eq!(error.diagnosis(), Some(diagnosis), "{error:?}");
    assert_eq!(store.refuses_writes().await, Some(diagnosis));
    assert_eq!(get(store, &id).await.last_used_at, None);
    assert_eq!(
        store.refuses_writes().await,
        Some(diagnosis),
        "a read proves nothing"
    );

    end();

    store.connection_touch(&id, at(1), at(1)).await.unwrap();
    assert_eq!(store.refuses_writes().await, None);
}

pub(crate) async fn a_full_disk_is_told_from_a_database_that_is_away(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    is_refused_and_taken_again(
        &store,
        Diagnosis::DiskFull,
        async || database.fill_disk(),
        || database.clear_disk(),
    )
    .await;
}

pub(super) async fn a_default_of_postgres_that_forbids_writes_is_told_without_a_request() {
    let database = TestDatabase::migrated(Backend::Postgres).await;
    let name = database
        .lines("SELECT current_database()")
        .unwrap()
        .remove(0);
    let set = |value: &str| {
        let statement =
            format!("ALTER DATABASE {name} SET default_transaction_read_only = {value}");
        database
            .lines_by(&admin_url(Backend::Postgres), &statement)
            .unwrap();
    };

    set("on");
    // Each of these makes its first connection, which has the default of that time.
    let reader = open(&database.url());
    assert_eq!(reader.refuses_writes().await, Some(Diagnosis::ReadOnly));
    reader.schema_status().await.unwrap();
    set("off");
    // The first one finds a connection of before, and throws it away.
    reader.refuses_writes().await;
    assert_eq!(reader.refuses_writes().await, None);

    let store = open(&database.url());
    is_refused_and_taken_again(
        &store,
        Diagnosis::ReadOnly,
        async || {
            set("on");
            let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                          WHERE datname = current_database() AND pid <> pg_backend_pid()";
            database.lines(others).unwrap();
            // Its connections of before end in their own time.
            while store.refuses_writes().await != Some(Diagnosis::ReadOnly) {}
        },
        || set("off"),
    )
    .await;
}
