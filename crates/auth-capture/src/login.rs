//! The start of a login, and its return: a one-time `state` that only the browser which started can bring back (RFC 6749
//! §10.12, RFC 9700 §4.7.1).
//!
//! A login in which an authenticated caller names the account is a row. One that anyone can start writes nothing: what would
//! be in the row is sealed into the state itself. The state of a row is sealed, too: it is looked up only if it is one of ours,
//! so that invented states cost no query. All states of ours have a prefix, so that one that is no good any more is told from
//! the state of a team's own install link. That each is good for one callback is checked by `consent`.

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::cookie::{Cookie, SameSite, time};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::AccountName;
use pipekeeper_core::crypto::sha256_hex;
use pipekeeper_core::oauth::authorization_url;
use pipekeeper_core::provider::{App, AppChoice};
use pipekeeper_core::random;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::NewLogin;
use pipekeeper_service::problem::{Code, Problem};
use url::Url;

use crate::AuthCapture;

/// Every state of ours begins so.
const PREFIX: &str = "pipekeeper.";

/// That of a login in the database.
const STORED: &str = "pipekeeper.login.";

/// That of a login that is nowhere else.
const SEALED: &str = "pipekeeper.sealed.";

/// How long a callback that comes again is told the same.
pub(crate) const REPEATED_FOR: Duration = Duration::from_mins(10);

/// What led to a consent.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// A login in which an authenticated caller named the account and its owner.
    Login {
        account_id: AccountName,
        owner: AccountName,
    },
    /// Anything else. It is filed under the provider's ids.
    Install,
}

/// How long a user has for giving consent.
const LOGIN_LIFE: Duration = Duration::from_mins(10);

/// A login that has begun: where the browser goes, and the cookie that it brings back.
pub(crate) struct Started {
    pub(crate) location: Url,
    pub(crate) cookie: Cookie<'static>,
}

/// Begins a login of this origin.
pub(crate) async fn start(
    service: &AuthCapture,
    app: &App,
    origin: Origin,
    request: &HttpRequest,
) -> Result<Started, Problem> {
    let now = service.context.clock.now();
    let expires_at = now.saturating_add(LOGIN_LIFE);
    // One value per browser, so that logins in two tabs don't end each other.
    let binding = binding_of(app, request).unwrap_or_else(random::token);
    let binding_hash = sha256_hex(&binding);
    let (state, verifier) = match origin {
        Origin::Login { account_id, owner } => {
            let state = sealed(service, STORED, &random::token());
            let state_hash = sha256_hex(&state);
            let key = app.app_key();
            let verifier = app.provider.pkce.then(|| Secret::new(random::token()));
            let login = NewLogin {
                app: key.clone(),
                account_id: Some(account_id),
                owner: Some(owner),
                verifier: verifier
                    .as_ref()
                    .map(|text| service.vault.seal_verifier(&state_hash, &key, text)),
                state_hash,
                binding_hash,
                forward_url: None,
                expires_at,
            };
            service.context.store.login_insert(&login, now).await?;
            (state, verifier)
        }
        Origin::Install => {
            let sealed = SealedState {
                expires_at,
                binding_hash,
                seed: random::token(),
                app: app.key.clone(),
            };
            (sealed.seal(service), sealed.verifier(app))
        }
    };
    Ok(Started {
        location: authorization_url(app, &state, verifier.as_ref()),
        cookie: binding_cookie(app, binding),
    })
}

/// A login that its browser has brought back.
#[derive(Debug)]
pub(crate) struct Returned {
    pub(crate) state_hash: String,
    pub(crate) app: Arc<App>,
    pub(crate) verifier: Option<Secret>,
    pub(crate) origin: Origin,
    pub(crate) has_expired: bool,
}

/// Why a login of ours is refused. None of the reasons is told: they are an attacker's to guess.
pub(crate) fn refused() -> Problem {
    Problem::new(
        Code::LoginInvalid,
        "This login was used, ran out, or was started in another browser; start again.",
    )
}

/// The login that this state began, if it is one of ours and this browser's. Changes nothing.
///
/// # Errors
/// A state with our prefix that is none of ours, or another browser's. It counts as an install.
pub(crate) async fn returned(
    service: &AuthCapture,
    state: &str,
    request: &HttpRequest,
) -> Result<Option<Returned>, Problem> {
    if !state.starts_with(PREFIX) {
        return Ok(None);
    }
    if let Some(login) = find(service, state, request).await? {
        return Ok(Some(login));
    }
    service.installs.count(request)?;
    Err(refused())
}

