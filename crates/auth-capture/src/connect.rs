//! From an authorization code to a row: exchange, identify, store. Its own task: a browser that goes away changes nothing.

use std::time::Duration;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{ConnectionId, ConnectionState, KeeperName};
use pipekeeper_core::granted::Granted;
use pipekeeper_core::oauth::{self, ID_MAX_CHARS, Identity, IdentityError, TokenError, Tokens};
use pipekeeper_core::provider::{ApiDomain, App};
use pipekeeper_core::random;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Connection, Consent, NewConnection, StoreError};
use pipekeeper_service::problem::{Code, Problem};

use crate::AuthCapture;

/// A provider that has just issued a token may need a moment before it knows it everywhere.
const IDENTITY_TRIES: u32 = 3;

/// What a callback brings.
#[derive(Debug)]
pub(crate) struct Grant {
    pub(crate) code: Secret,
    pub(crate) verifier: Option<Secret>,
    /// `None`: an install that no login of ours named an account for.
    pub(crate) keeper: Option<(KeeperName, KeeperName)>,
}

/// Exchanges the code and stores what it gives. On an error the caller's own row is as it was.
pub(crate) async fn connect(
    service: &AuthCapture,
    app: &App,
    grant: Grant,
) -> Result<Connection, Problem> {
    let received_at = service.context.clock.monotonic();
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
        keeper: grant.keeper,
    };

    let give_up = received_at + service.login.store_patience;
    let mut told = false;
    loop {
        match store(service, app, &arrived).await {
            Ok(Stored::Row(row)) => return Ok(*row),
            Ok(Stored::Refused(problem)) => return Err(problem),
            Err(error) if error.is_unavailable() && service.context.clock.monotonic() < give_up => {
                if !told {
                    told = true;
                    tracing::warn!(
                        "holding new tokens until the database is back: {:#}",
                        anyhow::Error::from(error)
                    );
                }
                tokio::time::sleep(random::between(
                    Duration::from_millis(200),
                    Duration::from_millis(600),
                ))
                .await;
            }
            Err(error) => return Err(error.into()),
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
    keeper: Option<(KeeperName, KeeperName)>,
}

enum Stored {
    Row(Box<Connection>),
    Refused(Problem),
}

/// One try: which row is it, and is it this caller's to write?
async fn store(service: &AuthCapture, app: &App, arrived: &Arrived) -> Result<Stored, StoreError> {
    let key = app.app_key();
    let (rows, identity) = (&service.context.store, &arrived.identity);
    let Some((account_id, owner)) = keeper(arrived) else {
        return Ok(Stored::Refused(Problem::new(
            Code::UpstreamError,
            "The provider's user or company id is of no use as a name.",
        )));
    };
    loop {
        let held = rows
            .connection_find_by_grant(&key, &identity.company_id, &identity.user_id)
            .await?;
        let own = rows
            .connection_find_by_keeper(&key, &account_id, &owner)
            .await?;
        if let (Some(held), Some(own)) = (&held, &own)
            && let Some(ended) = in_the_way(held, own, arrived)
        {
            rows.connection_forget(&ended.id, ended.generation).await?;
            continue;
        }
        let target = match (held, own) {
            (None, None) => None,
            (None, Some(own)) if own.company_id == identity.company_id || is_over(&own) => {
                Some(own)
            }
            (None, Some(_)) => return Ok(Stored::Refused(different_company())),
            (Some(held), own) => match claim(&held, own.as_ref(), arrived) {
                Claim::Granted => Some(held),
                Claim::DifferentCompany => return Ok(Stored::Refused(different_company())),
                Claim::AlreadyConnected { keep_alive } => {
                    if keep_alive {
                        // The provider may have ended the older tokens with this consent: the holder gets the new ones.
                        let keeper = (held.account_id.clone(), held.owner.clone());
                        let consent =
                            consent(service, &held.id, Some(&held), &keeper, app, arrived);
                        let now = service.context.clock.now();
                        rows.connection_reconnect(&held.id, held.generation, &consent, now)
                            .await?;
                    }
                    return Ok(Stored::Refused(already_connected()));
                }
            },
        };
        let now = service.context.clock.now();
        let keeper = (account_id.clone(), owner.clone());
        let (id, written) = if let Some(row) = target {
            let consent = consent(service, &row.id, Some(&row), &keeper, app, arrived);
            let written = rows
                .connection_reconnect(&row.id, row.generation, &consent, now)
                .await;
            (row.id, written)
        } else {
            let id = ConnectionId::generate();
            let consent = consent(service, &id, None, &keeper, app, arrived);
            let new = NewConnection {
                id: id.clone(),
                app: key.clone(),
                consent,
            };
            let written = rows.connection_insert(&new, now).await;
            (id, written.map(|()| true))
        };
        match written {
            Ok(true) => {
                if let Some(row) = rows.connection_find(&id).await? {
                    return Ok(Stored::Row(Box::new(row)));
                }
            }
            // Somebody else wrote meanwhile: look again whose it is.
            Ok(false) | Err(StoreError::Duplicate) => {}
            Err(error) => return Err(error),
        }
    }
}

enum Claim {
    Granted,
    DifferentCompany,
    AlreadyConnected { keep_alive: bool },
}

/// Whether the one who came may write the row that holds this person's grant.
fn claim(held: &Connection, own: Option<&Connection>, arrived: &Arrived) -> Claim {
    if own.is_some_and(|own| own.id == held.id) {
        return Claim::Granted;
    }
    // A row that has ended holds no install, and one that came from the Marketplace waits to be adopted by a login. An
    // install that nobody vouches for touches no account's connection.
    let free = is_over(held) || (arrived.keeper.is_some() && held.account_id.is_marketplace());
    match own {
        None if free => Claim::Granted,
        // Its account is connected as somebody else: two rows can't become one.
        Some(_) if free => Claim::DifferentCompany,
        _ => Claim::AlreadyConnected {
            keep_alive: arrived.keeper.is_some(),
        },
    }
}

/// Of two rows that would have to become one, the one that is over.
fn in_the_way<'a>(
    held: &'a Connection,
    own: &'a Connection,
    arrived: &Arrived,
) -> Option<&'a Connection> {
    // One that is being handed back to where it came from still has its tokens.
    let is_gone = |row: &Connection| is_over(row) && row.refresh_token.is_wiped();
    let adopts = arrived.keeper.is_some() && held.account_id.is_marketplace();
    if held.id == own.id {
        None
    } else if is_gone(held) {
        Some(held)
    } else if adopts && is_gone(own) {
        Some(own)
    } else {
        None
    }
}

/// A row whose keeper is free to connect another company.
fn is_over(row: &Connection) -> bool {
    row.state == ConnectionState::Revoked
}

fn keeper(arrived: &Arrived) -> Option<(KeeperName, KeeperName)> {
    match &arrived.keeper {
        Some(keeper) => Some(keeper.clone()),
        None => Some((
            KeeperName::marketplace(&arrived.identity.company_id).ok()?,
            KeeperName::marketplace(&arrived.identity.user_id).ok()?,
        )),
    }
}

fn consent(
    service: &AuthCapture,
    id: &ConnectionId,
    renewed: Option<&Connection>,
    keeper: &(KeeperName, KeeperName),
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
    granted.sealed(&service.vault, app, id, keeper.clone())
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

fn different_company() -> Problem {
    Problem::new(
        Code::DifferentCompany,
        "This account is connected as somebody else already; disconnect it first.",
    )
}

fn already_connected() -> Problem {
    Problem::new(
        Code::AlreadyConnected,
        "Another account holds the connection of this Pipedrive user; disconnect it there first.",
    )
}
