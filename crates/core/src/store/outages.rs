//! Outages of a database in the log: a line when one begins, when its cause changes and when it has ended, with the number
//! of failures, whatever the number of callers.

use std::error::Error;
use std::iter::successors;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::StoreError;
use super::diagnosis::Diagnosis;

/// An outage has ended when a query succeeds and none has failed for so long: one that comes and goes is one outage.
const QUIET: Duration = Duration::from_secs(2);

/// A refused write says nothing of the database this long afterwards. Few writes change a row, and only such a one shows that
/// a full disk has space again.
const OUTDATED: Duration = Duration::from_mins(5);

/// So many causes of one outage are logged; a text that is another one each time would be a line per request.
const CAUSES: usize = 16;

/// What a query does, as far as that shows in its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Read,
    /// Was taken as a write, and changed so many rows.
    Wrote(usize),
}

/// The result of a query, for its effect.
pub(super) trait Outcome {
    fn effect(&self) -> Effect;
}

impl Outcome for usize {
    fn effect(&self) -> Effect {
        Effect::Wrote(*self)
    }
}

impl<T> Outcome for Vec<T> {
    fn effect(&self) -> Effect {
        Effect::Read
    }
}

/// A count that was read.
impl Outcome for i64 {
    fn effect(&self) -> Effect {
        Effect::Read
    }
}

impl Outcome for () {
    fn effect(&self) -> Effect {
        Effect::Read
    }
}

/// The outages of one database as one process sees them.
#[derive(Debug)]
pub(super) struct Outages {
    /// Which database, in the log.
    database: &'static str,
    any: AtomicBool,
    ongoing: Mutex<Ongoing>,
}

#[derive(Debug, Default)]
struct Ongoing {
    /// No query succeeds.
    all: Option<Outage>,
    /// Queries succeed, and writes are refused.
    writes: Option<Outage>,
    /// Transactions are undone in favour of others.
    conflicts: Option<Outage>,
}

impl Ongoing {
    fn any(&self) -> bool {
        self.all.is_some() || self.writes.is_some() || self.conflicts.is_some()
    }
}

#[derive(Debug)]
struct Outage {
    diagnosis: Option<Diagnosis>,
    causes: Vec<String>,
    /// Whether a query has succeeded since the last failure.
    passed: bool,
    failures: u64,
    began: Instant,
    last: Instant,
}

/// What there is to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum News {
    Began,
    Changed,
    Ended { failures: u64, lasted: Duration },
}

impl Outages {
    pub(super) fn of(database: &'static str) -> Self {
        Self {
            database,
            any: AtomicBool::new(false),
            ongoing: Mutex::default(),
        }
    }

    /// Why writes are refused, while reads succeed.
    pub(super) fn refuses_writes(&self) -> Option<Diagnosis> {
        self.refuses_writes_at(Instant::now())
    }

    fn refuses_writes_at(&self, now: Instant) -> Option<Diagnosis> {
        let mut ongoing = self.lock();
        let outdated = ongoing
            .writes
            .take_if(|outage| now.saturating_duration_since(outage.last) >= OUTDATED);
        if let Some(outage) = outdated {
            let ended = "has refused no write for five minutes";
            self.log_end(Some(outage.ended()), ended);
            self.any.store(ongoing.any(), Ordering::Release);
        }
        let writes = ongoing.writes.as_ref().filter(|outage| !outage.passed)?;
        writes.diagnosis
    }

    pub(super) fn failed(&self, error: &StoreError) {
        if !error.is_unavailable() {
            return;
        }
        let diagnosis = error.diagnosis();
        let cause = explained(error, diagnosis);
        self.any.store(true, Ordering::Release);
        let mut ongoing = self.lock();
        let (outage, began, continues) = if error.refuses_writes() {
            (
                &mut ongoing.writes,
                "refuses writes",
                "still refuses writes, now",
            )
        } else if diagnosis == Some(Diagnosis::Conflicts) {
            (
                &mut ongoing.conflicts,
                "undid a transaction because of conflicts",
                "still undoes transactions because of conflicts, now",
            )
        } else {
            (
                &mut ongoing.all,
                "is unavailable",
                "is still unavailable, now",
            )
        };
        let database = self.database;
        match note(outage, diagnosis, &cause, Instant::now()) {
            Some(News::Began) => tracing::error!("{database} {began}: {cause}"),
            Some(_) => tracing::error!("{database} {continues}: {cause}"),
            None => {}
        }
    }

