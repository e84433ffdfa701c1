//! The very queries that a store sends, for tests to have them explained.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use pipekeeper_core::store::QueryObserver;

/// What a store has sent since it was last asked. Cheap to clone: a clone is the same log.
#[derive(Debug, Clone, Default)]
pub struct QueryLog(Arc<Mutex<Vec<String>>>);

impl QueryLog {
    /// Each query as it was sent, and after it `-- binds: [...]`.
    pub fn take(&self) -> Vec<String> {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// For [`StoreOptions::query_observer`](pipekeeper_core::store::StoreOptions::query_observer).
    pub fn observer(&self) -> QueryObserver {
        let log = self.clone();
        QueryObserver::new(move |query| {
            let mut queries = log.0.lock().unwrap_or_else(PoisonError::into_inner);
            queries.push(query.to_owned());
        })
    }
}
