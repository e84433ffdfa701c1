//! A wall clock that a run can put wrong.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pipekeeper_core::clock::{Clock, SharedClock, Timestamp};

/// How often the file is looked at.
const READ_EVERY: Duration = Duration::from_millis(20);

/// The machine's clocks, the wall clock with an offset from a file. What is monotonic stays right.
#[derive(Debug)]
pub(super) struct OffsetClock {
    machine: SharedClock,
    file: PathBuf,
    /// When it was read last, and what it said.
    offset_ms: Mutex<Option<(Duration, i64)>>,
}

impl OffsetClock {
    pub(super) fn shared(machine: SharedClock, file: PathBuf) -> SharedClock {
        Arc::new(Self {
            machine,
            file,
            offset_ms: Mutex::default(),
        })
    }

    fn offset_ms(&self) -> i64 {
        let now = self.machine.monotonic();
        let mut known = self
            .offset_ms
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match *known {
            Some((read_at, offset)) if now.saturating_sub(read_at) < READ_EVERY => offset,
            _ => {
                let text = fs::read_to_string(&self.file).unwrap_or_default();
                let offset = text.trim().parse().unwrap_or_default();
                *known = Some((now, offset));
                offset
            }
        }
    }
}

impl Clock for OffsetClock {
    fn now(&self) -> Timestamp {
        let offset_ms = self.offset_ms();
        let by = Duration::from_millis(offset_ms.unsigned_abs());
        let right = self.machine.now();
        if offset_ms < 0 {
            right.saturating_sub(by)
        } else {
            right.saturating_add(by)
        }
    }

    fn monotonic(&self) -> Duration {
        self.machine.monotonic()
    }
}

#[cfg(test)]
mod tests {
    use pipekeeper_testing::{ManualClock, TestDirectory};

    use super::*;

    #[test]
    fn the_wall_clock_follows_the_file_and_the_monotonic_one_does_not() {
        let home = TestDirectory::create();
        let file = home.path().join("clock");
        let start = Timestamp::from_unix_micros(1_000_000_000).unwrap();
        let machine = ManualClock::at(start);
        let clock = OffsetClock::shared(Arc::<ManualClock>::clone(&machine), file.clone());
        assert_eq!(clock.now(), start);

        for (offset, expected) in [("-2000", 998_000_000), ("3000\n", 1_003_000_000)] {
            fs::write(&file, offset).unwrap();
            machine.advance(READ_EVERY);
            machine.set_wall(start);
            assert_eq!(clock.now().unix_micros(), expected);
            assert_eq!(clock.monotonic(), machine.monotonic());
        }
    }
}
