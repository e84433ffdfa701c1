use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use pipekeeper_core::oauth::{TokenBody, TokenError, TokenResponse, Tokens, Unknown};
use reqwest::StatusCode;
use serde_json::{Value, json};
use wiremock::ResponseTemplate;

use super::{
    ACCESS, End, REFRESH, answering, app, app_of, client, exchange, keeps_secrets, raw_server, told,
};

const BOM: &[u8] = b"\xEF\xBB\xBF";

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
    read_text(&body.to_string())
}

fn read_text(body: &str) -> Result<Tokens, TokenError> {
    let response = TokenResponse {
        status: StatusCode::OK,
        retry_after: None,
        body: TokenBody::plain(body.as_bytes()),
    };
    keeps_secrets(&format!("{response:?}"));
    let tokens = response.interpret(&app(&[]).provider);
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

        let tokens = read_text(&body).unwrap();

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
        ("30.5", Some(31)),
        ("0.2", Some(1)),
        ("1e3", None),
        ("-1", None),
        ("1.2.3", None),
        ("soon", None),
        ("99999999999999999999999", Some(366 * 86_400)),
        // The response is of Sun, 06 Nov 1994 08:49:37 GMT, as RFC 9110 §5.6.7 has it.
        ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
        ("Sunday, 06-Nov-94 08:50:07 GMT", Some(30)),
        ("Sun Nov  6 08:50:07 1994", Some(30)),
        ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
        ("Fri, 06 Nov 2099 08:49:37 GMT", Some(366 * 86_400)),
    ] {
        for status in [429, 503] {
            let answer = ResponseTemplate::new(status)
                .insert_header("date", "Sun, 06 Nov 1994 08:49:37 GMT")
                .insert_header("retry-after", sent);
            let error = answered(answer).await.unwrap_err();
            let (TokenError::TurnedAway { retry_after, .. }
            | TokenError::Unknown(Unknown::Status { retry_after, .. })) = error
            else {
                panic!("{error:?}")
            };
            let secs = retry_after.map(|wait| wait.as_secs_f64().ceil());
            assert_eq!(secs, wait.map(f64::from), "{status} {sent}");
        }
    }
}

