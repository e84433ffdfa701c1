use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, Schema};
use pipekeeper_testing::{TestDatabase, open};

use super::again::at_once;

/// Set for the processes that a test starts of itself.
const CHILD: &str = "PIPEKEEPER_TEST_MIGRATE";

pub(crate) async fn six_processes_can_migrate_at_once(backend: Backend) {
    #[expect(clippy::disallowed_methods, reason = "how a child learns its database")]
    let child = std::env::var(CHILD);
    if let Ok(url) = child {
        open(&Secret::new(url)).migrate().await.unwrap();
        return;
    }
    let database = TestDatabase::create(backend);
    let this_test = format!("store::{backend}::six_processes_can_migrate_at_once");

    let url = database.url();
    at_once(6, &[&this_test, "--exact"], (CHILD, url.expose()));

    let status = database.store().schema_status().await.unwrap();
    assert_eq!(status, Schema::Current);
}

pub(crate) async fn migrations_run_on_a_runtime_of_one_thread(backend: Backend) {
    let database = TestDatabase::create(backend);
    let store = database.store();

    let ran = std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(async { (store.migrate().await, store.migrate().await) })
    })
    .join()
    .unwrap();

    assert!(matches!(ran, (Ok(13), Ok(0))), "{ran:?}");
}

pub(crate) async fn up_down_up_gives_the_same_schema(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let first = schema(&database);
    assert!(first.len() > 10, "{first:#?}");

    let down = database.revert_all();
    let bare = schema(&database);
    let up = store.migrate().await.unwrap();

    assert_eq!((down, up), (13, 13));
    assert!(
        bare.iter()
            .all(|line| line.contains("__diesel_schema_migrations")),
        "{bare:#?}"
    );
    assert_eq!(schema(&database), first);
}

/// Everything that the catalogues say of our tables.
fn schema(database: &TestDatabase) -> Vec<String> {
    let query = match database.backend() {
        Backend::Sqlite => "SELECT sql AS line FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name",
        Backend::Postgres => {
            "SELECT concat_ws(' ', 'column', table_name, column_name, data_type, is_nullable, collation_name)
               FROM information_schema.columns WHERE table_schema = 'public'
             UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
             UNION ALL SELECT concat_ws(' ', 'view', viewname, definition) FROM pg_views WHERE schemaname = 'public'
             UNION ALL SELECT concat_ws(' ', 'policy', tablename, policyname, roles, cmd, qual, with_check)
               FROM pg_policies
             UNION ALL SELECT concat_ws(' ', 'relation', relname, relrowsecurity, relacl, reloptions)
               FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname !~ 'pkey'
             ORDER BY 1"
        }
        Backend::Mysql => {
            "SELECT CONCAT_WS(' ', 'column', table_name, column_name, column_type, is_nullable, collation_name) AS line
               FROM information_schema.columns WHERE table_schema = DATABASE()
             UNION ALL SELECT CONCAT_WS(' ', 'index', table_name, index_name, non_unique, seq_in_index, column_name)
               FROM information_schema.statistics WHERE table_schema = DATABASE()
             UNION ALL SELECT CONCAT_WS(' ', 'view', table_name, security_type, view_definition)
               FROM information_schema.views WHERE table_schema = DATABASE()
             ORDER BY 1"
        }
    };
    database.lines(query).unwrap()
}

pub(crate) async fn schema_status_tells_behind_from_newer(backend: Backend) {
    let database = TestDatabase::create(backend);
    let store = database.store();

    let behind = store.schema_status().await.unwrap();
    let Schema::Behind { missing } = behind else {
        unreachable!("{behind:?}")
    };
    assert_eq!(
        missing.first().map(String::as_str),
        Some("0001_connections")
    );

    assert_eq!(store.migrate().await.unwrap(), missing.len());
    assert_eq!(store.migrate().await.unwrap(), 0);
    assert_eq!(store.schema_status().await.unwrap(), Schema::Current);

    database
        .lines("INSERT INTO __diesel_schema_migrations (version) VALUES ('9001')")
        .unwrap();
    let newer = Schema::Newer {
        unknown: vec!["9001".to_owned()],
    };
    assert_eq!(store.schema_status().await.unwrap(), newer);
}

/// The columns of `connections_overview`, as the database has them.
pub(crate) fn overview_columns(database: &TestDatabase) -> Vec<String> {
    let query = match database.backend() {
        Backend::Sqlite => "SELECT name AS line FROM pragma_table_info('connections_overview')",
        Backend::Postgres => {
            "SELECT column_name FROM information_schema.columns
             WHERE table_schema = 'public' AND table_name = 'connections_overview'"
        }
        Backend::Mysql => {
            "SELECT column_name FROM information_schema.columns
             WHERE table_schema = DATABASE() AND table_name = 'connections_overview'"
        }
    };
    database.lines(query).unwrap()
}

pub(crate) async fn overview_shows_no_secrets(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;

    let columns = overview_columns(&database);

    assert_eq!(columns.len(), 30, "{columns:?}");
    for hidden in ["access_token", "refresh_token", "lease_owner"] {
        assert!(!columns.iter().any(|column| column == hidden), "{hidden}");
    }
    database
        .lines("SELECT account_id AS line FROM connections_overview")
        .unwrap();
}
