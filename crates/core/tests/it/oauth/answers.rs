use std::time::Duration;

use pipekeeper_core::oauth::{TokenAnswer, TokenError, Tokens, Unknown};
use serde_json::{Value, json};
use wiremock::ResponseTemplate;

use super::{ACCESS, REFRESH, answering, app, app_of, client, exchange, keeps_secrets, told};

async fn answered(answer: ResponseTemplate) -> Result<Tokens, TokenError> {
    let server = answering(answer).await;
    exchange(&client(), &app_of(&server)).await
}

/// What an answer that is already here means, with some members changed.
fn read(change: &[(&str, Value)]) -> Result<Tokens, TokenError> {
    let mut body = json!({
        "access_token": ACCESS, "refresh_token": REFRESH, "token_type": "Bearer", "expires_in": 3599,
        "scope": "base deals:full", "api_domain": "https://acme.pipedrive.com",
    });
    for (key, value) in change {
        if value.is_null() {
            body.as_object_mut().unwrap().remove(*key);
        } else {
            body[key] = value.clone();
        }
    }
    let answer = TokenAnswer {
        status: reqwest::StatusCode::OK,
        retry_after: None,
        body: serde_json::to_vec(&body).unwrap().into(),
    };
    keeps_secrets(&format!("{answer:?}"));
    let tokens = answer.interpret(&app(&[]).provider);
    keeps_secrets(&format!("{tokens:?}"));
    tokens
}

#[test]
fn a_full_answer_is_read_in_full() {
    let tokens = read(&[("colour", json!({"of": ["the", "sky"]}))]).unwrap();
    assert_eq!(tokens.access_token.expose(), ACCESS);
    assert_eq!(tokens.refresh_token.unwrap().expose(), REFRESH);
    assert_eq!(tokens.expires_in, Duration::from_secs(3599));
    assert_eq!(tokens.scope.as_deref(), Some("base deals:full"));
    assert_eq!(
        tokens.api_domain.as_deref(),
        Some("https://acme.pipedrive.com")
    );
}

#[test]
fn expires_in_of_no_use_is_the_entrys_default() {
    let year = 366 * 86_400;
    for (sent, secs) in [
        (json!(60), 60),
        (json!("60"), 60),
        (json!(" 60 "), 60),
        (json!(year), year),
        (Value::Null, 3600),
        (json!(0), 3600),
        (json!(-5), 3600),
        (json!("-5"), 3600),
        (json!(year + 1), 3600),
        (json!(u64::MAX), 3600),
        (json!("99999999999999999999999"), 3600),
        (json!("3599.0"), 3599),
        (json!(3599.9), 3599),
        (json!(0.9), 3600),
        (json!(-0.5), 3600),
        (json!(1e30), 3600),
        (json!("1e400"), 3600),
        (json!("inf"), 3600),
        (json!("NaN"), 3600),
        (json!("\t60\n"), 60),
        (json!("6 0"), 3600),
        (json!("  "), 3600),
        (json!("soon"), 3600),
        (json!(""), 3600),
        (json!([60]), 3600),
        (json!(true), 3600),
    ] {
        let tokens = read(&[("expires_in", sent.clone())]).unwrap();
        assert_eq!(tokens.expires_in, Duration::from_secs(secs), "{sent}");
    }
}

/// `null` itself, and numbers that JSON has and no machine.
#[test]
fn expires_in_beyond_all_measure_costs_no_token() {
    let huge = format!("1{}", "0".repeat(400));
    for sent in ["null", "1e400", "-1e400", "18446744073709551616", &huge] {
        let body = format!(
            r#"{{"access_token":"{ACCESS}","expires_in":{sent},"refresh_token":"{REFRESH}","api_domain":"x"}}"#
        );
        let answer = TokenAnswer {
            status: reqwest::StatusCode::OK,
            retry_after: None,
            body: body.into_bytes().into(),
        };

        let tokens = answer.interpret(&app(&[]).provider).unwrap();

        assert_eq!(tokens.expires_in, Duration::from_hours(1), "{sent}");
        assert_eq!(tokens.access_token.expose(), ACCESS);
        assert_eq!(tokens.refresh_token.unwrap().expose(), REFRESH);
        assert_eq!(tokens.api_domain.as_deref(), Some("x"));
    }
}

#[test]
fn what_is_absent_or_odd_beside_the_access_token_is_made_good() {
    for absent in [Value::Null, json!(""), json!(7), json!(["x"])] {
        let tokens = read(&[
            ("refresh_token", absent.clone()),
            ("scope", absent.clone()),
            ("api_domain", absent.clone()),
            ("token_type", absent.clone()),
        ])
        .unwrap();
        assert!(tokens.refresh_token.is_none(), "{absent}");
        assert_eq!((tokens.scope, tokens.api_domain), (None, None), "{absent}");
    }
    let tokens = read(&[("scope", json!("base,deals:full"))]).unwrap();
    assert_eq!(tokens.scope.as_deref(), Some("base,deals:full"));
}

