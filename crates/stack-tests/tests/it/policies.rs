//! When a token is renewed, other than for a 401: ahead of its end, not at all, or before each call.

use std::iter::repeat_n;
use std::time::Duration;

use pipekeeper_core::clock::SystemClock;
use pipekeeper_core::provider::RefreshPolicy;
use pipekeeper_core::refresh_schedule::renewal_due_of;
use pipekeeper_core::store::Backend;
use serde_json::{Value, json};
use stack_tests::{Client, Setup, Stack};
use tokio::net::TcpListener;

use crate::support::{
    EMAIL, NAME, connected, crowd, expire, fault, hold_refresh, refreshes, row, settings, until,
};

/// A connected stack whose app has this policy everywhere.
async fn connected_with(backend: Backend, policy: &str) -> (Stack, Value) {
    let setup = Setup {
        set: &[("*.apps.pipedrive.refresh_policy", policy)],
        ..Setup::default()
    };
    let stack = Stack::with(backend, setup).await;
    let connection = stack.connect(1, 1).await.unwrap();
    (stack, connection)
}

/// The tokens in the rows were minted so much earlier, and end when they did before.
fn age(stack: &Stack, backend: Backend, secs: u32) {
    let earlier = match backend {
        Backend::Sqlite => format!("{secs} * 1000000"),
        Backend::Postgres => format!("INTERVAL '{secs} seconds'"),
        Backend::Mysql => format!("INTERVAL {secs} SECOND"),
    };
    stack.sql(&format!(
        "UPDATE connections SET authorized_at = authorized_at - {earlier}, refreshed_at = refreshed_at - {earlier}"
    ));
}

async fn bearers_refused(stack: &Stack) -> Value {
    stack.stats().await.unwrap()["bearers_refused"].clone()
}

async fn look_up(client: &Client) {
    assert_eq!(client.person(EMAIL).await.unwrap().expect(200).body, NAME);
}

/// Two renewals ahead of the token's end, at a provider that does not answer meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steady_callers_never_wait_for_a_refresh() {
    let (stack, connection) = connected(Backend::Sqlite).await;
    for generation in 1..=2 {
        let mut held = hold_refresh(&stack).await;
        let minute = Duration::from_mins(1);
        let end = SystemClock::shared()
            .now()
            .saturating_add(minute)
            .unix_micros();
        stack.sql(&format!("UPDATE connections SET expires_at = {end}"));
        age(&stack, Backend::Sqlite, 3600);
        let client = stack.add_data_api(&[]).await;
        look_up(&client).await;
        held.reached().await;

        for _ in 0..20 {
            look_up(&client).await;
        }

        assert_eq!(row(&stack, &connection).await.generation, generation);
        held.release();
        until("the next token is there", || async {
            row(&stack, &connection).await.generation > generation
        })
        .await;
    }
    assert_eq!(refreshes(&stack).await, 2);
    assert_eq!(bearers_refused(&stack).await, 0);
}

pub(crate) async fn failing_refresh_ahead_is_not_felt(backend: Backend) {
    let stack = Stack::start(backend).await;
    settings(&stack, json!({"access_ttl_secs": 120})).await;
    let connection = stack.connect(1, 1).await.unwrap();
    age(&stack, backend, 3600);
    fault(&stack, json!({"on": "token", "fault": "500", "times": 0})).await;

    look_up(&stack).await;
    until("the next token is asked for", || async {
        row(&stack, &connection).await.failures > 0
    })
    .await;
    let answers = crowd(repeat_n(stack.client.clone(), 20), EMAIL).await;

    for answer in answers {
        assert_eq!(answer.expect(200).body, NAME);
    }
    let spent = refreshes(&stack).await;
    assert!((1..=2).contains(&spent), "{spent} calls for one refresh");
    assert_eq!(row(&stack, &connection).await.state.as_str(), "active");
}

pub(crate) async fn first_use_of_a_connection_brings_the_sweep_to_it(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let fresh = row(&stack, &connection).await;
    let unused_for = fresh.due_at.saturating_since(fresh.authorized_at);
    let month = Duration::from_hours(30 * 24);
    assert!(
        month.mul_f32(0.89) < unused_for && unused_for <= month,
        "{unused_for:?}"
    );

    look_up(&stack).await;

    let due = renewal_due_of(RefreshPolicy::BeforeExpiry, &fresh);
    until("the sweep is to come before its callers ask", || async {
        let used = row(&stack, &connection).await;
        used.last_used_at.is_some() && used.due_at <= due
    })
    .await;
    let used = row(&stack, &connection).await;
    assert!(due.saturating_since(used.due_at) <= Duration::from_secs(150));
}

