//! An expired token heals, at the price of one refresh.

use std::iter::repeat_n;
use std::time::Duration;

use pipekeeper_core::store::Backend;
use serde_json::json;
use stack_tests::{Setup, Stack};
use tokio::task::JoinSet;

use crate::support::{
    EMAIL, NAME, connected, crowd, expire, fault, refresh_log, refreshes, row, settings,
};

pub(crate) async fn expired_token_costs_one_refresh_and_no_caller_notices(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
    expire(&stack).await;

    let healed = stack.person(EMAIL).await.unwrap().expect(200);
    let again = stack.person(EMAIL).await.unwrap().expect(200);

    assert_eq!((healed.body.as_str(), again.body.as_str()), (NAME, NAME));
    assert_eq!(refreshes(&stack).await, 1);
    let row = row(&stack, &connection).await;
    assert_eq!((row.generation, row.lease_owner), (2, None));
    let log = refresh_log(&stack, &row.id, 1).await;
    let told: Vec<_> = log
        .iter()
        .map(|line| {
            (
                line.trigger.as_str(),
                line.outcome.as_str(),
                line.generation_after,
            )
        })
        .collect();
    assert_eq!(told, [("webhook", "refreshed", Some(2))]);
}

pub(crate) async fn fifty_callers_cost_one_refresh(backend: Backend) {
    let (stack, _) = connected(backend).await;
    settings(&stack, json!({"token_delay_ms": 200})).await;
    stack.person(EMAIL).await.unwrap().expect(200);
    expire(&stack).await;

    let answers = crowd(repeat_n(stack.client.clone(), 50), EMAIL).await;

    for answer in answers {
        assert_eq!(answer.expect(200).body, NAME);
    }
    assert_eq!(refreshes(&stack).await, 1);
}

pub(crate) async fn fifty_callers_cost_one_refresh_of_a_single_use_token(backend: Backend) {
    for rotation in ["single_use", "single_use_with_reuse_detection"] {
        let stack = Stack::start(backend).await;
        settings(
            &stack,
            json!({"rotation": rotation, "token_delay_ms": 200, "old_access_token_after_refresh": "dead"}),
        )
        .await;
        stack.connect(1, 1).await.unwrap();
        expire(&stack).await;

        let answers = crowd(repeat_n(stack.client.clone(), 50), EMAIL).await;

        for answer in answers {
            assert_eq!(answer.expect(200).body, NAME, "{rotation}");
        }
        let stats = stack.stats().await.unwrap();
        assert_eq!(refreshes(&stack).await, 1, "{rotation}");
        assert_eq!(stats["refresh_token_reuse"], 0, "{rotation}");
    }
}

pub(crate) async fn two_refreshers_and_two_data_apis_cost_one_refresh(backend: Backend) {
    let setup = Setup {
        more_refreshers: 1,
        more_data_apis: 1,
        ..Setup::default()
    };
    let stack = Stack::with(backend, setup).await;
    settings(
        &stack,
        json!({"rotation": "single_use_with_reuse_detection", "token_delay_ms": 200}),
    )
    .await;
    stack.connect(1, 1).await.unwrap();
    for data_api in 0..2 {
        stack
            .through(data_api)
            .person(EMAIL)
            .await
            .unwrap()
            .expect(200);
    }
    expire(&stack).await;

    let answers = crowd((0..60).map(|caller| stack.through(caller % 2)), EMAIL).await;

    for answer in answers {
        assert_eq!(answer.expect(200).body, NAME);
    }
    assert_eq!(refreshes(&stack).await, 1);
    let (first, second) = (&stack.refreshers[0], &stack.refreshers[1]);
    assert_ne!(first, second);
}

pub(crate) async fn api_that_refuses_everything_costs_few_refreshes_at_once(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    fault(
        &stack,
        json!({"on": "api", "fault": "401", "times": 0, "route": "persons"}),
    )
    .await;

    let answers = crowd(repeat_n(stack.client.clone(), 100), EMAIL).await;

    for answer in answers {
        // The connection is as good as before: only the provider's own end of it is a 401.
        let problem = answer.expect_problem(503, "REFRESH_BUSY");
        assert_eq!(problem["reason"], "refused_after_renewal");
        assert!(answer.retry_after() >= 1);
    }
    assert!(refreshes(&stack).await <= 5);
    assert_eq!(row(&stack, &connection).await.state.as_str(), "active");
}

/// A 401 to a token that has ended by now says nothing of the grant.
pub(crate) async fn token_that_ends_before_it_is_used_is_no_dead_connection(backend: Backend) {
    let stack = Stack::start(backend).await;
    settings(&stack, json!({"access_ttl_secs": 5})).await;
    stack.connect(1, 1).await.unwrap();
    fault(
        &stack,
        json!({"on": "api", "fault": "slow_ms", "ms": 6000, "times": 0, "route": "persons"}),
    )
    .await;

    let answer = stack.person(EMAIL).await.unwrap();

    answer.expect_problem(503, "REFRESH_BUSY");
    assert_eq!(answer.retry_after(), 1);
}

/// The waits between renewals grow: 1, 2, 4 … seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_that_refuses_everything_costs_few_refreshes_in_ten_seconds() {
    let (stack, _) = connected(Backend::Sqlite).await;
    fault(
        &stack,
        json!({"on": "api", "fault": "401", "times": 0, "route": "persons"}),
    )
    .await;

    let begun = tokio::time::Instant::now();
    let mut every = tokio::time::interval(Duration::from_millis(100));
    let mut callers = JoinSet::new();
    for _ in 0..100 {
        every.tick().await;
        let caller = stack.client.clone();
        callers.spawn(async move { caller.person(EMAIL).await.unwrap() });
    }

    for answer in callers.join_all().await {
        answer.expect_problem(503, "REFRESH_BUSY");
    }
    let spent = refreshes(&stack).await;
    // Ten seconds have room for four of these waits, and a slow machine takes longer.
    let most = 2 + begun.elapsed().as_secs().max(10).ilog2();
    assert!(
        (1..=u64::from(most)).contains(&spent),
        "{spent} refresh tokens spent"
    );
}
