//! A login cannot be forged, replayed or fixed on someone else, and it touches nobody else's connection.

use pipekeeper_core::store::Backend;
use reqwest::header::SET_COOKIE;
use serde_json::{Value, json};
use stack_tests::{Answer, Client, Stack};
use url::Url;

use crate::support::{EMAIL, connected, row, settings};

const OPERATOR: (&str, &str) = ("operator", "webhook-password");

/// `GET /auth/login`, with credentials or without.
async fn begin(client: &Client, query: &str, credentials: Option<(&str, &str)>) -> Answer {
    let mut request = client
        .http
        .get(format!("{}/auth/login?{query}", client.auth_capture));
    if let Some((user, password)) = credentials {
        request = request.basic_auth(user, Some(password));
    }
    Answer::of(request.send().await.unwrap()).await.unwrap()
}

/// A login in which the operator names the account: where the browser comes back to, and its cookie.
async fn consented(client: &Client, account: &str, company: u32, user: u32) -> (Url, String) {
    let query = format!("account_id={account}&owner=boss");
    let begun = begin(client, &query, Some(OPERATOR)).await.expect(303);
    let cookie = begun
        .header("set-cookie")
        .split(';')
        .next()
        .unwrap()
        .to_owned();
    let location = begun.header("location");
    let back = client
        .consent(location, "approve", company, user)
        .await
        .unwrap();
    (back, cookie)
}

pub(crate) async fn log_in(client: &Client, account: &str, company: u32, user: u32) -> Answer {
    let (back, cookie) = consented(client, account, company, user).await;
    client.finish_login(&back, Some(&cookie)).await.unwrap()
}

pub(crate) async fn logged_in(client: &Client, account: &str, company: u32, user: u32) -> Value {
    log_in(client, account, company, user)
        .await
        .expect(200)
        .json()["connection"]
        .clone()
}

/// Nothing was exchanged, so nothing can have been stored.
async fn assert_nothing_exchanged(stack: &Stack) {
    assert_eq!(stack.token_calls("authorization_code").await.unwrap(), 0);
    assert!(stack.sql("SELECT id AS line FROM connections").is_empty());
}

pub(crate) async fn login_connects_the_account_that_the_operator_named(backend: Backend) {
    let stack = Stack::start(backend).await;

    let connection = logged_in(&stack, "acme", 1, 1).await;

    assert_eq!(connection["account_id"], "acme");
    assert_eq!(connection["owner"], "boss");
    assert_eq!(connection["company_id"], "1");
    stack
        .person_of(&connection, EMAIL)
        .await
        .unwrap()
        .expect(200);
}

pub(crate) async fn login_ends_once(backend: Backend) {
    let stack = Stack::start(backend).await;
    let (location, cookie) = stack.start_login("").await.unwrap();
    let first = stack.consent(&location, "approve", 1, 1).await.unwrap();
    let second = stack.consent(&location, "approve", 2, 1).await.unwrap();
    stack
        .finish_login(&first, Some(&cookie))
        .await
        .unwrap()
        .expect(200);

    let same_code = stack.finish_login(&first, Some(&cookie)).await.unwrap();
    let new_code = stack.finish_login(&second, Some(&cookie)).await.unwrap();

    same_code.expect_problem(400, "LOGIN_INVALID");
    new_code.expect_problem(400, "LOGIN_INVALID");
    assert_eq!(stack.token_calls("authorization_code").await.unwrap(), 1);
}

pub(crate) async fn login_ends_once_though_many_bring_it_back_together(backend: Backend) {
    let stack = Stack::start(backend).await;
    let (location, cookie) = stack.start_login("").await.unwrap();
    let back = stack.consent(&location, "approve", 1, 1).await.unwrap();

    let racers = (0..10).map(|_| stack.finish_login(&back, Some(&cookie)));
    let answers = futures_util::future::join_all(racers).await;

    let ended = answers
        .iter()
        .filter(|answer| answer.as_ref().unwrap().status == 200);
    assert_eq!(ended.count(), 1);
    assert_eq!(stack.token_calls("authorization_code").await.unwrap(), 1);
}

