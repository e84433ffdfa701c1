//! A code from Pipedrive's Marketplace becomes a connection, or nothing at all.

use pipekeeper_core::store::Backend;
use reqwest::header::ACCEPT;
use serde_json::json;
use stack_tests::stack::OTHER_APP;
use stack_tests::{Answer, Client, Stack};
use tools::client::CALLBACK;

use crate::support::{EMAIL, NAME, clear_faults, connected, fault, row, settings};

pub(crate) async fn install_connects_the_one_who_consented(backend: Backend) {
    let stack = Stack::start(backend).await;
    let query = stack.marketplace_consent("approve", 3, 7).await.unwrap();

    let answer = stack.callback(&query).await.unwrap().expect(200);

    let said = answer.json();
    assert_eq!(said["message"], "Connected");
    let expected = json!({
        "AppId": stack.client_id, "Platform": "Pipedrive", "account_id": "~pipedrive:3", "owner": "~pipedrive:7",
        "company_id": "3", "company_name": "Café Größe", "user_id": "7", "state": "active", "generation": 1,
        "api_domain": stack.simulator,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&said["connection"][key], value, "{key}");
    }
    assert_eq!(answer.header("cache-control"), "no-store");
    let row = row(&stack, &said["connection"]).await;
    assert!(!shows(row.access_token.as_bytes(), b"v1u:"));
    assert!(!shows(row.refresh_token.as_bytes(), b"3:7:"));
}