async fn find(
    service: &AuthCapture,
    state: &str,
    request: &HttpRequest,
) -> Result<Option<Returned>, Problem> {
    let now = service.context.clock.now();
    let state_hash = sha256_hex(state);
    let (login, binding_hash) = if let Some(sealed) = SealedState::open(service, state) {
        let Some(app) = service.apps.named(&sealed.app) else {
            return Ok(None);
        };
        let login = Returned {
            state_hash,
            app: Arc::clone(app),
            verifier: sealed.verifier(app),
            origin: Origin::Install,
            has_expired: sealed.expires_at <= now,
        };
        (login, sealed.binding_hash)
    } else {
        if opened(service, STORED, state).is_none() {
            return Ok(None);
        }
        let Some(stored) = service.context.store.login_find(&state_hash).await? else {
            return Ok(None);
        };
        let AppChoice::One(app) = service
            .apps
            .find(Some(&stored.app_id), Some(&stored.platform))
        else {
            return Ok(None);
        };
        let verifier = stored.verifier.as_ref();
        let verifier = verifier.map(|sealed| {
            service
                .vault
                .verifier(&stored.state_hash, &app.app_key(), sealed)
        });
        let verifier = verifier.transpose()?;
        let origin = match (stored.account_id, stored.owner) {
            (Some(account_id), Some(owner)) => Origin::Login { account_id, owner },
            _ => return Ok(None),
        };
        let login = Returned {
            state_hash,
            app: Arc::clone(app),
            verifier,
            origin,
            has_expired: stored.expires_at <= now,
        };
        (login, stored.binding_hash)
    };
    let is_bound = binding_of(&login.app, request)
        .is_some_and(|binding| Secret::new(binding_hash).matches(sha256_hex(&binding).as_bytes()));
    Ok(is_bound.then_some(login))
}

fn sealed(service: &AuthCapture, prefix: &str, text: &str) -> String {
    let sealed = service.vault.seal_state(text.as_bytes());
    format!("{prefix}{}", URL_SAFE_NO_PAD.encode(sealed))
}

fn opened(service: &AuthCapture, prefix: &str, state: &str) -> Option<String> {
    let sealed = URL_SAFE_NO_PAD.decode(state.strip_prefix(prefix)?).ok()?;
    let text = service.vault.state(&sealed).ok()?;
    String::from_utf8(text.to_vec()).ok()
}

/// What a state holds that has no row.
struct SealedState {
    expires_at: Timestamp,
    binding_hash: String,
    /// Random, and in no other state; only we see it.
    seed: String,
    /// Its key in the configuration.
    app: String,
}

impl SealedState {
    fn seal(&self, service: &AuthCapture) -> String {
        let Self {
            expires_at,
            binding_hash,
            seed,
            app,
        } = self;
        let text = format!("{} {binding_hash} {seed} {app}", expires_at.unix_micros());
        sealed(service, SEALED, &text)
    }

    fn open(service: &AuthCapture, state: &str) -> Option<Self> {
        let text = opened(service, SEALED, state)?;
        let mut parts = text.splitn(4, ' ');
        let mut next = || parts.next().map(str::to_owned);
        Some(Self {
            expires_at: Timestamp::from_unix_micros(next()?.parse().ok()?)?,
            binding_hash: next()?,
            seed: next()?,
            app: next()?,
        })
    }

    /// Derived, so that it needs no room of its own (RFC 7636 §4.1).
    fn verifier(&self, app: &App) -> Option<Secret> {
        let verifier = || Secret::new(sha256_hex(&format!("pkce {}", self.seed)));
        app.provider.pkce.then(verifier)
    }
}

fn is_https(app: &App) -> bool {
    app.redirect_url
        .as_ref()
        .is_some_and(|redirect| redirect.url().scheme() == "https")
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

/// It outlives the login: a callback that comes again is told the same again.
fn binding_cookie(app: &App, binding: String) -> Cookie<'static> {
    let life = LOGIN_LIFE + REPEATED_FOR;
    let life = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
    Cookie::build(cookie_name(app), binding)
        .path("/")
        .http_only(true)
        .secure(is_https(app))
        .same_site(SameSite::Lax)
        .max_age(time::Duration::seconds(life))
        .finish()
}
