//! On a Postgres that grants as much by default as Supabase's does.

use pipekeeper_core::store::Backend;
use pipekeeper_testing::TestDatabase;

use super::{consent, insert};

const RELATIONS: [&str; 10] = [
    "connections",
    "logins",
    "refresh_log",
    "page_marks",
    "connections_overview",
    "app_credentials",
    "imports",
    "default_connections",
    "callbacks",
    "__diesel_schema_migrations",
];

/// Roles belong to the server, where another test may have made them.
fn role(database: &TestDatabase, name: &str) {
    let create = format!(
        "DO $$ BEGIN CREATE ROLE {name} NOLOGIN; \
         EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
    );
    database.lines(&create).unwrap();
    database
        .lines(&format!("GRANT USAGE ON SCHEMA public TO {name}"))
        .unwrap();
}

pub(super) async fn visitors_read_and_delete_nothing() {
    let database = TestDatabase::create(Backend::Postgres);
    for visitor in ["anon", "authenticated"] {
        role(&database, visitor);
        let grant =
            format!("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO {visitor}");
        database.lines(&grant).unwrap();
    }
    let store = database.store();
    store.migrate().await.unwrap();
    insert(&store, consent("acme", "jane")).await;

    // Defaults let visitors call every function and use every sequence, too: there are none.
    let more = "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace \
         UNION ALL SELECT relname FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace";
    assert_eq!(database.lines(more).unwrap(), [""; 0]);
    let relations = "SELECT relname FROM pg_class WHERE relkind <> 'i' AND relnamespace = 'public'::regnamespace";
    let mut relations = database.lines(relations).unwrap();
    relations.sort();
    let mut expected = RELATIONS.map(str::to_owned);
    expected.sort();
    assert_eq!(relations, expected);
    for visitor in ["anon", "authenticated"] {
        for relation in RELATIONS {
            for act in ["SELECT * FROM", "DELETE FROM", "TRUNCATE"] {
                if (act, relation) == ("TRUNCATE", "connections_overview") {
                    continue;
                }
                let tried = database.lines(&format!("SET ROLE {visitor}; {act} {relation}"));
                let error = tried.expect_err(&format!("{visitor}: {act} {relation}"));
                assert!(error.contains("permission denied"), "{error}");
            }
        }
    }
    assert_eq!(database.lines("SELECT 1 FROM connections").unwrap(), ["1"]);
}

pub(super) async fn rights_without_a_policy_show_no_rows() {
    let database = TestDatabase::migrated(Backend::Postgres).await;
    insert(&database.store(), consent("acme", "jane")).await;
    role(&database, "pipekeeper_test_reader");
    let grant = "GRANT SELECT ON ALL TABLES IN SCHEMA public TO pipekeeper_test_reader";
    database.lines(grant).unwrap();

    for relation in RELATIONS {
        let query = format!("SET ROLE pipekeeper_test_reader; SELECT 1 FROM {relation}");
        assert_eq!(database.lines(&query).unwrap(), [""; 0], "{relation}");
    }
}
