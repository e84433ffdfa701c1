//! What the run itself did and saw, with times: half of what the judge goes by. The simulator's log is the other.

use std::sync::{Mutex, PoisonError};

use pipekeeper_core::clock::{SharedClock, SystemClock, Timestamp};
use serde::Serialize;

/// Microseconds since 1970, as the simulator's log has them.
pub type Micros = i64;

#[derive(Debug)]
pub struct Chronicle {
    clock: SharedClock,
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    pub at_us: Micros,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// A process was sent a signal.
    Struck {
        process: String,
        blow: Blow,
        why: String,
    },
    /// A process is gone.
    Ended {
        process: String,
        status: String,
        /// Nobody had struck it.
        by_itself: bool,
    },
    Ready {
        process: String,
    },
    /// Something else is away, or back.
    Outage {
        of: String,
    },
    Back {
        of: String,
    },
    /// This run is about to end a connection or its grant.
    Severed {
        company: u32,
        how: String,
    },
    /// A new consent was stored.
    Mended {
        company: u32,
        began_us: Micros,
    },
    /// Something that the run wanted to do and could not.
    Failed {
        what: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blow {
    Kill,
    Stop,
    Continue,
    Terminate,
}

impl Default for Chronicle {
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            entries: Mutex::default(),
        }
    }
}

impl Chronicle {
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn now_us(&self) -> Micros {
        self.clock.now().unix_micros()
    }

    pub fn add(&self, what: What) {
        let at_us = self.now_us();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.push(Entry { at_us, what });
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
