//! Sending to Pipedrive: what a 401 and a 429 lead to.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::StatusCode;
use pipekeeper_core::clock::SharedClock;
use pipekeeper_core::http_client::{self, BodyError, retry_after, seconds};
use pipekeeper_core::json;
use pipekeeper_core::random;
use pipekeeper_core::refresher_client::{
    REFRESH_BUSY, REFUSED_AFTER_RENEWAL, RefreshClientError, STORE_UNAVAILABLE, Trace,
};
use pipekeeper_service::connection_selector::{self, Target};
use pipekeeper_service::problem::{Code, Problem};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::tokens::{NoToken, Token, Tokens};

/// So many sends, at most, for the sake of 401s (with one call of token-refresher among them), and for the sake of 429s.
const SENDS_MAX: u32 = 3;

/// A token that is refused although it was just refreshed is tried again after this time at the earliest.
const STILL_REFUSED_WAIT: Duration = Duration::from_secs(5);

/// Pipedrive's burst window, for an answer that does not say how long to wait.
const BURST_WINDOW: Duration = Duration::from_secs(2);

/// A longer wait is not a burst's: the day's budget is spent.
const BURST_WAIT_MAX: Duration = Duration::from_mins(1);

/// The day's budget is renewed within a day, whatever the response says.
const WAIT_MAX: Duration = Duration::from_hours(24);

/// A page of 500 records is a few MB at most.
const ANSWER_MAX_BYTES: usize = 32 * 1024 * 1024;

/// Errors are small; what is larger is no error of Pipedrive's.
const ERROR_MAX_BYTES: usize = 64 * 1024;

/// Pipedrive's API, with the stored tokens. One per HTTP worker.
#[derive(Debug)]
pub(crate) struct Upstream {
    client: Client,
    tokens: Arc<Tokens>,
    clock: SharedClock,
    max_wait: Duration,
}

impl Upstream {
    pub(crate) fn new(
        client: Client,
        tokens: Arc<Tokens>,
        clock: SharedClock,
        max_wait: Duration,
    ) -> Self {
        Self {
            client,
            tokens,
            clock,
            max_wait,
        }
    }

    /// Sends an idempotent request; `request` may be asked for it several times.
    ///
    /// Gives back any answer but 401 and 429, whatever its status.
    pub(crate) async fn send(
        &self,
        selected: &Target,
        trace: &Trace,
        request: impl Fn(&Client, &Token) -> RequestBuilder,
    ) -> Result<Response, UpstreamError> {
        let started = self.clock.monotonic();
        let mut token = self.tokens.get(selected, trace).await?;
        let (mut refreshed, mut refused, mut limited) = (false, 0, 0);
        let mut left = self.max_wait;
        loop {
            pipekeeper_service::record(&token.id, token.generation);
            let response = request(&self.client, &token)
                .header(AUTHORIZATION, token.bearer.clone())
                .send()
                .await
                .map_err(UpstreamError::of_transport)?;
            match response.status().as_u16() {
                401 => {
                    refused += 1;
                    // A token that has ended since it was sent says nothing of the grant.
                    let verdict = if self.clock.now() < token.expires_at {
                        UpstreamError::StillRefused
                    } else {
                        UpstreamError::Outrun
                    };
                    if refused == SENDS_MAX {
                        return Err(verdict);
                    }
                    let current = self.tokens.reread(selected, started).await?;
                    token = if !current.is(&token) {
                        current
                    } else if refreshed {
                        return Err(verdict);
                    } else {
                        refreshed = true;
                        self.tokens.newer(selected, &current, trace).await?
                    };
                }
                429 => {
                    limited += 1;
                    let limit = RateLimit::of(response).await;
                    if limit.daily || limit.wait > left || limited == SENDS_MAX {
                        return Err(UpstreamError::RateLimited(limit));
                    }
                    left = left.saturating_sub(limit.wait);
                    // All who were told the same come back at different times.
                    let most = limit.wait + limit.wait / 10;
                    tokio::time::sleep(random::between(limit.wait, most)).await;
                }
                _ => return Ok(response),
            }
        }
    }
}

