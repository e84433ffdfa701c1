//! `/_sim/…`: what a test turns and reads. JSON in, JSON out, in any language.

pub(crate) mod notice;

use actix_web::web::{Bytes, Data, Query};
use actix_web::{HttpRequest, HttpResponse, delete, get, post};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use crate::control::notice::{Notice, Sent};
use crate::faults::Rule;
use crate::outside;
use crate::settings::Settings;
use crate::world::books::{Stats, count, entries};
use crate::world::grants::GrantState;
use crate::world::holder::{Holder, Selection};
use crate::world::log::{Event, Happened, Log, Page};
use crate::world::people::NewPerson;
use crate::world::{Reset, Shared};

/// The counters since the start or the last reset, and every grant.
#[utoipa::path(tag = "controls", responses((status = 200, body = Stats)))]
#[get("/_sim/stats")]
pub(crate) async fn stats(shared: Data<Shared>) -> HttpResponse {
    let world = shared.world();
    HttpResponse::Ok().json(Stats {
        counters: world.counters.clone(),
        books: entries(&world.grants, outside::now_ms()),
    })
}

/// Body of `POST /_sim/reset`.
#[derive(Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ResetOrder {
    /// Grants, companies and added persons go too.
    world: bool,
}

/// Counters, settings and faults go back to their beginnings; held connections are let go.
#[utoipa::path(
    tag = "controls",
    request_body = Option<ResetOrder>,
    responses((status = 200, description = "Done")),
)]
#[post("/_sim/reset")]
pub(crate) async fn reset(body: Bytes, shared: Data<Shared>) -> Result<HttpResponse, Refused> {
    let order: ResetOrder = read(&body)?;
    let scope = if order.world {
        Reset::WorldToo
    } else {
        Reset::Controls
    };
    shared.reset(scope);
    Ok(HttpResponse::Ok().json(json!({"reset": true})))
}

/// The settings in force.
#[utoipa::path(tag = "controls", responses((status = 200, body = Settings)))]
#[get("/_sim/settings")]
pub(crate) async fn settings(shared: Data<Shared>) -> HttpResponse {
    HttpResponse::Ok().json(&shared.world().settings)
}

/// Changes the named settings and answers all of them.
#[utoipa::path(
    tag = "controls",
    request_body = Settings,
    responses((status = 200, body = Settings), (status = 400, description = "Nothing was changed; error says why")),
)]
#[post("/_sim/settings")]
pub(crate) async fn change_settings(
    body: Bytes,
    shared: Data<Shared>,
) -> Result<HttpResponse, Refused> {
    let changes: Value = read(&body)?;
    let mut world = shared.world();
    world.settings = world.settings.merged(changes).map_err(Refused::from)?;
    Ok(HttpResponse::Ok().json(&world.settings))
}

/// The faults in force; `times` is what is left, 0 means until the next reset.
#[utoipa::path(tag = "controls", responses((status = 200, body = [Rule])))]
#[get("/_sim/faults")]
pub(crate) async fn faults(shared: Data<Shared>) -> HttpResponse {
    HttpResponse::Ok().json(shared.world().faults.list())
}

/// Adds a fault after those in force.
#[utoipa::path(
    tag = "controls",
    request_body = Rule,
    responses((status = 200, body = [Rule]), (status = 400, description = "Nothing was added; error says why")),
)]
#[post("/_sim/faults")]
pub(crate) async fn add_fault(body: Bytes, shared: Data<Shared>) -> Result<HttpResponse, Refused> {
    let rule: Rule = read(&body)?;
    rule.check().map_err(Refused::from)?;
    let mut world = shared.world();
    world.faults.arm(rule);
    Ok(HttpResponse::Ok().json(world.faults.list()))
}

/// Takes all faults back; held connections are let go.
#[utoipa::path(tag = "controls", responses((status = 200, description = "Done")))]
#[delete("/_sim/faults")]
pub(crate) async fn clear_faults(shared: Data<Shared>) -> HttpResponse {
    shared.world().faults.clear();
    shared.let_go();
    HttpResponse::Ok().json(json!([]))
}

/// Access tokens of the grants that are meant die now; refresh tokens stay good.
#[utoipa::path(
    tag = "controls",
    request_body = Option<Selection>,
    responses((status = 200, description = "expired: how many access tokens")),
)]
#[post("/_sim/expire")]
pub(crate) async fn expire(body: Bytes, shared: Data<Shared>) -> Result<HttpResponse, Refused> {
    let selection: Selection = read(&body)?;
    let expired = shared.world().grants.expire(&selection, outside::now_ms());
    Ok(HttpResponse::Ok().json(json!({"expired": expired})))
}

/// The grants that are meant die: refreshes get `invalid_grant`, API calls 401. No notice is sent.
#[utoipa::path(
    tag = "controls",
    request_body = Option<Selection>,
    responses((status = 200, description = "revoked: how many grants")),
)]
#[post("/_sim/revoke")]
pub(crate) async fn revoke(body: Bytes, shared: Data<Shared>) -> Result<HttpResponse, Refused> {
    let selection: Selection = read(&body)?;
    let mut world = shared.world();
    let revoked = world.grants.end(&selection, GrantState::Revoked);
    ended(&mut world.log, Happened::RevokedByControl, &revoked);
    Ok(HttpResponse::Ok().json(json!({"revoked": revoked.len()})))
}

