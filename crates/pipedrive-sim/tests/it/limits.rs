use serde_json::json;

use crate::sim::Sim;

const SEARCH: &str = "/api/v2/persons/search?term=jane";

#[tokio::test]
async fn without_a_plan_there_are_no_limits_and_no_rate_headers() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;

    for _ in 0..20 {
        let answer = sim.api(SEARCH, &tokens.access).await.expect(200);
        assert_eq!(answer.header("x-ratelimit-limit"), None);
        assert_eq!(answer.header("x-daily-ratelimit-token-remaining"), None);
    }
}

#[tokio::test]
async fn a_plan_shows_in_the_headers() {
    let sim = Sim::start().await;
    sim.settings(json!({"plan": "growth", "seats": 2})).await;
    let tokens = sim.install(1, 1).await;

    let answer = sim.me(&tokens.access).await.expect(200);
    assert_eq!(answer.header("x-ratelimit-limit"), Some("160"));
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("159"));
    assert_eq!(answer.header("x-ratelimit-reset"), Some("2"));
    assert_eq!(
        answer.header("x-daily-ratelimit-token-limit"),
        Some("120000")
    );
    assert_eq!(
        answer.header("x-daily-ratelimit-token-remaining"),
        Some("119998")
    );

    let answer = sim.api(SEARCH, &tokens.access).await.expect(200);
    assert_eq!(answer.header("x-ratelimit-limit"), Some("10"));
    assert_eq!(
        answer.header("x-daily-ratelimit-token-remaining"),
        Some("119978")
    );

    sim.settings(json!({"rate_headers": false})).await;
    let answer = sim.me(&tokens.access).await.expect(200);
    assert_eq!(answer.header("x-ratelimit-limit"), None);
}

#[tokio::test]
async fn the_eleventh_search_within_two_seconds_is_refused() {
    let sim = Sim::start().await;
    sim.settings(json!({"plan": "ultimate"})).await;
    let tokens = sim.install(1, 1).await;
    for _ in 0..10 {
        sim.api(SEARCH, &tokens.access).await.expect(200);
    }

    let refused = sim.api(SEARCH, &tokens.access).await.expect(429);

    assert_eq!(refused.header("retry-after"), Some("2"));
    assert_eq!(refused.header("x-ratelimit-remaining"), Some("0"));
    let body = refused.json();
    assert_eq!(body["error"], "request over limit");
    assert_eq!(body["errorCode"], 429);
    // the window is the token's, not the company's
    sim.me(&tokens.access).await.expect(200);
    let other = sim.install(1, 2).await;
    sim.api(SEARCH, &other.access).await.expect(200);
}

#[tokio::test]
async fn a_company_that_spent_its_budget_is_refused_until_midnight() {
    let sim = Sim::start().await;
    sim.settings(json!({"budget_tokens": 41})).await;
    let (one, colleague, stranger) = (
        sim.install(1, 1).await,
        sim.install(1, 2).await,
        sim.install(2, 1).await,
    );
    sim.api(SEARCH, &one.access).await.expect(200);
    sim.api(SEARCH, &one.access).await.expect(200);

    let refused = sim.me(&colleague.access).await.expect(429);

    assert_eq!(refused.json()["error"], "daily request budget exceeded");
    assert_eq!(
        refused.header("x-daily-ratelimit-token-remaining"),
        Some("1")
    );
    let wait: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&wait));
    sim.me(&stranger.access).await.expect(200);
}
