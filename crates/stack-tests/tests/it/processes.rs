//! The same with real processes, as `scripts/up` starts them, and what they write down.

use std::fs;
use std::path::Path;

use pipedrive_sim::DEFAULT_CLIENT_SECRET;
use pipekeeper_core::store::Backend;
use pipekeeper_testing::{TestDatabase, TestDirectory, on_postgres};
use serde_json::json;
use up::client::shows_a_token;
use up::processes::{Plan, Processes, SERVICES, SIMULATOR, free_base_port};
use up::tasks::in_background;

use crate::support::{EMAIL, NAME, books, crowd, expire, refreshes, settings, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_each_process_cost_one_refresh_on_sqlite() {
    Box::pin(two_of_each_process_cost_one_refresh(Backend::Sqlite)).await;
}

on_postgres! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_of_each_process_cost_one_refresh_on_postgres() {
        Box::pin(two_of_each_process_cost_one_refresh(Backend::Postgres)).await;
    }
}

/// And no log of theirs shows what no one is to read.
async fn two_of_each_process_cost_one_refresh(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let (directory, more) = (TestDirectory::create(), TestDirectory::create());
    let mut plan = Plan::new(directory.path().to_owned(), free_base_port());
    plan.database_url = Some(database.url());
    let log_all = |plan: &mut Plan| {
        for service in SERVICES {
            plan.set
                .push((format!("{service}.telemetry.filter"), "debug".to_owned()));
        }
    };
    log_all(&mut plan);
    let processes = Processes::start(plan.clone()).await.unwrap();
    let mut second = Plan::new(more.path().to_owned(), free_base_port());
    copy_secrets(directory.path(), more.path());
    second.database_url = Some(database.url());
    second.without = vec![SIMULATOR.to_owned(), "auth-capture".to_owned()];
    log_all(&mut second);
    for service in ["data-api", "token-refresher"] {
        for endpoint in ["authorize", "token", "revoke"] {
            let key = format!("{service}.providers.pipedrive.{endpoint}_url");
            second
                .set
                .push((key, format!("{}/oauth/{endpoint}", plan.url(SIMULATOR))));
        }
    }
    let second_processes = Processes::start(second.clone()).await.unwrap();
    let first_client = plan.client().unwrap();
    let mut second_client = second.client().unwrap();
    second_client.simulator.clone_from(&first_client.simulator);
    let query = first_client
        .marketplace_consent("approve", 1, 1)
        .await
        .unwrap();
    first_client.callback(&query).await.unwrap().expect(200);
    let rotation = json!({"rotation": "single_use_with_reuse_detection", "token_delay_ms": 300});
    settings(&first_client, rotation).await;
    for client in [&first_client, &second_client] {
        assert_eq!(client.person(EMAIL).await.unwrap().expect(200).body, NAME);
    }
    let (login, cookie) = first_client.start_login("").await.unwrap();
    let declined = first_client.consent(&login, "decline", 1, 1).await.unwrap();
    first_client
        .finish_login(&declined, Some(&cookie))
        .await
        .unwrap()
        .expect(400);
    expire(&first_client).await;

    let both = [&first_client, &second_client];
    let answers = crowd((0..60).map(|caller| both[caller % 2].clone()), EMAIL).await;

    for answer in answers {
        assert_eq!(answer.expect(200).body, NAME);
    }
    assert_eq!(refreshes(&first_client).await, 1);
    second_processes.stop().await.unwrap();
    processes.stop().await.unwrap();
    let state = declined
        .query_pairs()
        .find(|(key, _)| key == "state")
        .unwrap()
        .1
        .into_owned();
    let code = query.split_once("code=").unwrap().1.to_owned();
    let cookie = cookie.split_once('=').unwrap().1.to_owned();
    let secrets = [
        state,
        code,
        cookie,
        EMAIL.to_owned(),
        DEFAULT_CLIENT_SECRET.to_owned(),
    ];
    assert_logs_show_none_of(directory.path(), &secrets);
    assert_logs_show_none_of(more.path(), &secrets);
}

fn copy_secrets(from: &Path, to: &Path) {
    fs::create_dir(to.join("secrets")).unwrap();
    for secret in fs::read_dir(from.join("secrets")).unwrap() {
        let secret = secret.unwrap();
        fs::copy(secret.path(), to.join("secrets").join(secret.file_name())).unwrap();
    }
}

