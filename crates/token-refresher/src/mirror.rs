//! The old table as a mirror: each new access token is written to the rows that its connection was imported from, for
//! workflows that still read them there. The refresh token is not: only one party spends.
//!
//! Every second all rows are read and compared with what they should hold. A row is written only while it holds the refresh
//! token that was imported from it, and the access token that was read a moment before: of two processes the later one
//! writes nothing older.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use pipekeeper_core::connection::{ConnectionId, ConnectionState};
use pipekeeper_core::crypto::OpenError;
use pipekeeper_core::lifetime::{due_at, minted_at};
use pipekeeper_core::store::{
    AppTok, AppTokRow, Connection, Import, RowTokens, RowWrite, StoreError,
};

use crate::config::OldTable;
use crate::old_row;
use crate::refresh::Refresher;

/// How long a caller waits for the old table.
const WAIT: Duration = Duration::from_secs(2);

/// Imports are read so many at a time.
const PAGE: u16 = 200;

/// How often one row is tried again at once: n8n writes there, too.
const TRIES: u8 = 5;

/// Of the time, the share that reading a large table may take.
const READING_SHARE: u32 = 10;

/// How often a table that can't be written is tried again.
const TRIAL_EVERY: Duration = Duration::from_mins(1);

/// How often the use of a mirrored connection is noted.
const TOUCH_EVERY: Duration = Duration::from_hours(1);

#[derive(Debug)]
pub(crate) struct Mirror {
    old: AppTok,
    door: Arc<Refresher>,
    troubles: Mutex<Troubles>,
    trial: Mutex<Trial>,
    /// When the next pass begins, by the monotonic clock.
    next_pass: Mutex<Duration>,
}

/// What keeps rows of the old table from being up to date.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Troubles {
    unreachable: bool,
    /// Why no row can be written, as a trial has shown.
    unwritable: Option<String>,
    /// By the row's id: why it is not written.
    conflicts: BTreeMap<String, String>,
}

/// Whether writing was tried before anything depends on it.
#[derive(Debug, Default, Clone, Copy)]
enum Trial {
    #[default]
    Due,
    /// By the monotonic clock.
    DueAt(Duration),
    Done,
}

/// What became of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Synced {
    /// It holds the connection's access token.
    Current { written: bool },
    /// The connection is not mirrored.
    NotMirrored,
    /// It is not written until somebody does something about it.
    Conflict(String),
}

