//! The OAuth client on the wire: what exactly it sends, and what it makes of odd answers.

use std::error::Error;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use pipekeeper_core::config::{Loader, Sources};
use pipekeeper_core::http_client::{self, Limits};
use pipekeeper_core::oauth::{TokenError, Tokens, exchange_code};
use pipekeeper_core::provider::{App, AppUse, Apps};
use pipekeeper_core::secret::Secret;
use reqwest::Client;
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

mod answers;
mod authorize;
mod identity;
mod requests;
mod transport;

const CLIENT_ID: &str = "57db0bab2932f657";
/// All that a percent-encoder would touch.
const CLIENT_SECRET: &str = "s3cr%2Bt/+= ü:x";
const CODE: &str = "c0de+/=&x";
const VERIFIER: &str = "verifier-verifier-verifier-verifier-verifier";
const ACCESS: &str = "acc3ss-t0ken";
const REFRESH: &str = "r3fresh:t0ken+/==";

const DEFAULTS: &str = r#"
[apps.pipedrive]
provider = "pipedrive"
client_id = "57db0bab2932f657"
client_secret = "s3cr%2Bt/+= ü:x"
redirect_url = "https://APP.example:443/webhook/pipedrive/callback?a='b'"
"#;

/// The shipped entry with some keys of its own.
pub(crate) fn app(provider: &[(&str, &str)]) -> Arc<App> {
    let env = provider
        .iter()
        .chain(&[("allow_http", "true"), ("api_host_suffix", "127.0.0.1")])
        .map(|(key, value)| {
            let key = key.to_uppercase();
            (
                format!("PIPEKEEPER__PROVIDERS__PIPEDRIVE__{key}"),
                (*value).to_owned(),
            )
        })
        .collect();
    let mut loader = Loader::new(&Sources {
        defaults: DEFAULTS,
        file: None,
        env,
    })
    .unwrap();
    let apps = Apps::load(&mut loader, AppUse::Login);
    loader.finish().unwrap();
    let app = apps.iter().next().unwrap();
    Arc::clone(app)
}

fn app_of(server: &MockServer) -> Arc<App> {
    app(&[
        ("token_url", &format!("{}/token", server.uri())),
        ("revoke_url", &format!("{}/revoke", server.uri())),
    ])
}

fn client() -> Client {
    http_client::build(Limits {
        connect: Duration::from_mins(1),
        total: Duration::from_mins(2),
    })
    .unwrap()
}

/// Gives up on a server that does not answer, and has time to send its request to one that does.
fn impatient_client() -> Client {
    http_client::build(Limits {
        connect: Duration::from_mins(1),
        total: Duration::from_secs(5),
    })
    .unwrap()
}

async fn answering(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(answer).mount(&server).await;
    server
}

async fn exchange(client: &Client, app: &App) -> Result<Tokens, TokenError> {
    let (code, verifier) = (Secret::from(CODE), Secret::from(VERIFIER));
    let result = exchange_code(client, app, &code, Some(&verifier)).await;
    match &result {
        Ok(tokens) => keeps_secrets(&format!("{tokens:?}")),
        Err(error) => keeps_secrets(&told(error)),
    }
    result
}

/// The one request that the server got, and its form.
async fn only_request(server: &MockServer) -> (Request, Vec<(String, String)>) {
    let mut requests = server.received_requests().await.unwrap();
    assert_eq!(requests.len(), 1, "{requests:#?}");
    let request = requests.remove(0);
    let form = url::form_urlencoded::parse(&request.body)
        .into_owned()
        .collect();
    (request, form)
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request
        .headers
        .get(name)
        .map(|value| value.to_str().unwrap())
}

/// All that a log line could show of an error.
fn told(error: &dyn Error) -> String {
    let mut text = format!("{error:?} {error:#?} {error}");
    let mut cause = error.source();
    while let Some(next) = cause {
        write!(text, " {next} {next:?}").unwrap();
        cause = next.source();
    }
    text
}

#[track_caller]
fn keeps_secrets(text: &str) {
    for secret in [
        CLIENT_SECRET,
        CODE,
        VERIFIER,
        ACCESS,
        REFRESH,
        "s3cr",
        "c0de",
        "r3fresh",
    ] {
        assert!(!text.contains(secret), "{secret} in {text}");
    }
}

/// What a server does after its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closes,
    /// Until the client has closed the connection.
    Holds,
}

/// A server whose one answer is these bytes.
fn raw_server(answer: &[u8], end: End) -> String {
    let answer = answer.to_vec();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let _some = stream.read(&mut request).unwrap();
        stream.write_all(&answer).unwrap();
        while end == End::Holds && stream.read(&mut request).is_ok_and(|read| read > 0) {}
    });
    url
}
