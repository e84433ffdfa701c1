//! A database that goes away, or takes no writes, and comes back. An outage needs a server: `SQLite` is a file.

use std::sync::Mutex;

use pipekeeper_core::connection::AppKey;
use pipekeeper_core::store::Backend;
use pipekeeper_testing::TestDirectory;
use serde_json::{Value, json};
use stack_tests::{Reply, Setup, Stack};
use up::client::REFRESH;
use up::tasks::in_background;

use crate::logins::{OPERATOR, begin, consented};
use crate::support::{
    EMAIL, NAME, connected, expire, hold_refresh, refreshes, row, settings, until, until_ok,
};

async fn gated(backend: Backend, set: &[(&str, &str)]) -> Stack {
    let setup = Setup {
        gated: true,
        set,
        ..Setup::default()
    };
    Stack::with(backend, setup).await
}

async fn get(stack: &Stack, url: String) -> Reply {
    Reply::of(stack.http.get(url).send().await.unwrap())
        .await
        .unwrap()
}

pub(crate) async fn outage_is_said_and_heals_by_itself(backend: Backend) {
    let stack = gated(backend, &[("auth-capture.login.store_patience_secs", "1")]).await;
    let (first, second) = (
        stack.connect(1, 1).await.unwrap(),
        stack.connect(2, 1).await.unwrap(),
    );
    stack.person_of(&first, EMAIL).await.unwrap().expect(200);
    let gate = stack.gate.as_ref().unwrap();
    let refresh = json!({"connectionId": first["id"], "generation": 1});
    let code = stack.marketplace_consent("approve", 3, 1).await.unwrap();

    gate.cut();

    let cached = stack.person_of(&first, EMAIL).await.unwrap();
    assert_eq!(cached.expect(200).body, NAME);
    for answer in [
        stack.person_of(&second, EMAIL).await.unwrap(),
        stack.refresh(&refresh).await.unwrap(),
        begin(&stack, "account_id=acme&owner=boss", Some(OPERATOR)).await,
        stack.callback(&code).await.unwrap(),
    ] {
        answer.expect_problem(503, "STORE_UNAVAILABLE");
        assert!(answer.retry_after() >= 1);
    }
    // What is stored nowhere needs no database; nor does what somebody has invented.
    begin(&stack, "", None).await.expect(303);
    for invented in ["login.junk", "sealed.junk", "junk"] {
        let query = format!("code=x&state=pipekeeper.{invented}");
        let refused = stack.callback(&query).await.unwrap();
        refused.expect_problem(400, "LOGIN_INVALID");
    }
    for service in [&stack.auth_capture, &stack.data_api, &stack.token_refresher] {
        let ready = get(&stack, format!("{service}/readyz")).await;
        assert_eq!(
            ready.expect_problem(503, "STORE_UNAVAILABLE")["degraded"],
            json!(["database"])
        );
        get(&stack, format!("{service}/healthz")).await.expect(200);
    }
    assert_eq!(refreshes(&stack).await, 0);

    gate.open();

    for service in [&stack.auth_capture, &stack.data_api, &stack.token_refresher] {
        until_ok("every service is ready again", || async {
            get(&stack, format!("{service}/readyz")).await
        })
        .await;
    }
    let healed = stack.person_of(&second, EMAIL).await.unwrap();
    assert_eq!(healed.expect(200).body, "Jane Doe of Borealis Energy");
    // For some seconds after its connections were lost a process spends nothing.
    until_ok("it refreshes again", || async {
        stack.refresh(&refresh).await.unwrap()
    })
    .await;
    stack.connect(3, 1).await.unwrap();
}

