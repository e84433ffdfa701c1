//! Logs to standard output, as JSON lines or for a person's eyes.

use pipekeeper_core::config::Loader;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

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
        let filter = EnvFilter::builder().parse_lossy(&self.filter);
        let subscriber = tracing_subscriber::fmt().with_env_filter(filter);
        let _already_set = match self.format {
            Format::Json => subscriber
                .json()
                .flatten_event(true)
                .with_span_list(false)
                .try_init(),
            Format::Pretty => subscriber.compact().try_init(),
        };
    }
}
