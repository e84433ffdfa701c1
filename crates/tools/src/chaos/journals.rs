//! The refreshers' journal directories: they can be filled up, copied and emptied.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;

/// More than a run writes.
const SIZE_MB: usize = 96;

/// Takes all the room that is left, or says that none is.
const FULL: &str = "full";

/// The directories of one run; unmounted when dropped.
#[derive(Debug)]
pub struct Journals {
    directories: Vec<PathBuf>,
    how: How,
    /// Slots that are copies; they are not copied again.
    copies: Mutex<BTreeSet<PathBuf>>,
}

/// How a directory is made to take nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// The refreshers' own disk looks for a file beside the directory.
    Told,
    /// Each is a tmpfs, and full: no entry can be written.
    Full,
    /// This process may not mount. A file takes the directory's place: what is open goes on, nothing can be opened or made.
    Replaced,
}

/// What the event log calls the outage of this directory.
pub(super) fn outage_of(name: &str) -> String {
    format!("journal {name}")
}

impl Journals {
    /// For refreshers whose disk can be told that it is full.
    pub fn told(directories: Vec<PathBuf>) -> anyhow::Result<Self> {
        Self::made(directories, |_| How::Told)
    }

    /// For refreshers that write to the machine's own file system.
    pub fn mounted(directories: Vec<PathBuf>) -> anyhow::Result<Self> {
        Self::made(directories, |directories| {
            let mounted = directories
                .iter()
                .take_while(|directory| mount(directory))
                .count();
            if mounted == directories.len() {
                return How::Full;
            }
            for directory in directories.iter().take(mounted) {
                unmount(directory);
            }
            How::Replaced
        })
    }

    fn made(
        directories: Vec<PathBuf>,
        how: impl FnOnce(&[PathBuf]) -> How,
    ) -> anyhow::Result<Self> {
        for directory in &directories {
            fs::create_dir_all(directory)?;
        }
        let how = how(&directories);
        Ok(Self {
            directories,
            how,
            copies: Mutex::default(),
        })
    }

    pub fn how(&self) -> How {
        self.how
    }

    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    pub fn name(&self, index: usize) -> anyhow::Result<String> {
        let name = self.directory(index)?.file_name();
        let name = name.context("a directory with a name")?;
        Ok(name.to_string_lossy().into_owned())
    }

    fn directory(&self, index: usize) -> anyhow::Result<&Path> {
        let found = self.directories.get(index);
        found.map(PathBuf::as_path).context("no such journal")
    }

    /// The file that tells a refresher's disk that it is full.
    pub fn full_file(directory: &Path) -> PathBuf {
        directory.with_extension(FULL)
    }

    pub fn shut(&self, index: usize) -> anyhow::Result<()> {
        let directory = self.directory(index)?;
        match self.how {
            How::Told => drop(File::create(Self::full_file(directory))?),
            How::Full => {
                let mut filler = File::create(directory.join(FULL))?;
                // First in large pieces, then in small ones.
                for piece in [1024 * 1024, 4096, 1] {
                    let zeros = vec![0; piece];
                    while filler.write_all(&zeros).is_ok() {}
                }
            }
            How::Replaced => {
                fs::rename(directory, away(directory))?;
                File::create(directory)?;
            }
        }
        Ok(())
    }

    /// Changes nothing for a directory that is open.
    pub fn open(&self, index: usize) -> anyhow::Result<()> {
        let directory = self.directory(index)?;
        let remove = |file: PathBuf| {
            if file.exists() {
                fs::remove_file(file)
            } else {
                Ok(())
            }
        };
        match self.how {
            How::Told => remove(Self::full_file(directory))?,
            How::Full => remove(directory.join(FULL))?,
            How::Replaced if away(directory).exists() => {
                fs::remove_file(directory)?;
                fs::rename(away(directory), directory)?;
            }
            How::Replaced => {}
        }
        Ok(())
    }

