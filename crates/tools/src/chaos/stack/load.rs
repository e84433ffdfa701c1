//! The callers: people's data through every data-api, refreshes through every token-refresher, and a new consent wherever
//! a caller is told that one is needed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pipekeeper_core::refresher_client::RefreshOutcome;
use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::account::{Account, Row};
use super::{DATA_APIS, REFRESHERS, Stack};
use crate::chaos::event_log::Micros;
use crate::rng::Rng;
use up::client::{Client, Reply};

const EMAIL: &str = "jane@example.com";

/// Callers of each data-api; there is one of each token-refresher.
const CALLERS: usize = 4;

/// One request, and what came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Answered {
    pub process: String,
    pub company: u32,
    pub began_us: Micros,
    pub ended_us: Micros,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// This account's data, or its newer generation.
    Right,
    /// A 200 with anything else.
    Wrong { said: String },
    Status {
        status: u16,
        code: String,
        said: String,
    },
    /// No response, or half of one.
    Broken { how: String },
}

/// A call of the refresh webhook.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    #[serde(flatten)]
    pub answered: Answered,
    /// The generation that it named as the one that had failed.
    pub generation: Option<i64>,
    /// What a 200 said: the newer generation, and who made it.
    pub newer: Option<(i64, RefreshOutcome)>,
}

/// What the callers were told.
#[derive(Debug, Default)]
pub struct Answers {
    data: Mutex<Vec<Answered>>,
    refreshes: Mutex<Vec<Asked>>,
    ended: Mutex<Vec<Row>>,
}

fn all<T: Clone>(list: &Mutex<Vec<T>>) -> Vec<T> {
    list.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn push<T>(list: &Mutex<Vec<T>>, item: T) {
    list.lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(item);
}

impl Answers {
    pub fn data(&self) -> Vec<Answered> {
        all(&self.data)
    }

    pub fn refreshes(&self) -> Vec<Asked> {
        all(&self.refreshes)
    }

    /// Rows that were `reauth_required` when a caller gave a new consent.
    pub fn ended(&self) -> Vec<Row> {
        all(&self.ended)
    }
}

/// Calls until it is told to stop, and then finishes what it has begun.
pub async fn play(stack: &Arc<Stack>, seed: u64, stop: &CancellationToken) {
    let mut callers = JoinSet::new();
    let caller = |number: u64, client: Client| Caller {
        stack: Arc::clone(stack),
        client,
        rng: Rng::new(seed ^ (number << 16 | 0xca11)),
        stop: stop.clone(),
    };
    let mut numbers = 0..;
    for data_api in DATA_APIS {
        for number in numbers.by_ref().take(CALLERS) {
            let client = stack.client_of(data_api, "token-refresher");
            callers.spawn(caller(number, client).ask_for_data(data_api));
        }
    }
    for (number, refresher) in numbers.zip(REFRESHERS) {
        let client = stack.client_of("data-api", refresher);
        callers.spawn(caller(number, client).ask_for_refreshes(refresher));
    }
    while callers.join_next().await.is_some() {}
}

/// One request for an account's data.
pub async fn ask(stack: &Stack, client: &Client, data_api: &str, account: &Account) -> Answered {
    let began_us = stack.event_log.now_us();
    let answer = client.person_of(&account.connection, EMAIL).await;
    let outcome = match answer {
        Ok(answer) if answer.status == 200 && answer.body == account.person() => Outcome::Right,
        other => outcome_of(other),
    };
    Answered {
        process: data_api.to_owned(),
        company: account.company,
        began_us,
        ended_us: stack.event_log.now_us(),
        outcome,
    }
}

/// Asks a token-refresher for a token newer than this generation's, and keeps what it said.
pub async fn ask_for_refresh(
    stack: &Stack,
    client: &Client,
    refresher: &str,
    account: &Account,
    generation: Option<i64>,
) -> Asked {
    let mut body = json!({"connectionId": account.id.as_str()});
    if let Some(generation) = generation {
        body["generation"] = json!(generation);
    }
    let began_us = stack.event_log.now_us();
    let answer = client.refresh(&body).await;
    let newer = answer.as_ref().ok().filter(|answer| answer.status == 200);
    let newer = newer.and_then(|answer| {
        let told = answer.json();
        let outcome = serde_json::from_value(told["outcome"].clone()).ok()?;
        Some((told["generation"].as_i64()?, outcome))
    });
    let answered = Answered {
        process: refresher.to_owned(),
        company: account.company,
        began_us,
        ended_us: stack.event_log.now_us(),
        outcome: match newer {
            Some(_) => Outcome::Right,
            None => outcome_of(answer),
        },
    };
    let asked = Asked {
        answered,
        generation,
        newer,
    };
    push(&stack.answers.refreshes, asked.clone());
    asked
}

fn outcome_of(answer: anyhow::Result<Reply>) -> Outcome {
    match answer {
        Ok(answer) if answer.status == 200 => Outcome::Wrong { said: answer.body },
        Ok(answer) => Outcome::Status {
            status: answer.status,
            code: answer.code(),
            said: answer.body,
        },
        // What can't be read is not to be taken for what never came.
        Err(error) if error.is::<reqwest::Error>() => Outcome::Broken {
            how: format!("{error:#}"),
        },
        Err(error) => Outcome::Wrong {
            said: format!("{error:#}"),
        },
    }
}

struct Caller {
    stack: Arc<Stack>,
    client: Client,
    rng: Rng,
    stop: CancellationToken,
}

impl Caller {
    fn account(&mut self) -> Option<Arc<Account>> {
        let index = self.rng.below(self.stack.accounts.len());
        self.stack.accounts.get(index).cloned()
    }

    /// False when it is time to stop.
    async fn pause(&mut self, low_ms: u64, high_ms: u64) -> bool {
        let pause = Duration::from_millis(self.rng.between(low_ms, high_ms));
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = self.stop.cancelled() => false,
        }
    }

    async fn ask_for_data(mut self, data_api: &'static str) {
        let mut reconnecting = JoinSet::new();
        while self.pause(40, 160).await {
            let Some(account) = self.account() else { break };
            let answered = ask(&self.stack, &self.client, data_api, &account).await;
            if matches!(answered.outcome, Outcome::Status { status: 401, .. }) {
                let pause = Duration::from_millis(self.rng.between(200, 1_500));
                let stack = Arc::clone(&self.stack);
                reconnecting.spawn(async move {
                    tokio::time::sleep(pause).await;
                    let _shared = stack.exclusive.read().await;
                    if let Some(row) = account.reconnect_if_ended(&stack).await
                        && row.state == "reauth_required"
                    {
                        push(&stack.answers.ended, row);
                    }
                });
                while reconnecting.try_join_next().is_some() {}
            }
            push(&self.stack.answers.data, answered);
        }
        while reconnecting.join_next().await.is_some() {}
    }

    /// Asks for a token newer than the newest that this caller has heard of.
    async fn ask_for_refreshes(mut self, refresher: &'static str) {
        let mut newest: BTreeMap<u32, i64> = BTreeMap::new();
        while self.pause(100, 400).await {
            let Some(account) = self.account() else { break };
            let known = newest.get(&account.company).copied();
            let asked =
                ask_for_refresh(&self.stack, &self.client, refresher, &account, known).await;
            if let Some((generation, _)) = asked.newer {
                newest.insert(account.company, generation);
            }
        }
    }
}
