//! A clock that stands still until a test advances it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use pipekeeper_core::clock::{Clock, Timestamp};

/// The wall clock and the monotonic one.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<(Timestamp, Duration)>,
}

impl ManualClock {
    pub fn at(now: Timestamp) -> Arc<Self> {
        Arc::new(Self {
            now: Mutex::new((now, Duration::ZERO)),
        })
    }

    /// Lets time pass on both clocks.
    pub fn advance(&self, by: Duration) {
        let mut now = self.lock();
        now.0 = now.0.saturating_add(by);
        now.1 += by;
    }

    /// Sets only the wall clock, as an operator or NTP does.
    pub fn set_wall(&self, to: Timestamp) {
        self.lock().0 = to;
    }

    fn lock(&self) -> MutexGuard<'_, (Timestamp, Duration)> {
        self.now.lock().expect("no test panics while it holds this")
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.lock().0
    }

    fn monotonic(&self) -> Duration {
        self.lock().1
    }
}
