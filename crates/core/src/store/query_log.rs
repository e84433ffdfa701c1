//! The very queries that a store sends, for tests to have them explained.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use diesel::connection::{Instrumentation, InstrumentationEvent};

use super::Store;

/// What a store has sent since it was last asked. Cheap to clone: a clone is the same log.
#[derive(Debug, Clone, Default)]
pub struct QueryLog(Arc<Mutex<Vec<String>>>);

impl QueryLog {
    /// Each query as it was sent, and after it `-- binds: [...]`.
    pub fn take(&self) -> Vec<String> {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Instrumentation for QueryLog {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        if let InstrumentationEvent::StartQuery { query, .. } = event {
            let mut queries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            queries.push(query.to_string());
        }
    }
}

impl Store {
    /// This store, and what it sends from now on.
    #[must_use]
    pub fn logged(mut self) -> (Self, QueryLog) {
        let log = QueryLog::default();
        self.query_log = Some(log.clone());
        (self, log)
    }
}
