//! What every API request passes: bearer, daily budget, burst, scope, route, in this order, then its handler.

use std::time::Duration;

use actix_web::http::header::{AUTHORIZATION, HeaderName, HeaderValue};
use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;
use tokio::time::sleep;

use crate::api::errors;
use crate::api::limits::{Exceeded, Limits, Rates};
use crate::faults::play::Play;
use crate::faults::{Answers, Request, Target};
use crate::oauth::client::header;
use crate::outside;
use crate::world::people::{Company, Spent};
use crate::world::tokens::AccessToken;
use crate::world::{Shared, World};

/// What the gateway knows of a route.
#[derive(Debug)]
pub(crate) struct Route {
    /// As in the statistics.
    pub(crate) name: &'static str,
    /// Tokens of the daily budget.
    pub(crate) cost: u64,
    pub(crate) kind: Kind,
    /// Any one of them opens it.
    pub(crate) scopes: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// Counts in the search window too.
    Search,
}

/// The one behind an access token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caller {
    pub(crate) company_id: u64,
    pub(crate) user_id: u64,
}

pub(crate) type Handler = fn(&mut World, Caller, query: &str) -> HttpResponse;

const UNKNOWN_V2: Route = Route {
    name: "unknown",
    cost: 0,
    kind: Kind::Plain,
    scopes: &[],
};
const UNKNOWN: Route = Route {
    name: "unknown",
    cost: 0,
    kind: Kind::Plain,
    scopes: &["base"],
};

pub(crate) async fn pass(
    request: &HttpRequest,
    shared: &Shared,
    route: &Route,
    handler: Handler,
) -> HttpResponse {
    let play = Play::draw(
        shared,
        Request {
            target: Target::Api,
            path: request.path(),
            query: request.query_string(),
            grant: None,
        },
    );
    if let Some((answer, fault)) = play.before(shared).await {
        let outcome = outcome(&answer, fault.answers());
        shared.world().counters.api(route.name, outcome);
        return answer;
    }
    let delay = shared.world().settings.page_delay_ms;
    if delay > 0 {
        sleep(Duration::from_millis(delay)).await;
    }

    let answer = {
        let mut world = shared.world();
        let answer = admit(&mut world, request, route, handler);
        let outcome = outcome(&answer, play.answers());
        world.counters.api(route.name, outcome);
        answer
    };
    play.after(shared, answer).await
}

fn outcome(answer: &HttpResponse, answers: Answers) -> &str {
    match answers {
        Answers::Whole => answer.head().status.as_str(),
        Answers::Lost => "no_answer",
    }
}

/// Whatever no handler took. Unknown routes of API v2 are refused as the gateway does: by scope.
pub(crate) async fn unknown(request: HttpRequest, shared: Data<Shared>) -> HttpResponse {
    let path = request.path();
    if path.starts_with("/_sim") || path.starts_with("/oauth") {
        return HttpResponse::NotFound().json(json!({"error": "no such path or method"}));
    }
    let route = if path.starts_with("/api/v2/") {
        &UNKNOWN_V2
    } else {
        &UNKNOWN
    };
    pass(&request, &shared, route, |_, _, _| errors::not_found()).await
}

fn admit(
    world: &mut World,
    request: &HttpRequest,
    route: &Route,
    handler: Handler,
) -> HttpResponse {
    let correlation_id = world.random.uuid();
    let now = outside::now_ms();
    let Some(authorization) = header(request, AUTHORIZATION.as_str()) else {
        return refuse(world, &correlation_id);
    };
    let token = authorization
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    let Some(token) = token else {
        world.counters.bearers_refused += 1;
        return errors::malformed_authorization();
    };
    let limits = Limits::new(&world.settings);
    let Some((grant, access)) = world.grants.bearer(token, now) else {
        return refuse(world, &correlation_id);
    };
    let caller = Caller {
        company_id: grant.holder.company_id,
        user_id: grant.holder.user_id,
    };
    let in_scope = route
        .scopes
        .iter()
        .any(|scope| grant.scopes.iter().any(|granted| granted == scope));

    // not through World::company: the grant is borrowed already
    let companies = world.companies.entry(caller.company_id);
    let spent = &mut companies
        .or_insert_with(|| Company::new(caller.company_id))
        .spent;
    let (mut answer, rates) = match charge(limits, spent, access, route, now) {
        Ok(rates) if in_scope => (handler(world, caller, request.query_string()), rates),
        Ok(rates) => (errors::scope_mismatch(), rates),
        Err((Exceeded::Daily, rates)) => (errors::daily(now), rates),
        Err((Exceeded::Burst, rates)) => (errors::burst(), rates),
    };
    if world.settings.rate_headers {
        rates.write(&mut answer);
    }
    if let Ok(value) = HeaderValue::from_str(&correlation_id) {
        let name = HeaderName::from_static("x-correlation-id");
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// Daily budget, then burst window: the first that is exhausted refuses, and nothing is charged.
fn charge(
    limits: Limits,
    spent: &mut Spent,
    access: &mut AccessToken,
    route: &Route,
    now: u64,
) -> Result<Rates, (Exceeded, Rates)> {
    let searches = (route.kind == Kind::Search).then_some(&mut access.searches);
    let charged = limits
        .daily_check(spent, route.cost, now)
        .map_err(|exceeded| (exceeded, Rates::default()))
        .and_then(|()| limits.burst_take(&mut access.calls, searches, now));
    if charged.is_ok() {
        spent.tokens += route.cost;
    }
    let left = limits.daily_left(spent);
    match charged {
        Ok(rates) => Ok(rates.with_daily(left)),
        Err((exceeded, rates)) => Err((exceeded, rates.with_daily(left))),
    }
}

fn refuse(world: &mut World, correlation_id: &str) -> HttpResponse {
    world.counters.bearers_refused += 1;
    errors::unauthorized(world.settings.unauthorized_body, correlation_id)
}
