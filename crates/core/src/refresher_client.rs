//! What the services say to each other over HTTP, and the client that says it.

use std::time::Duration;

use reqwest::header::AUTHORIZATION;
use reqwest::{Client, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;

use crate::clock::Timestamp;
use crate::connection::{ConnectionId, ConnectionState};
use crate::http_client::{self, BodyError, retry_after};
use crate::oauth::basic_auth;
use crate::secret::Secret;

/// The header that carries a request's id from service to service, and back to the caller.
pub const REQUEST_ID: &str = "x-request-id";

/// W3C Trace Context.
pub const TRACEPARENT: &str = "traceparent";

/// The codes of token-refresher's problems that its callers act on.
pub const TOKEN_INVALIDATED: &str = "TOKEN_INVALIDATED";
pub const CONNECTION_NOT_FOUND: &str = "CONNECTION_NOT_FOUND";
pub const REFRESH_BUSY: &str = "REFRESH_BUSY";
pub const STORE_UNAVAILABLE: &str = "STORE_UNAVAILABLE";

/// The reason of a `REFRESH_BUSY`: the access token was refused again although it had just been refreshed.
pub const REFUSED_AFTER_RENEWAL: &str = "refused_after_renewal";

/// Answers of token-refresher are a few hundred bytes.
const ANSWER_MAX_BYTES: usize = 64 * 1024;

/// What ties the log lines of one request together across services.
#[derive(Debug, Clone)]
pub struct Trace {
    pub request_id: String,
    pub traceparent: String,
}

/// token-refresher's answer to a refresh that left the row with a newer token: n8n's row keys, without the tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refreshed {
    pub success: bool,
    pub outcome: RefreshOutcome,
    pub id: String,
    #[serde(rename = "connectionId")]
    pub connection_id: String,
    #[serde(rename = "AppId")]
    pub app_id: String,
    #[serde(rename = "Platform")]
    pub platform: String,
    pub generation: i64,
    pub expires_at: Timestamp,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Who made the newer token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshOutcome {
    Refreshed,
    AlreadyNewer,
}

/// Why there is no newer token.
#[derive(Debug, thiserror::Error)]
pub enum RefreshClientError {
    /// 409: the connection has ended.
    #[error("the connection has to be authorized again")]
    Invalidated(Box<Invalidated>),
    /// 404.
    #[error("token-refresher knows no such connection")]
    NotFound,
    /// 502, 503, 504: transient.
    #[error("token-refresher could not refresh ({code})")]
    Failed {
        status: u16,
        code: String,
        reason: Option<String>,
        retry_after: Option<Duration>,
        access_token_expires_at: Option<Timestamp>,
    },
    /// 401, 403 and the rest: this deployment is misconfigured.
    #[error(
        "token-refresher turned the call away with status {0}: check refresher.url, .user and .password"
    )]
    TurnedAway(u16),
    #[error("token-refresher can't be reached")]
    Unreachable(#[source] reqwest::Error),
    #[error("what answers at refresher.url is not token-refresher")]
    Garbled(#[source] serde_json::Error),
    #[error("the answer of token-refresher could not be read")]
    Unreadable(#[source] BodyError),
    /// This process is stopping.
    #[error("the call of token-refresher was given up")]
    Aborted,
}

impl RefreshClientError {
    /// Whether the connection has no token that could be sent any more.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Invalidated(_) | Self::NotFound => true,
            Self::Failed { .. }
            | Self::TurnedAway(_)
            | Self::Unreachable(_)
            | Self::Garbled(_)
            | Self::Unreadable(_)
            | Self::Aborted => false,
        }
    }
}

/// What a 409 says of the connection.
#[derive(Debug, Clone, Deserialize)]
pub struct Invalidated {
    pub state: ConnectionState,
    pub reason: Option<String>,
    pub since: Option<Timestamp>,
}

#[derive(Debug, Default, Deserialize)]
struct Refusal {
    #[serde(default)]
    code: String,
    reason: Option<String>,
    access_token_expires_at: Option<Timestamp>,
}

/// Calls token-refresher's webhook.
#[derive(Debug, Clone)]
pub struct RefresherClient {
    pub client: Client,
    pub url: Url,
    pub user: String,
    pub password: Secret,
    /// How long a caller waits for another's refresh.
    pub deadline: Duration,
}

impl RefresherClient {
    /// Asks for a token newer than `generation`: the caller's own was refused.
    pub async fn refresh(
        &self,
        id: &ConnectionId,
        generation: i64,
        trace: &Trace,
    ) -> Result<Refreshed, RefreshClientError> {
        let deadline_ms = u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX);
        let response = self
            .client
            .post(self.url.clone())
            .header(AUTHORIZATION, basic_auth(&self.user, &self.password))
            .header(REQUEST_ID, &trace.request_id)
            .header(TRACEPARENT, &trace.traceparent)
            .json(
                &json!({"connectionId": id, "generation": generation, "deadline_ms": deadline_ms}),
            )
            .send()
            .await
            .map_err(|error| RefreshClientError::Unreachable(error.without_url()))?;
        let (status, wait) = (response.status(), retry_after(response.headers()));
        let body = http_client::decoded_body(response, ANSWER_MAX_BYTES)
            .await
            .map_err(RefreshClientError::Unreadable)?;
        let refusal = || serde_json::from_slice::<Refusal>(&body).unwrap_or_default();
        match status {
            StatusCode::OK => serde_json::from_slice(&body).map_err(RefreshClientError::Garbled),
            // A connection's end is believed of token-refresher alone, not of whatever else answers 409.
            StatusCode::CONFLICT if refusal().code == TOKEN_INVALIDATED => {
                Err(serde_json::from_slice(&body)
                    .map_or_else(RefreshClientError::Garbled, RefreshClientError::Invalidated))
            }
            StatusCode::NOT_FOUND if refusal().code == CONNECTION_NOT_FOUND => {
                Err(RefreshClientError::NotFound)
            }
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => {
                let Refusal {
                    code,
                    reason,
                    access_token_expires_at,
                } = refusal();
                Err(RefreshClientError::Failed {
                    status: status.as_u16(),
                    code,
                    reason,
                    retry_after: wait,
                    access_token_expires_at,
                })
            }
            other => Err(RefreshClientError::TurnedAway(other.as_u16())),
        }
    }
}