#[tokio::test]
async fn a_date_to_come_back_counts_from_now_where_the_response_has_none() {
    let past = b"HTTP/1.1 429 Slow\r\nretry-after: Sun, 06 Nov 1994 08:50:07 GMT\r\ncontent-length: 0\r\n\r\n";
    let url = raw_server(past, End::Closes);

    let error = exchange(&client(), &app(&[("token_url", &url)])).await;

    let Err(TokenError::TurnedAway { retry_after, .. }) = error else {
        panic!("{error:?}")
    };
    assert_eq!(retry_after, Some(Duration::ZERO));
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// The tokens are used up by this response: they must not be lost for what is odd beside them.
#[tokio::test]
async fn tokens_are_read_whatever_they_are_wrapped_in() {
    let members = format!(r#""access_token":"{ACCESS}","refresh_token":"{REFRESH}""#);
    let text = format!(r#"{{{members},"scope":"base"}}"#).into_bytes();
    let with = |more: &[u8]| [b"{", members.as_bytes(), b",", more, b"}"].concat();
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
    zlib.write_all(&text).unwrap();
    let mut deflate = DeflateEncoder::new(Vec::new(), Compression::default());
    deflate.write_all(&text).unwrap();
    let base = Some("base");
    for (name, coding, body, scope) in [
        ("a byte order mark", "", [BOM, &text].concat(), base),
        ("gzip", "gzip", gzip(&text), base),
        ("gzip, not said", "", gzip(&text), base),
        ("gzip, said and not done", "gzip", text.clone(), base),
        (
            "gzip with a byte order mark",
            "gzip",
            gzip(&[BOM, &text].concat()),
            base,
        ),
        ("deflate", "deflate", zlib.finish().unwrap(), base),
        (
            "deflate without zlib",
            "deflate",
            deflate.finish().unwrap(),
            base,
        ),
        ("identity", "identity", text.clone(), base),
        ("an unknown coding, not done", "br", text.clone(), base),
        (
            "a comment behind it",
            "",
            [&text[..], b"<!-- 3 ms -->"].concat(),
            base,
        ),
        ("zeros behind it", "", [&text[..], b"\0\0\0"].concat(), base),
        (
            "a scope in Latin-1",
            "",
            with(b"\"scope\":\"caf\xE9\""),
            None,
        ),
        ("half an emoji", "", with(br#""scope":"base \ud83d""#), None),
        (
            "U+0000",
            "",
            with(br#""scope":"base\u0000""#),
            Some("base\0"),
        ),
        (
            "a zero byte",
            "",
            with(b"\"scope\":\"base\0\""),
            Some("base\0"),
        ),
        (
            "a member twice and a huge number",
            "",
            with(br#""scope":"x","scope":"base","expires_in":1e999"#),
            base,
        ),
        ("NaN", "", with(br#""scope":"base","expires_in":NaN"#), base),
        (
            "an error that is empty",
            "",
            with(br#""scope":"base","error":"""#),
            base,
        ),
        (
            "a scope that is a list",
            "",
            with(br#""scope":["base"]"#),
            None,
        ),
    ] {
        let mut response = ResponseTemplate::new(200).set_body_bytes(body);
        if !coding.is_empty() {
            response = response.insert_header("content-encoding", coding);
        }

        let tokens = answered(response)
            .await
            .unwrap_or_else(|error| panic!("{name}: {error:?}"));

        assert_eq!(tokens.access_token.expose(), ACCESS, "{name}");
        assert_eq!(tokens.refresh_token.unwrap().expose(), REFRESH, "{name}");
        assert_eq!(tokens.scope.as_deref(), scope, "{name}");
        assert_eq!(tokens.expires_in, Duration::from_hours(1), "{name}");
    }
}

#[tokio::test]
async fn header_lines_that_other_clients_take_cost_no_tokens() {
    let body = json!({"access_token": ACCESS}).to_string();
    let many = "x-more: 1\r\n".repeat(120);
    for lines in [
        many.as_str(),
        "x-foo : bar\r\n",
        "x-foo: one\r\n two\r\n",
        "a line without a colon\r\n",
        "x-foo\x01: bar\r\n",
        "x\u{E4}: bar\r\n",
        "x-foo : one\r\n\ttwo\r\nno colon\r\n",
    ] {
        let length = body.len();
        let response = format!("HTTP/1.1 200 OK\r\n{lines}content-length: {length}\r\n\r\n{body}");
        let url = raw_server(response.as_bytes(), End::Closes);

        let tokens = exchange(&client(), &app(&[("token_url", &url)])).await;

        let tokens = tokens.unwrap_or_else(|error| panic!("{lines}: {}", told(&error)));
        assert_eq!(tokens.access_token.expose(), ACCESS, "{lines}");
    }
}

#[tokio::test]
async fn a_packed_answer_is_unpacked_up_to_256_kib_and_no_further() {
    let most = 256 * 1024;
    let packed = |length: usize| {
        let mut text = json!({"access_token": ACCESS}).to_string();
        text.push_str(&" ".repeat(length - text.len()));
        ResponseTemplate::new(200).set_body_bytes(gzip(text.as_bytes()))
    };

    assert!(answered(packed(most)).await.is_ok());
    let refused = answered(packed(most + 1)).await;

    assert!(
        matches!(refused, Err(TokenError::Unknown(Unknown::Garbled))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_refusal_is_understood_whatever_it_is_wrapped_in() {
    let text = br#"{"error":"invalid_grant","error_description":"caf\ud83d","x":NaN}"#;
    for body in [[BOM, text].concat(), gzip(text)] {
        let refused = answered(ResponseTemplate::new(400).set_body_bytes(body)).await;
        assert!(
            matches!(refused, Err(TokenError::InvalidGrant)),
            "{refused:?}"
        );
    }
    let empty = ResponseTemplate::new(400).set_body_json(json!({"error": ""}));
    let refused = answered(empty).await;
    assert!(
        matches!(refused, Err(TokenError::TurnedAway { status: 400, .. })),
        "{refused:?}"
    );
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
