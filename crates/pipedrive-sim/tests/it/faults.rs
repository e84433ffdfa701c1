use std::time::{Duration, Instant};

use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::callback::Callback;
use crate::sim::{HANGS, Sim, until_met};

async fn refreshes(sim: &Sim) -> Value {
    sim.stats().await["refreshes"].clone()
}

/// No status arrives, and the connection ends.
async fn expect_cut(sim: &Sim, request: RequestBuilder) {
    let error = sim.try_send(request).await.expect_err("an answer came");
    assert!(error.is_request() && !error.is_timeout(), "{error:?}");
}

/// Once the request has met its fault nothing arrives.
async fn expect_silence(sim: &Sim, request: RequestBuilder) {
    let url = sim.simulator.url();
    tokio::select! {
        answer = sim.try_send(request) => panic!("{answer:?}"),
        () = until_met(&sim.http, &url) => {}
    }
}

#[tokio::test]
async fn answers_in_place_of_the_tokens_leave_everything_as_it_was() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    for (fault, status, words) in [
        ("500", 500, "\"success\":false"),
        ("503_html", 503, "Whoops!"),
        ("429_burst", 429, "request over limit"),
        ("429_daily", 429, "daily request budget exceeded"),
        (
            "403_cloudflare_html",
            403,
            "This error is produced by Cloudflare",
        ),
        ("401_once", 401, "invalid_client"),
        ("402", 402, "Required suites missing"),
        ("invalid_grant", 400, "refresh_token is invalid"),
        ("garbage", 200, "not what you asked for"),
    ] {
        sim.fault(json!({"on": "token", "fault": fault})).await;
        let answer = sim.refresh(&tokens.refresh).await.expect(status);
        assert!(answer.text.contains(words), "{}", answer.text);
        assert_eq!(sim.stats().await["token"]["refresh_token"][fault], 1);
    }
    assert_eq!(refreshes(&sim).await, 0);
    sim.refresh(&tokens.refresh).await.expect(200);
}

#[tokio::test]
async fn the_same_answers_come_from_the_api() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    for (fault, status) in [
        ("500", 500),
        ("503_html", 503),
        ("429_burst", 429),
        ("429_daily", 429),
        ("403_cloudflare_html", 403),
        ("401_once", 401),
        ("402", 402),
    ] {
        sim.fault(json!({"on": "api", "fault": fault})).await;
        let answer = sim.me(&tokens.access).await.expect(status);
        assert_eq!(answer.header("retry-after").is_some(), status == 429);
        sim.me(&tokens.access).await.expect(200);
    }
    assert_eq!(sim.stats().await["api"]["users/me"]["429"], 2);
}

#[tokio::test]
async fn a_reset_closes_the_connection_before_anything_happened() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    sim.fault(json!({"on": "token", "fault": "reset"})).await;
    sim.fault(json!({"on": "api", "fault": "reset"})).await;

    expect_cut(&sim, sim.refresh_request(&tokens.refresh)).await;
    expect_cut(&sim, sim.api_request("/v1/users/me", &tokens.access)).await;

    assert_eq!(refreshes(&sim).await, 0);
    assert_eq!(sim.stats().await["api"]["users/me"]["no_answer"], 1);
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_has_happened() {
    let sim = Sim::start().await;
    sim.settings(json!({"rotation": "single_use"})).await;
    let tokens = sim.install(1, 1).await;
    sim.fault(json!({"on": "token", "fault": "commit_then_reset"}))
        .await;

    expect_cut(&sim, sim.refresh_request(&tokens.refresh)).await;

    let stats = sim.stats().await;
    assert_eq!(stats["refreshes"], 1);
    assert_eq!(stats["token"]["refresh_token"], json!({"answer_lost": 1}));
    sim.refresh(&tokens.refresh).await.expect(400);
}

#[tokio::test]
async fn silence_comes_before_or_after_the_commit() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;

    sim.fault(json!({"on": "token", "fault": "timeout"})).await;
    expect_silence(&sim, sim.refresh_request(&tokens.refresh)).await;
    assert_eq!(refreshes(&sim).await, 0);

    sim.fault(json!({"on": "token", "fault": "commit_then_hang"}))
        .await;
    expect_silence(&sim, sim.refresh_request(&tokens.refresh)).await;
    let committed = async { while refreshes(&sim).await != 1 {} };
    timeout(HANGS, committed).await.expect("it is committed");
}

#[tokio::test]
async fn a_reset_of_the_simulator_lets_held_connections_go() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    sim.fault(json!({"on": "token", "fault": "timeout"})).await;

    let held = sim.try_send(sim.refresh_request(&tokens.refresh));
    let reset = async {
        until_met(&sim.http, &sim.simulator.url()).await;
        sim.control("/_sim/reset", json!({})).await;
    };
    let (held, ()) = timeout(HANGS, async { tokio::join!(held, reset) })
        .await
        .expect("the connection was let go");

    assert!(held.is_err());
}

