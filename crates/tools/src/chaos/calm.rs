//! After the schedule: everything is put back, and the sweep has the time that it takes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::account::Row;
use super::event_log::Event;
use super::load::{Answered, Outcome, ask};
use super::world::{DATA_APIS, World};

/// Longer than any back-off.
const PATIENCE: Duration = Duration::from_secs(150);
const ASK_EVERY: Duration = Duration::from_secs(20);

/// Access tokens of an hour: one more renewal, and there is rest.
const ACCESS_TTL_SECS: u64 = 3_600;

/// Faults end, processes are there, access tokens live long again.
pub(super) async fn put_back(world: &World) -> anyhow::Result<()> {
    world.armed.clear();
    // Every step that is under way shares it.
    let _alone = world.exclusive.write().await;
    end_faults(world).await?;
    let settings = json!({"access_ttl_secs": ACCESS_TTL_SECS});
    world.client.sim("settings", &settings).await?;
    world.event_log.add(Event::TokenLifetime {
        secs: ACCESS_TTL_SECS,
    });
    world.supervisor.all_ready().await
}

/// The simulator's.
pub(super) async fn end_faults(world: &World) -> anyhow::Result<()> {
    let faults = format!("{}/_sim/faults", world.client.simulator);
    world.client.http.delete(faults).send().await?;
    Ok(())
}

/// Waits until every row is at rest, but not for those that the mass-rejection guard keeps from it for ten minutes; those
/// that are not, and why.
///
/// A wrong clock may have had the sweep put a renewal off to its own tomorrow. A caller's request sets that right: whoever is
/// not at rest is asked for now and then, as its users would.
pub(super) async fn settle(world: &World) -> anyhow::Result<Vec<String>> {
    let begun = world.event_log.now_us();
    let patience_us = i64::try_from(PATIENCE.as_micros())?;
    let ask_every_us = i64::try_from(ASK_EVERY.as_micros())?;
    let mut asked_us = begun;
    loop {
        let (mut restless, mut hope) = (Vec::new(), false);
        let now_us = world.event_log.now_us();
        let are_asked = now_us - asked_us > ask_every_us;
        if are_asked {
            asked_us = now_us;
        }
        for (account, data_api) in world.accounts.iter().zip(DATA_APIS.iter().cycle()) {
            let row = account.row(world).await?;
            if let Some(why) = unrest(&row, world.event_log.now_us()) {
                restless.push(format!("company {}: {why}", row.company));
                hope |= row.last_error.as_deref() != Some("mass_rejection");
                if are_asked {
                    let client = world.client_of(data_api, "token-refresher");
                    ask(world, &client, data_api, account).await;
                }
            }
        }
        if !hope || world.event_log.now_us() - begun > patience_us {
            return Ok(restless);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

fn unrest(row: &Row, now_us: i64) -> Option<String> {
    let half_us = i64::try_from(ACCESS_TTL_SECS / 2).unwrap_or_default() * 1_000_000;
    if let Some(owner) = &row.lease_owner {
        Some(format!("{owner} has the lease"))
    } else if row.revoke_pending {
        Some("the provider has not been told that it was disconnected".to_owned())
    } else if row.state == "active" && row.expires_at_us < now_us + half_us {
        Some(format!(
            "active, and not renewed (generation {}, in doubt: {}, last error: {})",
            row.generation,
            row.in_doubt,
            row.last_error.as_deref().unwrap_or("none")
        ))
    } else {
        None
    }
}

/// One request for every connection that is active: its own data, at once.
pub(super) async fn ask_all(world: &Arc<World>) -> anyhow::Result<Vec<Answered>> {
    let mut answers = Vec::new();
    for (account, data_api) in world.accounts.iter().zip(DATA_APIS.iter().cycle()) {
        if account.row(world).await?.state != "active" {
            continue;
        }
        let client = world.client_of(data_api, "token-refresher");
        let mut answered = ask(world, &client, data_api, account).await;
        if let Outcome::Status { status, said, .. } = answered.outcome {
            // Nothing is wrong any more that could excuse it.
            answered.outcome = Outcome::Wrong {
                said: format!("{status} at rest: {said}"),
            };
        }
        answers.push(answered);
    }
    Ok(answers)
}
