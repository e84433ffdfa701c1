//! `POST /webhook/pipedrive/refresh`: what callers are told when the provider, or we ourselves, fail.

use std::time::Duration;

use pipekeeper_core::store::Backend;
use serde_json::json;
use stack_tests::{Reply, Setup, Stack};

use crate::refresh_answers::of;
use crate::support::{
    HANGS, clear_faults, connected, fault, hold_refresh, id_of, refresh_log, refreshes, row,
    settings, until, until_ok, wait_longer,
};

pub(crate) async fn wrong_client_secret_is_ours_and_probed_once_a_minute(backend: Backend) {
    for status in ["400", "401"] {
        let (stack, connection) = connected(backend).await;
        settings(&stack, json!({"invalid_client_status": status})).await;
        let wrong = [("token-refresher.apps.pipedrive.client_secret", "wrong")];
        let client = stack.add_refresher(&wrong).await;

        for _ in 0..3 {
            let answer = client.refresh(&of(&connection, 1)).await.unwrap();

            let problem = answer.expect_problem(502, "REFRESH_FAILED");
            assert_eq!(problem["reason"], "client_misconfigured");
            assert!(
                problem["retry_at"].is_string() && problem["access_token_expires_at"].is_string()
            );
            assert!((1..=60).contains(&answer.retry_after()));
        }
        assert_eq!(refreshes(&stack).await, 1);
        let row = row(&stack, &connection).await;
        assert_eq!((row.state.as_str(), row.generation), ("active", 1));
        assert_eq!((row.failures, row.lease_owner), (0, None));
        stack
            .refresh(&of(&connection, 1))
            .await
            .unwrap()
            .expect(200);
    }
}

pub(crate) async fn app_that_the_refresher_does_not_have_is_said(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let other = [(
        "token-refresher.apps.pipedrive.client_id",
        "another-client-id",
    )];
    let client = stack.add_refresher(&other).await;

    let answer = client.refresh(&of(&connection, 1)).await.unwrap();

    let problem = answer.expect_problem(502, "REFRESH_FAILED");
    assert_eq!(problem["reason"], "client_misconfigured");
    assert_eq!(refreshes(&stack).await, 0);
}

pub(crate) async fn provider_that_makes_no_sense_costs_no_connection(backend: Backend) {
    let setup = Setup {
        set: &[("token-refresher.refresh.timeout_secs", "1")],
        ..Setup::default()
    };
    let stack = Stack::with(backend, setup).await;
    let cases = [
        ("500", 502, "http_500", 2, true),
        ("503_html", 502, "http_503", 2, true),
        ("garbage", 502, "garbled_answer", 2, true),
        ("reset", 502, "connection_broke", 2, true),
        ("timeout", 504, "timeout", 2, true),
        ("429_burst", 502, "http_429", 1, false),
        ("403_cloudflare_html", 502, "http_403", 1, false),
        ("402", 502, "http_402", 1, false),
    ];
    let mut connections = Vec::new();
    for (user, (name, status, word, calls, in_doubt)) in (1..).zip(cases) {
        let connection = stack.connect(1, user).await.unwrap();
        let before = row(&stack, &connection).await;
        fault(&stack, json!({"on": "token", "fault": name, "times": 0})).await;

        let answer = stack.refresh(&of(&connection, 1)).await.unwrap();
        wait_longer(&stack);
        let again = stack.refresh(&of(&connection, 1)).await.unwrap();

        let problem = answer.expect_problem(status, "REFRESH_FAILED");
        assert_eq!(problem["reason"], word);
        let later = again.expect_problem(503, "REFRESH_FAILED");
        for (answer, problem) in [(&answer, &problem), (&again, &later)] {
            assert!(problem["retry_at"].is_string(), "{name}");
            assert!(problem["access_token_expires_at"].is_string(), "{name}");
            assert!(answer.retry_after() >= 1, "{name}");
        }
        let log = refresh_log(&stack, &before.id, calls).await;
        assert_eq!(log.len(), calls, "{name}");
        let row = row(&stack, &connection).await;
        assert_eq!(
            (row.state.as_str(), row.failures, row.in_doubt),
            ("active", 1, in_doubt),
            "{name}"
        );
        assert_eq!(
            (&row.access_token, row.generation),
            (&before.access_token, 1),
            "{name}"
        );
        assert_eq!(
            (row.lease_owner, row.last_error.as_deref()),
            (None, Some(word)),
            "{name}"
        );
        clear_faults(&stack).await;
        stack.sql("UPDATE connections SET retry_at = updated_at WHERE retry_at IS NOT NULL");
        connections.push(connection);
    }
    for connection in &connections {
        until_ok("it works again once retry_at has passed", || async {
            stack.refresh(&of(connection, 1)).await.unwrap()
        })
        .await;
        let row = row(&stack, connection).await;
        assert_eq!((row.generation, row.failures, row.in_doubt), (2, 0, false));
        assert_eq!((row.retry_at, row.last_error), (None, None));
    }
}

