//! The command is killed between its steps, and run again.

use pipedrive_sim::DEFAULT_CLIENT_ID as FIRST;
use pipekeeper_core::clock::SystemClock;
use pipekeeper_core::connection::{AppKey, Connection, ConnectionState, HANDED_BACK};
use pipekeeper_core::crypto::sha256_hex;
use pipekeeper_core::store::{Backend, Selection, Selector};
use serde_json::json;
use up::client::fingerprint;

use super::Fixture;
use crate::support::{clear_faults, fault, until};

const APPLY: [&str; 5] = ["import", "--from", "sqlite", "--apply", "--refresh"];

/// One row, whose access token has expired.
async fn expired(backend: Backend) -> Fixture {
    let fixture = Fixture::with(backend, Backend::Sqlite).await;
    let tokens = fixture.consent(FIRST, 1, 1).await;
    fixture
        .home
        .insert(1, Some(FIRST), "Pipedrive", &tokens, "2026-03-01 00:00:00");
    fixture.expire(FIRST, 1).await;
    fixture
}

/// The provider has renewed it, and no one knows yet whose it is.
pub(crate) async fn import_that_was_killed_before_it_knew_whose_it_is_goes_on(backend: Backend) {
    let fixture = expired(backend).await;
    fixture.spends_once().await;
    // The first question is about the expired token, the second about the new one.
    for word in ["401", "timeout"] {
        let rule = json!({"on": "api", "route": "users/me", "fault": word, "times": 1});
        fault(&fixture.client, rule).await;
    }
    let mut killed = fixture.command(&APPLY).spawn().unwrap();
    until("the grant is renewed", || async {
        fixture
            .home
            .connections()
            .await
            .iter()
            .any(|row| row.generation == 2)
    })
    .await;
    killed.kill().await.unwrap();
    clear_faults(&fixture.client).await;
    let begun = fixture.import(&[]).await;
    begun.expect("row 1", "an earlier run has begun with it");

    let said = fixture.done(&APPLY).await;

    said.expect("row 1", "taken over and refreshed");
    let rows = fixture.home.connections().await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(rows[0].account_id.as_str(), "~pipedrive:1");
    assert_eq!(fixture.book(FIRST, 1).await["refreshes"], 1);
    assert_eq!(fixture.reused().await, 0);
}

/// The provider has renewed it, and it took the fixture of a connection that had ended; what it was stored as is still there.
pub(crate) async fn import_that_was_killed_after_it_had_filed_spends_nothing_twice(
    backend: Backend,
) {
    let fixture = expired(backend).await;
    let home = &fixture.home;
    fixture.spends_once().await;
    fixture.done(&APPLY).await;
    let ended = home.connections().await.remove(0);
    let now = SystemClock::shared().now();
    let store = home.ours.store();
    let refused = store.connection_reauth_required(&ended.id, ended.generation, false, None, now);
    assert!(refused.await.unwrap());
    let other = fixture.consent(FIRST, 2, 1).await;
    home.insert(2, Some(FIRST), "Pipedrive", &other, "2026-03-01 00:00:00");
    fixture
        .done(&["import", "--from", "sqlite", "--apply"])
        .await
        .expect("row 2", "taken over");
    home.set_tokens(1, &fixture.consent(FIRST, 1, 1).await);
    fixture.expire(FIRST, 1).await;
    for word in ["401", "timeout"] {
        let rule = json!({"on": "api", "route": "users/me", "fault": word, "times": 1});
        fault(&fixture.client, rule).await;
    }
    let begun = |rows: Vec<Connection>| {
        let mut rows = rows.into_iter();
        rows.find(|row| row.account_id.as_str() == "~import")
    };
    let mut killed = fixture.command(&APPLY).spawn().unwrap();
    until("the grant is renewed", || async {
        begun(home.connections().await).is_some_and(|row| row.generation == 2)
    })
    .await;
    killed.kill().await.unwrap();
    clear_faults(&fixture.client).await;
    // Callers that name only the app hear that its default connection has ended: what is not filed does not take its fixture.
    let app = AppKey {
        platform: ended.platform.clone(),
        app_id: ended.app_id.clone(),
    };
    let selected = store.connection_select(&app, &Selector::App).await;
    assert!(
        matches!(selected.unwrap(), Selection::One(row) if row.id == ended.id),
        "it is still the default"
    );
    home.ours
        .lines("CREATE TABLE killed AS SELECT * FROM connections WHERE account_id = '~import'")
        .unwrap();
    fixture.done(&APPLY).await;
    let restored = "INSERT INTO connections SELECT * FROM killed";
    home.ours.lines(restored).unwrap();
    let hash = sha256_hex(&home.tokens(1).refresh);
    let noted = format!(
        "UPDATE imports SET connection_id = (SELECT id FROM killed) WHERE source_table = '~grant' AND source_row = '{hash}'"
    );
    home.ours.lines(&noted).unwrap();
    assert!(begun(home.connections().await).is_some());
    let filed = ["connections", "refresh", ended.id.as_str()];
    fixture.done(&filed).await;
    fixture.expire(FIRST, 1).await;

    let said = fixture.done(&APPLY).await;

    said.expect("row 1", "already here");
    assert!(begun(home.connections().await).is_none());
    assert_eq!(fixture.reused().await, 0);
}