    /// Copies the slots of one directory into another, as cloning its volume does.
    pub fn copy_slots(&self, from: usize, to: usize) -> anyhow::Result<()> {
        let (from, to) = (self.directory(from)?, self.directory(to)?);
        for entry in fs::read_dir(from)? {
            let entry = entry?;
            let copy = to.join(entry.file_name());
            let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
            if entry.file_type()?.is_dir() && !copies.contains(&entry.path()) {
                copy_directory(&entry.path(), &copy)?;
                copies.insert(copy);
            }
        }
        Ok(())
    }

    /// Slots that are copies.
    pub fn copies(&self) -> BTreeSet<PathBuf> {
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        copies.clone()
    }

    /// Deletes all segments.
    pub fn delete_segments(&self) {
        let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
        for directory in &self.directories {
            for file in entries(directory).flat_map(|slot| entries(&slot.path())) {
                if file.path().extension().is_some_and(|is| is == "jsonl") {
                    // Its owner may be faster.
                    drop(fs::remove_file(file.path()));
                }
            }
        }
    }

    /// Copies what is in them: a tmpfs ends with the run.
    pub fn keep(&self, to: &Path) -> anyhow::Result<()> {
        for (index, directory) in self.directories.iter().enumerate() {
            self.open(index)?;
            if self.how == How::Full {
                let name = directory.file_name().context("a directory with a name")?;
                copy_directory(directory, &to.join(name))?;
            }
        }
        Ok(())
    }
}

impl Drop for Journals {
    fn drop(&mut self) {
        if self.how == How::Full {
            for directory in &self.directories {
                unmount(directory);
            }
        }
    }
}

fn away(directory: &Path) -> PathBuf {
    directory.with_extension("away")
}

/// File by file, each of them whole.
fn copy_directory(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            let unfinished = target.with_extension("unfinished");
            match fs::copy(entry.path(), &unfinished) {
                // Its process may compact it meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                copied => copied?,
            };
            fs::rename(unfinished, target)?;
        }
    }
    Ok(())
}

fn mount(directory: &Path) -> bool {
    let options = format!("size={SIZE_MB}m,mode=700");
    let arguments = ["-t", "tmpfs", "-o", &options, "tmpfs"];
    quietly(Command::new("mount").args(arguments).arg(directory))
}

/// Lazily: a process that is about to end may have a file open.
fn unmount(directory: &Path) {
    quietly(Command::new("umount").arg("--lazy").arg(directory));
}

fn quietly(command: &mut Command) -> bool {
    let done = command.output();
    done.is_ok_and(|output| output.status.success())
}

#[cfg(test)]
mod tests {
    use pipekeeper_testing::TestDirectory;

    use super::*;

    fn can_write(directory: &Path) -> bool {
        let slot = directory.join("slot");
        fs::create_dir_all(&slot).is_ok() && fs::write(slot.join("entry"), vec![1; 8192]).is_ok()
    }

    #[test]
    fn a_journal_that_is_shut_takes_nothing_and_keeps_what_it_has() {
        let home = TestDirectory::create();
        let both = vec![home.path().join("a"), home.path().join("b")];
        let journals = Journals::mounted(both).unwrap();
        let a = home.path().join("a");
        fs::write(a.join("before"), "kept").unwrap();

        journals.shut(0).unwrap();
        assert!(!can_write(&a));
        assert!(can_write(&home.path().join("b")));
        journals.open(0).unwrap();

        assert!(can_write(&a));
        assert_eq!(fs::read_to_string(a.join("before")).unwrap(), "kept");
    }

    #[test]
    fn slots_are_copied_with_all_that_is_in_them_and_copies_are_not_copied_again() {
        let home = TestDirectory::create();
        let at = |path: &str| home.path().join(path);
        let journals = Journals::told(vec![at("a"), at("b"), at("c")]).unwrap();
        fs::create_dir(at("a/slot")).unwrap();
        fs::write(at("a/slot/lock"), "who").unwrap();

        journals.copy_slots(0, 1).unwrap();
        journals.copy_slots(1, 2).unwrap();

        assert_eq!(fs::read_to_string(at("b/slot/lock")).unwrap(), "who");
        assert!(!at("c/slot").exists());
    }
}
