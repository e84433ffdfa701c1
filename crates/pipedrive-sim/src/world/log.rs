//! What happened to grants, in order: for tests that have to explain every single event, not only count them.

use std::collections::VecDeque;

use serde::Serialize;
use utoipa::ToSchema;

use crate::outside;

/// So many events are remembered; the oldest go first.
const KEPT: usize = 200_000;

/// So many are in one answer.
pub(crate) const PAGE: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Log {
    events: VecDeque<Event>,
    next: u64,
}

/// One token call, revocation or uninstall. Tokens appear as fingerprints only.
#[derive(Debug, Default, Clone, Serialize, ToSchema)]
pub(crate) struct Event {
    /// Counts from 0.
    pub(crate) seq: u64,
    /// Microseconds since 1970: when it took effect or, where a fault answered, when it did.
    pub(crate) at_us: u64,
    /// When a token call was read; a fault may have delayed it since.
    pub(crate) arrived_at_us: Option<u64>,
    pub(crate) call: Happened,
    pub(crate) company_id: Option<u64>,
    pub(crate) user_id: Option<u64>,
    /// First 16 hex digits of the SHA-256 of the refresh token that was shown.
    pub(crate) presented: Option<String>,
    /// The same of the refresh token that was given.
    pub(crate) issued: Option<String>,
    /// `ok`, `reuse` (shown after it had been exchanged), another OAuth error word, what a revocation hit, or the name of
    /// the fault that answered.
    pub(crate) outcome: String,
    /// A grant that was alive is dead now.
    pub(crate) ended: bool,
    /// The fault that was played; of `call` also when it was made.
    pub(crate) fault: Option<String>,
    /// The query of the request: who asks, if it says so there.
    pub(crate) query: String,
    /// When the whole answer had been handed to the connection; null if it never was.
    pub(crate) answered_at_us: Option<u64>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Happened {
    #[default]
    Refresh,
    Exchange,
    /// `/oauth/revoke`
    Revoke,
    /// `/_sim/revoke`
    RevokedByControl,
    Uninstall,
}

/// The answer of `GET /_sim/log`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page {
    /// Oldest first.
    pub(crate) events: Vec<Event>,
    /// What to ask for next; the same as before when there was nothing new.
    pub(crate) next: u64,
}

impl Log {
    /// Numbers and dates the event, and says its number.
    pub(crate) fn add(&mut self, event: Event) -> u64 {
        let seq = self.next;
        self.next += 1;
        if self.events.len() == KEPT {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            seq,
            at_us: outside::now_us(),
            ..event
        });
        seq
    }

    pub(crate) fn answered(&mut self, seq: u64) {
        let first = self.events.front().map_or(0, |event| event.seq);
        let index = seq
            .checked_sub(first)
            .and_then(|index| usize::try_from(index).ok());
        if let Some(event) = index.and_then(|index| self.events.get_mut(index)) {
            event.answered_at_us = Some(outside::now_us());
        }
    }

    pub(crate) fn since(&self, seq: u64) -> Page {
        let first = self.events.front().map_or(self.next, |event| event.seq);
        let skipped = usize::try_from(seq.saturating_sub(first)).unwrap_or(usize::MAX);
        let events: Vec<_> = self
            .events
            .iter()
            .skip(skipped)
            .take(PAGE)
            .cloned()
            .collect();
        let next = events
            .last()
            .map_or(self.next.max(seq), |event| event.seq + 1);
        Page { events, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_who_goes_on_where_it_stopped_sees_every_event_once() {
        let mut log = Log::default();
        let total = u64::try_from(PAGE).unwrap() + 2;
        for _ in 0..total {
            log.add(Event::default());
        }

        let first = log.since(0);
        let second = log.since(first.next);
        let third = log.since(second.next);

        assert_eq!(
            (first.events.len(), second.events.len(), third.events.len()),
            (PAGE, 2, 0)
        );
        assert_eq!(third.next, total);
    }

    #[test]
    fn the_oldest_events_are_forgotten_first() {
        let mut log = Log::default();
        for _ in 0..KEPT + 3 {
            log.add(Event::default());
        }
        log.answered(1);
        log.answered(3);

        let page = log.since(0);

        assert_eq!(page.events[0].seq, 3);
        assert!(page.events[0].answered_at_us.is_some());
        assert!(page.events[1].answered_at_us.is_none());
    }
}
