//! What operators do with single connections: for those who had a table to look at. No token is read to be shown.

use anyhow::{Context as _, bail};
use pipekeeper_core::clock::SystemClock;
use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::store::{Overview, Store};
use pipekeeper_service::Loaded;

use crate::TokenRefresher;

mod default;
mod disconnect;
mod list;
mod refresh;
mod show;
mod text;

/// `token-refresher connections …`.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Connections {
    /// A page of them, as a table
    List(list::List),
    /// Everything that is known of one, and the last attempts to refresh it
    Show {
        id: ConnectionId,
        /// One JSON document, its fields named like the columns of `connections_overview` and `refresh_log`
        #[arg(long)]
        json: bool,
    },
    /// Refresh the token that it has now; exit code 0 only if it has a newer one then
    Refresh { id: ConnectionId },
    /// Make it the default connection: the one of callers that name only an app, or only an account
    Default(default::Default),
    /// End it: callers get its tokens no more, and its grant is revoked at the provider
    Disconnect { id: ConnectionId },
}

impl Connections {
    pub(crate) async fn run(self, config: Loaded<TokenRefresher>) -> anyhow::Result<String> {
        let now = SystemClock::shared().now();
        match self {
            Self::Refresh { id } => refresh::refresh(&id, &config).await,
            Self::List(list) => {
                let store = config.open_current_store().await?;
                list.page(&store, &config.own.apps, now).await
            }
            Self::Show { id, json } => {
                let store = config.open_current_store().await?;
                show::show(&store, &config.own.apps, &id, json, now).await
            }
            Self::Default(default) => {
                let store = config.open_current_store().await?;
                default.set(&store, now).await
            }
            Self::Disconnect { id } => {
                let store = config.open_current_store().await?;
                disconnect::disconnect(&store, &config.own.apps, &id, now).await
            }
        }
    }
}

async fn get(store: &Store, id: &ConnectionId) -> anyhow::Result<Overview> {
    let found = store
        .connection_overview(id)
        .await
        .context("the connection can't be read")?;
    match found {
        Some(row) => Ok(row),
        None => bail!("no connection {id}"),
    }
}

#[cfg(test)]
mod tests;
