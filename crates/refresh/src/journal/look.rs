//! Reading what others have written, and what earlier processes of this slot did: on from where the last look ended.

use std::io;
use std::path::Path;
use std::sync::PoisonError;

use super::segment::{self, SegmentName};
use super::{Inner, JournalError, slot};

impl Inner {
    /// Also what is not synced yet: its writer acts on it next.
    pub(super) fn read_on(&self) -> Result<(), JournalError> {
        let slots = slot::names(&self.directory).map_err(|source| JournalError::Read {
            path: self.directory.clone(),
            source,
        })?;
        let known = self.index().slots();
        for known in known {
            if known != self.slot.name() && !slots.contains(&known) {
                self.index().retain(&known, |_| false);
            }
        }
        // One that can't be read does not hide the others.
        let read = slots.iter().map(|slot| self.read_slot(slot));
        read.fold(Ok(()), Result::and)
    }

    pub(super) fn read_slot(&self, slot: &str) -> Result<(), JournalError> {
        let directory = self.directory.join(slot);
        let names = match segment::names(&directory) {
            Ok(names) => names,
            Err(error) => return self.out_of_reach(&directory, error),
        };
        // The writer tells what it has written itself.
        let is_live = |name: &SegmentName| name.incarnation == self.slot.incarnation();
        self.index()
            .retain(slot, |name| is_live(name) || names.contains(name));
        let last = names.last();
        for name in names.iter().filter(|name| !is_live(name)) {
            // Begun in the order of their names: one that has a successor has got its last byte.
            self.read_segment(slot, name, last != Some(name))?;
        }
        Ok(())
    }

    fn read_segment(
        &self,
        slot: &str,
        name: &SegmentName,
        closed: bool,
    ) -> Result<(), JournalError> {
        let from = {
            let mut index = self.index();
            let known = index.segment(slot, name);
            if known.closed {
                return Ok(());
            }
            known.read_to
        };
        let directory = self.directory.join(slot);
        let path = directory.join(name.file());
        let bytes = match segment::bytes_from(&path, from) {
            Ok(bytes) => bytes,
            Err(error) => return self.out_of_reach(&path, error),
        };
        let read = segment::read(&bytes);
        let location = |at: usize| offset(from, at);
        for range in &read.corrupt {
            let bytes = bytes.get(range.clone()).unwrap_or_default();
            segment::quarantine(&directory, name, location(range.start), bytes);
        }
        if closed && read.end < bytes.len() {
            tracing::debug!(segment = %path.display(), "the last entry is torn: it was never said to be written");
        }
        let abandoned = slot == self.slot.name();
        let mut index = self.index();
        for (at, entry) in &read.entries {
            index.add(slot, name, location(*at), entry, abandoned);
        }
        let known = index.segment(slot, name);
        known.read_to = u64::from(location(read.end));
        known.closed = closed;
        Ok(())
    }

    /// What its owner has deleted meanwhile is not missed, and what this process may not read is another's; any other
    /// failure may hide an answer.
    fn out_of_reach(&self, path: &Path, error: io::Error) -> Result<(), JournalError> {
        match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            io::ErrorKind::PermissionDenied => {
                let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                if told.insert(path.to_owned()) {
                    tracing::warn!(path = %path.display(), "another process's journal can't be read from here: have both run as one user");
                }
                Ok(())
            }
            _ => Err(JournalError::Read {
                path: path.to_owned(),
                source: error,
            }),
        }
    }
}

/// No segment of ours comes near 4 GiB.
fn offset(from: u64, at: usize) -> u32 {
    u64::try_from(at)
        .ok()
        .and_then(|at| u32::try_from(from.saturating_add(at)).ok())
        .unwrap_or(u32::MAX)
}
