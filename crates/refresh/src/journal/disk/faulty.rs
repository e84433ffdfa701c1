//! A disk that forgets what was not synced, and can be slow, full, broken or read-only.
//!
//! Files are real, so that they are read as always: what was written is in the page cache, so to speak. A crash
//! cuts each file back to what was synced.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::{Disk, SegmentFile, new_file};

/// How long something is waited for that has to come.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Default)]
pub(crate) struct FaultyDisk(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    files: Vec<Extent>,
    trouble: Option<DiskFault>,
    held: bool,
    waiting: usize,
    syncs: usize,
    crashed: bool,
}

/// A file, and how much of it is durable.
#[derive(Debug)]
struct Extent {
    path: PathBuf,
    written: u64,
    synced: u64,
    /// A sync has failed: what it was for is lost, although later ones succeed.
    spoiled: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskFault {
    ReadOnly,
    /// So many bytes fit.
    Full(usize),
    /// The next sync fails, once.
    SyncFails,
}

impl FaultyDisk {
    /// From now on.
    pub(crate) fn trouble(&self, trouble: DiskFault) {
        self.state().trouble = Some(trouble);
    }

    pub(crate) fn mend(&self) {
        self.state().trouble = None;
    }

    /// Syncs take until [`Self::let_syncs_go`].
    pub(crate) fn hold_syncs(&self) {
        self.state().held = true;
    }

    pub(crate) fn let_syncs_go(&self) {
        self.state().held = false;
        self.0.changed.notify_all();
    }

    /// Blocks until a thread waits for a sync that is held.
    #[track_caller]
    pub(crate) fn wait_for_a_held_sync(&self) {
        let state = self.state();
        let changed = &self.0.changed;
        let (_state, waited) = changed
            .wait_timeout_while(state, LIMIT, |state| state.waiting == 0)
            .unwrap();
        assert!(!waited.timed_out(), "no sync was asked for");
    }

    pub(crate) fn syncs(&self) -> usize {
        self.state().syncs
    }

    /// The power goes: all is forgotten that was not synced, and nothing more is taken.
    pub(crate) fn crash(&self) {
        let mut state = self.state();
        state.crashed = true;
        for extent in &state.files {
            if let Ok(file) = OpenOptions::new().write(true).open(&extent.path) {
                file.set_len(extent.synced).unwrap();
            }
        }
        drop(state);
        self.0.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let mut state = self.state();
        state.refuse_if_crashed()?;
        if state.trouble == Some(DiskFault::ReadOnly) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let file = new_file(path)?;
        state.files.push(Extent {
            path: path.to_owned(),
            written: 0,
            synced: 0,
            spoiled: false,
        });
        Ok(Box::new(ForgetfulFile {
            disk: self.clone(),
            file,
            number: state.files.len() - 1,
        }))
    }
}

#[derive(Debug)]
struct ForgetfulFile {
    disk: FaultyDisk,
    file: File,
    number: usize,
}

impl SegmentFile for ForgetfulFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.state();
        state.refuse_if_crashed()?;
        let (taken, result) = match &mut state.trouble {
            Some(DiskFault::ReadOnly) => (0, Err(io::ErrorKind::ReadOnlyFilesystem.into())),
            Some(DiskFault::Full(left)) if *left < bytes.len() => {
                (std::mem::take(left), Err(io::ErrorKind::StorageFull.into()))
            }
            Some(DiskFault::Full(left)) => {
                *left -= bytes.len();
                (bytes.len(), Ok(()))
            }
            Some(DiskFault::SyncFails) | None => (bytes.len(), Ok(())),
        };
        self.file.write_all(&bytes[..taken])?;
        state.files[self.number].written += u64::try_from(taken).unwrap();
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.disk.state();
        state.waiting += 1;
        self.disk.0.changed.notify_all();
        let mut state = self
            .disk
            .0
            .changed
            .wait_while(state, |state| state.held && !state.crashed)
            .unwrap();
        state.waiting -= 1;
        state.refuse_if_crashed()?;
        let fails = state.trouble == Some(DiskFault::SyncFails);
        if fails {
            state.trouble = None;
        }
        let extent = &mut state.files[self.number];
        extent.spoiled |= fails;
        if !extent.spoiled {
            extent.synced = extent.written;
        }
        state.syncs += 1;
        if fails {
            return Err(io::Error::other("the device does not answer"));
        }
        if fs::exists(&state.files[self.number].path)? {
            Ok(())
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    }
}

impl State {
    fn refuse_if_crashed(&self) -> io::Result<()> {
        if self.crashed {
            return Err(io::Error::other("there is no power"));
        }
        Ok(())
    }
}
