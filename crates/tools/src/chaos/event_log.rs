//! What the run itself did and saw, with times: half of what the checker goes by. The simulator's log is the other.

use std::sync::{Mutex, PoisonError};

use pipekeeper_core::clock::{SharedClock, SystemClock, Timestamp};
use serde::Serialize;

/// Microseconds since 1970, as the simulator's log has them.
pub type Micros = i64;

/// One life of a process, from its start to its end; counted from 1.
pub type Life = u64;

#[derive(Debug)]
pub struct EventLog {
    clock: SharedClock,
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    pub at_us: Micros,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Event {
    Started {
        process: String,
        life: Life,
    },
    Ready {
        process: String,
        life: Life,
    },
    /// A signal is about to be sent.
    Signal {
        process: String,
        life: Life,
        signal: Signal,
        why: String,
    },
    Ended {
        process: String,
        life: Life,
        status: String,
        /// No signal asked for it.
        unasked: bool,
    },
    /// The database or a journal is away, or back.
    Outage {
        of: String,
    },
    Back {
        of: String,
    },
    /// The database holds again what it held at an earlier time.
    Restored {
        snapshot_us: Micros,
    },
    /// A journal's slots were copied into another journal's directory; what was there before `began_us` is in the copy.
    Copied {
        from: String,
        to: String,
        began_us: Micros,
    },
    /// A refresher's wall clock goes wrong by so much, or right again.
    Clock {
        process: String,
        offset_ms: i64,
    },
    /// The run is about to end a connection or its grant.
    Severed {
        company: u32,
        how: Severed,
    },
    /// A connection was ended here, and the call had succeeded: its row is revoked from now on.
    Revoked {
        company: u32,
        /// What the row's was then, if it could be read.
        generation: Option<i64>,
    },
    /// A user is about to give a new consent.
    Consenting {
        company: u32,
    },
    /// A new consent was stored; the attempt that succeeded began then.
    Consented {
        company: u32,
        began_us: Micros,
    },
    /// A row was seen in another state or generation than before.
    RowState {
        company: u32,
        state: String,
        generation: i64,
        /// When it was read.
        read_us: Micros,
    },
    /// A timer of this process fired so late: the machine was busy.
    Late {
        by_us: Micros,
    },
    /// From now on access tokens live so long.
    TokenLifetime {
        secs: u64,
    },
    /// Something that the run wanted to do and could not.
    Failed {
        what: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    Kill,
    Stop,
    Continue,
    Terminate,
}

/// How a connection is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severed {
    /// Here; the provider is told by the sweep.
    Disconnected,
    /// At the provider, by its user.
    Uninstalled,
    /// At the provider, without a notice.
    Revoked,
}

impl Default for EventLog {
    fn default() -> Self {
        Self {
            clock: SystemClock::shared(),
            entries: Mutex::default(),
        }
    }
}

impl EventLog {
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub fn now_us(&self) -> Micros {
        self.clock.now().unix_micros()
    }

    pub fn add(&self, event: Event) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: entries are in the order of their times.
        let at_us = self.now_us();
        entries.push(Entry { at_us, event });
    }

    pub fn entries(&self) -> Vec<Entry> {
        self.entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
