//! `token-refresher connections default`, and which connections are the default ones.

use std::fmt;
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{ConnectionId, ConnectionState};
use pipekeeper_core::placement::DefaultReason;
use pipekeeper_core::provider::App;
use pipekeeper_core::store::{DefaultConnection, NewDefault, Overview, Store};
use serde::Serialize;

#[derive(Debug, Clone, clap::Args)]
pub struct Default {
    id: ConnectionId,
    /// Of its account only, for callers that name the account and no owner; the app's default stays as it is
    #[arg(long)]
    account_only: bool,
}

impl Default {
    pub(super) async fn set(&self, store: &Store, now: Timestamp) -> anyhow::Result<String> {
        let found = store.connection_find(&self.id).await;
        let Some(row) = found.context("the connection can't be read")? else {
            bail!("no connection {}", self.id)
        };
        ensure!(
            row.state != ConnectionState::Revoked,
            "{} has ended: connect it again first, or choose another",
            self.id
        );
        let mut keys = vec![Some(row.account_id.clone())];
        if !self.account_only {
            keys.push(None);
        }
        for account in keys {
            let new = NewDefault {
                app: row.app(),
                account,
                reason: DefaultReason::Operator,
            };
            store
                .default_connection_set(&row, &new, now)
                .await
                .context("the default connection was not set")?;
        }
        let whose = if self.account_only {
            "its account"
        } else {
            "its app and of its account"
        };
        Ok(format!(
            "the default connection of {whose} from now on (data-api knows within 10 s)."
        ))
    }
}

/// At most so many of an app are named.
const GONE_MAX: u16 = 100;

/// An app, or an account of it, whose default connection is gone: its row was removed, or given to another account, company or
/// user.
#[derive(Debug, Serialize)]
pub(super) struct GoneDefault {
    /// Its key in the configuration.
    app: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<String>,
    connection_id: ConnectionId,
}

impl fmt::Display for GoneDefault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (app, id) = (&self.app, &self.connection_id);
        let gone = "was removed, or given to another account, company or user";
        match &self.account_id {
            None => write!(
                f,
                "The default connection of app {app} is gone: {id} {gone}. Callers that name only the app get 404; \
                 `connections default ID` chooses another."
            ),
            Some(account) => write!(
                f,
                "The default connection of account {account} of app {app} is gone: {id} {gone}. Callers that name only the \
                 account get 404; `connections default ID --account-only` chooses another."
            ),
        }
    }
}

pub(super) async fn gone_defaults(
    store: &Store,
    apps: impl Iterator<Item = &Arc<App>>,
) -> anyhow::Result<Vec<GoneDefault>> {
    let mut gone = Vec::new();
    for app in apps {
        let found = store.defaults_gone(&app.app_key(), GONE_MAX).await;
        let found = found.context("the default connections can't be read")?;
        gone.extend(found.into_iter().map(|default| GoneDefault {
            app: app.key.clone(),
            account_id: (!default.account_id.is_empty()).then_some(default.account_id),
            connection_id: default.connection_id,
        }));
    }
    Ok(gone)
}

/// What this row is the default connection of: `app`, `account`.
pub(super) fn default_of(row: &Overview, defaults: &[DefaultConnection]) -> Vec<&'static str> {
    defaults
        .iter()
        .filter(|default| {
            default.connection_id == row.id
                && default.company_id == row.company_id
                && default.user_id == row.user_id
        })
        .filter_map(|default| match default.account_id.as_str() {
            "" => Some("app"),
            account if account == row.account_id.as_str() => Some("account"),
            _ => None,
        })
        .collect()
}
