//! Grants that the provider refused, once more: when an operator asks, and when an app's credentials have changed.

use anyhow::{Context as _, bail};
use pipekeeper_core::provider::App;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Store, StoreError};
use pipekeeper_core::vault::Vault;
use pipekeeper_service::Loaded;

use crate::TokenRefresher;
use crate::refresh::Refresher;

/// `token-refresher recheck`: the running processes do it, in their next sweeps.
pub(crate) async fn recheck(
    app: Option<&str>,
    config: Loaded<TokenRefresher>,
) -> anyhow::Result<String> {
    let store = config.open_store()?;
    let now = pipekeeper_core::clock::SystemClock::shared().now();
    let mut told = Vec::new();
    for chosen in config.own.apps.iter() {
        if app.is_none_or(|key| chosen.key == key) {
            let rows = store.connections_recheck(&chosen.app_key(), now).await?;
            told.push(format!(
                "app {}: {rows} refused connections are taken through the door again; refresh_log has what comes of it",
                chosen.key
            ));
        }
    }
    if told.is_empty() {
        bail!("no app `{}` is configured", app.context("there are apps")?);
    }
    Ok(told.join("\n"))
}

impl Refresher {
    /// Has the refused connections of apps rechecked whose credentials are not those that were seen last.
    pub(crate) async fn recheck_after_changes(&self) -> Result<(), StoreError> {
        for app in self.apps().iter() {
            if changed(self.store(), self.vault(), app, self.now()).await? {
                let rows = self
                    .store()
                    .connections_recheck(&app.app_key(), self.now())
                    .await?;
                tracing::warn!(
                    app = app.key,
                    rows,
                    "the app's credentials have changed: refused connections are taken through the door again"
                );
            }
        }
        Ok(())
    }
}

async fn changed(
    store: &Store,
    vault: &Vault,
    app: &App,
    now: pipekeeper_core::clock::Timestamp,
) -> Result<bool, StoreError> {
    // Which of two secrets stands first does not matter.
    let mut secrets: Vec<&str> = app.client_secrets().map(Secret::expose).collect();
    secrets.sort_unstable();
    let fingerprint = vault.fingerprint(&Secret::new(secrets.join("\n")));
    store
        .app_credentials_changed(&app.app_key(), &fingerprint.to_string(), now)
        .await
}
