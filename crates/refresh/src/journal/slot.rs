//! A slot: a directory that one process at a time has locked, and the name of the process that locked it last.
//!
//! A free lock proves that its holder is dead only if it is the very lock that the holder had. A copy of the directory (a
//! machine image, a restored backup, a volume snapshot) has free locks while the holders run elsewhere. So each slot records
//! the identity of its lock file: the boot of the machine that made it, device, inode and creation time. A slot whose identity
//! does not match is read, but never taken, and its holders are [`Holder::OutOfReach`].

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use pipekeeper_core::random;

use super::disk::{new_file, sync_parent};
use super::{Holder, JournalError};

/// 80 random bits: no two machines ever have slots, or processes, of one name.
const NAME_BYTES: usize = 10;
const LOCK: &str = "lock";
/// Holds the identity of the lock file. Written once, with the slot.
const IDENTITY: &str = "identity";
/// More than other processes that start at the same moment can snatch away.
const ATTEMPTS: usize = 100;

#[derive(Debug)]
pub(super) struct Slot {
    directory: PathBuf,
    name: String,
    incarnation: String,
    lock: Mutex<File>,
}

impl Slot {
    /// Locks a free slot, or makes one.
    pub(super) fn take(root: &Path) -> Result<Self, JournalError> {
        let unusable = |source| JournalError::directory(root, source);
        make_directories(root).map_err(unusable)?;
        let mut names = names(root).map_err(unusable)?;
        names.sort();
        let free = names
            .into_iter()
            .chain(std::iter::repeat_with(name).take(ATTEMPTS));
        for name in free {
            let directory = root.join(&name);
            let is_new = match make_directory(&directory) {
                Ok(()) => true,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
                Err(error) => return Err(unusable(error)),
            };
            let path = directory.join(LOCK);
            let file = match open_lock(&path) {
                Ok(file) => file,
                // Another user's.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => continue,
                Err(error) => return Err(unusable(error)),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => continue,
                Err(TryLockError::Error(source)) => {
                    return Err(JournalError::Lock { path, source });
                }
            }
            if is_new {
                write_identity(&directory, &file).map_err(unusable)?;
                sync_parent(&directory).map_err(unusable)?;
            } else if !is_original(&directory, &file) {
                continue;
            }
            let incarnation = self::name();
            write_incarnation(&file, &incarnation).map_err(unusable)?;
            return Ok(Self {
                directory,
                name,
                incarnation,
                lock: Mutex::new(file),
            });
        }
        Err(unusable(io::Error::other(
            "every slot in it is taken at once",
        )))
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn incarnation(&self) -> &str {
        &self.incarnation
    }

    pub(super) fn process(&self) -> String {
        format!("{}/{}", self.name, self.incarnation)
    }

    /// Makes it anew where it was deleted under us. The directory of all slots is not made anew: without it the
    /// disk may be another one.
    pub(super) fn restore(&self) -> io::Result<()> {
        make_directory(&self.directory)?;
        sync_parent(&self.directory)?;
        let file = open_lock(&self.directory.join(LOCK))?;
        file.try_lock()?;
        write_identity(&self.directory, &file)?;
        write_incarnation(&file, &self.incarnation)?;
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = file;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn release(&self) {
        self.lock.lock().unwrap().unlock().unwrap();
    }
}

/// The slots that are there.
pub(super) fn names(root: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root)? {
        if let Ok(name) = entry?.file_name().into_string()
            && is_name(&name)
        {
            names.push(name);
        }
    }
    Ok(names)
}

pub(super) fn is_name(text: &str) -> bool {
    text.len() == 2 * NAME_BYTES && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn name() -> String {
    hex::encode(random::bytes::<NAME_BYTES>())
}

/// Whether this incarnation is the one that last locked the slot, and still has it locked.
pub(super) fn holder(directory: &Path, incarnation: &str) -> Holder {
    let Ok(mut file) = File::open(directory.join(LOCK)) else {
        return Holder::OutOfReach;
    };
    if !is_original(directory, &file) {
        return Holder::OutOfReach;
    }
    let mut last = String::new();
    if file.read_to_string(&mut last).is_err() {
        return Holder::OutOfReach;
    }
    if last != incarnation {
        return Holder::Gone;
    }
    // Shared: others who ask at the same moment must not take us for the holder.
    match file.try_lock_shared() {
        Ok(()) => Holder::Gone,
        Err(TryLockError::WouldBlock) => Holder::Running,
        Err(TryLockError::Error(_)) => Holder::OutOfReach,
    }
}

/// Whether no process has it locked.
pub(super) fn is_free(directory: &Path) -> bool {
    File::open(directory.join(LOCK)).is_ok_and(|file| file.try_lock_shared().is_ok())
}

/// Keeps other processes from taking a free slot, until the file is dropped.
pub(super) fn lock_free(directory: &Path) -> Option<File> {
    let file = File::open(directory.join(LOCK)).ok()?;
    file.try_lock().ok()?;
    Some(file)
}

/// Removes a slot without segments, whose lock its caller holds: after a restart of the machine no process takes it again.
pub(super) fn remove(directory: &Path) {
    for file in [IDENTITY, LOCK] {
        drop(fs::remove_file(directory.join(file)));
    }
    // Fails, and has to, if corrupt entries are kept in it.
    drop(fs::remove_dir(directory));
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Whether this lock file is the one that the slot was made with, on a machine that has not been restarted since.
fn is_original(directory: &Path, lock: &File) -> bool {
    let recorded = fs::read_to_string(directory.join(IDENTITY));
    let (Ok(recorded), Ok(Some(identity))) = (recorded, identity_of(lock)) else {
        return false;
    };
    recorded == identity
}

/// Also replaces one that was copied here meanwhile.
fn write_identity(directory: &Path, lock: &File) -> io::Result<()> {
    let Some(identity) = identity_of(lock)? else {
        return Ok(());
    };
    let path = directory.join(IDENTITY);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = new_file(&path)?;
    file.write_all(identity.as_bytes())?;
    file.sync_all()?;
    sync_parent(&path)
}

/// `None` where the kernel does not say which boot this is.
fn identity_of(lock: &File) -> io::Result<Option<String>> {
    let Some(boot) = BOOT_ID.as_deref() else {
        return Ok(None);
    };
    let metadata = lock.metadata()?;
    // Not every file system knows it.
    let created = metadata.created().ok();
    let created = created.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let created = created.map_or(0, |at| at.as_nanos());
    let (device, inode) = (metadata.dev(), metadata.ino());
    Ok(Some(format!("{boot} {device} {inode} {created}\n")))
}

/// One for each time that the machine was started; all containers of a machine see the same one.
static BOOT_ID: LazyLock<Option<String>> = LazyLock::new(|| {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned()).filter(|id| !id.is_empty())
});

/// All names are of one length: a concurrent reader reads the old one or the new one.
fn write_incarnation(file: &File, incarnation: &str) -> io::Result<()> {
    file.write_all_at(incarnation.as_bytes(), 0)
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

fn make_directories(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)?;
    sync_parent(path)
}
