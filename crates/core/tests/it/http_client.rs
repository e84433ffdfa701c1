//! What every outbound call has in common.

use std::process::Command;
use std::time::Duration;

use pipekeeper_core::http_client::{self, Limits};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, ResponseTemplate};

async fn answering(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(answer).mount(&server).await;
    server
}

fn client() -> reqwest::Client {
    http_client::build(Limits {
        connect: Duration::from_mins(1),
        total: Duration::from_mins(2),
    })
    .unwrap()
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let elsewhere = answering(ResponseTemplate::new(200)).await;
    let location = elsewhere.uri();
    let redirect = ResponseTemplate::new(307).insert_header("location", location.as_str());
    let server = answering(redirect).await;

    let answer = client().get(server.uri()).send().await.unwrap();

    assert_eq!(answer.status(), 307);
    assert_eq!(elsewhere.received_requests().await.unwrap().len(), 0);
}

#[tokio::test]
async fn no_cookie_is_kept() {
    let server = answering(ResponseTemplate::new(200).insert_header("set-cookie", "a=b")).await;
    let client = client();

    for _ in 0..2 {
        client.get(server.uri()).send().await.unwrap();
    }

    let requests = server.received_requests().await.unwrap();
    assert!(
        requests
            .iter()
            .all(|request| !request.headers.contains_key("cookie"))
    );
}

/// Runs itself once more, because a process can't safely change its own environment.
#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "a setting of the test run, and the client that others would make"
)]
async fn the_environments_proxies_are_not_used() {
    const PROXIES: [&str; 4] = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    if std::env::var("PIPEKEEPER_TEST_BEHIND_PROXY").is_err() {
        let nowhere = "http://127.0.0.1:9";
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "http_client::the_environments_proxies_are_not_used",
            ])
            .envs(PROXIES.map(|name| (name, nowhere)))
            .env("PIPEKEEPER_TEST_BEHIND_PROXY", "1")
            .env_remove("NO_PROXY")
            .env_remove("no_proxy")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("1 passed"), "{said}");
        return;
    }
    let server = answering(ResponseTemplate::new(200)).await;

    let others = reqwest::Client::new().get(server.uri()).send().await;
    let ours = client().get(server.uri()).send().await;

    assert!(others.is_err(), "the environment names a proxy");
    assert_eq!(ours.unwrap().status(), 200);
}
