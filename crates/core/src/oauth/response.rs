//! What a token endpoint sends back, as received, and what it means.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;
use zeroize::Zeroizing;

use super::RESPONSE_MAX_BYTES;
use crate::content_coding::ContentCoding;
use crate::http_client::{self, BodyError, retry_after};
use crate::json;
use crate::provider::Provider;
use crate::secret::Secret;

/// Beyond a year, or within a second, an `expires_in` is a mistake, not a promise.
const EXPIRES_IN: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_hours(366 * 24);

/// The response to a token request, not yet interpreted.
#[derive(Debug)]
pub struct TokenResponse {
    pub status: StatusCode,
    pub retry_after: Option<Duration>,
    pub body: TokenBody,
}

/// A body as received, in its content coding. It may hold tokens, whose only copy it is.
#[derive(Clone)]
pub struct TokenBody {
    pub coding: ContentCoding,
    pub bytes: Zeroizing<Vec<u8>>,
}

impl TokenResponse {
    /// Sends a token request and receives the whole response.
    pub async fn to(request: RequestBuilder) -> Result<Self, TokenError> {
        let response = request.send().await.map_err(TokenError::of_transport)?;
        let status = response.status();
        let retry_after = retry_after(response.headers());
        let coding = ContentCoding::of(response.headers());
        let body = http_client::body(response, RESPONSE_MAX_BYTES)
            .await
            .map_err(|error| TokenError::Unknown(Unknown::of_body(error)))?;
        Ok(Self {
            status,
            retry_after,
            body: TokenBody {
                coding,
                bytes: Zeroizing::new(body),
            },
        })
    }

    /// The tokens of a success (RFC 6749 §5.1), or what the refusal means (§5.2).
    pub fn interpret(&self, provider: &Provider) -> Result<Tokens, TokenError> {
        self.accepted()?;
        self.body
            .tokens(provider)
            .ok_or(TokenError::Unknown(Unknown::Garbled))
    }

    /// Whether another secret of the same client may fare better: nothing was looked at but who we are.
    pub fn refuses_secret(&self) -> bool {
        matches!(
            self.accepted(),
            Err(TokenError::ClientRefused("invalid_client"))
        )
    }

    /// Whether the request was granted; its body is read only for the reason why not.
    pub(super) fn accepted(&self) -> Result<(), TokenError> {
        if self.status.is_success() {
            return Ok(());
        }
        // Only 400 and 401 carry the RFC's words; a 5xx that echoes one is an outage.
        if matches!(self.status.as_u16(), 400 | 401) {
            let body = self.body.json();
            match body.get("error").and_then(Value::as_str) {
                Some("invalid_grant") => return Err(TokenError::InvalidGrant),
                Some("invalid_client") => return Err(TokenError::ClientRefused("invalid_client")),
                Some("unauthorized_client") => {
                    return Err(TokenError::ClientRefused("unauthorized_client"));
                }
                Some("unsupported_grant_type") => {
                    return Err(TokenError::ClientRefused("unsupported_grant_type"));
                }
                Some("invalid_request") => {
                    return Err(TokenError::ClientRefused("invalid_request"));
                }
                Some("invalid_scope") => return Err(TokenError::ClientRefused("invalid_scope")),
                _ => {}
            }
        }
        let (status, retry_after) = (self.status.as_u16(), self.retry_after);
        Err(if self.status.is_server_error() {
            TokenError::Unknown(Unknown::Status {
                status,
                retry_after,
            })
        } else {
            TokenError::TurnedAway {
                status,
                retry_after,
            }
        })
    }
}

impl TokenBody {
    /// One that is not packed.
    pub fn plain(bytes: &[u8]) -> Self {
        Self {
            coding: ContentCoding::default(),
            bytes: Zeroizing::new(bytes.to_vec()),
        }
    }

    /// The tokens in the body of a success, if it can be read as a token response. What was journaled is read by this
    /// function, too.
    pub fn tokens(&self, provider: &Provider) -> Option<Tokens> {
        Tokens::of(&self.json(), provider)
    }

