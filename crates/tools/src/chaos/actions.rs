//! How each thing is made to go wrong.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::account::Account;
use super::chronicle::What;
use super::journals::outage_of;
use super::schedule::{Action, Fault, Outage, Step};
use super::world::{REFRESHERS, World, process_of};

/// Plays the schedule, each step at its time, and waits until all that was taken away is back.
pub(super) async fn play(world: &Arc<World>, steps: &[Step]) {
    let mut under_way = JoinSet::new();
    let begun = world.chronicle.now_us();
    for step in steps {
        let due = begun + i64::try_from(step.at_ms).unwrap_or(i64::MAX / 1000) * 1000;
        let wait = u64::try_from(due - world.chronicle.now_us()).unwrap_or(0);
        tokio::time::sleep(Duration::from_micros(wait)).await;
        let (world, action) = (Arc::clone(world), step.action);
        under_way.spawn(async move {
            if let Err(error) = act(&world, action).await {
                world.chronicle.add(What::Failed {
                    what: format!("{action}: {error:#}"),
                });
            }
        });
        while under_way.try_join_next().is_some() {}
    }
    while under_way.join_next().await.is_some() {}
}

async fn act(world: &World, action: Action) -> anyhow::Result<()> {
    let member = |refresher: usize| {
        let name = REFRESHERS.get(refresher).copied().unwrap_or_default();
        world.crew.member(name)
    };
    match action {
        Action::Kill { refresher, down_ms } => {
            member(refresher)?.kill("at random", down_ms).await;
        }
        Action::Aim {
            point,
            delay_ms,
            down_ms,
        } => {
            let url = world.trigger.url(point, down_ms);
            let aim = json!({"fault": "call", "when": point.name(), "ms": delay_ms, "url": url});
            refreshes_meet(world, aim).await?;
        }
        Action::Stop { refresher, for_ms } => {
            member(refresher)?.stop("for a while", for_ms).await;
        }
        Action::Restart { service, number } => {
            let member = world.crew.member(process_of(service, number))?;
            member.terminate("restart").await;
        }
        Action::Database { outage, for_ms } => database_away(world, outage, for_ms).await?,
        Action::Provider { fault, times } => refreshes_meet(world, rule(fault, times)).await?,
        Action::Api { fault, times } => {
            let mut rule = rule(fault, times);
            rule["on"] = "api".into();
            rule["route"] = "persons/search".into();
            world.client.sim("faults", &rule).await?;
        }
        Action::JournalFull { directory, for_ms } => {
            let of = outage_of(&world.journals.name(directory)?);
            world.chronicle.add(What::Outage { of: of.clone() });
            tokio::task::block_in_place(|| world.journals.shut(directory))?;
            tokio::time::sleep(Duration::from_millis(for_ms)).await;
            world.journals.open(directory)?;
            world.chronicle.add(What::Back { of });
        }
        Action::Reconnect { connection } => {
            if let Some(account) = account(world, connection) {
                account.reconnect(world).await;
            }
        }
        Action::Uninstall { connection, notify } => {
            if let Some(account) = account(world, connection) {
                account.uninstall(world, notify).await?;
            }
        }
        Action::Disconnect { connection } => {
            if let Some(account) = account(world, connection) {
                account.disconnect(world).await?;
            }
        }
        Action::Revoke { connection } => {
            if let Some(account) = account(world, connection) {
                account.revoke(world).await?;
            }
        }
    }
    Ok(())
}

fn account(world: &World, index: usize) -> Option<&Arc<Account>> {
    world.accounts.get(index)
}

fn rule(fault: Fault, times: u64) -> Value {
    let mut rule = json!({"fault": fault.name, "times": times});
    if fault.ms > 0 {
        rule["ms"] = fault.ms.into();
    }
    rule
}

async fn refreshes_meet(world: &World, mut rule: Value) -> anyhow::Result<()> {
    rule["on"] = "token".into();
    rule["grant"] = "refresh_token".into();
    world.client.sim("faults", &rule).await?;
    Ok(())
}

async fn database_away(world: &World, how: Outage, for_ms: u64) -> anyhow::Result<()> {
    let of = "database".to_owned();
    world.chronicle.add(What::Outage { of: of.clone() });
    let away = tokio::task::block_in_place(|| world.database.take_away(how))?;
    tokio::time::sleep(Duration::from_millis(for_ms)).await;
    drop(away);
    world.chronicle.add(What::Back { of });
    Ok(())
}
