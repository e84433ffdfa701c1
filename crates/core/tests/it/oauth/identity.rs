use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use pipekeeper_core::http_client;
use pipekeeper_core::oauth::{ID_MAX_BYTES, Identity, IdentityError, identify, identify_patiently};
use pipekeeper_core::secret::Secret;
use serde_json::{Value, json};
use wiremock::{MockServer, ResponseTemplate};

use super::{
    ACCESS, End, answering, app, client, header, impatient_client, keeps_secrets, only_request,
    raw_server, told,
};

fn jane() -> Value {
    json!({"success": true, "data": {
        "id": 11, "name": "Jane Ä", "company_id": 7, "company_name": "Acme", "company_domain": "acme",
    }})
}

async fn ask(server: &MockServer, entry: &[(&str, &str)]) -> Result<Identity, IdentityError> {
    let provider = &app(entry).provider;
    let domain = provider.api_domain(&server.uri()).unwrap();
    let result = identify(&client(), provider, &domain, &Secret::from(ACCESS)).await;
    if let Err(error) = &result {
        keeps_secrets(&told(error));
    }
    result
}

#[tokio::test]
async fn whose_token_it_is_is_asked_at_the_connections_own_domain() {
    let server = answering(ResponseTemplate::new(200).set_body_json(jane())).await;

    let who = ask(&server, &[]).await.unwrap();

    let (request, _) = only_request(&server).await;
    assert_eq!(
        (request.method.as_str(), request.url.path()),
        ("GET", "/v1/users/me")
    );
    assert_eq!(
        header(&request, "authorization"),
        Some("Bearer acc3ss-t0ken")
    );
    assert_eq!(header(&request, "accept"), Some("application/json"));
    let expected = Identity {
        company_id: "7".to_owned(),
        company_domain: "acme".to_owned(),
        company_name: "Acme".to_owned(),
        user_id: "11".to_owned(),
        user_name: "Jane Ä".to_owned(),
    };
    assert_eq!(who, expected);
}

#[tokio::test]
async fn ids_are_text_whether_they_come_as_numbers_or_strings() {
    let body = json!({"data": {"id": "u-1", "company_id": 9_007_199_254_740_993_u64}});
    let server = answering(ResponseTemplate::new(200).set_body_json(body)).await;

    let who = ask(&server, &[]).await.unwrap();

    assert_eq!(who.user_id, "u-1");
    assert_eq!(who.company_id, "9007199254740993");
    assert_eq!(
        (who.user_name.as_str(), who.company_name.as_str()),
        ("", "")
    );
}

#[tokio::test]
async fn an_answer_that_names_nobody_is_no_identity() {
    for body in [
        json!({"data": {"company_id": 7}}),
        json!({"data": {"id": 11}}),
        json!({"data": {"id": "", "company_id": 7}}),
        json!({"data": {"id": null, "company_id": 7}}),
        json!({"data": {"id": [11], "company_id": 7}}),
        json!({"success": false}),
        json!([]),
    ] {
        let server = answering(ResponseTemplate::new(200).set_body_json(&body)).await;
        let unknown = ask(&server, &[]).await;
        assert!(matches!(unknown, Err(IdentityError::Garbled)), "{body}");
    }
    for text in ["", "<html></html>"] {
        let server = answering(ResponseTemplate::new(200).set_body_string(text)).await;
        let unknown = ask(&server, &[]).await;
        assert!(matches!(unknown, Err(IdentityError::Garbled)), "{text}");
    }
}

