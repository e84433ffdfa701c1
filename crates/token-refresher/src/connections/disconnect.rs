//! `token-refresher connections disconnect`.

use anyhow::Context as _;
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{ConnectionId, ConnectionState};
use pipekeeper_core::provider::Apps;
use pipekeeper_core::store::{HANDED_BACK, Overview, Revocation, Store};

use super::get;
use super::words::{state, when};

/// What `state_reason` says of it.
const REASON: &str = "disconnected";

pub(super) async fn disconnect(
    store: &Store,
    apps: &Apps,
    id: &ConnectionId,
    now: Timestamp,
) -> anyhow::Result<String> {
    loop {
        let row = get(store, id).await?;
        if row.state == ConnectionState::Revoked {
            return Ok(ended_before(&row, apps, now));
        }
        let ended = store
            .connection_revoke(id, row.generation, REASON, Revocation::Pending, now)
            .await
            .context("not disconnected")?;
        if ended {
            return Ok(format!(
                "disconnected: no service gives its tokens to anybody any more (data-api knows within 10 s).\n{}\n\
                 A new consent of the same user revives it.",
                provider_is_told(&row, apps)
            ));
        }
        // A refresh or a consent came in between: it is the newer row that ends.
    }
}

fn ended_before(row: &Overview, apps: &Apps, now: Timestamp) -> String {
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

fn provider_is_told(row: &Overview, apps: &Apps) -> String {
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
