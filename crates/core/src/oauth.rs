//! OAuth 2.0 as a client (RFC 6749): the authorization URL, token requests and what their answers mean, revocation
//! (RFC 7009), and whose token it is. Spending a refresh token is not here: only token-refresher does that.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use url::Url;
use zeroize::Zeroizing;

use crate::crypto::pkce_challenge;
use crate::http_client::{self, BodyError};
use crate::provider::{ApiDomain, App, ClientAuth, Provider};
use crate::random;
use crate::secret::Secret;

/// Token responses and identities are a few KiB; more is no answer of theirs.
const ANSWER_MAX_BYTES: usize = 256 * 1024;

/// Beyond a year, or within a second, an `expires_in` is a mistake, not a promise.
const EXPIRES_IN: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_hours(366 * 24);

/// Where a user gives consent (RFC 6749 §4.1.1, RFC 7636 §4.3).
pub fn authorization_url(app: &App, state: &str, verifier: Option<&Secret>) -> Url {
    let provider = &app.provider;
    let mut url = provider.authorize_url.clone();
    {
        let mut query = url.query_pairs_mut();
        if provider.response_type {
            query.append_pair("response_type", "code");
        }
        query.append_pair("client_id", &app.client_id);
        if let Some(redirect) = &app.redirect_url {
            query.append_pair("redirect_uri", redirect.as_str());
        }
        if !provider.scope.is_empty() {
            query.append_pair("scope", &provider.scope);
        }
        query.append_pair("state", state);
        if let Some(verifier) = verifier {
            query
                .append_pair("code_challenge", &pkce_challenge(verifier.expose()))
                .append_pair("code_challenge_method", "S256");
        }
    }
    url
}

/// Exchanges an authorization code (RFC 6749 §4.1.3).
pub async fn exchange_code(
    client: &Client,
    app: &App,
    code: &Secret,
    verifier: Option<&Secret>,
) -> Result<Tokens, TokenError> {
    let mut form = vec![
        ("grant_type", "authorization_code"),
        ("code", code.expose()),
    ];
    if let Some(redirect) = &app.redirect_url {
        form.push(("redirect_uri", redirect.as_str()));
    }
    if let Some(verifier) = verifier {
        form.push(("code_verifier", verifier.expose()));
    }
    let answer = ask(client, app, &app.provider.token_url, form).await?;
    answer.interpret(&app.provider)
}

/// Revokes a refresh token and with it the grant (RFC 7009 §2.1); unknown tokens count as revoked (§2.2).
pub async fn revoke(client: &Client, app: &App, refresh_token: &Secret) -> Result<(), TokenError> {
    let Some(url) = &app.provider.revoke_url else {
        return Ok(());
    };
    let form = vec![
        ("token", refresh_token.expose()),
        ("token_type_hint", "refresh_token"),
    ];
    ask(client, app, url, form).await?.success().map(drop)
}

/// Asks once more, with the app's second secret, if the provider doesn't know us by the first: a client is authenticated
/// before its code or token is looked at (RFC 6749 §5.2), so that neither is spent by then.
async fn ask(
    client: &Client,
    app: &App,
    url: &Url,
    form: Vec<(&str, &str)>,
) -> Result<TokenAnswer, TokenError> {
    let request = token_request(client, app, &app.client_secret, url, form.clone());
    let answer = TokenAnswer::to(request).await?;
    match &app.second_client_secret {
        Some(second) if answer.refuses_secret() => {
            TokenAnswer::to(token_request(client, app, second, url, form)).await
        }
        _ => Ok(answer),
    }
}

/// A form POST with the client's authentication by this secret of its app, as the provider's entry has it (RFC 6749
/// §2.3.1).
pub fn token_request<'a>(
    client: &Client,
    app: &'a App,
    secret: &'a Secret,
    url: &Url,
    mut form: Vec<(&'a str, &'a str)>,
) -> RequestBuilder {
    let request = client.post(url.clone()).header(ACCEPT, "application/json");
    match app.provider.client_auth {
        ClientAuth::Basic => request
            .header(AUTHORIZATION, basic_auth(&app.client_id, secret))
            .form(&form),
        ClientAuth::Body => {
            form.push(("client_id", &app.client_id));
            form.push(("client_secret", secret.expose()));
            request.form(&form)
        }
    }
}

