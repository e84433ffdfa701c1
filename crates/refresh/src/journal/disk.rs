//! The disk under the writer: all of it that a test, or `scripts/chaos`, must be able to break.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

#[cfg(test)]
pub(crate) mod faulty;

/// Makes the files that the journal is written to.
pub trait Disk: fmt::Debug + Send + Sync {
    /// A new file that is still there after a power cut.
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>>;
}

/// A file of the journal, written from its first byte to its last.
pub trait SegmentFile: fmt::Debug + Send {
    /// May write a part of it and fail.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// All that was written is there after a power cut, or it is an error: then it is never to be trusted again, for the
    /// kernel may have dropped what it could not write.
    fn sync(&mut self) -> io::Result<()>;
}

/// The machine's own file system.
#[derive(Debug)]
pub struct MachineDisk;

impl Disk for MachineDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        let file = new_file(path)?;
        sync_parent(path)?;
        Ok(Box::new(file))
    }
}

impl SegmentFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()?;
        // A file that was deleted takes everything and keeps nothing.
        if self.metadata()?.nlink() == 0 {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the segment was deleted while in use",
            ));
        }
        Ok(())
    }
}

/// For its owner alone to read.
pub(super) fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// The name of a new file or directory is there after a power cut, too.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}