pub(crate) async fn login_ends_in_the_browser_that_began_it(backend: Backend) {
    let stack = Stack::start(backend).await;
    let (_, strangers) = stack.start_login("").await.unwrap();
    let (name, _) = strangers.split_once('=').unwrap();
    let short = format!("{name}=short");
    for cookie in [
        None,
        Some(strangers.as_str()),
        Some(short.as_str()),
        Some("other=1"),
    ] {
        let (location, own) = stack.start_login("").await.unwrap();
        let back = stack.consent(&location, "approve", 1, 1).await.unwrap();

        let refused = stack.finish_login(&back, cookie).await.unwrap();
        let burnt = stack.finish_login(&back, Some(&own)).await.unwrap();

        refused.expect_problem(400, "LOGIN_INVALID");
        burnt.expect_problem(400, "LOGIN_INVALID");
    }
    assert_nothing_exchanged(&stack).await;
}

pub(crate) async fn state_that_is_unknown_or_expired_is_refused(backend: Backend) {
    let stack = Stack::start(backend).await;
    let (location, cookie) = stack.start_login("").await.unwrap();
    let back = stack.consent(&location, "approve", 1, 1).await.unwrap();
    let mut unknown = back.clone();
    let code = back.query_pairs().find(|(key, _)| key == "code").unwrap().1;
    unknown
        .query_pairs_mut()
        .clear()
        .append_pair("code", &code)
        .append_pair("state", "junk");
    stack.sql("UPDATE logins SET expires_at = created_at");

    for location in [unknown, back] {
        let answer = stack.finish_login(&location, Some(&cookie)).await.unwrap();

        answer.expect_problem(400, "LOGIN_INVALID");
    }
    assert_nothing_exchanged(&stack).await;
}

pub(crate) async fn declined_login_is_over(backend: Backend) {
    let stack = Stack::start(backend).await;
    let (location, cookie) = stack.start_login("").await.unwrap();
    let declined = stack.consent(&location, "decline", 1, 1).await.unwrap();
    let approved = stack.consent(&location, "approve", 1, 1).await.unwrap();

    let first = stack.finish_login(&declined, Some(&cookie)).await.unwrap();
    let second = stack.finish_login(&approved, Some(&cookie)).await.unwrap();

    first.expect_problem(400, "CONSENT_DECLINED");
    second.expect_problem(400, "LOGIN_INVALID");
    assert_nothing_exchanged(&stack).await;
}

pub(crate) async fn only_the_operator_names_accounts(backend: Backend) {
    let stack = Stack::start(backend).await;
    let named = "account_id=acme&owner=boss";
    let long = format!("account_id={}&owner=boss", "x".repeat(129));
    for (query, credentials, status, code) in [
        (named, None, 401, "UNAUTHORIZED"),
        (named, Some(("operator", "wrong")), 403, "UNAUTHORIZED"),
        (
            named,
            Some(("n8n", "webhook-password")),
            403,
            "UNAUTHORIZED",
        ),
        ("account_id=acme", Some(OPERATOR), 422, "BAD_REQUEST"),
        ("owner=boss", Some(OPERATOR), 422, "BAD_REQUEST"),
        (
            "account_id=~acme&owner=boss",
            Some(OPERATOR),
            422,
            "BAD_REQUEST",
        ),
        (
            "account_id=acme&owner=~boss",
            Some(OPERATOR),
            422,
            "BAD_REQUEST",
        ),
        ("account_id=&owner=", Some(OPERATOR), 422, "BAD_REQUEST"),
        (
            "account_id=%20acme&owner=boss",
            Some(OPERATOR),
            422,
            "BAD_REQUEST",
        ),
        (
            "account_id=a%00b&owner=boss",
            Some(OPERATOR),
            422,
            "BAD_REQUEST",
        ),
        (long.as_str(), Some(OPERATOR), 422, "BAD_REQUEST"),
        ("app=unknown", None, 404, "NOT_FOUND"),
        ("provider=unknown", None, 404, "NOT_FOUND"),
    ] {
        let answer = begin(&stack, query, credentials).await;

        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{query}"
        );
        answer.expect_problem(status, code);
        let challenge = if status == 401 || status == 403 {
            "Basic realm=\"Webhook\""
        } else {
            ""
        };
        assert_eq!(answer.header("www-authenticate"), challenge, "{query}");
    }
    assert!(
        stack
            .sql("SELECT state_hash AS line FROM logins")
            .is_empty()
    );
}

