//! `token-refresher connections disconnect`.

use anyhow::{Context as _, bail};
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{Connection, ConnectionId, HANDED_BACK};
use pipekeeper_core::provider::Apps;
use pipekeeper_core::store::{self, Disconnected, Store};

use super::text::{state, when};

pub(super) async fn disconnect(
    store: &Store,
    apps: &Apps,
    id: &ConnectionId,
    now: Timestamp,
) -> anyhow::Result<String> {
    let outcome = store::disconnect(store, id, now).await;
    match outcome.context("not disconnected")? {
        Disconnected::Unknown => bail!("no connection {id}"),
        Disconnected::Before(row) => Ok(ended_before(&row, apps, now)),
        Disconnected::Now(row) => Ok(format!(
            "disconnected: callers get its tokens no more (data-api knows within 10 s).\n{}\n\
             A new consent of the same user revives it.",
            provider_is_told(&row, apps)
        )),
    }
}

fn ended_before(row: &Connection, apps: &Apps, now: Timestamp) -> String {
    let ended = format!(
        "nothing to do: it is {} since {}.",
        state(row.state, row.state_reason.as_deref()),
        when(row.state_since, now)
    );
    if row.revoke_pending {
        format!("{ended}\n{}", provider_is_told(row, apps))
    } else if row.state_reason.as_deref() == Some(HANDED_BACK) {
        format!("{ended} Its tokens are the old table's: they can be ended there.")
    } else {
        format!("{ended} The provider knows, and the tokens are wiped.")
    }
}

fn provider_is_told(row: &Connection, apps: &Apps) -> String {
    match apps.of(&row.app()) {
        Some(_) => format!(
            "The provider is told by the next sweep of a running token-refresher, which then wipes the tokens: \
             `token-refresher connections show {}` says revoke_pending until that is done.",
            row.id
        ),
        None => format!(
            "The provider is not told yet: no app with the client id {} is configured here. A token-refresher that has it does so.",
            row.app_id
        ),
    }
}
