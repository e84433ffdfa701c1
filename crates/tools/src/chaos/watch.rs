//! What a run notes all the time: the states of the rows, and how late the machine's timers are.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::event_log::{Event, EventLog, Micros};
use super::stack::Stack;

/// How often the rows are read.
const ROWS_EVERY: Duration = Duration::from_millis(700);

/// How often a timer is to fire, and how late it may be without a note.
const TIMER: Duration = Duration::from_millis(10);
const ON_TIME_US: Micros = 15_000;

/// Notes each change of a row's state and generation.
pub(super) async fn rows(stack: Arc<Stack>) {
    let mut known: BTreeMap<u32, (String, i64)> = BTreeMap::new();
    loop {
        for account in &stack.accounts {
            let read_us = stack.event_log.now_us();
            // The database may be away.
            let Ok(row) = account.row(&stack).await else {
                continue;
            };
            let seen = (row.state.clone(), row.generation);
            if known.insert(row.company, seen.clone()) != Some(seen) {
                stack.event_log.add(Event::RowState {
                    company: row.company,
                    state: row.state,
                    generation: row.generation,
                    read_us,
                });
            }
        }
        tokio::time::sleep(ROWS_EVERY).await;
    }
}

/// Notes when this machine was too busy to run what was due and to sync what it had written. It has a thread of its own: what this
/// process does beside must not count as the machine's load.
pub(super) struct Timers {
    stop: Arc<AtomicBool>,
}

impl Timers {
    /// The probe is written to this file.
    pub(super) fn start(event_log: &Arc<EventLog>, probe: &Path) -> std::io::Result<Self> {
        let mut probe = File::create(probe)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (event_log, stopped) = (Arc::clone(event_log), Arc::clone(&stop));
        let timer_us = Micros::try_from(TIMER.as_micros()).unwrap_or_default();
        std::thread::Builder::new()
            .name("timers".to_owned())
            .spawn(move || {
                let mut before = event_log.now_us();
                while !stopped.load(Ordering::Relaxed) {
                    std::thread::sleep(TIMER);
                    // A disk that fails is late, too, and the run will notice.
                    drop(probe.write_all(b".").and_then(|()| probe.sync_data()));
                    let now = event_log.now_us();
                    let by_us = now - before - timer_us;
                    if by_us > ON_TIME_US {
                        event_log.add(Event::Late { by_us });
                    }
                    before = now;
                }
            })?;
        Ok(Self { stop })
    }
}

impl Drop for Timers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Deletes the journals' files all the time.
pub(super) async fn delete_journals(stack: Arc<Stack>) {
    loop {
        stack.journals.delete_segments();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
