//! `POST /webhook/pipedrive/refresh`: what n8n's refresh workflow answers to, without the tokens.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse, post};
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{Connection, ConnectionId, ConnectionState, HANDED_BACK};
use pipekeeper_core::refresher_client::{REFUSED_AFTER_RENEWAL, RefreshOutcome, Refreshed};
use pipekeeper_core::store::{Selection, Selector};
use pipekeeper_n8n::mirror::{Mirror, MirrorError, WereCurrent};
use pipekeeper_refresh::{Outcome, RefreshError, Trigger};
use pipekeeper_service::body;
use pipekeeper_service::connection_selector::{self, Target, select};
use pipekeeper_service::problem::{Code, Problem, ProblemBody};
use serde_json::json;
use utoipa::ToSchema;

use crate::TokenRefresher;

/// The body, JSON or form; numbers are taken as text.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(
    dead_code,
    reason = "a schema: the body is read leniently, as n8n does"
)]
struct RefreshBody {
    /// n8n's `AppId`: the OAuth client id. May be left out where one app is configured, or one of several is the default. Alone it means the app's default connection; an `accountId` without `owner` means the account's.
    app_id: Option<String>,
    platform: Option<String>,
    account_id: Option<String>,
    owner: Option<String>,
    /// One connection; an app, account or owner named beside it must be its own.
    connection_id: Option<String>,
    /// The generation of the token that failed. Without it, a token counts as newer if it was minted in the last `refresh.minted_recently_secs`, or up to 60 s where such calls follow each other.
    generation: Option<i64>,
    /// How long the caller waits.
    #[schema(rename = "deadline_ms")]
    deadline_ms: Option<u64>,
}

/// Sees to it that the connection has a newer token than the one that failed.
#[utoipa::path(
    tag = "webhook",
    description = "Also at /webhook/937a8843-a28a-400a-b473-bdc598366fa0. HTTP Basic.",
    request_body = RefreshBody,
    responses(
        (status = 200, description = "Refreshed, or already newer: n8n's row keys without the tokens"),
        (status = 401, description = "No credentials", body = ProblemBody),
        (status = 403, description = "Wrong credentials", body = ProblemBody),
        (status = 404, description = "No such connection", body = ProblemBody),
        (status = 409, description = "The connection has ended, or is ambiguous", body = ProblemBody),
        (status = 413, description = "More than 64 KiB", body = ProblemBody),
        (status = 422, description = "Not JSON or a form, or a field is invalid", body = ProblemBody),
        (status = 502, description = "The provider returned an invalid response, or refuses our client", body = ProblemBody),
        (status = 503, description = "Another process is refreshing it, its token was refused again right after a refresh, a row of n8n's table is not up to date, or the database is away or refuses the new tokens", body = ProblemBody),
        (status = 504, description = "The provider did not answer in time", body = ProblemBody),
    )
)]
#[post("/webhook/pipedrive/refresh")]
pub(crate) async fn refresh(
    request: HttpRequest,
    payload: Payload,
    service: Data<TokenRefresher>,
) -> Result<HttpResponse, Problem> {
    service.webhook.authenticator.authenticate(&request)?;
    let body = body::read(payload).await?;
    let fields = body::fields(&request, &body)?;
    let generation = fields.parse::<i64>("generation")?;
    let patience = fields
        .parse::<u64>("deadline_ms")?
        .map_or(
            service.refresher.timing().default_deadline,
            Duration::from_millis,
        )
        .min(Duration::from_mins(1));

    let selected = select(service.refresher.apps(), &fields)?;
    // A caller that names neither a connection nor a generation reads n8n's row, before and after.
    let mirror = match (&selected, generation) {
        (Target::Of { .. }, None) => service.mirror.as_deref(),
        _ => None,
    };
    let (id, is_default) = connection_of(&service, selected).await?;
    tracing::Span::current().record("connection.id", id.as_str());
    if let Some(mirror) = mirror
        && let Some(row) = newer_than_old_row(&service, mirror, &id, is_default).await?
    {
        pipekeeper_service::record(&row.id, row.generation);
        return Ok(HttpResponse::Ok().json(refreshed(RefreshOutcome::AlreadyNewer, &row)));
    }
    let outcome = service
        .refresher
        .refresh(&id, generation, Trigger::Webhook, patience)
        .await
        .map_err(|error| problem_of(error, service.refresher.now()))?;
    let (word, row) = match &outcome {
        Outcome::Refreshed(row) | Outcome::Replayed(row) => (RefreshOutcome::Refreshed, row),
        Outcome::AlreadyNewer(row)
        | Outcome::Adopted(row)
        | Outcome::Revoked(row)
        | Outcome::RevocationUnconfirmed(row) => (RefreshOutcome::AlreadyNewer, row),
    };
    pipekeeper_service::record(&row.id, row.generation);
    if let Some(mirror) = mirror {
        sync(mirror, &row.id, is_default).await?;
    }
    Ok(HttpResponse::Ok().json(refreshed(word, row)))
}

/// The connection, if the old row held an older token than it until now: that one has failed, not the connection's.
async fn newer_than_old_row(
    service: &TokenRefresher,
    mirror: &Mirror,
    id: &ConnectionId,
    is_default: bool,
) -> Result<Option<Connection>, Problem> {
    if sync(mirror, id, is_default).await? == WereCurrent::Yes {
        return Ok(None);
    }
    let row = service.refresher.store().connection_find(id).await?;
    let now = service.refresher.now();
    Ok(row.filter(|row| row.state == ConnectionState::Active && row.expires_at > now))
}