pub(crate) async fn on_401_a_token_is_sent_until_it_is_refused(backend: Backend) {
    let (stack, connection) = connected_with(backend, "on_401").await;
    stack.sql("UPDATE connections SET expires_at = authorized_at");

    for _ in 0..3 {
        look_up(&stack).await;
    }

    assert_eq!(refreshes(&stack).await, 0);
    assert_eq!(row(&stack, &connection).await.generation, 1);
    expire(&stack).await;
    look_up(&stack).await;
    assert_eq!(
        (refreshes(&stack).await, bearers_refused(&stack).await),
        (1, json!(1))
    );
}

pub(crate) async fn every_request_goes_with_a_token_of_the_last_half_minute(backend: Backend) {
    let (stack, connection) = connected_with(backend, "every_request").await;
    age(&stack, backend, 31);

    let answers = crowd(repeat_n(stack.client.clone(), 50), EMAIL).await;
    look_up(&stack).await;

    for answer in answers {
        assert_eq!(answer.expect(200).body, NAME);
    }
    assert_eq!(refreshes(&stack).await, 1);
    // Another renewal half a minute later is no streak of refusals.
    age(&stack, backend, 31);
    look_up(&stack.add_data_api(&[]).await).await;
    let row = row(&stack, &connection).await;
    assert_eq!((row.generation, row.early_renewals), (3, 0));
    assert_eq!(bearers_refused(&stack).await, 0);
}

pub(crate) async fn every_request_heals_a_401_all_the_same(backend: Backend) {
    let (stack, connection) = connected_with(backend, "every_request").await;
    look_up(&stack).await;
    assert_eq!(refreshes(&stack).await, 0);
    expire(&stack).await;

    look_up(&stack).await;

    assert_eq!(row(&stack, &connection).await.generation, 2);
    assert_eq!(
        (refreshes(&stack).await, bearers_refused(&stack).await),
        (1, json!(1))
    );
}

pub(crate) async fn every_request_goes_out_although_the_token_cannot_be_renewed(backend: Backend) {
    let (stack, connection) = connected_with(backend, "every_request").await;
    age(&stack, backend, 31);
    let unreachable = [(
        "data-api.refresher.url",
        "http://127.0.0.1:1/webhook/pipedrive/refresh",
    )];
    for set in [
        &unreachable[..],
        &[("data-api.refresher.password", "wrong")],
    ] {
        look_up(&stack.add_data_api(set).await).await;
    }
    assert_eq!(refreshes(&stack).await, 0);

    // Refused right after a renewal.
    stack.sql("UPDATE connections SET refreshed_at = authorized_at, early_renewals = 7");
    look_up(&stack.add_data_api(&[]).await).await;
    assert_eq!(refreshes(&stack).await, 0);
    stack.sql("UPDATE connections SET early_renewals = 0");

    // The provider makes no sense; it is not asked at the rate of the requests.
    fault(
        &stack,
        json!({"on": "token", "fault": "429_burst", "times": 0}),
    )
    .await;
    let client = stack.add_data_api(&[]).await;
    for _ in 0..3 {
        look_up(&client).await;
    }
    assert_eq!(refreshes(&stack).await, 1);
    assert_eq!(row(&stack, &connection).await.generation, 1);

    stack.sql("UPDATE connections SET expires_at = authorized_at");
    let ended = stack.add_data_api(&unreachable).await.person(EMAIL).await;
    ended.unwrap().expect_problem(503, "REFRESH_FAILED");
}

pub(crate) async fn every_request_goes_out_although_the_refresh_takes_too_long(backend: Backend) {
    let (stack, connection) = connected_with(backend, "every_request").await;
    age(&stack, backend, 31);
    let held = hold_refresh(&stack).await;
    let hurried = stack
        .add_data_api(&[("data-api.refresher.timeout_secs", "1")])
        .await;

    look_up(&hurried).await;

    held.release();
    until("what was asked for is there", || async {
        row(&stack, &connection).await.generation == 2
    })
    .await;
    assert_eq!(refreshes(&stack).await, 1);
}

pub(crate) async fn every_request_waits_once_for_a_refresher_that_does_not_answer(
    backend: Backend,
) {
    let (stack, _) = connected_with(backend, "every_request").await;
    age(&stack, backend, 31);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", silent.local_addr().unwrap());
    let set = [
        ("data-api.refresher.url", url.as_str()),
        ("data-api.refresher.timeout_secs", "1"),
    ];
    let hurried = stack.add_data_api(&set).await;

    look_up(&hurried).await;
    look_up(&hurried).await;

    let _first = silent.accept().await.unwrap();
    let second = tokio::time::timeout(Duration::from_millis(100), silent.accept()).await;
    assert!(second.is_err(), "one wait for two");
}

pub(crate) async fn every_request_of_a_dead_grant_is_refused(backend: Backend) {
    let (stack, _) = connected_with(backend, "every_request").await;
    age(&stack, backend, 31);
    stack.sim("revoke", &json!({})).await.unwrap();

    let refused = stack.person(EMAIL).await.unwrap();

    let problem = refused.expect_problem(401, "TOKEN_INVALIDATED");
    assert_eq!(problem["state"], "reauth_required");
    assert_eq!(bearers_refused(&stack).await, 0);
}
