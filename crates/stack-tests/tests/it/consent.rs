//! A code from Pipedrive's Marketplace becomes a connection, or nothing at all.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use pipekeeper_core::clock::SystemClock;
use pipekeeper_core::crypto::sha256_hex;
use pipekeeper_core::oauth::ID_MAX_BYTES;
use pipekeeper_core::store::{Backend, Claim, NewCallback};
use reqwest::header::{ACCEPT, COOKIE, HOST};
use serde_json::json;
use stack_tests::stack::{OTHER_APP, REDIRECT_URL};
use stack_tests::{Client, Reply, Stack};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use up::client::CALLBACK;
use up::tasks::in_background;
use url::Url;

use crate::logins::logged_in;
use crate::support::{EMAIL, NAME, books, clear_faults, connected, fault, row, settings};

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

    // An empty parameter is none.
    let query = stack.marketplace_consent("approve", 1, 1).await.unwrap();
    let approved = stack.callback(&format!("error=&{query}")).await.unwrap();
    approved.expect(200);
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
    // The same callback is told the same; the same code with a state of somebody's is none of theirs.
    stack.callback(&used).await.unwrap().expect(200);
    stack.sql("DELETE FROM callbacks");
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
        let person =
            json!({"account_id": format!("~pipedrive:{company}"), "owner": "~pipedrive:1"});
        let answer = stack.person_of(&person, EMAIL).await.unwrap();
        answer.expect_problem(404, "CONNECTION_NOT_FOUND");
    }
}

pub(crate) async fn provider_that_fails_stores_nothing(backend: Backend) {
    let stack = Stack::start(backend).await;
    let faults = [
        json!({"on": "token", "fault": "500"}),
        json!({"on": "token", "fault": "503_html", "retry_after": "7"}),
        json!({"on": "token", "fault": "429_burst", "retry_after": "7"}),
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
        if order.get("retry_after").is_some() {
            assert_eq!(answer.retry_after(), 7, "{order}");
        }
        clear_faults(&stack).await;
    }
    assert_nothing_stored(&stack).await;
}

/// No row could hold it, and shortened it would be somebody else's.
pub(crate) async fn id_that_is_too_long_is_refused_and_its_grant_revoked(backend: Backend) {
    let stack = Stack::start(backend).await;
    let api = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api_domain = format!("http://{}", api.local_addr().unwrap());
    let id = "7".repeat(ID_MAX_BYTES + 1);
    in_background(async move {
        let (mut stream, _) = api.accept().await.unwrap();
        let mut request = [0; 4096];
        let _head = stream.read(&mut request).await.unwrap();
        let body = json!({"success": true, "data": {"id": id, "company_id": 1}}).to_string();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let elsewhere = json!({"on": "token", "fault": "changed_api_domain", "api_domain": api_domain});
    fault(&stack, elsewhere).await;
    let query = stack.marketplace_consent("approve", 1, 1).await.unwrap();

    let answer = stack.callback(&query).await.unwrap();

    let problem = answer.expect_problem(502, "UPSTREAM_ERROR");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("user id is longer than"), "{detail}");
    assert_nothing_stored(&stack).await;
    assert_eq!(books(&stack, 1, 1).await["state"], "revoked");
}

pub(crate) async fn consent_that_the_database_refuses_is_revoked(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let rule = match backend {
        Backend::Postgres | Backend::Mysql => {
            "ALTER TABLE connections ADD CONSTRAINT rule CHECK (generation < 2 AND company_id <> '2')"
        }
        Backend::Sqlite => {
            stack.sql(
                "CREATE TRIGGER rule_too BEFORE UPDATE ON connections WHEN NEW.generation > 1 \
                 BEGIN SELECT RAISE(ABORT, 'against the rule'); END",
            );
            "CREATE TRIGGER rule BEFORE INSERT ON connections WHEN NEW.company_id = '2' \
             BEGIN SELECT RAISE(ABORT, 'against the rule'); END"
        }
    };
    stack.sql(rule);

    for company in [2, 1] {
        let query = stack.marketplace_consent("approve", company, 1).await;
        let refused = stack.callback(&query.unwrap()).await.unwrap();

        let problem = refused.expect_problem(500, "INTERNAL");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("database refuses"), "{detail}");
    }
    assert_eq!(books(&stack, 2, 1).await["state"], "revoked");
    // The person's row holds a grant, which would end with it.
    assert_eq!(books(&stack, 1, 1).await["state"], "active");
    assert_eq!(row(&stack, &connection).await.generation, 1);
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
    let answer = Reply::of(client.http.get(url).send().await.unwrap()).await;
    answer.unwrap().expect_problem(422, "BAD_REQUEST");
}