/// Whether rows held an older access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WereCurrent {
    Yes,
    No,
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
    #[error("{0}")]
    Conflict(String),
    #[error("the old table's database did not answer in time")]
    TooSlow,
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
            troubles: Mutex::default(),
            trial: Mutex::default(),
            next_pass: Mutex::default(),
        })))
    }

    /// Sees to it that every row imported as this connection holds its current access token.
    ///
    /// # Errors
    /// One does not, for now.
    pub(crate) async fn sync_connection(
        &self,
        id: &ConnectionId,
    ) -> Result<WereCurrent, MirrorError> {
        let sync_all = async {
            let store = self.door.store();
            let links = store.imports_of_connection(id).await;
            let mut were_current = WereCurrent::Yes;
            for link in links.map_err(MirrorError::Own)? {
                if !self.is_linked(&link) {
                    continue;
                }
                match self.sync(&link, None).await? {
                    Synced::Current { written: false } | Synced::NotMirrored => {}
                    Synced::Current { written: true } => were_current = WereCurrent::No,
                    Synced::Conflict(why) => return Err(MirrorError::Conflict(why)),
                }
            }
            Ok(were_current)
        };
        let synced = tokio::time::timeout(WAIT, sync_all).await;
        synced.unwrap_or(Err(MirrorError::TooSlow))
    }

    /// Compares every row with its connection, and brings up to date what is not.
    ///
    /// # Errors
    /// Our own database can't be used.
    pub(crate) async fn sync_once(&self) -> Result<(), MirrorError> {
        let begun = self.door.monotonic();
        if begun < *lock(&self.next_pass) {
            return Ok(());
        }
        let done = self.pass().await;
        let ended = self.door.monotonic();
        let took = ended.saturating_sub(begun);
        *lock(&self.next_pass) = ended.saturating_add(took * READING_SHARE);
        done
    }

    async fn pass(&self) -> Result<(), MirrorError> {
        let mut troubles = Troubles::default();
        // The old rows before our own: what is written is never older than what it replaces.
        let rows = match self.old.rows().await {
            Ok(rows) => rows,
            Err(error) => {
                self.report_unreachable(error);
                return Ok(());
            }
        };
        let mut by_id: HashMap<String, Vec<AppTokRow>> = HashMap::new();
        for row in rows {
            if let Some(id) = row.id.clone() {
                by_id.entry(id).or_default().push(row);
            }
        }
        match self.trial_write(by_id.values().flatten()).await {
            Ok(why) => troubles.unwritable = why,
            Err(error) => {
                self.report_unreachable(error);
                return Ok(());
            }
        }
        let mut after = String::new();
        while !self.door.is_stopping() {
            let page = self
                .door
                .store()
                .imports_of(self.old.table(), &after, PAGE)
                .await
                .map_err(MirrorError::Own)?;
            let Some((last, _)) = page.last() else { break };
            after.clone_from(&last.source_row);
            for (link, row) in page {
                if !self.is_linked(&link) {
                    continue;
                }
                self.touch(&row).await.map_err(MirrorError::Own)?;
                let seen = by_id.remove(&link.source_row).unwrap_or_default();
                let seen = old_row::only(&link.source_row, seen);
                match self.sync(&link, Some((seen, row))).await {
                    Ok(Synced::Current { .. } | Synced::NotMirrored) => {}
                    Ok(Synced::Conflict(why)) => {
                        troubles.conflicts.insert(link.source_row, why);
                    }
                    Err(MirrorError::Old(error)) => {
                        self.report_unreachable(error);
                        return Ok(());
                    }
                    Err(error) => {
                        tracing::debug!(connection.id = %link.connection_id, "the old row is not up to date yet: {:#}", anyhow::Error::from(error));
                    }
                }
            }
        }
        self.report(troubles);
        Ok(())
    }

    fn is_linked(&self, link: &Import) -> bool {
        link.handed_back_at.is_none() && link.source_table == self.old.table()
    }

    /// Brings one row up to date. `known`: the row and its connection, read in this order.
    async fn sync(
        &self,
        link: &Import,
        mut known: Option<(Result<AppTokRow, String>, Connection)>,
    ) -> Result<Synced, MirrorError> {
        let (store, id) = (self.door.store(), &link.source_row);
        let mut written = false;
        for _ in 0..TRIES {
            let (seen, row) = if let Some(known) = known.take() {
                known
            } else {
                let seen = old_row::read(&self.old, id).await;
                let seen = seen.map_err(MirrorError::Old)?;
                let row = store.connection_find(&link.connection_id).await;
                let Some(row) = row.map_err(MirrorError::Own)? else {
                    return Ok(Synced::NotMirrored);
                };
                (seen, row)
            };
            if row.state != ConnectionState::Active {
                return Ok(Synced::NotMirrored);
            }
            let seen = match seen {
                Ok(seen) => seen,
                Err(why) => return Ok(Synced::Conflict(why)),
            };
            if seen.token_hash() != link.token_hash {
                return Ok(Synced::Conflict(format!(
                    "row {id} holds another refresh token than was imported"
                )));
            }
            let token = self.door.vault().access_token(&row)?;
            let tokens = RowTokens {
                access_token: &token,
                refresh_token: &seen.refresh_token,
            };
            if seen.holds(tokens) {
                return Ok(Synced::Current { written });
            }
            let done = self.old.write(&seen, tokens, self.door.now()).await;
            written |= matches!(done, Ok(RowWrite::Written));
            if let Some(why) = old_row::refusal(id, done, tokens).map_err(MirrorError::Old)? {
                return Ok(Synced::Conflict(why));
            }
        }
        Err(MirrorError::Contended)
    }

    /// Notes that the connection is in use: the workflows that read its row ask nobody for its token.
    async fn touch(&self, row: &Connection) -> Result<(), StoreError> {
        let now = self.door.now();
        let is_noted = |at| now.saturating_since(at) < TOUCH_EVERY;
        if row.state != ConnectionState::Active || row.last_used_at.is_some_and(is_noted) {
            return Ok(());
        }
        let Some(app) = self.door.apps().of(&row.app()) else {
            return Ok(());
        };
        let due_at = due_at(app, minted_at(row), row.expires_at, Some(now), now);
        self.door
            .store()
            .connection_touch(&row.id, now, due_at)
            .await
    }

    /// Why no row can be written, told by writing to one what it holds, and taking that back: before n8n's refresh is
    /// switched off, and before a refresh makes the row's access token useless.
    async fn trial_write(
        &self,
        mut rows: impl Iterator<Item = &AppTokRow>,
    ) -> Result<Option<String>, StoreError> {
        let now = self.door.monotonic();
        let is_due = match *lock(&self.trial) {
            Trial::Due => true,
            Trial::DueAt(at) => now >= at,
            Trial::Done => return Ok(None),
        };
        let last = lock(&self.troubles).unwritable.clone();
        let Some(row) = rows
            .find(|row| !row.refresh_token.is_empty())
            .filter(|_| is_due)
        else {
            return Ok(last);
        };
        let tokens = RowTokens {
            access_token: &row.access_token,
            refresh_token: &row.refresh_token,
        };
        let id = row.id.as_deref().unwrap_or_default();
        let done = self.old.try_write(row, tokens, self.door.now()).await;
        let is_done = matches!(done, Ok(RowWrite::Written));
        let why = old_row::refusal(id, done, tokens)?;
        *lock(&self.trial) = if is_done {
            Trial::Done
        } else {
            Trial::DueAt(now + TRIAL_EVERY)
        };
        Ok(why)
    }

    fn report_unreachable(&self, error: StoreError) {
        let mut troubles = lock(&self.troubles);
        if !troubles.unreachable {
            tracing::warn!(
                "the old table can't be kept up to date for now; refreshes go on: {:#}",
                anyhow::Error::from(error)
            );
        }
        troubles.unreachable = true;
    }

    /// Logs what is new of it, once.
    fn report(&self, now: Troubles) {
        let mut last = lock(&self.troubles);
        if last.unreachable {
            tracing::info!("the old table is kept up to date again");
        }
        let known: Vec<&String> = last.conflicts.values().chain(&last.unwritable).collect();
        for why in now.conflicts.values().chain(&now.unwritable) {
            if !known.contains(&why) {
                tracing::warn!("not written to the old table: {why}");
            }
        }
        *last = now;
    }

    /// What works, but not as it should.
    pub(crate) fn troubles(&self) -> Vec<String> {
        let troubles = lock(&self.troubles);
        let unreachable = troubles
            .unreachable
            .then_some("its database can't be used, so that its rows are not up to date");
        unreachable
            .into_iter()
            .chain(troubles.unwritable.as_deref())
            .chain(troubles.conflicts.values().map(String::as_str))
            .map(|why| format!("old_table: {why}"))
            .collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
