//! The provider's answers, made durable before anything else happens to them: what a crash, a lost database or one that
//! went back in time is healed from.
//!
//! A directory holds slots; each process locks a free one or makes one, writes there alone, and reads all of them. A slot
//! holds segments of JSON lines: answers, sealed, and marks of those that need not be read again. An answer is on
//! the disk when [`Journal::record`] returns; marks get there when it suits the disk. Both are kept for a time after the
//! answer was settled. What is not settled is kept until it is.

mod compact;
mod disk;
mod entry;
mod index;
mod kept;
mod look;
mod segment;
mod slot;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pipekeeper_core::clock::{SharedClock, Timestamp};
use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::content_coding::ContentCoding;
use pipekeeper_core::crypto::OpenError;
use pipekeeper_core::oauth::TokenBody;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::vault::{JournalContext, Vault};

pub use self::disk::{Disk, MachineDisk, SegmentFile};

use self::entry::{Entry, Key};
use self::index::{EntryLocation, Index, PendingEntry};
use self::slot::Slot;
use self::writer::{Origin, Writer};

pub(crate) use self::kept::KeptResponse;

#[cfg(test)]
pub(crate) use self::disk::faulty::{DiskFault, FaultyDisk};

/// How long an answer waits for the disk before it is committed without: well within what a lease leaves for it
/// ([`crate::timing::LEASE_MARGIN`]).
const SYNC_TIMEOUT: Duration = Duration::from_millis(1_500);

/// This process's location among the journals in reach. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Journal(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    kept: Duration,
    patience: Duration,
    vault: Vault,
    clock: SharedClock,
    slot: Arc<Slot>,
    process: String,
    writer: Writer,
    index: Arc<Mutex<Index>>,
    healthy: Arc<AtomicBool>,
    /// What can't be read by this user: told of once.
    told: Mutex<BTreeSet<PathBuf>>,
    /// Looks that were asked for, and up to which of them the last one that was taken answers.
    looks_asked: AtomicU64,
    looked: Arc<tokio::sync::Mutex<u64>>,
}

/// A token endpoint's answer, opened.
pub(crate) struct JournaledResponse {
    pub(crate) received_at: Timestamp,
    pub(crate) body: TokenBody,
}

/// An answer that is not known to be committed.
#[derive(Debug, Clone)]
pub(crate) struct Unsettled {
    pub(crate) connection: ConnectionId,
    pub(crate) generation: i64,
    key: Key,
}

/// What is known of a lease's holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    Running,
    /// What it received is in the journal, and complete: look again before anything else.
    Gone,
    /// Its journal is not here.
    OutOfReach,
}

