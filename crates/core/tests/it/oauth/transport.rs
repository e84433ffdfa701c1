use std::time::Duration;

use pipekeeper_core::oauth::{TokenError, Unknown};
use serde_json::json;
use wiremock::ResponseTemplate;

use super::{ACCESS, End, answering, app, app_of, client, exchange, impatient_client, raw_server};

#[tokio::test]
async fn a_late_answer_may_be_a_spent_grant() {
    let late = ResponseTemplate::new(200)
        .set_body_json(json!({"access_token": ACCESS}))
        .set_delay(Duration::from_mins(2));
    let server = answering(late).await;

    let error = exchange(&impatient_client(), &app_of(&server)).await;

    assert!(
        matches!(error, Err(TokenError::Unknown(Unknown::TimedOut(_)))),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_late_end_of_an_answer_is_a_late_answer() {
    let url = raw_server(
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"access_token\"",
        End::Holds,
    );

    let error = exchange(&impatient_client(), &app(&[("token_url", &url)])).await;

    assert!(
        matches!(error, Err(TokenError::Unknown(Unknown::TimedOut(_)))),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_refused_connection_spent_nothing() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for url in [
        format!("http://127.0.0.1:{port}/token"),
        "http://no-such-host.invalid/token".to_owned(),
    ] {
        let error = exchange(&client(), &app(&[("token_url", &url)])).await;
        assert!(matches!(error, Err(TokenError::NotSent(_))), "{error:?}");
    }
}

#[tokio::test]
async fn a_token_is_not_spoken_to_a_server_without_the_right_certificate() {
    // It speaks no TLS at all: the handshake fails, and nothing was sent.
    let server = answering(ResponseTemplate::new(200)).await;
    let url = server.uri().replace("http://", "https://");

    let error = exchange(&client(), &app(&[("token_url", &url)])).await;

    assert!(matches!(error, Err(TokenError::NotSent(_))), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_breaks_leaves_the_grant_in_doubt() {
    for answer in [
        &b""[..],
        b"HTTP/1.1 200 OK\r\ncontent-le",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"access_token\":\"acc3ss-t0ken\"",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"acc",
        b"garbage, not HTTP\r\n\r\n",
    ] {
        let url = raw_server(answer, End::Closes);

        let error = exchange(&client(), &app(&[("token_url", &url)])).await;

        assert!(
            matches!(error, Err(TokenError::Unknown(Unknown::Broken(_)))),
            "{answer:?}: {error:?}"
        );
    }
}
