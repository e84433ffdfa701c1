//! `POST /oauth/token`: codes and refresh tokens become tokens.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, post};
use serde_json::json;
use tokio::time::sleep;
use url::Url;

use crate::app::App;
use crate::faults::play::Play;
use crate::faults::{Answers, Request, Target};
use crate::oauth::client::{Form, authenticate};
use crate::oauth::error::OAuthError;
use crate::outside;
use crate::settings::Settings;
use crate::world::books::fingerprint;
use crate::world::grants::GrantState;
use crate::world::log::{Event, Happened};
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

async fn respond(request: &HttpRequest, body: &[u8], shared: &Data<Shared>) -> HttpResponse {
    let arrived_at_us = outside::now_us();
    let form = Form::parse(body);
    let grant_type = form.get("grant_type").unwrap_or_default();
    let play = Play::draw(
        shared,
        Request {
            target: Target::Token,
            path: request.path(),
            query: request.query_string(),
            grant: Some(grant_type),
        },
    );
    if let Some((answer, fault)) = play.before(shared).await {
        let mut world = shared.world();
        world.counters.token(grant_type, fault.name());
        let seq = event_of(request, &form, &play, &world).map(|event| {
            world.log.add(Event {
                outcome: fault.name().to_owned(),
                arrived_at_us: Some(arrived_at_us),
                ..event
            })
        });
        return Told::when_answered(answer, shared, seq);
    }
    let delay = shared.world().settings.token_delay_ms;
    if delay > 0 {
        sleep(Duration::from_millis(delay)).await;
    }

    let (answer, seq) = commit(request, &form, shared, &play, arrived_at_us);
    let answer = play.after(shared, answer).await;
    Told::when_answered(answer, shared, seq)
}

/// What the log says of a call before its outcome; only exchanges and refreshes are in it.
fn event_of(request: &HttpRequest, form: &Form, play: &Play, world: &World) -> Option<Event> {
    let call = match form.get("grant_type") {
        Some("refresh_token") => Happened::Refresh,
        Some("authorization_code") => Happened::Exchange,
        _ => return None,
    };
    let presented = form.get("refresh_token");
    let holder = presented.and_then(|token| world.grants.of_refresh_token(token));
    Some(Event {
        call,
        company_id: holder.map(|(holder, _)| holder.company_id),
        user_id: holder.map(|(holder, _)| holder.user_id),
        presented: presented.map(fingerprint),
        fault: play.name(),
        query: request.query_string().to_owned(),
        ..Event::default()
    })
}

/// Everything that a token request changes, in one go.
fn commit(
    request: &HttpRequest,
    form: &Form,
    shared: &Shared,
    play: &Play,
    arrived_at_us: u64,
) -> (HttpResponse, Option<u64>) {
    let mut world = shared.world();
    let event = event_of(request, form, play, &world);
    let is_alive = |world: &World| {
        let found = form
            .get("refresh_token")
            .and_then(|token| world.grants.of_refresh_token(token));
        found.is_some_and(|(_, state)| state == GrantState::Active)
    };
    let was_alive = is_alive(&world);
    let reused_before = world.counters.refresh_token_reuse;
    let issued =
        authenticate(shared, request, form).and_then(|app| exchange(&mut world, app, form));
    let reused = world.counters.refresh_token_reuse > reused_before;
    let ended = was_alive && !is_alive(&world);
    let seq = event.map(|event| {
        let (outcome, issued) = match &issued {
            Ok(issued) => ("ok", Some(issued.refresh_token.as_str())),
            Err(_) if reused => ("reuse", None),
            Err(error) => (error.word(), None),
        };
        let holder = issued.and_then(|token| world.grants.of_refresh_token(token));
        let event = Event {
            company_id: holder.map_or(event.company_id, |(holder, _)| Some(holder.company_id)),
            user_id: holder.map_or(event.user_id, |(holder, _)| Some(holder.user_id)),
            issued: issued.map(fingerprint),
            outcome: outcome.to_owned(),
            ended,
            arrived_at_us: Some(arrived_at_us),
            ..event
        };
        world.log.add(event)
    });
    let grant_type = form.get("grant_type").unwrap_or_default();
    let answer = match issued {
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
    };
    (answer, seq)
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
            if let Err(error) = grants.code_check(&app.client_id, code, settings, now) {
                grants.code_reused(&app.client_id, code, settings);
                return Err(refused(error));
            }
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

/// A body that tells the log when all of it has been handed to the connection.
struct Told {
    body: BoxBody,
    shared: Data<Shared>,
    seq: u64,
}

impl Told {
    fn when_answered(
        answer: HttpResponse,
        shared: &Data<Shared>,
        seq: Option<u64>,
    ) -> HttpResponse {
        let Some(seq) = seq else { return answer };
        let shared = shared.clone();
        answer.map_body(|_, body| BoxBody::new(Self { body, shared, seq }))
    }
}

impl MessageBody for Told {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let part = Pin::new(&mut self.body).poll_next(context);
        if matches!(part, Poll::Ready(None)) {
            self.shared.world().log.answered(self.seq);
        }
        part
    }
}

/// The origin under which the caller knows this simulator.
fn origin(request: &HttpRequest) -> String {
    let info = request.connection_info();
    format!("{}://{}", info.scheme(), info.host())
}
