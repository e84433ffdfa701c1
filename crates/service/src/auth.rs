//! Authentication: who calls, found out before a byte of the body is read.

use actix_web::HttpRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::AUTHORIZATION;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use pipekeeper_core::config::Loader;
use pipekeeper_core::secret::Secret;
use serde::Deserialize;
use tracing::Span;

use crate::problem::{Code, Problem};

/// The credentials that a webhook asks for.
#[derive(Debug, Clone)]
pub struct Credentials {
    user: String,
    password: Secret,
}

/// What a caller is asked for, as n8n's webhooks do (RFC 7617).
pub const BASIC_CHALLENGE: &str = r#"Basic realm="Webhook""#;

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user of the credentials.
    pub subject: String,
}

/// Tells who calls by the credentials of a request.
#[derive(Debug, Clone)]
pub struct Authenticator {
    credentials: Credentials,
}

impl Authenticator {
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials }
    }

    /// # Errors
    /// As n8n: 401 without readable credentials, 403 with wrong ones; both with a challenge.
    pub fn authenticate(&self, request: &HttpRequest) -> Result<Caller, Problem> {
        let refused = |detail| Problem::new(Code::Unauthorized, detail).challenge(BASIC_CHALLENGE);
        let Some((user, password)) = basic(request) else {
            return Err(refused(
                "Send the webhook's user and password as HTTP Basic credentials.",
            ));
        };
        if !self.credentials.are(&user, &password) {
            return Err(refused("The webhook's user or password is wrong.")
                .with_status(StatusCode::FORBIDDEN));
        }
        Span::current().record("caller", &user);
        Ok(Caller { subject: user })
    }
}

/// `[webhook]`: who may call.
#[derive(Debug, Clone)]
pub struct WebhookSection {
    pub authenticator: Authenticator,
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
        let credentials = match loader.section::<RawWebhook>("webhook") {
            Some(raw) => Credentials::load(
                loader,
                "webhook",
                raw.user,
                raw.password,
                &raw.password_file,
            ),
            None => Credentials::new(String::new(), Secret::default()),
        };
        Self {
            authenticator: Authenticator::new(credentials),
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

    /// Both are compared whatever the first comes to: the time taken tells nothing.
    fn are(&self, user: &str, password: &Secret) -> bool {
        let user_fits = Secret::from(self.user.as_str()).matches(user.as_bytes());
        let password_fits = self.password.matches(password.expose().as_bytes());
        user_fits & password_fits
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

    fn status(header: Option<&str>) -> u16 {
        let authenticator = Authenticator::new(Credentials::new(
            "n8n".to_owned(),
            Secret::from("pass:word"),
        ));
        let mut request = TestRequest::default();
        if let Some(header) = header {
            request = request.insert_header((AUTHORIZATION, header));
        }
        match authenticator.authenticate(&request.to_http_request()) {
            Ok(caller) => {
                assert_eq!(caller.subject, "n8n");
                200
            }
            Err(problem) => problem.status().as_u16(),
        }
    }

    #[test]
    fn credentials_are_answered_as_n8n_does() {
        let right = STANDARD.encode("n8n:pass:word");
        for (header, expected) in [
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
            assert_eq!(status(header.as_deref()), expected, "{header:?}");
        }
    }
}
