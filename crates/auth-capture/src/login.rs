//! The start of a login, and its end: a one-time `state` that only the browser which started can bring back (RFC 6749
//! §10.12, RFC 9700 §4.7.1).

use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::cookie::{Cookie, SameSite, time};
use pipekeeper_core::connection::KeeperName;
use pipekeeper_core::crypto::sha256_hex;
use pipekeeper_core::oauth::authorization_url;
use pipekeeper_core::provider::App;
use pipekeeper_core::random;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Login, NewLogin};
use pipekeeper_service::problem::{Code, Problem};
use url::Url;

use crate::AuthCapture;

/// How long a user has for giving consent.
const LOGIN_LIFE: Duration = Duration::from_mins(10);

/// A login that has begun: where the browser goes, and the cookie that it brings back.
pub(crate) struct Started {
    pub(crate) location: Url,
    pub(crate) cookie: Cookie<'static>,
}

/// Begins a login for a keeper, or for whoever consents.
pub(crate) async fn start(
    service: &AuthCapture,
    app: &App,
    keeper: Option<(KeeperName, KeeperName)>,
    request: &HttpRequest,
) -> Result<Started, Problem> {
    let now = service.context.clock.now();
    let state = random::token();
    let state_hash = sha256_hex(&state);
    let key = app.app_key();
    let verifier = app.provider.pkce.then(|| Secret::new(random::token()));
    // One value per browser, so that logins in two tabs don't end each other.
    let binding = binding_of(app, request).unwrap_or_else(random::token);
    let (account_id, owner) = keeper.unzip();
    let login = NewLogin {
        app: key.clone(),
        account_id,
        owner,
        verifier: verifier
            .as_ref()
            .map(|text| service.vault.seal_verifier(&state_hash, &key, text)),
        state_hash,
        binding_hash: sha256_hex(&binding),
        forward_url: None,
        expires_at: now.saturating_add(LOGIN_LIFE),
    };
    service.context.store.login_insert(&login, now).await?;
    Ok(Started {
        location: authorization_url(app, &state, verifier.as_ref()),
        cookie: binding_cookie(app, binding),
    })
}

/// Ends a login: known, unused, unexpired, and started by this browser.
pub(crate) async fn finish(
    service: &AuthCapture,
    state: &str,
    request: &HttpRequest,
) -> Result<Login, Problem> {
    let now = service.context.clock.now();
    let refused = || {
        Problem::new(
            Code::LoginInvalid,
            "This login was used, ran out, or was started in another browser; start again.",
        )
    };
    let login = service
        .context
        .store
        .login_consume(&sha256_hex(state), now)
        .await?
        .ok_or_else(refused)?;
    let app = service.app_of(&login).ok_or_else(refused)?;
    let binding = binding_of(app, request).ok_or_else(refused)?;
    if Secret::new(login.binding_hash.clone()).matches(sha256_hex(&binding).as_bytes()) {
        Ok(login)
    } else {
        Err(refused())
    }
}

fn is_https(app: &App) -> bool {
    app.redirect_url
        .as_ref()
        .is_some_and(|url| url.scheme() == "https")
}

/// `__Host-`: no subdomain and no plain-http page can have set it. Plain http is for this machine alone, see `config`.
fn cookie_name(app: &App) -> &'static str {
    if is_https(app) {
        "__Host-pipekeeper-login"
    } else {
        "pipekeeper-login"
    }
}

fn binding_of(app: &App, request: &HttpRequest) -> Option<String> {
    let cookie = request.cookie(cookie_name(app))?;
    (cookie.value().len() == 43).then(|| cookie.value().to_owned())
}

fn binding_cookie(app: &App, binding: String) -> Cookie<'static> {
    let life = i64::try_from(LOGIN_LIFE.as_secs()).unwrap_or(i64::MAX);
    Cookie::build(cookie_name(app), binding)
        .path("/")
        .http_only(true)
        .secure(is_https(app))
        .same_site(SameSite::Lax)
        .max_age(time::Duration::seconds(life))
        .finish()
}
