//! What the provider gave is kept: anyone who gives up, stops, or loses the database meanwhile.

use std::time::Duration;

use pipekeeper_core::store::Backend;
use serde_json::json;
use up::tasks::in_background;

use crate::support::{
    EMAIL, NAME, connected, expire, hold_refresh, panics_in_services, refreshes, row, settings,
    until,
};

pub(crate) async fn caller_that_gives_up_does_not_abort_the_refresh(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let rotation = json!({"rotation": "single_use_with_reuse_detection"});
    settings(&stack, rotation).await;
    let mut held = hold_refresh(&stack).await;
    expire(&stack).await;
    let body = json!({"connectionId": connection["id"], "generation": 1});

    let refresh = stack.client.clone();
    let refresh = in_background(async move { refresh.refresh(&body).await });
    held.reached().await;
    refresh.abort();
    let person = tokio::time::timeout(Duration::from_millis(200), stack.person(EMAIL)).await;

    assert!(person.is_err() && refresh.await.unwrap_err().is_cancelled());
    held.release();
    until("the refresh is committed", || async {
        row(&stack, &connection).await.generation == 2
    })
    .await;
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
    assert_eq!(refreshes(&stack).await, 1);
}

pub(crate) async fn stop_in_the_middle_of_a_refresh_commits_it(backend: Backend) {
    let (mut stack, connection) = connected(backend).await;
    settings(&stack, json!({"rotation": "single_use"})).await;
    let mut held = hold_refresh(&stack).await;
    let (caller, body) = (
        stack.client.clone(),
        json!({"connectionId": connection["id"], "generation": 1}),
    );
    let waiting = in_background(async move { caller.refresh(&body).await });
    held.reached().await;

    let ((), ()) = tokio::join!(stack.stop_refreshers(), async { held.release() });

    let row = row(&stack, &connection).await;
    assert_eq!(
        (row.generation, row.lease_owner, row.state.as_str()),
        (2, None, "active")
    );
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.expect(200).json()["outcome"], "refreshed");
    let fresh = stack.add_data_api(&[]).await;
    assert_eq!(fresh.person(EMAIL).await.unwrap().expect(200).body, NAME);
    assert_eq!(refreshes(&stack).await, 1);
}

pub(crate) async fn stop_in_the_middle_of_an_abandoned_refresh_commits_it(backend: Backend) {
    let (mut stack, connection) = connected(backend).await;
    settings(&stack, json!({"rotation": "single_use"})).await;
    let mut held = hold_refresh(&stack).await;
    let (caller, body) = (
        stack.client.clone(),
        json!({"connectionId": connection["id"], "generation": 1}),
    );
    let waiting = in_background(async move { caller.refresh(&body).await });
    held.reached().await;
    waiting.abort();

    let ((), ()) = tokio::join!(stack.stop_refreshers(), async { held.release() });

    let row = row(&stack, &connection).await;
    assert_eq!((row.generation, row.lease_owner), (2, None));
    assert_eq!(refreshes(&stack).await, 1);
}

/// A disconnect while the call is under way: what it brings must not live on at the provider.
pub(crate) async fn refresh_that_loses_to_an_uninstall_revokes_what_it_got(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    settings(&stack, json!({"rotation": "single_use"})).await;
    let mut held = hold_refresh(&stack).await;
    let (caller, body) = (
        stack.client.clone(),
        json!({"connectionId": connection["id"], "generation": 1}),
    );
    let waiting = in_background(async move { caller.refresh(&body).await });
    held.reached().await;
    let notice = json!({
        "company": 1, "user": 1, "client_id": stack.client_id, "kill": false,
        // Long after the consent: no one has to ask the provider whether it is about this one.
        "timestamp": "2999-01-01T00:00:00Z",
        "notify_url": format!("{}/auth/callback", stack.auth_capture),
    });
    stack.sim("uninstall", &notice).await.unwrap();
    held.release();

    let answer = waiting.await.unwrap().unwrap();

    let problem = answer.expect_problem(409, "TOKEN_INVALIDATED");
    assert_eq!(problem["state"], "revoked");
    assert_eq!(row(&stack, &connection).await.state.as_str(), "revoked");
    until("the sweep has told the provider", || async {
        stack.stats().await.unwrap()["revocations"] == json!({"grant": 1})
    })
    .await;
}

/// A reconnect while the call is under way: the newer consent stays.
pub(crate) async fn refresh_that_loses_to_a_reconnect_leaves_it_alone(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    settings(&stack, json!({"reinstall": "keeps_old_tokens"})).await;
    let mut held = hold_refresh(&stack).await;
    let (caller, body) = (
        stack.client.clone(),
        json!({"connectionId": connection["id"], "generation": 1}),
    );
    let waiting = in_background(async move { caller.refresh(&body).await });
    held.reached().await;

    let again = stack.connect(1, 1).await.unwrap();
    let reconnected = row(&stack, &connection).await;
    held.release();
    let answer = waiting.await.unwrap().unwrap();

    assert_eq!(again["generation"], 2);
    let said = answer.expect(200).json();
    assert_eq!(
        (&said["outcome"], &said["generation"]),
        (&json!("already_newer"), &json!(2))
    );
    let after = row(&stack, &connection).await;
    assert_eq!(
        (after.generation, after.access_token),
        (2, reconnected.access_token)
    );
    assert_eq!(after.lease_owner, None);
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
}

/// Whatever a service is doing for a caller when the connection closes, it is dropped without harm.
pub(crate) async fn callers_that_go_away_harm_nobody(backend: Backend) {
    panics_in_services();
    let (stack, connection) = connected(backend).await;
    let person = json!({"person": {"email": EMAIL}, "accountId": connection["account_id"]});
    let refresh =
        json!({"appId": stack.client_id, "accountId": connection["account_id"], "generation": 0});
    for round in 0..60 {
        let fresh = json!({"person": {"email": EMAIL}, "accountId": "x", "owner": round});
        for request in [
            stack.person_request(&person),
            stack.person_request(&fresh),
            stack.refresh_request(&refresh),
        ] {
            let hurry = Duration::from_micros(300 * (round % 10));

            drop(tokio::time::timeout(hurry, request.send()).await);
        }
    }

    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
    stack.refresh(&refresh).await.unwrap().expect(200);
    assert_eq!(panics_in_services(), 0);
    assert_eq!(refreshes(&stack).await, 0);
}
