//! Grants that the provider refused, refreshed once more when an app's credentials have changed.

use pipekeeper_core::provider::App;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::StoreError;

use crate::refresher::Refresher;

impl Refresher {
    /// Has the refused connections of apps rechecked whose credentials are not those that were seen last. Once per process:
    /// while some have the new ones and some the old, each would undo the other's note.
    pub async fn recheck_after_changes(&self) -> Result<(), StoreError> {
        self.rechecked
            .get_or_try_init(async || {
                for app in self.apps().iter() {
                    self.recheck_if_changed(app).await?;
                }
                Ok(())
            })
            .await
            .copied()
    }

    async fn recheck_if_changed(&self, app: &App) -> Result<(), StoreError> {
        let (store, key, now) = (self.store(), app.app_key(), self.now());
        // Which of two secrets stands first does not matter.
        let mut secrets: Vec<&str> = app.client_secrets().map(Secret::expose).collect();
        secrets.sort_unstable();
        let secrets = Secret::new(secrets.join("\n"));
        let fingerprint = self.vault().fingerprint(&secrets).to_string();
        let noted = store.app_credentials(&key).await?;
        if noted.as_deref() == Some(fingerprint.as_str()) {
            return Ok(());
        }
        if noted.is_some() {
            // Before they are noted: a process that ends in between leaves it to the next.
            let rows = store.connections_recheck(&key, now).await?;
            tracing::warn!(
                app = app.key,
                rows,
                "the app's credentials have changed: refused connections are refreshed once more"
            );
        }
        store.app_credentials_note(&key, &fingerprint, now).await?;
        Ok(())
    }
}
