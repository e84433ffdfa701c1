//! `POST /webhook/pipedrive/refresh`: every answer that the contract names (§1.3).

use std::time::Duration;

use pipekeeper_core::store::Backend;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::{Value, json};
use stack_tests::client::REFRESH;
use stack_tests::{Answer, Client, Setup, Stack};

use crate::logins::logged_in;
use crate::support::{
    clear_faults, connected, fault, refresh_log, refreshes, row, settings, until,
};

const READABLE: &str = "/webhook/pipedrive/refresh";

/// Right credentials, any body.
async fn post(client: &Client, path: &str, content_type: &str, body: impl Into<String>) -> Answer {
    let request = client
        .http
        .post(format!("{}{path}", client.token_refresher))
        .basic_auth(&client.refresher.0, Some(client.refresher.1.expose()))
        .header(CONTENT_TYPE, content_type)
        .body(body.into());
    Answer::of(request.send().await.unwrap()).await.unwrap()
}

fn of(connection: &Value, generation: i64) -> Value {
    json!({"connectionId": connection["id"], "generation": generation})
}

pub(crate) async fn strangers_get_no_refresh(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let with_password =
        |user: &str, password: &str| stack.http.post("http://x").basic_auth(user, Some(password));
    let header = |user, password| {
        let request = with_password(user, password).build().unwrap();
        request.headers()[AUTHORIZATION]
            .to_str()
            .unwrap()
            .to_owned()
    };
    let password = stack.refresher.1.expose();
    let cases = [
        (None, 401),
        (Some(String::new()), 401),
        (Some("Basic ???".to_owned()), 401),
        (Some("Bearer x".to_owned()), 401),
        (Some("Basic bm9jb2xvbg==".to_owned()), 401),
        (Some(header("pipekeeper", "wrong")), 403),
        (Some(header("someone", password)), 403),
        (Some(header("n8n", stack.webhook.1.expose())), 403),
    ];
    for path in [REFRESH, READABLE] {
        for (credentials, status) in &cases {
            for body in [of(&connection, 1).to_string(), "x".repeat(70_000)] {
                let mut request = stack
                    .http
                    .post(format!("{}{path}", stack.token_refresher))
                    .body(body);
                if let Some(credentials) = credentials {
                    request = request.header(AUTHORIZATION, credentials);
                }

                let answer = Answer::of(request.send().await.unwrap()).await.unwrap();

                answer.expect_problem(*status, "UNAUTHORIZED");
                assert_eq!(answer.header("www-authenticate"), "Basic realm=\"Webhook\"");
            }
        }
    }
    assert_eq!(refreshes(&stack).await, 0);
}

pub(crate) async fn refreshed_row_is_answered_without_its_tokens(backend: Backend) {
    let (stack, connection) = connected(backend).await;

    let answer = post(
        &stack,
        REFRESH,
        "application/json",
        json!({"appId": stack.client_id}).to_string(),
    )
    .await;

    let said = answer.expect(200).json();
    let expected = json!({
        "success": true, "outcome": "refreshed", "id": connection["id"], "connectionId": connection["id"],
        "AppId": stack.client_id, "Platform": "Pipedrive", "generation": 2,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&said[key], value, "{key}");
    }
    let keys: Vec<_> = said.as_object().unwrap().keys().cloned().collect();
    let mut all: Vec<_> = expected.as_object().unwrap().keys().cloned().collect();
    all.extend(["expires_at", "created_at", "updated_at"].map(str::to_owned));
    all.sort();
    assert_eq!(keys, all);
}

