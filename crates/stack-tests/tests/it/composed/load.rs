//! Up to two hundred requests a second, from twenty callers.

use std::time::Duration;

use stack_tests::Client;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::support::{EMAIL, NAME};

/// At most this many requests are under way.
const CALLERS: u32 = 20;

/// Each caller sends its next request so long after the one before, or when that is answered.
const EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) answered: u32,
    pub(super) slowest: Duration,
    pub(super) failures: Vec<String>,
}

/// Three of four callers ask data-api for a person, the fourth begins logins.
pub(super) async fn run(client: Client, stop: CancellationToken) -> Tally {
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        callers.spawn(call(client.clone(), caller.is_multiple_of(4), stop.clone()));
    }
    let mut all = Tally::default();
    for tally in callers.join_all().await {
        all.answered += tally.answered;
        all.slowest = all.slowest.max(tally.slowest);
        all.failures.extend(tally.failures);
    }
    all
}

async fn call(client: Client, begins_logins: bool, stop: CancellationToken) -> Tally {
    let mut tally = Tally::default();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.is_cancelled() {
        ticks.tick().await;
        let sent_at = Instant::now();
        let answer = if begins_logins {
            begin_login(&client).await
        } else {
            find_person(&client).await
        };
        tally.slowest = tally.slowest.max(sent_at.elapsed());
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
