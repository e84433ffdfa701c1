use std::time::{Duration, Instant};

use serde_json::json;

use crate::sim::{HANGS, Sim, until_met};

#[tokio::test]
async fn by_default_a_refresh_returns_the_same_refresh_token() {
    let sim = Sim::start().await;
    let first = sim.install(1, 1).await;

    let second = sim.refresh(&first.refresh).await.tokens();

    assert_eq!(second.refresh, first.refresh);
    assert_ne!(second.access, first.access);
    assert!(sim.good(&first.access).await);
    assert!(sim.good(&second.access).await);
}

#[tokio::test]
async fn single_use_tokens_are_refused_the_second_time() {
    let sim = Sim::start().await;
    sim.settings(json!({"rotation": "single_use"})).await;
    let first = sim.install(1, 1).await;
    let second = sim.refresh(&first.refresh).await.tokens();
    assert_ne!(second.refresh, first.refresh);

    let reused = sim.refresh(&first.refresh).await.expect(400);

    assert_eq!(
        reused.json()["message"],
        "Invalid grant: refresh_token is invalid"
    );
    sim.refresh(&second.refresh).await.expect(200);
    let stats = sim.stats().await;
    assert_eq!(stats["refresh_token_reuse"], 1);
    assert_eq!(stats["refreshes"], 2);
    assert_eq!(
        stats["token"]["refresh_token"],
        json!({"ok": 2, "invalid_grant": 1})
    );
}

#[tokio::test]
async fn reuse_detection_revokes_the_family() {
    let sim = Sim::start().await;
    sim.settings(json!({"rotation": "single_use_with_reuse_detection"}))
        .await;
    let first = sim.install(1, 1).await;
    let second = sim.refresh(&first.refresh).await.tokens();

    sim.refresh(&first.refresh).await.expect(400);

    sim.refresh(&second.refresh).await.expect(400);
    assert!(!sim.good(&second.access).await);
    assert_eq!(sim.stats().await["books"][0]["state"], "revoked");
}

#[tokio::test]
async fn of_two_refreshes_at_once_a_single_use_token_serves_one() {
    let sim = Sim::start().await;
    sim.settings(json!({"rotation": "single_use", "token_delay_ms": 100}))
        .await;
    let tokens = sim.install(1, 1).await;

    let (one, other) = tokio::join!(sim.refresh(&tokens.refresh), sim.refresh(&tokens.refresh));

    let mut statuses = [one.status, other.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
}

#[tokio::test]
async fn old_access_tokens_die_at_a_refresh_if_so_set() {
    let sim = Sim::start().await;
    sim.settings(json!({"old_access_token_after_refresh": "dead"}))
        .await;
    let first = sim.install(1, 1).await;

    let second = sim.refresh(&first.refresh).await.tokens();

    assert!(!sim.good(&first.access).await);
    assert!(sim.good(&second.access).await);
}

#[tokio::test]
async fn access_tokens_end_after_their_time_and_idle_refresh_tokens_too() {
    let sim = Sim::start().await;
    sim.settings(json!({"access_ttl_secs": 0, "refresh_idle_secs": 0}))
        .await;

    let tokens = sim.install(1, 1).await;

    assert!(!sim.good(&tokens.access).await);
    sim.refresh(&tokens.refresh).await.expect(400);
}

#[tokio::test]
async fn a_reinstall_keeps_or_replaces_the_old_tokens() {
    let sim = Sim::start().await;
    let first = sim.install(1, 1).await;
    let second = sim.install(1, 1).await;
    sim.refresh(&first.refresh).await.expect(200);

    sim.settings(json!({"reinstall": "replaces_tokens"})).await;
    sim.install(1, 1).await;

    sim.refresh(&first.refresh).await.expect(400);
    sim.refresh(&second.refresh).await.expect(400);
    let books = &sim.stats().await["books"];
    assert_eq!(books.as_array().unwrap().len(), 1);
    assert_eq!(books[0]["consents"], 3);
    assert_eq!(books[0]["state"], "active");
}

#[tokio::test]
async fn a_second_exchange_is_refused_and_may_end_the_grant() {
    let sim = Sim::start().await;
    for (setting, state) in [("refused", "active"), ("ends_grant", "revoked")] {
        sim.settings(json!({"code_reuse": setting})).await;
        let code = sim.code(1, 1).await;
        let tokens = sim.exchange(&code).await.tokens();
        assert!(sim.good(&tokens.access).await);

        sim.exchange(&code).await.expect(400);

        assert_eq!(sim.good(&tokens.access).await, state == "active");
        assert_eq!(sim.stats().await["books"][0]["state"], state);
    }
}

#[tokio::test]
async fn token_requests_can_be_slow() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    sim.settings(json!({"token_delay_ms": 200})).await;
    #[expect(clippy::disallowed_methods, reason = "a test measures real time")]
    let begun = Instant::now();

    sim.refresh(&tokens.refresh).await.expect(200);

    assert!(begun.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_refresh_takes_effect_even_if_the_client_has_gone() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    sim.settings(json!({"token_delay_ms": 300})).await;
    sim.fault(json!({"on": "token", "fault": "slow_ms", "ms": 1}))
        .await;

    let url = sim.simulator.url();
    tokio::select! {
        answer = sim.try_send(sim.refresh_request(&tokens.refresh)) => panic!("{answer:?}"),
        // It has come, and goes on without its client.
        () = until_met(&sim.http, &url) => {}
    }

    let effect = async { while sim.stats().await["refreshes"] != 1 {} };
    tokio::time::timeout(HANGS, effect)
        .await
        .expect("it takes effect");
}
