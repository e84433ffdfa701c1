//! The file of a `SQLite` database: where it is, and whether it is still the one that a connection was made to.
//!
//! A file that was replaced (a backup put back by `mv`, say) leaves its write-ahead log behind, under a name that `SQLite`
//! takes for the new file's, and it would write pages of the one into the other. So the log is put aside first.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::diagnosis::Diagnosis;
use super::error::ConnectError;

/// Device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

#[derive(Debug)]
pub(super) struct SqliteFile {
    path: PathBuf,
    seen: Mutex<Option<Seen>>,
}

/// The files that the last connection was made to.
#[derive(Debug)]
struct Seen {
    database: FileId,
    write_ahead_log: Option<FileId>,
}

impl SqliteFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            seen: Mutex::default(),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Which file has its name now.
    pub(super) fn current(&self) -> Result<FileId, ConnectError> {
        id_of(&self.path).map_err(|error| self.cant_use(&error, true))
    }

    /// Has everything ready for a connection. Makes the file where there is none, but only the first time: one that
    /// disappears later is not replaced by an empty one.
    pub(super) fn prepare(&self) -> Result<FileId, ConnectError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let id = self.create_private(seen.is_none());
        let id = id.map_err(|error| self.cant_use(&error, seen.is_some()))?;
        if let Some(known) = seen.as_mut().filter(|known| known.database != id) {
            self.put_log_aside(known)
                .map_err(|error| self.cant_use(&error, false))?;
            known.database = id;
        }
        Ok(id)
    }

    /// Notes what a connection was made to.
    pub(super) fn note(&self, database: FileId) {
        let noted = Seen {
            database,
            write_ahead_log: id_of(&self.beside("-wal")).ok(),
        };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(noted);
    }

    /// `SQLite` itself would create the file readable by everyone, and gives its `-wal` and `-shm` files the rights of this
    /// one.
    fn create_private(&self, create: bool) -> io::Result<FileId> {
        let file = OpenOptions::new()
            .write(true)
            .create(create)
            .truncate(false)
            .mode(0o600)
            .open(&self.path)?
            .metadata()?;
        Ok(FileId(file.dev(), file.ino()))
    }

    /// Of a file that was replaced: the first task that notices it does so.
    fn put_log_aside(&self, replaced: &mut Seen) -> io::Result<()> {
        let log = self.beside("-wal");
        let noted = replaced.write_ahead_log.take();
        tracing::error!("the database file {} was replaced", self.path.display());
        let Some(noted) = noted.filter(|noted| id_of(&log).ok() == Some(*noted)) else {
            return Ok(());
        };
        // Under a name of its own: a file that it took the place of would give its inode to the next write-ahead log, which
        // another process would then take for the one that it has noted.
        let aside = self.beside(&format!("-wal.replaced-{}", noted.1));
        tracing::error!("its write-ahead log is kept as {}", aside.display());
        fs::rename(&log, aside)?;
        match fs::remove_file(self.beside("-shm")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn beside(&self, end: &str) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(end);
        name.into()
    }

    pub(super) fn cant_use(&self, error: &io::Error, was_there: bool) -> ConnectError {
        let diagnosis = if was_there && error.kind() == io::ErrorKind::NotFound {
            Some(Diagnosis::FileGone)
        } else {
            Diagnosis::of_file(error)
        };
        ConnectError::of(diagnosis, format!("{}: {error}", self.path.display()))
    }
}

fn id_of(path: &Path) -> io::Result<FileId> {
    let file = fs::metadata(path)?;
    Ok(FileId(file.dev(), file.ino()))
}
