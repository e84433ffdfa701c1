use pipedrive_sim::{App, DEFAULT_CLIENT_ID, DEFAULT_REDIRECT_URL, Options, Settings, Simulator};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::callback::Callback;
use crate::sim::Sim;

fn fingerprint(token: &str) -> String {
    hex::encode(&Sha256::digest(token.as_bytes())[..8])
}

async fn with_callback(callback: &Callback) -> Sim {
    let app = App {
        redirect_url: callback.url.clone(),
        ..App::default()
    };
    Sim::with(Options {
        apps: vec![app],
        ..Options::default()
    })
    .await
}

async fn install_with_callback(sim: &Sim, callback: &Callback) -> String {
    let answer = sim
        .authorize(&[
            ("redirect_uri", &callback.url),
            ("auto", "approve"),
            ("user", "7"),
        ])
        .await;
    let location = answer.header("location").unwrap().to_owned();
    let code = location.split_once("code=").unwrap().1;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", code),
        ("redirect_uri", &callback.url),
    ];
    sim.send(sim.token_request(&form)).await.tokens().refresh
}

#[tokio::test]
async fn expired_access_tokens_are_renewed() {
    let sim = Sim::start().await;
    let (one, other) = (sim.install(1, 1).await, sim.install(2, 1).await);

    assert_eq!(
        sim.control("/_sim/expire", json!({"company": 1})).await,
        json!({"expired": 1})
    );
    assert_eq!(
        sim.stats().await["books"][0]["access_token_fingerprints"],
        json!([])
    );

    assert!(!sim.good(&one.access).await);
    assert!(sim.good(&other.access).await);
    let renewed = sim.refresh(&one.refresh).await.tokens();
    assert!(sim.good(&renewed.access).await);
    assert_eq!(
        sim.control("/_sim/expire", json!({})).await,
        json!({"expired": 2})
    );
}

#[tokio::test]
async fn revoked_grants_are_dead_until_a_new_consent() {
    let sim = Sim::start().await;
    let (one, other) = (sim.install(1, 1).await, sim.install(1, 2).await);

    let revoked = sim
        .control("/_sim/revoke", json!({"company": 1, "user": 1}))
        .await;

    assert_eq!(revoked, json!({"revoked": 1}));
    assert!(!sim.good(&one.access).await);
    assert_eq!(
        sim.refresh(&one.refresh).await.expect(400).json()["error"],
        "invalid_grant"
    );
    assert!(sim.good(&other.access).await);
    let again = sim.install(1, 1).await;
    assert!(sim.good(&again.access).await);
    sim.refresh(&one.refresh).await.expect(400);
}

#[tokio::test]
async fn an_uninstall_kills_the_grant_and_tells_the_app() {
    let callback = Callback::listen();
    let sim = with_callback(&callback).await;
    let refresh_token = install_with_callback(&sim, &callback).await;

    let answer = sim
        .control("/_sim/uninstall", json!({"company": 1, "user": 7}))
        .await;

    assert_eq!(answer["uninstalled"], 1);
    assert_eq!(answer["notices"][0]["status"], 202);
    assert_eq!(answer["notices"][0]["body"], "noted");
    let notice = callback.request();
    assert!(notice.starts_with("DELETE /callback "), "{notice}");
    assert!(notice.to_lowercase().contains("\r\nauthorization: basic "));
    let body: Value = serde_json::from_str(notice.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["client_id"], DEFAULT_CLIENT_ID);
    assert_eq!(
        (&body["company_id"], &body["user_id"]),
        (&json!(1), &json!(7))
    );
    assert!(body["timestamp"].as_str().unwrap().ends_with('Z'));
    sim.refresh(&refresh_token).await.expect(400);
    let stats = sim.stats().await;
    assert_eq!(stats["books"][0]["state"], "uninstalled");
    assert_eq!(stats["notices"], json!({"202": 1}));
}

#[tokio::test]
async fn a_notice_can_be_lost_or_come_late() {
    let callback = Callback::listen();
    let sim = with_callback(&callback).await;
    install_with_callback(&sim, &callback).await;
    sim.control(
        "/_sim/uninstall",
        json!({"company": 1, "user": 7, "notify": false}),
    )
    .await;
    assert!(callback.silent());
    let refresh_token = install_with_callback(&sim, &callback).await;

    let elsewhere = Callback::listen();
    let late = json!({
        "company": 1, "user": 7, "kill": false,
        "timestamp": "2020-01-01T00:00:00.000Z", "notify_url": elsewhere.url,
    });
    let answer = sim.control("/_sim/uninstall", late).await;

    assert_eq!(answer["uninstalled"], 0);
    assert!(elsewhere.request().contains("2020-01-01T00:00:00.000Z"));
    assert!(callback.silent());
    sim.refresh(&refresh_token).await.expect(200);
}

#[tokio::test]
async fn a_notice_that_nobody_takes_is_reported() {
    let sim = Sim::start().await;
    let order = json!({"company": 1, "user": 1, "notify_url": "http://127.0.0.1:1/"});

    let answer = sim.control("/_sim/uninstall", order).await;

    assert!(answer["notices"][0]["error"].is_string());
    assert_eq!(sim.stats().await["notices"], json!({"failed": 1}));
}

