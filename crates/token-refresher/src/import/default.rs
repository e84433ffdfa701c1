//! The newest of what an import found becomes the default connection of its app, and of its account, where none is set.

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{ConnectionState, KeeperName};
use pipekeeper_core::placement::DefaultReason;
use pipekeeper_core::store::{AppKey, Connection, NewDefault, Store, StoreError};

use super::source::Found;
use super::{Did, Run, Verdict};

impl Run<'_> {
    /// Sets the defaults, and says of each app which one it has.
    pub(super) async fn set_defaults(
        &self,
        found: &[Found],
        decided: &[(usize, Verdict)],
    ) -> anyhow::Result<Vec<String>> {
        let mut candidates: Vec<(&Found, &Verdict)> = decided
            .iter()
            .filter(|(_, verdict)| matches!(verdict.did, Did::Taken | Did::Here))
            .filter_map(|(place, verdict)| Some((found.get(*place)?, verdict)))
            .collect();
        candidates.sort_by(|(a, _), (b, _)| b.by_age(a));
        let (store, now) = (self.door.store(), self.door.now());
        let mut apps: Vec<AppKey> = Vec::new();
        let mut lines = Vec::new();
        for (one, verdict) in candidates {
            let Some(app) = &verdict.app else { continue };
            let row = match &verdict.connection {
                Some(id) => store.connection_find(id).await?,
                None => None,
            };
            let row = row.filter(|row| row.state == ConnectionState::Active);
            if self.apply {
                let Some(row) = &row else { continue };
                let account = Some(row.account_id.clone());
                set_if_absent(store, row, account, now).await?;
            }
            let key = app.app_key();
            if apps.contains(&key) {
                continue;
            }
            let default = store.default_connection(&key, None).await?;
            lines.push(match (default, &row) {
                (Some((default, _)), _) => format!(
                    "Callers that name only the app {} go on getting connection {}, its default connection.",
                    app.key, default.connection_id
                ),
                (None, Some(row)) if self.apply => {
                    set_if_absent(store, row, None, now).await?;
                    format!(
                        "Callers that name only the app {} get connection {} ({}, the newest): its default connection from now on.",
                        app.key, row.id, one.name
                    )
                }
                (None, _) => format!(
                    "Callers that name only the app {} would get {}, the newest: it becomes the default connection.",
                    app.key, one.name
                ),
            });
            apps.push(key);
        }
        Ok(lines)
    }
}

async fn set_if_absent(
    store: &Store,
    row: &Connection,
    account: Option<KeeperName>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let new = NewDefault {
        app: row.app(),
        account,
        reason: DefaultReason::Import,
    };
    store.default_connection_set_if_absent(row, &new, now).await
}