async fn sync(
    mirror: &Mirror,
    id: &ConnectionId,
    is_default: bool,
) -> Result<WereCurrent, Problem> {
    mirror
        .sync_connection(id, is_default)
        .await
        .map_err(|error| {
            let wait = match error {
                MirrorError::Conflict(_) | MirrorError::NoRow => 30,
                _ => 1,
            };
            Problem::new(
                Code::RefreshBusy,
                "A row of n8n's table does not hold the newest access token; /readyz says why.",
            )
            .with("reason", "old_table")
            .retry_after(Some(Duration::from_secs(wait)))
            .caused_by(error)
        })
}

/// The connection, and whether it is the default one of its app.
async fn connection_of(
    service: &TokenRefresher,
    selected: Target,
) -> Result<(ConnectionId, bool), Problem> {
    // The refresh reads the row.
    if let Target::Connection {
        id,
        app: None,
        account_id: None,
        owner: None,
    } = selected
    {
        return Ok((id, false));
    }
    let is_default = matches!(&selected, Target::Of { selector, .. } if *selector == Selector::App);
    match selected.find(service.refresher.store()).await? {
        Selection::One(row) => Ok((row.id, is_default)),
        Selection::None => Err(connection_selector::not_found()),
        Selection::Ambiguous => Err(connection_selector::ambiguous()),
        Selection::DefaultGone => Err(connection_selector::default_gone()),
    }
}

fn refreshed(outcome: RefreshOutcome, row: &Connection) -> Refreshed {
    Refreshed {
        success: true,
        outcome,
        id: row.id.to_string(),
        connection_id: row.id.to_string(),
        app_id: row.app_id.clone(),
        platform: row.platform.clone(),
        generation: row.generation,
        expires_at: row.expires_at,
        created_at: row.created_at,
        updated_at: row.updated_at,
    }
}

fn problem_of(error: RefreshError, now: Timestamp) -> Problem {
    let failed = |detail: String, retry_at: Timestamp, expires_at: Timestamp| {
        Problem::new(Code::RefreshFailed, detail)
            .with_time("retry_at", Some(retry_at))
            .with_time(
                "access_token_expires_at",
                (expires_at > now).then_some(expires_at),
            )
            .retry_after(Some(retry_at.saturating_since(now)))
    };
    match error {
        RefreshError::NotFound => connection_selector::not_found(),
        RefreshError::Ended { state, reason, since } => {
            let detail = match state {
                ConnectionState::Revoked if reason.as_deref() == Some(HANDED_BACK) => {
                    "This connection's tokens went back to the table that they came from; refresh them there."
                }
                ConnectionState::Revoked => "This connection was disconnected; connect it again.",
                ConnectionState::Active | ConnectionState::ReauthRequired => {
                    "Pipedrive no longer accepts the refresh token of this connection; connect it again."
                }
            };
            Problem::new(Code::TokenInvalidated, detail)
                .with_status(StatusCode::CONFLICT)
                .with("state", json!(state))
                .with("since", json!(since))
                .with("reason", json!(reason))
        }
        RefreshError::RefusedAfterRenewal { retry_at } => Problem::new(
            Code::RefreshBusy,
            "The access token was refreshed a moment ago and refused again. It is refreshed again no earlier than retry_at.",
        )
        .with("reason", REFUSED_AFTER_RENEWAL)
        .with_time("retry_at", Some(retry_at))
        .retry_after(Some(retry_at.saturating_since(now))),
        RefreshError::TryLater { retry_at, token_expires_at } => failed(
            "A refresh failed a moment ago; it is tried again at retry_at.".to_owned(),
            retry_at,
            token_expires_at,
        )
        .with_status(StatusCode::SERVICE_UNAVAILABLE),
        RefreshError::Busy => Problem::new(
            Code::RefreshBusy,
            "Another refresh of this connection is under way; ask again shortly.",
        )
        .retry_after(Some(Duration::from_secs(1))),
        RefreshError::ClientMisconfigured { word, retry_at, token_expires_at } => failed(
            format!("Pipedrive refuses our client ({word}): the operator has to check client_id and client_secret."),
            retry_at,
            token_expires_at,
        )
        .with("reason", "client_misconfigured"),
        RefreshError::NotSent { retry_at, token_expires_at } => failed(
            "Pipedrive's token endpoint can't be reached (not_reached); the connection is kept.".to_owned(),
            retry_at,
            token_expires_at,
        )
        .with("reason", "not_reached"),
        RefreshError::Provider { word, timed_out, retry_at, token_expires_at } => {
            let failed = failed(
                format!("Pipedrive's token endpoint returned an invalid response ({word}); the connection is kept."),
                retry_at,
                token_expires_at,
            )
            .with("reason", word);
            if timed_out { failed.with_status(StatusCode::GATEWAY_TIMEOUT) } else { failed }
        }
        RefreshError::Unstored { retry_at, token_expires_at } => Problem::new(
            Code::StoreUnavailable,
            "The database refuses to store the new tokens of this connection. They are kept, and it is asked again at retry_at; the operator finds the reason in the log.",
        )
        .with("reason", "commit_refused")
        .with_time("retry_at", Some(retry_at))
        .with_time(
            "access_token_expires_at",
            (token_expires_at > now).then_some(token_expires_at),
        )
        .retry_after(Some(retry_at.saturating_since(now))),
        RefreshError::UnknownApp => Problem::new(
            Code::RefreshFailed,
            "The app of this connection is not configured in token-refresher.",
        )
        .with("reason", "client_misconfigured"),
        RefreshError::Store(error) => {
            Problem::of_store(&error).caused_by(error)
        }
        RefreshError::Sealed(error) => error.into(),
    }
}