    pub(super) fn succeeded(&self, effect: Effect) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut ongoing = self.lock();
        let now = Instant::now();
        self.log_end(end(&mut ongoing.all, now), "is available again");
        if matches!(effect, Effect::Wrote(_)) {
            let ended = end(&mut ongoing.conflicts, now);
            self.log_end(ended, "commits transactions again");
        }
        let takes_writes = ongoing
            .writes
            .as_ref()
            .is_some_and(|outage| outage.is_disproved_by(effect));
        if takes_writes {
            self.log_end(end(&mut ongoing.writes, now), "takes writes again");
        }
        self.any.store(ongoing.any(), Ordering::Release);
    }

    fn log_end(&self, news: Option<News>, ended: &str) {
        if let Some(News::Ended { failures, lasted }) = news {
            let database = self.database;
            let secs = lasted.as_secs();
            tracing::warn!(failures, secs, "{database} {ended}");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Ongoing> {
        // Nothing that panics is done under it.
        self.ongoing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outage {
    fn ended(&self) -> News {
        News::Ended {
            failures: self.failures,
            lasted: self.last.saturating_duration_since(self.began),
        }
    }

    fn is_disproved_by(&self, effect: Effect) -> bool {
        match effect {
            Effect::Read => false,
            // A full disk takes writes that change nothing.
            Effect::Wrote(0) => self.diagnosis == Some(Diagnosis::ReadOnly),
            Effect::Wrote(_) => true,
        }
    }
}

fn note(
    outage: &mut Option<Outage>,
    diagnosis: Option<Diagnosis>,
    cause: &str,
    now: Instant,
) -> Option<News> {
    let Some(outage) = outage else {
        *outage = Some(Outage {
            diagnosis,
            causes: vec![cause.to_owned()],
            passed: false,
            failures: 1,
            began: now,
            last: now,
        });
        return Some(News::Began);
    };
    outage.passed = false;
    outage.failures += 1;
    outage.last = now;
    outage.diagnosis = diagnosis;
    let is_new = outage.causes.len() < CAUSES && outage.causes.iter().all(|known| known != cause);
    is_new.then(|| {
        outage.causes.push(cause.to_owned());
        News::Changed
    })
}

fn end(outage: &mut Option<Outage>, now: Instant) -> Option<News> {
    let ended = outage.take_if(|outage| {
        outage.passed = true;
        now.saturating_duration_since(outage.last) >= QUIET
    })?;
    Some(ended.ended())
}

/// All causes, and what to do about them.
fn explained(error: &StoreError, diagnosis: Option<Diagnosis>) -> String {
    let causes: Vec<String> = successors(error.source(), |&cause| cause.source())
        .map(ToString::to_string)
        .collect();
    let causes = causes.join(": ");
    match diagnosis {
        Some(diagnosis) => format!("{causes}; {}", diagnosis.advice()),
        None => causes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(secs: u64) -> Instant {
        Instant::now() + Duration::from_secs(secs)
    }

    #[test]
    fn an_outage_is_told_when_it_begins_changes_and_has_ended() {
        let mut outage = None;
        let at = after(0);
        let mut failed = |cause: &str, secs| {
            let at = at + Duration::from_secs(secs);
            note(&mut outage, None, cause, at)
        };

        assert_eq!(failed("refused", 0), Some(News::Began));
        for secs in 1..30 {
            assert_eq!(failed("refused", secs), None);
        }
        assert_eq!(failed("no answer", 30), Some(News::Changed));
        assert_eq!(failed("refused", 31), None);
        assert_eq!(failed("no answer", 32), None);

        let mut ended = |secs| end(&mut outage, at + Duration::from_secs(secs));
        assert_eq!(ended(33), None);
        let news = News::Ended {
            failures: 33,
            lasted: Duration::from_secs(32),
        };
        assert_eq!(ended(34), Some(news));
        assert_eq!(ended(35), None);
    }

    #[test]
    fn a_cause_that_is_never_the_same_is_logged_a_few_times() {
        let mut outage = None;
        let at = after(0);
        let lines = (0..1000)
            .filter_map(|number| note(&mut outage, None, &format!("port {number}"), at))
            .count();
        assert_eq!(lines, CAUSES);
    }

    #[test]
    fn only_a_write_shows_that_writes_are_taken_again() {
        let outage = |diagnosis| {
            let mut outage = None;
            note(&mut outage, Some(diagnosis), "refused", after(0));
            outage.unwrap()
        };
        let read_only = outage(Diagnosis::ReadOnly);
        assert!(!read_only.is_disproved_by(Effect::Read));
        assert!(read_only.is_disproved_by(Effect::Wrote(0)));
        let full = outage(Diagnosis::DiskFull);
        assert!(!full.is_disproved_by(Effect::Wrote(0)));
        assert!(full.is_disproved_by(Effect::Wrote(1)));
    }

    fn refused(said: &str) -> StoreError {
        StoreError::unavailable(said)
    }

    #[test]
    fn a_refused_write_is_outdated_after_five_minutes() {
        let outages = Outages::of("the database");
        outages.failed(&refused("database or disk is full"));
        assert_eq!(outages.refuses_writes(), Some(Diagnosis::DiskFull));
        // What changes no row proves nothing.
        outages.succeeded(Effect::Wrote(0));
        let soon = outages.refuses_writes_at(after(200));
        assert_eq!(soon, Some(Diagnosis::DiskFull));

        assert_eq!(outages.refuses_writes_at(after(301)), None);
        assert!(!outages.any.load(Ordering::Acquire));
        outages.failed(&refused("database or disk is full"));
        assert_eq!(outages.refuses_writes(), Some(Diagnosis::DiskFull));
    }

    #[test]
    fn conflicts_are_no_outage_of_the_whole_database() {
        let outages = Outages::of("the database");
        outages.failed(&refused("deadlock detected (SQLSTATE 40P01)"));
        let ongoing = outages.lock();
        assert!(ongoing.conflicts.is_some() && ongoing.all.is_none());
    }
}
