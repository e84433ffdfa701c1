//! SQL of a test's own, past the store.

use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use diesel::sql_types::{Nullable, Text};
use mysql_async::prelude::Queryable as _;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use pipekeeper_core::store::Backend;

/// What diesel can read without knowing the query.
#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Nullable<Text>)]
    line: Option<String>,
}

/// A step of `EXPLAIN QUERY PLAN`.
#[derive(QueryableByName)]
struct Step {
    #[diesel(sql_type = Text)]
    detail: String,
}

pub(super) fn lines(backend: Backend, url: &str, query: &str) -> Result<Vec<String>, String> {
    match backend {
        Backend::Postgres => on_own_runtime(async || postgres(url, query).await).map_err(|error| {
            error
                .as_db_error()
                .map_or_else(|| error.to_string(), ToString::to_string)
        }),
        Backend::Mysql => {
            on_own_runtime(async || mysql(url, query).await).map_err(|error| error.to_string())
        }
        Backend::Sqlite => sqlite(url, query).map_err(|error| error.to_string()),
    }
}

async fn postgres(url: &str, query: &str) -> Result<Vec<String>, tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    // The connection ends with its client.
    let asking = async move { client.simple_query(query).await };
    let (answer, _closed) = tokio::join!(asking, connection);
    Ok(answer?
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
            _ => None,
        })
        .collect())
}

async fn mysql(url: &str, query: &str) -> Result<Vec<String>, mysql_async::Error> {
    let mut connection = mysql_async::Conn::from_url(url).await?;
    let rows: Vec<mysql_async::Row> = connection.query(query).await?;
    connection.disconnect().await?;
    Ok(rows
        .iter()
        .map(|row| match row.get::<Option<String>, _>(0) {
            Some(Some(text)) => text,
            _ => "NULL".to_owned(),
        })
        .collect())
}

#[expect(clippy::disallowed_methods, reason = "a test's own words")]
fn sqlite(url: &str, query: &str) -> QueryResult<Vec<String>> {
    let path = url.trim_start_matches("sqlite:");
    let mut connection = SqliteConnection::establish(path).expect("the test's database file");
    connection.batch_execute("PRAGMA busy_timeout = 5000")?;
    if query.starts_with("EXPLAIN") {
        let plan = diesel::sql_query(query).load::<Step>(&mut connection)?;
        return Ok(plan.into_iter().map(|step| step.detail).collect());
    }
    let rows = diesel::sql_query(query).load::<Line>(&mut connection)?;
    Ok(rows
        .into_iter()
        .map(|row| row.line.unwrap_or_else(|| "NULL".to_owned()))
        .collect())
}

/// On a thread of its own, so that it works from a test of any runtime, and from `Drop`.
pub(super) fn on_own_runtime<T: Send>(work: impl AsyncFnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(work())
        });
        thread.join().expect("what it ran has panicked already")
    })
}
