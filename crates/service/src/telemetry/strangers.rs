//! Malformed HTTP is the sender's mistake: it is answered with a 400, and no error of ours.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// What actix-http logs as its own errors, and any client can cause.
const MISTAKES: [&str; 3] = [
    "stream error: ",
    "MAX_BUFFER_SIZE unprocessed data reached",
    "Internal server error: unexpected ",
];

/// Keeps them out of the log.
pub(super) struct StrangersMistakes;

impl<S: Subscriber> Layer<S> for StrangersMistakes {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() != Level::ERROR || !metadata.target().starts_with("actix_http::h1") {
            return true;
        }
        let mut message = Message::default();
        event.record(&mut message);
        !MISTAKES
            .iter()
            .any(|mistake| message.0.starts_with(mistake))
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}
