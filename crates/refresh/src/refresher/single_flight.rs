//! Single flight: one refresh per connection and process at a time, in a task of its own, which goes on when its callers leave.

use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError};

use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::store::RefreshLogEntry;
use tokio::sync::watch;
use tracing::Instrument as _;

use super::outcome::outcome_label;
use super::{RefreshError, RefreshResult, Refresher, Trigger};

/// A refresh under way: what it was started for, and its result once there is one.
#[derive(Debug, Clone)]
pub(super) struct InFlight {
    pub(super) failed_generation: Option<i64>,
    pub(super) trigger: Trigger,
    result: watch::Receiver<Option<RefreshResult>>,
}

/// The calls that a refresh made, for `refresh_log` and the metrics.
#[derive(Debug, Default)]
pub(super) struct AttemptLog {
    /// The provider's key, once it is known.
    pub(super) provider: String,
    pub(super) attempts: Vec<RefreshLogEntry>,
}

impl InFlight {
    pub(super) async fn result(mut self) -> RefreshResult {
        match self.result.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Err(RefreshError::Busy)),
            // The task died, and its lease is orphaned: the next caller waits for it as for any other.
            Err(_closed) => Err(RefreshError::Busy),
        }
    }
}

impl Refresher {
    /// Joins the connection's refresh, or starts one.
    pub(super) fn join_or_start(
        self: &Arc<Self>,
        id: &ConnectionId,
        failed_generation: Option<i64>,
        trigger: Trigger,
    ) -> InFlight {
        let (sender, result) = watch::channel(None);
        let in_flight = InFlight {
            failed_generation,
            trigger,
            result,
        };
        match self
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(id.clone())
        {
            Entry::Occupied(entry) => return entry.get().clone(),
            Entry::Vacant(entry) => drop(entry.insert(in_flight.clone())),
        }
        let (refresher, id) = (Arc::clone(self), id.clone());
        let guard = InFlightGuard {
            refresher: Arc::clone(self),
            id: id.clone(),
        };
        let task = async move {
            let mut attempt_log = AttemptLog::default();
            let result = refresher
                .run(&id, failed_generation, trigger, &mut attempt_log)
                .await;
            let outcome = outcome_label(&result, !attempt_log.attempts.is_empty());
            metrics::counter!("pipekeeper_refresh_total", "provider" => attempt_log.provider, "outcome" => outcome)
                .increment(1);
            // Removed before the result is sent: a caller that comes now reads the row.
            drop(guard);
            sender.send_replace(Some(result));
            refresher.log.write(attempt_log.attempts).await;
        };
        self.tasks.spawn(task.instrument(tracing::Span::current()));
        in_flight
    }
}

/// Removes a refresh from those in flight, also when its task is dropped or panics.
struct InFlightGuard {
    refresher: Arc<Refresher>,
    id: ConnectionId,
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.refresher
            .in_flight
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}