/// Body of `POST /_sim/uninstall`.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Uninstall {
    company: u64,
    user: u64,
    /// All apps that this user installed, if not given.
    #[serde(default)]
    client_id: Option<String>,
    /// False loses the notice.
    #[serde(default = "yes")]
    notify: bool,
    /// False sends the notice alone, as one that comes late.
    #[serde(default = "yes")]
    kill: bool,
    /// Now, if not given.
    #[serde(default)]
    timestamp: Option<String>,
    /// The app's redirect URL, if not given.
    #[serde(default)]
    notify_url: Option<String>,
}

fn yes() -> bool {
    true
}

/// Answer of `POST /_sim/uninstall`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Uninstalled {
    /// How many grants died.
    uninstalled: usize,
    notices: Vec<Sent>,
}

/// The user uninstalls: the grant dies, and the app is told by a DELETE on its redirect URL.
#[utoipa::path(
    tag = "controls",
    request_body = Uninstall,
    responses((status = 200, body = Uninstalled), (status = 400, description = "error says why")),
)]
#[post("/_sim/uninstall")]
pub(crate) async fn uninstall(body: Bytes, shared: Data<Shared>) -> Result<HttpResponse, Refused> {
    let order: Uninstall = read(&body)?;
    if order
        .client_id
        .as_deref()
        .is_some_and(|id| shared.app(id).is_none())
    {
        return Err(Refused::from("no app has this client_id"));
    }
    let selection = Selection {
        company: Some(order.company),
        user: Some(order.user),
        client_id: order.client_id.clone(),
    };
    let (told, uninstalled) = {
        let mut world = shared.world();
        let holders = world.grants.holders(&selection);
        let mut told: Vec<String> = holders.into_iter().map(|holder| holder.client_id).collect();
        if told.is_empty() {
            // a notice may name a person who never installed anything
            told.extend(
                order
                    .client_id
                    .clone()
                    .or_else(|| shared.apps.first().map(|app| app.client_id.clone())),
            );
        }
        let uninstalled = if order.kill {
            let gone = world.grants.end(&selection, GrantState::Uninstalled);
            ended(&mut world.log, Happened::Uninstall, &gone);
            gone.len()
        } else {
            0
        };
        (told, uninstalled)
    };
    let mut notices = Vec::new();
    let apps = told.iter().filter_map(|client_id| shared.app(client_id));
    for app in apps.filter(|_| order.notify) {
        let notice = Notice {
            client_id: &app.client_id,
            company_id: order.company,
            user_id: order.user,
            timestamp: order
                .timestamp
                .clone()
                .unwrap_or_else(|| outside::rfc3339(outside::now_ms())),
        };
        let url = order.notify_url.as_deref().unwrap_or(&app.redirect_url);
        let sent = notice.send(app, url).await;
        count(&mut shared.world().counters.notices, &sent.outcome());
        notices.push(sent);
    }
    Ok(HttpResponse::Ok().json(Uninstalled {
        uninstalled,
        notices,
    }))
}

fn ended(log: &mut Log, call: Happened, holders: &[Holder]) {
    for holder in holders {
        log.add(Event {
            call,
            company_id: Some(holder.company_id),
            user_id: Some(holder.user_id),
            outcome: "ok".to_owned(),
            ended: true,
            ..Event::default()
        });
    }
}

/// Query of `GET /_sim/log`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Since {
    since: u64,
}

/// What happened to grants, oldest first, ten thousand events at most; `next` asks for the rest. The last 200 000 are kept.
#[utoipa::path(
    tag = "controls",
    params(("since" = Option<u64>, Query, description = "the first event that is wanted, by number")),
    responses((status = 200, body = Page), (status = 400, description = "error says why")),
)]
#[get("/_sim/log")]
pub(crate) async fn events(
    request: HttpRequest,
    shared: Data<Shared>,
) -> Result<HttpResponse, Refused> {
    let Query(Since { since }) = Query::from_query(request.query_string())
        .map_err(|_unreadable| Refused::from("since is not a number, or not alone"))?;
    Ok(HttpResponse::Ok().json(shared.world().log.since(since)))
}

/// Adds a person to a company.
#[utoipa::path(
    tag = "controls",
    request_body = NewPerson,
    responses((status = 200, description = "id, company"), (status = 400, description = "error says why")),
)]
#[post("/_sim/persons")]
pub(crate) async fn add_person(body: Bytes, shared: Data<Shared>) -> Result<HttpResponse, Refused> {
    let NewPerson {
        company,
        name,
        emails,
        phones,
    } = read(&body)?;
    let id = shared
        .world()
        .company(company)
        .add_person(name, emails, phones);
    Ok(HttpResponse::Ok().json(json!({"id": id, "company": company})))
}

/// Alive.
#[utoipa::path(tag = "controls", responses((status = 200, description = "Alive")))]
#[get("/_sim/healthz")]
pub(crate) async fn health() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

/// Alive, where the services have it.
#[utoipa::path(tag = "controls", responses((status = 200, description = "Alive")))]
#[get("/healthz")]
pub(crate) async fn health_at_the_root() -> HttpResponse {
    HttpResponse::Ok().json(json!({"status": "ok"}))
}

/// A control with invalid input; nothing was changed.
#[derive(Debug)]
pub(crate) struct Refused(String);

impl From<&str> for Refused {
    fn from(why: &str) -> Self {
        Self(why.to_owned())
    }
}

impl From<serde_json::Error> for Refused {
    fn from(error: serde_json::Error) -> Self {
        Self(error.to_string())
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl actix_web::ResponseError for Refused {
    fn error_response(&self) -> HttpResponse {
        HttpResponse::BadRequest().json(json!({"error": self.0}))
    }
}

/// No body at all is an empty object; the content type is of no matter.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    let body = if body.is_empty() { b"{}" } else { body };
    Ok(serde_json::from_slice(body)?)
}
