//! `POST /webhook/pipedrive/person`: n8n's data workflow, answering the name that it was meant to.

use actix_web::web::{Data, Payload, Query};
use actix_web::{HttpRequest, HttpResponse, post};
use pipekeeper_core::json;
use pipekeeper_service::accept::accepts;
use pipekeeper_service::body::{self, Fields, unusable};
use pipekeeper_service::connection_selector::select;
use pipekeeper_service::problem::{Code, Problem, ProblemBody};
use pipekeeper_service::trace;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::DataApi;
use crate::upstream::{Upstream, UpstreamError};

/// RFC 5321 §4.5.3.1: no address is longer.
const EMAIL_MAX_BYTES: usize = 320;

#[derive(Deserialize)]
struct PersonQuery {
    #[serde(default)]
    full: bool,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(
    dead_code,
    reason = "a schema: the body is read leniently, as n8n does"
)]
struct PersonBody {
    person: PersonEmail,
    /// n8n's `AppId`: the OAuth client id; may be left out where one app is configured, or one of several is the default.
    app_id: Option<String>,
    platform: Option<String>,
    account_id: Option<String>,
    owner: Option<String>,
    /// One connection; an app, account or owner named beside it must be its own.
    connection_id: Option<String>,
}

#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema")]
struct PersonEmail {
    email: String,
}

/// The name of the person who has this email.
#[utoipa::path(
    tag = "webhook",
    description = "Also at /webhook/47704458-bfa6-4d95-adf1-97fc78e35d8a. HTTP Basic.",
    request_body = PersonBody,
    params(("full" = Option<bool>, Query, description = "The whole search answer as JSON, rather than a name")),
    responses(
        (status = 200, description = "The name as text/plain; as a JSON string only if Accept allows application/json and not text/plain"),
        (status = 401, description = "No credentials, or the connection has to be authorized again", body = ProblemBody),
        (status = 403, description = "Wrong credentials", body = ProblemBody),
        (status = 404, description = "No person has this email, the person has no name, or nothing is connected", body = ProblemBody),
        (status = 409, description = "More than one connection fits", body = ProblemBody),
        (status = 413, description = "More than 64 KiB", body = ProblemBody),
        (status = 422, description = "No, empty or unusable email; not JSON", body = ProblemBody),
        (status = 429, description = "Pipedrive's limits", body = ProblemBody),
        (status = 502, description = "Pipedrive or a refresh failed", body = ProblemBody),
        (status = 503, description = "A refresh is under way, or the database is away", body = ProblemBody),
        (status = 504, description = "Pipedrive did not answer in time", body = ProblemBody),
    )
)]
#[post("/webhook/pipedrive/person")]
pub(crate) async fn person(
    request: HttpRequest,
    payload: Payload,
    service: Data<DataApi>,
    upstream: Data<Upstream>,
) -> Result<HttpResponse, Problem> {
    service
        .config
        .webhook
        .authenticator
        .authenticate(&request)?;
    let query = Query::<PersonQuery>::from_query(request.query_string()).map_err(|error| {
        Problem::new(Code::BadRequest, format!("The query is unusable: {error}."))
    })?;
    let body = body::read(payload).await?;
    let mut fields = Fields::of(body::json(&body)?)?;
    let email = email(fields.take("person"))?;
    let selected = select(service.tokens.apps(), &fields)?;

    let search = [
        ("term", email.as_str()),
        ("fields", "email"),
        ("exact_match", "true"),
    ];
    let response = upstream
        .send(&selected, &trace(&request), |client, token| {
            client
                .get(format!(
                    "{}/api/v2/persons/search",
                    token.api_domain.as_str()
                ))
                .query(&search)
        })
        .await?;
    if !response.status().is_success() {
        return Err(UpstreamError::of_response(response).await.into());
    }
    let found = UpstreamError::body_of(response).await?;
    if query.full {
        return Ok(HttpResponse::Ok()
            .content_type("application/json")
            .body(found));
    }
    let name = match name_of(&found, &email).ok_or(UpstreamError::Garbled)? {
        Match::Name(name) => name,
        Match::WithoutName => {
            return Err(Problem::new(
                Code::PersonNotFound,
                "The person who has this email has no name in Pipedrive.",
            ));
        }
        Match::None => {
            return Err(Problem::new(
                Code::PersonNotFound,
                "No person in Pipedrive has this email.",
            ));
        }
    };
    Ok(if wants_json(&request) {
        HttpResponse::Ok().json(name)
    } else {
        HttpResponse::Ok()
            .content_type("text/plain; charset=utf-8")
            .body(name)
    })
}

