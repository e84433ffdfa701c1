//! Every URL of auth-capture: the callback, its DELETE, and the start of a login.

use std::sync::Arc;

use actix_web::http::header::{CACHE_CONTROL, LOCATION, REFERRER_POLICY};
use actix_web::web::{Data, Path, Payload, Query};
use actix_web::{HttpRequest, HttpResponse, delete, get};
use pipekeeper_core::connection::AccountName;
use pipekeeper_core::provider::App;
use pipekeeper_core::secret::Secret;
use pipekeeper_service::accept::accepts_by_name;
use pipekeeper_service::auth;
use pipekeeper_service::body::{self, Fields, unusable};
use pipekeeper_service::problem::{Code, Problem, ProblemBody};
use pipekeeper_service::trace;
use serde::Deserialize;
use serde_json::json;
use url::Url;

use crate::login::Origin;
use crate::uninstall::{Uninstalled, uninstall};
use crate::{AuthCapture, consent, login, page};

/// Added to the query of a login that was sent to the host of `redirect_url`.
const SENT_HERE: &str = "at=redirect_url";

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
    description = "Also at /webhook/aae545fb-a69d-4e20-91ce-65f105d0ea2f and /auth/callback. With a `state` of ours it ends a login; without one, or with another's, it is an install: from Pipedrive's Marketplace, or by a link of your own. A code is exchanged once; for ten minutes the same callback is answered the same. Browsers get a page.",
    params(
        ("provider" = String, Path, description = "`pipedrive`"),
        ("code" = Option<String>, Query), ("state" = Option<String>, Query), ("error" = Option<String>, Query),
    ),
    responses(
        (status = 200, description = "Connected; `default` says whether callers that name only the app get this connection"),
        (status = 204, description = "Fetched ahead by a browser: nothing was done"),
        (status = 400, description = "Consent declined; or the code or the login is missing, used or expired", body = ProblemBody),
        (status = 403, description = "`login.companies` does not name the company", body = ProblemBody),
        (status = 409, description = "Another account holds this connection, or it is another company than before", body = ProblemBody),
        (status = 429, description = "Too many installs at once, or from one address", body = ProblemBody),
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
    description = "HTTP Basic with client id and secret; JSON `client_id`, `company_id`, `user_id`, `timestamp`. A notice without a readable time, or from within five minutes of the connection's last consent, is checked by a refresh.",
    params(("provider" = String, Path, description = "`pipedrive`")),
    responses(
        (status = 200, description = "`outcome`: `revoked`; `stale`: the notice is older than the connection's last consent, or Pipedrive still accepts its refresh token; `unknown`: there is no such connection"),
        (status = 401, description = "Wrong client credentials", body = ProblemBody),
        (status = 422, description = "Not JSON", body = ProblemBody),
        (status = 502, description = "`REFRESH_FAILED`: the notice could not be checked; send it again", body = ProblemBody),
        (status = 503, description = "The database is away", body = ProblemBody),
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
    description = "Connects the person who consents under their own Pipedrive ids; the operator (HTTP Basic) may name the account and owner instead.",
    params(
        ("provider" = Option<String>, Query, description = "Default `pipedrive`"), ("app" = Option<String>, Query),
        ("account_id" = Option<String>, Query), ("owner" = Option<String>, Query),
    ),
    responses(
        (status = 303, description = "To the provider, with a cookie that binds the login to this browser"),
        (status = 307, description = "To the same path at the host of `redirect_url`, where the cookie is of use"),
        (status = 401, description = "An account was named without the operator's credentials", body = ProblemBody),
        (status = 404, description = "No such app", body = ProblemBody),
        (status = 422, description = "A name is invalid", body = ProblemBody),
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
    let provider = query.provider.as_deref().unwrap_or("pipedrive");
    let app = service.app(provider, query.app.as_deref())?;
    if let Some(location) = own_host(app, &request) {
        return Ok(HttpResponse::TemporaryRedirect()
            .insert_header((LOCATION, location.as_str()))
            .insert_header((CACHE_CONTROL, "no-store"))
            .insert_header((REFERRER_POLICY, "no-referrer"))
            .finish());
    }
    let origin = origin(&service, &request, &query)?;
    if matches!(origin, Origin::Install) && !service.login.allow_marketplace_installs {
        return Err(unusable(
            "account_id",
            "is missing; logins without one are switched off",
        ));
    }
    let started = login::start(&service, app, origin, &request).await?;
    Ok(HttpResponse::SeeOther()
        .insert_header((LOCATION, started.location.as_str()))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((REFERRER_POLICY, "no-referrer"))
        .cookie(started.cookie)
        .finish())
}

/// Where the login has to start instead: the cookie that binds it comes back to the host of `redirect_url` only.
fn own_host(app: &App, request: &HttpRequest) -> Option<Url> {
    let redirect = app.redirect_url.as_ref()?.url();
    let info = request.connection_info();
    let authority = info.host();
    // A proxy may pass on another host than the browser asked for: the second time is the last.
    if is_same_host(redirect, authority) || request.query_string().contains(SENT_HERE) {
        return None;
    }
    let mut location = redirect.join("/auth/login").ok()?;
    let query = request.query_string();
    let separator = if query.is_empty() { "" } else { "&" };
    location.set_query(Some(&format!("{query}{separator}{SENT_HERE}")));
    Some(location)
}

/// Cookies know no ports.
fn is_same_host(redirect: &Url, authority: &str) -> bool {
    let requested = Url::parse(&format!("http://{authority}/"));
    requested.is_ok_and(|requested| requested.host() == redirect.host())
}

/// The account that the operator names, or none.
fn origin(
    service: &AuthCapture,
    request: &HttpRequest,
    query: &LoginQuery,
) -> Result<Origin, Problem> {
    let (Some(account_id), Some(owner)) = (&query.account_id, &query.owner) else {
        return match (&query.account_id, &query.owner) {
            (None, None) => Ok(Origin::Install),
            _ => Err(unusable("owner", "and account_id are named together")),
        };
    };
    match &service.login.operator {
        Some(operator) => {
            operator.authenticate(request)?;
        }
        None => {
            return Err(Problem::new(
                Code::Unauthorized,
                "Only the operator names accounts, and login.operator_password is not set.",
            )
            .challenge(auth::BASIC_CHALLENGE));
        }
    }
    let name = |field: &str, text: &str| {
        let name = text
            .parse::<AccountName>()
            .map_err(|error| unusable(field, &error.to_string()))?;
        if name.is_marketplace() {
            return Err(unusable(
                field,
                "begins with `~`, which is kept for Marketplace installs",
            ));
        }
        Ok(name)
    };
    Ok(Origin::Login {
        account_id: name("account_id", account_id)?,
        owner: name("owner", owner)?,
    })
}

async fn answer_callback(
    request: &HttpRequest,
    service: &Data<AuthCapture>,
    provider: &str,
    app: Option<&str>,
) -> Result<HttpResponse, Problem> {
    if is_prefetch(request) {
        // The navigation that follows brings the code.
        return Ok(HttpResponse::NoContent()
            .insert_header((CACHE_CONTROL, "no-store"))
            .finish());
    }
    let outcome = consent::take(request, service, provider, app).await;
    // Browsers name it.
    if !accepts_by_name(request, "text", "html") {
        return outcome.map(|connected| {
            HttpResponse::Ok()
                .insert_header((CACHE_CONTROL, "no-store"))
                .json(json!({"message": "Connected", "connection": connected}))
        });
    }
    Ok(match outcome {
        Ok(connected) => page::connected(&connected),
        Err(problem) => {
            problem.log();
            page::failed(&problem, &trace(request).request_id)
        }
    })
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
        .challenge(auth::BASIC_CHALLENGE)
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
    let (client_id, secret) = auth::basic(request)?;
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

/// Whether the browser fetches the page ahead of a click.
fn is_prefetch(request: &HttpRequest) -> bool {
    ["sec-purpose", "purpose", "x-moz"].iter().any(|name| {
        request.headers().get_all(*name).any(|value| {
            value.to_str().is_ok_and(|value| {
                let mut words = value.split([';', ',']);
                words.any(|word| word.trim().eq_ignore_ascii_case("prefetch"))
            })
        })
    })
}

impl AuthCapture {
    pub(crate) fn app(&self, provider: &str, key: Option<&str>) -> Result<&Arc<App>, Problem> {
        self.apps
            .by_key(provider, key)
            .ok_or_else(|| Problem::new(Code::NotFound, "No such app is configured."))
    }
}
