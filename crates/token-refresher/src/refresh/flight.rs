//! Flights: one refresh per connection and process at a time, as a task of its own that no caller's end aborts.

use std::collections::hash_map::Entry;
use std::sync::{Arc, PoisonError};

use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::store::RefreshLogEntry;
use tokio::sync::watch;
use tracing::Instrument as _;

use super::end::outcome_word;
use super::{FlightResult, RefreshError, Refresher, Trigger};

/// A refresh under way: what it began with, and where its end is told.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    pub(super) have: Option<i64>,
    pub(super) trigger: Trigger,
    ended: watch::Receiver<Option<FlightResult>>,
}

/// What a flight leaves behind for people.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// The provider's key, once it is known.
    pub(super) provider: String,
    pub(super) attempts: Vec<RefreshLogEntry>,
}

impl Flight {
    pub(super) async fn end(mut self) -> FlightResult {
        match self.ended.wait_for(Option::is_some).await {
            Ok(result) => result.clone().unwrap_or(Err(RefreshError::Busy)),
            // The task died. Its lease is an orphan now: whoever asks next waits for it like for any other.
            Err(_closed) => Err(RefreshError::Busy),
        }
    }
}

impl Refresher {
    /// Joins the connection's flight, or starts one.
    pub(super) fn board(
        self: &Arc<Self>,
        id: &ConnectionId,
        have: Option<i64>,
        trigger: Trigger,
    ) -> Flight {
        let (tell, ended) = watch::channel(None);
        let flight = Flight {
            have,
            trigger,
            ended,
        };
        match self
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(id.clone())
        {
            Entry::Occupied(under_way) => return under_way.get().clone(),
            Entry::Vacant(place) => drop(place.insert(flight.clone())),
        }
        let (door, id) = (Arc::clone(self), id.clone());
        let landing = Landing {
            door: Arc::clone(self),
            id: id.clone(),
        };
        let task = async move {
            let mut report = Report::default();
            let result = door.fly(&id, have, trigger, &mut report).await;
            let outcome = outcome_word(&result, !report.attempts.is_empty());
            metrics::counter!("pipekeeper_refresh_total", "provider" => report.provider, "outcome" => outcome)
                .increment(1);
            // Off the board before its end is told: who comes now is answered by the row.
            drop(landing);
            tell.send_replace(Some(result));
            door.log.write(report.attempts).await;
        };
        self.tasks.spawn(task.instrument(tracing::Span::current()));
        flight
    }
}

/// Takes a flight off the board, also when its task is dropped or panics.
struct Landing {
    door: Arc<Refresher>,
    id: ConnectionId,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.door
            .flights
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.id);
    }
}