pub(crate) async fn refresh_takes_json_and_forms_and_numbers_as_text(backend: Backend) {
    let stack = Stack::start(backend).await;
    let connection = logged_in(&stack, "12", 1, 1).await;
    let id = connection["id"].as_str().unwrap();
    let app = &stack.client_id;
    let form = "application/x-www-form-urlencoded";
    let bodies = [
        (
            REFRESH,
            "application/json",
            json!({"appId": app, "accountId": 12, "owner": "boss", "generation": 0}).to_string(),
        ),
        (
            READABLE,
            "text/plain",
            json!({"connectionId": id, "generation": "0"}).to_string(),
        ),
        (
            READABLE,
            "",
            json!({"appId": app, "platform": "Pipedrive", "generation": 0, "deadline_ms": "500"})
                .to_string(),
        ),
        (
            REFRESH,
            form,
            format!("appId={app}&accountId=12&owner=boss&generation=0"),
        ),
        (
            "/webhook/pipedrive/refresh/",
            form,
            format!("connectionId={id}&generation=0&more=%C3%A9"),
        ),
        (
            REFRESH,
            "application/json",
            json!({"appId": app, "accountId": null, "owner": "", "generation": 0}).to_string(),
        ),
    ];
    for (path, content_type, body) in bodies {
        let answer = post(&stack, path, content_type, body.clone()).await;

        let said = answer.expect(200).json();
        assert_eq!(said["outcome"], "already_newer", "{body}");
        assert_eq!(said["connectionId"], connection["id"], "{body}");
    }
    assert_eq!(refreshes(&stack).await, 0);
}