/// The provider ends the grant of a code that comes twice.
async fn strict(backend: Backend) -> Stack {
    let stack = Stack::start(backend).await;
    settings(&stack, json!({"code_reuse": "ends_grant"})).await;
    stack
}

pub(crate) async fn code_is_exchanged_once_though_it_comes_twice(backend: Backend) {
    let stack = strict(backend).await;
    let query = stack.marketplace_consent("approve", 1, 1).await.unwrap();
    let first = stack.callback(&query).await.unwrap().expect(200);

    let again = stack.callback(&query).await.unwrap().expect(200);
    let page = get(&stack, &format!("{CALLBACK}?{query}"), "text/html").await;

    assert_eq!(again.body, first.body);
    let page = page.expect(200).body;
    assert!(page.contains("Connected"), "{page}");
    assert!(!page.contains("not the app's default"), "{page}");
    let second = stack.marketplace_consent("approve", 2, 1).await.unwrap();
    let page = get(&stack, &format!("{CALLBACK}?{second}"), "text/html").await;
    let page = page.expect(200).body;
    assert!(page.contains("not the app's default"), "{page}");
    assert_eq!(stack.token_calls("authorization_code").await.unwrap(), 2);
    let refused = stack.callback("code=1.1.junk").await.unwrap();
    let again = stack.callback("code=1.1.junk").await.unwrap();
    assert_eq!(
        again.expect_problem(400, "LOGIN_INVALID")["detail"],
        refused.json()["detail"]
    );
    assert_eq!(stack.token_calls("authorization_code").await.unwrap(), 3);
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
    // Ten minutes later it is used, and is not exchanged again.
    let long_ago = match backend {
        Backend::Sqlite => "finished_at - 601000000",
        Backend::Postgres => "finished_at - interval '601 seconds'",
        Backend::Mysql => "finished_at - interval 601 second",
    };
    stack.sql(&format!("UPDATE callbacks SET finished_at = {long_ago}"));
    let late = stack.callback(&query).await.unwrap();
    late.expect_problem(400, "LOGIN_INVALID");
    assert_eq!(stack.token_calls("authorization_code").await.unwrap(), 3);
}

pub(crate) async fn code_is_exchanged_once_though_it_comes_to_two_replicas(backend: Backend) {
    let stack = strict(backend).await;
    settings(&stack, json!({"token_delay_ms": 300})).await;
    let other = stack.add_auth_capture(&[]).await;
    let query = stack.marketplace_consent("approve", 1, 1).await.unwrap();

    let replicas = [&stack.client, &other, &stack.client, &other];
    let answers = join_all(replicas.map(|client| client.callback(&query))).await;

    let bodies: BTreeSet<String> = answers
        .into_iter()
        .map(|answer| answer.unwrap().expect(200).body)
        .collect();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert_eq!(stack.token_calls("authorization_code").await.unwrap(), 1);
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
}

