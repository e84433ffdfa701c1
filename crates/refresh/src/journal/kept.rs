//! All responses that are kept, settled ones too: what a database that lost its last commits is healed from.

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::ConnectionId;

use super::entry::{Entry, Key};
use super::segment::{self, SegmentName};
use super::{Inner, Journal, JournalError, Unsettled, blocking};

/// A segment of some slot.
#[derive(Debug)]
pub(crate) struct KeptSegment {
    slot: String,
    name: SegmentName,
}

/// A response in a segment.
#[derive(Debug)]
pub(crate) struct KeptResponse {
    key: Key,
    pub(crate) received_at: Timestamp,
}

impl KeptResponse {
    pub(crate) fn connection(&self) -> &ConnectionId {
        &self.key.connection
    }

    pub(crate) fn generation(&self) -> i64 {
        self.key.generation
    }

    pub(crate) fn unsettled(&self) -> Unsettled {
        Unsettled {
            connection: self.key.connection.clone(),
            generation: self.key.generation,
            key: self.key.clone(),
        }
    }
}

impl Journal {
    /// The segments of all slots in reach, the newest first: what a database loses are its last commits.
    pub(crate) async fn kept_segments(&self) -> Result<Vec<KeptSegment>, JournalError> {
        self.look().await?;
        let segments = self.0.index().by_age();
        let segments = segments.into_iter().rev();
        Ok(segments
            .map(|(slot, name)| KeptSegment { slot, name })
            .collect())
    }

    pub(crate) async fn kept_responses(
        &self,
        segment: KeptSegment,
    ) -> Result<Vec<KeptResponse>, JournalError> {
        let inner = std::sync::Arc::clone(&self.0);
        blocking(move || inner.responses_in(&segment)).await
    }
}

impl Inner {
    fn responses_in(&self, segment: &KeptSegment) -> Result<Vec<KeptResponse>, JournalError> {
        let path = self.directory.join(&segment.slot).join(segment.name.file());
        let bytes = match segment::bytes_from(&path, 0) {
            Ok(bytes) => bytes,
            // Compacted meanwhile.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(JournalError::Read { path, source }),
        };
        let entries = segment::read(&bytes).entries.into_iter();
        let mut responses: Vec<KeptResponse> = entries
            .filter_map(|(_, entry)| match entry {
                Entry::JournaledResponse {
                    key, received_at, ..
                } => Some(KeptResponse { key, received_at }),
                Entry::Settled { .. } => None,
            })
            .collect();
        responses.reverse();
        Ok(responses)
    }
}
