use pipekeeper_core::store::{Backend, Connection};
use pipekeeper_core::test_util::TestDatabase;

use super::{app, consent, get, insert};

const ROW: &str = "SELECT id, access_token FROM connections WHERE";

/// What the store asks, in words that all three understand, and the index that answers it.
fn queries(row: &Connection) -> Vec<(String, &'static str)> {
    let Connection {
        id,
        account_id: account,
        company_id: company,
        ..
    } = row;
    let app = format!("platform = 'Pipedrive' AND app_id = '{}'", app().app_id);
    [
        (format!("{ROW} id = '{id}'"), "PRIMARY"),
        (
            format!("{ROW} {app} AND account_id = '{account}' AND owner = 'jane'"),
            "connections_keeper",
        ),
        (
            format!("{ROW} {app} AND company_id = '{company}' AND user_id = '11'"),
            "connections_grant",
        ),
        (
            format!("{ROW} {app} AND state = 'active' ORDER BY authorized_at DESC, id DESC LIMIT 2"),
            "connections_by_consent",
        ),
        (
            format!(
                "{ROW} {app} AND state = 'active' AND account_id = '{account}' \
                 ORDER BY authorized_at DESC, id DESC LIMIT 2"
            ),
            "connections_by_account",
        ),
        (
            format!("SELECT id FROM connections WHERE {app} AND state = 'active' AND account_id < '~' ORDER BY account_id, authorized_at LIMIT 1"),
            "connections_by_account",
        ),
        (
            format!("{ROW} state = 'revoked' AND due_at <= DUE ORDER BY due_at, id LIMIT 100"),
            "connections_due",
        ),
    ]
    .into()
}

pub(crate) async fn every_hot_query_has_an_index(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let mut id = None;
    for account in 0..200 {
        id = Some(insert(&store, consent(&format!("a{account}"), "jane")).await);
    }
    let row = get(&store, &id.unwrap()).await;
    let analyze = match backend {
        Backend::Sqlite | Backend::Postgres => "ANALYZE",
        Backend::Mysql => "ANALYZE TABLE connections",
    };
    database.lines(analyze).unwrap();

    for (query, index) in queries(&row) {
        let (explain, due, primary, scan) = match backend {
            Backend::Sqlite => (
                "EXPLAIN QUERY PLAN",
                "1",
                "sqlite_autoindex_connections_1",
                "SCAN",
            ),
            // So few rows fit on a few pages, which Postgres would rather read.
            Backend::Postgres => (
                "SET enable_seqscan = off; EXPLAIN",
                "now()",
                "connections_pkey",
                "Seq Scan",
            ),
            Backend::Mysql => (
                "EXPLAIN FORMAT=JSON",
                "NOW(6)",
                "\"PRIMARY\"",
                "\"access_type\": \"ALL\"",
            ),
        };
        let query = format!("{explain} {}", query.replace("DUE", due));
        let plan = database.lines(&query).unwrap().join("\n");
        let index = match (index, backend) {
            ("PRIMARY", _) => primary,
            ("connections_keeper", Backend::Sqlite) => "sqlite_autoindex_connections_2",
            ("connections_grant", Backend::Sqlite) => "sqlite_autoindex_connections_3",
            _ => index,
        };
        assert!(plan.contains(index), "{query}\n{plan}");
        assert!(!plan.contains(scan), "{query}\n{plan}");
    }
}
