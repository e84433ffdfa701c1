use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pipekeeper_core::oauth::{exchange_code, revoke, token_request};
use pipekeeper_core::secret::Secret;
use serde_json::json;
use wiremock::{Request, ResponseTemplate};

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
                "https://app.example/webhook/pipedrive/callback?a=b%20c"
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
    let request = token_request(&client(), &app, &app.provider.token_url, form);
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

    let request = token_request(&client(), &app, &app.provider.token_url, form);
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
