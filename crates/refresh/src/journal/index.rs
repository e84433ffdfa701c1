//! What is known of all slots in reach: where answers are, and which of them are settled. Bodies stay on the disk.

use std::collections::{BTreeMap, HashMap};

use pipekeeper_core::clock::Timestamp;

use super::entry::{Entry, Key, KeyHash};
use super::segment::SegmentName;

#[derive(Debug, Default)]
pub(super) struct Index {
    slots: BTreeMap<String, BTreeMap<SegmentName, Segment>>,
    /// The few that matter: answers that are not marked as settled.
    unsettled: HashMap<KeyHash, PendingEntry>,
    /// Marks that were read before the answers they are of.
    early_marks: HashMap<KeyHash, Timestamp>,
}

/// What is known of one segment.
#[derive(Debug, Default)]
pub(super) struct Segment {
    /// Where its answers begin. This is what the journal's memory costs: an entry takes 12 bytes, in a tree's nodes that
    /// are two thirds full some 20. (100 000 connections, renewed every hour and kept for a day: about 50 MB.)
    answers: BTreeMap<KeyHash, u32>,
    pub(super) read_to: u64,
    /// Nothing more is written to it.
    pub(super) closed: bool,
    /// When the first and the last thing that it knows of happened.
    oldest: Option<Timestamp>,
    newest: Option<Timestamp>,
}

/// An answer that is not settled.
#[derive(Debug, Clone)]
pub(super) struct PendingEntry {
    pub(super) key: Key,
    pub(super) slot: String,
    pub(super) segment: SegmentName,
    /// No refresh is about to commit it: it was received by an earlier process of this slot, or refused by the database.
    pub(super) abandoned: bool,
    /// This version can't interpret it: it is kept for its time, and no longer.
    pub(super) unread: bool,
    received_at: Timestamp,
}

#[derive(Debug)]
pub(super) struct EntryLocation {
    pub(super) slot: String,
    pub(super) segment: SegmentName,
    pub(super) offset: u32,
}

impl Segment {
    fn touch(&mut self, at: Timestamp) {
        self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
        self.newest = Some(self.newest.map_or(at, |newest| newest.max(at)));
    }
}

impl Index {
    /// Begins to know the segment, if it doesn't yet.
    pub(super) fn segment(&mut self, slot: &str, name: &SegmentName) -> &mut Segment {
        self.slots
            .entry(slot.to_owned())
            .or_default()
            .entry(name.clone())
            .or_default()
    }

    /// An entry that was read in a segment.
    pub(super) fn add(
        &mut self,
        slot: &str,
        name: &SegmentName,
        offset: u32,
        entry: &Entry<'_>,
        abandoned: bool,
    ) {
        match entry {
            Entry::Settled { key, at } => {
                self.marked(slot, name, *at);
                self.settle(key.hash(), *at);
            }
            Entry::JournaledResponse {
                key, received_at, ..
            } => self.answer(slot, name, offset, key, *received_at, abandoned),
        }
    }

    pub(super) fn answer(
        &mut self,
        slot: &str,
        name: &SegmentName,
        offset: u32,
        key: &Key,
        received_at: Timestamp,
        abandoned: bool,
    ) {
        let hash = key.hash();
        let segment = self.segment(slot, name);
        segment.answers.insert(hash, offset);
        segment.touch(received_at);
        if let Some(at) = self.early_marks.get(&hash).copied()
            && at >= received_at
        {
            self.early_marks.remove(&hash);
            self.segment(slot, name).touch(at);
            return;
        }
        let open = PendingEntry {
            key: key.clone(),
            slot: slot.to_owned(),
            segment: name.clone(),
            abandoned,
            unread: false,
            received_at,
        };
        // Of several answers to one token all but the last held none.
        let known = self.unsettled.get(&hash);
        if known.is_none_or(|known| known.received_at <= received_at) {
            self.unsettled.insert(hash, open);
        }
    }

    /// A copy of an answer that is known already: what it stands in goes.
    pub(super) fn carried(
        &mut self,
        slot: &str,
        name: &SegmentName,
        offset: u32,
        key: &Key,
        now: Timestamp,
    ) {
        let segment = self.segment(slot, name);
        segment.answers.insert(key.hash(), offset);
        segment.touch(now);
        if let Some(open) = self.unsettled.get_mut(&key.hash()) {
            name.clone_into(&mut open.segment);
            slot.clone_into(&mut open.slot);
        }
    }

