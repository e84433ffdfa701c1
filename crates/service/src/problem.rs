//! The one error body: RFC 9457 `application/problem+json`, plus the keys that ported callers look for.
//!
//! Which error type to use where: core and the services return enums of their own; a handler returns
//! `Result<_, Problem>`. What every service does with core's errors is said here, with a service's own beside them.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use actix_web::{HttpResponse, ResponseError};
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::crypto::OpenError;
use pipekeeper_core::refresher_client;
use pipekeeper_core::store::StoreError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// What went wrong, in a word that callers can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Code {
    BadRequest,
    Unauthorized,
    NotFound,
    MethodNotAllowed,
    TooLarge,
    ConnectionNotFound,
    ConnectionAmbiguous,
    PersonNotFound,
    ConsentDeclined,
    LoginInvalid,
    AlreadyConnected,
    DifferentCompany,
    TokenInvalidated,
    RateLimited,
    TooManyInstalls,
    UpstreamRateLimited,
    UpstreamDailyBudget,
    UpstreamBlocked,
    UpstreamError,
    UpstreamTimeout,
    RefreshFailed,
    RefreshBusy,
    StoreUnavailable,
    Internal,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BAD_REQUEST",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::NotFound => "NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::TooLarge => "TOO_LARGE",
            Self::ConnectionNotFound => refresher_client::CONNECTION_NOT_FOUND,
            Self::ConnectionAmbiguous => "CONNECTION_AMBIGUOUS",
            Self::PersonNotFound => "PERSON_NOT_FOUND",
            Self::ConsentDeclined => "CONSENT_DECLINED",
            Self::LoginInvalid => "LOGIN_INVALID",
            Self::AlreadyConnected => "ALREADY_CONNECTED",
            Self::DifferentCompany => "DIFFERENT_COMPANY",
            Self::TokenInvalidated => refresher_client::TOKEN_INVALIDATED,
            Self::RateLimited => "RATE_LIMITED",
            Self::TooManyInstalls => "TOO_MANY_INSTALLS",
            Self::UpstreamRateLimited => "UPSTREAM_RATE_LIMITED",
            Self::UpstreamDailyBudget => "UPSTREAM_DAILY_BUDGET",
            Self::UpstreamBlocked => "UPSTREAM_BLOCKED",
            Self::UpstreamError => "UPSTREAM_ERROR",
            Self::UpstreamTimeout => "UPSTREAM_TIMEOUT",
            Self::RefreshFailed => "REFRESH_FAILED",
            Self::RefreshBusy => refresher_client::REFRESH_BUSY,
            Self::StoreUnavailable => refresher_client::STORE_UNAVAILABLE,
            Self::Internal => "INTERNAL",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::BadRequest => "Invalid request",
            Self::Unauthorized => "Unauthorized",
            Self::NotFound => "Not found",
            Self::MethodNotAllowed => "Method not allowed",
            Self::TooLarge => "Request body too large",
            Self::ConnectionNotFound => "Connection not found",
            Self::ConnectionAmbiguous => "Ambiguous connection",
            Self::PersonNotFound => "Person not found",
            Self::ConsentDeclined => "Consent declined",
            Self::LoginInvalid => "Invalid login",
            Self::AlreadyConnected => "Already connected",
            Self::DifferentCompany => "Company not allowed",
            Self::TokenInvalidated => "Authorization required",
            Self::RateLimited => "Too many requests",
            Self::TooManyInstalls => "Too many installs",
            Self::UpstreamRateLimited => "Upstream rate limit reached",
            Self::UpstreamDailyBudget => "Upstream daily budget spent",
            Self::UpstreamBlocked => "Blocked by upstream",
            Self::UpstreamError => "Upstream error",
            Self::UpstreamTimeout => "Upstream timeout",
            Self::RefreshFailed => "Refresh failed",
            Self::RefreshBusy => "Refresh in progress",
            Self::StoreUnavailable => "Database unavailable",
            Self::Internal => "Internal error",
        }
    }

    /// The status of most problems with this code; a few are answered otherwise, see [`Problem::with_status`].
    fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Unauthorized | Self::TokenInvalidated => StatusCode::UNAUTHORIZED,
            Self::NotFound | Self::ConnectionNotFound | Self::PersonNotFound => {
                StatusCode::NOT_FOUND
            }
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::ConnectionAmbiguous | Self::AlreadyConnected | Self::DifferentCompany => {
                StatusCode::CONFLICT
            }
            Self::ConsentDeclined | Self::LoginInvalid => StatusCode::BAD_REQUEST,
            Self::RateLimited
            | Self::TooManyInstalls
            | Self::UpstreamRateLimited
            | Self::UpstreamDailyBudget => StatusCode::TOO_MANY_REQUESTS,
            Self::UpstreamBlocked | Self::UpstreamError | Self::RefreshFailed => {
                StatusCode::BAD_GATEWAY
            }
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::RefreshBusy | Self::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// All of a problem but its cause, to be kept and told again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredProblem {
    code: Code,
    status: u16,
    detail: String,
    members: Map<String, Value>,
    retry_after_secs: Option<u64>,
}

