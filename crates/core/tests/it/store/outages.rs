use std::error::Error as _;
use std::iter::successors;
use std::time::Duration;

use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, Beat, Store, StoreError, StoreOptions};
use pipekeeper_testing::{TestDatabase, open, patient};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{consent, insert};

/// Nothing on a slow machine takes so long that does not hang.
const HANGS: Duration = Duration::from_mins(2);

/// The causes of an error.
fn said(error: &StoreError) -> String {
    let causes = successors(error.source(), |&cause| cause.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    causes.join("\n")
}

/// As many at once as the pool has connections.
async fn ping_all(store: &Store) -> Vec<Result<(), StoreError>> {
    let mut pings = JoinSet::new();
    for _ in 0..10 {
        let store = store.clone();
        pings.spawn(async move { store.ping().await });
    }
    pings.join_all().await
}

pub(crate) async fn store_recovers_from_a_cut_by_itself(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let gate = database.gate();
    let store = open(&gate.url());
    assert!(ping_all(&store).await.iter().all(Result::is_ok));

    gate.cut();
    for outcome in ping_all(&store).await {
        let error = outcome.unwrap_err();
        assert!(error.is_unavailable());
        // Noticed because the connection is closed, and not because a time limit has passed.
        let said = said(&error);
        let timed_out = ["time limit", "deadline has elapsed"];
        assert!(
            !timed_out.iter().any(|words| said.contains(words)),
            "{said}"
        );
    }
    gate.open();
    for outcome in ping_all(&store).await {
        outcome.expect("the first request afterwards already succeeds");
    }

    // A restart between two requests: none of the idle connections is any good, and no request notices.
    gate.cut();
    gate.open();
    sleep(Duration::from_millis(600)).await;
    for outcome in ping_all(&store).await {
        outcome.expect("dead connections are not lent");
    }
}

pub(crate) async fn a_heartbeat_tells_of_a_lost_connection(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let gate = database.gate();
    let store = open(&gate.url());
    let mut heartbeat = store.heartbeat();
    for _ in 0..3 {
        assert_eq!(heartbeat.beat().await.unwrap(), Beat::Steady);
    }
    store.ping().await.unwrap();
    let events = store.pool_events();
    store.ping().await.unwrap();
    assert_eq!(store.pool_events(), events, "the same connection");

    gate.cut();
    heartbeat.beat().await.unwrap_err();
    heartbeat.beat().await.unwrap_err();
    gate.open();
    store.ping().await.ok();
    assert_ne!(store.pool_events(), events);

    assert_eq!(heartbeat.beat().await.unwrap(), Beat::Reconnected);
    assert_eq!(heartbeat.beat().await.unwrap(), Beat::Steady);
}

pub(crate) async fn silent_server_is_given_up_on(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let gate = database.gate();
    let options = StoreOptions {
        max_connections: 2,
        acquire_timeout: Duration::from_millis(400),
        query_timeout: Duration::from_millis(400),
        ..patient()
    };
    let store = Store::open(&gate.url(), &options).unwrap();
    // On a slow machine not even an idle server is as fast as these limits.
    let answers = async || while store.ping().await.is_err() {};
    timeout(HANGS, answers()).await.expect("an idle server");

    gate.stall();
    for _ in 0..3 {
        let outcome = timeout(HANGS, store.ping()).await;
        let outcome = outcome.expect("its own limits are shorter");
        assert!(outcome.is_err_and(|error| error.is_unavailable()));
    }
    gate.open();

    timeout(HANGS, answers()).await.expect("it is back");
}

pub(crate) async fn dropped_request_does_not_garble_the_next(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let options = StoreOptions {
        max_connections: 1,
        ..patient()
    };
    let store = Store::open(&database.url(), &options).unwrap();
    let one = insert(&store, consent("acme", "jane")).await;
    let other = insert(&store, consent("acme", "joe")).await;

    for step in 0..60 {
        let hurried = timeout(
            Duration::from_micros(step * 40),
            store.connection_find(&one),
        )
        .await;
        if let Ok(found) = hurried {
            assert_eq!(found.unwrap().unwrap().id, one);
        }
        let found = store.connection_find(&other).await.unwrap().unwrap();
        assert_eq!(found.id, other);
    }
}

pub(crate) async fn refused_logins_say_why_without_the_password(backend: Backend) {
    let database = TestDatabase::create(backend);
    let url = database.url();
    let changed = |change: &dyn Fn(&mut url::Url)| {
        let mut url = url::Url::parse(url.expose()).unwrap();
        change(&mut url);
        Secret::new(url.into())
    };
    let wrong_password = changed(&|url| url.set_password(Some("hunter2")).unwrap());
    let unknown_database = changed(&|url| url.set_path("/nowhere"));
    let closed_port = changed(&|url| {
        url.set_password(Some("hunter2")).unwrap();
        url.set_port(Some(1)).unwrap();
    });

    for (url, why) in [
        (
            wrong_password,
            ["password authentication failed", "Access denied"],
        ),
        (unknown_database, ["does not exist", "Unknown database"]),
        (closed_port, ["refused", "refused"]),
    ] {
        let error = open(&url).ping().await.unwrap_err();
        assert!(error.is_unavailable(), "{error:?}");
        let said = said(&error);
        assert!(why.iter().any(|why| said.contains(why)), "{said}");
        assert!(!format!("{error} {error:?} {said}").contains("hunter2"));
    }
}

#[test]
fn unusable_urls_are_refused_without_their_contents() {
    for url in [
        "",
        "hunter2",
        "redis://u:hunter2@h/d",
        "postgresx://u:hunter2@h/d",
        "postgres://u:hunter2@h:port/d",
        "postgres://u:x@h/d?sslmode=hunter2",
        "postgres://u:x?hunter2=y@h/d",
        "mysql://u:hunter2@h:99999/d",
        "mysql://u:x?hunter2=y@h/d",
        "mysql://u:x#hunter2=y@h/d",
        "postgres://u:x@h/d?application_name=hunter2#y",
        "postgres://u:x@h/d?connect_timeout=hunter2",
        "postgres://u:hunter2@a:1,b:2/d",
        "mysql://u:x@h/d?ssl_ca=/nowhere/ca.pem&require_ssl=true",
        "mysql://u:hunter2@h/d?require_ssl=true&verify_identity=false",
        "sqlite:",
        "sqlite::memory:",
        "sqlite://x.db?key=hunter2",
    ] {
        let error = Store::open(&Secret::from(url), &StoreOptions::default()).unwrap_err();
        assert!(matches!(error, StoreError::Url { .. }), "{url}: {error:?}");
        let cause = error.source().unwrap();
        let shown = format!("{error} {error:?} {cause} {cause:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn every_scheme_opens_without_connecting() {
    for (url, backend) in [
        ("postgres://u:p@192.0.2.1/d", Backend::Postgres),
        (
            "postgresql://u:p@h:6543/d?pgbouncer=true",
            Backend::Postgres,
        ),
        ("postgresql:///d?host=/run/postgresql", Backend::Postgres),
        ("mysql://u:p@192.0.2.1/d?require_ssl=true", Backend::Mysql),
        ("mariadb://u:p@h/d", Backend::Mysql),
        ("sqlite:/nowhere/at/all.db", Backend::Sqlite),
        ("sqlite://relative.db", Backend::Sqlite),
    ] {
        let store = Store::open(&Secret::from(url), &StoreOptions::default()).unwrap();
        assert_eq!(store.backend(), backend);
        assert!(!format!("{store:?}").contains("192.0.2.1"));
    }
}

#[tokio::test]
async fn sqlite_files_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let database = TestDatabase::migrated(Backend::Sqlite).await;
    let path = database
        .url()
        .expose()
        .trim_start_matches("sqlite:")
        .to_owned();
    // Another connection keeps the `-wal` file.
    let store = database.store();
    store.ping().await.unwrap();
    insert(&store, consent("acme", "jane")).await;

    for suffix in ["", "-wal", "-shm", ".migrate.lock"] {
        let mode = std::fs::metadata(format!("{path}{suffix}"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{suffix}");
    }
}

pub(crate) async fn connections_outlive_the_runtime_that_asked_first(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();

    for _worker in 0..2 {
        let store = store.clone();
        std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(store.ping())
        })
        .join()
        .unwrap()
        .unwrap();
    }

    store.ping().await.unwrap();
}