impl Journal {
    /// Takes a slot and shows that it can be written to. What is there already is read when it is first asked for.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: &Path,
        kept: Duration,
        vault: Vault,
        clock: SharedClock,
    ) -> Result<Self, JournalError> {
        Self::open_on(disk, SYNC_TIMEOUT, directory, kept, vault, clock)
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        patience: Duration,
        directory: &Path,
        kept: Duration,
        vault: Vault,
        clock: SharedClock,
    ) -> Result<Self, JournalError> {
        let slot = Arc::new(Slot::take(directory)?);
        let index = Arc::new(Mutex::new(Index::default()));
        let healthy = Arc::new(AtomicBool::new(true));
        let writer = Writer::start(
            disk,
            Arc::clone(&slot),
            Arc::clone(&index),
            Arc::clone(&healthy),
        )
        .map_err(|source| JournalError::directory(directory, source))?;
        Ok(Self(Arc::new(Inner {
            directory: directory.to_owned(),
            kept,
            patience,
            vault,
            clock,
            process: slot.process(),
            slot,
            writer,
            index,
            healthy,
            told: Mutex::default(),
            looks_asked: AtomicU64::new(0),
            looked: Arc::new(tokio::sync::Mutex::new(0)),
        })))
    }

    /// `<slot>/<incarnation>`, 41 characters: what the owners of this process's leases begin with, followed by a `/`.
    pub(crate) fn process(&self) -> &str {
        &self.0.process
    }

    /// Durable when it returns `Ok`. Waits for the disk for no longer than the patience; after that the answer may still
    /// get there.
    pub(crate) async fn record(
        &self,
        id: &ConnectionId,
        generation: i64,
        spent: &Secret,
        received_at: Timestamp,
        body: &TokenBody,
    ) -> Result<(), JournalError> {
        let key = Key {
            connection: id.clone(),
            generation,
            spent: self.0.vault.fingerprint(spent),
        };
        let to = key.answer_to(received_at, &body.coding);
        let sealed = self.0.vault.seal_answer(to, &body.bytes);
        let line = entry::answer_line(&key, received_at, &body.coding, &sealed);
        let written = self
            .0
            .writer
            .answer(line, key, received_at, Origin::Received);
        match tokio::time::timeout(self.0.patience, written).await {
            Ok(result) => result,
            Err(_elapsed) => {
                self.0.healthy.store(false, Ordering::Relaxed);
                Err(JournalError::Slow(self.0.patience))
            }
        }
    }

    /// Marks the answer as settled. Not synced, never waits.
    pub(crate) fn settle(&self, id: &ConnectionId, generation: i64, spent: &Secret) {
        let mut keys: Vec<Key> = self.keys(id, generation, spent).collect();
        let index = self.0.index();
        if keys.iter().any(|key| index.knows(key.hash())) {
            keys.retain(|key| index.knows(key.hash()));
        } else {
            // The disk has not taken it yet: it comes under the key that seals.
            keys.truncate(1);
        }
        drop(index);
        for key in &keys {
            self.0.settle_key(key);
        }
    }

    /// The refresh that received the answer ends without having committed it: replay may.
    pub(crate) fn leave(&self, id: &ConnectionId, generation: i64, spent: &Secret) {
        self.each_open(id, generation, spent, |open| open.abandoned = true);
    }

    /// The answer can't be interpreted. It stays unsettled for as long as settled ones are kept: a later version may.
    pub(crate) fn keep_unread(&self, id: &ConnectionId, generation: i64, spent: &Secret) {
        self.each_open(id, generation, spent, |open| open.unread = true);
    }

    pub(crate) fn keep_unread_orphan(&self, unsettled: &Unsettled) {
        if let Some(open) = self.0.index().open(unsettled.key.hash()) {
            open.unread = true;
        }
    }

    fn each_open(
        &self,
        id: &ConnectionId,
        generation: i64,
        spent: &Secret,
        change: impl Fn(&mut PendingEntry),
    ) {
        let keys: Vec<Key> = self.keys(id, generation, spent).collect();
        let mut index = self.0.index();
        for key in keys {
            index.open(key.hash()).map(&change);
        }
    }

    /// What `usable` makes of the provider's answers to this token at this generation, from any slot in reach: an answer may
    /// be none (an error page with status 200), and its successor lie elsewhere. An error says that not all slots could be
    /// looked at.
    pub(crate) async fn find<T>(
        &self,
        id: &ConnectionId,
        generation: i64,
        spent: &Secret,
        usable: impl Fn(JournaledResponse) -> Option<T>,
    ) -> Result<Option<T>, JournalError> {
        let keys: Vec<Key> = self.keys(id, generation, spent).collect();
        let known = self.find_known(&keys).await?;
        if let Some(found) = known.into_iter().find_map(&usable) {
            return Ok(Some(found));
        }
        self.look().await?;
        Ok(self.find_known(&keys).await?.into_iter().find_map(usable))
    }

    /// What is known of the process that holds this lease. If it is gone, all that it has written can be found *after*
    /// this answer.
    pub(crate) async fn holder(&self, lease_owner: &str) -> Holder {
        let mut parts = lease_owner.splitn(3, '/');
        let (Some(slot), Some(incarnation)) = (parts.next(), parts.next()) else {
            return Holder::OutOfReach;
        };
        if !slot::is_name(slot) || !slot::is_name(incarnation) {
            return Holder::OutOfReach;
        }
        let directory = self.0.directory.join(slot);
        let incarnation = incarnation.to_owned();
        blocking(move || Ok(slot::holder(&directory, &incarnation)))
            .await
            .unwrap_or(Holder::OutOfReach)
    }

    /// Answers that are not known to be committed, or about to be: of processes that are gone (earlier ones of
    /// this slot, and those of slots that are not locked), and those that were left.
    pub(crate) async fn orphaned(&self) -> Result<Vec<Unsettled>, JournalError> {
        self.look().await?;
        let inner = Arc::clone(&self.0);
        blocking(move || Ok(inner.orphaned())).await
    }

    /// Whether the answer was given to this token.
    pub(crate) fn is_of(&self, unsettled: &Unsettled, refresh_token: &Secret) -> bool {
        let vault = &self.0.vault;
        vault.is_fingerprint_of(unsettled.key.spent, refresh_token)
    }

    /// The answers under its key, at least one.
    pub(crate) fn read(
        &self,
        unsettled: &Unsettled,
    ) -> Result<Vec<JournaledResponse>, JournalError> {
        let answers = self.0.read(std::slice::from_ref(&unsettled.key))?;
        if answers.is_empty() {
            return Err(JournalError::Lost);
        }
        Ok(answers)
    }

    pub(crate) fn settle_orphan(&self, unsettled: &Unsettled) {
        self.0.settle_key(&unsettled.key);
    }

    /// This slot's answers that are not settled yet, without those that can't be interpreted.
    pub fn depth(&self) -> usize {
        self.0.index().unsettled_in(self.0.slot.name())
    }

    /// Whether the disk took what it was last given.
    pub(crate) fn healthy(&self) -> bool {
        self.0.healthy.load(Ordering::Relaxed)
    }

    fn keys<'a>(
        &'a self,
        id: &'a ConnectionId,
        generation: i64,
        spent: &'a Secret,
    ) -> impl Iterator<Item = Key> + 'a {
        self.0.vault.fingerprints(spent).map(move |spent| Key {
            connection: id.clone(),
            generation,
            spent,
        })
    }

    /// Without looking for what others have written since the last look.
    async fn find_known(&self, keys: &[Key]) -> Result<Vec<JournaledResponse>, JournalError> {
        let known = {
            let index = self.0.index();
            keys.iter().any(|key| index.knows(key.hash()))
        };
        if !known {
            return Ok(Vec::new());
        }
        let (inner, keys) = (Arc::clone(&self.0), keys.to_vec());
        blocking(move || inner.read(&keys)).await
    }

    /// Reads on where the last search ended. One search serves all callers that asked before it began.
    async fn look(&self) -> Result<(), JournalError> {
        let ticket = self.0.looks_asked.fetch_add(1, Ordering::SeqCst);
        let mut looked = Arc::clone(&self.0.looked).lock_owned().await;
        if ticket < *looked {
            return Ok(());
        }
        let inner = Arc::clone(&self.0);
        blocking(move || {
            let asked = inner.looks_asked.load(Ordering::SeqCst);
            inner.read_on()?;
            *looked = asked;
            Ok(())
        })
        .await
    }

    /// Unlocks the slot as a killed process does, even while clones of this exist.
    #[cfg(test)]
    pub(crate) fn die(&self) {
        self.0.slot.release();
    }
}

