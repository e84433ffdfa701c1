//! Conflicts between transactions: the database undid ours in favour of another, and the same again may succeed.

use std::time::Duration;

use tokio::time::Instant;

use crate::random;

/// How often one query, or one transaction as a whole, is tried.
const ATTEMPTS: u32 = 12;

/// No further attempt begins later than this after the first one: callers wait.
const LIMIT: Duration = Duration::from_secs(5);

const SHORTEST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The attempts at one query so far.
pub(super) struct Attempts {
    made: u32,
    began: Instant,
}

impl Attempts {
    pub(super) fn begin() -> Self {
        Self {
            made: 1,
            began: Instant::now(),
        }
    }

    /// Pauses before the next attempt; false if there is to be none.
    pub(super) async fn pause(&mut self) -> bool {
        let Some(pause) = self.next(self.began.elapsed()) else {
            return false;
        };
        tokio::time::sleep(pause).await;
        true
    }

    /// A random while before the next attempt, so that rivals don't meet again.
    fn next(&mut self, elapsed: Duration) -> Option<Duration> {
        if self.made >= ATTEMPTS || elapsed >= LIMIT {
            return None;
        }
        let longest = (SHORTEST_PAUSE * 2_u32.pow(self.made)).min(LONGEST_PAUSE);
        self.made += 1;
        Some(random::between(SHORTEST_PAUSE, longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_bounded_in_number_and_in_time() {
        let mut attempts = Attempts::begin();
        let mut total = Duration::ZERO;
        while let Some(pause) = attempts.next(total) {
            assert!(pause <= LONGEST_PAUSE);
            total += pause;
        }
        assert_eq!(attempts.made, ATTEMPTS);
        assert!(total < LIMIT);

        assert_eq!(Attempts::begin().next(LIMIT), None);
    }
}
