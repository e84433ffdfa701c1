//! How each thing is made to go wrong.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::CALL_TIMEOUT_SECS;
use super::event_log::Event;
use super::journals::outage_of;
use super::quiesce;
use super::schedule::{Action, CopiedWhile, Fault, OnConnection, Outage, Step};
use super::stack::account::Account;
use super::stack::in_call::{InCall, arm};
use super::stack::load::ask_for_refresh;
use super::stack::supervisor::Process;
use super::stack::{REFRESHERS, Stack, process_of, reader_of};

/// What ends by itself has ended by then.
const SETTLED: Duration = Duration::from_millis(500);

/// After the database went back refreshers spend nothing for five seconds.
const RECOVERED: Duration = Duration::from_secs(6);

/// Time enough to copy a journal.
const DOWN_TO_COPY_MS: u64 = 800;

/// How long a token call takes while every refresher is asked for the same connection.
const RUSH_DELAY_MS: u64 = 150;

/// Plays the schedule, each step at its time, and waits until all that was taken away is back.
pub(super) async fn play(stack: &Arc<Stack>, steps: &[Step]) {
    let mut under_way = JoinSet::new();
    let begun = stack.event_log.now_us();
    for step in steps {
        let due = begun + i64::try_from(step.at_ms).unwrap_or(i64::MAX / 1000) * 1000;
        let wait = u64::try_from(due - stack.event_log.now_us()).unwrap_or(0);
        tokio::time::sleep(Duration::from_micros(wait)).await;
        let (stack, action) = (Arc::clone(stack), step.action);
        under_way.spawn(async move {
            if let Err(error) = act(&stack, action).await {
                stack.event_log.add(Event::Failed {
                    what: format!("{action}: {error:#}"),
                });
            }
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

async fn act(stack: &Arc<Stack>, action: Action) -> anyhow::Result<()> {
    if let Action::Restore { back_ms } = action {
        return restore(stack, back_ms).await;
    }
    let _shared = stack.exclusive.read().await;
    match action {
        Action::Restore { .. } => {}
        Action::Kill { refresher, down_ms } => {
            let claim = process(stack, refresher)?.claim().await?;
            claim.kill("at random", down_ms).await;
        }
        Action::KillInCall {
            point,
            delay_ms,
            down_ms,
        } => {
            let step = InCall::Kill {
                point,
                delay_ms,
                down_ms,
            };
            arm(stack, step).await?;
        }
        Action::KillBeforeStored { down_ms } => {
            arm(stack, InCall::KillBeforeStored { down_ms }).await?;
        }
        Action::StopBeforeStored { for_ms } => {
            arm(stack, InCall::StopBeforeStored { for_ms }).await?;
        }
        Action::Stop { refresher, for_ms } => {
            let claim = process(stack, refresher)?.claim().await?;
            claim.stop("at random", Duration::from_millis(for_ms)).await;
        }
        Action::Restart { service, number } => {
            let process = stack.supervisor.process(process_of(service, number))?;
            process.claim().await?.terminate("restart").await;
        }
        Action::Database { outage, for_ms } => {
            let away = stack.database.take_away(outage, &stack.event_log).await?;
            tokio::time::sleep(Duration::from_millis(for_ms)).await;
            drop(away);
        }
        Action::Provider { fault, times } => {
            let mut rule = rule(fault, times);
            rule["on"] = "token".into();
            rule["grant"] = "refresh_token".into();
            stack.client.sim("faults", &rule).await?;
        }
        Action::Api { fault, times } => {
            let mut rule = rule(fault, times);
            rule["on"] = "api".into();
            rule["route"] = "persons/search".into();
            stack.client.sim("faults", &rule).await?;
        }
        Action::JournalFull { directory, for_ms } => {
            let of = outage_of(&stack.journals.name(directory)?);
            stack.event_log.add(Event::Outage { of: of.clone() });
            tokio::task::block_in_place(|| stack.journals.shut(directory))?;
            tokio::time::sleep(Duration::from_millis(for_ms)).await;
            stack.journals.open(directory)?;
            stack.event_log.add(Event::Back { of });
        }
        Action::CopyJournal { from, to, copied } => copy_journal(stack, from, to, copied).await?,
        Action::Clock {
            refresher,
            offset_ms,
            for_ms,
        } => {
            let wrong: Vec<&str> = match refresher {
                Some(refresher) => REFRESHERS.into_iter().skip(refresher).take(1).collect(),
                None => REFRESHERS.to_vec(),
            };
            for offset_ms in [offset_ms, 0] {
                for refresher in &wrong {
                    stack.set_clock(refresher, offset_ms)?;
                }
                tokio::time::sleep(Duration::from_millis(for_ms)).await;
            }
        }
        Action::OnConnection { connection, what } => {
            if let Some(account) = stack.accounts.get(connection) {
                on_connection(stack, account, what).await?;
            }
        }
        Action::DisconnectBeforeStored { down_ms } => {
            arm(stack, InCall::DisconnectBeforeStored { down_ms }).await?;
        }
        Action::SeverInCall { how, killed_for_ms } => {
            arm(stack, InCall::Sever { how, killed_for_ms }).await?;
        }
    }
    Ok(())
}

fn process(stack: &Stack, refresher: usize) -> anyhow::Result<&Arc<Process>> {
    let name = REFRESHERS.get(refresher).copied().unwrap_or_default();
    stack.supervisor.process(name)
}

async fn on_connection(
    stack: &Arc<Stack>,
    account: &Arc<Account>,
    what: OnConnection,
) -> anyhow::Result<()> {
    match what {
        OnConnection::Rush => rush(stack, account).await?,
        OnConnection::Reconnect => account.reconnect(stack).await,
        OnConnection::Sever { how, notice } => account.sever(stack, how, notice).await?,
    }
    Ok(())
}

fn rule(fault: Fault, times: u64) -> Value {
    let mut rule = json!({"fault": fault.name, "times": times});
    if fault.ms > 0 {
        rule["ms"] = fault.ms.into();
    }
    rule
}

/// Has the database go back while no other fault is played: what is lost are commits of refreshes alone.
async fn restore(stack: &Arc<Stack>, back_ms: u64) -> anyhow::Result<()> {
    let _alone = stack.exclusive.write().await;
    quiesce::end_faults(stack).await?;
    let _claims = stack.supervisor.claim_all().await?;
    // Calls that were under way have ended, and what came of them is in the rows.
    tokio::time::sleep(Duration::from_secs(CALL_TIMEOUT_SECS.into()) + SETTLED).await;
    let snapshot_us = stack.event_log.now_us();
    tokio::task::block_in_place(|| stack.database.keep_snapshot())?;
    tokio::time::sleep(Duration::from_millis(back_ms)).await;
    let away = stack
        .database
        .take_away(Outage::Cut, &stack.event_log)
        .await?;
    tokio::time::sleep(SETTLED).await;
    tokio::task::block_in_place(|| stack.database.go_back())?;
    stack.event_log.add(Event::Restored { snapshot_us });
    drop(away);
    tokio::time::sleep(RECOVERED).await;
    Ok(())
}

async fn copy_journal(
    stack: &Stack,
    from: usize,
    to: usize,
    copied: CopiedWhile,
) -> anyhow::Result<()> {
    let reader = reader_of(to)?;
    if copied == CopiedWhile::Down {
        let claim = process(stack, reader)?.claim().await?;
        claim.kill("copy its journal", DOWN_TO_COPY_MS).await;
    }
    let began_us = stack.event_log.now_us();
    tokio::task::block_in_place(|| stack.journals.copy_slots(from, to))?;
    stack.event_log.add(Event::Copied {
        from: stack.journals.name(from)?,
        to: stack.journals.name(to)?,
        began_us,
    });
    Ok(())
}

/// Asks every refresher for a token newer than the row's, all at once and while the provider takes its time.
async fn rush(stack: &Arc<Stack>, account: &Arc<Account>) -> anyhow::Result<()> {
    let generation = account.row(stack).await?.generation;
    let delay = |ms: u64| json!({"token_delay_ms": ms});
    {
        let mut rushes = stack.rushes.lock().await;
        stack.client.sim("settings", &delay(RUSH_DELAY_MS)).await?;
        *rushes += 1;
    }
    let mut asking = JoinSet::new();
    for refresher in REFRESHERS {
        let (stack, account) = (Arc::clone(stack), Arc::clone(account));
        let client = stack.client_of("data-api", refresher);
        asking.spawn(async move {
            ask_for_refresh(&stack, &client, refresher, &account, Some(generation)).await;
        });
    }
    while asking.join_next().await.is_some() {}
    let mut rushes = stack.rushes.lock().await;
    *rushes -= 1;
    if *rushes == 0 {
        stack.client.sim("settings", &delay(0)).await?;
    }
    Ok(())
}