fn shows(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

pub(crate) async fn every_callback_url_takes_a_code(backend: Backend) {
    let stack = Stack::start(backend).await;
    let urls = [
        CALLBACK,
        "/webhook/pipedrive/callback",
        "/auth/callback",
        "/webhook/pipedrive/callback/pipedrive",
        "/auth/callback/",
    ];
    for (user, url) in (1..).zip(urls) {
        let query = stack.marketplace_consent("approve", 1, user).await.unwrap();

        let answer = get(&stack, &format!("{url}?{query}"), "*/*").await;

        assert_eq!(answer.expect(200).json()["message"], "Connected", "{url}");
    }
}

pub(crate) async fn second_install_of_the_same_user_renews_the_same_row(backend: Backend) {
    let (stack, first) = connected(backend).await;

    let second = stack.connect(1, 1).await.unwrap();

    assert_eq!(second["id"], first["id"]);
    assert_eq!(second["generation"], 2);
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
}

pub(crate) async fn declined_consent_stores_nothing(backend: Backend) {
    let stack = Stack::start(backend).await;
    for word in ["user_denied", "access_denied"] {
        settings(&stack, json!({"decline_error": word})).await;
        let query = stack.marketplace_consent("decline", 1, 1).await.unwrap();

        let answer = stack.callback(&query).await.unwrap();

        answer.expect_problem(400, "CONSENT_DECLINED");
    }
    assert_nothing_stored(&stack).await;
    assert_eq!(stack.token_calls("authorization_code").await.unwrap(), 0);
}

pub(crate) async fn code_that_is_missing_stores_nothing(backend: Backend) {
    let stack = Stack::start(backend).await;
    for query in ["", "code=", "code=&state=", "other=1", "code=%FF%FE&code=x"] {
        let answer = stack.callback(query).await.unwrap();

        answer.expect_problem(400, "LOGIN_INVALID");
    }
    assert_nothing_stored(&stack).await;
}

pub(crate) async fn code_that_is_used_expired_or_anothers_stores_nothing(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let used = stack.marketplace_consent("approve", 2, 1).await.unwrap();
    stack.callback(&used).await.unwrap().expect(200);
    let other = Client {
        client_id: OTHER_APP.to_owned(),
        ..stack.client.clone()
    };
    let anothers = other.marketplace_consent("approve", 4, 1).await.unwrap();
    let mut codes = vec![used, anothers, "code=1.1.junk".to_owned()];
    codes.push(format!("code={}", "x".repeat(4000)));

    for query in codes {
        let answer = stack.callback(&query).await.unwrap();

        answer.expect_problem(400, "LOGIN_INVALID");
    }
    let expired = stack.marketplace_consent("approve", 5, 1).await.unwrap();
    settings(&stack, json!({"code_ttl_secs": 0})).await;
    let answer = stack.callback(&expired).await.unwrap();

    answer.expect_problem(400, "LOGIN_INVALID");
    assert_eq!(row(&stack, &connection).await.generation, 1);
    for company in [4, 5] {
        let keeper =
            json!({"account_id": format!("~pipedrive:{company}"), "owner": "~pipedrive:1"});
        let answer = stack.person_of(&keeper, EMAIL).await.unwrap();
        answer.expect_problem(404, "CONNECTION_NOT_FOUND");
    }
}

pub(crate) async fn provider_that_fails_stores_nothing(backend: Backend) {
    let stack = Stack::start(backend).await;
    let faults = [
        json!({"on": "token", "fault": "500"}),
        json!({"on": "token", "fault": "503_html"}),
        json!({"on": "token", "fault": "garbage"}),
        json!({"on": "token", "fault": "reset"}),
        json!({"on": "token", "fault": "truncated"}),
        json!({"on": "token", "fault": "403_cloudflare_html"}),
        json!({"on": "token", "fault": "changed_api_domain", "api_domain": "https://pipedrive.com.evil.example"}),
        json!({"on": "api", "route": "users/me", "fault": "500", "times": 0}),
        json!({"on": "api", "route": "users/me", "fault": "garbage", "times": 0}),
    ];
    for order in faults {
        let query = stack.marketplace_consent("approve", 1, 1).await.unwrap();
        fault(&stack, order.clone()).await;

        let answer = stack.callback(&query).await.unwrap();

        assert_eq!(
            (answer.status, answer.code().as_str()),
            (502, "UPSTREAM_ERROR"),
            "{order}"
        );
        clear_faults(&stack).await;
    }
    assert_nothing_stored(&stack).await;
}

pub(crate) async fn wrong_client_secret_is_said_and_stores_nothing(backend: Backend) {
    let stack = Stack::start(backend).await;
    let wrong = [("auth-capture.apps.pipedrive.client_secret", "wrong")];
    let client = stack.add_auth_capture(&wrong).await;
    for status in ["400", "401"] {
        settings(&stack, json!({"invalid_client_status": status})).await;
        let query = client.marketplace_consent("approve", 1, 1).await.unwrap();

        let answer = client.callback(&query).await.unwrap();

        let problem = answer.expect_problem(502, "UPSTREAM_ERROR");
        assert_eq!(problem["reason"], "client_misconfigured");
    }
    assert_nothing_stored(&stack).await;
}

pub(crate) async fn provider_that_does_not_know_its_token_yet_is_asked_again(backend: Backend) {
    let stack = Stack::start(backend).await;
    fault(
        &stack,
        json!({"on": "api", "route": "users/me", "fault": "401_once"}),
    )
    .await;

    let connection = stack.connect(1, 1).await.unwrap();

    assert_eq!(connection["company_id"], "1");
}

pub(crate) async fn switched_off_installs_connect_nobody(backend: Backend) {
    let stack = Stack::start(backend).await;
    let off = [("auth-capture.login.allow_marketplace_installs", "false")];
    let client = stack.add_auth_capture(&off).await;
    let query = client.marketplace_consent("approve", 1, 1).await.unwrap();

    client
        .callback(&query)
        .await
        .unwrap()
        .expect_problem(400, "LOGIN_INVALID");

    assert_nothing_stored(&stack).await;
    let url = format!("{}/auth/login", client.auth_capture);
    let answer = Answer::of(client.http.get(url).send().await.unwrap()).await;
    answer.unwrap().expect_problem(422, "BAD_REQUEST");
}

pub(crate) async fn browsers_get_pages_that_can_run_and_leak_nothing(backend: Backend) {
    let stack = Stack::start(backend).await;
    let good = stack.marketplace_consent("approve", 5, 1).await.unwrap();
    let declined = stack.marketplace_consent("decline", 1, 1).await.unwrap();
    for (query, status, text) in [
        (good.as_str(), 200, "Elm &amp; Sons"),
        (declined.as_str(), 400, "Consent was declined"),
        ("error=%3Cscript%3E", 400, "Consent was declined"),
        ("code=%3Cscript%3E", 400, "start again"),
    ] {
        let accept = "text/html,application/xhtml+xml,*/*;q=0.8";

        let page = get(&stack, &format!("{CALLBACK}?{query}"), accept)
            .await
            .expect(status);

        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert!(page.body.contains(text), "{}", page.body);
        assert!(!page.body.contains("<script"), "{}", page.body);
        assert!(
            page.header("content-security-policy")
                .starts_with("default-src 'none';")
        );
        assert!(
            page.header("content-security-policy")
                .contains("frame-ancestors 'none'")
        );
        assert_eq!(page.header("referrer-policy"), "no-referrer");
        assert_eq!(page.header("cache-control"), "no-store");
        assert_eq!(page.header("x-content-type-options"), "nosniff");
    }
}

async fn get(client: &Client, path_and_query: &str, accept: &str) -> Answer {
    let url = format!("{}{path_and_query}", client.auth_capture);
    let request = client.http.get(url).header(ACCEPT, accept);
    Answer::of(request.send().await.unwrap()).await.unwrap()
}

/// Past every cache: the table is empty.
async fn assert_nothing_stored(stack: &Stack) {
    let rows = stack.sql("SELECT id AS line FROM connections");
    assert!(rows.is_empty(), "{rows:?}");
    let answer = stack.person(EMAIL).await.unwrap();
    answer.expect_problem(404, "CONNECTION_NOT_FOUND");
}
