//! Steps that take effect in the middle of a token call, whichever comes next.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;

use super::Stack;
use super::account::Account;
use crate::chaos::event_log::{Event, Severed};
use crate::chaos::evidence;
use crate::chaos::schedule::{Notice, POINTS, Point};
use crate::chaos::trigger::Hit;

/// Long enough for a response to get into the journal, and longer than what explains that it is not there.
const JOURNALED: Duration = Duration::from_millis(400);

/// How long a token call is held at most for a connection to be ended: less than its caller waits.
const SEVERED: Duration = Duration::from_millis(150);

/// A step that could not be done to the call that was hit waits so long for another one.
const AGAIN: Duration = Duration::from_millis(250);

/// The reason of a signal between journal and database.
const BEFORE_STORED: &str = "before_stored";

#[derive(Debug, Clone, Copy)]
pub enum InCall {
    Kill {
        point: Point,
        delay_ms: u64,
        down_ms: u64,
    },
    /// The response is in the journal, and the database does not take it.
    KillBeforeStored {
        down_ms: u64,
    },
    StopBeforeStored {
        for_ms: u64,
    },
    /// The response is in the journal only when the connection is disconnected.
    DisconnectBeforeStored {
        down_ms: u64,
    },
    /// The connection ends.
    Sever {
        how: Severed,
        killed_for_ms: Option<u64>,
    },
}

/// The steps that wait for a token call.
#[derive(Debug, Default)]
pub struct Armed {
    last: AtomicU64,
    steps: Mutex<BTreeMap<u64, InCall>>,
}

