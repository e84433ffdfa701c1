//! The callback: what the provider says of a consent becomes a connection, once.
//!
//! An authorization code must not be exchanged twice (RFC 6749 §4.1.2): providers end the grant then. But browsers load a page
//! again, fetch it ahead, or ask twice at once. So the code is claimed in the database before it is exchanged; anyone who comes
//! with it again waits for the result and is told the same.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::web::{Data, Query};
use pipekeeper_core::crypto::sha256_hex;
use pipekeeper_core::provider::App;
use pipekeeper_core::random;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Callback, Claim, NewCallback};
use pipekeeper_service::problem::{Code, Problem, StoredProblem};
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;

use crate::AuthCapture;
use crate::connect::{Connected, Grant, connect, patiently};
use crate::login::{self, Origin, REPEATED_FOR, Returned};

/// How often a claimer shows that it is alive.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(1);

/// A claimer that has shown nothing for so long is dead: several heartbeats, for a machine that is busy.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// How often a waiting callback looks for the result.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long the result is tried to be stored.
const RESULT_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct CallbackQuery {
    code: Option<Secret>,
    state: Option<Secret>,
    error: Option<String>,
}

/// What the browser was told, for when it asks again.
#[derive(Serialize, Deserialize)]
enum Told {
    Connected(Box<Connected>),
    Refused(StoredProblem),
}

impl Told {
    fn of(outcome: &Result<Connected, Problem>) -> Self {
        match outcome {
            Ok(connected) => Self::Connected(Box::new(connected.clone())),
            Err(problem) => Self::Refused(problem.into()),
        }
    }

    fn again(self) -> Result<Connected, Problem> {
        match self {
            Self::Connected(connected) => Ok(*connected),
            Self::Refused(problem) => Err(problem.into()),
        }
    }
}

/// A code, and all that is known of it before it is exchanged.
struct Brought {
    code: Secret,
    /// Of its login, if one of ours began it.
    state_hash: Option<String>,
    app: Arc<App>,
    verifier: Option<Secret>,
    origin: Origin,
    has_expired: bool,
}

/// Takes the provider's word.
pub(crate) async fn take(
    request: &HttpRequest,
    service: &Data<AuthCapture>,
    provider: &str,
    app: Option<&str>,
) -> Result<Connected, Problem> {
    let query = Query::<CallbackQuery>::from_query(request.query_string())
        .map_err(|_unusable| {
            Problem::new(
                Code::LoginInvalid,
                "The callback's query is unusable; start again.",
            )
        })?
        .into_inner();
    let login = match query.state.as_ref().filter(|state| !state.is_empty()) {
        Some(state) => login::returned(service, state.expose(), request).await,
        None => Ok(None),
    };
    // A refusal is told as what it is, whatever the state. An empty `error` is none.
    if let Some(error) = query.error.as_deref().filter(|error| !error.is_empty()) {
        if let Ok(Some(login)) = &login
            && !login.has_expired
        {
            end(service, login, request).await?;
        }
        return Err(declined(error));
    }
    let login = login?;
    let code = query.code.filter(|code| !code.is_empty()).ok_or_else(|| {
        Problem::new(
            Code::LoginInvalid,
            "Pipedrive sent no authorization code; start again.",
        )
    })?;
    let brought = match login {
        Some(login) => Brought {
            code,
            state_hash: Some(login.state_hash),
            app: login.app,
            verifier: login.verifier,
            origin: login.origin,
            has_expired: login.has_expired,
        },
        None => Brought {
            code,
            state_hash: None,
            app: Arc::clone(service.app(provider, app)?),
            verifier: None,
            origin: Origin::Install,
            has_expired: false,
        },
    };
    if matches!(brought.origin, Origin::Install) {
        if !service.login.allow_marketplace_installs {
            return Err(Problem::new(
                Code::LoginInvalid,
                "Installs from Pipedrive's Marketplace are switched off here; start a login.",
            ));
        }
        service.installs.count(request)?;
    }
    exchange_once(service, brought).await
}

/// A declined login is over: its state is as good as used.
async fn end(
    service: &AuthCapture,
    login: &Returned,
    request: &HttpRequest,
) -> Result<(), Problem> {
    let _turn = match login.origin {
        Origin::Login { .. } => None,
        Origin::Install => {
            service.installs.count(request)?;
            Some(service.installs.turn().await?)
        }
    };
    let claim = NewCallback {
        id: login.state_hash.clone(),
        state_hash: Some(login.state_hash.clone()),
        claimer: random::token(),
    };
    let now = service.context.clock.now();
    if let Err(error) = service.context.store.callback_claim(&claim, now).await {
        tracing::debug!(
            "a declined login was not ended: {:#}",
            anyhow::Error::from(error)
        );
    }
    Ok(())
}

