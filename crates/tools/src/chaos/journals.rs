//! The refreshers' journal directories: small file systems of their own that can be filled up.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

/// More than a run writes.
const SIZE_MB: usize = 96;

/// Takes all the room that is left.
const FILLER: &str = "filler";

/// The directories of one run; unmounted when dropped.
#[derive(Debug)]
pub struct Journals {
    directories: Vec<PathBuf>,
    how: How,
}

/// What the chronicle calls the outage of this directory.
pub(super) fn outage_of(name: &str) -> String {
    format!("journal {name}")
}

/// How a directory is made to take nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Each is a tmpfs, and full: no entry can be written.
    Full,
    /// Nobody may mount here. A file takes the directory's place: what is open goes on, nothing can be opened or made.
    Replaced,
}

impl Journals {
    pub fn make(directories: Vec<PathBuf>) -> anyhow::Result<Self> {
        for directory in &directories {
            fs::create_dir_all(directory)?;
        }
        let mounted = directories
            .iter()
            .take_while(|directory| mount(directory))
            .count();
        let how = if mounted == directories.len() {
            How::Full
        } else {
            for directory in directories.iter().take(mounted) {
                unmount(directory);
            }
            How::Replaced
        };
        Ok(Self { directories, how })
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

    pub fn shut(&self, index: usize) -> anyhow::Result<()> {
        let directory = self.directory(index)?;
        match self.how {
            How::Full => {
                let mut filler = File::create(directory.join(FILLER))?;
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

    /// Changes nothing for one that is open.
    pub fn open(&self, index: usize) -> anyhow::Result<()> {
        let directory = self.directory(index)?;
        match self.how {
            How::Full => {
                let filler = directory.join(FILLER);
                if filler.exists() {
                    fs::remove_file(filler)?;
                }
            }
            How::Replaced if away(directory).exists() => {
                fs::remove_file(directory)?;
                fs::rename(away(directory), directory)?;
            }
            How::Replaced => {}
        }
        Ok(())
    }

    /// Copies what is in them: a tmpfs ends with the run.
    pub fn keep(&self, to: &Path) -> anyhow::Result<()> {
        for (index, directory) in self.directories.iter().enumerate() {
            self.open(index)?;
            let name = directory.file_name().context("a directory with a name")?;
            copy(directory, &to.join(name))?;
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

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
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
    use pipekeeper_core::test_util::TestDirectory;

    use super::*;

    fn can_write(directory: &Path) -> bool {
        let slot = directory.join("slot");
        fs::create_dir_all(&slot).is_ok() && fs::write(slot.join("entry"), vec![1; 8192]).is_ok()
    }

    #[test]
    fn a_journal_that_is_shut_takes_nothing_and_keeps_what_it_has() {
        let home = TestDirectory::create();
        let journals = Journals::make(vec![home.path().join("a"), home.path().join("b")]).unwrap();
        let a = home.path().join("a");
        fs::write(a.join("before"), "kept").unwrap();

        journals.shut(0).unwrap();
        assert!(!can_write(&a));
        assert!(can_write(&home.path().join("b")));
        journals.open(0).unwrap();

        assert!(can_write(&a));
        assert_eq!(fs::read_to_string(a.join("before")).unwrap(), "kept");
    }
}
