//! After the schedule: everything is put back, and the sweep has the time that it takes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::event_log::Event;
use super::stack::account::Row;
use super::stack::load::{Answered, Outcome, ask};
use super::stack::{DATA_APIS, Stack};

/// Longer than any back-off.
const PATIENCE: Duration = Duration::from_secs(150);
const ASK_EVERY: Duration = Duration::from_secs(20);

/// Access tokens of an hour: one more renewal, and there is rest.
const ACCESS_TTL_SECS: u64 = 3_600;

/// Faults end, processes are there, access tokens live long again.
pub(super) async fn put_back(stack: &Stack) -> anyhow::Result<()> {
    stack.armed.clear();
    // Every step that is under way shares it.
    let _alone = stack.exclusive.write().await;
    end_faults(stack).await?;
    let settings = json!({"access_ttl_secs": ACCESS_TTL_SECS});
    stack.client.sim("settings", &settings).await?;
    stack.event_log.add(Event::TokenLifetime {
        secs: ACCESS_TTL_SECS,
    });
    stack.supervisor.all_ready().await
}

/// The simulator's.
pub(super) async fn end_faults(stack: &Stack) -> anyhow::Result<()> {
    let faults = format!("{}/_sim/faults", stack.client.simulator);
    stack.client.http.delete(faults).send().await?;
    Ok(())
}

/// Waits until every row is at rest, but not for those that the mass-rejection guard keeps from it for ten minutes; those
/// that are not, and why.
///
/// A wrong clock may have had the sweep put a renewal off to its own tomorrow. A caller's request sets that right: anyone who is
/// not at rest is asked for now and then, as its users would.
pub(super) async fn settle(stack: &Stack) -> anyhow::Result<Vec<String>> {
    let begun = stack.event_log.now_us();
    let patience_us = i64::try_from(PATIENCE.as_micros())?;
    let ask_every_us = i64::try_from(ASK_EVERY.as_micros())?;
    let mut asked_us = begun;
    loop {
        let (mut restless, mut hope) = (Vec::new(), false);
        let now_us = stack.event_log.now_us();
        let are_asked = now_us - asked_us > ask_every_us;
        if are_asked {
            asked_us = now_us;
        }
        for (account, data_api) in stack.accounts.iter().zip(DATA_APIS.iter().cycle()) {
            let row = account.row(stack).await?;
            if let Some(why) = unrest(&row, stack.event_log.now_us()) {
                restless.push(format!("company {}: {why}", row.company));
                hope |= row.last_error.as_deref() != Some("mass_rejection");
                if are_asked {
                    let client = stack.client_of(data_api, "token-refresher");
                    ask(stack, &client, data_api, account).await;
                }
            }
        }
        if !hope || stack.event_log.now_us() - begun > patience_us {
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
pub(super) async fn ask_all(stack: &Arc<Stack>) -> anyhow::Result<Vec<Answered>> {
    let mut answers = Vec::new();
    for (account, data_api) in stack.accounts.iter().zip(DATA_APIS.iter().cycle()) {
        if account.row(stack).await?.state != "active" {
            continue;
        }
        let client = stack.client_of(data_api, "token-refresher");
        let mut answered = ask(stack, &client, data_api, account).await;
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
