//! What an operator sees of a refresh, and what an operator can do about a refused one.

use std::collections::BTreeSet;
use std::fs;

use pipekeeper_testing::TestDirectory;
use serde_json::{Value, json};
use up::client::Client;
use up::processes::{Plan, Processes, free_base_port};

use crate::support::{EMAIL, until_ok};

/// The lines that a service wrote about a connection.
fn demo(plan: &Plan, service: &str, connection: &str) -> Vec<Value> {
    let log = plan.data.join("logs").join(format!("{service}.log"));
    fs::read_to_string(log)
        .unwrap()
        .lines()
        .filter(|line| line.contains(connection))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The value of a field, wherever in the line it stands.
fn field<'a>(line: &'a Value, name: &str) -> Option<&'a Value> {
    match line {
        Value::Object(members) => members
            .get(name)
            .or_else(|| members.values().find_map(|inner| field(inner, name))),
        Value::Array(items) => items.iter().find_map(|inner| field(inner, name)),
        _ => None,
    }
}

async fn metrics(client: &Client) -> String {
    let metrics = client
        .http
        .get(&client.refresher_metrics)
        .send()
        .await
        .unwrap();
    metrics.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_logs_of_all_services_tell_one_refresh_by_its_connection() {
    let home = TestDirectory::create();
    let plan = Plan::new(home.path().to_owned(), free_base_port());
    let processes = Processes::start(plan.clone()).await.unwrap();
    let client = plan.client().unwrap();
    let connection = client.connect(1, 1).await.unwrap();
    let id = connection["id"].as_str().unwrap();
    client.sim("expire", &json!({})).await.unwrap();

    client.person(EMAIL).await.unwrap().expect(200);

    let of_data_api = demo(&plan, "data-api", id);
    let of_refresher = demo(&plan, "token-refresher", id);
    let traces = |lines: &[Value]| -> BTreeSet<String> {
        let of = |line| Some(field(line, "trace_id")?.as_str()?.to_owned());
        lines.iter().filter_map(of).collect()
    };
    let shared: Vec<_> = traces(&of_data_api)
        .intersection(&traces(&of_refresher))
        .cloned()
        .collect();
    assert_eq!(shared.len(), 1, "{of_data_api:?}\n{of_refresher:?}");
    let refreshed = of_refresher
        .iter()
        .find(|line| field(line, "message").is_some_and(|said| said == "refreshed"))
        .unwrap();
    assert_eq!(field(refreshed, "trace_id").unwrap(), shared[0].as_str());
    assert_eq!(field(refreshed, "trigger").unwrap(), "webhook");

    let metrics = metrics(&client).await;
    for line in [
        "pipekeeper_refresh_total{provider=\"pipedrive\",outcome=\"refreshed\"} 1",
        "pipekeeper_grants_dying{within=\"1d\"} 0",
        "pipekeeper_journal_depth 0",
        "pipekeeper_refresh_lease_wait_seconds_count 1",
        "pipekeeper_sweep_lag_seconds ",
        "pipekeeper_refresh_oldest_success_seconds ",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    processes.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_by_mistake_is_rechecked_by_command() {
    let home = TestDirectory::create();
    let mut plan = Plan::new(home.path().to_owned(), free_base_port());
    let every = "token-refresher.sweep.every_secs".to_owned();
    plan.set.push((every, "1".to_owned()));
    let processes = Processes::start(plan.clone()).await.unwrap();
    let client = plan.client().unwrap();
    client.connect(1, 1).await.unwrap();
    client.sim("expire", &json!({})).await.unwrap();
    let mistake = json!({"on": "token", "fault": "invalid_grant", "grant": "refresh_token"});
    client.sim("faults", &mistake).await.unwrap();
    let refused = client.person(EMAIL).await.unwrap();
    refused.expect_problem(401, "TOKEN_INVALIDATED");

    let recheck = |arguments: &[&str]| {
        let mut command = plan.command("token-refresher").unwrap();
        command.arg("recheck").args(arguments);
        command.stdout(std::process::Stdio::piped());
        async move { command.output().await.unwrap() }
    };
    let unknown = recheck(&["--app", "nobody"]).await;
    assert_eq!(unknown.status.code(), Some(1));
    let output = recheck(&[]).await;
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.starts_with("app pipedrive: 1 refused connections"),
        "{said}"
    );

    until_ok("the connection lives again", || async {
        client.person(EMAIL).await.unwrap()
    })
    .await;
    processes.stop().await.unwrap();
}
