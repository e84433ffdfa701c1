//! Thousands of callers find the same token expired.
//!
//! `CROWD_CALLERS` is their number. By default it is one whose first connections to the simulator, which all come at once,
//! fit into its backlog on any machine (4096 on Linux): with 10 000 a machine that is busy otherwise may lose some.

use std::time::Duration;

use pipekeeper_core::oauth::basic_auth;
use pipekeeper_testing::TestDirectory;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tools::load;
use up::client::PERSON;
use up::processes::{Plan, Processes, free_base_port};

const CALLERS: usize = 3000;
const DATA_APIS: [&str; 3] = ["data-api", "data-api-2", "data-api-3"];
const PATIENCE: Duration = Duration::from_mins(2);

#[expect(clippy::disallowed_methods, reason = "a test's own setting")]
fn callers() -> usize {
    let asked = std::env::var("CROWD_CALLERS").ok();
    asked.map_or(CALLERS, |count| {
        count.parse().expect("CROWD_CALLERS is a number")
    })
}

/// The status line of the answer to a request that is sent now.
async fn ask(mut caller: TcpStream, request: &[u8]) -> String {
    caller.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let read = caller.read_to_end(&mut answer);
    tokio::time::timeout(PATIENCE, read).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer);
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_callers_of_six_processes_cost_one_token_call() {
    let callers_asked_for = callers();
    let home = TestDirectory::create();
    let mut plan = Plan::new(home.path().to_owned(), free_base_port());
    plan.more = [
        "data-api-2",
        "data-api-3",
        "token-refresher-2",
        "token-refresher-3",
    ]
    .map(str::to_owned)
    .to_vec();
    // However slow the machine is: what is counted are calls, not seconds.
    for data_api in DATA_APIS {
        for section in ["refresher", "upstream"] {
            let key = format!("{data_api}.{section}.timeout_secs");
            plan.set.push((key, "60".to_owned()));
        }
    }
    // No one but the callers asks for a refresh.
    for refresher in ["token-refresher", "token-refresher-2", "token-refresher-3"] {
        let key = format!("{refresher}.sweep.every_secs");
        plan.set.push((key, "3600".to_owned()));
    }
    let processes = Processes::start(plan.clone()).await.unwrap();
    let client = plan.client().unwrap();
    client.connect(1, 1).await.unwrap();
    client.sim("expire", &json!({})).await.unwrap();
    let auth = basic_auth(&client.webhook.0, &client.webhook.1);
    let headers = format!(
        "content-type: application/json\r\nconnection: close\r\nauthorization: {}\r\n",
        auth.to_str().unwrap()
    );
    let body = json!({"person": {"email": "jane@example.com"}}).to_string();

    // All of them are connected before the first one asks.
    let mut callers = Vec::new();
    for caller in 0..callers_asked_for {
        let address = format!(
            "127.0.0.1:{}",
            plan.port(DATA_APIS[caller % DATA_APIS.len()])
        );
        let request = load::request("POST", &address, PERSON, &headers, &body);
        callers.push((TcpStream::connect(&address).await.unwrap(), request));
    }
    let mut answers = JoinSet::new();
    for (caller, request) in callers {
        answers.spawn(async move { ask(caller, &request).await });
    }
    let answers = answers.join_all().await;

    let failed: Vec<_> = answers
        .iter()
        .filter(|status| *status != "HTTP/1.1 200 OK")
        .collect();
    assert!(
        failed.is_empty(),
        "{} of them: {:?}",
        failed.len(),
        failed.first()
    );
    assert_eq!(client.token_calls("refresh_token").await.unwrap(), 1);
    processes.stop().await.unwrap();
}
