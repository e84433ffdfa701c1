//! From an authorization code to a row: exchange, identify, store. Its own task: a browser that goes away changes nothing.

use std::time::Duration;

use actix_web::http::StatusCode;
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{AccountName, Connection, ConnectionId, ConnectionState};
use pipekeeper_core::granted::{Consent, PlainGrant};
use pipekeeper_core::oauth::{self, ID_MAX_BYTES, Identity, IdentityError, TokenError, Tokens};
use pipekeeper_core::placement::{
    self, Arrival, DefaultReason, Owner, Placement, Refusal, RefusedTokens, Removal, Rows,
    default_reason,
};
use pipekeeper_core::provider::{ApiDomain, App};
use pipekeeper_core::random;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{NewDefault, PlacedConsent, PlacedRow, RemovedRow, StoreError};
use pipekeeper_service::problem::{Code, Problem};
use pipekeeper_service::record;
use serde::{Deserialize, Serialize};

use crate::AuthCapture;
use crate::login::Origin;

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
    /// The id of its callback.
    pub(crate) callback: String,
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
    let identity = match identify(service, app, &api_domain, &tokens).await {
        Ok(identity) => identity,
        Err(error) => {
            if matches!(error, IdentityError::IdTooLong(_)) {
                // No row can hold such an id.
                revoke(service, app, &refresh_token, None).await;
            }
            return Err(unidentified(error));
        }
    };
    let arrived = Arrived {
        at,
        tokens,
        refresh_token,
        api_domain,
        identity,
        origin: grant.origin,
        callback: grant.callback,
    };

    let give_up = grant.received_at + service.login.store_patience;
    let stored = patiently(service, give_up, "new tokens", || async {
        store(service, app, &arrived).await
    });
    match stored.await {
        Ok(Stored::Connected(id)) => {
            // The write is not tried again for the sake of this read.
            let read = patiently(service, give_up, "the page of a new connection", || async {
                connected(service, app, &id).await
            });
            let connected = read.await?.ok_or_else(|| {
                Problem::new(
                    Code::LoginInvalid,
                    "The connection was removed as soon as it was made; start again.",
                )
            })?;
            record(&id, connected.generation);
            tracing::info!(connection.id = %id, generation = connected.generation, "connected");
            Ok(connected)
        }
        Ok(Stored::Refused { problem, revokes }) => {
            if revokes {
                revoke_refused(service, app, &arrived).await;
            }
            Err(problem)
        }
        Err(error) if error.is_unavailable() => Err(error.into()),
        Err(error) => {
            revoke_refused(service, app, &arrived).await;
            Err(Problem::new(
                Code::Internal,
                "The database refuses to store this connection: nothing was connected. The operator finds the reason in the log.",
            )
            .caused_by(error))
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
    /// The id of its callback.
    callback: String,
}

enum Stored {
    Connected(ConnectionId),
    Refused { problem: Problem, revokes: bool },
}

/// One try: writes the row that the consent may write, if there is one. What an earlier try has written, although its response
/// got lost, is not written again: a refresh may have replaced these tokens since.
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
            revokes: true,
        });
    };
    loop {
        let of_person = rows
            .connection_find_by_grant(&key, &identity.company_id, &identity.user_id)
            .await?;
        let of_account = rows
            .connection_find_by_owner(&key, &named.0, &named.1)
            .await?;
        let found = Rows {
            of_person: of_person.as_ref(),
            of_account: of_account.as_ref(),
        };
        let own_write = found
            .of_person
            .filter(|row| row.authorized_at == arrived.at);
        let target = match placement::decide(identity, arrival, found) {
            Placement::Insert => Target {
                row: None,
                filed_under: named.clone(),
                removes: None,
                refusal: None,
            },
            Placement::Update {
                row,
                owner,
                removes,
            } => Target {
                row: Some(row),
                filed_under: match owner {
                    Owner::Unchanged => (row.account_id.clone(), row.owner.clone()),
                    Owner::Named => named.clone(),
                },
                removes,
                refusal: None,
            },
            // Only an import leaves an active row as it is.
            Placement::Keep(row) => return Ok(Stored::Connected(row.id.clone())),
            Placement::Refuse {
                refusal,
                tokens: RefusedTokens::StoreIn(row),
            } => Target {
                row: Some(row),
                filed_under: (row.account_id.clone(), row.owner.clone()),
                removes: None,
                refusal: Some(refusal),
            },
            Placement::Refuse { refusal, tokens } => {
                return Ok(Stored::Refused {
                    problem: refused(refusal),
                    revokes: tokens == RefusedTokens::Revoke && own_write.is_none(),
                });
            }
        };
        let written = match own_write {
            Some(row) => Ok(Some(row.id.clone())),
            None => write(service, app, arrived, arrival, &target).await,
        };
        match written {
            Ok(Some(id)) => {
                return Ok(match target.refusal {
                    Some(refusal) => Stored::Refused {
                        problem: refused(refusal),
                        revokes: false,
                    },
                    None => Stored::Connected(id),
                });
            }
            // Another process wrote meanwhile: the rows are looked at again.
            Ok(None) | Err(StoreError::Duplicate) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The row that a consent may write; none: a new one.
struct Target<'a> {
    row: Option<&'a Connection>,
    filed_under: (AccountName, AccountName),
    removes: Option<Removal<'a>>,
    /// The consent is refused: only its tokens are stored.
    refusal: Option<Refusal<'a>>,
}

/// Writes the row, if it is still as it was seen.
async fn write(
    service: &AuthCapture,
    app: &App,
    arrived: &Arrived,
    arrival: Arrival,
    target: &Target<'_>,
) -> Result<Option<ConnectionId>, StoreError> {
    let Target {
        row,
        filed_under,
        removes,
        refusal,
    } = target;
    let key = app.app_key();
    let id = row.map_or_else(ConnectionId::generate, |row| row.id.clone());
    let consent = consent(service, &id, *row, filed_under, app, arrived);
    let placed = PlacedConsent {
        id: &id,
        row: match row {
            Some(row) => PlacedRow::Existing {
                generation: row.generation,
            },
            None => PlacedRow::New(&key),
        },
        consent: &consent,
        removes: removes.map(|removal| RemovedRow {
            id: &removal.row.id,
            generation: removal.row.generation,
            default_follows: removal.default_follows,
        }),
        defaults: &[],
        callback: Some(&arrived.callback),
    };
    let written = if refusal.is_some() {
        let now = service.context.clock.now();
        service.context.store.consent_place(&placed, now).await?
    } else {
        place_with_defaults(service, app, placed, arrival).await?
    };
    if !written {
        return Ok(None);
    }
    let changed = [*row, removes.map(|removal| removal.row)];
    log_gone_defaults(service, changed.into_iter().flatten(), &id).await;
    Ok(Some(id))
}

/// Logs of which apps and accounts a row was the default connection, and is it no more since this consent was stored.
async fn log_gone_defaults(
    service: &AuthCapture,
    changed: impl Iterator<Item = &Connection>,
    id: &ConnectionId,
) {
    let store = &service.context.store;
    let changed: Vec<_> = changed.collect();
    let ids: Vec<_> = changed.iter().map(|row| &row.id).collect();
    let read = async {
        Ok((
            store.connection_find(id).await?,
            store.defaults_of(&ids).await?,
        ))
    };
    let (stored, defaults) = match read.await {
        Ok(read) => read,
        Err(error) => {
            let error: StoreError = error;
            tracing::debug!(
                "the default connections can't be read: {:#}",
                anyhow::Error::from(error)
            );
            return;
        }
    };
    for default in defaults {
        let was = changed.iter().any(|row| default.is(row));
        let is = stored.as_ref().is_some_and(|row| default.is(row));
        if was && !is {
            let callers = if default.account_id.is_empty() {
                "callers that name only its app"
            } else {
                "callers that name only its account"
            };
            tracing::warn!(
                connection.id = %default.connection_id,
                account_id = default.account_id,
                "the default connection was given to another account, company or user: {callers} get 404. \
                 `token-refresher connections default ID` chooses another"
            );
        }
    }
}

/// The connection as it is shown, if it is still there.
async fn connected(
    service: &AuthCapture,
    app: &App,
    id: &ConnectionId,
) -> Result<Option<Connected>, StoreError> {
    let store = &service.context.store;
    let default = store.default_connection(&app.app_key(), None).await?;
    let row = store.connection_find(id).await?;
    Ok(row.map(|row| {
        let is_default = default.is_some_and(|(default, _)| default.is(&row));
        Connected::of(&row, is_default)
    }))
}

/// Writes the consent's row, and makes it the default connection of its app and account where that is its due.
async fn place_with_defaults(
    service: &AuthCapture,
    app: &App,
    placed: PlacedConsent<'_>,
    arrival: Arrival,
) -> Result<bool, StoreError> {
    let store = &service.context.store;
    let key = app.app_key();
    let PlacedConsent { id, consent, .. } = placed;
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
        defaults: &defaults,
        ..placed
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

/// Ends a grant that could not be stored, unless a row of the same person holds one: the provider ends both together.
async fn revoke_refused(service: &AuthCapture, app: &App, arrived: &Arrived) {
    revoke(
        service,
        app,
        &arrived.refresh_token,
        Some(&arrived.identity),
    )
    .await;
}

/// The pauses before further attempts at a revocation.
const REVOKE_PAUSES: [Duration; 3] = [
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// Ends a grant at the provider. What fails for the transport's sake is tried again; each time the person's row is looked at
/// first, as another process may have stored a consent of the same person meanwhile.
async fn revoke(
    service: &AuthCapture,
    app: &App,
    refresh_token: &Secret,
    identity: Option<&Identity>,
) {
    let mut pauses = REVOKE_PAUSES.into_iter();
    loop {
        let (error, may_pass) = match try_revoke(service, app, refresh_token, identity).await {
            Ok(Revoked::Yes) => {
                tracing::info!("a consent without a connection was revoked at the provider");
                return;
            }
            Ok(Revoked::Held) => {
                tracing::info!("a consent was not revoked: another connection holds this grant");
                return;
            }
            Err(error) => error,
        };
        let Some(pause) = pauses.next().filter(|_| may_pass) else {
            tracing::warn!(
                "a consent without a connection could not be revoked at the provider: {error:#}"
            );
            return;
        };
        tokio::time::sleep(pause).await;
    }
}

enum Revoked {
    Yes,
    /// A row of the same person holds a grant.
    Held,
}

/// One attempt; an error comes with whether another attempt may succeed.
async fn try_revoke(
    service: &AuthCapture,
    app: &App,
    refresh_token: &Secret,
    identity: Option<&Identity>,
) -> Result<Revoked, (anyhow::Error, bool)> {
    if let Some(Identity {
        company_id,
        user_id,
        ..
    }) = identity
    {
        let found = service
            .context
            .store
            .connection_find_by_grant(&app.app_key(), company_id, user_id)
            .await
            .map_err(|error| {
                let may_pass = error.is_unavailable();
                (error.into(), may_pass)
            })?;
        if found.as_ref().is_some_and(placement::holds_grant) {
            return Ok(Revoked::Held);
        }
    }
    match oauth::revoke(&service.client, app, refresh_token).await {
        Ok(()) => Ok(Revoked::Yes),
        Err(error) => {
            let may_pass = match &error {
                TokenError::NotSent(_) | TokenError::TurnedAway { .. } | TokenError::Unknown(_) => {
                    true
                }
                TokenError::InvalidGrant | TokenError::ClientRefused(_) => false,
            };
            Err((error.into(), may_pass))
        }
    }
}

/// The account and owner that the consent is for.
fn account_and_owner(arrived: &Arrived) -> Option<(AccountName, AccountName)> {
    match &arrived.origin {
        Origin::Login { account_id, owner } => Some((account_id.clone(), owner.clone())),
        Origin::Install => Some((
            AccountName::marketplace(&arrived.identity.company_id).ok()?,
            AccountName::marketplace(&arrived.identity.user_id).ok()?,
        )),
    }
}

fn consent(
    service: &AuthCapture,
    id: &ConnectionId,
    renewed: Option<&Connection>,
    names: &(AccountName, AccountName),
    app: &App,
    arrived: &Arrived,
) -> Consent {
    let granted = PlainGrant {
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
) -> Result<Identity, IdentityError> {
    oauth::identify_patiently(
        &service.client,
        &app.provider,
        api_domain,
        &tokens.access_token,
        IDENTITY_TRIES,
        |error| error.may_pass() || error.is_refusal(),
    )
    .await
}

fn unidentified(error: IdentityError) -> Problem {
    let detail = match &error {
        IdentityError::UnusableId(whose) => {
            format!("Pipedrive's {whose} id can't be read: nothing was connected.")
        }
        IdentityError::IdTooLong(whose) => format!(
            "Pipedrive's {whose} id is longer than {ID_MAX_BYTES} bytes: nothing was connected."
        ),
        IdentityError::Transport(_) | IdentityError::Status { .. } | IdentityError::Garbled => {
            "Pipedrive did not say whose account this is; start again.".to_owned()
        }
    };
    Problem::new(Code::UpstreamError, detail)
        .retry_after(error.retry_after())
        .caused_by(error)
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
                .retry_after(error.retry_after())
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
            "This account is already connected as another user; disconnect it first.",
        ),
    }
}

/// Tries again while the database is away.
pub(crate) async fn patiently<T, F>(
    service: &AuthCapture,
    give_up: Duration,
    what: &str,
    attempt: impl Fn() -> F,
) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let clock = &service.context.clock;
    loop {
        match attempt().await {
            Err(error) if error.is_unavailable() && clock.monotonic() < give_up => {
                // The store logs the outage.
                tracing::debug!(
                    "holding {what} until the database is back: {:#}",
                    anyhow::Error::from(error)
                );
                let pause = random::between(Duration::from_millis(200), Duration::from_millis(600));
                tokio::time::sleep(pause).await;
            }
            done => return done,
        }
    }
}
