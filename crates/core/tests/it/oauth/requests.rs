use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pipekeeper_core::oauth::TokenError;
use pipekeeper_core::oauth::{exchange_code, revoke, token_request};
use pipekeeper_core::provider::App;
use pipekeeper_core::secret::Secret;
use serde_json::{Value, json};
use wiremock::matchers::{any, header as has_header};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::{
    ACCESS, CLIENT_ID, CLIENT_SECRET, CODE, REFRESH, VERIFIER, answering, app, app_of, client,
    header, keeps_secrets, only_request, told,
};

fn tokens() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({"access_token": ACCESS}))
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn check_common(request: &Request) {
    assert_eq!(request.method.as_str(), "POST");
    assert_eq!(header(request, "accept"), Some("application/json"));
    assert_eq!(
        header(request, "content-type"),
        Some("application/x-www-form-urlencoded")
    );
    assert_eq!(header(request, "user-agent"), Some("pipekeeper"));
    assert_eq!(header(request, "accept-encoding"), Some("identity"));
    assert_eq!(request.url.query(), None);
}

/// Pipedrive decodes nothing: id and secret go as they are.
fn raw_basic() -> String {
    format!(
        "Basic {}",
        STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}"))
    )
}

#[tokio::test]
async fn a_code_is_exchanged_with_the_redirect_uri_that_it_was_sent_to() {
    let server = answering(tokens()).await;
    let app = app_of(&server);

    let got = exchange_code(&client(), &app, &Secret::from(CODE), None).await;

    got.unwrap();
    let (request, form) = only_request(&server).await;
    check_common(&request);
    assert_eq!(request.url.path(), "/token");
    assert_eq!(
        header(&request, "authorization"),
        Some(raw_basic().as_str())
    );
    assert_eq!(
        form,
        pairs([
            ("grant_type", "authorization_code"),
            ("code", CODE),
            (
                "redirect_uri",
                "https://APP.example:443/webhook/pipedrive/callback?a='b'"
            ),
        ])
    );
    let raw = str::from_utf8(&request.body).unwrap();
    assert!(raw.contains("code=c0de%2B%2F%3D%26x&"), "{raw}");
}

#[tokio::test]
async fn a_code_of_a_login_with_pkce_brings_its_verifier() {
    let server = answering(tokens()).await;
    let app = app_of(&server);
    let verifier = Secret::from(VERIFIER);

    exchange_code(&client(), &app, &Secret::from(CODE), Some(&verifier))
        .await
        .unwrap();

    let (_, form) = only_request(&server).await;
    assert_eq!(
        form.last().unwrap(),
        &("code_verifier".to_owned(), VERIFIER.to_owned())
    );
}

#[tokio::test]
async fn a_spend_has_nothing_but_its_token_in_the_form() {
    let server = answering(tokens()).await;
    let app = app_of(&server);
    let form = vec![("grant_type", "refresh_token"), ("refresh_token", REFRESH)];
    let request = token_request(
        &client(),
        &app,
        &app.client_secret,
        &app.provider.token_url,
        form,
    );
    keeps_secrets(&format!("{request:?}"));

    request.send().await.unwrap();

    let (request, form) = only_request(&server).await;
    check_common(&request);
    assert_eq!(
        header(&request, "authorization"),
        Some(raw_basic().as_str())
    );
    assert_eq!(
        form,
        pairs([("grant_type", "refresh_token"), ("refresh_token", REFRESH)])
    );
    assert_eq!(
        str::from_utf8(&request.body).unwrap(),
        "grant_type=refresh_token&refresh_token=r3fresh%3At0ken%2B%2F%3D%3D"
    );
}

#[tokio::test]
async fn credentials_in_the_body_are_nowhere_else() {
    let server = answering(tokens()).await;
    let app = app(&[
        ("token_url", &format!("{}/token", server.uri())),
        ("client_auth", "body"),
    ]);
    let form = vec![("grant_type", "refresh_token"), ("refresh_token", REFRESH)];

    let request = token_request(
        &client(),
        &app,
        &app.client_secret,
        &app.provider.token_url,
        form,
    );
    keeps_secrets(&format!("{request:?}"));
    request.send().await.unwrap();

    let (request, form) = only_request(&server).await;
    check_common(&request);
    assert_eq!(header(&request, "authorization"), None);
    assert_eq!(
        form,
        pairs([
            ("grant_type", "refresh_token"),
            ("refresh_token", REFRESH),
            ("client_id", CLIENT_ID),
            ("client_secret", CLIENT_SECRET),
        ])
    );
}

