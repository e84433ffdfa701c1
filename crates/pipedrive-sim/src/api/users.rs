//! `GET /v1/users/me`: who a token belongs to.

use actix_web::http::header::ContentType;
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, get};

use crate::api::gateway::{self, Caller, Kind, Route};
use crate::world::{Shared, World};

const ME: Route = Route {
    name: "users/me",
    cost: 2,
    kind: Kind::Plain,
    scopes: &["base"],
};

/// The user and the company behind the token.
#[utoipa::path(
    tag = "provider",
    responses(
        (status = 200, description = "success, data", content_type = "application/json"),
        (status = 401, description = "No good bearer", content_type = "application/json"),
        (status = 429, description = "Burst limit or daily budget", content_type = "application/json"),
    ),
)]
#[get("/v1/users/me")]
pub(crate) async fn me(request: HttpRequest, shared: Data<Shared>) -> HttpResponse {
    gateway::pass(&request, &shared, &ME, answer).await
}

/// The same under Pipedrive's other prefix.
#[utoipa::path(
    tag = "provider",
    responses((status = 200, description = "As /v1/users/me", content_type = "application/json")),
)]
#[get("/api/v1/users/me")]
pub(crate) async fn me_under_api(request: HttpRequest, shared: Data<Shared>) -> HttpResponse {
    gateway::pass(&request, &shared, &ME, answer).await
}

fn answer(world: &mut World, caller: Caller, _query: &str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(ContentType::json())
        .body(world.user_body(caller.company_id, caller.user_id))
}