/// Both ask whose the renewed grant is; when the second hears it, the first has filed it.
pub(crate) async fn two_imports_at_once_lose_nothing(backend: Backend) {
    let fixture = expired(backend).await;
    fixture.spends_once().await;
    for rule in [
        json!({"fault": "401"}),
        json!({"fault": "slow_ms", "ms": 3000}),
        json!({"fault": "401"}),
        json!({"fault": "slow_ms", "ms": 5000}),
    ] {
        let mut rule = rule;
        rule["on"] = json!("api");
        rule["route"] = json!("users/me");
        rule["times"] = json!(1);
        fault(&fixture.client, rule).await;
    }
    let first = fixture.command(&APPLY).spawn().unwrap();
    until("the grant is renewed", || async {
        let rows = fixture.home.connections().await;
        rows.iter().any(|row| row.generation == 2)
    })
    .await;

    let second = fixture.done(&APPLY).await;

    let first = first.wait_with_output().await.unwrap();
    assert!(first.status.success());
    second.expect("row 1", "already here");
    let rows = fixture.home.connections().await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(rows[0].state, ConnectionState::Active);
    assert_eq!(rows[0].account_id.as_str(), "~pipedrive:1");
    let refreshed = ["connections", "refresh", rows[0].id.as_str()];
    fixture.done(&refreshed).await;
    assert_eq!(fixture.reused().await, 0);
}

/// The provider has renewed it, and the answer is lost with the process.
pub(crate) async fn import_that_was_killed_in_its_refresh_goes_on(backend: Backend) {
    let fixture = expired(backend).await;
    fault(
        &fixture.client,
        json!({"on": "token", "fault": "commit_then_hang"}),
    )
    .await;
    let mut killed = fixture.command(&APPLY).spawn().unwrap();
    until("the provider has renewed it", || async {
        fixture.client.stats().await.unwrap()["refreshes"] == 1
    })
    .await;
    killed.kill().await.unwrap();

    let said = fixture.done(&APPLY).await;

    said.expect("row 1", "taken over and refreshed");
    let rows = fixture.home.connections().await;
    assert_eq!(rows.len(), 1, "{rows:#?}");
    assert_eq!(rows[0].state, ConnectionState::Active);
    assert_eq!(rows[0].account_id.as_str(), "~pipedrive:1");
}

/// Our spending has stopped, and the old table has nothing of it yet.
pub(crate) async fn hand_back_that_was_killed_is_ended_by_the_next(backend: Backend) {
    let fixture = expired(backend).await;
    fixture.spends_once().await;
    fixture.done(&APPLY).await;
    let serving = fixture.serve().await;
    let old = fixture.home.tokens(1);
    let row = fixture.home.connections().await.remove(0);
    let (store, now) = (fixture.home.ours.store(), SystemClock::shared().now());
    let stopped = store.connection_hand_back(&row.id, row.generation, now);
    assert!(stopped.await.unwrap());

    // In between no one loses anything, and no one spends.
    let row = fixture.home.connections().await.remove(0);
    assert_eq!(row.state_reason.as_deref(), Some(HANDED_BACK));
    assert!(!row.refresh_token.is_wiped());
    let body = json!({"connectionId": row.id.as_str()});
    let refused = fixture.client.refresh(&body).await.unwrap();
    assert_eq!(
        refused.expect_problem(409, "TOKEN_INVALIDATED")["reason"],
        HANDED_BACK
    );
    assert_eq!(fixture.home.tokens(1), old);
    fixture
        .import(&["--apply"])
        .await
        .expect("row 1", "is being handed back");

    let said = fixture.done(&["rollback-to-n8n", "--apply"]).await;

    said.expect("1", "handed back");
    let row = fixture.home.connections().await.remove(0);
    assert!(row.refresh_token.is_wiped());
    let handed = fixture.home.tokens(1);
    assert_eq!(fingerprint(&handed.refresh), fixture.newest(FIRST, 1).await);
    assert_eq!(fixture.reused().await, 0);
    drop(serving);
}
