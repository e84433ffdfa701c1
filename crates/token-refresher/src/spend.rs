//! The one call that spends a refresh token (RFC 6749 §6).

use pipekeeper_core::oauth::{TokenAnswer, TokenError, Tokens, Unknown, token_request};
use pipekeeper_core::provider::App;
use pipekeeper_core::secret::Secret;
use reqwest::Client;

/// Sends the token to its provider. Nothing else in the product does.
pub(crate) async fn spend(
    client: &Client,
    app: &App,
    refresh_token: &Secret,
) -> Result<Tokens, TokenError> {
    let form = vec![
        ("grant_type", "refresh_token"),
        ("refresh_token", refresh_token.expose()),
    ];
    let request = token_request(client, app, &app.provider.token_url, form);
    TokenAnswer::to(request).await?.interpret(&app.provider)
}

/// What `refresh_log` calls the end of an attempt.
pub(crate) fn outcome_of(error: &TokenError) -> &'static str {
    match error {
        TokenError::InvalidGrant => "rejected",
        TokenError::ClientRefused(_) => "our_fault",
        TokenError::NotSent(_) => "not_sent",
        TokenError::TurnedAway { .. } => "turned_away",
        TokenError::Unknown(_) => "unknown",
    }
}

/// A word for `last_error` and `refresh_log.error`: no secrets, no bodies.
pub(crate) fn word_of(error: &TokenError) -> String {
    match error {
        TokenError::InvalidGrant => "invalid_grant".to_owned(),
        TokenError::ClientRefused(word) => (*word).to_owned(),
        TokenError::NotSent(_) => "not_reached".to_owned(),
        TokenError::TurnedAway { status, .. }
        | TokenError::Unknown(Unknown::Status { status, .. }) => format!("http_{status}"),
        TokenError::Unknown(Unknown::TimedOut) => "timeout".to_owned(),
        TokenError::Unknown(Unknown::Broken(_)) => "connection_broke".to_owned(),
        TokenError::Unknown(Unknown::Garbled) => "garbled_answer".to_owned(),
    }
}