/// Claims the code and exchanges it; or waits for who has claimed it.
async fn exchange_once(
    service: &Data<AuthCapture>,
    brought: Brought,
) -> Result<Connected, Problem> {
    let store = &service.context.store;
    let received_at = service.context.clock.monotonic();
    let claim = NewCallback {
        id: sha256_hex(brought.code.expose()),
        state_hash: brought.state_hash.clone(),
        claimer: random::token(),
    };
    // What has a result needs no turn.
    match store.callback_find(&claim.id).await {
        Ok(Some(seen)) => return result_of(service, seen, &claim).await,
        Ok(None) => {}
        // The claim below waits until the database is back.
        Err(error) if error.is_unavailable() => {}
        Err(error) => return Err(error.into()),
    }
    if brought.has_expired {
        return Err(login::refused());
    }
    let turn = match brought.origin {
        Origin::Login { .. } => None,
        Origin::Install => Some(service.installs.turn().await?),
    };
    let give_up = received_at + service.login.store_patience;
    let claimed = patiently(service, give_up, "a callback", || async {
        let now = service.context.clock.now();
        store.callback_claim(&claim, now).await
    });
    match claimed.await? {
        Claim::PlainGrant => {}
        Claim::Taken(seen) => {
            drop(turn);
            return result_of(service, *seen, &claim).await;
        }
        Claim::StateUsed => return Err(login::refused()),
    }
    let tasks = service.context.tasks.clone();
    let service = Data::clone(service);
    let exchanging = async move {
        // Kept to the end, also when the browser goes away before it.
        let _turn = turn;
        let grant = Grant {
            code: brought.code,
            verifier: brought.verifier,
            origin: brought.origin,
            received_at,
            callback: claim.id.clone(),
        };
        let outcome = tokio::select! {
            outcome = connect(&service, &brought.app, grant) => outcome,
            never = heartbeats(&service, &claim) => match never {},
        };
        finish(&service, &claim, &outcome).await;
        outcome
    };
    tasks
        .spawn(exchanging.instrument(tracing::Span::current()))
        .await
        .map_err(|error| {
            Problem::new(Code::Internal, "The login failed here; start again.").caused_by(error)
        })?
}

/// While the database is away it counts nothing, and no replica can read it.
async fn heartbeats(service: &AuthCapture, claim: &NewCallback) -> Infallible {
    loop {
        tokio::time::sleep(HEARTBEAT_EVERY).await;
        let counted = service.context.store.callback_heartbeat(claim).await;
        if let Err(error) = counted {
            tracing::debug!("no heartbeat: {:#}", anyhow::Error::from(error));
        }
    }
}

/// Stores the result. Without it a callback that comes again is told to start again.
async fn finish(service: &AuthCapture, claim: &NewCallback, outcome: &Result<Connected, Problem>) {
    let told = serde_json::to_vec(&Told::of(outcome)).unwrap_or_default();
    let sealed = service.vault.seal_result(&claim.id, &told);
    let give_up = service.context.clock.monotonic() + RESULT_PATIENCE;
    let stored = patiently(service, give_up, "a callback's result", || async {
        let now = service.context.clock.now();
        let store = &service.context.store;
        store.callback_finish(claim, &sealed, now).await
    });
    match stored.await {
        // The store logs the outage.
        Err(error) if error.is_unavailable() => {
            tracing::debug!("a callback's result was not stored");
        }
        Err(error) => tracing::warn!(
            "a callback's result was not stored: {:#}",
            anyhow::Error::from(error)
        ),
        Ok(_) => {}
    }
}

/// What became of a code that was claimed before.
async fn result_of(
    service: &AuthCapture,
    mut seen: Callback,
    own: &NewCallback,
) -> Result<Connected, Problem> {
    // The result belongs to the browser of its login; without a state of ours, to any caller that has the code.
    if seen.state_hash != own.state_hash {
        return Err(login::refused());
    }
    let clock = &service.context.clock;
    let mut alive_at = clock.monotonic();
    loop {
        if let Some(finished_at) = seen.finished_at {
            let is_recent = clock.now().saturating_since(finished_at) < REPEATED_FOR;
            let told = match seen.result.as_ref().filter(|_| is_recent) {
                Some(sealed) => {
                    let told = service.vault.result(&seen.id, sealed)?;
                    serde_json::from_slice::<Told>(&told).ok()
                }
                None => None,
            };
            return told.map_or_else(|| Err(used()), Told::again);
        }
        if clock.monotonic().saturating_sub(alive_at) > SILENT_FOR {
            if seen.tokens_stored {
                return Err(used());
            }
            return Err(Problem::new(
                Code::LoginInvalid,
                "This login was interrupted; start again.",
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let found = service.context.store.callback_find(&seen.id).await?;
        let found = found.ok_or_else(used)?;
        if found.heartbeats != seen.heartbeats {
            alive_at = clock.monotonic();
        }
        seen = found;
    }
}

fn used() -> Problem {
    Problem::new(
        Code::LoginInvalid,
        "Pipedrive's code was used already; start again if the account is not connected.",
    )
}

/// What the provider sends back in place of a code (RFC 6749 §4.1.2.1; Pipedrive's own word is `user_denied`).
fn declined(error: &str) -> Problem {
    let word = match error {
        "invalid_request" => "invalid_request",
        "unauthorized_client" => "unauthorized_client",
        "unsupported_response_type" => "unsupported_response_type",
        "invalid_scope" => "invalid_scope",
        "server_error" => "server_error",
        "temporarily_unavailable" => "temporarily_unavailable",
        _ => {
            return Problem::new(
                Code::ConsentDeclined,
                "The installation was cancelled at Pipedrive; nothing was connected.",
            );
        }
    };
    Problem::new(
        Code::ConsentDeclined,
        format!("Pipedrive ended the installation ({word}); nothing was connected."),
    )
    .with("reason", word)
}
