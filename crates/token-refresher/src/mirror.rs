//! The old table as a mirror: each new access token is written to the row that its connection came from, for workflows that
//! still read it there. The refresh token is not: only one party spends.
//!
//! A row is known by its id, and written to only while it holds the refresh token that was imported from it, and the access
//! token that was read a moment before: of two processes the one that comes late writes nothing older.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use pipekeeper_core::connection::ConnectionState;
use pipekeeper_core::crypto::{OpenError, sha256_hex};
use pipekeeper_core::store::{AppTok, Connection, Import, StoreError};

use crate::config::OldTable;
use crate::refresh::Refresher;

/// How long an answer waits for the old table.
const PATIENCE: Duration = Duration::from_secs(2);

/// Rows are read so many at a time.
const PAGE: u16 = 200;

/// Others write there too: so often one row is tried again at once.
const TRIES: u8 = 5;

#[derive(Debug)]
pub(crate) struct Mirror {
    old: AppTok,
    door: Arc<Refresher>,
    told: Mutex<Troubles>,
}

/// What keeps rows of the old table from being up to date.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Troubles {
    unreachable: bool,
    /// Rows that are gone, or that somebody else has written to.
    strange: BTreeSet<String>,
}

/// What became of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// It has our access token.
    Current,
    /// The connection is none that is mirrored.
    NotMirrored,
    /// Its id is no row's any more, or its refresh token is another one than was imported.
    Strange(String),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum MirrorError {
    #[error("our own database could not be used")]
    Own(#[source] StoreError),
    #[error("the old table could not be used")]
    Old(#[source] StoreError),
    #[error("the stored token does not open")]
    Sealed(#[from] OpenError),
    #[error("the old table's row is written to again and again")]
    Contended,
}

impl Mirror {
    /// `None` where it is switched off.
    pub(crate) fn of(
        config: &OldTable,
        door: &Arc<Refresher>,
    ) -> anyhow::Result<Option<Arc<Self>>> {
        if !config.mirror {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self {
            old: config.open()?,
            door: Arc::clone(door),
            told: Mutex::default(),
        })))
    }

    /// Waits until the old table has the row's token, but not for long: what is not there yet follows.
    pub(crate) async fn show(&self, row: &Connection) {
        let bring_all = async {
            let store = self.door.store();
            let imports = store.imports_of_connection(&row.id).await;
            for import in imports.map_err(MirrorError::Own)? {
                self.bring(import).await?;
            }
            Ok::<_, MirrorError>(())
        };
        let why = match tokio::time::timeout(PATIENCE, bring_all).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => anyhow::Error::from(error),
            Err(elapsed) => anyhow::Error::from(elapsed),
        };
        tracing::debug!(connection.id = %row.id, "not in the old table yet: {why:#}");
    }

    /// Brings every row up to date that is not, and says how many it brought.
    ///
    /// # Errors
    /// Our own database can't be used.
    pub(crate) async fn catch_up_once(&self) -> Result<usize, MirrorError> {
        let (mut troubles, mut brought) = (Troubles::default(), 0);
        let mut after = String::new();
        while !self.door.is_stopping() {
            let page = self
                .door
                .store()
                .imports_behind(self.old.table(), &after, PAGE)
                .await
                .map_err(MirrorError::Own)?;
            let Some(last) = page.last() else { break };
            after.clone_from(&last.source_row);
            for import in page {
                let id = import.connection_id.clone();
                match self.bring(import).await {
                    Ok(Shown::Current) => brought += 1,
                    Ok(Shown::NotMirrored) => {}
                    Ok(Shown::Strange(why)) => {
                        troubles.strange.insert(why);
                    }
                    Err(MirrorError::Old(error)) => {
                        // What was strange before is not known to have changed.
                        troubles.strange.append(&mut self.told().strange);
                        troubles.unreachable = true;
                        self.tell(troubles, Some(error));
                        return Ok(brought);
                    }
                    Err(error) => {
                        tracing::debug!(connection.id = %id, "not in the old table yet: {:#}", anyhow::Error::from(error));
                    }
                }
            }
        }
        self.tell(troubles, None);
        Ok(brought)
    }

    /// Brings one row up to date.
    async fn bring(&self, mut import: Import) -> Result<Shown, MirrorError> {
        let store = self.door.store();
        for _ in 0..TRIES {
            if import.handed_back_at.is_some() || import.source_table != self.old.table() {
                return Ok(Shown::NotMirrored);
            }
            // The old row before our own: what is written is never older than what it replaces.
            let seen = self.old.row(&import.source_row).await;
            let seen = seen.map_err(MirrorError::Old)?;
            let row = store.connection_find(&import.connection_id).await;
            let row = row.map_err(MirrorError::Own)?;
            let Some(row) = row.filter(|row| row.state == ConnectionState::Active) else {
                return Ok(Shown::NotMirrored);
            };
            if row.generation == import.mirrored_generation {
                return Ok(Shown::Current);
            }
            let Some(seen) = seen else {
                return Ok(Shown::Strange(format!("row {} is gone", import.source_row)));
            };
            if sha256_hex(seen.refresh_token.expose()) != import.token_hash {
                return Ok(Shown::Strange(format!(
                    "row {} holds another refresh token than was imported",
                    import.source_row
                )));
            }
            let (token, now) = (self.door.vault().access_token(&row)?, self.door.now());
            let written = self.old.access_token_write(&seen, &token, now).await;
            if written.map_err(MirrorError::Old)? {
                let marked = store.import_mirrored(&import, row.generation, now).await;
                if marked.map_err(MirrorError::Own)? {
                    return Ok(Shown::Current);
                }
            }
            // Somebody was faster: as it is now.
            let current = store.import_find(&import.source_table, &import.source_row);
            match current.await.map_err(MirrorError::Own)? {
                Some(current) => import = current,
                None => return Ok(Shown::NotMirrored),
            }
        }
        Err(MirrorError::Contended)
    }

    fn told(&self) -> Troubles {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.clone()
    }

    /// Says what is new of it, once.
    fn tell(&self, now: Troubles, cause: Option<StoreError>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cause) = cause
            && !told.unreachable
        {
            tracing::warn!(
                "the old table can't be kept up to date for now; refreshes go on: {:#}",
                anyhow::Error::from(cause)
            );
        }
        if told.unreachable && !now.unreachable {
            tracing::info!("the old table is kept up to date again");
        }
        for why in now.strange.difference(&told.strange) {
            tracing::warn!(
                "not written to the old table: {why}: does somebody else refresh it? `import` looks whose it is"
            );
        }
        *told = now;
    }

    /// What works, but not as it should.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let told = self.told();
        let unreachable = told
            .unreachable
            .then(|| "old_table: can't be kept up to date".to_owned());
        let strange = told.strange.iter().map(|why| format!("old_table: {why}"));
        unreachable.into_iter().chain(strange).collect()
    }
}

impl OldTable {
    /// # Errors
    /// No table is configured.
    pub(crate) fn open(&self) -> anyhow::Result<AppTok> {
        let table = self
            .table
            .clone()
            .filter(|_| !self.url.is_empty())
            .context("old_table.url (or old_table.url_file) does not say where the table is")?;
        AppTok::open(&self.url, table).context("can't open the old table's database")
    }
}