#[test]
fn no_access_token_is_no_token_response() {
    for odd in [Value::Null, json!(""), json!(7), json!({"x": ACCESS})] {
        let garbled = read(&[("access_token", odd.clone())]).unwrap_err();
        assert!(
            matches!(garbled, TokenError::Unknown(Unknown::Garbled)),
            "{odd}"
        );
    }
}

#[tokio::test]
async fn a_success_that_is_no_token_response_may_have_spent_the_grant() {
    for body in [
        "<html><body>Bad day</body></html>",
        "",
        r#"["access_token"]"#,
        r#""acc3ss-t0ken""#,
        "null",
        r#"{"access_token":"acc3ss-t0k"#,
        r#"{"success":true,"data":{"access_token":"acc3ss-t0ken"}}"#,
    ] {
        let garbled = answered(ResponseTemplate::new(200).set_body_string(body)).await;
        assert!(
            matches!(garbled, Err(TokenError::Unknown(Unknown::Garbled))),
            "{body}: {garbled:?}"
        );
    }
}

#[tokio::test]
async fn the_rfcs_words_mean_what_the_rfc_says() {
    for status in [400, 401] {
        for (word, meaning) in [
            ("invalid_grant", None),
            ("invalid_client", Some("invalid_client")),
            ("unauthorized_client", Some("unauthorized_client")),
            ("unsupported_grant_type", Some("unsupported_grant_type")),
            ("invalid_request", Some("invalid_request")),
            ("invalid_scope", Some("invalid_scope")),
        ] {
            let body = json!({"success": "false", "error": word, "error_description": REFRESH});

            let error = answered(ResponseTemplate::new(status).set_body_json(body))
                .await
                .unwrap_err();

            match (&error, meaning) {
                (TokenError::InvalidGrant, None) => {}
                (TokenError::ClientRefused(said), Some(word)) => assert_eq!(*said, word),
                other => panic!("{status} {word}: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_word_blames_neither_the_grant_nor_us() {
    for (status, body) in [
        (400, json!({"error": "temporarily_unavailable"})),
        (400, json!({"error": "INVALID_GRANT"})),
        (400, json!({"error": {"code": "invalid_grant"}})),
        (400, json!({"message": "invalid_grant"})),
        (401, json!(["invalid_grant"])),
        (403, json!({"error": "invalid_grant"})),
        (404, json!({"error": "invalid_grant"})),
        (429, json!({"error": "invalid_grant"})),
    ] {
        let error = answered(ResponseTemplate::new(status).set_body_json(&body))
            .await
            .unwrap_err();
        let TokenError::TurnedAway {
            status: said,
            retry_after: None,
        } = error
        else {
            panic!("{status} {body}: {error:?}")
        };
        assert_eq!(said, status);
    }
    let page = ResponseTemplate::new(403).set_body_string("<title>Just a moment…</title>");
    let error = answered(page).await.unwrap_err();
    assert!(matches!(error, TokenError::TurnedAway { status: 403, .. }));
}

#[tokio::test]
async fn an_outage_that_echoes_a_word_never_kills_a_grant() {
    for status in [500, 502, 503, 504, 599] {
        for word in ["invalid_grant", "invalid_client"] {
            let body = json!({"error": word});
            let error = answered(ResponseTemplate::new(status).set_body_json(body))
                .await
                .unwrap_err();
            let TokenError::Unknown(Unknown::Status { status: said, .. }) = error else {
                panic!("{status} {word}: {error:?}")
            };
            assert_eq!(said, status);
        }
    }
}

#[tokio::test]
async fn a_rate_limit_says_how_long_to_wait() {
    for (sent, wait) in [
        ("7", Some(7)),
        (" 7 ", Some(7)),
        ("0", Some(0)),
        ("-1", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("soon", None),
    ] {
        let answer = ResponseTemplate::new(429).insert_header("retry-after", sent);
        let error = answered(answer).await.unwrap_err();
        let TokenError::TurnedAway {
            status: 429,
            retry_after,
        } = error
        else {
            panic!("{error:?}")
        };
        assert_eq!(retry_after, wait.map(Duration::from_secs), "{sent}");
    }
}

#[tokio::test]
async fn an_answer_is_read_up_to_256_kib_and_no_further() {
    let most = 256 * 1024;
    let body = |length: usize| {
        let mut text = json!({"access_token": ACCESS}).to_string();
        text.push_str(&" ".repeat(length - text.len()));
        ResponseTemplate::new(200).set_body_string(text)
    };

    assert!(answered(body(most)).await.is_ok());
    let refused = answered(body(most + 1)).await;

    assert!(
        matches!(refused, Err(TokenError::Unknown(Unknown::Garbled))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn credentials_do_not_follow_a_redirect() {
    let elsewhere = answering(ResponseTemplate::new(200)).await;
    for status in [301, 302, 303, 307, 308] {
        let to = format!("{}/token", elsewhere.uri());
        let redirect = ResponseTemplate::new(status).insert_header("location", to.as_str());

        let error = answered(redirect).await.unwrap_err();

        assert!(
            matches!(&error, TokenError::TurnedAway { status: said, .. } if *said == status),
            "{}",
            told(&error)
        );
    }
    assert_eq!(elsewhere.received_requests().await.unwrap().len(), 0);
}