/// As a process that was killed leaves it.
pub(crate) async fn claimer_that_died_is_told_of(backend: Backend) {
    let stack = strict(backend).await;
    let query = stack.marketplace_consent("approve", 1, 1).await.unwrap();
    let code = query.strip_prefix("code=").unwrap();
    let claim = NewCallback {
        id: sha256_hex(code),
        state_hash: None,
        claimer: "dead".to_owned(),
    };
    let now = SystemClock::shared().now();
    let claimed = stack.store().callback_claim(&claim, now).await.unwrap();
    assert_eq!(claimed, Claim::PlainGrant);

    let told = stack.callback(&query).await.unwrap();

    let problem = told.expect_problem(400, "LOGIN_INVALID");
    assert!(problem["detail"].as_str().unwrap().contains("interrupted"));
    assert_nothing_stored(&stack).await;
    assert_eq!(stack.token_calls("authorization_code").await.unwrap(), 0);
}

pub(crate) async fn prefetch_does_nothing(backend: Backend) {
    let stack = strict(backend).await;
    let query = stack.marketplace_consent("approve", 1, 1).await.unwrap();
    let url = format!("{}{CALLBACK}?{query}", stack.auth_capture);
    for (name, value) in [
        ("sec-purpose", "prefetch"),
        ("sec-purpose", "prefetch;prerender"),
        ("purpose", "prefetch"),
        ("x-moz", "prefetch"),
    ] {
        let request = stack.http.get(&url).header(name, value);
        let ahead = Reply::of(request.send().await.unwrap()).await.unwrap();

        assert_eq!(
            (ahead.status, ahead.body.as_str()),
            (204, ""),
            "{name}: {value}"
        );
    }
    assert_nothing_stored(&stack).await;
    assert_eq!(stack.token_calls("authorization_code").await.unwrap(), 0);

    stack.callback(&query).await.unwrap().expect(200);
}

pub(crate) async fn callbacks_that_nobody_started_share_their_limits(backend: Backend) {
    let stack = Stack::start(backend).await;
    let limits = [
        ("auth-capture.login.marketplace_concurrency", "1"),
        ("auth-capture.login.installs_per_minute", "3"),
        ("auth-capture.login.trusted_proxies", "127.0.0.1"),
    ];
    let limited = stack.add_auth_capture(&limits).await;
    let callback = async |client: &Client, address: &str, query: &str, cookie: &str| {
        let request = client
            .http
            .get(format!("{}{CALLBACK}?{query}", client.auth_capture))
            .header("x-forwarded-for", address)
            .header(COOKIE, cookie);
        Reply::of(request.send().await.unwrap()).await.unwrap()
    };

    // However they come, they are counted, before anything is written.
    let (location, cookie) = limited.start_login("").await.unwrap();
    let state = Url::parse(&location).unwrap();
    let state = state
        .query_pairs()
        .find(|(key, _)| key == "state")
        .unwrap()
        .1
        .into_owned();
    for query in [
        "code=junk-1".to_owned(),
        "code=junk-2&state=own".to_owned(),
        format!("code=junk-3&state={state}"),
    ] {
        let junk = callback(&limited, "192.0.2.1", &query, &cookie).await;
        junk.expect_problem(400, "LOGIN_INVALID");
    }
    let (location, cookie) = limited.start_login("").await.unwrap();
    let declined = limited.consent(&location, "decline", 1, 1).await.unwrap();
    let rows = stack.sql("SELECT id AS line FROM callbacks");
    for query in ["code=junk-4", declined.query().unwrap()] {
        let refused = callback(&limited, "192.0.2.1", query, &cookie).await;
        refused.expect_problem(429, "RATE_LIMITED");
        assert!(refused.retry_after() >= 1);
    }
    assert_eq!(stack.sql("SELECT id AS line FROM callbacks"), rows);
    let other = callback(&limited, "192.0.2.2", "code=junk-5", "").await;
    other.expect_problem(400, "LOGIN_INVALID");
    // Nor is anything read for states that are none of ours, or no longer good.
    for (query, status) in [
        ("code=junk-6&state=pipekeeper.junk", 400),
        ("code=junk-6&state=pipekeeper.login.junk", 400),
        ("code=junk-6&state=pipekeeper.sealed.junk", 400),
        ("code=junk-6&state=pipekeeper.login.junk", 429),
    ] {
        let refused = callback(&limited, "192.0.2.3:5678", query, "").await;
        assert_eq!(refused.status, status, "{query}");
    }

    // One at a time; an operator's login waits for none of them.
    let arrived = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", arrived.local_addr().unwrap());
    let hold =
        json!({"on": "token", "fault": "call", "url": url, "times": 3, "when": "before_commit"});
    fault(&stack, hold).await;
    let client = limited.clone();
    let first = in_background(async move {
        let (location, cookie) = client.start_login("").await.unwrap();
        let back = client.consent(&location, "approve", 1, 1).await.unwrap();
        client.finish_login(&back, Some(&cookie)).await.unwrap()
    });
    let exchange = arrived.accept().await.unwrap();
    let client = limited.clone();
    let second = in_background(async move { client.connect(2, 1).await });
    let operators = async {
        let login = logged_in(&limited, "acme", 3, 1).await;
        assert_eq!(login["account_id"], "acme");
    };
    tokio::join!(operators, async { drop(arrived.accept().await.unwrap()) });
    let waits = tokio::time::timeout(Duration::from_millis(300), arrived.accept()).await;
    assert!(waits.is_err(), "two exchanges at one time");
    drop(exchange);
    first.await.unwrap().expect(200);
    drop(arrived.accept().await.unwrap());
    second.await.unwrap().unwrap();
}

