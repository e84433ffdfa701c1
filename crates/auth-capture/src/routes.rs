//! Every URL of auth-capture: the callback, its DELETE, and the start of a login.

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{CACHE_CONTROL, LOCATION, REFERRER_POLICY};
use actix_web::web::{Data, Path, Payload, Query};
use actix_web::{HttpRequest, HttpResponse, delete, get};
use pipekeeper_core::connection::KeeperName;
use pipekeeper_core::provider::{App, AppChoice};
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::Connection;
use pipekeeper_service::accept::accepts_by_name;
use pipekeeper_service::body::{self, Fields, unusable};
use pipekeeper_service::caller;
use pipekeeper_service::problem::{Code, Problem, ProblemBody};
use pipekeeper_service::{record, trace};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument as _;

use crate::connect::{Grant, connect};
use crate::uninstall::{Uninstalled, uninstall};
use crate::{AuthCapture, login, page};

/// How long an install waits for others.
const MARKETPLACE_WAIT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct CallbackQuery {
    code: Option<Secret>,
    state: Option<Secret>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct LoginQuery {
    provider: Option<String>,
    app: Option<String>,
    account_id: Option<String>,
    owner: Option<String>,
}

/// Where the provider sends the user back (RFC 6749 §4.1.2).
#[utoipa::path(
    tag = "login",
    description = "Also at /webhook/aae545fb-a69d-4e20-91ce-65f105d0ea2f and /auth/callback. With `state` it ends a login; without, it is an install started from Pipedrive's Marketplace. Browsers get a page.",
    params(
        ("provider" = String, Path, description = "`pipedrive`"),
        ("code" = Option<String>, Query), ("state" = Option<String>, Query), ("error" = Option<String>, Query),
    ),
    responses(
        (status = 200, description = "Connected"),
        (status = 400, description = "Consent declined; or the code or the login is missing, used or expired", body = ProblemBody),
        (status = 409, description = "Another account holds this connection, or it is another company than before", body = ProblemBody),
        (status = 429, description = "Too many installs at once", body = ProblemBody),
        (status = 502, description = "The provider failed", body = ProblemBody),
        (status = 503, description = "The database stayed away", body = ProblemBody),
    )
)]
#[get("/webhook/{provider}/callback")]
pub(crate) async fn callback(
    request: HttpRequest,
    provider: Path<String>,
    service: Data<AuthCapture>,
) -> Result<HttpResponse, Problem> {
    answer_callback(&request, &service, &provider, None).await
}

/// The same for one of several apps of a provider.
#[utoipa::path(tag = "login", params(("provider" = String, Path), ("app" = String, Path)),
    responses((status = 200, description = "As the callback without an app")))]
#[get("/webhook/{provider}/callback/{app}")]
pub(crate) async fn app_callback(
    request: HttpRequest,
    path: Path<(String, String)>,
    service: Data<AuthCapture>,
) -> Result<HttpResponse, Problem> {
    answer_callback(&request, &service, &path.0, Some(&path.1)).await
}

/// Pipedrive's uninstall notice.
#[utoipa::path(
    tag = "login",
    description = "HTTP Basic with client id and secret; JSON `client_id`, `company_id`, `user_id`, `timestamp`.",
    params(("provider" = String, Path, description = "`pipedrive`")),
    responses(
        (status = 200, description = "Revoked; or nothing to revoke"),
        (status = 401, description = "Wrong client credentials", body = ProblemBody),
        (status = 422, description = "Not JSON", body = ProblemBody),
    )
)]
#[delete("/webhook/{provider}/callback")]
pub(crate) async fn uninstalled(
    request: HttpRequest,
    payload: Payload,
    service: Data<AuthCapture>,
) -> Result<HttpResponse, Problem> {
    answer_notice(&request, payload, &service).await
}

/// The same for one of several apps of a provider.
#[utoipa::path(tag = "login", params(("provider" = String, Path), ("app" = String, Path)),
    responses((status = 200, description = "As the notice without an app")))]
#[delete("/webhook/{provider}/callback/{app}")]
pub(crate) async fn app_uninstalled(
    request: HttpRequest,
    payload: Payload,
    service: Data<AuthCapture>,
) -> Result<HttpResponse, Problem> {
    answer_notice(&request, payload, &service).await
}

