//! Logs to standard output, as JSON lines or for a person's eyes.

mod strangers;
mod writer;

use std::sync::Once;

use pipekeeper_core::config::Loader;
use serde::Deserialize;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use self::strangers::StrangersMistakes;
use self::writer::Lines;

/// `[telemetry]`.
#[derive(Debug, Clone)]
pub struct Telemetry {
    format: Format,
    filter: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    Json,
    Pretty,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTelemetry {
    format: Format,
    filter: String,
}

impl Telemetry {
    pub fn load(loader: &mut Loader) -> Self {
        let raw = loader
            .section::<RawTelemetry>("telemetry")
            .unwrap_or(RawTelemetry {
                format: Format::Json,
                filter: String::new(),
            });
        if let Err(error) = EnvFilter::builder().parse(&raw.filter) {
            loader.problem("telemetry.filter", &format!("is no filter: {error}"));
        }
        Self {
            format: raw.format,
            filter: raw.filter,
        }
    }

    /// The first call of a process counts: a test that runs several services has one log.
    pub fn init(&self) {
        static FIRST: Once = Once::new();
        FIRST.call_once(|| self.set_up());
    }

    fn set_up(&self) {
        let lines = fmt::layer()
            .with_writer(Lines::to_stdout())
            .log_internal_errors(false);
        let lines = match self.format {
            Format::Json => lines
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .boxed(),
            Format::Pretty => lines.compact().boxed(),
        };
        let filter = EnvFilter::builder().parse_lossy(&self.filter);
        let _already_set = tracing_subscriber::registry()
            .with(lines)
            .with(filter)
            .with(StrangersMistakes)
            .try_init();
    }

    /// Writes what was logged so far, if the reader takes it within a moment.
    pub fn flush() {
        writer::flush();
    }
}
