//! `POST /oauth/revoke` (RFC 7009): 200 whatever the token was worth.

use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse, post};
use serde_json::json;

use crate::faults::play::Play;
use crate::faults::{Request, Target};
use crate::oauth::client::{Form, authenticate};
use crate::world::Shared;
use crate::world::books::{count, fingerprint};
use crate::world::log::{Event, Happened};
use crate::world::tokens::Revoked;

/// Revokes a refresh token, and the whole grant with it, or an access token alone.
#[utoipa::path(
    tag = "provider",
    request_body(content = String, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "Also when the token was worth nothing", content_type = "application/json"),
        (status = 400, description = "invalid_client or invalid_request", content_type = "application/json"),
    ),
)]
#[post("/oauth/revoke")]
pub(crate) async fn revoke(
    request: HttpRequest,
    body: Bytes,
    shared: Data<Shared>,
) -> HttpResponse {
    let play = Play::draw(
        &shared,
        Request {
            target: Target::Revoke,
            path: request.path(),
            query: request.query_string(),
            grant: None,
        },
    );
    if let Some((answer, fault)) = play.before(&shared).await {
        count(&mut shared.world().counters.revocations, fault.name());
        return answer;
    }

    let answer = commit(&request, &Form::parse(&body), &shared);
    play.after(&shared, answer).await
}

fn commit(request: &HttpRequest, form: &Form, shared: &Shared) -> HttpResponse {
    let checked = authenticate(shared, request, form)
        .and_then(|app| form.require("token").map(|token| (app, token)));
    let mut world = shared.world();
    match checked {
        Ok((app, token)) => {
            let holder = world
                .grants
                .of_refresh_token(token)
                .map(|(holder, _)| holder);
            let (company_id, user_id) = holder
                .map(|holder| (holder.company_id, holder.user_id))
                .unzip();
            let revoked = world.grants.revoke(&app.client_id, token);
            let hit = match revoked {
                Revoked::Grant => "grant",
                Revoked::AccessToken => "access_token",
                Revoked::Nothing => "nothing",
            };
            count(&mut world.counters.revocations, hit);
            world.log.add(Event {
                call: Happened::Revoke,
                company_id,
                user_id,
                presented: Some(fingerprint(token)),
                outcome: hit.to_owned(),
                ended: revoked == Revoked::Grant,
                query: request.query_string().to_owned(),
                ..Event::default()
            });
            HttpResponse::Ok().json(json!({"success": true}))
        }
        Err(error) => {
            count(&mut world.counters.revocations, error.word());
            error.answer_as_set(world.settings.invalid_client_status)
        }
    }
}
