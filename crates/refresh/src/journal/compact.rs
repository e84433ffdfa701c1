//! Forgetting: what was settled long enough ago.

use std::fs;
use std::io;
use std::sync::Arc;

use pipekeeper_core::clock::Timestamp;

use super::index::PendingEntry;
use super::segment::{self, SegmentName};
use super::writer::Origin;
use super::{Inner, Journal, JournalError, blocking, slot};

impl Journal {
    /// Deletes what is no longer kept, here and in slots without a process; carries on what is not settled. Where the last
    /// write failed it tries another.
    pub async fn compact(&self) -> Result<(), JournalError> {
        let since = self.0.clock.now().saturating_sub(self.0.kept);
        let own = self.0.slot.name();
        self.0.writer.rotate(since).await?;
        self.look().await?;
        let unread = self.0.index().unread_before(since);
        for key in unread {
            self.0.settle_key(&key);
        }
        // Asked for first: what lies before it is written to no more.
        let current = self.0.index().last(own).map(|(name, _)| name);
        let mut untouched = self.0.index().untouched_since(own, since);
        untouched.retain(|(name, _)| current.as_ref().is_some_and(|current| name < current));
        for (name, unsettled) in untouched {
            for open in unsettled {
                self.relocate(open).await?;
            }
            let inner = Arc::clone(&self.0);
            blocking(move || inner.delete(inner.slot.name(), &name)).await?;
        }
        let inner = Arc::clone(&self.0);
        blocking(move || inner.compact_free_slots(since)).await?;
        self.0.index().forget_marks_before(since);
        Ok(())
    }

    /// Into the current segment, as it is.
    async fn relocate(&self, open: PendingEntry) -> Result<(), JournalError> {
        let inner = Arc::clone(&self.0);
        let key = open.key.clone();
        let Some(line) = blocking(move || inner.line_of(&open)).await? else {
            return Ok(());
        };
        let now = self.0.clock.now();
        self.0.writer.answer(line, key, now, Origin::Carried).await
    }
}

impl Inner {
    /// With its newline; `None` if the disk has lost it.
    fn line_of(&self, open: &PendingEntry) -> Result<Option<Vec<u8>>, JournalError> {
        let locations = self.index().locations(open.key.hash());
        let Some(place) = locations
            .into_iter()
            .find(|place| place.slot == open.slot && place.segment == open.segment)
        else {
            return Ok(None);
        };
        let mut line = self.line_at(&place)?;
        if let Some(line) = &mut line {
            line.push(b'\n');
        }
        Ok(line)
    }

    /// What lies in slots of processes that are gone for good: no other process tidies them.
    fn compact_free_slots(&self, since: Timestamp) -> Result<(), JournalError> {
        let slots = self.index().slots();
        for slot in slots {
            if slot == self.slot.name() {
                continue;
            }
            let Some(_locked) = slot::lock_free(&self.directory.join(&slot)) else {
                continue;
            };
            // What was written between the last look and the lock.
            self.read_slot(&slot)?;
            let untouched = self.index().untouched_since(&slot, since);
            let mut is_old = false;
            for (name, unsettled) in untouched {
                if unsettled.is_empty() {
                    self.delete(&slot, &name)?;
                    is_old = true;
                }
            }
            let directory = self.directory.join(&slot);
            if is_old && segment::names(&directory).is_ok_and(|names| names.is_empty()) {
                slot::remove(&directory);
            }
        }
        Ok(())
    }

    fn delete(&self, slot: &str, name: &SegmentName) -> Result<(), JournalError> {
        let path = self.directory.join(slot).join(name.file());
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(JournalError::Delete { path, source }),
        }
        self.index().retain(slot, |other| other != name);
        Ok(())
    }
}