/// Which limit was met, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RateLimit {
    daily: bool,
    wait: Duration,
}

impl RateLimit {
    async fn of(response: Response) -> Self {
        let headers = response.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let asked = retry_after(headers).or_else(|| seconds(text("x-ratelimit-reset")?));
        let left = text("x-daily-ratelimit-token-remaining");
        let budget_gone = left.is_some_and(|left| left.trim() == "0");
        let wait = asked
            .unwrap_or(BURST_WINDOW)
            .clamp(Duration::from_millis(100), WAIT_MAX);
        let said = error_said(response).await.unwrap_or_default();
        let says_daily = said.to_ascii_lowercase().contains("daily");
        Self {
            daily: budget_gone || says_daily || wait > BURST_WAIT_MAX,
            wait,
        }
    }
}

/// What a caller of the data path is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    #[error(transparent)]
    NoToken(#[from] NoToken),
    /// Refreshed once, tried again, refused again.
    #[error("Pipedrive refuses a token that was just refreshed")]
    StillRefused,
    /// This request took longer than its newest token lived.
    #[error("the token ended before it could be used")]
    Outrun,
    #[error("Pipedrive's rate limit is reached")]
    RateLimited(RateLimit),
    #[error("Pipedrive did not answer in time")]
    TimedOut(#[source] reqwest::Error),
    #[error("Pipedrive can't be reached")]
    Transport(#[source] reqwest::Error),
    #[error("Pipedrive answered with status {status}")]
    Status {
        status: u16,
        said: Option<String>,
        retry_after: Option<Duration>,
    },
    #[error("Pipedrive's edge blocks our requests")]
    Blocked,
    #[error("Pipedrive's response is too large")]
    TooLarge,
    #[error("Pipedrive's answer makes no sense")]
    Garbled,
}

impl UpstreamError {
    fn of_transport(error: reqwest::Error) -> Self {
        // The URL holds what the caller searched for.
        let error = error.without_url();
        if error.is_timeout() {
            Self::TimedOut(error)
        } else {
            Self::Transport(error)
        }
    }

    /// What an answer that is no success means.
    pub(crate) async fn of_response(response: Response) -> Self {
        let status = response.status().as_u16();
        let html = response
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|value| value.as_bytes().starts_with(b"text/html"));
        if status == 403 && html {
            return Self::Blocked;
        }
        let retry_after = retry_after(response.headers()).map(|wait| wait.min(WAIT_MAX));
        Self::Status {
            status,
            said: error_said(response).await,
            retry_after,
        }
    }

    /// Reads a whole answer.
    pub(crate) async fn body_of(response: Response) -> Result<Vec<u8>, Self> {
        http_client::decoded_body(response, ANSWER_MAX_BYTES)
            .await
            .map_err(|error| match error {
                BodyError::TooLarge => Self::TooLarge,
                BodyError::Transport(error) => Self::of_transport(error),
            })
    }
}

/// What an error's body says; one that can't be read says nothing.
async fn error_said(response: Response) -> Option<String> {
    let body = http_client::decoded_body(response, ERROR_MAX_BYTES).await;
    let body = json::read(&body.ok()?);
    body.get("error").and_then(Value::as_str).map(str::to_owned)
}

impl From<UpstreamError> for Problem {
    fn from(error: UpstreamError) -> Self {
        match error {
            UpstreamError::NoToken(error) => error.into(),
            UpstreamError::StillRefused => Self::new(
                Code::RefreshBusy,
                "Pipedrive refuses this connection's access token although it was just refreshed; ask again later.",
            )
            .with("reason", REFUSED_AFTER_RENEWAL)
            .retry_after(Some(STILL_REFUSED_WAIT)),
            UpstreamError::Outrun => Self::new(
                Code::RefreshBusy,
                "The token ended while this request was waiting; ask again.",
            )
            .retry_after(Some(Duration::from_secs(1))),
            UpstreamError::RateLimited(RateLimit { daily: true, wait }) => Self::new(
                Code::UpstreamDailyBudget,
                "The company's daily budget of API tokens is spent; it is renewed at midnight of Pipedrive's server.",
            )
            .retry_after(Some(wait)),
            UpstreamError::RateLimited(RateLimit { daily: false, wait }) => Self::new(
                Code::UpstreamRateLimited,
                "Too many requests within two seconds; slow down.",
            )
            .retry_after(Some(wait)),
            UpstreamError::TimedOut(_) => {
                Self::new(Code::UpstreamTimeout, "Pipedrive did not answer in time; try again.")
                    .caused_by(error)
            }
            UpstreamError::Transport(_) | UpstreamError::TooLarge | UpstreamError::Garbled => {
                Self::new(Code::UpstreamError, format!("{error}; try again.")).caused_by(error)
            }
            // What Pipedrive said goes to the caller alone: it may repeat what was searched for, and details are logged.
            UpstreamError::Status {
                status,
                said,
                retry_after,
            } => Self::new(Code::UpstreamError, format!("Pipedrive answered {status}."))
                .with("upstream_status", status)
                .with("upstream_error", json!(said))
                .retry_after(retry_after),
            UpstreamError::Blocked => Self::new(
                Code::UpstreamBlocked,
                "Pipedrive's edge blocks this machine, as it does after too many requests beyond the limit; stop for a while.",
            ),
        }
    }
}

impl From<NoToken> for Problem {
    fn from(error: NoToken) -> Self {
        match error {
            NoToken::NotFound => connection_selector::not_found(),
            NoToken::Ambiguous => connection_selector::ambiguous(),
            NoToken::DefaultGone => connection_selector::default_gone(),
            NoToken::Ended {
                state,
                reason,
                since,
            } => invalidated("This connection is no longer valid; connect it again.")
                .with("state", json!(state))
                .with("reason", json!(reason))
                .with("since", json!(since)),
            NoToken::Store(ref cause) => Self::of_store(cause).caused_by(error),
            NoToken::Sealed(error) => error.into(),
            NoToken::ApiDomain => Self::new(
                Code::UpstreamError,
                "The connection's api_domain is no host of Pipedrive's: nothing was sent there.",
            )
            .caused_by(error),
            NoToken::Refresh(ref refusal) => of_refusal(refusal).caused_by(error),
        }
    }
}

fn invalidated(detail: &str) -> Problem {
    Problem::new(Code::TokenInvalidated, detail)
}

/// token-refresher's word, in the terms of a caller who asked for data.
fn of_refusal(refusal: &RefreshClientError) -> Problem {
    match refusal {
        RefreshClientError::Invalidated(said) => {
            invalidated("Pipedrive refuses this connection's token; connect it again.")
                .with("state", json!(said.state))
                .with("reason", json!(said.reason))
        }
        RefreshClientError::NotFound => connection_selector::not_found(),
        RefreshClientError::Failed { status, code, reason, retry_after, access_token_expires_at } => {
            let code = match code.as_str() {
                REFRESH_BUSY => Code::RefreshBusy,
                STORE_UNAVAILABLE => Code::StoreUnavailable,
                _ => Code::RefreshFailed,
            };
            let problem = Problem::new(code, "The connection's token could not be refreshed; it is kept, try again.");
            let problem = match reason {
                Some(reason) => problem.with("reason", json!(reason)),
                None => problem,
            };
            problem
                .with_status(StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY))
                .with_time("access_token_expires_at", *access_token_expires_at)
                .retry_after(*retry_after)
        }
        RefreshClientError::TurnedAway(_)
        | RefreshClientError::Unreachable(_)
        | RefreshClientError::Garbled(_)
        | RefreshClientError::Unreadable(_)
        | RefreshClientError::Aborted => Problem::new(
            Code::RefreshFailed,
            "token-refresher could not be asked for a new token; the operator has to look at its address and password.",
        )
        .with_status(StatusCode::SERVICE_UNAVAILABLE)
        .retry_after(Some(Duration::from_secs(5))),
    }
}
