//! Two accounts of one app never touch each other's connection, and nobody is answered from another's.

use pipekeeper_core::store::Backend;
use serde_json::json;
use stack_tests::{Setup, Stack};

use crate::logins::logged_in;
use crate::support::{EMAIL, NAME, books, connected, expire, refreshes, row};

const ELSEWHERE: &str = "Jane Doe of Borealis Energy";

pub(crate) async fn refresh_of_one_account_leaves_the_other_alone(backend: Backend) {
    let stack = Stack::start(backend).await;
    let first = logged_in(&stack, "acme", 1, 1).await;
    let second = logged_in(&stack, "borealis", 2, 1).await;
    let before = row(&stack, &second).await;

    let body = json!({"appId": stack.client_id, "accountId": "acme", "owner": "boss"});
    stack.refresh(&body).await.unwrap().expect(200);

    assert_eq!(row(&stack, &first).await.generation, 2);
    assert_eq!(row(&stack, &second).await, before);
    assert_eq!(books(&stack, 1, 1).await["refreshes"], 1);
    assert_eq!(books(&stack, 2, 1).await["refreshes"], 0);
}

pub(crate) async fn each_account_is_answered_from_its_own_company(backend: Backend) {
    let stack = Stack::start(backend).await;
    let first = logged_in(&stack, "acme", 1, 1).await;
    let second = logged_in(&stack, "borealis", 2, 1).await;
    expire(&stack).await;

    for (connection, name) in [
        (&first, NAME),
        (&second, ELSEWHERE),
        (&first, NAME),
        (&second, ELSEWHERE),
    ] {
        let answer = stack.person_of(connection, EMAIL).await.unwrap();

        assert_eq!(answer.expect(200).body, name);
    }
    assert_eq!(refreshes(&stack).await, 2);
    for connection in [&first, &second] {
        assert_eq!(row(&stack, connection).await.generation, 2);
    }
}

pub(crate) async fn end_of_one_account_leaves_the_other_alone(backend: Backend) {
    let stack = Stack::start(backend).await;
    let first = logged_in(&stack, "acme", 1, 1).await;
    let second = logged_in(&stack, "borealis", 2, 1).await;
    stack.sim("revoke", &json!({"company": 1})).await.unwrap();

    let ended = stack.person_of(&first, EMAIL).await.unwrap();
    let other = stack.person_of(&second, EMAIL).await.unwrap();

    let problem = ended.expect_problem(401, "TOKEN_INVALIDATED");
    assert_eq!(problem["state"], "reauth_required");
    assert_eq!(other.expect(200).body, ELSEWHERE);
    assert_eq!(
        row(&stack, &first).await.state_reason.as_deref(),
        Some("rejected")
    );
    assert_eq!(row(&stack, &second).await.state.as_str(), "active");
}

pub(crate) async fn app_alone_does_not_choose_between_accounts(backend: Backend) {
    let (stack, _installed) = connected(backend).await;
    logged_in(&stack, "acme", 2, 1).await;
    let body = json!({"appId": stack.client_id});

    let refresh = stack.refresh(&body).await.unwrap();
    let person = stack.person(EMAIL).await.unwrap();

    for answer in [refresh, person] {
        let problem = answer.expect_problem(409, "CONNECTION_AMBIGUOUS");
        assert!(!problem.to_string().contains("acme"), "{problem}");
        assert!(!problem.to_string().contains("~pipedrive"), "{problem}");
    }
    assert_eq!(refreshes(&stack).await, 0);
}

pub(crate) async fn account_alone_does_not_choose_between_its_owners(backend: Backend) {
    let stack = Stack::start(backend).await;
    logged_in(&stack, "acme", 1, 1).await;
    let body = json!({"appId": stack.client_id, "accountId": "acme"});
    stack.refresh(&body).await.unwrap().expect(200);
    let query = "account_id=acme&owner=other";
    let url = format!("{}/auth/login?{query}", stack.auth_capture);
    let begun = stack
        .http
        .get(url)
        .basic_auth("operator", Some("webhook-password"))
        .send()
        .await
        .unwrap();
    let header = |name| begun.headers()[name].to_str().unwrap().to_owned();
    let back = stack
        .consent(&header("location"), "approve", 2, 1)
        .await
        .unwrap();
    let cookie = header("set-cookie");
    stack
        .finish_login(&back, cookie.split(';').next())
        .await
        .unwrap()
        .expect(200);

    let refresh = stack.refresh(&body).await.unwrap();

    refresh.expect_problem(409, "CONNECTION_AMBIGUOUS");
}

pub(crate) async fn of_several_installs_the_latest_is_meant(backend: Backend) {
    let (stack, first) = connected(backend).await;
    let second = stack.connect(2, 1).await.unwrap();
    let body = json!({"appId": stack.client_id});

    let person = stack.person(EMAIL).await.unwrap();
    let refresh = stack.refresh(&body).await.unwrap();

    assert_eq!(person.expect(200).body, ELSEWHERE);
    assert_eq!(refresh.expect(200).json()["connectionId"], second["id"]);
    assert_eq!(row(&stack, &first).await.generation, 1);
}

pub(crate) async fn strict_services_choose_no_install(backend: Backend) {
    let strict = Setup {
        set: &[
            ("data-api.webhook.connection", "strict"),
            ("token-refresher.webhook.connection", "strict"),
        ],
        ..Setup::default()
    };
    let stack = Stack::with(backend, strict).await;
    let body = json!({"appId": stack.client_id});
    stack.connect(1, 1).await.unwrap();
    stack.refresh(&body).await.unwrap().expect(200);
    stack.connect(2, 1).await.unwrap();

    let refresh = stack.refresh(&body).await.unwrap();
    let person = stack.person(EMAIL).await.unwrap();

    refresh.expect_problem(409, "CONNECTION_AMBIGUOUS");
    person.expect_problem(409, "CONNECTION_AMBIGUOUS");
}

/// The cached token is the first install's and dead; the row that is meant now is another's, and its token is good.
pub(crate) async fn newer_install_is_not_refreshed_for_the_older_ones_sake(backend: Backend) {
    let (stack, _first) = connected(backend).await;
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
    let second = stack.connect(2, 1).await.unwrap();
    stack.sim("expire", &json!({"company": 1})).await.unwrap();

    let answer = stack.person(EMAIL).await.unwrap();

    assert_eq!(answer.expect(200).body, ELSEWHERE);
    assert_eq!(refreshes(&stack).await, 0);
    assert_eq!(row(&stack, &second).await.generation, 1);
}