/// `person.email`: something that can be searched for; whether mail arrives there is not ours to say.
fn email(said: Option<Value>) -> Result<String, Problem> {
    let fields = match said {
        None | Some(Value::Null) => Fields::default(),
        Some(said) => {
            Fields::of(said).map_err(|_no_object| unusable("person", "is not an object"))?
        }
    };
    let email = fields
        .text("email")
        .map_err(|_no_text| unusable("person.email", "is not text"))?
        .ok_or_else(|| unusable("person.email", "is missing or empty"))?;
    let email = trimmed(&email);
    let usable = email.len() <= EMAIL_MAX_BYTES
        && !email.chars().any(|c| c.is_control() || c.is_whitespace())
        && email
            .split_once('@')
            .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if usable {
        Ok(email.to_owned())
    } else {
        Err(unusable("person.email", "is not an email address"))
    }
}

/// Whom a search found.
#[derive(Debug, PartialEq, Eq)]
enum Match {
    Name(String),
    /// Someone whose name is empty, or can't be read.
    WithoutName,
    None,
}

/// Pipedrive matches emails loosely: only a person who has this very one counts, whatever its case. A hit that can't be read
/// is no hit. `None` if this is no search response.
fn name_of(response: &[u8], email: &str) -> Option<Match> {
    let response = json::read(response);
    let hits = match response.get("data")? {
        Value::Object(data) => match data.get("items") {
            Some(Value::Array(hits)) => hits.as_slice(),
            Some(Value::Null) | None => &[],
            Some(_) => return None,
        },
        Value::Null => &[],
        _ => return None,
    };
    let email = email.to_lowercase();
    let has_email = |found: &&Value| {
        let emails = found.get("emails").and_then(Value::as_array);
        emails.into_iter().flatten().any(|stored| {
            json::text(Some(stored)).is_some_and(|stored| trimmed(stored).to_lowercase() == email)
        })
    };
    let mut found = hits
        .iter()
        .filter_map(|hit| hit.get("item"))
        .filter(has_email)
        .map(|found| found.get("name").and_then(Value::as_str))
        .peekable();
    if found.peek().is_none() {
        return Some(Match::None);
    }
    let name = found.flatten().find(|name| !trimmed(name).is_empty());
    Some(name.map_or(Match::WithoutName, |name| Match::Name(name.to_owned())))
}

/// Without what people don't see when they paste: white space, zero-width spaces and byte order marks.
fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\u{200B}' | '\u{FEFF}'))
}

