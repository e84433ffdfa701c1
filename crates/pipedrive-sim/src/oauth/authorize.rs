//! `GET /oauth/authorize`: the consent page, and consent without a click.
#![expect(
    unused_qualifications,
    reason = "utoipa's macro writes the query's type out in full"
)]

use actix_web::http::header::{CONTENT_SECURITY_POLICY, LOCATION};
use actix_web::web::{Data, Query};
use actix_web::{HttpResponse, get};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::{Deserialize, Serialize};
use serde_json::json;
use url::Url;
use utoipa::{IntoParams, ToSchema};

use crate::api::errors;
use crate::app::App;
use crate::outside;
use crate::settings::UnauthorizedBody;
use crate::world::Shared;
use crate::world::books::count;
use crate::world::holder::Holder;
use crate::world::people::{Company, user_name};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Consent {
    client_id: Option<String>,
    redirect_uri: Option<String>,
    state: Option<String>,
    /// Answers at once instead of showing the page.
    auto: Option<Decision>,
    /// Who consents; both are 1 if not given. Any id exists.
    #[serde(default = "first")]
    company: u64,
    #[serde(default = "first")]
    user: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Decision {
    Approve,
    Decline,
}

fn first() -> u64 {
    1
}

/// A page with two buttons or, with `auto`, the redirect that follows them.
#[utoipa::path(
    tag = "provider",
    params(Consent),
    responses(
        (status = 200, description = "The page", content_type = "text/html"),
        (status = 302, description = "To the callback, with code or error, and state"),
        (status = 400, description = "The redirect URL is not the registered one", content_type = "application/json"),
        (status = 401, description = "No such app", content_type = "application/json"),
    ),
)]
#[get("/oauth/authorize")]
pub(crate) async fn authorize(consent: Query<Consent>, shared: Data<Shared>) -> HttpResponse {
    let app = consent.client_id.as_deref().and_then(|id| shared.app(id));
    let Some(app) = app else {
        let mut world = shared.world();
        count(&mut world.counters.authorizations, "refused");
        return errors::unauthorized(UnauthorizedBody::Gateway, &world.random.uuid());
    };
    let callback = consent
        .redirect_uri
        .as_ref()
        .filter(|uri| **uri == app.redirect_url)
        .and_then(|uri| Url::parse(uri).ok());
    let Some(callback) = callback else {
        count(&mut shared.world().counters.authorizations, "refused");
        return HttpResponse::BadRequest().json(json!({"error": "Invalid redirect URL"}));
    };
    match consent.auto {
        Some(decision) => decide(&shared, app, &consent, callback, decision),
        None => HttpResponse::Ok()
            .content_type("text/html; charset=utf-8")
            .insert_header((
                CONTENT_SECURITY_POLICY,
                "default-src 'none'; style-src 'unsafe-inline'",
            ))
            .body(page(app, &consent).into_string()),
    }
}

fn decide(
    shared: &Shared,
    app: &App,
    consent: &Consent,
    mut callback: Url,
    decision: Decision,
) -> HttpResponse {
    let mut world = shared.world();
    let (name, value) = match decision {
        Decision::Approve => {
            let holder = Holder {
                client_id: app.client_id.clone(),
                company_id: consent.company,
                user_id: consent.user,
            };
            let scopes = world.settings.scopes.clone();
            let scopes = scopes.unwrap_or_else(|| app.scopes.clone());
            world.company(consent.company);
            count(&mut world.counters.authorizations, "approve");
            let world = &mut *world;
            let now = outside::now_ms();
            let code = world
                .grants
                .code_issue(holder, scopes, now, &mut world.random);
            ("code", code)
        }
        Decision::Decline => {
            count(&mut world.counters.authorizations, "decline");
            ("error", world.settings.decline_error.word().to_owned())
        }
    };
    callback.query_pairs_mut().append_pair(name, &value);
    if let Some(state) = &consent.state {
        callback.query_pairs_mut().append_pair("state", state);
    }
    HttpResponse::Found()
        .insert_header((LOCATION, callback.as_str()))
        .finish()
}

const STYLE: &str = "body{font:1rem/1.5 system-ui,sans-serif;margin:0;background:#eef1ee;color:#1f2733}\
main{max-width:30rem;margin:8vh auto;padding:1.5rem 2.25rem 2rem;background:#fff;border-radius:.75rem;\
box-shadow:0 1px 3px #0002,0 8px 24px #0001}h1{font-size:1.35rem;margin:0 0 .75rem}small{color:#5b6675}\
ul{columns:2;padding-left:1.25rem}label{display:grid;grid-template-columns:6rem 1fr;align-items:center}\
input{font:inherit;padding:.35rem .6rem;border:1px solid #c5ccd4;border-radius:.4rem}\
button{font:inherit;padding:.5rem 1.1rem;border:0;border-radius:.4rem;background:#017737;color:#fff;cursor:pointer}\
button.quiet{background:#e5e9ee;color:#1f2733}";

fn page(app: &App, consent: &Consent) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "Simulated Pipedrive: install an app" }
                style { (PreEscaped(STYLE)) }
            }
            body { main {
                p { small { "Simulated Pipedrive" } }
                h1 { "Allow this app to use your data?" }
                p {
                    "App " b { (app.client_id) } " asks " b { (user_name(consent.user)) } " of "
                    b { (Company::new(consent.company).name) } " for:"
                }
                ul { @for scope in &app.scopes { li { (scope) } } }
                form action="/oauth/authorize" method="get" {
                    input type="hidden" name="client_id" value=(app.client_id);
                    input type="hidden" name="redirect_uri" value=(app.redirect_url);
                    @if let Some(state) = &consent.state {
                        input type="hidden" name="state" value=(state);
                    }
                    p { label { "Company " input type="number" min="1" name="company" value=(consent.company); } }
                    p { label { "User " input type="number" min="1" name="user" value=(consent.user); } }
                    button name="auto" value="approve" { "Allow and install" }
                    " "
                    button.quiet name="auto" value="decline" { "Cancel" }
                }
            } }
        }
    }
}
