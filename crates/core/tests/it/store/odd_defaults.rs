//! Nothing is relied on that an administrator may have set for all sessions of a server.

use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{
    AppTok, Backend, Diagnosis, DueFor, NewConnection, RowTokens, RowWrite,
};
use pipekeeper_testing::{OddDefaults, TestDatabase, open};

use super::{app, at, consent, get, insert};

pub(super) async fn sessions_of_mysql_are_what_we_make_them() {
    let server = OddDefaults::start();
    // For an administrator `init_connect` is not run.
    let urls = [
        server.database("one"),
        server.database_of("services", "two"),
    ];
    for url in &urls {
        every_write_is_there_for_others(url).await;
    }
    old_table_is_written_for_others_to_see(&server.database_of("n8n", "three")).await;
    read_only_is_told(&server, &urls[1]).await;
}

async fn every_write_is_there_for_others(url: &Secret) {
    let store = open(url);
    store.migrate().await.unwrap();
    let id = insert(&store, consent("acme", "jane")).await;
    insert(&store, consent("acme", "joe")).await;
    store.connection_touch(&id, at(1), at(1)).await.unwrap();

    let others = open(url);
    assert_eq!(get(&others, &id).await.last_used_at, Some(at(1)));
    let all = others.connections_due(DueFor::Refresh, at(86_400), None, 10);
    assert_eq!(all.await.unwrap().len(), 2);
    // What does not fit is refused rather than cut.
    let mut long = consent("acme", "jack");
    long.company_id = "c".repeat(1000);
    let new = NewConnection {
        id: ConnectionId::generate(),
        app: app(),
        consent: long,
    };
    others.connection_insert(&new, at(0)).await.unwrap_err();
}

async fn old_table_is_written_for_others_to_see(url: &Secret) {
    OddDefaults::run_at(
        url,
        "CREATE TABLE App_tok (id INT PRIMARY KEY, AppId TEXT, Platform TEXT, acc_token TEXT, ref_token VARCHAR(30), \
         created_at DATETIME, updated_at DATETIME)",
    );
    OddDefaults::run_at(
        url,
        "INSERT INTO App_tok VALUES (1, 'a', 'Pipedrive', 'old', 'refresh', '2026-01-01', '2026-01-01')",
    );
    let table = || AppTok::open(url, "App_tok".parse().unwrap()).unwrap();
    let row = async || table().rows_with("1").await.unwrap().remove(0);

    let new = Secret::from("new");
    let seen = row().await;
    let tokens = RowTokens {
        access_token: &new,
        refresh_token: &seen.refresh_token,
    };
    let written = table().write(&seen, tokens, at(0)).await;

    assert_eq!(written.unwrap(), RowWrite::Written);
    let seen = row().await;
    assert_eq!(seen.access_token.expose(), "new");
    let long = Secret::new("t".repeat(65));
    let tokens = RowTokens {
        access_token: &new,
        refresh_token: &long,
    };
    table().write(&seen, tokens, at(0)).await.unwrap_err();
    assert_eq!(row().await.refresh_token.expose(), "refresh");
}

/// An administrator may write all the same.
async fn read_only_is_told(server: &OddDefaults, url: &Secret) {
    let store = open(url);
    let id = insert(&store, consent("acme", "jim")).await;
    assert_eq!(store.refuses_writes().await, None);

    server.run("SET GLOBAL read_only = 1");

    assert_eq!(store.refuses_writes().await, Some(Diagnosis::ReadOnly));
    let error = store.connection_touch(&id, at(1), at(1)).await.unwrap_err();
    assert_eq!(error.diagnosis(), Some(Diagnosis::ReadOnly), "{error:?}");
    assert_eq!(get(&store, &id).await.last_used_at, None);
    server.run("SET GLOBAL read_only = 0");
    store.connection_touch(&id, at(1), at(1)).await.unwrap();
    assert_eq!(store.refuses_writes().await, None);
}

/// `options` of a Postgres URL: the tables are made where the search path leads.
pub(super) async fn options_of_a_url_reach_the_server() {
    let database = TestDatabase::create(Backend::Postgres);
    database.lines("CREATE SCHEMA tools").unwrap();
    let url = database.url().expose().to_owned();
    let separator = if url.contains('?') { '&' } else { '?' };
    let url = format!("{url}{separator}options=-c%20search_path%3Dtools");

    let store = open(&Secret::new(url));
    store.migrate().await.unwrap();
    insert(&store, consent("acme", "jane")).await;

    let made = "SELECT schemaname FROM pg_tables WHERE tablename = 'connections'";
    assert_eq!(database.lines(made).unwrap(), ["tools"]);
}
