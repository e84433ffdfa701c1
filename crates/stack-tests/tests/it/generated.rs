//! Requests that no one would write, a hundred thousand for each route: none of them is a server error, none goes without
//! an answer, and the stack works as before in the end.
//!
//! `GENERATED_REQUESTS` is the number per route. The seed is fixed; a failure shows the request itself.

mod requests;
mod wire;

use std::sync::Arc;

use pipekeeper_core::store::Backend;
use serde_json::json;
use stack_tests::Client;
use tokio::task::JoinSet;
use tools::rng::Rng;
use up::client::shows_a_token;

use self::requests::{Known, Request, Route};
use self::wire::{Reply, Wire};
use crate::support::{EMAIL, connected, panics_in_services};

const PER_ROUTE: usize = 100_000;

/// Connections per route, each with a batch of requests under way.
const CONNECTIONS: usize = 4;
const BATCH: usize = 16;

const CODES: [&str; 22] = [
    "BAD_REQUEST",
    "UNAUTHORIZED",
    "FORBIDDEN_SCOPE",
    "NOT_FOUND",
    "METHOD_NOT_ALLOWED",
    "TOO_LARGE",
    "CONNECTION_NOT_FOUND",
    "CONNECTION_AMBIGUOUS",
    "PERSON_NOT_FOUND",
    "CONSENT_DECLINED",
    "LOGIN_INVALID",
    "ALREADY_CONNECTED",
    "DIFFERENT_COMPANY",
    "TOKEN_INVALIDATED",
    "UPSTREAM_RATE_LIMITED",
    "UPSTREAM_DAILY_BUDGET",
    "UPSTREAM_BLOCKED",
    "UPSTREAM_ERROR",
    "UPSTREAM_TIMEOUT",
    "REFRESH_FAILED",
    "REFRESH_BUSY",
    "STORE_UNAVAILABLE",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_is_a_server_error() {
    panics_in_services();
    // User 2 of company 1 may come to be uninstalled. Nothing that is generated hits upon the other one by chance.
    let (stack, _) = connected(Backend::Sqlite).await;
    stack.connect(1, 2).await.unwrap();
    let connection = stack.connect(4711, 815).await.unwrap();
    let known = Arc::new(Known {
        client: stack.client.clone(),
        connection: connection["id"].as_str().unwrap().to_owned(),
    });

    let mut routes = JoinSet::new();
    for route in Route::ALL {
        let known = Arc::clone(&known);
        routes.spawn(async move { (route, play(route, &known).await) });
    }
    while let Some(played) = routes.join_next().await {
        let (route, tally) = played.unwrap();
        println!("{route:?}: {tally}");
    }

    assert_eq!(panics_in_services(), 0);
    let answer = stack.person_of(&connection, EMAIL).await.unwrap();
    assert_eq!(answer.expect(200).body, "Jane Doe of Company 4711");
    let refresh = json!({"connectionId": connection["id"], "generation": 0});
    stack.refresh(&refresh).await.unwrap().expect(200);
    stack.connect(3, 1).await.unwrap();
    let again: Client = stack.add_data_api(&[]).await;
    again
        .person_of(&connection, EMAIL)
        .await
        .unwrap()
        .expect(200);
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test's own setting, and its stopwatch"
)]
async fn play(route: Route, known: &Arc<Known>) -> String {
    let asked = std::env::var("GENERATED_REQUESTS").ok();
    let count = asked.map_or(PER_ROUTE, |count| {
        count.parse().expect("GENERATED_REQUESTS is a number")
    });
    let started = std::time::Instant::now();
    let mut players = JoinSet::new();
    for player in 0..CONNECTIONS {
        let (known, share) = (Arc::clone(known), count.div_ceil(CONNECTIONS));
        players.spawn(async move { play_share(route, &known, player, share).await });
    }
    let mut statuses = std::collections::BTreeMap::<u16, usize>::new();
    while let Some(share) = players.join_next().await {
        for (status, count) in share.unwrap() {
            *statuses.entry(status).or_default() += count;
        }
    }
    let answered: usize = statuses.values().sum();
    assert!(answered >= count, "{answered} answers");
    let secs = started.elapsed().as_secs_f64();
    format!("{answered} answers in {secs:.0} s, by status {statuses:?}")
}

async fn play_share(
    route: Route,
    known: &Known,
    player: usize,
    share: usize,
) -> std::collections::BTreeMap<u16, usize> {
    let mut rng = Rng::new(u64::try_from(player).unwrap() * 1_000_003 + route.seed());
    let mut wire = Wire::default();
    let mut statuses = std::collections::BTreeMap::new();
    let mut left = share;
    while left > 0 {
        let service = route.service(known, &mut rng).to_owned();
        let batch: Vec<_> = (0..left.min(BATCH))
            .map(|_| route.request(known, &mut rng))
            .collect();
        left -= batch.len();
        let answers = wire.ask(&service, &batch).await;
        for (request, reply) in batch.iter().zip(answers) {
            check(request, &reply);
            *statuses.entry(reply.status).or_default() += 1;
        }
    }
    statuses
}

#[track_caller]
fn check(request: &Request, reply: &Reply) {
    let fine = match reply.status {
        200..=399 => reply.has("nosniff") && !shows_a_token(&reply.body),
        // What is no HTTP at all is refused before anything of ours sees it.
        400 if request.is_broken && reply.body.is_empty() => true,
        400..=499 => is_problem(reply),
        // Who has no time to wait (`"deadline_ms":0`) is told so.
        503 => is_problem(reply) && reply.body.contains("REFRESH_BUSY"),
        _ => false,
    };
    assert!(fine, "{request:?}\n\nwas answered\n\n{reply:?}");
}

fn is_problem(reply: &Reply) -> bool {
    let body: serde_json::Value = serde_json::from_str(&reply.body).unwrap_or_default();
    let page = reply.has("content-type: text/html");
    let known = page
        || body["code"]
            .as_str()
            .is_some_and(|code| CODES.contains(&code) && body["message"] == code);
    let typed = page || reply.has("content-type: application/problem+json");
    known
        && typed
        && reply.has("nosniff")
        && reply.has("x-request-id: ")
        && !shows_a_token(&reply.body)
}
