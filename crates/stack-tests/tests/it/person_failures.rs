//! `POST /webhook/pipedrive/person`: what callers are told when the grant, the API or the refresher fails.

use pipekeeper_core::store::Backend;
use serde_json::{Value, json};

use crate::support::{
    EMAIL, NAME, clear_faults, connected, expire, fault, hold_refresh, refreshes, row, settings,
    wait_longer,
};

pub(crate) async fn dead_grant_is_told_to_its_callers(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    stack.person(EMAIL).await.unwrap().expect(200);
    stack.sim("revoke", &json!({})).await.unwrap();

    let refused = stack.person(EMAIL).await.unwrap();
    let again = stack.person(EMAIL).await.unwrap();

    for answer in [refused, again] {
        let problem = answer.expect_problem(401, "TOKEN_INVALIDATED");
        assert_eq!(
            (&problem["state"], &problem["reason"]),
            (&json!("reauth_required"), &json!("rejected"))
        );
    }
    assert_eq!(refreshes(&stack).await, 1);
    assert_eq!(
        row(&stack, &connection).await.state.as_str(),
        "reauth_required"
    );
    stack.connect(1, 1).await.unwrap();
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
}

pub(crate) async fn every_401_heals_whatever_its_body_says(backend: Backend) {
    let (stack, _) = connected(backend).await;
    for (user, body) in (2..).zip(["gateway", "n8n", "reference"]) {
        settings(&stack, json!({"unauthorized_body": body})).await;
        let connection = stack.connect(1, user).await.unwrap();
        expire(&stack).await;

        let answer = stack.person_of(&connection, EMAIL).await.unwrap();

        assert_eq!(answer.expect(200).body, NAME, "{body}");
        assert_eq!(row(&stack, &connection).await.generation, 2, "{body}");
    }
}

pub(crate) async fn token_that_ended_by_the_clock_is_not_sent(backend: Backend) {
    let (stack, _) = connected(backend).await;
    stack.sql("UPDATE connections SET expires_at = authorized_at");

    let answer = stack.person(EMAIL).await.unwrap();

    assert_eq!(answer.expect(200).body, NAME);
    assert_eq!(refreshes(&stack).await, 1);
    assert_eq!(stack.stats().await.unwrap()["bearers_refused"], 0);
}

/// Waiting for a limit is no refusal: the token that dies meanwhile is healed like any other.
pub(crate) async fn expired_token_behind_a_burst_limit_heals(backend: Backend) {
    let (stack, _) = connected(backend).await;
    stack.person(EMAIL).await.unwrap().expect(200);
    expire(&stack).await;
    fault(
        &stack,
        json!({"on": "api", "fault": "429_burst", "times": 2}),
    )
    .await;

    let answer = stack.person(EMAIL).await.unwrap();

    assert_eq!(answer.expect(200).body, NAME);
    assert_eq!(refreshes(&stack).await, 1);
}

pub(crate) async fn burst_limit_is_waited_for_and_then_told(backend: Backend) {
    let (stack, _) = connected(backend).await;
    let burst = json!({"on": "api", "fault": "429_burst"});
    fault(&stack, burst.clone()).await;

    let waited = stack.person(EMAIL).await.unwrap();

    assert_eq!(waited.expect(200).body, NAME);
    let searches = &stack.stats().await.unwrap()["api"]["persons/search"];
    assert_eq!((&searches["200"], &searches["429"]), (&json!(1), &json!(1)));

    let impatient = stack
        .add_data_api(&[("data-api.upstream.max_wait_secs", "1")])
        .await;
    fault(&stack, burst).await;
    let told = impatient.person(EMAIL).await.unwrap();
    told.expect_problem(429, "UPSTREAM_RATE_LIMITED");
    assert_eq!(told.retry_after(), 2);
    assert_eq!(refreshes(&stack).await, 0);
}

pub(crate) async fn spent_daily_budget_is_told_at_once(backend: Backend) {
    let (stack, _) = connected(backend).await;
    for limit in [
        json!({"rate_headers": true}),
        json!({"rate_headers": false}),
    ] {
        settings(&stack, limit).await;
        fault(&stack, json!({"on": "api", "fault": "429_daily"})).await;
        let refused = async || {
            let stats = stack.stats().await.unwrap();
            stats["api"]["persons/search"]["429"].as_u64().unwrap_or(0)
        };
        let before = refused().await;

        let answer = stack.person(EMAIL).await.unwrap();

        assert_eq!(refused().await, before + 1, "nobody waits and asks again");

        answer.expect_problem(429, "UPSTREAM_DAILY_BUDGET");
        assert!(answer.retry_after() >= 1);
    }
    settings(&stack, json!({"budget_tokens": 20})).await;
    stack.person(EMAIL).await.unwrap().expect(200);
    let answer = stack.person(EMAIL).await.unwrap();
    answer.expect_problem(429, "UPSTREAM_DAILY_BUDGET");
}