/// The provider has answered, the database is gone: the only copy of the new token is in the process.
pub(crate) async fn refreshed_token_outlives_a_cut_before_its_commit(backend: Backend) {
    let stack = gated(backend, &[]).await;
    let connection = stack.connect(1, 1).await.unwrap();
    let rotation = json!({"rotation": "single_use_with_reuse_detection"});
    settings(&stack, rotation).await;
    let mut held = hold_refresh(&stack).await;
    let gate = stack.gate.as_ref().unwrap();
    let (caller, body) = (
        stack.client.clone(),
        json!({"connectionId": connection["id"], "generation": 1}),
    );
    let waiting = in_background(async move { caller.refresh(&body).await });
    held.reached().await;

    gate.cut();
    held.release();
    until("the provider has answered", || async {
        stack.stats().await.unwrap()["refreshes"] == 1
    })
    .await;
    assert_eq!(row(&stack, &connection).await.generation, 1);
    gate.open();

    until("the new token is committed", || async {
        row(&stack, &connection).await.generation == 2
    })
    .await;
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.expect(200).json()["outcome"], "refreshed");
    // data-api may meet a connection that the cut broke, once.
    until("the new token is of use", || async {
        stack.person(EMAIL).await.unwrap().body == NAME
    })
    .await;
    let stats = stack.stats().await.unwrap();
    assert_eq!(
        (&stats["refreshes"], &stats["refresh_token_reuse"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(refreshes(&stack).await, 1);
}

/// The code is spent at the provider, the database is gone: the grant waits for it.
pub(crate) async fn new_grant_outlives_a_cut_before_it_is_stored(backend: Backend) {
    let stack = gated(backend, &[("auth-capture.login.store_patience_secs", "30")]).await;
    let query = stack.marketplace_consent("approve", 1, 1).await.unwrap();
    let gate = stack.gate.as_ref().unwrap();

    settings(&stack, json!({"token_delay_ms": 500})).await;
    let caller = stack.client.clone();
    let waiting = in_background(async move { caller.callback(&query).await });
    until("the code is claimed", || async {
        !stack.sql("SELECT id FROM callbacks").is_empty()
    })
    .await;
    gate.cut();
    until("the code is exchanged", || async {
        stack.stats().await.unwrap()["exchanges"] == 1
    })
    .await;
    gate.open();

    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.expect(200).json()["message"], "Connected");
    // data-api may meet a connection that the cut broke, once.
    until("the grant is of use", || async {
        stack.person(EMAIL).await.unwrap().body == NAME
    })
    .await;
}

/// The tokens are stored, and auth-capture doesn't know it: a refresh has replaced them by the time it looks again.
pub(crate) async fn consent_whose_commit_lost_its_response_is_not_stored_again(backend: Backend) {
    let stack = Stack::start(backend).await;
    settings(
        &stack,
        json!({"rotation": "single_use_with_reuse_detection"}),
    )
    .await;
    let gate = stack.database().gate();
    let url = gate.url();
    let set = [
        ("auth-capture.database.url", url.expose()),
        ("auth-capture.login.store_patience_secs", "60"),
    ];
    let cut_off = stack.add_auth_capture(&set).await;
    // A consent that is stored, and one that is refused and whose tokens the person's row gets.
    for (generation, account, expected) in [(1, "acme", 200), (4, "other", 409)] {
        let caller = cut_off.clone();
        let (back, cookie) = consented(&caller, account, 1, 1).await;
        gate.lose_commit();
        let waiting = in_background(async move { caller.finish_login(&back, Some(&cookie)).await });
        until("the tokens are stored", || async {
            stack.sql("SELECT id AS line FROM connections").len() == 1
                && stored_generation(&stack).await == generation
        })
        .await;

        let refresh = async |failed: i64| {
            let body = json!({"accountId": "acme", "owner": "boss", "generation": failed});
            until_ok("the token is refreshed", || async {
                stack.refresh(&body).await.unwrap()
            })
            .await;
        };
        refresh(generation).await;
        gate.open();

        let answer = waiting.await.unwrap().unwrap();
        assert_eq!(answer.status, expected, "{}", answer.body);
        assert_eq!(stored_generation(&stack).await, generation + 1);
        refresh(generation + 1).await;
        let stats = stack.stats().await.unwrap();
        assert_eq!(stats["refresh_token_reuse"], 0, "{stats}");
    }
}

/// Of the only connection.
async fn stored_generation(stack: &Stack) -> i64 {
    let key = AppKey {
        platform: "Pipedrive".to_owned(),
        app_id: stack.client_id.clone(),
    };
    let found = stack.store().connection_find_by_grant(&key, "1", "1").await;
    found.unwrap().expect("the person is connected").generation
}

/// It answers, and what needs no write goes on.
pub(crate) async fn database_that_takes_no_writes_is_named(backend: Backend) {
    let (stack, connection) = connected(backend).await;
    let degraded = async || {
        let ready = get(&stack, format!("{}/readyz", stack.token_refresher)).await;
        ready.expect(200).json()["degraded"].clone()
    };
    assert_eq!(degraded().await, json!([]));
    let refresh = json!({"connectionId": connection["id"], "generation": 1});

    stack.database().fill_disk();

    let refused = stack.refresh(&refresh).await.unwrap();
    let problem = refused.expect_problem(503, "STORE_UNAVAILABLE");
    assert_eq!(problem["detail"], "The database's disk is full.");
    let named = degraded().await;
    let first = named[0].as_str().unwrap();
    assert!(first.starts_with("The database's disk is full."), "{named}");
    assert_eq!(stack.person(EMAIL).await.unwrap().expect(200).body, NAME);
    assert_eq!(refreshes(&stack).await, 0);

    stack.database().clear_disk();

    until_ok("the refresh succeeds", || async {
        stack.refresh(&refresh).await.unwrap()
    })
    .await;
    until("nothing is degraded", || async {
        degraded().await == json!([])
    })
    .await;
}

/// Nothing moves and nothing closes, as behind a network that swallows packets: no caller waits for ever.
pub(crate) async fn silent_database_is_given_up_on(backend: Backend) {
    let stack = gated(backend, &[]).await;
    stack.connect(1, 1).await.unwrap();
    let gate = stack.gate.as_ref().unwrap();

    gate.stall();
    let answer = stack.person(EMAIL).await.unwrap();
    gate.open();

    answer.expect_problem(503, "STORE_UNAVAILABLE");
    until_ok("it works again", || async {
        stack.person(EMAIL).await.unwrap()
    })
    .await;
}

/// token-refresher has renewed the token, and data-api can't read it: the refused one is not tried again, and no one is told
/// that the connection is dead.
pub(crate) async fn newer_token_that_cannot_be_read_is_no_dead_connection(backend: Backend) {
    let stack = gated(backend, &[]).await;
    stack.connect(1, 1).await.unwrap();
    let direct = stack.database_url();
    let set = [("token-refresher.database.url", direct.expose())];
    let refresher = stack.add_refresher(&set).await;
    let url = format!("{}{REFRESH}", refresher.token_refresher);
    let client = stack
        .add_data_api(&[("data-api.refresher.url", url.as_str())])
        .await;
    client.person(EMAIL).await.unwrap().expect(200);
    expire(&stack).await;
    stack.gate.as_ref().unwrap().cut();

    let answer = client.person(EMAIL).await.unwrap();

    answer.expect_problem(503, "STORE_UNAVAILABLE");
    assert_eq!(refreshes(&stack).await, 1);
}

/// A replica takes over that has not got the last commits. Each refresher has a journal where the others can't read it.
pub(crate) async fn failover_that_loses_commits_costs_no_token(backend: Backend) {
    let stack = gated(backend, &[]).await;
    let elsewhere = TestDirectory::create();
    let journal = elsewhere.path().display().to_string();
    let other = stack
        .add_refresher(&[("token-refresher.journal.directory", &journal)])
        .await;
    settings(
        &stack,
        json!({"rotation": "single_use_with_reuse_detection"}),
    )
    .await;
    let mut connections = Vec::new();
    for company in 1..=6 {
        connections.push(stack.connect(company, 1).await.unwrap());
    }
    let of = |connection: &Value| json!({"connectionId": connection["id"], "generation": 1});
    stack.sql("CREATE TABLE before_failover AS SELECT * FROM connections");
    // Both have connections that they lose.
    for connection in &connections {
        other
            .refresh(&json!({"connectionId": connection["id"], "generation": 0}))
            .await
            .unwrap()
            .expect(200);
        stack.refresh(&of(connection)).await.unwrap().expect(200);
    }

    let gate = stack.gate.as_ref().unwrap();
    gate.cut();
    let column = |name: &str| {
        format!("{name} = (SELECT b.{name} FROM before_failover b WHERE b.id = connections.id)")
    };
    let columns = [
        "generation",
        "access_token",
        "refresh_token",
        "refreshed_at",
        "lease_owner",
    ];
    let columns = columns.map(column).join(", ");
    stack.sql(&format!("UPDATE connections SET {columns}"));
    gate.open();
    // Sooner than others spend anything, unless the machine is slow.
    until(
        "the first refresher has written its own responses again",
        || async {
            let lost = stack.sql("SELECT id AS line FROM connections WHERE generation = 1");
            lost.is_empty()
        },
    )
    .await;

    for connection in &connections {
        let answer = Mutex::new(None);
        until("the other refresher has what was lost", || async {
            let said = other.refresh(&of(connection)).await.unwrap();
            let is_final = said.status != 503;
            *answer.lock().unwrap() = Some(said);
            is_final
        })
        .await;
        let said = answer.into_inner().unwrap().unwrap().expect(200).json();
        assert_eq!(
            (&said["outcome"], &said["generation"]),
            (&json!("already_newer"), &json!(2))
        );
    }
    assert_eq!(refreshes(&stack).await, 6);
    let stats = stack.stats().await.unwrap();
    assert_eq!(stats["refresh_token_reuse"], 0, "{stats}");
}