pub(crate) async fn ended_token_is_not_said_to_be_good(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    stack.sql("UPDATE connections SET expires_at = authorized_at");
    fault(&stack, json!({"on": "token", "fault": "500", "times": 0})).await;

    let answer = stack.refresh(&of(&connection, 1)).await.unwrap();

    let problem = answer.expect_problem(502, "REFRESH_FAILED");
    assert!(
        problem.get("access_token_expires_at").is_none(),
        "{problem}"
    );
}

pub(crate) async fn one_lost_answer_is_asked_for_again_at_once(backend: Backend) {
    let (stack, _) = connected(backend).await;
    for (user, name) in (2..).zip(["500", "reset", "garbage", "commit_then_reset", "truncated"]) {
        let connection = stack.connect(1, user).await.unwrap();
        fault(&stack, json!({"on": "token", "fault": name})).await;

        let answer = stack.refresh(&of(&connection, 1)).await.unwrap();

        assert_eq!(answer.expect(200).json()["outcome"], "refreshed", "{name}");
        assert!(!row(&stack, &connection).await.in_doubt, "{name}");
    }
}

/// A provider that rotates and whose answer is lost has the only good token: no one can do better than to say so.
pub(crate) async fn lost_answer_of_a_single_use_token_is_named(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    settings(&stack, json!({"rotation": "single_use"})).await;
    fault(&stack, json!({"on": "token", "fault": "commit_then_reset"})).await;

    let answer = stack.refresh(&of(&connection, 1)).await.unwrap();

    let problem = answer.expect_problem(409, "TOKEN_INVALIDATED");
    assert_eq!(problem["state"], "reauth_required");
    assert_eq!(problem["reason"], "answer_lost");
}

pub(crate) async fn odd_token_answers_are_made_good(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    settings(&stack, json!({"expires_in_as_string": true})).await;
    let evil =
        json!({"on": "token", "fault": "changed_api_domain", "api_domain": "https://evil.example"});
    fault(&stack, evil).await;
    let before = row(&stack, &connection).await;

    stack
        .refresh(&of(&connection, 1))
        .await
        .unwrap()
        .expect(200);

    let after = row(&stack, &connection).await;
    assert_eq!(after.api_domain, before.api_domain);
    let life = after
        .expires_at
        .saturating_since(after.refreshed_at.unwrap());
    assert_eq!(life, Duration::from_secs(3599));
    stack
        .person(crate::support::EMAIL)
        .await
        .unwrap()
        .expect(200);
}

/// `PostgreSQL` stores no U+0000, and `MariaDB` no more than 65 535 bytes of text.
pub(crate) async fn odd_scope_is_made_to_fit_the_database(backend: Backend) {
    let (stack, _) = connected(backend).await;
    let scopes = ["base".to_owned(), format!("\u{0}{}", "🌞".repeat(20_000))];
    let odd = json!({"scopes": scopes, "rotation": "single_use_with_reuse_detection"});
    settings(&stack, odd).await;
    let connection = stack.connect(1, 2).await.unwrap();

    let answer = stack.refresh(&of(&connection, 1)).await.unwrap();

    answer.expect(200);
    let row = row(&stack, &connection).await;
    assert_eq!((row.generation, row.scope.chars().count()), (2, 16_383));
    assert!(row.scope.starts_with("base,🌞🌞"), "{:.20}", row.scope);
}