pub(crate) async fn time_to_come_back_is_passed_on_however_it_is_written(backend: Backend) {
    let (stack, _) = connected(backend).await;
    for (name, sent, status, code, told) in [
        ("429_burst", "30", 429, "UPSTREAM_RATE_LIMITED", 30),
        ("429_burst", "30.5", 429, "UPSTREAM_RATE_LIMITED", 31),
        (
            "429_burst",
            "Fri, 06 Nov 2099 08:49:37 GMT",
            429,
            "UPSTREAM_DAILY_BUDGET",
            86_400,
        ),
        ("503_html", "30", 502, "UPSTREAM_ERROR", 30),
        ("503_html", "0.5", 502, "UPSTREAM_ERROR", 1),
        (
            "503_html",
            "Fri, 06 Nov 2099 08:49:37 GMT",
            502,
            "UPSTREAM_ERROR",
            86_400,
        ),
        ("503_html", "soon", 502, "UPSTREAM_ERROR", 0),
    ] {
        fault(
            &stack,
            json!({"on": "api", "fault": name, "retry_after": sent}),
        )
        .await;

        let answer = stack.person(EMAIL).await.unwrap();

        answer.expect_problem(status, code);
        let header = answer.header("retry-after");
        assert_eq!(header.parse().unwrap_or(0), told, "{name} {sent}: {header}");
    }
    let searches = &stack.stats().await.unwrap()["api"]["persons/search"];
    assert_eq!((&searches["429"], &searches["503"]), (&json!(3), &json!(4)));
}

pub(crate) async fn failing_api_is_told_and_costs_no_refresh(backend: Backend) {
    let (stack, _) = connected(backend).await;
    let client = stack
        .add_data_api(&[("data-api.upstream.timeout_secs", "1")])
        .await;
    for (name, status, code, upstream) in [
        ("500", 502, "UPSTREAM_ERROR", json!(500)),
        ("503_html", 502, "UPSTREAM_ERROR", json!(503)),
        ("402", 502, "UPSTREAM_ERROR", json!(402)),
        ("garbage", 502, "UPSTREAM_ERROR", Value::Null),
        ("reset", 502, "UPSTREAM_ERROR", Value::Null),
        ("truncated", 502, "UPSTREAM_ERROR", Value::Null),
        ("timeout", 504, "UPSTREAM_TIMEOUT", Value::Null),
        ("commit_then_hang", 504, "UPSTREAM_TIMEOUT", Value::Null),
        ("403_cloudflare_html", 502, "UPSTREAM_BLOCKED", Value::Null),
    ] {
        fault(&stack, json!({"on": "api", "fault": name})).await;

        let answer = client.person(EMAIL).await.unwrap();

        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{name}"
        );
        assert_eq!(
            answer.expect_problem(status, code)["upstream_status"],
            upstream,
            "{name}"
        );
        clear_faults(&stack).await;
        assert_eq!(
            client.person(EMAIL).await.unwrap().expect(200).body,
            NAME,
            "{name}"
        );
    }
    settings(&stack, json!({"scopes": ["base"]})).await;
    let narrow = stack.connect(2, 1).await.unwrap();
    let answer = client.person_of(&narrow, EMAIL).await.unwrap();
    assert_eq!(
        answer.expect_problem(502, "UPSTREAM_ERROR")["upstream_status"],
        403
    );
    assert_eq!(refreshes(&stack).await, 0);
}

pub(crate) async fn refresher_that_cannot_be_asked_is_told(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let nobody = [(
        "data-api.refresher.url",
        "http://127.0.0.1:1/webhook/pipedrive/refresh",
    )];
    let somebody_else = format!("{}/oauth/nothing", stack.simulator);
    let somebody_else = [("data-api.refresher.url", somebody_else.as_str())];
    let wrong_password = [("data-api.refresher.password", "wrong")];
    expire(&stack).await;
    for set in [nobody, somebody_else, wrong_password] {
        let client = stack.add_data_api(&set).await;

        let answer = client.person(EMAIL).await.unwrap();

        answer.expect_problem(503, "REFRESH_FAILED");
        assert!(answer.retry_after() >= 1);
    }
    assert_eq!(row(&stack, &connection).await.state.as_str(), "active");
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
}

pub(crate) async fn failing_refresh_is_told_with_the_refreshers_word(backend: Backend) {
    let (stack, _) = connected(backend).await;
    for (user, name, status) in [
        (2, "500", 502),
        (3, "503_html", 502),
        (4, "429_burst", 502),
        (5, "timeout", 504),
    ] {
        let connection = stack.connect(1, user).await.unwrap();
        let refresher = stack
            .add_refresher(&[("token-refresher.refresh.timeout_secs", "1")])
            .await;
        let url = format!("{}/webhook/pipedrive/refresh", refresher.token_refresher);
        let client = stack
            .add_data_api(&[("data-api.refresher.url", &url)])
            .await;
        expire(&stack).await;
        fault(&stack, json!({"on": "token", "fault": name, "times": 0})).await;

        let first = client.person_of(&connection, EMAIL).await.unwrap();
        wait_longer(&stack);
        let second = client.person_of(&connection, EMAIL).await.unwrap();

        assert_eq!(first.status, status, "{name}: {}", first.body);
        first.expect_problem(status, "REFRESH_FAILED");
        second.expect_problem(503, "REFRESH_FAILED");
        for answer in [first, second] {
            assert!(answer.retry_after() >= 1, "{name}");
            assert!(
                answer.json()["access_token_expires_at"].is_string(),
                "{name}"
            );
        }
        clear_faults(&stack).await;
    }
}

pub(crate) async fn slow_refresh_is_told_as_busy(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let held = hold_refresh(&stack).await;
    let hurried = stack
        .add_data_api(&[("data-api.refresher.timeout_secs", "1")])
        .await;
    expire(&stack).await;

    let busy = hurried.person(EMAIL).await.unwrap();

    busy.expect_problem(503, "REFRESH_BUSY");
    assert!(busy.retry_after() >= 1);
    held.release();
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
    assert_eq!(
        (
            refreshes(&stack).await,
            row(&stack, &connection).await.generation
        ),
        (1, 2)
    );
}
