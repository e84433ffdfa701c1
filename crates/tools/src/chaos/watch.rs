//! What a run notes all the time: the states of the rows, and how late the machine's timers are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::event_log::{Event, Micros};
use super::world::World;

/// How often the rows are read.
const ROWS_EVERY: Duration = Duration::from_millis(700);

/// How often a timer is to fire, and how late it may be without a note.
const TIMER: Duration = Duration::from_millis(10);
const ON_TIME_US: Micros = 15_000;

/// Notes each change of a row's state.
pub(super) async fn rows(world: Arc<World>) {
    let mut known: BTreeMap<u32, String> = BTreeMap::new();
    loop {
        for account in &world.accounts {
            let read_us = world.event_log.now_us();
            // The database may be away.
            let Ok(row) = account.row(&world).await else {
                continue;
            };
            let before = known.insert(row.company, row.state.clone());
            if before.as_ref() != Some(&row.state) {
                world.event_log.add(Event::RowState {
                    company: row.company,
                    state: row.state,
                    read_us,
                });
            }
        }
        tokio::time::sleep(ROWS_EVERY).await;
    }
}

/// Notes when this machine was too busy to run what was due.
pub(super) async fn timers(world: Arc<World>) {
    let timer_us = Micros::try_from(TIMER.as_micros()).unwrap_or_default();
    let mut before = world.event_log.now_us();
    loop {
        tokio::time::sleep(TIMER).await;
        let now = world.event_log.now_us();
        let by_us = now - before - timer_us;
        if by_us > ON_TIME_US {
            world.event_log.add(Event::Late { by_us });
        }
        before = now;
    }
}

/// Deletes the journals' files all the time.
pub(super) async fn delete_journals(world: Arc<World>) {
    loop {
        world.journals.delete_segments();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