#[tokio::test]
async fn the_books_know_every_grant_by_fingerprints_alone() {
    let sim = Sim::start().await;
    let first = sim.install(1, 7).await;
    let second = sim.refresh(&first.refresh).await.tokens();
    sim.me(&second.access).await.expect(200);

    let answer = sim.get("/_sim/stats").await.expect(200);

    for token in [&first.access, &first.refresh, &second.access] {
        assert!(!answer.text.contains(token.as_str()));
    }
    let stats = answer.json();
    let grant = &stats["books"][0];
    assert_eq!(grant["client_id"], DEFAULT_CLIENT_ID);
    assert_eq!(
        (&grant["company_id"], &grant["user_id"]),
        (&json!(1), &json!(7))
    );
    assert_eq!(grant["state"], "active");
    assert_eq!(grant["refreshes"], 1);
    assert_eq!(
        grant["refresh_token_fingerprint"],
        fingerprint(&first.refresh)
    );
    let access = json!([fingerprint(&first.access), fingerprint(&second.access)]);
    assert_eq!(grant["access_token_fingerprints"], access);
    assert_eq!(stats["authorizations"], json!({"approve": 1}));
    assert_eq!(stats["exchanges"], 1);
    assert_eq!(stats["api"], json!({"users/me": {"200": 1}}));
}

#[tokio::test]
async fn a_reset_takes_controls_back_and_on_request_the_world() {
    let settings = Settings {
        access_ttl_secs: 100,
        ..Settings::default()
    };
    let sim = Sim::with(Options {
        settings,
        ..Options::default()
    })
    .await;
    let tokens = sim.install(1, 1).await;
    sim.settings(json!({"access_ttl_secs": 5})).await;
    sim.fault(json!({"on": "api", "fault": "500", "times": -1}))
        .await;

    sim.control("/_sim/reset", json!({})).await;
    assert_eq!(
        sim.get("/_sim/settings").await.json()["access_ttl_secs"],
        100
    );
    assert_eq!(sim.stats().await["exchanges"], 0);
    assert!(sim.good(&tokens.access).await);

    sim.control("/_sim/reset", json!({"world": true})).await;
    assert!(!sim.good(&tokens.access).await);
    assert_eq!(sim.stats().await["books"], json!([]));
}

#[tokio::test]
async fn controls_refuse_what_they_do_not_know_and_change_nothing() {
    let sim = Sim::start().await;
    for (path, body) in [
        ("/_sim/settings", json!({"rotation": "weekly"})),
        (
            "/_sim/settings",
            json!({"access_ttl_secs": 5, "colour": "red"}),
        ),
        ("/_sim/faults", json!({"on": "api", "fault": "explode"})),
        ("/_sim/faults", json!({"on": "api", "fault": "slow_ms"})),
        ("/_sim/expire", json!({"compny": 1})),
        ("/_sim/uninstall", json!({"company": 1})),
        (
            "/_sim/uninstall",
            json!({"company": 1, "user": 1, "client_id": "nobody"}),
        ),
        ("/_sim/persons", json!({"name": 1})),
    ] {
        let request = sim.http.post(sim.url(path)).json(&body);
        let refused = sim.send(request).await.expect(400).json();
        assert!(refused["error"].is_string());
    }
    assert_eq!(
        sim.get("/_sim/settings").await.json()["access_ttl_secs"],
        3599
    );
    assert_eq!(sim.get("/_sim/faults").await.json(), json!([]));
    sim.get("/_sim/nothing").await.expect(404);
}

#[tokio::test]
async fn every_url_is_described() {
    let sim = Sim::start().await;

    let document = sim.get("/openapi.json").await.expect(200).json();

    let described: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    assert_eq!(
        described,
        [
            "/_sim/expire",
            "/_sim/faults",
            "/_sim/healthz",
            "/_sim/log",
            "/_sim/persons",
            "/_sim/reset",
            "/_sim/revoke",
            "/_sim/settings",
            "/_sim/stats",
            "/_sim/uninstall",
            "/api/v1/users/me",
            "/api/v2/persons/search",
            "/healthz",
            "/oauth/authorize",
            "/oauth/revoke",
            "/oauth/token",
            "/oauth/token/",
            "/v1/users/me",
        ]
    );
    let printed: Value = serde_json::from_str(&pipedrive_sim::openapi().unwrap()).unwrap();
    assert_eq!(printed, document);
}

#[tokio::test]
async fn it_is_alive_until_it_is_stopped_and_its_port_is_free_then() {
    let sim = Sim::start().await;
    sim.get("/healthz").await.expect(200);
    sim.get("/_sim/healthz").await.expect(200);
    let listen = sim
        .simulator
        .url()
        .trim_start_matches("http://")
        .parse()
        .unwrap();
    assert!(pipedrive_sim::healthy(listen).await);

    sim.simulator.stop().await;
    assert!(!pipedrive_sim::healthy(listen).await);

    let again = Simulator::start(Options {
        listen,
        ..Options::default()
    })
    .await
    .unwrap();
    assert!(pipedrive_sim::healthy(listen).await);
    let taken = Simulator::start(Options {
        listen,
        ..Options::default()
    })
    .await;
    assert!(taken.is_err());
    drop(again);
}

#[tokio::test]
async fn a_seed_makes_runs_repeatable() {
    let seeded = || Options {
        seed: Some(4),
        ..Options::default()
    };
    let (one, other) = (Sim::with(seeded()).await, Sim::with(seeded()).await);

    assert_eq!(one.code(1, 1).await, other.code(1, 1).await);
    assert_eq!(DEFAULT_REDIRECT_URL, App::default().redirect_url);
}
