use pipedrive_sim::{DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_REDIRECT_URL};
use serde_json::json;

use crate::sim::{Sim, text};

type Form<'a> = &'a [(&'a str, &'a str)];

#[tokio::test]
async fn approval_returns_a_code_and_the_state() {
    let sim = Sim::start().await;

    let answer = sim
        .authorize(&[
            ("auto", "approve"),
            ("company", "3"),
            ("user", "7"),
            ("state", "a&b=c"),
        ])
        .await
        .expect(302);

    let location = answer.header("location").unwrap();
    assert!(
        location.starts_with(&format!("{DEFAULT_REDIRECT_URL}?code=3.7.")),
        "{location}"
    );
    assert!(location.ends_with("&state=a%26b%3Dc"), "{location}");
}

#[tokio::test]
async fn a_decline_says_so_and_issues_nothing() {
    let sim = Sim::start().await;

    let declined = sim
        .authorize(&[("auto", "decline"), ("state", "s")])
        .await
        .expect(302);
    let expected = format!("{DEFAULT_REDIRECT_URL}?error=user_denied&state=s");
    assert_eq!(declined.header("location"), Some(expected.as_str()));

    sim.settings(json!({"decline_error": "access_denied"}))
        .await;
    let declined = sim.authorize(&[("auto", "decline")]).await.expect(302);
    let expected = format!("{DEFAULT_REDIRECT_URL}?error=access_denied");
    assert_eq!(declined.header("location"), Some(expected.as_str()));
}

#[tokio::test]
async fn without_auto_there_is_a_page_whose_text_is_escaped() {
    let sim = Sim::start().await;

    let page = sim.authorize(&[("state", "\"><script>")]).await.expect(200);

    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert!(page.text.contains("Allow and install"));
    assert!(page.text.contains("Cancel"));
    assert!(!page.text.contains("<script>"));
}

#[tokio::test]
async fn unknown_apps_and_other_callbacks_are_refused() {
    let sim = Sim::start().await;

    let unknown = sim.authorize(&[("client_id", "nobody")]).await.expect(401);
    assert_eq!(unknown.json()["error"], "unauthorized access");

    let other = sim
        .authorize(&[("redirect_uri", "http://127.0.0.1:8080/other")])
        .await;
    assert_eq!(
        other.expect(400).json(),
        json!({"error": "Invalid redirect URL"})
    );
}

#[tokio::test]
async fn tokens_have_pipedrives_shapes() {
    let sim = Sim::start().await;
    let code = sim.code(1, 7).await;

    let body = sim.exchange(&code).await.expect(200).json();

    let access = text(&body["access_token"]);
    assert!(access.starts_with("v1u:"));
    assert!(access.contains('+') && access.contains('/') && access.contains('='));
    assert!(text(&body["refresh_token"]).starts_with("1:7:"));
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 3599);
    assert_eq!(body["api_domain"], sim.simulator.url());
    assert!(text(&body["scope"]).starts_with("base,deals:full,"));
}

#[tokio::test]
async fn the_answer_follows_the_settings() {
    let sim = Sim::start().await;
    sim.settings(json!({
        "access_ttl_secs": 60,
        "expires_in_as_string": true,
        "api_domain": "https://acme-solar.pipedrive.com",
        "scopes": ["base"],
    }))
    .await;
    let code = sim.code(1, 1).await;

    let body = sim.exchange(&code).await.expect(200).json();

    assert_eq!(body["expires_in"], "60");
    assert_eq!(body["api_domain"], "https://acme-solar.pipedrive.com");
    assert_eq!(body["scope"], "base");
}

#[tokio::test]
async fn a_code_works_once() {
    let sim = Sim::start().await;
    let code = sim.code(1, 1).await;
    sim.exchange(&code).await.expect(200);

    let again = sim.exchange(&code).await.expect(400);

    assert_eq!(
        again.json(),
        json!({"success": false, "error": "invalid_grant", "message": "Invalid grant: authorization_code is invalid"})
    );
}

#[tokio::test]
async fn a_code_expires() {
    let sim = Sim::start().await;
    sim.settings(json!({"code_ttl_secs": 0})).await;
    let code = sim.code(1, 1).await;

    let late = sim.exchange(&code).await.expect(400);

    assert_eq!(
        late.json()["message"],
        "Invalid grant: authorization_code has expired"
    );
}