/// The provider compares it as text with what is registered there.
pub(crate) async fn callback_url_is_sent_as_it_was_configured(backend: Backend) {
    let stack = Stack::start(backend).await;
    for text in [
        "http://LOCALHOST:1/auth/callback",
        "http://127.0.0.1",
        "https://APP.example:443/b\u{fc}cher?x='1'",
    ] {
        let set = [("auth-capture.apps.pipedrive.redirect_url", text)];
        let client = stack.add_auth_capture(&set).await;
        let host = Url::parse(text).unwrap().host_str().unwrap().to_owned();
        let request = client
            .http
            .get(format!("{}/auth/login", client.auth_capture));
        let begun = request.header(HOST, host).send().await.unwrap();
        let location = Reply::of(begun).await.unwrap().expect(303);
        let location = Url::parse(location.header("location")).unwrap();
        let mut query = location.query_pairs();
        let redirect_uri = query.find(|(key, _)| key == "redirect_uri");
        assert_eq!(redirect_uri.unwrap().1, text);
    }
    // … and in the exchange: the simulator compares, too.
    let upper = REDIRECT_URL.replace("127.0.0.1", "LOCALHOST");
    let set = [("auth-capture.apps.pipedrive.redirect_url", upper.as_str())];
    let other = stack.add_auth_capture(&set).await;
    let query = stack.marketplace_consent("approve", 1, 1).await.unwrap();
    let refused = other.callback(&query).await.unwrap();
    assert_eq!(refused.status, 502, "{}", refused.body);
}

pub(crate) async fn browsers_get_pages_that_can_run_and_leak_nothing(backend: Backend) {
    let stack = Stack::start(backend).await;
    let good = stack.marketplace_consent("approve", 5, 1).await.unwrap();
    let declined = stack.marketplace_consent("decline", 1, 1).await.unwrap();
    for (query, status, text) in [
        (good.as_str(), 200, "Elm &amp; Sons"),
        (declined.as_str(), 400, "Consent declined"),
        ("error=%3Cscript%3E", 400, "Consent declined"),
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

async fn get(client: &Client, path_and_query: &str, accept: &str) -> Reply {
    let url = format!("{}{path_and_query}", client.auth_capture);
    let request = client.http.get(url).header(ACCEPT, accept);
    Reply::of(request.send().await.unwrap()).await.unwrap()
}

/// Past every cache: the table is empty.
async fn assert_nothing_stored(stack: &Stack) {
    let rows = stack.sql("SELECT id AS line FROM connections");
    assert!(rows.is_empty(), "{rows:?}");
    let answer = stack.person(EMAIL).await.unwrap();
    answer.expect_problem(404, "CONNECTION_NOT_FOUND");
}