/// n8n's answer is text, and its HTTP node accepts JSON first and anything after it.
fn wants_json(request: &HttpRequest) -> bool {
    accepts(request, "application", "json") && !accepts(request, "text", "plain")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_very_email_counts_whatever_its_case() {
        let answer = json!({"success": true, "data": {"items": [
            {"result_score": 1.0, "item": {"id": 1, "name": "Mary Jane", "emails": ["mary-jane@example.com"]}},
            {"result_score": 0.9, "item": {"id": 2, "name": "Jane", "emails": ["old@example.com", "Jane@Example.com"]}},
        ]}})
        .to_string();
        for (email, found) in [
            ("jane@example.com", Match::Name("Jane".to_owned())),
            ("ane@example.com", Match::None),
        ] {
            assert_eq!(name_of(answer.as_bytes(), email), Some(found));
        }
    }

    #[test]
    fn a_hit_that_can_not_be_read_hides_no_other() {
        let jane = r#"{"item":{"name":"Jane","emails":["jane@example.com"]}}"#;
        for other in [
            "null",
            "7",
            r#"{"item":null}"#,
            r#"{"item":{"name":"X","emails":null}}"#,
            r#"{"item":{"name":"X","emails":[null, 7]}}"#,
            r#"{"item":{"name":"X","emails":[{"value":"x@example.com","primary":true}]}}"#,
            r#"{"item":{"name":7,"emails":["x@example.com"]}}"#,
            r#"{"item":{"name":"\ud83d","emails":["x@example.com"]}}"#,
            r#"{"item":{"name":"X","emails":["\udc00@example.com"],"score":NaN}}"#,
            r#"{"item":{"name":7,"emails":["jane@example.com"]}}"#,
            r#"{"item":{"name":" ","emails":["jane@example.com"]}}"#,
        ] {
            for hits in [format!("{other},{jane}"), format!("{jane},{other}")] {
                let text = format!("\u{FEFF}{{\"data\":{{\"items\":[{hits}]}}}}");
                let found = name_of(text.as_bytes(), "jane@example.com");
                assert_eq!(found, Some(Match::Name("Jane".to_owned())), "{text}");
            }
        }
    }

    #[test]
    fn an_empty_list_may_be_null_and_anything_else_is_no_search_response() {
        for (text, found) in [
            (r#"{"data":null}"#, Some(Match::None)),
            (r#"{"data":{"items":null}}"#, Some(Match::None)),
            (r#"{"data":{"items":[]}}"#, Some(Match::None)),
            (r#"{"data":{}}"#, Some(Match::None)),
            ("{}", None),
            (r#"{"data":[]}"#, None),
            (r#"{"data":{"items":"none"}}"#, None),
            ("<html></html>", None),
            ("", None),
        ] {
            assert_eq!(
                name_of(text.as_bytes(), "jane@example.com"),
                found,
                "{text}"
            );
        }
    }

    #[test]
    fn stored_emails_are_compared_without_what_nobody_sees() {
        for stored in [
            "jane@example.com ",
            "\u{A0}Jane@example.com\r\n",
            "\u{FEFF}jane@example.com",
            "jane@example.com\u{200B}\u{FEFF} ",
        ] {
            let text = json!({"data": {"items": [{"item": {"name": "Jane", "emails": [stored]}}]}});
            let found = name_of(text.to_string().as_bytes(), "jane@example.com");
            assert_eq!(found, Some(Match::Name("Jane".to_owned())), "{stored:?}");
        }
    }

    #[test]
    fn someone_without_a_name_is_told_from_nobody() {
        for name in [json!(null), json!(""), json!(" \u{200B}"), json!(7)] {
            let text = json!({"data": {"items": [{"item": {"name": name, "emails": ["a@b.c"]}}]}});
            let found = name_of(text.to_string().as_bytes(), "a@b.c");
            assert_eq!(found, Some(Match::WithoutName), "{name}");
        }
    }

    #[test]
    fn an_email_is_something_to_search_for() {
        for good in [
            "jane@example.com",
            "a&fields=name@x.y",
            "a+b#c@é.z",
            " jane@example.com ",
            "\u{FEFF}jane@example.com\u{200B}",
        ] {
            assert!(email(Some(json!({"email": good}))).is_ok(), "{good}");
        }
        let too_long = format!("{}@example.com", "x".repeat(EMAIL_MAX_BYTES));
        for bad in [
            "",
            " ",
            "jane",
            "@x",
            "x@",
            "a b@c.d",
            "a\u{0}@b.c",
            "a@b\n.c",
            &too_long,
        ] {
            assert!(email(Some(json!({"email": bad}))).is_err(), "{bad:?}");
        }
        for bad in [
            None,
            Some(json!(null)),
            Some(json!([])),
            Some(json!({"email": [1]})),
        ] {
            assert!(email(bad.clone()).is_err(), "{bad:?}");
        }
    }
}
