use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use crate::callback::Callback;
use crate::sim::Sim;

async fn events(sim: &Sim) -> Vec<Value> {
    let log = sim.get("/_sim/log?since=0").await.expect(200).json();
    log["events"].as_array().unwrap().clone()
}

/// An answer may reach its reader a moment before the log says that it is out.
async fn answered(sim: &Sim, event: usize) -> Value {
    let asking = async {
        loop {
            let found = events(sim).await[event].clone();
            if !found["answered_at_us"].is_null() {
                return found;
            }
        }
    };
    timeout(Duration::from_mins(2), asking).await.unwrap()
}

#[tokio::test]
async fn a_grants_life_can_be_read_from_the_log() {
    let sim = Sim::start().await;
    let rotation = json!({"rotation": "single_use_with_reuse_detection"});
    sim.settings(rotation).await;
    let first = sim.install(7, 9).await;
    let second = sim.refresh(&first.refresh).await.tokens();
    sim.refresh(&first.refresh).await.expect(400);
    sim.refresh(&second.refresh).await.expect(400);

    let events = events(&sim).await;

    let told: Vec<_> = events
        .iter()
        .map(|event| {
            (
                event["call"].as_str(),
                event["outcome"].as_str(),
                &event["ended"],
            )
        })
        .collect();
    let (no, yes) = (json!(false), json!(true));
    let expected = [
        (Some("exchange"), Some("ok"), &no),
        (Some("refresh"), Some("ok"), &no),
        (Some("refresh"), Some("reuse"), &yes),
        (Some("refresh"), Some("invalid_grant"), &no),
    ];
    assert_eq!(told, expected);
    for event in &events {
        assert_eq!(
            (&event["company_id"], &event["user_id"]),
            (&json!(7), &json!(9))
        );
        assert!(
            event["arrived_at_us"].as_u64() <= event["at_us"].as_u64(),
            "{event}"
        );
    }
    assert_eq!(events[0]["issued"], events[1]["presented"]);
    assert_eq!(events[1]["presented"], events[2]["presented"]);
    assert_eq!(events[1]["issued"], events[3]["presented"]);
    assert!(!format!("{events:?}").contains(&first.refresh));
}

#[tokio::test]
async fn the_log_tells_faults_and_lost_answers() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    sim.fault(json!({"on": "token", "fault": "500"})).await;
    sim.refresh(&tokens.refresh).await.expect(500);
    sim.fault(json!({"on": "token", "fault": "commit_then_reset"}))
        .await;
    sim.try_send(sim.refresh_request(&tokens.refresh))
        .await
        .unwrap_err();

    let events = events(&sim).await;

    let told = |event: usize| {
        (
            events[event]["outcome"].clone(),
            events[event]["fault"].clone(),
        )
    };
    assert_eq!(told(1), (json!("500"), json!("500")));
    assert_eq!(told(2), (json!("ok"), json!("commit_then_reset")));
    assert!(events[2]["answered_at_us"].is_null());
    assert!(answered(&sim, 0).await["answered_at_us"].as_u64() >= events[0]["at_us"].as_u64());
}

#[tokio::test]
async fn revocations_and_uninstalls_are_in_the_log() {
    let sim = Sim::start().await;
    let first = sim.install(1, 1).await;
    sim.install(2, 2).await;
    sim.install(3, 3).await;
    sim.revoke(&[("token", &first.refresh)]).await.expect(200);
    sim.control(
        "/_sim/uninstall",
        json!({"company": 2, "user": 2, "notify": false}),
    )
    .await;
    sim.control("/_sim/revoke", json!({"company": 3})).await;

    let events = events(&sim).await;

    let ends: Vec<_> = events
        .iter()
        .filter(|event| event["ended"] == true)
        .map(|event| (event["call"].as_str(), event["company_id"].as_u64()))
        .collect();
    let expected = [
        (Some("revoke"), Some(1)),
        (Some("uninstall"), Some(2)),
        (Some("revoked_by_control"), Some(3)),
    ];
    assert_eq!(ends, expected);
}

#[tokio::test]
async fn the_log_goes_on_where_its_reader_stopped() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    let log = sim.get("/_sim/log?since=0").await.expect(200).json();
    sim.refresh(&tokens.refresh).await.expect(200);

    let rest = sim.get(&format!("/_sim/log?since={}", log["next"])).await;
    let rest = rest.expect(200).json();

    assert_eq!(rest["events"].as_array().unwrap().len(), 1);
    assert_eq!(rest["events"][0]["call"], "refresh");
    sim.get("/_sim/log?since=yesterday").await.expect(400);
}

#[tokio::test]
async fn a_call_after_the_answer_says_who_asked() {
    let sim = Sim::start().await;
    let tokens = sim.install(1, 1).await;
    let callback = Callback::listen();
    let url = format!("{}?{{query}}", callback.url);
    let rule =
        json!({"on": "token", "fault": "call", "when": "after_answer", "ms": 20, "url": url});
    sim.fault(rule).await;
    let form = [
        ("grant_type", "refresh_token"),
        ("refresh_token", &tokens.refresh),
    ];
    let request = sim.token_request(&form).query(&[("from", "me")]);

    sim.send(request).await.expect(200);

    assert!(callback.request().starts_with("GET /callback?from=me "));
    let events = events(&sim).await;
    assert_eq!(events[1]["query"], "from=me");
    assert_eq!(events[1]["fault"], "call after_answer");
}