pub(crate) async fn body_of_no_use_is_named(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let (json_type, form) = ("application/json", "application/x-www-form-urlencoded");
    let long = json!({"accountId": "x".repeat(129), "appId": "x"}).to_string();
    for (content_type, body, field) in [
        (json_type, "", None),
        (json_type, "{", None),
        (json_type, "[]", None),
        (json_type, "\"text\"", None),
        (json_type, "appId=x", None),
        (json_type, "\u{feff}{}", None),
        (json_type, "{}", Some("appId")),
        (form, "", Some("appId")),
        (json_type, r#"{"appId":[]}"#, Some("appId")),
        (json_type, r#"{"appId":{"a":1}}"#, Some("appId")),
        (json_type, r#"{"appId":true}"#, Some("appId")),
        (
            json_type,
            r#"{"appId":"x","generation":"one"}"#,
            Some("generation"),
        ),
        (
            json_type,
            r#"{"appId":"x","generation":1.5}"#,
            Some("generation"),
        ),
        (
            json_type,
            r#"{"appId":"x","generation":99999999999999999999}"#,
            Some("generation"),
        ),
        (
            json_type,
            r#"{"appId":"x","deadline_ms":-1}"#,
            Some("deadline_ms"),
        ),
        (
            json_type,
            r#"{"appId":"x","owner":"boss"}"#,
            Some("accountId"),
        ),
        (
            json_type,
            r#"{"appId":"x","accountId":" a"}"#,
            Some("accountId"),
        ),
        (
            json_type,
            r#"{"appId":"x","accountId":"a\u0000"}"#,
            Some("accountId"),
        ),
        (json_type, long.as_str(), Some("accountId")),
        (json_type, r#"{"connectionId":"ä"}"#, Some("connectionId")),
        (form, "connectionId=%00", Some("connectionId")),
        (form, "generation=x&appId=x", Some("generation")),
    ] {
        let answer = post(&stack, READABLE, content_type, body).await;

        assert_eq!(answer.status, 422, "{body}: {}", answer.body);
        let problem = answer.expect_problem(422, "BAD_REQUEST");
        assert_eq!(
            problem.get("field").and_then(Value::as_str),
            field,
            "{body}"
        );
        if let Some(field) = field {
            let detail = problem["detail"].as_str().unwrap();
            assert!(detail.contains(&format!("`{field}`")), "{detail}");
        }
    }
    assert_eq!(row(&stack, &connection).await.generation, 1);
}

pub(crate) async fn connection_that_is_not_there_is_not_found(backend: Backend) {
    let (stack, _) = connected(backend).await;
    for body in [
        json!({"appId": "unknown"}),
        json!({"appId": stack.client_id, "platform": "Other"}),
        json!({"appId": stack.client_id, "accountId": "unknown"}),
        json!({"appId": stack.client_id, "accountId": "~pipedrive:1", "owner": "unknown"}),
        json!({"connectionId": "unknown"}),
        json!({"connectionId": "00000000-0000-7000-8000-000000000000", "generation": 1}),
    ] {
        let answer = stack.refresh(&body).await.unwrap();

        assert_eq!(answer.status, 404, "{body}: {}", answer.body);
        answer.expect_problem(404, "CONNECTION_NOT_FOUND");
    }
}

pub(crate) async fn dead_grant_is_told_and_not_asked_for_again(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    stack.sim("revoke", &json!({})).await.unwrap();

    for body in [
        of(&connection, 1),
        json!({"appId": stack.client_id}),
        of(&connection, 0),
    ] {
        let answer = stack.refresh(&body).await.unwrap();

        let problem = answer.expect_problem(409, "TOKEN_INVALIDATED");
        assert_eq!(problem["state"], "reauth_required");
        assert_eq!(problem["reason"], "rejected");
        assert!(problem["since"].is_string());
    }
    assert_eq!(refreshes(&stack).await, 1);
    let row = row(&stack, &connection).await;
    assert_eq!((row.generation, row.lease_owner.is_none()), (1, true));
    stack.connect(1, 1).await.unwrap();
    let healed = stack.refresh(&of(&connection, 2)).await.unwrap();
    assert_eq!(healed.expect(200).json()["outcome"], "refreshed");
}

pub(crate) async fn token_that_is_refused_right_after_its_renewal_waits(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    stack
        .refresh(&of(&connection, 1))
        .await
        .unwrap()
        .expect(200);

    let refused = stack.refresh(&of(&connection, 2)).await.unwrap();

    let problem = refused.expect_problem(409, "TOKEN_INVALIDATED");
    assert_eq!(problem["state"], "active");
    assert_eq!(problem["reason"], "refused_after_renewal");
    assert!(problem["retry_at"].is_string());
    assert_eq!(row(&stack, &connection).await.state.as_str(), "active");
    assert_eq!(refreshes(&stack).await, 1);
    until("the wait is over", || async {
        stack.refresh(&of(&connection, 2)).await.unwrap().status == 200
    })
    .await;
    assert_eq!(row(&stack, &connection).await.generation, 3);
}

pub(crate) async fn newer_token_is_answer_enough(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    stack
        .refresh(&of(&connection, 1))
        .await
        .unwrap()
        .expect(200);

    for body in [
        of(&connection, 1),
        of(&connection, 0),
        of(&connection, -1),
        of(&connection, 99),
        json!({"appId": stack.client_id}),
        json!({"connectionId": connection["id"]}),
    ] {
        let answer = stack.refresh(&body).await.unwrap();

        let said = answer.expect(200).json();
        assert_eq!(
            (&said["outcome"], &said["generation"]),
            (&json!("already_newer"), &json!(2)),
            "{body}"
        );
    }
    assert_eq!(refreshes(&stack).await, 1);
}

pub(crate) async fn caller_without_a_generation_gets_a_new_token_once_the_last_is_seconds_old(
    backend: Backend,
) {
    let setup = Setup {
        set: &[("token-refresher.refresh.minted_recently_secs", "1")],
        ..Setup::default()
    };
    let stack = Stack::with(backend, setup).await;
    stack.connect(1, 1).await.unwrap();
    let body = json!({"appId": stack.client_id});
    let first = stack.refresh(&body).await.unwrap().expect(200).json();
    assert_eq!(first["outcome"], "refreshed");

    until("the token counts as old", || async {
        stack.refresh(&body).await.unwrap().expect(200).json()["outcome"] == "refreshed"
    })
    .await;

    assert_eq!(refreshes(&stack).await, 2);
}

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
            assert!((55..=60).contains(&answer.retry_after()));
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
        connections.push(connection);
    }
    for connection in &connections {
        until("it works again once retry_at has passed", || async {
            stack.refresh(&of(connection, 1)).await.unwrap().status == 200
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

/// A provider that rotates and whose answer is lost has the only good token: nobody can do better than to say so.
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

pub(crate) async fn caller_waits_no_longer_than_it_said_and_the_refresh_goes_on(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    settings(&stack, json!({"token_delay_ms": 400})).await;
    let mut hurried = of(&connection, 1);
    hurried["deadline_ms"] = json!(50);

    let busy = stack.refresh(&hurried).await.unwrap();

    busy.expect_problem(503, "REFRESH_BUSY");
    assert_eq!(busy.retry_after(), 1);
    let patient = stack.refresh(&of(&connection, 1)).await.unwrap();
    assert_eq!(patient.expect(200).json()["generation"], 2);
    assert_eq!(refreshes(&stack).await, 1);
}
