//! How each thing is made to go wrong.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::CALL_TIMEOUT_SECS;
use super::account::Account;
use super::calm;
use super::event_log::Event;
use super::in_call::{InCall, arm};
use super::journals::outage_of;
use super::load::ask_for_refresh;
use super::schedule::{Action, CopiedWhile, Fault, OnConnection, Outage, Step};
use super::supervisor::Process;
use super::world::{REFRESHERS, World, process_of, reader_of};

/// What ends by itself has ended by then.
const SETTLED: Duration = Duration::from_millis(500);

/// After the database went back refreshers spend nothing for five seconds.
const RECOVERED: Duration = Duration::from_secs(6);

/// Time enough to copy a journal.
const DOWN_TO_COPY_MS: u64 = 800;

/// How long a token call takes while every refresher is asked for the same connection.
const RUSH_DELAY_MS: u64 = 150;

/// Plays the schedule, each step at its time, and waits until all that was taken away is back.
pub(super) async fn play(world: &Arc<World>, steps: &[Step]) {
    let mut under_way = JoinSet::new();
    let begun = world.event_log.now_us();
    for step in steps {
        let due = begun + i64::try_from(step.at_ms).unwrap_or(i64::MAX / 1000) * 1000;
        let wait = u64::try_from(due - world.event_log.now_us()).unwrap_or(0);
        tokio::time::sleep(Duration::from_micros(wait)).await;
        let (world, action) = (Arc::clone(world), step.action);
        under_way.spawn(async move {
            if let Err(error) = act(&world, action).await {
                world.event_log.add(Event::Failed {
                    what: format!("{action}: {error:#}"),
                });
            }
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

async fn act(world: &Arc<World>, action: Action) -> anyhow::Result<()> {
    if let Action::Restore { back_ms } = action {
        return restore(world, back_ms).await;
    }
    let _shared = world.exclusive.read().await;
    match action {
        Action::Restore { .. } => {}
        Action::Kill { refresher, down_ms } => {
            let claim = process(world, refresher)?.claim().await?;
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
            arm(world, step).await?;
        }
        Action::KillBeforeStored { down_ms } => {
            arm(world, InCall::KillBeforeStored { down_ms }).await?;
        }
        Action::StopBeforeStored { for_ms } => {
            arm(world, InCall::StopBeforeStored { for_ms }).await?;
        }
        Action::Stop { refresher, for_ms } => {
            let claim = process(world, refresher)?.claim().await?;
            claim.stop("at random", Duration::from_millis(for_ms)).await;
        }
        Action::Restart { service, number } => {
            let process = world.supervisor.process(process_of(service, number))?;
            process.claim().await?.terminate("restart").await;
        }
        Action::Database { outage, for_ms } => {
            let away = world.database.take_away(outage, &world.event_log).await?;
            tokio::time::sleep(Duration::from_millis(for_ms)).await;
            drop(away);
        }
        Action::Provider { fault, times } => {
            let mut rule = rule(fault, times);
            rule["on"] = "token".into();
            rule["grant"] = "refresh_token".into();
            world.client.sim("faults", &rule).await?;
        }
        Action::Api { fault, times } => {
            let mut rule = rule(fault, times);
            rule["on"] = "api".into();
            rule["route"] = "persons/search".into();
            world.client.sim("faults", &rule).await?;
        }
        Action::JournalFull { directory, for_ms } => {
            let of = outage_of(&world.journals.name(directory)?);
            world.event_log.add(Event::Outage { of: of.clone() });
            tokio::task::block_in_place(|| world.journals.shut(directory))?;
            tokio::time::sleep(Duration::from_millis(for_ms)).await;
            world.journals.open(directory)?;
            world.event_log.add(Event::Back { of });
        }
        Action::CopyJournal { from, to, copied } => copy_journal(world, from, to, copied).await?,
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
                    world.set_clock(refresher, offset_ms)?;
                }
                tokio::time::sleep(Duration::from_millis(for_ms)).await;
            }
        }
        Action::OnConnection { connection, what } => {
            if let Some(account) = world.accounts.get(connection) {
                on_connection(world, account, what).await?;
            }
        }
        Action::DisconnectBeforeStored { down_ms } => {
            arm(world, InCall::DisconnectBeforeStored { down_ms }).await?;
        }
        Action::SeverInCall { how, killed_for_ms } => {
            arm(world, InCall::Sever { how, killed_for_ms }).await?;
        }
    }
    Ok(())
}

fn process(world: &World, refresher: usize) -> anyhow::Result<&Arc<Process>> {
    let name = REFRESHERS.get(refresher).copied().unwrap_or_default();
    world.supervisor.process(name)
}

async fn on_connection(
    world: &Arc<World>,
    account: &Arc<Account>,
    what: OnConnection,
) -> anyhow::Result<()> {
    match what {
        OnConnection::Rush => rush(world, account).await?,
        OnConnection::Reconnect => account.reconnect(world).await,
        OnConnection::Sever { how, notice } => account.sever(world, how, notice).await?,
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
async fn restore(world: &Arc<World>, back_ms: u64) -> anyhow::Result<()> {
    let _alone = world.exclusive.write().await;
    calm::end_faults(world).await?;
    let _claims = world.supervisor.claim_all().await?;
    // Calls that were under way have ended, and what came of them is in the rows.
    tokio::time::sleep(Duration::from_secs(CALL_TIMEOUT_SECS.into()) + SETTLED).await;
    let snapshot_us = world.event_log.now_us();
    tokio::task::block_in_place(|| world.database.keep_snapshot())?;
    tokio::time::sleep(Duration::from_millis(back_ms)).await;
    let away = world
        .database
        .take_away(Outage::Cut, &world.event_log)
        .await?;
    tokio::time::sleep(SETTLED).await;
    tokio::task::block_in_place(|| world.database.go_back())?;
    world.event_log.add(Event::Restored { snapshot_us });
    drop(away);
    tokio::time::sleep(RECOVERED).await;
    Ok(())
}

async fn copy_journal(
    world: &World,
    from: usize,
    to: usize,
    copied: CopiedWhile,
) -> anyhow::Result<()> {
    let reader = reader_of(to)?;
    if copied == CopiedWhile::Down {
        let claim = process(world, reader)?.claim().await?;
        claim.kill("copy its journal", DOWN_TO_COPY_MS).await;
    }
    let began_us = world.event_log.now_us();
    tokio::task::block_in_place(|| world.journals.copy_slots(from, to))?;
    world.event_log.add(Event::Copied {
        from: world.journals.name(from)?,
        to: world.journals.name(to)?,
        began_us,
    });
    Ok(())
}

/// Asks every refresher for a token newer than the row's, all at once and while the provider takes its time.
async fn rush(world: &Arc<World>, account: &Arc<Account>) -> anyhow::Result<()> {
    let generation = account.row(world).await?.generation;
    let delay = |ms: u64| json!({"token_delay_ms": ms});
    {
        let mut rushes = world.rushes.lock().await;
        world.client.sim("settings", &delay(RUSH_DELAY_MS)).await?;
        *rushes += 1;
    }
    let mut asking = JoinSet::new();
    for refresher in REFRESHERS {
        let (world, account) = (Arc::clone(world), Arc::clone(account));
        let client = world.client_of("data-api", refresher);
        asking.spawn(async move {
            ask_for_refresh(&world, &client, refresher, &account, Some(generation)).await;
        });
    }
    while asking.join_next().await.is_some() {}
    let mut rushes = world.rushes.lock().await;
    *rushes -= 1;
    if *rushes == 0 {
        world.client.sim("settings", &delay(0)).await?;
    }
    Ok(())
}
