//! OAuth 2.0 as a client (RFC 6749): the authorization URL, token requests and what their answers mean, revocation
//! (RFC 7009), and whose token it is. Spending a refresh token is not here: only token-refresher does that.

mod identity;
mod response;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue};
use reqwest::{Client, RequestBuilder};
use url::Url;
use zeroize::Zeroizing;

pub use self::identity::{ID_MAX_BYTES, Identity, IdentityError, identify, identify_patiently};
pub use self::response::{TokenBody, TokenError, TokenResponse, Tokens, Unknown};
use crate::crypto::pkce_challenge;
use crate::provider::{App, ClientAuth};
use crate::secret::Secret;

/// Token responses and identities are a few KiB. The limit holds for the body as received, and again unpacked.
const RESPONSE_MAX_BYTES: usize = 256 * 1024;

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
    let response = ask(client, app, &app.provider.token_url, form).await?;
    response.interpret(&app.provider)
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
    ask(client, app, url, form).await?.accepted()
}

/// Asks once more, with the app's second secret, if the provider doesn't know us by the first: a client is authenticated
/// before its code or token is looked at (RFC 6749 §5.2), so that neither is spent by then.
async fn ask(
    client: &Client,
    app: &App,
    url: &Url,
    form: Vec<(&str, &str)>,
) -> Result<TokenResponse, TokenError> {
    let request = token_request(client, app, &app.client_secret, url, form.clone());
    let response = TokenResponse::to(request).await?;
    match &app.second_client_secret {
        Some(second) if response.refuses_secret() => {
            TokenResponse::to(token_request(client, app, second, url, form)).await
        }
        _ => Ok(response),
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
