//! The callers: people's data through every data-api, refreshes through every token-refresher, and a new consent wherever
//! a caller is told that one is needed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::account::{Account, Row};
use super::chronicle::Micros;
use super::world::{DATA_APIS, REFRESHERS, World};
use crate::client::{Answer, Client};
use crate::dice::Dice;

const EMAIL: &str = "jane@example.com";

/// Callers of each data-api; there is one of each token-refresher.
const CALLERS: usize = 4;

/// What came of one request.
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
    /// This account's data.
    Right,
    /// A 200 with anything else.
    Wrong { said: String },
    Status {
        status: u16,
        code: String,
        said: String,
    },
    /// No answer, or half of one.
    Broken { how: String },
}

/// What the callers were told.
#[derive(Debug, Default)]
pub struct Answers {
    data: Mutex<Vec<Answered>>,
    refreshes: Mutex<Vec<Answered>>,
    deaths: Mutex<Vec<Row>>,
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

    pub fn refreshes(&self) -> Vec<Answered> {
        all(&self.refreshes)
    }

    /// Rows that were `reauth_required` before a new consent mended them.
    pub fn deaths(&self) -> Vec<Row> {
        all(&self.deaths)
    }
}

/// Calls until it is told to stop, and then finishes what it has begun.
pub async fn play(world: &Arc<World>, seed: u64, answers: &Arc<Answers>, stop: &CancellationToken) {
    let mut callers = JoinSet::new();
    for (index, (data_api, refresher)) in DATA_APIS.iter().zip(REFRESHERS).enumerate() {
        let index = u64::try_from(index).unwrap_or_default();
        let caller = |number: u64| Caller {
            world: Arc::clone(world),
            answers: Arc::clone(answers),
            client: world.client_of(data_api, refresher),
            dice: Dice::new(seed ^ (index << 32 | number << 16 | 0xca11)),
            stop: stop.clone(),
        };
        for number in (1..).take(CALLERS) {
            callers.spawn(caller(number).ask_for_data(data_api));
        }
        callers.spawn(caller(0).ask_for_refreshes(refresher));
    }
    while callers.join_next().await.is_some() {}
}

/// One request for an account's data.
pub async fn ask(world: &World, client: &Client, data_api: &str, account: &Account) -> Answered {
    let began_us = world.chronicle.now_us();
    let answer = client.person_of(&account.connection, EMAIL).await;
    let outcome = match answer {
        Ok(answer) if answer.status == 200 && answer.body == account.person() => Outcome::Right,
        other => outcome_of(other),
    };
    Answered {
        process: data_api.to_owned(),
        company: account.company,
        began_us,
        ended_us: world.chronicle.now_us(),
        outcome,
    }
}

fn outcome_of(answer: anyhow::Result<Answer>) -> Outcome {
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
    world: Arc<World>,
    answers: Arc<Answers>,
    client: Client,
    dice: Dice,
    stop: CancellationToken,
}

impl Caller {
    fn account(&mut self) -> Option<Arc<Account>> {
        let end = u64::try_from(self.world.accounts.len()).unwrap_or(1);
        let index = usize::try_from(self.dice.between(0, end)).ok()?;
        self.world.accounts.get(index).cloned()
    }

    /// False when it is time to stop.
    async fn pause(&mut self, low_ms: u64, high_ms: u64) -> bool {
        let pause = Duration::from_millis(self.dice.between(low_ms, high_ms));
        tokio::select! {
            () = tokio::time::sleep(pause) => true,
            () = self.stop.cancelled() => false,
        }
    }

    async fn ask_for_data(mut self, data_api: &'static str) {
        let mut mending = JoinSet::new();
        while self.pause(40, 160).await {
            let Some(account) = self.account() else { break };
            let answered = ask(&self.world, &self.client, data_api, &account).await;
            if matches!(answered.outcome, Outcome::Status { status: 401, .. }) {
                let pause = Duration::from_millis(self.dice.between(200, 1_500));
                let (world, answers) = (Arc::clone(&self.world), Arc::clone(&self.answers));
                mending.spawn(async move {
                    tokio::time::sleep(pause).await;
                    if let Some(row) = account.mend(&world).await
                        && row.state == "reauth_required"
                    {
                        push(&answers.deaths, row);
                    }
                });
                while mending.try_join_next().is_some() {}
            }
            push(&self.answers.data, answered);
        }
        while mending.join_next().await.is_some() {}
    }

    /// Asks for a token newer than the newest that this caller has heard of.
    async fn ask_for_refreshes(mut self, refresher: &'static str) {
        let mut newest = BTreeMap::new();
        while self.pause(100, 400).await {
            let Some(account) = self.account() else { break };
            let mut body = json!({"connectionId": account.id.as_str()});
            if let Some(generation) = newest.get(&account.company) {
                body["generation"] = json!(generation);
            }
            let began_us = self.world.chronicle.now_us();
            let answer = self.client.refresh(&body).await;
            let outcome = match answer {
                Ok(answer) if answer.status == 200 => {
                    let generation = answer.json()["generation"].as_i64().unwrap_or_default();
                    newest.insert(account.company, generation);
                    Outcome::Right
                }
                other => outcome_of(other),
            };
            let answered = Answered {
                process: refresher.to_owned(),
                company: account.company,
                began_us,
                ended_us: self.world.chronicle.now_us(),
                outcome,
            };
            push(&self.answers.refreshes, answered);
        }
    }
}
