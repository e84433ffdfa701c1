//! From an authorization code to a row: exchange, identify, store. Its own task: a browser that goes away changes nothing.

use std::time::Duration;

use actix_web::http::StatusCode;
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{ConnectionId, ConnectionState, KeeperName};
use pipekeeper_core::granted::Granted;
use pipekeeper_core::oauth::{self, ID_MAX_CHARS, Identity, IdentityError, TokenError, Tokens};
use pipekeeper_core::placement::{
    self, Arrival, DefaultReason, Owner, Placement, Refusal, RefusedTokens, Removal, Rows,
    default_reason,
};
use pipekeeper_core::provider::{ApiDomain, App};
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{
    Connection, Consent, NewDefault, PlacedConsent, PlacedRow, RemovedRow, StoreError,
};
use pipekeeper_service::problem::{Code, Problem};
use pipekeeper_service::record;
use serde::{Deserialize, Serialize};

use crate::AuthCapture;
use crate::consent::patiently;

/// A provider that has just issued a token may need a moment before it knows it everywhere.
const IDENTITY_TRIES: u32 = 3;

/// What a callback brings.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) code: Secret,
    pub(crate) verifier: Option<Secret>,
    pub(crate) origin: Origin,
    /// When it came, on the monotonic clock.
    pub(crate) received_at: Duration,
}

/// What led to a consent.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// A login in which an authenticated caller named the account and its owner.
    Login {
        account_id: KeeperName,
        owner: KeeperName,
    },
    /// Anything else. It is filed under the provider's ids.
    Install,
}

/// A consent that became a connection, as it is shown: no token, no lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Connected {
    pub(crate) id: String,
    #[serde(rename = "AppId")]
    app_id: String,
    #[serde(rename = "Platform")]
    platform: String,
    account_id: String,
    owner: String,
    company_id: String,
    pub(crate) company_name: String,
    pub(crate) company_domain: String,
    user_id: String,
    pub(crate) user_name: String,
    api_domain: String,
    scope: String,
    state: ConnectionState,
    generation: i64,
    expires_at: Timestamp,
    /// Callers that name only the app get it.
    pub(crate) default: bool,
}

impl Connected {
    fn of(row: &Connection, default: bool) -> Self {
        Self {
            id: row.id.to_string(),
            app_id: row.app_id.clone(),
            platform: row.platform.clone(),
            account_id: row.account_id.to_string(),
            owner: row.owner.to_string(),
            company_id: row.company_id.clone(),
            company_name: row.company_name.clone(),
            company_domain: row.company_domain.clone(),
            user_id: row.user_id.clone(),
            user_name: row.user_name.clone(),
            api_domain: row.api_domain.clone(),
            scope: row.scope.clone(),
            state: row.state,
            generation: row.generation,
            expires_at: row.expires_at,
            default,
        }
    }
}

/// Exchanges the code and stores what it gives. On an error the caller's own row is as it was.
pub(crate) async fn connect(
    service: &AuthCapture,
    app: &App,
    grant: Grant,
) -> Result<Connected, Problem> {
    let tokens = oauth::exchange_code(&service.client, app, &grant.code, grant.verifier.as_ref())
        .await
        .map_err(exchange_failed)?;
    let at = service.context.clock.now();
    let refresh_token = tokens.refresh_token.clone().ok_or_else(|| {
        Problem::new(Code::UpstreamError, "The provider gave no refresh token: the app's registration has to allow offline access.")
    })?;
    let api_domain = api_domain(app, &tokens)?;
    let identity = identify(service, app, &api_domain, &tokens).await?;
    let arrived = Arrived {
        at,
        tokens,
        refresh_token,
        api_domain,
        identity,
        origin: grant.origin,
    };

    let give_up = grant.received_at + service.login.store_patience;
    let stored = patiently(service, give_up, "new tokens", || async {
        store(service, app, &arrived).await
    });
    match stored.await? {
        Stored::Connected(row, default) => {
            record(&row.id, row.generation);
            tracing::info!(connection.id = %row.id, generation = row.generation, "connected");
            Ok(Connected::of(&row, default))
        }
        Stored::Refused { problem, revoke } => {
            if revoke {
                revoke_refused(service, app, &arrived).await;
            }
            Err(problem)
        }
    }
}

/// Everything that the provider said, before it has a row.
struct Arrived {
    /// When the tokens began to age, however long their storing takes.
    at: Timestamp,
    tokens: Tokens,
    refresh_token: Secret,
    api_domain: ApiDomain,
    identity: Identity,
    origin: Origin,
}

enum Stored {
    /// And whether it is the default connection of its app.
    Connected(Box<Connection>, bool),
    Refused {
        problem: Problem,
        revoke: bool,
    },
}