impl Armed {
    fn steps(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, InCall>> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No step waits any more.
    pub fn clear(&self) {
        self.steps().clear();
    }
}

/// Whether a signal for this reason was aimed at a point of a token call.
pub fn is_in_call(why: &str) -> bool {
    why == BEFORE_STORED || POINTS.iter().any(|point| point.name() == why)
}

/// Has the step done to the next token call of a refresh.
pub async fn arm(stack: &Stack, step: InCall) -> anyhow::Result<()> {
    let number = stack.armed.last.fetch_add(1, Ordering::Relaxed);
    stack.armed.steps().insert(number, step);
    post(stack, number, step).await
}

async fn post(stack: &Stack, number: u64, step: InCall) -> anyhow::Result<()> {
    let (point, ms) = match step {
        InCall::Kill {
            point, delay_ms, ..
        } => (point, delay_ms),
        InCall::KillBeforeStored { .. } | InCall::StopBeforeStored { .. } => {
            (Point::BeforeCommit, 0)
        }
        InCall::DisconnectBeforeStored { .. } | InCall::Sever { .. } => (Point::AfterCommit, 0),
    };
    let fault = json!({
        "on": "token",
        "grant": "refresh_token",
        "fault": "call",
        "when": point.name(),
        "ms": ms,
        "url": stack.trigger.url(number),
    });
    stack.client.sim("faults", &fault).await?;
    Ok(())
}

/// Does to each call that is hit what was aimed at it.
pub async fn serve(stack: Arc<Stack>, mut hits: UnboundedReceiver<Hit>) {
    let mut under_way = JoinSet::new();
    while let Some(hit) = hits.recv().await {
        under_way.spawn(handle(Arc::clone(&stack), hit));
        while under_way.try_join_next().is_some() {}
    }
}

async fn handle(stack: Arc<Stack>, hit: Hit) {
    let number = hit.step;
    let Some(step) = stack.armed.steps().get(&number).copied() else {
        return;
    };
    let failed = |error: anyhow::Error| {
        stack.event_log.add(Event::Failed {
            what: format!("{step:?}: {error:#}"),
        });
    };
    match attempt(&stack, step, hit).await {
        Ok(Attempt::Done) => {
            stack.armed.steps().remove(&number);
        }
        Ok(Attempt::NotNow) => {
            tokio::time::sleep(AGAIN).await;
            if stack.armed.steps().contains_key(&number)
                && let Err(error) = post(&stack, number, step).await
            {
                failed(error);
            }
        }
        Err(error) => {
            stack.armed.steps().remove(&number);
            failed(error);
        }
    }
}

enum Attempt {
    Done,
    /// The process was not ready for long enough, or another step was at it.
    NotNow,
}

async fn attempt(stack: &Stack, step: InCall, hit: Hit) -> anyhow::Result<Attempt> {
    let Ok(_shared) = stack.exclusive.try_read() else {
        return Ok(Attempt::NotNow);
    };
    let process = stack.supervisor.process(&hit.process)?;
    let claim = || process.try_claim().filter(|claim| claim.life() == hit.life);
    match step {
        InCall::Kill { point, down_ms, .. } => {
            let Some(claim) = claim() else {
                return Ok(Attempt::NotNow);
            };
            claim.kill(point.name(), down_ms).await;
        }
        InCall::KillBeforeStored { down_ms } => {
            let Some(claim) = claim() else {
                return Ok(Attempt::NotNow);
            };
            let Some(away) = stack.try_database_away()? else {
                return Ok(Attempt::NotNow);
            };
            drop(hit);
            tokio::time::sleep(JOURNALED).await;
            claim.kill(BEFORE_STORED, down_ms).await;
            drop(away);
        }
        InCall::StopBeforeStored { for_ms } => {
            let Some(claim) = claim() else {
                return Ok(Attempt::NotNow);
            };
            let Some(away) = stack.try_database_away()? else {
                return Ok(Attempt::NotNow);
            };
            drop(hit);
            tokio::time::sleep(JOURNALED).await;
            let put_back = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                drop(away);
            };
            let stopped = claim.stop(BEFORE_STORED, Duration::from_millis(for_ms));
            tokio::join!(stopped, put_back);
        }
        InCall::DisconnectBeforeStored { down_ms } => {
            let (Some(claim), Some(account)) = (claim(), refreshed_by(stack, &hit).await?) else {
                return Ok(Attempt::NotNow);
            };
            let Some(away) = stack.try_database_away()? else {
                return Ok(Attempt::NotNow);
            };
            drop(hit);
            tokio::time::sleep(JOURNALED).await;
            // Waits for the database where it is away for this process too.
            let disconnected = account.sever(stack, Severed::Disconnected, Notice::Lost);
            let killed = async {
                claim.kill(BEFORE_STORED, down_ms).await;
                tokio::time::sleep(Duration::from_millis(50)).await;
                drop(away);
            };
            tokio::join!(disconnected, killed).0?;
        }
        InCall::Sever { how, killed_for_ms } => {
            let killed = match killed_for_ms {
                None => None,
                Some(down_ms) => match claim() {
                    Some(claim) => Some((claim, down_ms)),
                    None => return Ok(Attempt::NotNow),
                },
            };
            let Some(account) = refreshed_by(stack, &hit).await? else {
                return Ok(Attempt::NotNow);
            };
            let severing = account.sever(stack, how, Notice::LongAfter);
            tokio::pin!(severing);
            let in_time = tokio::time::timeout(SEVERED, &mut severing).await;
            if let Some((claim, down_ms)) = killed {
                claim.kill("severed", down_ms).await;
            }
            drop(hit);
            match in_time {
                Ok(severed) => severed?,
                Err(_elapsed) => severing.await?,
            }
        }
    }
    Ok(Attempt::Done)
}

/// The account whose token call was hit after the provider's commit: its call is in the simulator's log, and not answered.
async fn refreshed_by<'a>(stack: &'a Stack, hit: &Hit) -> anyhow::Result<Option<&'a Arc<Account>>> {
    let since = stack.log_read_to.load(Ordering::Relaxed);
    let (calls, next) = evidence::calls_since(stack, since).await?;
    // The next hit may be of a call that is in the log already.
    stack
        .log_read_to
        .fetch_max(next.saturating_sub(1_000), Ordering::Relaxed);
    let call = calls.iter().rev().find(|call| {
        call.call == "refresh"
            && call.fault.as_deref() == Some("call after_commit")
            && call.answered_at_us.is_none()
            && call.sender() == Some((hit.process.as_str(), hit.life))
    });
    let company = call.and_then(|call| call.company_id);
    let company = company.context("the call that was hit is not in the simulator's log")?;
    Ok(stack
        .accounts
        .iter()
        .find(|account| account.company == company))
}
