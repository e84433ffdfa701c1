//! Who calls: Basic credentials of a webhook, checked before a byte of the body is read.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use pipekeeper_core::config::Loader;
use pipekeeper_core::secret::Secret;
use serde::Deserialize;

use crate::problem::{Code, Problem};

/// The credentials that a webhook asks for.
#[derive(Debug, Clone)]
pub struct Credentials {
    user: String,
    password: Secret,
}

/// `[webhook]`: who may call.
#[derive(Debug, Clone)]
pub struct WebhookSection {
    pub credentials: Credentials,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWebhook {
    user: String,
    password: Secret,
    password_file: String,
}

impl WebhookSection {
    /// Every problem goes to the loader.
    pub fn load(loader: &mut Loader) -> Self {
        let Some(raw) = loader.section::<RawWebhook>("webhook") else {
            return Self {
                credentials: Credentials::new(String::new(), Secret::default()),
            };
        };
        Self {
            credentials: Credentials::load(
                loader,
                "webhook",
                raw.user,
                raw.password,
                &raw.password_file,
            ),
        }
    }
}

impl Credentials {
    pub fn new(user: String, password: Secret) -> Self {
        Self { user, password }
    }

    /// Checks what a section says: both must be set.
    pub fn load(
        loader: &mut Loader,
        section: &str,
        user: String,
        password: Secret,
        password_file: &str,
    ) -> Self {
        let password = loader.secret(&format!("{section}.password"), password, password_file);
        if password.is_empty() {
            loader.problem(&format!("{section}.password"), "is not set");
        }
        Self::checked(loader, &format!("{section}.user"), user, password)
    }

    /// Checks the user, whose key is named for the problem.
    pub fn checked(loader: &mut Loader, key: &str, user: String, password: Secret) -> Self {
        // RFC 7617: a colon ends the user.
        if user.is_empty() || user.contains(':') {
            loader.problem(key, "is empty or has a colon");
        }
        Self::new(user, password)
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn password(&self) -> &Secret {
        &self.password
    }

    /// As n8n: no credentials, or none that can be read, 401; wrong ones 403.
    pub fn check(&self, request: &HttpRequest) -> Result<(), Problem> {
        let Some((user, password)) = basic(request) else {
            return Err(Problem::new(
                Code::Unauthorized,
                "Send the webhook's user and password as HTTP Basic credentials.",
            )
            .challenge());
        };
        // Both are compared whatever the first comes to: the time taken tells nothing.
        let user_fits = Secret::from(self.user.as_str()).matches(user.as_bytes());
        let password_fits = self.password.matches(password.expose().as_bytes());
        if user_fits & password_fits {
            Ok(())
        } else {
            Err(Problem::new(
                Code::Unauthorized,
                "The webhook's user or password is wrong.",
            )
            .with_status(StatusCode::FORBIDDEN)
            .challenge())
        }
    }
}

/// The user and password of an `Authorization: Basic` header (RFC 7617); the scheme's case does not matter.
pub fn basic(request: &HttpRequest) -> Option<(String, Secret)> {
    let header = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, value) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let value = value.trim();
    let bytes = STANDARD
        .decode(value)
        .or_else(|_| STANDARD_NO_PAD.decode(value))
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), Secret::from(password)))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn check(header: Option<&str>) -> u16 {
        let credentials = Credentials::new("n8n".to_owned(), Secret::from("pass:word"));
        let mut request = TestRequest::default();
        if let Some(header) = header {
            request = request.insert_header((AUTHORIZATION, header));
        }
        credentials
            .check(&request.to_http_request())
            .map_or_else(|problem| problem.status().as_u16(), |()| 200)
    }

    #[test]
    fn credentials_are_answered_as_n8n_does() {
        let right = STANDARD.encode("n8n:pass:word");
        for (header, status) in [
            (None, 401),
            (Some(String::new()), 401),
            (Some("Bearer x".to_owned()), 401),
            (Some("Basic ???".to_owned()), 401),
            (Some(format!("Basic {}", STANDARD.encode("nocolon"))), 401),
            (Some(format!("Basic {}", STANDARD.encode("n8n:wrong"))), 403),
            (
                Some(format!("Basic {}", STANDARD.encode("other:pass:word"))),
                403,
            ),
            (Some(format!("Basic {right}")), 200),
            (Some(format!("basic {right}")), 200),
        ] {
            assert_eq!(check(header.as_deref()), status, "{header:?}");
        }
    }
}
