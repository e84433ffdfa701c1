//! What the middleware and the health checks know of the service.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pipekeeper_core::clock::SharedClock;

/// Whether the database has been seen with a current schema; requests are refused until it has.
#[derive(Debug, Default)]
pub(crate) struct Ready(AtomicBool);

impl Ready {
    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What the middleware needs to know of the service.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) service: &'static str,
    /// Other paths of some routes; n8n's webhook ids among them.
    pub(crate) aliases: &'static [(&'static str, &'static str)],
    pub(crate) ready: Arc<Ready>,
    pub(crate) clock: SharedClock,
}
