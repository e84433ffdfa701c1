//! `POST /oauth/token`: codes and refresh tokens become tokens.

use std::time::Duration;

use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, post};
use serde_json::json;
use tokio::time::sleep;
use url::Url;

use crate::faults::play::Play;
use crate::faults::{Answers, Request, Target};
use crate::oauth::client::{Form, authenticate};
use crate::oauth::error::OAuthError;
use crate::outside;
use crate::settings::Settings;
use crate::simulator::App;
use crate::world::tokens::{CodeRefused, Issued, RefreshRefused};
use crate::world::{Shared, World};

/// Exchanges an authorization code, or refreshes.
///
/// A form with `grant_type` and `code` and `redirect_uri`, or `refresh_token`; client credentials as Basic
/// authorization or in the form.
#[utoipa::path(
    tag = "provider",
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "access_token, token_type, expires_in, refresh_token, scope, api_domain", content_type = "application/json"),
        (status = 400, description = "success, message, error: invalid_request, invalid_client, invalid_grant or unsupported_grant_type", content_type = "application/json"),
    ),
)]
#[post("/oauth/token")]
pub(crate) async fn token_request(
    request: HttpRequest,
    body: Bytes,
    shared: Data<Shared>,
) -> HttpResponse {
    respond(&request, &body, &shared).await
}

/// The same, as Pipedrive's document writes the refresh.
#[utoipa::path(
    tag = "provider",
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses((status = 200, description = "As /oauth/token")),
)]
#[post("/oauth/token/")]
pub(crate) async fn token_request_with_slash(
    request: HttpRequest,
    body: Bytes,
    shared: Data<Shared>,
) -> HttpResponse {
    respond(&request, &body, &shared).await
}

async fn respond(request: &HttpRequest, body: &[u8], shared: &Shared) -> HttpResponse {
    let form = Form::parse(body);
    let grant_type = form.get("grant_type").unwrap_or_default();
    let play = Play::draw(
        shared,
        Request {
            target: Target::Token,
            path: request.path(),
            grant: Some(grant_type),
        },
    );
    if let Some((answer, fault)) = play.before(shared).await {
        shared.world().counters.token(grant_type, fault.name());
        return answer;
    }
    let delay = shared.world().settings.token_delay_ms;
    if delay > 0 {
        sleep(Duration::from_millis(delay)).await;
    }

    let answer = commit(request, &form, shared, &play);
    play.after(shared, answer).await
}

/// Everything that a token request changes, in one go.
fn commit(request: &HttpRequest, form: &Form, shared: &Shared, play: &Play) -> HttpResponse {
    let mut world = shared.world();
    let issued =
        authenticate(shared, request, form).and_then(|app| exchange(&mut world, app, form));
    let grant_type = form.get("grant_type").unwrap_or_default();
    match issued {
        Ok(issued) => {
            let outcome = match play.answers() {
                Answers::Whole => "ok",
                Answers::Lost => "answer_lost",
            };
            world.counters.token(grant_type, outcome);
            let origin = origin(request);
            let api_domain = play
                .api_domain()
                .or(world.settings.api_domain.as_deref())
                .unwrap_or(&origin);
            answer(&issued, &world.settings, api_domain)
        }
        Err(error) => {
            world.counters.token(grant_type, error.word());
            error.answer_as_set(world.settings.invalid_client_status)
        }
    }
}

fn exchange(world: &mut World, app: &App, form: &Form) -> Result<Issued, OAuthError> {
    let World {
        settings,
        grants,
        counters,
        random,
        ..
    } = world;
    let now = outside::now_ms();
    match form.require("grant_type")? {
        "authorization_code" => {
            let code = form.require("code")?;
            let refused = |refused| match refused {
                CodeRefused::Invalid => OAuthError::Code,
                CodeRefused::Expired => OAuthError::CodeExpired,
            };
            grants
                .code_check(&app.client_id, code, settings, now)
                .map_err(refused)?;
            let redirect_uri = form.get("redirect_uri").unwrap_or_default();
            if Url::parse(redirect_uri).is_err() {
                return Err(OAuthError::RedirectUriMalformed);
            }
            if redirect_uri != app.redirect_url {
                return Err(OAuthError::RedirectUri);
            }
            let issued = grants
                .code_spend(&app.client_id, code, settings, now, random)
                .map_err(refused)?;
            counters.exchanges += 1;
            Ok(issued)
        }
        "refresh_token" => {
            let token = form.require("refresh_token")?;
            let refreshed = grants.refresh(&app.client_id, token, settings, now, random);
            match refreshed {
                Ok(issued) => {
                    counters.refreshes += 1;
                    Ok(issued)
                }
                Err(refused) => {
                    if refused == RefreshRefused::Reused {
                        counters.refresh_token_reuse += 1;
                    }
                    Err(OAuthError::RefreshToken)
                }
            }
        }
        "exchange_api_token" => Err(OAuthError::ApiToken),
        _ => Err(OAuthError::GrantType),
    }
}

fn answer(issued: &Issued, settings: &Settings, api_domain: &str) -> HttpResponse {
    let expires_in = if settings.expires_in_as_string {
        json!(settings.access_ttl_secs.to_string())
    } else {
        json!(settings.access_ttl_secs)
    };
    HttpResponse::Ok().json(json!({
        "access_token": issued.access_token,
        "token_type": "Bearer",
        "expires_in": expires_in,
        "refresh_token": issued.refresh_token,
        "scope": issued.scope,
        "api_domain": api_domain,
    }))
}

/// The origin under which the caller knows this simulator.
fn origin(request: &HttpRequest) -> String {
    let info = request.connection_info();
    format!("{}://{}", info.scheme(), info.host())
}
