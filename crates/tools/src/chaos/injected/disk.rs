//! A disk that forgets what was not synced when its process is killed, as a power cut does, and that notes each sync.
//!
//! What is written stays in the process's memory until a sync writes it to the file. Each sync is noted in a file of its
//! own, outside of the journal: what a run loses of its journals later was durable all the same.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use pipekeeper_core::clock::SharedClock;
use pipekeeper_refresh::{Disk, MachineDisk, SegmentFile};
use serde::{Deserialize, Serialize};

use crate::chaos::event_log::Micros;
use crate::chaos::sabotage::DiskMode;

/// What the mark of a response that is in the database says.
const SETTLED: &[u8] = b"\"kind\":\"settled\"";

/// A line of the sync log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::chaos) struct Note {
    pub(in crate::chaos) at_us: Micros,
    pub(in crate::chaos) noted: Noted,
    /// The journal's.
    pub(in crate::chaos) lines: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(in crate::chaos) enum Noted {
    Synced,
    /// The disk was full.
    Refused,
    /// The mark that a response is settled, as it is written.
    Settled,
}

#[derive(Debug)]
pub(super) struct PowerCutDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    mode: DiskMode,
    full_file: PathBuf,
    sync_log: Mutex<File>,
    clock: SharedClock,
}

impl PowerCutDisk {
    pub(super) fn new(
        mode: DiskMode,
        full_file: PathBuf,
        sync_log: &Path,
        clock: SharedClock,
    ) -> io::Result<Self> {
        let sync_log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(sync_log)?;
        // The last note of the life before may be torn.
        (&sync_log).write_all(b"\n\n")?;
        Ok(Self {
            shared: Arc::new(Shared {
                mode,
                full_file,
                sync_log: Mutex::new(sync_log),
                clock,
            }),
        })
    }
}

impl Disk for PowerCutDisk {
    /// A full disk may still make files.
    fn create(&self, path: &Path) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(UnsyncedFile {
            file: MachineDisk.create(path)?,
            unsynced: Vec::new(),
            shared: Arc::clone(&self.shared),
        }))
    }
}

#[derive(Debug)]
struct UnsyncedFile {
    file: Box<dyn SegmentFile>,
    unsynced: Vec<u8>,
    shared: Arc<Shared>,
}

impl SegmentFile for UnsyncedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.shared.full_file.exists() {
            self.shared.note(Noted::Refused, bytes)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        let is_settled = bytes.windows(SETTLED.len()).any(|window| window == SETTLED);
        if is_settled {
            self.shared.note(Noted::Settled, bytes)?;
        }
        match self.shared.mode {
            DiskMode::DropsWrites => return Ok(()),
            DiskMode::Reliable | DiskMode::NeverSyncs => self.unsynced.extend_from_slice(bytes),
            DiskMode::SyncsSettled => {
                self.unsynced.extend_from_slice(bytes);
                if is_settled {
                    return self.write_out();
                }
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.shared.mode {
            DiskMode::Reliable => self.write_out(),
            DiskMode::DropsWrites | DiskMode::NeverSyncs | DiskMode::SyncsSettled => Ok(()),
        }
    }
}

impl UnsyncedFile {
    fn write_out(&mut self) -> io::Result<()> {
        self.file.write(&self.unsynced)?;
        self.file.sync()?;
        self.shared.note(Noted::Synced, &self.unsynced)?;
        self.unsynced.clear();
        Ok(())
    }
}

impl Shared {
    /// A run without all notes proves nothing: the writer gets an error of the disk.
    fn note(&self, noted: Noted, lines: &[u8]) -> io::Result<()> {
        let note = Note {
            at_us: self.clock.now().unix_micros(),
            noted,
            lines: String::from_utf8_lossy(lines).into_owned(),
        };
        let mut line = serde_json::to_vec(&note)?;
        line.push(b'\n');
        let mut file = self.sync_log.lock().unwrap_or_else(PoisonError::into_inner);
        // In one piece: a kill leaves all of it or nothing.
        file.write_all(&line)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use pipekeeper_core::clock::SystemClock;
    use pipekeeper_testing::TestDirectory;

    use super::*;

    struct Fixture {
        home: TestDirectory,
        disk: PowerCutDisk,
    }

    impl Fixture {
        fn new(mode: DiskMode) -> Self {
            let home = TestDirectory::create();
            let at = |name: &str| home.path().join(name);
            let clock = SystemClock::shared();
            let disk = PowerCutDisk::new(mode, at("full"), &at("syncs"), clock).unwrap();
            Self { home, disk }
        }

        fn segment(&self) -> Box<dyn SegmentFile> {
            self.disk.create(&self.home.path().join("segment")).unwrap()
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.home.path().join(name)).unwrap()
        }

        fn notes(&self) -> Vec<(Noted, String)> {
            let text = self.read("syncs");
            let lines = text.lines().filter(|line| !line.is_empty());
            let notes = lines.map(|line| serde_json::from_str(line).unwrap());
            notes.map(|note: Note| (note.noted, note.lines)).collect()
        }
    }

    #[test]
    fn what_is_not_synced_is_in_memory_alone_and_each_sync_is_noted() {
        let fixture = Fixture::new(DiskMode::Reliable);
        let mut segment = fixture.segment();

        segment.write(b"one\n").unwrap();
        assert_eq!(fixture.read("segment"), "");
        segment.sync().unwrap();
        segment.write(b"two\n").unwrap();

        assert_eq!(fixture.read("segment"), "one\n");
        assert_eq!(fixture.notes(), [(Noted::Synced, "one\n".to_owned())]);
    }

    #[test]
    fn a_full_disk_refuses_and_the_refusal_is_noted() {
        let fixture = Fixture::new(DiskMode::Reliable);
        let mut segment = fixture.segment();
        fs::write(fixture.home.path().join("full"), "").unwrap();

        let refused = segment.write(b"one\n");

        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fixture.notes(), [(Noted::Refused, "one\n".to_owned())]);
    }

    #[test]
    fn a_deleted_segment_is_noticed_by_the_next_sync() {
        let fixture = Fixture::new(DiskMode::Reliable);
        let mut segment = fixture.segment();
        fs::remove_file(fixture.home.path().join("segment")).unwrap();

        segment.write(b"one\n").unwrap();

        assert!(segment.sync().is_err());
        assert_eq!(fixture.notes(), []);
    }

    #[test]
    fn sabotaged_disks_say_that_they_synced_and_did_not() {
        for mode in [DiskMode::DropsWrites, DiskMode::NeverSyncs] {
            let fixture = Fixture::new(mode);
            let mut segment = fixture.segment();
            segment.write(b"one\n").unwrap();
            segment.sync().unwrap();
            assert_eq!(fixture.read("segment"), "", "{mode:?}");
        }
        let fixture = Fixture::new(DiskMode::SyncsSettled);
        let mut segment = fixture.segment();
        segment.write(b"one\n").unwrap();
        segment.sync().unwrap();
        assert_eq!(fixture.read("segment"), "");
        segment.write(b"{\"kind\":\"settled\"}\n").unwrap();
        assert!(fixture.read("segment").starts_with("one\n"));
    }
}
