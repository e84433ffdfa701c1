//! `refresh_log`: what happened, for people. The tokens come first: it is written after the callers have their result.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pipekeeper_core::oauth::{TokenError, Unknown};
use pipekeeper_core::store::{RefreshLogEntry, Store};

/// How long lines wait for others to be written with: on `SQLite` each write is a sync of its own.
const GATHER: Duration = Duration::from_millis(50);

/// Writes the lines of refreshes that end together in one go.
#[derive(Debug)]
pub(super) struct Log {
    store: Store,
    waiting: Mutex<Vec<RefreshLogEntry>>,
    /// Held while lines are written; those that come meanwhile wait for the next who holds it.
    writing: tokio::sync::Mutex<()>,
}

impl Log {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            waiting: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    pub(super) async fn write(&self, lines: Vec<RefreshLogEntry>) {
        if lines.is_empty() {
            return;
        }
        self.waiting().extend(lines);
        let _one_at_a_time = self.writing.lock().await;
        if self.waiting().is_empty() {
            return;
        }
        tokio::time::sleep(GATHER).await;
        let lines = std::mem::take(&mut *self.waiting());
        match self.store.refresh_log_insert(&lines).await {
            // The store logs the outage.
            Err(error) if error.is_unavailable() => {
                tracing::debug!(lines = lines.len(), "not written to refresh_log");
            }
            Err(error) => tracing::warn!(
                lines = lines.len(),
                "not written to refresh_log: {:#}",
                anyhow::Error::from(error)
            ),
            Ok(()) => {}
        }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Vec<RefreshLogEntry>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `refresh_log` calls the end of an attempt.
pub(super) fn outcome_of(error: &TokenError) -> &'static str {
    match error {
        TokenError::InvalidGrant => "rejected",
        TokenError::ClientRefused(_) => "our_fault",
        TokenError::NotSent(_) => "not_sent",
        TokenError::TurnedAway { .. } => "turned_away",
        TokenError::Unknown(_) => "unknown",
    }
}

/// A word for `last_error` and `refresh_log.error`: no secrets, no bodies.
pub(super) fn error_code(error: &TokenError) -> String {
    match error {
        TokenError::InvalidGrant => "invalid_grant".to_owned(),
        TokenError::ClientRefused(word) => (*word).to_owned(),
        TokenError::NotSent(_) => "not_reached".to_owned(),
        TokenError::TurnedAway { status, .. }
        | TokenError::Unknown(Unknown::Status { status, .. }) => format!("http_{status}"),
        TokenError::Unknown(Unknown::TimedOut(_)) => "timeout".to_owned(),
        TokenError::Unknown(Unknown::Broken(_)) => "connection_broke".to_owned(),
        TokenError::Unknown(Unknown::Garbled) => "garbled_answer".to_owned(),
    }
}