impl From<&Problem> for StoredProblem {
    fn from(problem: &Problem) -> Self {
        Self {
            code: problem.code,
            status: problem.status.as_u16(),
            detail: problem.detail.clone(),
            members: problem.members.clone(),
            retry_after_secs: problem.retry_after.map(|wait| wait.as_secs()),
        }
    }
}

impl From<StoredProblem> for Problem {
    fn from(stored: StoredProblem) -> Self {
        Self {
            status: StatusCode::from_u16(stored.status).unwrap_or_else(|_| stored.code.status()),
            members: stored.members,
            ..Self::new(stored.code, stored.detail)
        }
        .retry_after(stored.retry_after_secs.map(Duration::from_secs))
    }
}

/// An error on its way to the caller, with the cause that only the log gets.
#[derive(Debug)]
pub struct Problem {
    code: Code,
    status: StatusCode,
    detail: String,
    members: Map<String, Value>,
    retry_after: Option<Duration>,
    allow: Option<String>,
    challenge: Option<&'static str>,
    cause: Option<anyhow::Error>,
}

impl Problem {
    /// `detail` is read by the caller: what happened and what to do next.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            status: code.status(),
            detail: detail.into(),
            members: Map::new(),
            retry_after: None,
            allow: None,
            challenge: None,
            cause: None,
        }
    }

    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// An extension member (RFC 9457 §3.2).
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.members.insert(key.to_owned(), value.into());
        self
    }

    #[must_use]
    pub fn with_time(self, key: &str, at: Option<Timestamp>) -> Self {
        match at {
            Some(at) => self.with(key, json!(at)),
            None => self,
        }
    }

    /// Whole seconds, rounded up: a caller who waits so long does not come too early.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// The methods that a path takes.
    #[must_use]
    pub fn allow(mut self, methods: String) -> Self {
        self.allow = Some(methods);
        self
    }

    /// What credentials the caller is asked for (RFC 9110 §11.6.1).
    #[must_use]
    pub fn challenge(mut self, challenge: &'static str) -> Self {
        self.challenge = Some(challenge);
        self
    }

    #[must_use]
    pub fn caused_by(mut self, cause: impl Into<anyhow::Error>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    pub fn code(&self) -> Code {
        self.code
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }

    pub fn title(&self) -> &'static str {
        self.code.title()
    }

    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// Written once, by the middleware, with the whole chain of causes; by the handler itself only where it answers with a page.
    pub fn log(&self) {
        let cause = self.cause.as_ref().map(|cause| format!("{cause:#}"));
        let (code, status, cause) = (self.code.as_str(), self.status.as_u16(), cause.as_deref());
        if self.status.is_server_error() && !self.is_logged_elsewhere() {
            tracing::error!(code, status, cause, "{}", self.detail);
        } else {
            tracing::debug!(code, status, cause, "{}", self.detail);
        }
    }

    /// Whether many requests hear of one failure: the store logs its outages, and what callers are told to wait for is
    /// logged where it failed.
    fn is_logged_elsewhere(&self) -> bool {
        let has_sealed = |cause: &anyhow::Error| cause.chain().any(<dyn Error>::is::<OpenError>);
        let is_outage =
            self.code == Code::StoreUnavailable && !self.cause.as_ref().is_some_and(has_sealed);
        let is_wait = self.status == StatusCode::SERVICE_UNAVAILABLE && self.retry_after.is_some();
        is_outage || is_wait
    }

    pub(crate) fn response(&self, request_id: Option<&str>) -> HttpResponse {
        let code = self.code.as_str();
        let mut body = json!({
            "type": format!("urn:pipekeeper:problem:{}", code.to_lowercase().replace('_', "-")),
            "title": self.code.title(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "success": false,
            "code": code,
            "message": code,
        });
        if let Value::Object(members) = &mut body {
            if let Some(id) = request_id {
                members.insert("instance".to_owned(), json!(format!("urn:request:{id}")));
            }
            members.extend(self.members.clone());
        }
        let mut response = HttpResponse::build(self.status);
        response.insert_header((CONTENT_TYPE, "application/problem+json"));
        if let Some(wait) = self.retry_after {
            let secs = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.insert_header((RETRY_AFTER, secs.max(1).to_string()));
        }
        if let Some(methods) = &self.allow {
            response.insert_header((ALLOW, methods.as_str()));
        }
        if let Some(challenge) = self.challenge {
            response.insert_header((WWW_AUTHENTICATE, challenge));
        }
        response.body(body.to_string())
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        self.response(None)
    }
}