    fn json(&self) -> Value {
        match self.coding.decode(&self.bytes, RESPONSE_MAX_BYTES) {
            Some(text) => json::read(&Zeroizing::new(text.into_owned())),
            None => Value::Null,
        }
    }
}

/// Its bytes are secret.
impl fmt::Debug for TokenBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenBody")
            .field("coding", &self.coding)
            .finish_non_exhaustive()
    }
}

/// A successful token response. What was absent or absurd in it has been replaced by what the RFC or the provider's entry
/// says.
#[derive(Debug)]
pub struct Tokens {
    pub access_token: Secret,
    /// `None`: the one that was used stays valid (RFC 6749 §6).
    pub refresh_token: Option<Secret>,
    pub expires_in: Duration,
    /// As sent; a row holds what [`fit_for_column`](crate::granted::fit_for_column) makes of it.
    pub scope: Option<String>,
    /// As sent; whether a bearer may go there is [`Provider::api_domain`]'s to say.
    pub api_domain: Option<String>,
}

impl Tokens {
    fn of(body: &Value, provider: &Provider) -> Option<Self> {
        let text = |key: &str| json::exact(body.get(key)).map(str::to_owned);
        let expires_in = match body.get("expires_in") {
            Some(Value::Number(secs)) => secs.as_f64(),
            Some(Value::String(secs)) => secs.trim().parse().ok(),
            _ => None,
        };
        Some(Self {
            access_token: Secret::new(text("access_token")?),
            refresh_token: text("refresh_token").map(Secret::new),
            expires_in: expires_in
                .and_then(|secs: f64| Duration::try_from_secs_f64(secs.trunc()).ok())
                .filter(|lifetime| EXPIRES_IN.contains(lifetime))
                .unwrap_or(provider.default_expires_in),
            scope: json::text(body.get("scope")).map(str::to_owned),
            api_domain: text("api_domain"),
        })
    }
}

/// What a failed token request means for the grant.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The grant is unknown, spent, expired or revoked (RFC 6749 §5.2).
    #[error("the provider refuses the grant (invalid_grant)")]
    InvalidGrant,
    /// Our registration or request is at fault; the grant is untouched.
    #[error("the provider refuses this client ({0})")]
    ClientRefused(&'static str),
    /// Nothing reached the provider.
    #[error("the token endpoint can't be reached")]
    NotSent(#[source] reqwest::Error),
    /// Refused before any grant was looked at: rate limits, blocks, redirects.
    #[error("the token endpoint turned the request away with status {status}")]
    TurnedAway {
        status: u16,
        retry_after: Option<Duration>,
    },
    /// The provider may have acted on the request, or not.
    #[error("it is unknown what the token endpoint did")]
    Unknown(#[source] Unknown),
}

/// How an answer got lost.
#[derive(Debug, thiserror::Error)]
pub enum Unknown {
    #[error("no answer in time")]
    TimedOut(#[source] reqwest::Error),
    #[error("the connection broke")]
    Broken(#[source] reqwest::Error),
    #[error("status {status}")]
    Status {
        status: u16,
        retry_after: Option<Duration>,
    },
    #[error("a success that is no token response")]
    Garbled,
}

impl TokenError {
    /// How long the provider asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::TurnedAway { retry_after, .. }
            | Self::Unknown(Unknown::Status { retry_after, .. }) => *retry_after,
            Self::InvalidGrant
            | Self::ClientRefused(_)
            | Self::NotSent(_)
            | Self::Unknown(Unknown::TimedOut(_) | Unknown::Broken(_) | Unknown::Garbled) => None,
        }
    }

    fn of_transport(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_connect() || error.is_builder() {
            Self::NotSent(error)
        } else {
            Self::Unknown(Unknown::of_transport(error))
        }
    }
}

impl Unknown {
    fn of_body(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::Garbled,
            BodyError::Transport(error) => Self::of_transport(error),
        }
    }

    fn of_transport(error: reqwest::Error) -> Self {
        if error.is_timeout() {
            Self::TimedOut(error)
        } else {
            Self::Broken(error)
        }
    }
}
