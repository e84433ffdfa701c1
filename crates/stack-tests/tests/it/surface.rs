//! What every URL of every service has in common: no database makes a difference here.

use pipekeeper_core::store::Backend;
use reqwest::Method;
use reqwest::header::{ACCEPT, ORIGIN};
use serde_json::json;
use stack_tests::{Client, Reply, Stack};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use up::client::{CALLBACK, PERSON, REFRESH};

use crate::support::{EMAIL, HANGS, NAME, connected};

async fn ask(client: &Client, method: &str, url: &str) -> Reply {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    Reply::of(client.http.request(method, url).send().await.unwrap())
        .await
        .unwrap()
}

fn services(client: &Client) -> [&str; 3] {
    [
        &client.auth_capture,
        &client.data_api,
        &client.token_refresher,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_told_by_every_service() {
    let stack = Stack::start(Backend::Sqlite).await;
    for service in services(&stack) {
        let alive = ask(&stack, "GET", &format!("{service}/healthz"))
            .await
            .expect(200);
        let ready = ask(&stack, "GET", &format!("{service}/readyz"))
            .await
            .expect(200);
        let described = ask(&stack, "GET", &format!("{service}/openapi.json"))
            .await
            .expect(200);

        assert_eq!(alive.json(), json!({"status": "ok"}));
        assert_eq!(ready.json(), json!({"status": "ready", "degraded": []}));
        assert!(described.json()["paths"]["/healthz"].is_object());
        for answer in [alive, ready, described] {
            assert_eq!(answer.header("x-content-type-options"), "nosniff");
        }
    }
    let metrics = ask(&stack, "GET", &stack.refresher_metrics)
        .await
        .expect(200);
    assert!(
        metrics.body.contains("pipekeeper_http_requests_total"),
        "{}",
        metrics.body
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_that_nothing_answers_are_not_found() {
    let stack = Stack::start(Backend::Sqlite).await;
    let paths = [
        "/",
        "/metrics",
        "/webhook",
        "/webhook/",
        "//",
        "/%2e%2e/etc/passwd",
        "/webhook/pipedrive",
        "/healthz/x",
        "/webhook/937a8843-a28a-400a-b473-bdc598366fa1",
        "/WEBHOOK/PIPEDRIVE/PERSON",
        "/%F0%9F%8C%9E",
        "/%FF",
    ];
    for service in services(&stack) {
        for path in paths {
            for method in ["GET", "POST", "DELETE", "PUT"] {
                let answer = ask(&stack, method, &format!("{service}{path}")).await;

                assert_eq!(answer.status, 404, "{method} {path}: {}", answer.body);
                answer.expect_problem(404, "NOT_FOUND");
            }
        }
    }
    for service in [&stack.data_api, &stack.token_refresher] {
        ask(&stack, "GET", &format!("{service}{CALLBACK}"))
            .await
            .expect_problem(404, "NOT_FOUND");
    }
    for service in [&stack.auth_capture, &stack.token_refresher] {
        ask(&stack, "POST", &format!("{service}{PERSON}"))
            .await
            .expect_problem(404, "NOT_FOUND");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_methods_are_told_which_ones_fit() {
    let stack = Stack::start(Backend::Sqlite).await;
    let (auth, data, refresher) = (&stack.auth_capture, &stack.data_api, &stack.token_refresher);
    for (service, path, allowed) in [
        (auth, CALLBACK, "GET, DELETE"),
        (auth, "/webhook/pipedrive/callback", "GET, DELETE"),
        (auth, "/webhook/pipedrive/callback/app", "GET, DELETE"),
        (auth, "/auth/callback", "GET, DELETE"),
        (auth, "/auth/callback/", "GET, DELETE"),
        (auth, "/auth/login", "GET"),
        (data, PERSON, "POST"),
        (data, "/webhook/pipedrive/person", "POST"),
        (refresher, REFRESH, "POST"),
        (refresher, "/webhook/pipedrive/refresh/", "POST"),
        (refresher, "/healthz", "GET, HEAD"),
        (data, "/readyz", "GET, HEAD"),
        (data, "/openapi.json", "GET, HEAD"),
    ] {
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            if allowed.split(", ").any(|allowed| allowed == method) {
                continue;
            }

            let answer = ask(&stack, method, &format!("{service}{path}")).await;

            assert_eq!(answer.status, 405, "{method} {path}: {}", answer.body);
            answer.expect_problem(405, "METHOD_NOT_ALLOWED");
            assert_eq!(answer.header("allow"), allowed, "{method} {path}");
        }
    }
}

/// Uptime monitors send HEAD; on a login or a callback it would act.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_monitors_look_at_answers_head_as_it_answers_get() {
    let stack = Stack::start(Backend::Sqlite).await;
    let paths = ["/healthz", "/readyz", "/openapi.json", "/healthz/"];
    let looked_at = services(&stack).into_iter();
    let mut urls: Vec<String> = looked_at
        .flat_map(|service| paths.map(|path| format!("{service}{path}")))
        .collect();
    urls.push(stack.refresher_metrics.clone());
    for url in urls {
        let get = ask(&stack, "GET", &url).await.expect(200);
        let head = ask(&stack, "HEAD", &url).await.expect(200);

        assert_eq!(head.body, "", "{url}");
        assert_eq!(head.header("content-type"), get.header("content-type"));
        if url != stack.refresher_metrics {
            let length = get.body.len().to_string();
            assert_eq!(head.header("content-length"), length, "{url}");
            assert_eq!(head.header("x-content-type-options"), "nosniff");
        }
    }
    for (service, path) in [
        (&stack.auth_capture, CALLBACK),
        (&stack.auth_capture, "/auth/login"),
        (&stack.data_api, PERSON),
        (&stack.token_refresher, REFRESH),
    ] {
        ask(&stack, "HEAD", &format!("{service}{path}"))
            .await
            .expect(405);
    }
    let logins = stack.sql("SELECT count(*) AS line FROM logins");
    assert_eq!(logins, ["0"]);
}

const MAX: usize = 64 * 1024;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_have_64_kib_at_most() {
    let (stack, connection) = connected(Backend::Sqlite).await;
    let padded = |mut body: serde_json::Value, length: usize| {
        let short = body.to_string().len();
        body["padding"] = json!("");
        let with_key = body.to_string().len();
        assert!(short < with_key);
        body["padding"] = json!("x".repeat(length - with_key));
        let body = body.to_string();
        assert_eq!(body.len(), length);
        body
    };
    let person = json!({"person": {"email": EMAIL}});
    let refresh = json!({"connectionId": connection["id"], "generation": 0});
    let notice = json!({"company_id": 99, "user_id": 99});
    for (length, status) in [(MAX - 1, 200), (MAX, 200), (MAX + 1, 413), (16 * MAX, 413)] {
        let requests = [
            stack
                .person_request(&json!({}))
                .body(padded(person.clone(), length)),
            stack
                .refresh_request(&json!({}))
                .body(padded(refresh.clone(), length)),
            stack
                .http
                .delete(format!("{}{CALLBACK}", stack.auth_capture))
                .basic_auth(
                    pipedrive_sim::DEFAULT_CLIENT_ID,
                    Some(pipedrive_sim::DEFAULT_CLIENT_SECRET),
                )
                .body(padded(notice.clone(), length)),
        ];
        for request in requests {
            let answer = Reply::of(request.send().await.unwrap()).await.unwrap();

            assert_eq!(answer.status, status, "{length}: {}", answer.body);
            if status == 413 {
                answer.expect_problem(413, "TOO_LARGE");
            }
        }
    }
}

/// Fewer bytes than announced, and a body that ends with its connection alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_that_do_not_end_are_not_waited_for() {
    let stack = Stack::start(Backend::Sqlite).await;
    let request = stack.person_request(&json!({})).build().unwrap();
    let credentials = request.headers()["authorization"].to_str().unwrap();
    let address = stack.data_api.trim_start_matches("http://");
    let answers = [
        "content-length: 100\r\n\r\n{",
        "upgrade: websocket\r\n\r\n{",
    ]
    .map(async |rest| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head =
            format!("POST {PERSON} HTTP/1.1\r\nhost: x\r\nauthorization: {credentials}\r\n{rest}");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let reading = tokio::time::timeout(HANGS, stream.read(&mut answer));
        let read = reading
            .await
            .expect("nobody is waited for so long")
            .unwrap();
        String::from_utf8_lossy(&answer[..read]).into_owned()
    });

    for answer in futures_util::future::join_all(answers).await {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("\"code\":\"BAD_REQUEST\""), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn request_ids_are_taken_over_if_they_are_sane() {
    let stack = Stack::start(Backend::Sqlite).await;
    let long = "x".repeat(65);
    for (sent, taken) in [
        (Some("01J-a_b.c"), true),
        (None, false),
        (Some(""), false),
        (Some("a b"), false),
        (Some("a\"b"), false),
        (Some("ü"), false),
        (Some(long.as_str()), false),
    ] {
        for service in services(&stack) {
            for path in ["/healthz", "/nothing"] {
                let mut request = stack.http.get(format!("{service}{path}"));
                if let Some(id) = sent {
                    request = request.header("x-request-id", id);
                }

                let answer = Reply::of(request.send().await.unwrap()).await.unwrap();

                let id = answer.header("x-request-id");
                if taken {
                    assert_eq!(Some(id), sent);
                } else {
                    assert!(
                        id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()),
                        "{id}"
                    );
                }
                if path == "/nothing" {
                    answer.expect_problem(404, "NOT_FOUND");
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn origins_are_allowed_only_as_configured() {
    let (stack, _) = connected(Backend::Sqlite).await;
    let origins = [(
        "data-api.cors.allowed_origins",
        "https://app.example https://other.example",
    )];
    let open = stack.add_data_api(&origins).await;
    let preflight = async |client: &Client, origin: &str| {
        let request = client
            .http
            .request(Method::OPTIONS, format!("{}{PERSON}", client.data_api))
            .header(ORIGIN, origin)
            .header("access-control-request-method", "POST");
        Reply::of(request.send().await.unwrap()).await.unwrap()
    };

    let closed = preflight(&stack, "https://app.example").await;
    let allowed = preflight(&open, "https://app.example").await.expect(200);
    let foreign = preflight(&open, "https://evil.example").await;

    closed.expect_problem(405, "METHOD_NOT_ALLOWED");
    assert_eq!(
        allowed.header("access-control-allow-origin"),
        "https://app.example"
    );
    assert_eq!(foreign.header("access-control-allow-origin"), "");
    assert_eq!(open.person(EMAIL).await.unwrap().expect(200).body, NAME);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_callers_get_problems_and_browsers_pages() {
    let stack = Stack::start(Backend::Sqlite).await;
    let url = format!("{}{CALLBACK}", stack.auth_capture);
    for (accept, content_type) in [
        ("*/*", "application/problem+json"),
        ("application/json", "application/problem+json"),
        ("text/html;q=0, */*", "application/problem+json"),
        ("text/html", "text/html; charset=utf-8"),
        ("TEXT/HTML;q=0.5,*/*", "text/html; charset=utf-8"),
    ] {
        let request = stack.http.get(&url).header(ACCEPT, accept);

        let answer = Reply::of(request.send().await.unwrap())
            .await
            .unwrap()
            .expect(400);

        assert_eq!(answer.header("content-type"), content_type);
    }
}