/// One try: writes the row that the consent may write, if there is one.
async fn store(service: &AuthCapture, app: &App, arrived: &Arrived) -> Result<Stored, StoreError> {
    let (key, rows) = (app.app_key(), &service.context.store);
    let identity = &arrived.identity;
    let arrival = match arrived.origin {
        Origin::Login { .. } => Arrival::Login,
        Origin::Install => Arrival::Install(service.login.companies.admission(identity)),
    };
    let Some(named) = account_and_owner(arrived) else {
        let problem = Problem::new(
            Code::UpstreamError,
            "The provider's user or company id can't be used as a name.",
        );
        return Ok(Stored::Refused {
            problem,
            revoke: false,
        });
    };
    loop {
        let of_person = rows
            .connection_find_by_grant(&key, &identity.company_id, &identity.user_id)
            .await?;
        let of_account = rows
            .connection_find_by_keeper(&key, &named.0, &named.1)
            .await?;
        let found = Rows {
            of_person: of_person.as_ref(),
            of_account: of_account.as_ref(),
        };
        let (id, written) = match placement::decide(identity, arrival, found) {
            Placement::Insert => {
                let id = ConnectionId::generate();
                let consent = consent(service, &id, None, &named, app, arrived);
                let place = PlacedRow::New(&key);
                let written = place_consent(service, app, &id, place, &consent, None, arrival);
                (id.clone(), written.await)
            }
            Placement::Update {
                row,
                owner,
                removes,
            } => {
                let filed_under = match owner {
                    Owner::Unchanged => (row.account_id.clone(), row.owner.clone()),
                    Owner::Named => named.clone(),
                };
                let consent = consent(service, &row.id, Some(row), &filed_under, app, arrived);
                let generation = row.generation;
                let place = PlacedRow::Existing { generation };
                let written =
                    place_consent(service, app, &row.id, place, &consent, removes, arrival);
                (row.id.clone(), written.await)
            }
            // Only an import leaves an active row as it is.
            Placement::Keep(row) => (row.id.clone(), Ok(true)),
            Placement::Refuse { refusal, tokens } => {
                if let RefusedTokens::StoreIn(row) = tokens {
                    let filed_under = (row.account_id.clone(), row.owner.clone());
                    let consent = consent(service, &row.id, Some(row), &filed_under, app, arrived);
                    let now = service.context.clock.now();
                    let stored = rows
                        .connection_reconnect(&row.id, row.generation, &consent, now)
                        .await?;
                    if !stored {
                        continue;
                    }
                }
                return Ok(Stored::Refused {
                    problem: refused(refusal),
                    revoke: tokens == RefusedTokens::Revoke,
                });
            }
        };
        match written {
            Ok(true) => {
                let default = rows.default_connection(&key, None).await?;
                if let Some(row) = rows.connection_find(&id).await? {
                    let is_default = default.is_some_and(|(default, _)| default.is(&row));
                    return Ok(Stored::Connected(Box::new(row), is_default));
                }
            }
            // Another process wrote meanwhile: the rows are looked at again.
            Ok(false) | Err(StoreError::Duplicate) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes the consent's row, and makes it the default connection of its app and account where that is its due.
async fn place_consent(
    service: &AuthCapture,
    app: &App,
    id: &ConnectionId,
    row: PlacedRow<'_>,
    consent: &Consent,
    removes: Option<Removal<'_>>,
    arrival: Arrival,
) -> Result<bool, StoreError> {
    let store = &service.context.store;
    let key = app.app_key();
    let mut defaults = Vec::new();
    for account in [None, Some(consent.account_id.clone())] {
        let beside = store
            .default_beside(&key, account.as_ref(), Some(id))
            .await?;
        if let Some(reason) = default_reason(arrival, beside) {
            defaults.push(NewDefault {
                app: key.clone(),
                account,
                reason,
            });
        }
    }
    let placed = PlacedConsent {
        id,
        row,
        consent,
        removes: removes.map(|removal| RemovedRow {
            id: &removal.row.id,
            generation: removal.row.generation,
            default_follows: removal.default_follows,
        }),
        defaults: &defaults,
    };
    let written = store
        .consent_place(&placed, service.context.clock.now())
        .await?;
    let by_strangers =
        |new: &NewDefault| new.account.is_none() && new.reason == DefaultReason::FirstInstall;
    if written && defaults.iter().any(by_strangers) {
        tracing::warn!(
            connection.id = %id,
            company.id = consent.company_id,
            app = app.key,
            "the first install became the default connection of its app: callers that name no account get this company's data. \
             `token-refresher connections default ID` chooses another; login.companies restricts who may install"
        );
    }
    Ok(written)
}

/// Nobody's row holds this grant: without this it would live on at the provider.
async fn revoke_refused(service: &AuthCapture, app: &App, arrived: &Arrived) {
    match oauth::revoke(&service.client, app, &arrived.refresh_token).await {
        Ok(()) => tracing::info!(
            company.id = arrived.identity.company_id,
            "the refused consent was revoked at the provider"
        ),
        Err(error) => tracing::warn!(
            company.id = arrived.identity.company_id,
            "the refused consent could not be revoked at the provider: {:#}",
            anyhow::Error::from(error)
        ),
    }
}

/// The account and owner that the consent is for.
fn account_and_owner(arrived: &Arrived) -> Option<(KeeperName, KeeperName)> {
    match &arrived.origin {
        Origin::Login { account_id, owner } => Some((account_id.clone(), owner.clone())),
        Origin::Install => Some((
            KeeperName::marketplace(&arrived.identity.company_id).ok()?,
            KeeperName::marketplace(&arrived.identity.user_id).ok()?,
        )),
    }
}

fn consent(
    service: &AuthCapture,
    id: &ConnectionId,
    renewed: Option<&Connection>,
    names: &(KeeperName, KeeperName),
    app: &App,
    arrived: &Arrived,
) -> Consent {
    let granted = Granted {
        identity: &arrived.identity,
        access_token: &arrived.tokens.access_token,
        refresh_token: &arrived.refresh_token,
        api_domain: &arrived.api_domain,
        scope: arrived.tokens.scope.as_deref().unwrap_or_default(),
        expires_at: arrived.at.saturating_add(arrived.tokens.expires_in),
        authorized_at: arrived.at,
        last_used_at: renewed.and_then(|row| row.last_used_at),
    };
    granted.sealed(&service.vault, app, id, names.clone())
}

fn api_domain(app: &App, tokens: &Tokens) -> Result<ApiDomain, Problem> {
    let nowhere = "The provider did not say where the company's API is.";
    match &tokens.api_domain {
        Some(text) => app.provider.api_domain(text).map_err(|error| {
            Problem::new(
                Code::UpstreamError,
                "The provider named an API host that is not its own.",
            )
            .caused_by(error)
        }),
        None => app
            .provider
            .default_api_domain()
            .cloned()
            .ok_or_else(|| Problem::new(Code::UpstreamError, nowhere)),
    }
}

async fn identify(
    service: &AuthCapture,
    app: &App,
    api_domain: &ApiDomain,
    tokens: &Tokens,
) -> Result<Identity, Problem> {
    oauth::identify_patiently(
        &service.client,
        &app.provider,
        api_domain,
        &tokens.access_token,
        IDENTITY_TRIES,
        |error| error.may_pass() || matches!(error, IdentityError::Status(401)),
    )
    .await
    .map_err(|error| {
        let detail = match &error {
            IdentityError::UnusableId(whose) => format!(
                "Pipedrive's {whose} id can't be read, or is longer than {ID_MAX_CHARS} characters: nothing was connected."
            ),
            IdentityError::Transport(_) | IdentityError::Status(_) | IdentityError::Garbled => {
                "Pipedrive did not say whose account this is; start again.".to_owned()
            }
        };
        Problem::new(Code::UpstreamError, detail).caused_by(error)
    })
}

fn exchange_failed(error: TokenError) -> Problem {
    match &error {
        TokenError::InvalidGrant => Problem::new(
            Code::LoginInvalid,
            "Pipedrive does not take this code: it was used, or is older than five minutes; start again.",
        ),
        TokenError::ClientRefused(word) => Problem::new(
            Code::UpstreamError,
            format!("Pipedrive refuses our client ({word}): the operator has to check client_id, client_secret and redirect_url."),
        )
        .with("reason", "client_misconfigured"),
        TokenError::NotSent(_) | TokenError::TurnedAway { .. } | TokenError::Unknown(_) => {
            Problem::new(Code::UpstreamError, "Pipedrive could not exchange the code; start again.")
        }
    }
    .caused_by(error)
}

fn refused(refusal: Refusal<'_>) -> Problem {
    match refusal {
        Refusal::AlreadyConnected => Problem::new(
            Code::AlreadyConnected,
            "Another account holds the connection of this Pipedrive user; disconnect it there first.",
        ),
        Refusal::CompanyNotAllowed => Problem::new(
            Code::DifferentCompany,
            "This company may not install the app here; ask the operator.",
        )
        .with_status(StatusCode::FORBIDDEN)
        .with("reason", "company_not_allowed"),
        // The rest are an import's.
        Refusal::DifferentCompany
        | Refusal::Ended(_)
        | Refusal::BeingHandedBack(_)
        | Refusal::AccountTaken(_) => Problem::new(
            Code::DifferentCompany,
            "This account is connected as somebody else already; disconnect it first.",
        ),
    }
}