pub(crate) async fn login_cookie_is_for_this_site_and_this_way_back_alone(backend: Backend) {
    let stack = Stack::start(backend).await;
    let https = [(
        "auth-capture.apps.pipedrive.redirect_url",
        "https://keeper.example/webhook/pipedrive/callback",
    )];
    let public = stack.add_auth_capture(&https).await;

    let local = begin(&stack, "", None).await.expect(303);
    let public = begin(&public, "", None).await.expect(303);

    for (answer, name, secure) in [
        (&local, "pipekeeper-login=", false),
        (&public, "__Host-pipekeeper-login=", true),
    ] {
        let cookie = answer.header("set-cookie");
        assert_eq!(answer.headers.get_all(SET_COOKIE).iter().count(), 1);
        assert!(cookie.starts_with(name), "{cookie}");
        for attribute in ["HttpOnly", "SameSite=Lax", "Path=/"] {
            assert!(cookie.contains(attribute), "{attribute} of {cookie}");
        }
        assert_eq!(cookie.contains("Secure"), secure, "{cookie}");
        assert!(!cookie.contains("Domain"), "{cookie}");
        assert_eq!(answer.header("cache-control"), "no-store");
        let location = Url::parse(answer.header("location")).unwrap();
        let names: Vec<_> = location
            .query_pairs()
            .map(|(key, _)| key.into_owned())
            .collect();
        assert_eq!(names, ["client_id", "redirect_uri", "state"]);
    }
}

pub(crate) async fn login_adopts_the_marketplace_row_of_the_same_person(backend: Backend) {
    let (stack, installed) = connected(backend).await;

    let adopted = logged_in(&stack, "acme", 1, 1).await;

    assert_eq!(adopted["id"], installed["id"]);
    assert_eq!(adopted["generation"], 2);
    assert_eq!(
        (&adopted["account_id"], &adopted["owner"]),
        (&json!("acme"), &json!("boss"))
    );
    stack.person_of(&adopted, EMAIL).await.unwrap().expect(200);
    let before = stack.person_of(&installed, EMAIL).await.unwrap();
    before.expect_problem(404, "CONNECTION_NOT_FOUND");
}

pub(crate) async fn second_account_is_refused_and_the_holder_goes_on(backend: Backend) {
    let stack = Stack::start(backend).await;
    settings(&stack, json!({"reinstall": "replaces_tokens"})).await;
    let holder = logged_in(&stack, "acme", 1, 1).await;
    stack.person_of(&holder, EMAIL).await.unwrap().expect(200);

    let refused = log_in(&stack, "intruder", 1, 1).await;

    refused.expect_problem(409, "ALREADY_CONNECTED");
    let row = row(&stack, &holder).await;
    assert_eq!((row.generation, row.account_id.as_str()), (2, "acme"));
    stack.person_of(&holder, EMAIL).await.unwrap().expect(200);
    assert_eq!(stack.token_calls("refresh_token").await.unwrap(), 0);
    let intruder = json!({"account_id": "intruder", "owner": "boss"});
    let answer = stack.person_of(&intruder, EMAIL).await.unwrap();
    answer.expect_problem(404, "CONNECTION_NOT_FOUND");
}

/// A row that has ended holds no install: whoever comes with a new consent of that person gets it.
pub(crate) async fn ended_connection_keeps_nobody_out(backend: Backend) {
    let stack = Stack::start(backend).await;
    let ended = logged_in(&stack, "acme", 1, 1).await;
    let order = json!({
        "company": 1, "user": 1, "notify_url": format!("{}/auth/callback", stack.auth_capture),
    });
    stack.sim("uninstall", &order).await.unwrap();

    let next = logged_in(&stack, "other", 1, 1).await;

    assert_eq!(next["id"], ended["id"]);
    stack.person_of(&next, EMAIL).await.unwrap().expect(200);
    let former = stack.person_of(&ended, EMAIL).await.unwrap();
    former.expect_problem(404, "CONNECTION_NOT_FOUND");

    stack.sim("uninstall", &order).await.unwrap();
    let installed = stack.connect(1, 1).await.unwrap();
    assert_eq!(installed["account_id"], "~pipedrive:1");
}