/// The value of an `Authorization` header, marked so that no log shows it (RFC 7617).
pub fn basic_auth(user: &str, password: &Secret) -> HeaderValue {
    let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
    sensitive(&format!("Basic {}", STANDARD.encode(pair.as_bytes())))
}

/// The value of an `Authorization` header, marked so that no log shows it (RFC 6750 §2.1).
pub fn bearer(token: &Secret) -> HeaderValue {
    sensitive(&format!("Bearer {}", token.expose()))
}

fn sensitive(text: &str) -> HeaderValue {
    // A token with a control character is none; as an empty credential it is refused and refreshed like any other.
    let mut value = HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// What a token endpoint sent back, as it came.
pub struct TokenAnswer {
    pub status: StatusCode,
    pub retry_after: Option<Duration>,
    pub body: Zeroizing<Vec<u8>>,
}

impl TokenAnswer {
    /// Sends a token request and takes its whole answer.
    pub async fn to(request: RequestBuilder) -> Result<Self, TokenError> {
        let response = request.send().await.map_err(TokenError::of_transport)?;
        let status = response.status();
        let retry_after = retry_after(&response);
        let body = http_client::body(response, ANSWER_MAX_BYTES)
            .await
            .map_err(|error| TokenError::Unknown(Unknown::of_body(error)))?;
        Ok(Self {
            status,
            retry_after,
            body: Zeroizing::new(body),
        })
    }

    /// The tokens of a success (RFC 6749 §5.1), or what the refusal means (§5.2).
    pub fn interpret(&self, provider: &Provider) -> Result<Tokens, TokenError> {
        let body = self.success()?;
        Tokens::of(&body, provider).ok_or(TokenError::Unknown(Unknown::Garbled))
    }

    /// Whether another secret of the same client may fare better: nothing was looked at but who we are.
    pub fn refuses_secret(&self) -> bool {
        matches!(
            self.success(),
            Err(TokenError::ClientRefused("invalid_client"))
        )
    }

    fn success(&self) -> Result<Value, TokenError> {
        let body = read(&self.body);
        if self.status.is_success() {
            return Ok(body);
        }
        match body.get("error").and_then(Value::as_str) {
            // Only 400 and 401 carry the RFC's words; a 5xx that echoes one is an outage.
            Some(word) if matches!(self.status.as_u16(), 400 | 401) => match word {
                "invalid_grant" => return Err(TokenError::InvalidGrant),
                "invalid_client" => return Err(TokenError::ClientRefused("invalid_client")),
                "unauthorized_client" => {
                    return Err(TokenError::ClientRefused("unauthorized_client"));
                }
                "unsupported_grant_type" => {
                    return Err(TokenError::ClientRefused("unsupported_grant_type"));
                }
                "invalid_request" => return Err(TokenError::ClientRefused("invalid_request")),
                "invalid_scope" => return Err(TokenError::ClientRefused("invalid_scope")),
                _ => {}
            },
            _ => {}
        }
        if self.status.is_server_error() {
            Err(TokenError::Unknown(Unknown::Status {
                status: self.status.as_u16(),
                retry_after: self.retry_after,
            }))
        } else {
            Err(TokenError::TurnedAway {
                status: self.status.as_u16(),
                retry_after: self.retry_after,
            })
        }
    }
}

/// A body as JSON; null if it is none. A number that is too large for any machine costs that member alone, not the tokens
/// beside it.
fn read(body: &[u8]) -> Value {
    #[derive(Serialize, Deserialize)]
    struct Texts {
        error: Option<Value>,
        access_token: Option<Value>,
        refresh_token: Option<Value>,
        scope: Option<Value>,
        api_domain: Option<Value>,
    }
    serde_json::from_slice(body)
        .or_else(|_| serde_json::from_slice::<Texts>(body).and_then(serde_json::to_value))
        .unwrap_or(Value::Null)
}

impl fmt::Debug for TokenAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenAnswer")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// A successful token response, with what was absent or absurd in it made good.
#[derive(Debug)]
pub struct Tokens {
    pub access_token: Secret,
    /// `None`: the one that was used stays valid (RFC 6749 §6).
    pub refresh_token: Option<Secret>,
    pub expires_in: Duration,
    pub scope: Option<String>,
    /// As sent; whether a bearer may go there is [`Provider::api_domain`]'s to say.
    pub api_domain: Option<String>,
}

impl Tokens {
    fn of(body: &Value, provider: &Provider) -> Option<Self> {
        let text = |key: &str| {
            body.get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
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
            scope: text("scope"),
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
    /// The provider may have acted on the request; nobody knows.
    #[error("nobody knows what the token endpoint did")]
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

/// Who a connection is upstream: what keeps a re-login from landing on another company's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub company_id: String,
    pub company_domain: String,
    pub company_name: String,
    pub user_id: String,
    pub user_name: String,
}

/// Why nobody knows whose token it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the provider can't be asked whose token this is")]
    Transport(#[source] reqwest::Error),
    #[error("asked whose token this is, the provider answered with status {0}")]
    Status(u16),
    #[error("the provider's answer does not say whose token this is")]
    Garbled,
}

impl IdentityError {
    /// Whether the provider may answer otherwise a moment later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Transport(_) | Self::Status(429 | 500..))
    }
}

/// The same as [`identify`], asked `tries` times at most, while the error is worth another try.
pub async fn identify_patiently(
    client: &Client,
    provider: &Provider,
    api_domain: &ApiDomain,
    access_token: &Secret,
    mut tries: u32,
    is_worth_another: impl Fn(&IdentityError) -> bool,
) -> Result<Identity, IdentityError> {
    loop {
        let asked = identify(client, provider, api_domain, access_token).await;
        tries -= 1;
        match asked {
            Err(error) if tries > 0 && is_worth_another(&error) => {}
            asked => return asked,
        }
        let (least, most) = (Duration::from_millis(200), Duration::from_millis(500));
        tokio::time::sleep(random::between(least, most)).await;
    }
}

/// Asks whose token it is (for Pipedrive: `GET {api_domain}/v1/users/me`).
pub async fn identify(
    client: &Client,
    provider: &Provider,
    api_domain: &ApiDomain,
    access_token: &Secret,
) -> Result<Identity, IdentityError> {
    let path = &provider.identity.url;
    let url = if path.starts_with('/') {
        format!("{}{path}", api_domain.as_str())
    } else {
        path.clone()
    };
    let response = client
        .get(url)
        .header(ACCEPT, "application/json")
        .header(AUTHORIZATION, bearer(access_token))
        .send()
        .await
        .map_err(|error| IdentityError::Transport(error.without_url()))?;
    if !response.status().is_success() {
        return Err(IdentityError::Status(response.status().as_u16()));
    }
    let body = http_client::body(response, ANSWER_MAX_BYTES)
        .await
        .map_err(|_cut| IdentityError::Garbled)?;
    let body: Value = serde_json::from_slice(&body).map_err(|_no_json| IdentityError::Garbled)?;
    let text = |pointer: &str| match body.pointer(pointer).filter(|_| !pointer.is_empty()) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let names = &provider.identity;
    let identity = Identity {
        company_id: text(&names.company_id),
        company_domain: text(&names.company_domain),
        company_name: text(&names.company_name),
        user_id: text(&names.user_id),
        user_name: text(&names.user_name),
    };
    // A provider without companies says so by an empty pointer; one that has them must name this one.
    let company_named = names.company_id.is_empty() || !identity.company_id.is_empty();
    if identity.user_id.is_empty() || !company_named {
        return Err(IdentityError::Garbled);
    }
    Ok(identity)
}

/// `Retry-After` in seconds (RFC 9110 §10.2.3); Pipedrive sends no dates.
pub fn retry_after(response: &Response) -> Option<Duration> {
    response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|secs| secs.trim().parse().ok())
        .map(Duration::from_secs)
}
