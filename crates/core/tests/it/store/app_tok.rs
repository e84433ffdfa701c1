use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{AppTok, Backend};
use pipekeeper_core::test_util::TestDatabase;

use super::at;

fn table(backend: Backend) -> &'static str {
    match backend {
        Backend::Postgres => "\"App_tok\"",
        Backend::Mysql | Backend::Sqlite => "App_tok",
    }
}

/// As somebody made it: a number or a UUID for an id, times or text.
fn create(database: &TestDatabase, id: &str, time: &str) -> AppTok {
    let backend = database.backend();
    let name = |name: &str| match backend {
        Backend::Postgres => format!("\"{name}\""),
        Backend::Mysql | Backend::Sqlite => name.to_owned(),
    };
    let create = format!(
        "CREATE TABLE {} (id {id}, created_at {time}, {} VARCHAR(64), {} VARCHAR(64), acc_token VARCHAR(400), \
         ref_token VARCHAR(400), updated_at {time})",
        table(backend),
        name("AppId"),
        name("Platform"),
    );
    database.lines(&create).unwrap();
    AppTok::open(&database.url(), "App_tok".parse().unwrap()).unwrap()
}

fn insert(database: &TestDatabase, id: &str, values: &str) {
    let table = table(database.backend());
    let insert = format!("INSERT INTO {table} VALUES ({id}, {values})");
    database.lines(&insert).unwrap();
}

fn times(backend: Backend) -> [&'static str; 2] {
    match backend {
        Backend::Postgres => ["timestamptz", "text"],
        Backend::Mysql => ["DATETIME", "VARCHAR(64)"],
        Backend::Sqlite => ["TEXT", "INTEGER"],
    }
}

pub(crate) async fn rows_of_the_old_table_are_read_whatever_their_types(backend: Backend) {
    for (id, key) in [("BIGINT", ["1", "10"]), ("VARCHAR(64)", ["'a'", "'b c'"])] {
        for time in times(backend) {
            let database = TestDatabase::create(backend);
            let old = create(&database, id, time);
            let rest = "'2026-01-01 00:00:00', 'app', 'Pipedrive', 'acc', 'ref', NULL";
            insert(&database, key[0], rest);
            insert(&database, key[1], "NULL, NULL, '', NULL, 'ö🦀', NULL");

            let rows = old.rows().await.unwrap();

            let ids: Vec<_> = rows.iter().map(|row| row.id.as_str()).collect();
            assert_eq!(ids, key.map(|key| key.trim_matches('\'')), "{id} {time}");
            assert_eq!(rows[0].app_id.as_deref(), Some("app"));
            assert!(
                rows[0]
                    .created_at
                    .as_deref()
                    .unwrap()
                    .starts_with("2026-01-01 ")
            );
            assert_eq!((&rows[1].app_id, &rows[1].platform), (&None, &None));
            assert_eq!(rows[1].access_token.expose(), "");
            assert_eq!(rows[1].refresh_token.expose(), "ö🦀");
            assert_eq!(old.row(ids[1]).await.unwrap().unwrap().id, ids[1]);
            assert!(old.row("nobody").await.unwrap().is_none());
        }
    }
    // More than one page.
    let database = TestDatabase::create(backend);
    let old = create(&database, "BIGINT", times(backend)[0]);
    let rest = "NULL, 'app', 'Pipedrive', 'acc', 'ref', NULL";
    let values: Vec<String> = (1..=1201).map(|id| format!("({id}, {rest})")).collect();
    let table = table(backend);
    let insert = format!("INSERT INTO {table} VALUES {}", values.join(", "));
    database.lines(&insert).unwrap();
    assert_eq!(old.rows().await.unwrap().len(), 1201);
}

pub(crate) async fn old_row_is_written_to_by_its_id_and_as_it_was_seen(backend: Backend) {
    for time in times(backend) {
        let database = TestDatabase::create(backend);
        let old = create(&database, "BIGINT", time);
        for id in ["1", "2"] {
            insert(
                &database,
                id,
                "NULL, 'app', 'Pipedrive', 'acc', 'ref', NULL",
            );
        }
        let other = old.row("2").await.unwrap().unwrap();
        let seen = old.row("1").await.unwrap().unwrap();

        let token = Secret::from("it's new; --");
        assert!(old.access_token_write(&seen, &token, at(0)).await.unwrap());
        assert!(!old.access_token_write(&seen, &token, at(0)).await.unwrap());

        let now = old.row("1").await.unwrap().unwrap();
        assert_eq!(now.access_token.expose(), token.expose());
        assert_eq!(now.refresh_token.expose(), "ref");
        let written = now.updated_at.clone().unwrap();
        assert!(written.starts_with("2027-01-15"), "{time}: {written}");
        let (access, refresh) = (Secret::from("a2"), Secret::from("r2"));
        assert!(
            old.tokens_write(&now, &access, &refresh, at(1))
                .await
                .unwrap()
        );
        assert!(
            !old.tokens_write(&now, &access, &refresh, at(1))
                .await
                .unwrap()
        );
        let now = old.row("1").await.unwrap().unwrap();
        assert_eq!(
            (now.access_token.expose(), now.refresh_token.expose()),
            ("a2", "r2")
        );
        let untouched = old.row("2").await.unwrap().unwrap();
        assert_eq!(untouched.access_token.expose(), other.access_token.expose());
        assert_eq!(untouched.updated_at, None);
    }
}

pub(crate) async fn old_table_that_lacks_a_column_is_said(backend: Backend) {
    let database = TestDatabase::create(backend);
    let create = format!(
        "CREATE TABLE {} (id INTEGER, acc_token VARCHAR(9))",
        table(backend)
    );
    database.lines(&create).unwrap();
    let old = AppTok::open(&database.url(), "App_tok".parse().unwrap()).unwrap();

    assert!(old.rows().await.is_err());
}