/// A rule that the operator has added to the table; taken out again with the second statement.
fn rule_against(backend: Backend, condition: &str) -> [String; 2] {
    match backend {
        Backend::Postgres | Backend::Mysql => [
            format!("ALTER TABLE connections ADD CONSTRAINT rule CHECK (NOT ({condition}))"),
            "ALTER TABLE connections DROP CONSTRAINT rule".to_owned(),
        ],
        Backend::Sqlite => [
            format!(
                "CREATE TRIGGER rule AFTER UPDATE ON connections WHEN \
                 EXISTS (SELECT 1 FROM connections WHERE id = NEW.id AND {condition}) \
                 BEGIN SELECT RAISE(ABORT, 'against the rule'); END"
            ),
            "DROP TRIGGER rule".to_owned(),
        ],
    }
}

pub(crate) async fn what_the_database_refuses_beside_the_tokens_stays_as_it_was(backend: Backend) {
    let (stack, _) = connected(backend).await;
    let odd = json!({"scopes": ["base", "odd"], "rotation": "single_use_with_reuse_detection"});
    settings(&stack, odd).await;
    let connection = stack.connect(1, 2).await.unwrap();
    stack.sql("UPDATE connections SET scope = 'even'");
    let [rule, _] = rule_against(backend, "scope = 'base,odd'");
    stack.sql(&rule);

    let answer = stack.refresh(&of(&connection, 1)).await.unwrap();

    answer.expect(200);
    let row = row(&stack, &connection).await;
    assert_eq!((row.generation, row.scope.as_str()), (2, "even"));
}

pub(crate) async fn tokens_that_the_database_refuses_are_stored_by_the_next_process(
    backend: Backend,
) {
    let (mut stack, connection) = connected(backend).await;
    settings(
        &stack,
        json!({"rotation": "single_use_with_reuse_detection"}),
    )
    .await;
    let [rule, no_rule] = rule_against(backend, "generation > 1");
    stack.sql(&rule);

    for _ in 0..2 {
        let refused = stack.refresh(&of(&connection, 1)).await.unwrap();

        let problem = refused.expect_problem(503, "STORE_UNAVAILABLE");
        assert_eq!(problem["reason"], "commit_refused");
        assert!((1..=60).contains(&refused.retry_after()));
    }
    let ready = stack.http.get(format!("{}/readyz", stack.token_refresher));
    let ready = Reply::of(ready.send().await.unwrap()).await.unwrap();
    let named = format!(
        "connection {}: the database refuses its new tokens",
        id_of(&connection)
    );
    assert_eq!(ready.expect(200).json()["degraded"], json!([named]));
    let other = stack.add_refresher(&[]).await;
    let elsewhere = other.refresh(&of(&connection, 1)).await.unwrap();
    elsewhere.expect_problem(503, "REFRESH_FAILED");
    // What is under way would be given longer.
    let stopped = tokio::time::timeout(HANGS, stack.stop_refreshers());
    stopped.await.expect("nothing is under way");

    stack.sql(&no_rule);
    let next = stack.add_refresher(&[]).await;
    until("the next process stores them", || async {
        row(&stack, &connection).await.generation == 2
    })
    .await;
    assert_eq!(refreshes(&stack).await, 1);
    let answer = next.refresh(&of(&connection, 2)).await.unwrap();
    assert_eq!(answer.expect(200).json()["outcome"], "refreshed");
}

pub(crate) async fn caller_waits_no_longer_than_it_said_and_the_refresh_goes_on(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let held = hold_refresh(&stack).await;
    let mut hurried = of(&connection, 1);
    hurried["deadline_ms"] = json!(50);

    let busy = stack.refresh(&hurried).await.unwrap();

    busy.expect_problem(503, "REFRESH_BUSY");
    assert_eq!(busy.retry_after(), 1);
    held.release();
    let patient = stack.refresh(&of(&connection, 1)).await.unwrap();
    assert_eq!(patient.expect(200).json()["generation"], 2);
    assert_eq!(refreshes(&stack).await, 1);
}
