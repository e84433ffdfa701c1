//! Webhook bodies: bounded, and read as n8n does: JSON or a form, scalars as text.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::web::{Bytes, Payload};
use futures_util::StreamExt as _;
use pipekeeper_core::json::without_byte_order_mark;
use serde_json::{Map, Value};

use crate::problem::{Code, Problem};

/// Webhook bodies are a few hundred bytes.
pub const MAX_BYTES: usize = 64 * 1024;

/// A caller who has not sent all of it by then is not waited for: some bodies never end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads the body, up to [`MAX_BYTES`]. A byte order mark before it is not part of it.
pub async fn read(payload: Payload) -> Result<Bytes, Problem> {
    tokio::time::timeout(PATIENCE, read_all(payload))
        .await
        .unwrap_or_else(|_elapsed| {
            Err(
                Problem::new(Code::BadRequest, "The body did not come in time.")
                    .with_status(StatusCode::REQUEST_TIMEOUT),
            )
        })
}

async fn read_all(mut payload: Payload) -> Result<Bytes, Problem> {
    let mut body = Vec::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|error| {
            // As text: actix's own error can't move between threads.
            Problem::new(Code::BadRequest, "The body broke off.")
                .caused_by(anyhow::anyhow!("{error}"))
        })?;
        if body.len() + chunk.len() > MAX_BYTES {
            return Err(Problem::new(
                Code::TooLarge,
                format!("Webhook bodies have {MAX_BYTES} bytes at most."),
            ));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Bytes::copy_from_slice(without_byte_order_mark(&body)))
}

/// The body as JSON, whatever type it claims to have.
pub fn json(body: &[u8]) -> Result<Value, Problem> {
    serde_json::from_slice(body)
        .map_err(|error| Problem::new(Code::BadRequest, format!("The body is not JSON: {error}.")))
}

/// The members of a JSON object or the fields of a form.
pub fn fields(request: &HttpRequest, body: &[u8]) -> Result<Fields, Problem> {
    let form = request
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            value
                .to_ascii_lowercase()
                .starts_with("application/x-www-form-urlencoded")
        });
    if !form {
        return Fields::of(json(body)?);
    }
    serde_urlencoded::from_bytes::<Vec<(String, String)>>(body)
        .map(|pairs| {
            Fields(
                pairs
                    .into_iter()
                    .map(|(key, text)| (key, Value::from(text)))
                    .collect(),
            )
        })
        .map_err(|error| {
            Problem::new(
                Code::BadRequest,
                format!("The body is not a form: {error}."),
            )
        })
}

/// What a caller sent, by name.
#[derive(Debug, Default)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// # Errors
    /// A body that is no object.
    pub fn of(body: Value) -> Result<Self, Problem> {
        match body {
            Value::Object(members) => Ok(Self(members)),
            _ => Err(Problem::new(
                Code::BadRequest,
                "The body is not a JSON object.",
            )),
        }
    }

    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name)
    }

    /// The field as text, numbers too, as n8n takes them; nulls and empty texts count as absent.
    ///
    /// # Errors
    /// Names a field that is an array or an object.
    pub fn text(&self, name: &str) -> Result<Option<String>, Problem> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|text| !text.is_empty())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(Value::Bool(_) | Value::Array(_) | Value::Object(_)) => {
                Err(unusable(name, "is neither text nor a number"))
            }
        }
    }

    /// The field's text read as `T`.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn parse<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Problem> {
        self.text(name)?
            .map(|text| {
                text.parse()
                    .map_err(|error: T::Err| unusable(name, &error.to_string()))
            })
            .transpose()
    }
}

/// 422 for an invalid field.
pub fn unusable(field: &str, why: &str) -> Problem {
    Problem::new(Code::BadRequest, format!("`{field}` {why}.")).with("field", field)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn numbers_are_text_and_nothing_is_absent() {
        let request = TestRequest::default().to_http_request();
        let fields = fields(&request, br#"{"appId":12,"a":null,"b":"","c":[1]}"#).unwrap();
        assert_eq!(fields.text("appId").unwrap().as_deref(), Some("12"));
        for absent in ["a", "b", "z"] {
            assert_eq!(fields.text(absent).unwrap(), None);
        }
        assert!(fields.text("c").unwrap_err().detail().contains("`c`"));
    }

    #[test]
    fn a_form_is_as_good_as_json() {
        let request = TestRequest::default()
            .insert_header((
                CONTENT_TYPE,
                "application/x-www-form-urlencoded; charset=utf-8",
            ))
            .to_http_request();
        let fields = fields(&request, b"appId=a%20b&generation=7").unwrap();
        assert_eq!(fields.text("appId").unwrap().as_deref(), Some("a b"));
        assert_eq!(fields.parse::<i64>("generation").unwrap(), Some(7));
    }
}