impl Inner {
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle_key(&self, key: &Key) {
        let mut index = self.index();
        // Whatever the clock was turned back by, a mark is no older than its answer.
        let now = self.clock.now();
        let at = index.received_at(key.hash()).map_or(now, |at| at.max(now));
        index.settle(key.hash(), at);
        drop(index);
        self.writer.mark(entry::settled_line(key, at), at);
    }

    /// The answers to any of the keys that the index knows and that are still to be read.
    fn read(&self, keys: &[Key]) -> Result<Vec<JournaledResponse>, JournalError> {
        let mut answers = Vec::new();
        for key in keys {
            let locations = self.index().locations(key.hash());
            for location in locations {
                let Some(line) = self.line_at(&location)? else {
                    continue;
                };
                let Ok(Entry::JournaledResponse {
                    key: found,
                    received_at,
                    coding,
                    body,
                }) = entry::decode(&line)
                else {
                    continue;
                };
                if found != *key {
                    continue;
                }
                let sealed = entry::sealed(&body).ok_or(OpenError::Malformed)?;
                let to = key.answer_to(received_at, &coding);
                let bytes = self.vault.answer(to, &sealed)?;
                answers.push(JournaledResponse {
                    received_at,
                    body: TokenBody { coding, bytes },
                });
            }
        }
        Ok(answers)
    }

