//! Transactions that a server undoes in favour of others are repeated by the store.

use pipekeeper_core::connection::ConnectionState;
use pipekeeper_core::store::{Backend, Diagnosis, RefreshLogEntry, Store, StoreError};
use pipekeeper_testing::TestDatabase;
use tokio::task::JoinSet;

use super::{at, commit, consent, get, insert};

/// Has the next updates of `connections` fail with this error, so many times. The count is kept where no rollback reaches it.
fn fail(database: &TestDatabase, backend: Backend, error: &str, times: u32) {
    let statements = match backend {
        Backend::Postgres => vec![
            "CREATE SEQUENCE IF NOT EXISTS attempts".to_owned(),
            "ALTER SEQUENCE attempts RESTART".to_owned(),
            format!(
                "CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
                 IF nextval('attempts') <= {times} THEN RAISE EXCEPTION 'on purpose' USING ERRCODE = '{error}'; END IF; \
                 RETURN NEW; END $$"
            ),
            "CREATE OR REPLACE TRIGGER fail BEFORE UPDATE ON connections FOR EACH ROW EXECUTE FUNCTION fail()"
                .to_owned(),
        ],
        _ => vec![
            "CREATE TABLE IF NOT EXISTS attempts (made INT NOT NULL) ENGINE = MyISAM".to_owned(),
            "DELETE FROM attempts".to_owned(),
            "INSERT INTO attempts VALUES (0)".to_owned(),
            format!(
                "CREATE OR REPLACE TRIGGER fail BEFORE UPDATE ON connections FOR EACH ROW BEGIN \
                 UPDATE attempts SET made = made + 1; \
                 IF (SELECT made FROM attempts) <= {times} THEN {error}; END IF; END"
            ),
        ],
    };
    for statement in statements {
        database.lines(&statement).unwrap();
    }
}

fn attempts(database: &TestDatabase, backend: Backend) -> u32 {
    let query = match backend {
        Backend::Postgres => "SELECT last_value FROM attempts",
        _ => "SELECT made FROM attempts",
    };
    database.lines(query).unwrap().remove(0).parse().unwrap()
}

/// What a server says of a transaction that it undid: SQLSTATEs, or statements that say the same as the server.
fn conflicts(backend: Backend) -> Vec<String> {
    match backend {
        Backend::Postgres => vec!["40001".to_owned(), "40P01".to_owned()],
        _ => [
            (
                1213,
                "Deadlock found when trying to get lock; try restarting transaction",
            ),
            (
                1205,
                "Lock wait timeout exceeded; try restarting transaction",
            ),
            (
                1020,
                "Record has changed since last read in table \'connections\'",
            ),
            (1047, "WSREP has not yet prepared node for application use"),
        ]
        .map(|(number, text)| {
            let text = text.replace('\'', "\'\'");
            format!("SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = {number}, MESSAGE_TEXT = '{text}'")
        })
        .to_vec(),
    }
}

pub(crate) async fn a_query_that_lost_a_conflict_is_repeated(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;

    for (generation, error) in (1..).zip(conflicts(backend)) {
        fail(&database, backend, &error, 3);

        let committed = store
            .connection_commit(&id, generation, &commit(), at(1))
            .await;

        assert!(committed.unwrap(), "{error}");
        assert_eq!(attempts(&database, backend), 4, "{error}");
        assert_eq!(get(&store, &id).await.generation, generation + 1, "{error}");
    }
}

pub(crate) async fn a_conflict_without_end_is_given_up_on(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    let error = conflicts(backend).remove(0);
    fail(&database, backend, &error, 1000);

    let failed = store
        .connection_commit(&id, 1, &commit(), at(1))
        .await
        .unwrap_err();

    assert!(failed.is_unavailable(), "{failed:?}");
    assert_eq!(failed.diagnosis(), Some(Diagnosis::Conflicts), "{failed:?}");
    let attempts = attempts(&database, backend);
    assert!((3..=20).contains(&attempts), "{attempts}");
    assert_eq!(get(&store, &id).await.generation, 1);
}

/// What may have had an effect, and what stays wrong, is not repeated.
pub(crate) async fn other_errors_are_not_repeated(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    let errors: &[&str] = match backend {
        // completion unknown; cancelled by a time limit; a check that others added
        Backend::Postgres => &["40003", "57014", "23514"],
        _ => &["SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'"],
    };
    for error in errors {
        fail(&database, backend, error, 1);

        let failed = store.connection_commit(&id, 1, &commit(), at(1)).await;

        assert!(failed.is_err(), "{error}");
        assert_eq!(attempts(&database, backend), 1, "{error}");
    }
}

/// Postgres ends the session with an error whose code is none of those for a lost connection.
pub(super) async fn a_session_that_postgres_ends_is_a_lost_connection() {
    let database = TestDatabase::migrated(Backend::Postgres).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    for statement in [
        "CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         SET LOCAL transaction_timeout = '50ms'; PERFORM pg_sleep(100); RETURN NEW; END $$",
        "CREATE TRIGGER linger BEFORE UPDATE ON connections FOR EACH ROW EXECUTE FUNCTION linger()",
    ] {
        database.lines(statement).unwrap();
    }

    let failed = store.connection_commit(&id, 1, &commit(), at(1)).await;

    assert!(
        failed.as_ref().is_err_and(StoreError::is_unavailable),
        "{failed:?}"
    );
    assert_eq!(get(&store, &id).await.generation, 1);
}

/// Each level of isolation that an administrator may have made the default.
pub(super) async fn no_isolation_level_of_postgres_reaches_a_caller() {
    for level in ["read committed", "repeatable read", "serializable"] {
        let database = TestDatabase::migrated(Backend::Postgres).await;
        let name = database
            .lines("SELECT current_database()")
            .unwrap()
            .remove(0);
        let set = format!("ALTER DATABASE {name} SET default_transaction_isolation = '{level}'");
        database.lines(&set).unwrap();
        let store = database.store();
        let mut writers = JoinSet::new();
        for owner in 0..4 {
            let store = store.clone();
            writers.spawn(async move { write(&store, &format!("owner-{owner}")).await });
        }
        writers.join_all().await;

        let levels = database
            .lines("SHOW default_transaction_isolation")
            .unwrap();
        assert_eq!(levels, [level]);
        let rows = database.lines("SELECT COUNT(*) FROM refresh_log").unwrap();
        assert_eq!(rows, ["16"], "{level}");
    }
}

/// What a refresh reads and writes, four times over.
async fn write(store: &Store, owner: &str) {
    let id = insert(store, consent(owner, "jane")).await;
    for generation in 1..=4 {
        let leased = store.lease_acquire(&id, generation, ConnectionState::Active, owner);
        assert!(leased.await.unwrap());
        assert!(
            store
                .connection_commit(&id, generation, &commit(), at(1))
                .await
                .unwrap()
        );
        let entry = RefreshLogEntry {
            connection_id: id.clone(),
            started_at: at(1),
            trigger: "webhook".to_owned(),
            outcome: "refreshed".to_owned(),
            generation_before: generation,
            generation_after: Some(generation + 1),
            duration_ms: 1,
            error: None,
        };
        store.refresh_log_insert(&[entry]).await.unwrap();
        store.due_since(at(86_400)).await.unwrap();
    }
}