/// Two rows that would have to become one: the one that is over makes room.
pub(crate) async fn ended_connection_of_another_user_is_not_in_the_way(backend: Backend) {
    let stack = Stack::start(backend).await;
    let uninstall = async |company: u32, user: u32| {
        let order = json!({
            "company": company, "user": user, "notify_url": format!("{}/auth/callback", stack.auth_capture),
        });
        stack.sim("uninstall", &order).await.unwrap();
    };
    logged_in(&stack, "acme", 1, 1).await;
    let installed = stack.connect(1, 2).await.unwrap();
    uninstall(1, 1).await;

    let adopted = logged_in(&stack, "acme", 1, 2).await;

    assert_eq!(
        (&adopted["id"], &adopted["user_id"]),
        (&installed["id"], &json!("2"))
    );
    stack.person_of(&adopted, EMAIL).await.unwrap().expect(200);

    stack.connect(1, 3).await.unwrap();
    uninstall(1, 3).await;
    uninstall(1, 2).await;

    let moved = logged_in(&stack, "acme", 1, 3).await;

    assert_eq!(
        (&moved["id"], &moved["user_id"]),
        (&adopted["id"], &json!("3"))
    );
    stack.person_of(&moved, EMAIL).await.unwrap().expect(200);
}

pub(crate) async fn install_touches_no_connection_that_a_login_made(backend: Backend) {
    let stack = Stack::start(backend).await;
    let holder = logged_in(&stack, "acme", 1, 1).await;
    let before = row(&stack, &holder).await;
    let query = stack.marketplace_consent("approve", 1, 1).await.unwrap();

    let refused = stack.callback(&query).await.unwrap();

    refused.expect_problem(409, "ALREADY_CONNECTED");
    assert_eq!(row(&stack, &holder).await, before);
    stack.person_of(&holder, EMAIL).await.unwrap().expect(200);
}

pub(crate) async fn account_keeps_its_company(backend: Backend) {
    let stack = Stack::start(backend).await;
    let connection = logged_in(&stack, "acme", 1, 1).await;
    stack.connect(3, 1).await.unwrap();
    let before = row(&stack, &connection).await;

    let free_grant = log_in(&stack, "acme", 2, 1).await;
    let installed_grant = log_in(&stack, "acme", 3, 1).await;

    free_grant.expect_problem(409, "DIFFERENT_COMPANY");
    installed_grant.expect_problem(409, "DIFFERENT_COMPANY");
    assert_eq!(row(&stack, &connection).await, before);
    stack
        .person_of(&connection, EMAIL)
        .await
        .unwrap()
        .expect(200);
}

pub(crate) async fn account_whose_connection_ended_may_connect_another_company(backend: Backend) {
    let stack = Stack::start(backend).await;
    let connection = logged_in(&stack, "acme", 1, 1).await;
    let notice = json!({
        "company": 1, "user": 1, "client_id": stack.client_id,
        "notify_url": format!("{}/auth/callback", stack.auth_capture),
    });
    stack.sim("uninstall", &notice).await.unwrap();
    assert_eq!(row(&stack, &connection).await.state.as_str(), "revoked");

    let moved = logged_in(&stack, "acme", 2, 1).await;

    assert_eq!(
        (&moved["id"], &moved["company_id"]),
        (&connection["id"], &json!("2"))
    );
    let found = stack.person_of(&moved, EMAIL).await.unwrap().expect(200);
    assert_eq!(found.body, "Jane Doe of Borealis Energy");
}

pub(crate) async fn same_account_logs_in_again_on_its_own_row(backend: Backend) {
    let stack = Stack::start(backend).await;
    let first = logged_in(&stack, "acme", 1, 1).await;

    let second = logged_in(&stack, "acme", 1, 1).await;

    assert_eq!(
        (&second["id"], &second["generation"]),
        (&first["id"], &json!(2))
    );
}