#[tokio::test]
async fn stopping_the_simulator_cuts_held_connections() {
    let sim = Sim::start().await;
    sim.fault(json!({"on": "api", "fault": "timeout"})).await;

    let Sim { simulator, http } = sim;
    let url = simulator.url();
    let held = http.get(format!("{url}/v1/users/me")).send();
    let stop = async {
        until_met(&http, &url).await;
        simulator.stop().await;
    };
    let (held, ()) = timeout(HANGS, async { tokio::join!(held, stop) })
        .await
        .expect("the simulator stopped");

    assert!(held.is_err());
}

#[tokio::test]
async fn limits_by_fault_carry_their_headers() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    for (fault, header) in [
        ("429_burst", "x-ratelimit-remaining"),
        ("429_daily", "x-daily-ratelimit-token-remaining"),
    ] {
        sim.fault(json!({"on": "api", "fault": fault})).await;
        assert_eq!(
            sim.me(&tokens.access).await.expect(429).header(header),
            Some("0")
        );
    }
}

#[tokio::test]
async fn a_truncated_answer_breaks_off_in_its_body() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    sim.fault(json!({"on": "token", "fault": "truncated"}))
        .await;

    let answer = sim
        .refresh_request(&tokens.refresh)
        .send()
        .await
        .expect("a head");

    assert_eq!(answer.status(), 200);
    assert!(answer.content_length().expect("a length") > 100);
    assert!(answer.text().await.is_err());
    assert_eq!(refreshes(&sim).await, 1);
}

#[tokio::test]
async fn slow_answers_are_right_in_the_end() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    sim.fault(json!({"on": "api", "fault": "slow_ms", "ms": 200}))
        .await;
    #[expect(clippy::disallowed_methods, reason = "a test measures real time")]
    let begun = Instant::now();

    sim.me(&tokens.access).await.expect(200);

    assert!(begun.elapsed() >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_401_can_come_once_or_for_ever() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;

    sim.fault(json!({"on": "api", "fault": "401_once"})).await;
    sim.me(&tokens.access).await.expect(401);
    sim.me(&tokens.access).await.expect(200);

    sim.fault(json!({"on": "api", "fault": "401", "times": 0}))
        .await;
    for _ in 0..5 {
        sim.me(&tokens.access).await.expect(401);
    }
    sim.send(sim.http.delete(sim.url("/_sim/faults")))
        .await
        .expect(200);
    sim.me(&tokens.access).await.expect(200);
}

#[tokio::test]
async fn a_refresh_can_name_another_api_domain() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    let domain = "https://renamed.pipedrive.com";
    sim.fault(json!({"on": "token", "fault": "changed_api_domain", "api_domain": domain}))
        .await;

    let changed = sim.refresh(&tokens.refresh).await.expect(200).json();
    let after = sim.refresh(&tokens.refresh).await.expect(200).json();

    assert_eq!(changed["api_domain"], domain);
    assert_eq!(after["api_domain"], sim.simulator.url());
}

#[tokio::test]
async fn faults_can_be_kept_to_a_route_or_a_grant_type() {
    let sim = Sim::start().await;
    sim.fault(json!({"on": "token", "grant": "refresh_token", "fault": "500"}))
        .await;
    sim.fault(json!({"on": "api", "route": "persons/search", "fault": "500"}))
        .await;
    sim.fault(json!({"on": "revoke", "fault": "503_html"}))
        .await;

    let tokens = sim.install(1, 1).await;
    sim.me(&tokens.access).await.expect(200);

    sim.refresh(&tokens.refresh).await.expect(500);
    sim.api("/api/v2/persons/search?term=jane", &tokens.access)
        .await
        .expect(500);
    sim.revoke(&[("token", &tokens.refresh)]).await.expect(503);
    assert_eq!(sim.get("/_sim/faults").await.json(), json!([]));
}

#[tokio::test]
async fn a_call_happens_at_its_instant_and_the_answer_still_comes() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    for when in ["before_commit", "after_commit", "mid_answer"] {
        let callback = Callback::listen();
        let rule = json!({"on": "token", "fault": "call", "url": callback.url, "when": when, "method": "POST"});
        sim.fault(rule).await;

        sim.refresh(&tokens.refresh).await.expect(200).tokens();

        assert!(callback.request().starts_with("POST /callback "));
        assert!(callback.silent());
    }
    assert_eq!(refreshes(&sim).await, 3);
}

#[tokio::test]
async fn a_call_may_turn_to_the_simulator_itself() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    let stats = sim.url("/_sim/reset");
    sim.fault(json!({"on": "token", "fault": "call", "url": stats, "when": "after_commit", "method": "POST"})).await;

    sim.refresh(&tokens.refresh).await.expect(200);

    assert_eq!(refreshes(&sim).await, 0);
}

#[tokio::test]
async fn a_call_to_nobody_holds_nothing_up() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    sim.fault(json!({"on": "api", "fault": "call", "url": "http://127.0.0.1:1/", "when": "before_commit"})).await;

    sim.me(&tokens.access).await.expect(200);
}
