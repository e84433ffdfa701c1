//! Two hundred requests a second, whatever becomes of those before.

use std::time::Duration;

use stack_tests::Client;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::support::{EMAIL, NAME};

const EVERY: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Tally {
    pub(super) answered: u32,
    pub(super) slowest: Duration,
    pub(super) failures: Vec<String>,
}

/// Three of four ask data-api for a person, the fourth begins a login.
pub(super) async fn run(client: Client, stop: CancellationToken) -> Tally {
    let mut ticks = tokio::time::interval(EVERY);
    let mut requests = JoinSet::new();
    let mut sent = 0_u32;
    while !stop.is_cancelled() {
        ticks.tick().await;
        let client = client.clone();
        let login = sent.is_multiple_of(4);
        sent += 1;
        requests.spawn(async move {
            let sent_at = Instant::now();
            let answer = if login {
                begin_login(&client).await
            } else {
                find_person(&client).await
            };
            (sent_at.elapsed(), answer)
        });
    }
    let mut tally = Tally {
        answered: 0,
        slowest: Duration::ZERO,
        failures: Vec::new(),
    };
    for (took, answer) in requests.join_all().await {
        tally.slowest = tally.slowest.max(took);
        match answer {
            Ok(()) => tally.answered += 1,
            Err(failure) => tally.failures.push(failure),
        }
    }
    tally
}

async fn find_person(client: &Client) -> Result<(), String> {
    match client.person(EMAIL).await {
        Ok(answer) if answer.status == 200 && answer.body == NAME => Ok(()),
        Ok(answer) => Err(format!("person: {} {}", answer.status, answer.body)),
        Err(error) => Err(format!("person: {error:#}")),
    }
}

async fn begin_login(client: &Client) -> Result<(), String> {
    let begun = client.start_login("").await;
    begun.map(drop).map_err(|error| format!("login: {error:#}"))
}
