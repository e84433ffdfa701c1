//! What `POST /_sim/settings` changes: the points on which Pipedrive's documents are silent, and its plans.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// The defaults are what Pipedrive documents or, where it is silent, the milder reading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What a refresh does to the refresh token.
    pub rotation: Rotation,
    /// Lifetime of access tokens, and the `expires_in` of the answer.
    pub access_ttl_secs: u64,
    /// Lifetime of authorization codes.
    pub code_ttl_secs: u64,
    /// What the second exchange of an authorization code does to the grant of the first.
    pub code_reuse: CodeReuse,
    /// A refresh token that is not used for so long dies.
    pub refresh_idle_secs: u64,
    /// Wait before a token request takes effect.
    pub token_delay_ms: u64,
    /// Wait before an API request takes effect.
    pub page_delay_ms: u64,
    /// What a refresh does to the access tokens that are out.
    pub old_access_token_after_refresh: OldAccessToken,
    /// What a second consent of the same user does to the tokens of the first.
    pub reinstall: Reinstall,
    /// Burst limits and the daily budget.
    pub plan: Plan,
    /// Seats of every company; the plan's daily budget is counted per seat.
    pub seats: u64,
    /// A company's daily budget in place of its plan's.
    pub budget_tokens: Option<u64>,
    /// Send the rate limit headers, where there are limits.
    pub rate_headers: bool,
    /// Answer `expires_in` as a string.
    pub expires_in_as_string: bool,
    /// How a 401 of the API reads.
    pub unauthorized_body: UnauthorizedBody,
    /// Status of `invalid_client`: 400 as documented, or 401 with `WWW-Authenticate`.
    pub invalid_client_status: InvalidClientStatus,
    /// The `error` that a declined consent sends back.
    pub decline_error: DeclineError,
    /// `api_domain` of token answers; null: the origin that the token request was sent to.
    pub api_domain: Option<String>,
    /// Scopes of new consents; null: the app's.
    pub scopes: Option<Vec<String>>,
    /// A search for an email also finds addresses that only contain it, even with `exact_match`.
    pub loose_email_match: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rotation: Rotation::Sticky,
            access_ttl_secs: 3599,
            code_ttl_secs: 300,
            code_reuse: CodeReuse::Refused,
            refresh_idle_secs: 60 * 24 * 60 * 60,
            token_delay_ms: 0,
            page_delay_ms: 0,
            old_access_token_after_refresh: OldAccessToken::Valid,
            reinstall: Reinstall::KeepsOldTokens,
            plan: Plan::Unlimited,
            seats: 1,
            budget_tokens: None,
            rate_headers: true,
            expires_in_as_string: false,
            unauthorized_body: UnauthorizedBody::Gateway,
            invalid_client_status: InvalidClientStatus::BadRequest,
            decline_error: DeclineError::UserDenied,
            api_domain: None,
            scopes: None,
            loose_email_match: true,
        }
    }
}

impl Settings {
    /// These settings with the named ones changed; the error names the invalid name or value.
    pub(crate) fn merged(&self, changes: Value) -> Result<Self, serde_json::Error> {
        let mut merged = serde_json::to_value(self)?;
        let changes: serde_json::Map<String, Value> = serde_json::from_value(changes)?;
        if let Value::Object(settings) = &mut merged {
            settings.extend(changes);
        }
        serde_json::from_value(merged)
    }
}

/// What a refresh does to the refresh token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rotation {
    /// The same one comes back, as Pipedrive documents.
    Sticky,
    /// A new one comes back; the old one is refused.
    SingleUse,
    /// A new one comes back; showing the old one again revokes the whole grant.
    SingleUseWithReuseDetection,
}

/// What the second exchange of an authorization code does to the grant of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CodeReuse {
    Refused,
    /// As RFC 6749 §4.1.2 advises.
    EndsGrant,
}

/// What a refresh does to the access tokens that are out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OldAccessToken {
    Valid,
    Dead,
}

/// What a second consent of the same user does to the tokens of the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reinstall {
    KeepsOldTokens,
    ReplacesTokens,
}

/// Pipedrive's plans, and one without limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    Lite,
    Growth,
    Premium,
    Ultimate,
    Unlimited,
}

/// How a 401 of the API reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UnauthorizedBody {
    /// What the gateway was seen to answer in 2026.
    Gateway,
    /// The sentence that n8n workflows look for.
    N8n,
    /// The shape that the older CRM integration looks for: `errorCode` is a string.
    Reference,
}

/// Status of `invalid_client`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum InvalidClientStatus {
    #[serde(rename = "400")]
    BadRequest,
    #[serde(rename = "401")]
    Unauthorized,
}

/// The `error` that a declined consent sends back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeclineError {
    /// As the documents say.
    UserDenied,
    /// As the Node SDK says.
    AccessDenied,
}

impl DeclineError {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::UserDenied => "user_denied",
            Self::AccessDenied => "access_denied",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_change_leaves_the_other_settings_alone() {
        let settings = Settings::default()
            .merged(json!({"rotation": "single_use", "budget_tokens": 40}))
            .unwrap();

        assert_eq!(settings.rotation, Rotation::SingleUse);
        assert_eq!(settings.budget_tokens, Some(40));
        assert_eq!(settings.access_ttl_secs, 3599);
        let settings = settings.merged(json!({"budget_tokens": null})).unwrap();
        assert_eq!(settings.budget_tokens, None);
    }

    #[test]
    fn unknown_names_and_values_are_refused() {
        let settings = Settings::default();

        assert!(settings.merged(json!({"rotatoin": "sticky"})).is_err());
        assert!(settings.merged(json!({"rotation": "often"})).is_err());
        assert!(settings.merged(json!(["sticky"])).is_err());
    }
}
