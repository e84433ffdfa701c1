//! A login cannot be forged, replayed or fixed on someone else, and it touches no one else's connection.

use std::collections::{BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pipedrive_sim::DEFAULT_CLIENT_SECRET;
use pipekeeper_core::clock::SystemClock;
use pipekeeper_core::crypto::{Keyring, pkce_challenge, sha256_hex};
use pipekeeper_core::store::Backend;
use pipekeeper_core::vault::Vault;
use reqwest::header::{COOKIE, HOST, SET_COOKIE};
use serde_json::{Value, json};
use stack_tests::stack::{OTHER_APP, REDIRECT_URL};
use stack_tests::{Client, Reply, Stack};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use up::tasks::in_background;
use url::{Url, form_urlencoded};

use crate::support::{EMAIL, books, clear_faults, connected, fault, row, settings, until};

pub(crate) const OPERATOR: (&str, &str) = ("operator", "webhook-password");

/// `GET /auth/login`, with credentials or without.
pub(crate) async fn begin(
    client: &Client,
    query: &str,
    credentials: Option<(&str, &str)>,
) -> Reply {
    let mut request = client
        .http
        .get(format!("{}/auth/login?{query}", client.auth_capture));
    if let Some((user, password)) = credentials {
        request = request.basic_auth(user, Some(password));
    }
    Reply::of(request.send().await.unwrap()).await.unwrap()
}

/// A login in which the operator names the account: where the browser comes back to, and its cookie.
pub(crate) async fn consented(
    client: &Client,
    account: &str,
    company: u32,
    user: u32,
) -> (Url, String) {
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

pub(crate) async fn log_in(client: &Client, account: &str, company: u32, user: u32) -> Reply {
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

/// Somebody's login, and the operator's: the browser is sent to the provider, and keeps a cookie.
async fn both_begun(client: &Client) -> [(String, String); 2] {
    let begun = begin(client, "account_id=acme&owner=boss", Some(OPERATOR)).await;
    let begun = begun.expect(303);
    let cookie = begun.header("set-cookie").split(';').next().unwrap();
    [
        client.start_login("").await.unwrap(),
        (begun.header("location").to_owned(), cookie.to_owned()),
    ]
}

pub(crate) async fn login_ends_once(backend: Backend) {
    let stack = Stack::start(backend).await;
    for (before, (location, cookie)) in [0, 2].into_iter().zip(both_begun(&stack).await) {
        let first = stack.consent(&location, "approve", 1, 1).await.unwrap();
        let second = stack.consent(&location, "approve", 2, 1).await.unwrap();
        let ended = stack.finish_login(&first, Some(&cookie)).await.unwrap();
        let ended = ended.expect(200);

        let same_code = stack.finish_login(&first, Some(&cookie)).await.unwrap();
        let new_code = stack.finish_login(&second, Some(&cookie)).await.unwrap();

        // A page that is loaded again says the same again; a second consent is none.
        assert_eq!(same_code.expect(200).body, ended.body);
        new_code.expect_problem(400, "LOGIN_INVALID");
        let exchanged = stack.token_calls("authorization_code").await.unwrap();
        assert_eq!(exchanged, before + 1);
        // Its code was not consumed.
        let unused = format!("code={}", code_of(&second));
        stack.callback(&unused).await.unwrap().expect(200);
    }
}

fn code_of(back: &Url) -> String {
    let code = back.query_pairs().find(|(key, _)| key == "code");
    code.unwrap().1.into_owned()
}

pub(crate) async fn login_ends_once_though_many_bring_it_back_together(backend: Backend) {
    let stack = Stack::start(backend).await;
    settings(
        &stack,
        json!({"code_reuse": "ends_grant", "token_delay_ms": 100}),
    )
    .await;
    let (location, cookie) = stack.start_login("").await.unwrap();
    let back = stack.consent(&location, "approve", 1, 1).await.unwrap();

    let racers = (0..10).map(|_| stack.finish_login(&back, Some(&cookie)));
    let answers = futures_util::future::join_all(racers).await;

    let bodies: BTreeSet<String> = answers
        .into_iter()
        .map(|answer| answer.unwrap().expect(200).body)
        .collect();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert_eq!(stack.token_calls("authorization_code").await.unwrap(), 1);
}

/// A stranger's request, a link scanner's for example, neither ends the login nor uses it up.
pub(crate) async fn login_ends_in_the_browser_that_began_it(backend: Backend) {
    let stack = Stack::start(backend).await;
    let (_, strangers) = stack.start_login("").await.unwrap();
    let (name, _) = strangers.split_once('=').unwrap();
    let short = format!("{name}=short");
    for (exchanges, (location, own)) in (1..).zip(both_begun(&stack).await) {
        let back = stack.consent(&location, "approve", 1, 1).await.unwrap();
        for cookie in [
            None,
            Some(strangers.as_str()),
            Some(short.as_str()),
            Some("other=1"),
        ] {
            let refused = stack.finish_login(&back, cookie).await.unwrap();
            refused.expect_problem(400, "LOGIN_INVALID");
        }
        let exchanged = stack.token_calls("authorization_code").await.unwrap();
        assert_eq!(exchanged, exchanges - 1);

        let ended = stack.finish_login(&back, Some(&own)).await.unwrap();

        ended.expect(200);
        let exchanged = stack.token_calls("authorization_code").await.unwrap();
        assert_eq!(exchanged, exchanges);
        // What became of it is the browser's that began it, too.
        let told = stack.finish_login(&back, Some(&strangers)).await.unwrap();
        told.expect_problem(400, "LOGIN_INVALID");
    }
}

pub(crate) async fn login_without_credentials_is_stored_nowhere(backend: Backend) {
    let stack = Stack::start(backend).await;
    let (location, cookie) = stack.start_login("").await.unwrap();

    for table in ["logins", "callbacks"] {
        let rows = stack.sql(&format!("SELECT 1 AS line FROM {table}"));
        assert!(rows.is_empty(), "{table}");
    }
    let state = state_of(&location);
    assert!(state.starts_with("pipekeeper."), "{state}");
    let cookie_value = cookie.split_once('=').unwrap().1;
    assert!(!state.contains(cookie_value), "{state}");
    let (again, _) = stack.start_login("").await.unwrap();
    assert_ne!(state_of(&again), state);
}

fn state_of(location: &str) -> String {
    let location = Url::parse(location).unwrap();
    let state = location.query_pairs().find(|(key, _)| key == "state");
    state.unwrap().1.into_owned()
}

/// The state of a login without credentials that expires so many seconds from now.
fn sealed_state(stack: &Stack, cookie: &str, secs: i64) -> String {
    let keyring = Keyring::parse(stack.encryption_keys()).unwrap();
    let binding = sha256_hex(cookie.split_once('=').unwrap().1);
    let now = SystemClock::shared().now().unix_micros();
    let expires_at = now + secs * 1_000_000;
    let sealed =
        Vault::new(keyring).seal_state(format!("{expires_at} {binding} 5eed pipedrive").as_bytes());
    format!("pipekeeper.sealed.{}", URL_SAFE_NO_PAD.encode(sealed))
}

pub(crate) async fn state_with_our_prefix_is_a_good_one_or_refused(backend: Backend) {
    let stack = Stack::start(backend).await;
    let [(sealed, cookie), (stored, other)] = both_begun(&stack).await;
    let sealed = state_of(&sealed);
    stack.sql("UPDATE logins SET expires_at = created_at");
    let mut tampered = sealed.clone();
    let other_letter = if sealed.as_bytes()[40] == b'A' {
        "B"
    } else {
        "A"
    };
    tampered.replace_range(40..41, other_letter);
    let code = stack.marketplace_consent("approve", 1, 1).await.unwrap();
    for (state, cookie) in [
        (state_of(&stored), &other),
        (sealed_state(&stack, &cookie, -1), &cookie),
        (tampered, &cookie),
        ("pipekeeper.".to_owned(), &cookie),
        ("pipekeeper.login.junk".to_owned(), &cookie),
        ("pipekeeper.sealed.".to_owned(), &cookie),
        ("pipekeeper.sealed.junk".to_owned(), &cookie),
        ("pipekeeper.other".to_owned(), &cookie),
    ] {
        let back = Url::parse(&format!("http://x/?{code}&state={state}")).unwrap();

        let refused = stack.finish_login(&back, Some(cookie)).await.unwrap();

        refused.expect_problem(400, "LOGIN_INVALID");
    }
    assert_nothing_exchanged(&stack).await;

    let good = sealed_state(&stack, &cookie, 60);
    let back = Url::parse(&format!("http://x/?{code}&state={good}")).unwrap();
    let ended = stack.finish_login(&back, Some(&cookie)).await.unwrap();
    ended.expect(200);
}

/// A team's own link, with a state of its own.
pub(crate) async fn own_install_link_counts_as_an_install(backend: Backend) {
    let stack = Stack::start(backend).await;
    for (user, state) in [(1, "own"), (2, "Pipekeeper."), (3, "%00%FF"), (4, "")] {
        let code = stack.marketplace_consent("approve", 1, user).await.unwrap();

        let answer = stack.callback(&format!("{code}&state={state}")).await;

        let connection = answer.unwrap().expect(200).json()["connection"].clone();
        assert_eq!(connection["account_id"], "~pipedrive:1", "{state}");
    }
    let off = [("auth-capture.login.allow_marketplace_installs", "false")];
    let closed = stack.add_auth_capture(&off).await;
    let code = stack.marketplace_consent("approve", 1, 5).await.unwrap();
    let refused = closed.callback(&format!("{code}&state=own")).await.unwrap();
    refused.expect_problem(400, "LOGIN_INVALID");
}

pub(crate) async fn login_starts_at_the_host_of_its_callback(backend: Backend) {
    let stack = Stack::start(backend).await;
    let ask = async |host: &str, query: &str| {
        let url = format!("{}/auth/login{query}", stack.auth_capture);
        let request = stack.http.get(url).header(HOST, host);
        Reply::of(request.send().await.unwrap()).await.unwrap()
    };
    let port = Url::parse(&stack.auth_capture).unwrap().port().unwrap();

    for (host, query, location) in [
        ("localhost", "", "/auth/login?at=redirect_url"),
        (
            "localhost:8080",
            "?app=pipedrive",
            "/auth/login?app=pipedrive&at=redirect_url",
        ),
    ] {
        let sent = ask(host, query).await.expect(307);
        let expected = format!("http://127.0.0.1:1{location}");
        assert_eq!(sent.header("location"), expected);
        assert_eq!(sent.header("set-cookie"), "");
    }
    for host in ["127.0.0.1", &format!("127.0.0.1:{port}"), "127.0.0.1:1"] {
        ask(host, "").await.expect(303);
    }
    // A proxy that passes on another host is no endless loop.
    ask("upstream", "?at=redirect_url").await.expect(303);
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
        "https://crm.example/webhook/pipedrive/callback",
    )];
    let public = stack.add_auth_capture(&https).await;

    let local = begin(&stack, "", None).await.expect(303);
    let request = public
        .http
        .get(format!("{}/auth/login", public.auth_capture));
    let request = request.header(HOST, "crm.example");
    let public = Reply::of(request.send().await.unwrap()).await.unwrap();
    let public = public.expect(303);

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

/// A row that has ended holds no install: anyone who comes with a new consent of that person gets it.
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
    assert_eq!(installed["id"], ended["id"]);
    assert_eq!(
        installed["account_id"], "other",
        "it stays with its account"
    );
    stack.person_of(&next, EMAIL).await.unwrap().expect(200);
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

/// Where the provider replaces the older tokens, they would be dead otherwise.
pub(crate) async fn same_persons_install_renews_the_connection_that_a_login_made(backend: Backend) {
    let stack = Stack::start(backend).await;
    settings(&stack, json!({"reinstall": "replaces_tokens"})).await;
    let holder = logged_in(&stack, "acme", 1, 1).await;
    let colleague = logged_in(&stack, "borealis", 1, 2).await;
    let before = row(&stack, &colleague).await;

    let again = stack.connect(1, 1).await.unwrap();

    for key in ["id", "account_id", "owner"] {
        assert_eq!(again[key], holder[key], "{key}");
    }
    assert_eq!(again["generation"], 2);
    assert_eq!(row(&stack, &colleague).await, before);
    let fresh = stack.add_data_api(&[]).await;
    fresh.person_of(&holder, EMAIL).await.unwrap().expect(200);
    assert_eq!(stack.token_calls("refresh_token").await.unwrap(), 0);
}

pub(crate) async fn refused_consent_is_not_left_alive(backend: Backend) {
    let stack = Stack::start(backend).await;
    settings(&stack, json!({"reinstall": "replaces_tokens"})).await;
    let acme = logged_in(&stack, "acme", 1, 1).await;
    let installed = stack.connect(3, 1).await.unwrap();

    // The first attempts fail.
    fault(&stack, json!({"on": "revoke", "fault": "500"})).await;
    fault(&stack, json!({"on": "revoke", "fault": "reset"})).await;
    let nobodys = log_in(&stack, "acme", 2, 1).await;
    let held = log_in(&stack, "acme", 3, 1).await;
    let anothers = log_in(&stack, "borealis", 1, 1).await;

    nobodys.expect_problem(409, "DIFFERENT_COMPANY");
    assert_eq!(books(&stack, 2, 1).await["state"], "revoked");
    // Its row gets the new tokens: the older ones are dead.
    held.expect_problem(409, "DIFFERENT_COMPANY");
    anothers.expect_problem(409, "ALREADY_CONNECTED");
    for (connection, company) in [(&installed, 3), (&acme, 1)] {
        assert_eq!(books(&stack, company, 1).await["state"], "active");
        assert_eq!(row(&stack, connection).await.generation, 2);
        stack
            .person_of(connection, EMAIL)
            .await
            .unwrap()
            .expect(200);
    }
    assert_eq!(stack.token_calls("refresh_token").await.unwrap(), 0);
}

/// While it could not be revoked, the same person connected elsewhere: the provider would end both.
pub(crate) async fn refused_consent_is_not_revoked_over_a_later_one(backend: Backend) {
    let stack = Stack::start(backend).await;
    logged_in(&stack, "acme", 1, 1).await;
    let away = json!({"on": "revoke", "fault": "500", "times": 0});
    fault(&stack, away).await;
    let (back, cookie) = consented(&stack, "acme", 2, 1).await;
    let caller = stack.client.clone();
    let waiting = in_background(async move { caller.finish_login(&back, Some(&cookie)).await });
    until("the first attempt has failed", || async {
        stack.stats().await.unwrap()["token"]
            .to_string()
            .contains("authorization_code")
            && stack.token_calls("authorization_code").await.unwrap() == 2
    })
    .await;

    let later = stack.connect(2, 1).await.unwrap();
    clear_faults(&stack).await;

    let refused = waiting.await.unwrap().unwrap();
    refused.expect_problem(409, "DIFFERENT_COMPANY");
    assert_eq!(books(&stack, 2, 1).await["state"], "active");
    stack.person_of(&later, EMAIL).await.unwrap().expect(200);
}

/// The form of the token request that a callback leads to, which fails.
async fn token_request(tokens: &TcpListener) -> HashMap<String, String> {
    let (mut stream, _) = tokens.accept().await.unwrap();
    let (mut request, mut chunk) = (String::new(), [0; 4096]);
    let form = loop {
        let read = stream.read(&mut chunk).await.unwrap();
        request.push_str(str::from_utf8(&chunk[..read]).unwrap());
        let (head, form) = request.split_once("\r\n\r\n").unwrap_or_default();
        let length = format!("content-length: {}", form.len());
        if head.to_lowercase().lines().any(|line| line == length) {
            break form;
        }
        assert_ne!(read, 0, "{request}");
    };
    let failed = b"HTTP/1.1 500 Failed\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    stream.write_all(failed).await.unwrap();
    form_urlencoded::parse(form.as_bytes())
        .into_owned()
        .collect()
}

pub(crate) async fn state_carries_its_app_and_its_verifier(backend: Backend) {
    let stack = Stack::start(backend).await;
    let two = [
        ("auth-capture.apps.other.provider", "pipedrive"),
        ("auth-capture.apps.other.client_id", OTHER_APP),
        (
            "auth-capture.apps.other.client_secret",
            DEFAULT_CLIENT_SECRET,
        ),
        ("auth-capture.apps.other.redirect_url", REDIRECT_URL),
    ];
    let both = stack.add_auth_capture(&two).await;
    // At whichever app's callback it comes, the state says whose login it is.
    let (location, cookie) = both.start_login("app=other").await.unwrap();
    let back = both.consent(&location, "approve", 1, 1).await.unwrap();
    let ended = both.finish_login(&back, Some(&cookie)).await.unwrap();
    assert_eq!(ended.expect(200).json()["connection"]["AppId"], OTHER_APP);
    let (location, cookie) = both.start_login("").await.unwrap();
    let own = both.consent(&location, "approve", 1, 1).await.unwrap();
    let state = own.query_pairs().find(|(key, _)| key == "state").unwrap().1;
    let of_other = Client {
        client_id: OTHER_APP.to_owned(),
        ..both.clone()
    };
    let code = of_other.marketplace_consent("approve", 1, 2).await.unwrap();
    let at_other = async |query: &str| {
        let url = format!(
            "{}/webhook/pipedrive/callback/other?{query}",
            both.auth_capture
        );
        let request = both.http.get(url).header(COOKIE, &cookie);
        Reply::of(request.send().await.unwrap()).await.unwrap()
    };
    let query = own.query().unwrap();
    let ended = at_other(query).await.expect(200).json();
    assert_eq!(ended["connection"]["AppId"], stack.client_id);
    let again = at_other(&format!("{code}&state={state}")).await;
    again.expect_problem(400, "LOGIN_INVALID");

    let tokens = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let token_url = format!("http://{}/", tokens.local_addr().unwrap());
    let pkce = [
        ("auth-capture.providers.pipedrive.pkce", "true"),
        ("auth-capture.providers.pipedrive.token_url", &token_url),
    ];
    let with_pkce = stack.add_auth_capture(&pkce).await;
    let mut verifiers = BTreeSet::new();
    for (location, cookie) in both_begun(&with_pkce).await {
        let query: HashMap<String, String> = Url::parse(&location)
            .unwrap()
            .query_pairs()
            .into_owned()
            .collect();
        let back = with_pkce.consent(&location, "approve", 1, 1).await.unwrap();

        let (form, _) = tokio::join!(
            token_request(&tokens),
            with_pkce.finish_login(&back, Some(&cookie))
        );

        let verifier = form["code_verifier"].clone();
        assert_eq!(query["code_challenge"], pkce_challenge(&verifier));
        assert_eq!(query["code_challenge_method"], "S256");
        assert!((43..=128).contains(&verifier.len()), "{verifier}");
        assert!(!query["state"].contains(&verifier));
        verifiers.insert(verifier);
    }
    assert_eq!(verifiers.len(), 2);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_and_callbacks_that_came_to_nothing_are_pruned() {
    let stack = Stack::start(Backend::Sqlite).await;
    let begun = begin(&stack, "account_id=acme&owner=boss", Some(OPERATOR)).await;
    begun.expect(303);
    let junk = stack.callback("code=1.1.junk").await.unwrap();
    junk.expect_problem(400, "LOGIN_INVALID");
    stack.connect(1, 1).await.unwrap();
    let rows = || {
        ["logins", "callbacks"]
            .map(|table| stack.sql(&format!("SELECT count(*) AS line FROM {table}"))[0].clone())
    };
    assert_eq!(rows(), ["1", "2"]);
    let an_hour_ago = 3_600_000_000_i64;
    stack.sql(&format!(
        "UPDATE logins SET expires_at = expires_at - {an_hour_ago}"
    ));
    stack.sql(&format!(
        "UPDATE callbacks SET claimed_at = claimed_at - {an_hour_ago}"
    ));

    // It does so when it starts, and each minute.
    let _another = stack.add_auth_capture(&[]).await;

    until("they are gone", || async { rows() == ["0", "1"] }).await;
}
