//! A form from an app: its fields, and who sends it.

use actix_web::HttpRequest;
use actix_web::http::header::{AUTHORIZATION, CONTENT_TYPE};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::form_urlencoded;

use crate::app::App;
use crate::oauth::error::OAuthError;
use crate::world::Shared;

#[derive(Debug)]
pub(crate) struct Form(Vec<(String, String)>);

impl Form {
    pub(crate) fn parse(body: &[u8]) -> Self {
        Self(form_urlencoded::parse(body).into_owned().collect())
    }

    /// The field's value; an empty one counts as missing.
    pub(crate) fn get(&self, name: &'static str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    pub(crate) fn require(&self, name: &'static str) -> Result<&str, OAuthError> {
        self.get(name).ok_or(OAuthError::MissingParameter(name))
    }
}

/// The app that sends this form, by Basic credentials or by those in the body, which Pipedrive's PHP SDK uses.
pub(crate) fn authenticate<'a>(
    shared: &'a Shared,
    request: &HttpRequest,
    form: &Form,
) -> Result<&'a App, OAuthError> {
    let is_form = header(request, CONTENT_TYPE.as_str())
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| {
            value
                .trim()
                .eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
    if !is_form {
        return Err(OAuthError::ContentType);
    }
    let in_body = || {
        let id = form.get("client_id")?.to_owned();
        Some((id, form.get("client_secret")?.to_owned()))
    };
    let (id, secret) = basic(request)
        .or_else(in_body)
        .ok_or(OAuthError::NoCredentials)?;
    shared
        .app(&id)
        .filter(|app| app.client_secret == secret)
        .ok_or(OAuthError::Client)
}

fn basic(request: &HttpRequest) -> Option<(String, String)> {
    let (scheme, credentials) = header(request, AUTHORIZATION.as_str())?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some((id.to_owned(), secret.to_owned()))
}

pub(crate) fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers().get(name)?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_field_is_a_missing_one() {
        let form = Form::parse(b"grant_type=refresh_token&refresh_token=");

        assert_eq!(form.require("grant_type"), Ok("refresh_token"));
        let missing = OAuthError::MissingParameter("refresh_token");
        assert_eq!(form.require("refresh_token"), Err(missing));
    }

    #[test]
    fn values_are_percent_decoded() {
        let form = Form::parse(b"token=v1u%3Aa%2Bb%2Fc%3D");

        assert_eq!(form.get("token"), Some("v1u:a+b/c="));
    }
}