/// Sends the browser to the provider.
#[utoipa::path(
    tag = "login",
    description = "Whoever consents is connected under their own Pipedrive ids; the operator (HTTP Basic) may name the account and owner instead.",
    params(
        ("provider" = Option<String>, Query, description = "Default `pipedrive`"), ("app" = Option<String>, Query),
        ("account_id" = Option<String>, Query), ("owner" = Option<String>, Query),
    ),
    responses(
        (status = 303, description = "To the provider, with a cookie that binds the login to this browser"),
        (status = 401, description = "An account was named without the operator's credentials", body = ProblemBody),
        (status = 404, description = "No such app", body = ProblemBody),
        (status = 422, description = "A name is of no use", body = ProblemBody),
    )
)]
#[get("/auth/login")]
pub(crate) async fn start_login(
    request: HttpRequest,
    service: Data<AuthCapture>,
) -> Result<HttpResponse, Problem> {
    let query = Query::<LoginQuery>::from_query(request.query_string())
        .map_err(|error| {
            Problem::new(Code::BadRequest, format!("The query is unusable: {error}."))
        })?
        .into_inner();
    let keeper = named_keeper(&service, &request, &query)?;
    if keeper.is_none() && !service.login.allow_marketplace_installs {
        return Err(unusable(
            "account_id",
            "is missing; logins without one are switched off",
        ));
    }
    let provider = query.provider.as_deref().unwrap_or("pipedrive");
    let app = service.app(provider, query.app.as_deref())?;
    let started = login::start(&service, app, keeper, &request).await?;
    Ok(HttpResponse::SeeOther()
        .insert_header((LOCATION, started.location.as_str()))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .cookie(started.cookie)
        .finish())
}

fn named_keeper(
    service: &AuthCapture,
    request: &HttpRequest,
    query: &LoginQuery,
) -> Result<Option<(KeeperName, KeeperName)>, Problem> {
    let (Some(account_id), Some(owner)) = (&query.account_id, &query.owner) else {
        return match (&query.account_id, &query.owner) {
            (None, None) => Ok(None),
            _ => Err(unusable("owner", "and account_id are named together")),
        };
    };
    match &service.login.operator {
        Some(operator) => operator.check(request)?,
        None => {
            return Err(Problem::new(
                Code::Unauthorized,
                "Only the operator names accounts, and login.operator_password is not set.",
            )
            .challenge());
        }
    }
    let name = |field: &str, text: &str| {
        let name = text
            .parse::<KeeperName>()
            .map_err(|error| unusable(field, &error.to_string()))?;
        if name.is_marketplace() {
            return Err(unusable(
                field,
                "begins with `~`, which is kept for Marketplace installs",
            ));
        }
        Ok(name)
    };
    Ok(Some((
        name("account_id", account_id)?,
        name("owner", owner)?,
    )))
}

async fn answer_callback(
    request: &HttpRequest,
    service: &Data<AuthCapture>,
    provider: &str,
    app: Option<&str>,
) -> Result<HttpResponse, Problem> {
    let outcome = finish(request, service, provider, app).await;
    // Browsers name it.
    if !accepts_by_name(request, "text", "html") {
        return outcome.map(|row| {
            HttpResponse::Ok()
                .insert_header((CACHE_CONTROL, "no-store"))
                .json(json!({"message": "Connected", "connection": shown(&row)}))
        });
    }
    Ok(match outcome {
        Ok(row) => page::connected(&row),
        Err(problem) => {
            problem.log();
            page::failed(&problem, &trace(request).request_id)
        }
    })
}