    /// A mark that was written there.
    pub(super) fn marked(&mut self, slot: &str, name: &SegmentName, at: Timestamp) {
        self.segment(slot, name).touch(at);
    }

    /// When the answer was received, if it is not settled.
    pub(super) fn received_at(&self, hash: KeyHash) -> Option<Timestamp> {
        self.unsettled.get(&hash).map(|open| open.received_at)
    }

    /// A mark settles what was received before it: one that an answer without tokens was given says nothing of the next.
    pub(super) fn settle(&mut self, hash: KeyHash, at: Timestamp) {
        if self.received_at(hash).is_some_and(|received| received > at) {
            return;
        }
        if let Some(open) = self.unsettled.remove(&hash) {
            self.segment(&open.slot, &open.segment).touch(at);
        } else if !self.knows(hash) {
            self.early_marks.insert(hash, at);
        }
    }

    pub(super) fn knows(&self, hash: KeyHash) -> bool {
        self.segments()
            .any(|(_, _, segment)| segment.answers.contains_key(&hash))
    }

    /// Where its answers are, within a slot the newest first.
    pub(super) fn locations(&self, hash: KeyHash) -> Vec<EntryLocation> {
        self.segments()
            .filter_map(|(slot, name, segment)| {
                segment.answers.get(&hash).map(|&offset| EntryLocation {
                    slot: slot.to_owned(),
                    segment: name.clone(),
                    offset,
                })
            })
            .collect()
    }

    /// The answer that is not settled, if it is known.
    pub(super) fn open(&mut self, hash: KeyHash) -> Option<&mut PendingEntry> {
        self.unsettled.get_mut(&hash)
    }

    /// Those that may be committed.
    pub(super) fn unsettled(&self) -> Vec<PendingEntry> {
        let open = self.unsettled.values().filter(|open| !open.unread);
        open.cloned().collect()
    }

    /// Those that could not be interpreted, and were received before.
    pub(super) fn unread_before(&self, since: Timestamp) -> Vec<Key> {
        let open = self.unsettled.values();
        open.filter(|open| open.unread && open.received_at < since)
            .map(|open| open.key.clone())
            .collect()
    }

    pub(super) fn unsettled_in(&self, slot: &str) -> usize {
        self.unsettled
            .values()
            .filter(|open| open.slot == slot && !open.unread)
            .count()
    }

    pub(super) fn slots(&self) -> Vec<String> {
        self.slots.keys().cloned().collect()
    }

    /// The segments in which nothing has happened since, and what of them is not settled.
    pub(super) fn untouched_since(
        &self,
        slot: &str,
        since: Timestamp,
    ) -> Vec<(SegmentName, Vec<PendingEntry>)> {
        let segments = self.slots.get(slot).into_iter().flatten();
        segments
            .filter(|(_, segment)| segment.newest.is_none_or(|newest| newest < since))
            .map(|(name, _)| {
                let open = self.unsettled.values();
                let open = open.filter(|open| open.slot == slot && open.segment == *name);
                (name.clone(), open.cloned().collect())
            })
            .collect()
    }

    /// All segments, the oldest first: by what happened in them last.
    pub(super) fn by_age(&self) -> Vec<(String, SegmentName)> {
        let mut all: Vec<_> = self
            .segments()
            .map(|(slot, name, segment)| (segment.newest, slot.to_owned(), name.clone()))
            .collect();
        all.sort();
        all.into_iter()
            .map(|(_, slot, name)| (slot, name))
            .collect()
    }

    /// The slot's last segment, and since when something stands in it.
    pub(super) fn last(&self, slot: &str) -> Option<(SegmentName, Option<Timestamp>)> {
        let (name, segment) = self.slots.get(slot)?.last_key_value()?;
        Some((name.clone(), segment.oldest))
    }

    /// Forgets the segments that are gone.
    pub(super) fn retain(&mut self, slot: &str, is_there: impl Fn(&SegmentName) -> bool) {
        if let Some(segments) = self.slots.get_mut(slot) {
            segments.retain(|name, _| is_there(name));
        }
        self.unsettled
            .retain(|_, open| open.slot != slot || is_there(&open.segment));
    }

    pub(super) fn forget_marks_before(&mut self, since: Timestamp) {
        self.early_marks.retain(|_, at| *at >= since);
    }

    fn segments(&self) -> impl Iterator<Item = (&str, &SegmentName, &Segment)> {
        self.slots.iter().flat_map(|(slot, segments)| {
            segments
                .iter()
                .rev()
                .map(|(name, segment)| (slot.as_str(), name, segment))
        })
    }
}