    /// A whole line without its newline; `None` if it was deleted, or if the disk has changed it since.
    fn line_at(&self, location: &EntryLocation) -> Result<Option<Vec<u8>>, JournalError> {
        let directory = self.directory.join(&location.slot);
        let path = directory.join(location.segment.file());
        match segment::line_at(&path, location.offset) {
            Ok(line) if entry::decode(&line).is_ok() => Ok(Some(line)),
            Ok(line) => {
                segment::quarantine(&directory, &location.segment, location.offset, &line);
                Ok(None)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(JournalError::Read { path, source }),
        }
    }

    fn orphaned(&self) -> Vec<Unsettled> {
        let mut found = self.index().unsettled();
        let mut free: Vec<(String, bool)> = Vec::new();
        found.retain(|open| {
            if open.slot == self.slot.name() {
                return open.abandoned;
            }
            if let Some((_, free)) = free.iter().find(|(slot, _)| *slot == open.slot) {
                return *free;
            }
            let is_free = slot::is_free(&self.directory.join(&open.slot));
            free.push((open.slot.clone(), is_free));
            is_free
        });
        let unsettled = found.into_iter().map(|open| Unsettled {
            connection: open.key.connection.clone(),
            generation: open.key.generation,
            key: open.key,
        });
        unsettled.collect()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("directory", &self.directory)
            .field("process", &self.process)
            .finish_non_exhaustive()
    }
}

impl Key {
    fn answer_to<'a>(
        &'a self,
        received_at: Timestamp,
        coding: &'a ContentCoding,
    ) -> JournalContext<'a> {
        JournalContext {
            id: &self.connection,
            generation: self.generation,
            spent: self.spent,
            received_at,
            coding,
        }
    }
}

/// File operations go where they hold up no one else.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JournalError> + Send + 'static,
) -> Result<T, JournalError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_ended| JournalError::Stopped)?
}

/// Why the journal can't do what it is for.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error(
        "journal.directory `{}` can't be used: it has to be a directory, or one that can be made, that this process may write to", path.display()
    )]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "`{}` can't be locked: journal.directory has to be on a file system with file locks", path.display()
    )]
    Lock {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// One failure of the disk fails all that were written together.
    #[error("the journal's disk does not take what is written to it")]
    Write(#[source] Arc<io::Error>),
    #[error("the journal's disk took longer than {0:?}")]
    Slow(Duration),
    #[error("`{}` can't be read", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("`{}` can't be deleted", path.display())]
    Delete {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("an answer in the journal does not open")]
    Sealed(#[from] OpenError),
    #[error("the answer is not in the journal any more")]
    Lost,
    #[error("the journal has stopped")]
    Stopped,
}

impl JournalError {
    /// The answer is there, and every process that has the key can read it.
    pub(crate) fn lacks_key(&self) -> bool {
        matches!(self, Self::Sealed(OpenError::UnknownKey(_)))
    }

    fn directory(path: &Path, source: io::Error) -> Self {
        Self::Directory {
            path: path.to_owned(),
            source,
        }
    }
}