impl Problem {
    /// What a caller gets for a [`StoreError`]; code that shares one among callers adds the cause.
    pub fn of_store(error: &StoreError) -> Self {
        if !error.is_unavailable() {
            return Self::new(Code::Internal, "The database refused a query.");
        }
        let what = match error.diagnosis() {
            Some(diagnosis) if diagnosis.refuses_writes() => diagnosis.as_str(),
            _ => "The database does not answer; try again shortly.",
        };
        Self::new(Code::StoreUnavailable, what).retry_after(Some(Duration::from_secs(1)))
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::of_store(&error).caused_by(error)
    }
}

/// A key that is missing is the operator's to bring back: nothing is wrong with the connection.
impl From<OpenError> for Problem {
    fn from(error: OpenError) -> Self {
        let detail = match &error {
            OpenError::UnknownKey(id) => {
                format!("A token is sealed with key `{id}`, which this service was not given.")
            }
            OpenError::Tampered | OpenError::Malformed => {
                "A stored token does not open with the keys at hand.".to_owned()
            }
        };
        Self::new(Code::StoreUnavailable, detail).caused_by(error)
    }
}

/// The error body of every answer, for the OpenAPI document.
#[derive(Debug, ToSchema)]
#[schema(example = json!({
    "type": "urn:pipekeeper:problem:token-invalidated",
    "title": "Authorization required",
    "status": 401,
    "detail": "Pipedrive no longer accepts the refresh token of this connection.",
    "instance": "urn:request:01J",
    "success": false,
    "code": "TOKEN_INVALIDATED",
    "message": "TOKEN_INVALIDATED"
}))]
#[expect(dead_code, reason = "a schema: Problem::response writes the body")]
pub struct ProblemBody {
    r#type: String,
    title: String,
    status: u16,
    detail: String,
    instance: String,
    success: bool,
    code: String,
    message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callers_are_told_to_wait_for_is_not_logged_for_each_of_them() {
        let second = Some(Duration::from_secs(1));
        let sealed = OpenError::UnknownKey("k2".to_owned());
        for (problem, is_logged_elsewhere) in [
            (
                Problem::new(Code::RefreshBusy, "under way").retry_after(second),
                true,
            ),
            (
                Problem::new(Code::RefreshFailed, "failed a moment ago")
                    .with_status(StatusCode::SERVICE_UNAVAILABLE)
                    .retry_after(second),
                true,
            ),
            (Problem::new(Code::StoreUnavailable, "no answer"), true),
            (
                Problem::new(Code::RefreshFailed, "invalid response").retry_after(second),
                false,
            ),
            (sealed.into(), false),
            (Problem::new(Code::Internal, "a query is refused"), false),
        ] {
            assert_eq!(
                problem.is_logged_elsewhere(),
                is_logged_elsewhere,
                "{problem:?}"
            );
        }
    }
}
