//! Whose token it is, as the provider says.

use std::time::Duration;

use reqwest::Client;
use reqwest::header::{ACCEPT, AUTHORIZATION};
use serde_json::Value;

use super::{RESPONSE_MAX_BYTES, bearer};
use crate::connection::{AccountName, MARKETPLACE_PREFIX};
use crate::http_client;
use crate::json;
use crate::provider::{ApiDomain, Provider};
use crate::random;
use crate::secret::Secret;

/// The longest id of a user or company. An install is filed under [`AccountName::marketplace`] of both.
pub const ID_MAX_BYTES: usize = AccountName::MAX_BYTES - MARKETPLACE_PREFIX.len();

/// Who a connection is upstream: what keeps a re-login from landing on another company's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub company_id: String,
    pub company_domain: String,
    pub company_name: String,
    pub user_id: String,
    pub user_name: String,
}

/// Why it is unknown whose token it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("the provider can't be asked whose token this is")]
    Transport(#[source] reqwest::Error),
    #[error("asked whose token this is, the provider answered with status {status}")]
    Status {
        status: u16,
        retry_after: Option<Duration>,
    },
    #[error("the provider's answer does not say whose token this is")]
    Garbled,
    /// Shortened or repaired it would be another one's.
    #[error("the provider's answer names a {0} id that can't be read")]
    UnusableId(&'static str),
    #[error("the provider's answer names a {0} id of more than {ID_MAX_BYTES} bytes")]
    IdTooLong(&'static str),
}

impl IdentityError {
    /// Whether the provider may answer otherwise a moment later.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Transport(_)
                | Self::Status {
                    status: 429 | 500..,
                    ..
                }
        )
    }

    /// Whether the provider refuses the access token.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Status { status: 401, .. })
    }

    /// How long the provider asks to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            Self::Transport(_) | Self::Garbled | Self::UnusableId(_) | Self::IdTooLong(_) => None,
        }
    }
}

/// A person waits meanwhile: after a longer wait they start again.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// The same as [`identify`], asked up to `tries` times, while the error is worth another try.
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
        let wait = match &asked {
            Err(error) if tries > 0 && is_worth_another(error) => error.retry_after(),
            _ => return asked,
        };
        if wait.is_some_and(|wait| wait > WAIT_MAX) {
            return asked;
        }
        let (least, most) = (Duration::from_millis(200), Duration::from_millis(500));
        tokio::time::sleep(random::between(least, most).max(wait.unwrap_or_default())).await;
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
        return Err(IdentityError::Status {
            status: response.status().as_u16(),
            retry_after: http_client::retry_after(response.headers()),
        });
    }
    let body = http_client::decoded_body(response, RESPONSE_MAX_BYTES)
        .await
        .map_err(|_cut| IdentityError::Garbled)?;
    identity_in(&json::read(&body), &provider.identity)
}

fn identity_in(body: &Value, names: &crate::provider::Identity) -> Result<Identity, IdentityError> {
    // A provider without companies says so by an empty pointer.
    let member = |pointer: &str| body.pointer(pointer).filter(|_| !pointer.is_empty());
    let name = |pointer: &str| match member(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    };
    let company_id = id(member(&names.company_id), "company")?;
    let user_id = id(member(&names.user_id), "user")?;
    // One that has companies must name this one.
    if user_id.is_empty() || (company_id.is_empty() && !names.company_id.is_empty()) {
        return Err(IdentityError::Garbled);
    }
    Ok(Identity {
        company_id,
        company_domain: name(&names.company_domain),
        company_name: name(&names.company_name),
        user_id,
        user_name: name(&names.user_name),
    })
}

/// An id as text; empty where there is none.
fn id(value: Option<&Value>, whose: &'static str) -> Result<String, IdentityError> {
    let text = match value {
        Some(Value::String(text)) if text.is_empty() => return Ok(String::new()),
        Some(Value::String(_)) => json::exact(value).map(str::to_owned),
        // A number that only a float holds has lost its last digits.
        Some(Value::Number(number)) => (!number.is_f64()).then(|| number.to_string()),
        _ => return Ok(String::new()),
    };
    let text = text
        .filter(|text| text.trim() == text)
        .ok_or(IdentityError::UnusableId(whose))?;
    if text.len() > ID_MAX_BYTES {
        return Err(IdentityError::IdTooLong(whose));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_id_is_taken_whole_or_not_at_all() {
        let longest = "7".repeat(ID_MAX_BYTES);
        assert!(AccountName::marketplace(&longest).is_ok());
        for (sent, taken) in [
            (json!(7), Some("7")),
            (json!(u64::MAX), Some("18446744073709551615")),
            (json!("u-1"), Some("u-1")),
            (json!(longest), Some(longest.as_str())),
            (json!(""), Some("")),
            (json!(null), Some("")),
            (json!([7]), Some("")),
            (json!(format!("{longest}x")), None),
            (json!("ü".repeat(ID_MAX_BYTES / 2 + 1)), None),
            (json!("7 "), None),
            (json!(18_446_744_073_709_551_616.0), None),
            (json!(7.5), None),
            (json!("u\u{0}"), None),
            (json!("u\n"), None),
            (json!("caf\u{FFFD}"), None),
        ] {
            let id = id(Some(&sent), "user").ok();
            assert_eq!(id.as_deref(), taken, "{sent}");
        }
    }
}
