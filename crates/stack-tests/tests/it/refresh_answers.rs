//! `POST /webhook/pipedrive/refresh`: what callers may ask, and what they are answered.

use pipekeeper_core::store::Backend;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use serde_json::{Value, json};
use stack_tests::{Client, Reply, Setup, Stack};
use up::client::REFRESH;

use crate::logins::logged_in;
use crate::support::{connected, refreshes, row, until, until_ok};

const READABLE: &str = "/webhook/pipedrive/refresh";

/// Right credentials, any body.
async fn post(client: &Client, path: &str, content_type: &str, body: impl Into<String>) -> Reply {
    let request = client
        .http
        .post(format!("{}{path}", client.token_refresher))
        .basic_auth(&client.refresher.0, Some(client.refresher.1.expose()))
        .header(CONTENT_TYPE, content_type)
        .body(body.into());
    Reply::of(request.send().await.unwrap()).await.unwrap()
}

pub(crate) fn of(connection: &Value, generation: i64) -> Value {
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

                let answer = Reply::of(request.send().await.unwrap()).await.unwrap();

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
            format!("\u{feff}{}", json!({"connectionId": id, "generation": 0})),
        ),
        (
            REFRESH,
            form,
            format!("\u{feff}connectionId={id}&generation=0"),
        ),
        (
            REFRESH,
            "application/json",
            json!({"appId": app, "accountId": null, "owner": "", "generation": 0}).to_string(),
        ),
        // One app is configured: it is the one that is meant.
        (
            REFRESH,
            "application/json",
            json!({"generation": 0}).to_string(),
        ),
        (
            READABLE,
            form,
            "accountId=12&owner=boss&generation=0".to_owned(),
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

    let problem = refused.expect_problem(503, "REFRESH_BUSY");
    assert!(refused.retry_after() >= 1);
    assert_eq!(problem["reason"], "refused_after_renewal");
    assert!(problem["retry_at"].is_string());
    assert_eq!(row(&stack, &connection).await.state.as_str(), "active");
    assert_eq!(refreshes(&stack).await, 1);
    until_ok("the wait is over", || async {
        stack.refresh(&of(&connection, 2)).await.unwrap()
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