/// Nor any of the deployment's own secrets, nor a token.
#[track_caller]
fn assert_logs_show_none_of(data: &Path, more: &[String]) {
    let own = fs::read_dir(data.join("secrets")).unwrap().map(|secret| {
        let path = secret.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        // Of a URL the password alone is secret.
        match url::Url::parse(text.trim()) {
            Ok(url) if path.ends_with("database.url") => {
                format!(":{}@", url.password().unwrap_or("?"))
            }
            _ => text.trim().rsplit(':').next().unwrap().to_owned(),
        }
    });
    let secrets: Vec<_> = own.chain(more.iter().cloned()).collect();
    let mut read = 0;
    for log in fs::read_dir(data.join("logs")).unwrap() {
        let path = log.unwrap().path();
        if path.file_stem().is_some_and(|name| name == SIMULATOR) {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        read += text.lines().count();
        for secret in &secrets {
            assert!(
                !text.contains(secret.as_str()),
                "{} shows {secret}",
                path.display()
            );
        }
        assert!(!shows_a_token(&text), "{} shows a token", path.display());
        assert!(!text.contains(" panicked at "), "{}", path.display());
    }
    assert!(read > 10, "the logs of {} are empty", data.display());
}

/// Killed in the middle of a call: its lease is an orphan, and a sibling goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_refreshers_work_is_taken_up_by_the_next() {
    let directory = TestDirectory::create();
    let plan = Plan::new(directory.path().to_owned(), free_base_port());
    let mut processes = Processes::start(plan.clone()).await.unwrap();
    let client = plan.client().unwrap();
    let connection = client.connect(1, 1).await.unwrap();
    // The provider commits, the answer is on its way, and no one is there to take it.
    let kill = json!({"on": "token", "grant": "refresh_token", "fault": "commit_then_hang"});
    client.sim("faults", &kill).await.unwrap();
    let (caller, body) = (
        client.clone(),
        json!({"connectionId": connection["id"], "generation": 1}),
    );
    let waiting = in_background(async move { caller.refresh(&body).await });
    until("the provider has committed", || async {
        client.stats().await.unwrap()["refreshes"] == 1
    })
    .await;
    processes
        .signal("token-refresher", rustix::process::Signal::KILL)
        .unwrap();
    assert!(waiting.await.unwrap().is_err());
    processes.start_one("token-refresher").await.unwrap();

    let body = json!({"connectionId": connection["id"], "generation": 1});
    let answer = client.refresh(&body).await.unwrap();

    assert_eq!(answer.expect(200).json()["outcome"], "refreshed");
    assert_eq!(client.person(EMAIL).await.unwrap().expect(200).body, NAME);
    processes.stop().await.unwrap();
}

/// Killed when the provider has rotated and the response is on its way; disconnected before a sibling takes over. The token that
/// the row has is worthless by then: revoking it would leave the grant alive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disconnect_while_a_refresh_is_unfinished_leaves_no_grant_behind() {
    let directory = TestDirectory::create();
    let mut plan = Plan::new(directory.path().to_owned(), free_base_port());
    let every = "token-refresher.sweep.every_secs".to_owned();
    plan.set.push((every, "1".to_owned()));
    let mut processes = Processes::start(plan.clone()).await.unwrap();
    let client = plan.client().unwrap();
    settings(
        &client,
        json!({"rotation": "single_use_with_reuse_detection"}),
    )
    .await;
    let connection = client.connect(1, 1).await.unwrap();
    let hang = json!({"on": "token", "grant": "refresh_token", "fault": "commit_then_hang"});
    client.sim("faults", &hang).await.unwrap();
    let (caller, body) = (
        client.clone(),
        json!({"connectionId": connection["id"], "generation": 1}),
    );
    let waiting = in_background(async move { caller.refresh(&body).await });
    until("the provider has committed", || async {
        client.stats().await.unwrap()["refreshes"] == 1
    })
    .await;
    processes
        .signal("token-refresher", rustix::process::Signal::KILL)
        .unwrap();
    assert!(waiting.await.unwrap().is_err());
    let mut disconnect = plan.command("token-refresher").unwrap();
    let id = connection["id"].as_str().unwrap();
    disconnect.args(["connections", "disconnect", id]);
    assert!(disconnect.status().await.unwrap().success());
    client.sim("expire", &json!({})).await.unwrap();
    let ended = client.person(EMAIL).await.unwrap();
    ended.expect_problem(401, "TOKEN_INVALIDATED");
    assert_eq!(books(&client, 1, 1).await["state"], "active");

    processes.start_one("token-refresher").await.unwrap();

    until("the grant has ended", || async {
        books(&client, 1, 1).await["state"] != "active"
    })
    .await;
    let mut show = plan.command("token-refresher").unwrap();
    show.args(["connections", "show", id, "--json"]);
    show.stdout(std::process::Stdio::piped());
    let shown = show.output().await.unwrap().stdout;
    let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
    let last_error = &shown["connection"]["last_error"];
    assert_eq!(last_error, "revocation_unconfirmed", "{shown}");
    processes.stop().await.unwrap();
}
