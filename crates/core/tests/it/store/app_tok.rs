use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{AppTok, AppTokRow, Backend, RowTokens, RowWrite};
use pipekeeper_testing::{TestDatabase, role_name};

use super::at;

fn table(backend: Backend) -> &'static str {
    match backend {
        Backend::Postgres => "\"App_tok\"",
        Backend::Mysql | Backend::Sqlite => "App_tok",
    }
}

/// As people made it: a number or a UUID for an id, times or text.
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

            let ids: Vec<_> = rows.iter().filter_map(|row| row.id.as_deref()).collect();
            assert_eq!(ids, key.map(|key| key.trim_matches('\'')), "{id} {time}");
            assert_eq!(rows[0].app_id.as_deref(), Some("app"));
            let created = Timestamp::parse(rows[0].created_at.as_deref().unwrap());
            assert_eq!(created, Timestamp::parse("2026-01-01T00:00:00Z"), "{time}");
            assert_eq!((&rows[1].app_id, &rows[1].platform), (&None, &None));
            assert_eq!(rows[1].access_token.expose(), "");
            assert_eq!(rows[1].refresh_token.expose(), "ö🦀");
            let one = old.rows_with(ids[1]).await.unwrap();
            assert_eq!(one.len(), 1);
            assert_eq!(one[0].id.as_deref(), Some(ids[1]));
            assert!(old.rows_with("stranger").await.unwrap().is_empty());
        }
    }
    let database = TestDatabase::create(backend);
    let old = create(&database, "BIGINT", times(backend)[0]);
    let rest = "NULL, 'app', 'Pipedrive', 'acc', 'ref', NULL";
    for id in ["NULL", "7", "7", "NULL"] {
        insert(&database, id, rest);
    }
    let rows = old.rows().await.unwrap();
    assert_eq!(rows.len(), 4, "no row is skipped");
    assert_eq!(rows.iter().filter(|row| row.id.is_none()).count(), 2);
    assert_eq!(old.rows_with("7").await.unwrap().len(), 2);
}

/// How the server writes times, and in which zone, makes no difference.
pub(crate) async fn times_of_the_old_table_are_read_with_their_zone(backend: Backend) {
    if backend != Backend::Postgres {
        return;
    }
    let database = TestDatabase::create(backend);
    let old = create(&database, "BIGINT", "timestamptz");
    let name = database
        .lines("SELECT current_database()")
        .unwrap()
        .remove(0);
    for setting in [
        "datestyle = 'SQL, DMY'",
        "timezone = 'Europe/Berlin'",
        "default_transaction_isolation = 'serializable'",
    ] {
        let set = format!("ALTER DATABASE {name} SET {setting}");
        database.lines(&set).unwrap();
    }
    // Twice 02:30 o'clock in Berlin.
    for (id, at) in [("1", "2026-10-25T00:30:00Z"), ("2", "2026-10-25T01:30:00Z")] {
        let rest = format!("'{at}', 'app', 'Pipedrive', 'acc', 'ref', NULL");
        insert(&database, id, &rest);
    }

    let rows = old.rows().await.unwrap();

    let times: Vec<_> = rows
        .iter()
        .map(|row| Timestamp::parse(row.created_at.as_deref().unwrap()))
        .collect();
    let expected = ["2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z"].map(Timestamp::parse);
    assert_eq!(times, expected);
}

/// A table whose rows are hidden from a role looks empty to it.
pub(crate) async fn row_level_security_that_hides_rows_is_seen(backend: Backend) {
    let database = TestDatabase::create(backend);
    let old = create(&database, "BIGINT", times(backend)[0]);
    let rest = "NULL, 'app', 'Pipedrive', 'acc', 'ref', NULL";
    insert(&database, "1", rest);
    assert!(!old.hides_rows().await.unwrap());
    if backend != Backend::Postgres {
        return;
    }
    let reader = role_name();
    for statement in [
        format!("CREATE ROLE {reader} LOGIN PASSWORD 'secret'"),
        format!("GRANT SELECT ON \"App_tok\" TO {reader}"),
        "ALTER TABLE \"App_tok\" ENABLE ROW LEVEL SECURITY".to_owned(),
    ] {
        database.lines(&statement).unwrap();
    }
    let url = database.url_by(&reader, "secret");
    let reading = AppTok::open(&url, "App_tok".parse().unwrap()).unwrap();

    assert!(reading.rows().await.unwrap().is_empty());
    assert!(reading.hides_rows().await.unwrap());
    assert!(!old.hides_rows().await.unwrap(), "a superuser sees them");
    for statement in [
        format!("DROP OWNED BY {reader}"),
        format!("DROP ROLE {reader}"),
    ] {
        database.lines(&statement).unwrap();
    }
}

async fn row(old: &AppTok, id: &str) -> AppTokRow {
    old.rows_with(id).await.unwrap().remove(0)
}