/// Takes the provider's word, and brings the grant in.
async fn finish(
    request: &HttpRequest,
    service: &Data<AuthCapture>,
    provider: &str,
    app: Option<&str>,
) -> Result<Connection, Problem> {
    let query = Query::<CallbackQuery>::from_query(request.query_string())
        .map_err(|_unusable| {
            Problem::new(
                Code::LoginInvalid,
                "The callback's query is unusable; start again.",
            )
        })?
        .into_inner();
    let login = match query.state.as_ref().filter(|state| !state.is_empty()) {
        Some(state) => Some(login::finish(service, state.expose(), request).await),
        None => None,
    };
    // A refusal ends its login, and is told as what it is even if the login had ended before.
    if let Some(error) = &query.error {
        return Err(refused(error));
    }
    let login = login.transpose()?;
    let code = query.code.filter(|code| !code.is_empty()).ok_or_else(|| {
        Problem::new(
            Code::LoginInvalid,
            "Pipedrive sent no authorization code; start again.",
        )
    })?;
    let (app, verifier, keeper) = match &login {
        Some(login) => {
            let app = service.app_of(login).ok_or_else(|| {
                Problem::new(
                    Code::LoginInvalid,
                    "The app of this login is gone; start again.",
                )
            })?;
            let keeper = login.account_id.clone().zip(login.owner.clone());
            (app, service.vault.verifier(login)?, keeper)
        }
        None if service.login.allow_marketplace_installs => {
            (service.app(provider, app)?, None, None)
        }
        None => {
            return Err(Problem::new(
                Code::LoginInvalid,
                "Installs from Pipedrive's Marketplace are switched off here; start a login.",
            ));
        }
    };
    // Junk codes come without a login: they queue among themselves.
    let place = match &login {
        Some(_) => None,
        None => Some(marketplace_place(service).await?),
    };
    let grant = Grant {
        code,
        verifier,
        keeper,
    };
    let (service, app) = (Data::clone(service), Arc::clone(app));
    let tasks = service.context.tasks.clone();
    let connecting = async move {
        // Kept to the end, also when the caller goes away before it.
        let _place = place;
        connect(&service, &app, grant).await
    };
    let row = tasks
        .spawn(connecting.instrument(tracing::Span::current()))
        .await
        .map_err(|error| {
            Problem::new(Code::Internal, "The login failed here; start again.").caused_by(error)
        })??;
    record(&row.id, row.generation);
    tracing::info!(connection.id = %row.id, generation = row.generation, "connected");
    Ok(row)
}

/// What the provider sends back in place of a code (RFC 6749 §4.1.2.1; Pipedrive's own word is `user_denied`).
fn refused(error: &str) -> Problem {
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

/// A place among the installs under way, soon.
async fn marketplace_place(service: &AuthCapture) -> Result<OwnedSemaphorePermit, Problem> {
    let place = Arc::clone(&service.marketplace).acquire_owned();
    match tokio::time::timeout(MARKETPLACE_WAIT, place).await {
        Ok(Ok(place)) => Ok(place),
        Ok(Err(_)) | Err(_) => Err(Problem::new(
            Code::TooManyInstalls,
            "Other installs are under way; try again.",
        )
        .retry_after(Some(MARKETPLACE_WAIT))),
    }
}

async fn answer_notice(
    request: &HttpRequest,
    payload: Payload,
    service: &AuthCapture,
) -> Result<HttpResponse, Problem> {
    let app = client_of(service, request).ok_or_else(|| {
        Problem::new(
            Code::Unauthorized,
            "Send the app's client id and secret as HTTP Basic credentials.",
        )
        .challenge()
    })?;
    let body = body::read(payload).await?;
    let notice = Fields::of(body::json(&body)?)?;
    let outcome = match uninstall(service, app, &notice, &trace(request)).await? {
        Uninstalled::Revoked => "revoked",
        Uninstalled::Stale => "stale",
        Uninstalled::Unknown => "unknown",
    };
    Ok(HttpResponse::Ok().json(json!({"success": true, "outcome": outcome})))
}

/// The app whose credentials these are, by either secret; all are compared, so that the time taken tells nothing.
fn client_of<'a>(service: &'a AuthCapture, request: &HttpRequest) -> Option<&'a Arc<App>> {
    let (client_id, secret) = caller::basic(request)?;
    let mut found = None;
    for app in service.apps.iter() {
        let knows_secret = app.client_secrets().fold(false, |knows, own| {
            knows | own.matches(secret.expose().as_bytes())
        });
        let fits =
            knows_secret & Secret::from(app.client_id.as_str()).matches(client_id.as_bytes());
        if fits {
            found = Some(app);
        }
    }
    found
}

/// What may be shown of a connection: no token, no lease.
fn shown(row: &Connection) -> serde_json::Value {
    json!({
        "id": row.id,
        "AppId": row.app_id,
        "Platform": row.platform,
        "account_id": row.account_id,
        "owner": row.owner,
        "company_id": row.company_id,
        "company_name": row.company_name,
        "company_domain": row.company_domain,
        "user_id": row.user_id,
        "user_name": row.user_name,
        "api_domain": row.api_domain,
        "scope": row.scope,
        "state": row.state,
        "generation": row.generation,
        "expires_at": row.expires_at,
    })
}

impl AuthCapture {
    fn app(&self, provider: &str, key: Option<&str>) -> Result<&Arc<App>, Problem> {
        match self.apps.by_key(provider, key) {
            AppChoice::One(app) => Ok(app),
            AppChoice::Unknown => Err(Problem::new(Code::NotFound, "No such app is configured.")),
            AppChoice::Several => Err(Problem::new(
                Code::BadRequest,
                "Several apps of this provider are configured; name one.",
            )),
        }
    }
}