/// Starting again would meet the same response.
#[tokio::test]
async fn a_member_that_is_odd_costs_nobody_the_identity() {
    let ids = r#""id":11,"company_id":7"#;
    let with = |more: &[u8]| [b"{\"data\":{", ids.as_bytes(), b",", more, b"}}"].concat();
    let acme = "\"company_name\":\"Acme\"";
    let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
    gzip.write_all(&with(acme.as_bytes())).unwrap();
    for (name, body, company) in [
        (
            "half an emoji in the name",
            with(br#""company_name":"Caf\ud83d""#),
            "Caf\u{FFFD}",
        ),
        (
            "a name in Latin-1",
            with(b"\"company_name\":\"Caf\xE9\""),
            "Caf\u{FFFD}",
        ),
        (
            "a name that is a list",
            with(br#""company_name":["Acme"]"#),
            "",
        ),
        (
            "half an emoji beside it",
            with(format!(r#"{acme},"x":"\ud83d""#).as_bytes()),
            "Acme",
        ),
        (
            "a huge number beside it",
            with(format!(r#"{acme},"x":1e999"#).as_bytes()),
            "Acme",
        ),
        (
            "a byte order mark",
            [&b"\xEF\xBB\xBF"[..], &with(acme.as_bytes())].concat(),
            "Acme",
        ),
        ("gzip", gzip.finish().unwrap(), "Acme"),
    ] {
        let server = answering(ResponseTemplate::new(200).set_body_bytes(body)).await;

        let who = ask(&server, &[])
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));

        assert_eq!(
            (who.user_id.as_str(), who.company_id.as_str()),
            ("11", "7"),
            "{name}"
        );
        assert_eq!(who.company_name, company, "{name}");
    }
}

#[tokio::test]
async fn an_id_that_can_not_be_stored_as_it_is_is_refused_by_name() {
    let long = "x".repeat(ID_MAX_BYTES + 1);
    for (body, whose) in [
        (
            format!(r#"{{"data":{{"id":"{long}","company_id":7}}}}"#),
            "user",
        ),
        (
            r#"{"data":{"id":"u\u0000","company_id":7}}"#.to_owned(),
            "user",
        ),
        (
            r#"{"data":{"id":11,"company_id":"caf\ud83d"}}"#.to_owned(),
            "company",
        ),
        (
            r#"{"data":{"id":11,"company_id":18446744073709551616}}"#.to_owned(),
            "company",
        ),
    ] {
        let server = answering(ResponseTemplate::new(200).set_body_string(&body)).await;

        let refused = ask(&server, &[]).await;

        assert!(
            matches!(
                refused,
                Err(IdentityError::UnusableId(said) | IdentityError::IdTooLong(said)) if said == whose
            ),
            "{body}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn a_provider_without_companies_needs_only_a_user() {
    let server = answering(ResponseTemplate::new(200).set_body_json(json!({"sub": "u-1"}))).await;
    let entry = [
        ("identity_user_id", "/sub"),
        ("identity_company_id", ""),
        ("identity_company_name", ""),
    ];

    let who = ask(&server, &entry).await.unwrap();

    assert_eq!((who.user_id.as_str(), who.company_id.as_str()), ("u-1", ""));
    assert_eq!(who.company_name, "");
}

#[tokio::test]
async fn an_absolute_identity_url_is_asked_as_it_is() {
    let api = answering(ResponseTemplate::new(500)).await;
    let identity = answering(ResponseTemplate::new(200).set_body_json(jane())).await;
    let url = format!("{}/userinfo?schema=openid", identity.uri());

    ask(&api, &[("identity_url", &url)]).await.unwrap();

    let (request, _) = only_request(&identity).await;
    assert_eq!(request.url.path(), "/userinfo");
    assert_eq!(api.received_requests().await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_refusal_is_told_by_its_status() {
    for status in [302, 401, 403, 429, 500] {
        let body = json!({"error": ACCESS});
        let server = answering(ResponseTemplate::new(status).set_body_json(body)).await;
        let refused = ask(&server, &[]).await;
        assert!(
            matches!(refused, Err(IdentityError::Status { status: said, .. }) if said == status),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_wait_that_the_provider_asks_for_is_kept_or_passed_on() {
    for (asked_for, tries, waited) in [("1.2", 2, 1200), ("3600", 1, 0)] {
        let busy = ResponseTemplate::new(429).insert_header("retry-after", asked_for);
        let server = answering(busy).await;
        let app = app(&[]);
        let domain = app.provider.api_domain(&server.uri()).unwrap();
        let (token, begun) = (Secret::from(ACCESS), tokio::time::Instant::now());

        let error = identify_patiently(
            &client(),
            &app.provider,
            &domain,
            &token,
            2,
            IdentityError::may_pass,
        )
        .await
        .unwrap_err();

        let wait = http_client::seconds(asked_for);
        assert_eq!(error.retry_after(), wait);
        assert!(begun.elapsed() >= Duration::from_millis(waited));
        assert_eq!(server.received_requests().await.unwrap().len(), tries);
    }
}

#[tokio::test]
async fn silence_is_told_without_the_token() {
    let url = raw_server(b"", End::Holds);
    let provider = &app(&[]).provider;
    let origin = url.strip_suffix("/token").unwrap();
    let domain = provider.api_domain(origin).unwrap();

    let silent = identify(
        &impatient_client(),
        provider,
        &domain,
        &Secret::from(ACCESS),
    )
    .await
    .unwrap_err();

    keeps_secrets(&told(&silent));
    assert!(matches!(silent, IdentityError::Transport(_)));
}
