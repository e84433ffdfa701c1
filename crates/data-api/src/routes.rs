//! `POST /webhook/pipedrive/person`: n8n's data workflow, answering the name that it was meant to.

use actix_web::http::header::ACCEPT;
use actix_web::web::{Data, Payload, Query};
use actix_web::{HttpRequest, HttpResponse, post};
use pipekeeper_service::body::{self, Fields, unusable};
use pipekeeper_service::problem::{Code, Problem, ProblemBody};
use pipekeeper_service::selection::select;
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
    /// n8n's `AppId`: the OAuth client id; may be left out where one app is configured.
    app_id: Option<String>,
    platform: Option<String>,
    account_id: Option<String>,
    owner: Option<String>,
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
        (status = 200, description = "The name as text/plain; a JSON string where Accept names application/json"),
        (status = 401, description = "No credentials, or the connection has to be authorized again", body = ProblemBody),
        (status = 403, description = "Wrong credentials", body = ProblemBody),
        (status = 404, description = "Nobody has this email, or nothing is connected", body = ProblemBody),
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
    service.config.webhook.credentials.check(&request)?;
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
    let answer = UpstreamError::body_of(response).await?;
    if query.full {
        return Ok(HttpResponse::Ok()
            .content_type("application/json")
            .body(answer));
    }
    let name = name_of(&answer, &email)
        .map_err(UpstreamError::Garbled)?
        .ok_or_else(|| Problem::new(Code::PersonNotFound, "Nobody in Pipedrive has this email."))?;
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
    let email = email.trim();
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

#[derive(Deserialize)]
struct SearchAnswer {
    data: SearchData,
}

#[derive(Deserialize)]
struct SearchData {
    items: Vec<SearchItem>,
}

#[derive(Deserialize)]
struct SearchItem {
    item: FoundPerson,
}

#[derive(Deserialize)]
struct FoundPerson {
    name: Option<String>,
    #[serde(default)]
    emails: Vec<String>,
}

/// Pipedrive matches emails loosely: only a person who has this very one counts, whatever its case.
fn name_of(answer: &[u8], email: &str) -> Result<Option<String>, serde_json::Error> {
    let email = email.to_lowercase();
    let answer: SearchAnswer = serde_json::from_slice(answer)?;
    Ok(answer
        .data
        .items
        .into_iter()
        .find(|found| {
            found
                .item
                .emails
                .iter()
                .any(|has| has.to_lowercase() == email)
        })
        .map(|found| found.item.name.unwrap_or_default()))
}

/// Named, not merely allowed: `*/*` is everybody's default, and n8n's answer is text.
fn wants_json(request: &HttpRequest) -> bool {
    request
        .headers()
        .get(ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.to_ascii_lowercase().contains("application/json"))
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
        assert_eq!(
            name_of(answer.as_bytes(), "jane@example.com")
                .unwrap()
                .as_deref(),
            Some("Jane")
        );
        assert_eq!(name_of(answer.as_bytes(), "ane@example.com").unwrap(), None);
        assert!(name_of(b"{}", "jane@example.com").is_err());
    }

    #[test]
    fn an_email_is_something_to_search_for() {
        for good in [
            "jane@example.com",
            "a&fields=name@x.y",
            "a+b#c@é.z",
            " jane@example.com ",
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