#[tokio::test]
async fn a_revocation_says_what_kind_of_token_it_is() {
    for answer in [
        ResponseTemplate::new(200),
        ResponseTemplate::new(204),
        ResponseTemplate::new(200).set_body_string("<html>ok</html>"),
    ] {
        let server = answering(answer).await;

        revoke(&client(), &app_of(&server), &Secret::from(REFRESH))
            .await
            .unwrap();

        let (request, form) = only_request(&server).await;
        check_common(&request);
        assert_eq!(request.url.path(), "/revoke");
        assert_eq!(
            header(&request, "authorization"),
            Some(raw_basic().as_str())
        );
        assert_eq!(
            form,
            pairs([("token", REFRESH), ("token_type_hint", "refresh_token")])
        );
    }
}

#[tokio::test]
async fn a_refused_revocation_is_an_error_that_keeps_the_token_to_itself() {
    let server = answering(ResponseTemplate::new(503).set_body_string(REFRESH)).await;

    let refused = revoke(&client(), &app_of(&server), &Secret::from(REFRESH)).await;

    keeps_secrets(&told(&refused.unwrap_err()));
}

#[tokio::test]
async fn a_provider_without_revocation_is_not_asked_for_it() {
    let server = answering(ResponseTemplate::new(500)).await;
    let app = app(&[
        ("token_url", &format!("{}/token", server.uri())),
        ("revoke_url", ""),
    ]);

    revoke(&client(), &app, &Secret::from(REFRESH))
        .await
        .unwrap();

    assert_eq!(server.received_requests().await.unwrap().len(), 0);
}

#[test]
fn an_apps_debug_keeps_its_secret() {
    keeps_secrets(&format!("{:?}", app(&[])));
}

const SECOND_SECRET: &str = "s3cond:s3cret";

/// An app with a second secret, of a provider that knows it by that one alone and says this to the first.
async fn known_by_the_second(first: ResponseTemplate) -> (MockServer, App) {
    let server = MockServer::start().await;
    let pair = STANDARD.encode(format!("{CLIENT_ID}:{SECOND_SECRET}"));
    Mock::given(has_header("authorization", format!("Basic {pair}")))
        .respond_with(tokens())
        .mount(&server)
        .await;
    Mock::given(any()).respond_with(first).mount(&server).await;
    let app = App {
        second_client_secret: Some(Secret::from(SECOND_SECRET)),
        ..App::clone(&app_of(&server))
    };
    (server, app)
}

fn refusal(status: u16, body: &Value) -> ResponseTemplate {
    ResponseTemplate::new(status).set_body_json(body)
}

#[tokio::test]
async fn a_client_whose_secret_is_refused_is_known_by_its_second() {
    for status in [400, 401] {
        let refused = refusal(status, &json!({"error": "invalid_client"}));
        let (server, app) = known_by_the_second(refused).await;

        let got = exchange_code(&client(), &app, &Secret::from(CODE), None).await;
        revoke(&client(), &app, &Secret::from(REFRESH))
            .await
            .unwrap();

        assert_eq!(got.unwrap().access_token.expose(), ACCESS);
        let requests = server.received_requests().await.unwrap();
        let paths: Vec<_> = requests.iter().map(|request| request.url.path()).collect();
        assert_eq!(paths, ["/token", "/token", "/revoke", "/revoke"]);
        for pair in requests.chunks(2) {
            assert_eq!(pair[0].body, pair[1].body);
            assert_eq!(
                header(&pair[0], "authorization"),
                Some(raw_basic().as_str())
            );
        }
    }
}

/// Anything else came from a provider that knows us, or that may have acted on the request.
#[tokio::test]
async fn only_a_refused_secret_is_a_reason_to_try_the_second() {
    for first in [
        refusal(400, &json!({"error": "invalid_grant"})),
        refusal(400, &json!({"error": "unauthorized_client"})),
        refusal(400, &json!({"error": "invalid_request"})),
        refusal(500, &json!({"error": "invalid_client"})),
        refusal(429, &json!({"error": "invalid_client"})),
        refusal(200, &json!({"error": "invalid_client"})),
        ResponseTemplate::new(401),
    ] {
        let (server, app) = known_by_the_second(first).await;

        let refused = exchange_code(&client(), &app, &Secret::from(CODE), None).await;

        keeps_secrets(&told(&refused.unwrap_err()));
        assert_eq!(server.received_requests().await.unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_client_that_is_refused_by_both_secrets_is_refused() {
    let server = answering(refusal(401, &json!({"error": "invalid_client"}))).await;
    let first = app_of(&server);
    let both = App {
        second_client_secret: Some(Secret::from(SECOND_SECRET)),
        ..App::clone(&first)
    };

    for (app, calls) in [(App::clone(&first), 1), (both, 3)] {
        let refused = exchange_code(&client(), &app, &Secret::from(CODE), None).await;

        let error = refused.unwrap_err();
        assert!(
            matches!(error, TokenError::ClientRefused("invalid_client")),
            "{error:?}"
        );
        assert_eq!(server.received_requests().await.unwrap().len(), calls);
    }
}