fn tokens<'a>(access_token: &'a Secret, refresh_token: &'a Secret) -> RowTokens<'a> {
    RowTokens {
        access_token,
        refresh_token,
    }
}

pub(crate) async fn old_row_is_written_to_by_its_id_and_as_it_was_seen(backend: Backend) {
    for time in times(backend) {
        let database = TestDatabase::create(backend);
        let old = create(&database, "BIGINT", time);
        for id in ["1", "2", "7", "7"] {
            let rest = "NULL, 'app', 'Pipedrive', 'acc', 'ref\n', NULL";
            insert(&database, id, rest);
        }
        let (other, twin) = (row(&old, "2").await, row(&old, "7").await);
        let seen = row(&old, "1").await;
        let (access, refresh) = (Secret::from("it's new; --"), Secret::from("r2"));
        let given = tokens(&access, &refresh);

        assert_eq!(
            old.try_write(&seen, given, at(0)).await.unwrap(),
            RowWrite::Written
        );
        assert!(
            row(&old, "1")
                .await
                .holds(tokens(&seen.access_token, &seen.refresh_token))
        );
        assert_eq!(
            old.write(&seen, given, at(0)).await.unwrap(),
            RowWrite::Written
        );
        assert_eq!(
            old.write(&seen, given, at(0)).await.unwrap(),
            RowWrite::Conflict
        );
        assert_eq!(
            old.write(&twin, given, at(0)).await.unwrap(),
            RowWrite::Conflict,
            "two rows have this id"
        );

        let now = row(&old, "1").await;
        assert!(now.holds(given));
        let written = now.updated_at.clone().unwrap();
        assert!(written.starts_with("2027-01-15"), "{time}: {written}");
        for (id, before) in [("2", other), ("7", twin)] {
            let untouched = row(&old, id).await;
            let before = tokens(&before.access_token, &before.refresh_token);
            assert!(untouched.holds(before), "{id}");
            assert_eq!(untouched.updated_at, None);
        }
    }
}

/// Another copy of the tokens is given up only once the row was read back.
pub(crate) async fn row_that_would_not_hold_what_it_is_given_is_left_as_it_was(backend: Backend) {
    let database = TestDatabase::create(backend);
    let old = create(&database, "BIGINT", times(backend)[0]);
    insert(
        &database,
        "1",
        "NULL, 'app', 'Pipedrive', 'acc', 'ref', NULL",
    );
    let seen = row(&old, "1").await;
    for statement in cutting(backend) {
        database.lines(statement).unwrap();
    }
    let (access, refresh) = (Secret::from("acc"), Secret::from("refresh-token"));
    let given = tokens(&access, &refresh);

    for written in [
        old.try_write(&seen, given, at(0)).await,
        old.write(&seen, given, at(0)).await,
    ] {
        assert_eq!(written.unwrap(), RowWrite::Altered);
    }

    assert!(
        row(&old, "1")
            .await
            .holds(tokens(&seen.access_token, &seen.refresh_token))
    );
    let short = Secret::from("short");
    let fits = tokens(&access, &short);
    assert_eq!(
        old.write(&seen, fits, at(0)).await.unwrap(),
        RowWrite::Written
    );
}

/// As a column does that is too short, on a server that is told to be lenient.
fn cutting(backend: Backend) -> &'static [&'static str] {
    match backend {
        Backend::Postgres => &[
            "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS \
             $$ BEGIN NEW.ref_token = left(NEW.ref_token, 9); RETURN NEW; END $$",
            "CREATE TRIGGER cut BEFORE UPDATE ON \"App_tok\" FOR EACH ROW EXECUTE FUNCTION cut()",
        ],
        Backend::Mysql => &[
            "CREATE TRIGGER cut BEFORE UPDATE ON App_tok FOR EACH ROW SET NEW.ref_token = LEFT(NEW.ref_token, 9)",
        ],
        Backend::Sqlite => &["CREATE TRIGGER cut AFTER UPDATE ON App_tok BEGIN \
               UPDATE App_tok SET ref_token = substr(ref_token, 1, 9) WHERE id = NEW.id; END"],
    }
}

/// With `MyISAM` nothing can be taken back, and so nothing is tried.
pub(crate) async fn write_is_not_tried_where_it_cannot_be_undone(backend: Backend) {
    if backend != Backend::Mysql {
        return;
    }
    let database = TestDatabase::create(backend);
    let old = create(&database, "BIGINT", times(backend)[0]);
    insert(
        &database,
        "1",
        "NULL, 'app', 'Pipedrive', 'acc', 'ref', NULL",
    );
    database
        .lines("ALTER TABLE App_tok ENGINE = MyISAM")
        .unwrap();
    let seen = row(&old, "1").await;
    let (access, refresh) = (Secret::from("a2"), Secret::from("r2"));

    let tried = old.try_write(&seen, tokens(&access, &refresh), at(0)).await;

    assert_eq!(tried.unwrap(), RowWrite::NotTransactional);
    assert_eq!(row(&old, "1").await.access_token.expose(), "acc");
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