#[tokio::test]
async fn every_refusal_of_the_token_endpoint_has_its_sentence() {
    let sim = Sim::start().await;
    let code = sim.code(1, 1).await;
    let code = code.as_str();
    let exchange = ("grant_type", "authorization_code");
    let cases: [(Form<'_>, &str, &str); 10] = [
        (&[], "invalid_request", "Missing parameter: `grant_type`"),
        (
            &[("grant_type", "password")],
            "unsupported_grant_type",
            "Unsupported grant type: `grant_type` is invalid",
        ),
        (
            &[("grant_type", "exchange_api_token")],
            "invalid_grant",
            "Invalid grant: api_token is invalid",
        ),
        (&[exchange], "invalid_request", "Missing parameter: `code`"),
        (
            &[exchange, ("code", "1.1.x")],
            "invalid_grant",
            "Invalid grant: authorization_code is invalid",
        ),
        (
            &[exchange, ("code", code)],
            "invalid_request",
            "Invalid request: `redirect_uri` is not a valid URI",
        ),
        (
            &[exchange, ("code", code), ("redirect_uri", "here")],
            "invalid_request",
            "Invalid request: `redirect_uri` is not a valid URI",
        ),
        (
            &[
                exchange,
                ("code", code),
                ("redirect_uri", "http://127.0.0.1:8080/other"),
            ],
            "invalid_request",
            "Invalid request: `redirect_uri` is invalid",
        ),
        (
            &[("grant_type", "refresh_token")],
            "invalid_request",
            "Missing parameter: `refresh_token`",
        ),
        (
            &[("grant_type", "refresh_token"), ("refresh_token", "1:1:x")],
            "invalid_grant",
            "Invalid grant: refresh_token is invalid",
        ),
    ];
    for (form, error, message) in cases {
        let body = sim.send(sim.token_request(form)).await.expect(400).json();
        assert_eq!(
            body,
            json!({"success": false, "error": error, "message": message})
        );
    }
    // none of these spent the code
    sim.exchange(code).await.expect(200);
}

#[tokio::test]
async fn the_token_endpoint_takes_forms_alone() {
    let sim = Sim::start().await;
    let request = sim
        .http
        .post(sim.url("/oauth/token"))
        .basic_auth(DEFAULT_CLIENT_ID, Some(DEFAULT_CLIENT_SECRET))
        .json(&json!({"grant_type": "refresh_token"}));

    let body = sim.send(request).await.expect(400).json();

    assert_eq!(
        body["message"],
        "Invalid request: content must be `application/x-www-form-urlencoded`"
    );
}

#[tokio::test]
async fn credentials_are_taken_from_the_body_too_and_with_a_slash() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", &tokens.refresh),
        ("client_id", DEFAULT_CLIENT_ID),
        ("client_secret", DEFAULT_CLIENT_SECRET),
    ];

    for path in ["/oauth/token", "/oauth/token/"] {
        let request = sim.http.post(sim.url(path)).form(&form);
        sim.send(request).await.expect(200);
    }
}

#[tokio::test]
async fn wrong_clients_get_400_or_as_set_401() {
    let sim = Sim::start().await;
    let form = [("grant_type", "refresh_token"), ("refresh_token", "1:1:x")];
    let anonymous = || sim.http.post(sim.url("/oauth/token")).form(&form);
    let wrong = || anonymous().basic_auth(DEFAULT_CLIENT_ID, Some("wrong"));

    let body = sim.send(anonymous()).await.expect(400).json();
    assert_eq!(
        body["message"],
        "Invalid client: cannot retrieve client credentials"
    );
    let body = sim.send(wrong()).await.expect(400).json();
    assert_eq!(body["message"], "Invalid client: client is invalid");
    assert_eq!(body["error"], "invalid_client");

    sim.settings(json!({"invalid_client_status": "401"})).await;
    let answer = sim.send(wrong()).await.expect(401);
    assert!(
        answer
            .header("www-authenticate")
            .unwrap()
            .starts_with("Basic")
    );
}

#[tokio::test]
async fn revoking_a_refresh_token_ends_the_grant() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;

    // a wrong hint is only a hint
    sim.revoke(&[
        ("token", &tokens.refresh),
        ("token_type_hint", "access_token"),
    ])
    .await
    .expect(200);

    assert!(!sim.good(&tokens.access).await);
    sim.refresh(&tokens.refresh).await.expect(400);
    assert_eq!(sim.stats().await["books"][0]["state"], "revoked");
}

#[tokio::test]
async fn revoking_an_access_token_ends_it_alone() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    let second = sim.refresh(&tokens.refresh).await.tokens();

    sim.revoke(&[
        ("token", &tokens.access),
        ("token_type_hint", "refresh_token"),
    ])
    .await
    .expect(200);

    assert!(!sim.good(&tokens.access).await);
    assert!(sim.good(&second.access).await);
    sim.refresh(&tokens.refresh).await.expect(200);
}

#[tokio::test]
async fn revocation_answers_200_to_nonsense_but_knows_its_clients() {
    let sim = Sim::start().await;

    sim.revoke(&[("token", "nonsense")]).await.expect(200);

    let request = sim
        .http
        .post(sim.url("/oauth/revoke"))
        .form(&[("token", "nonsense")]);
    sim.send(request).await.expect(400);
    let revocations = &sim.stats().await["revocations"];
    assert_eq!(*revocations, json!({"nothing": 1, "invalid_client": 1}));
}
