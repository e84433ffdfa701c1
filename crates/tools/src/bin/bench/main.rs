//! `scripts/bench`: how fast the stack starts, answers and refreshes. `scripts/bench start > docs/results/start.md` keeps
//! what is results, and `README.md` has rows of it.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use pipekeeper_core::clock::SystemClock;
use pipekeeper_core::store::Backend;
use serde_json::json;
use tools::load;
use up::client::{Client, PERSON, REFRESH};
use up::processes::Plan;

mod person;
mod provider;
mod refresh;
mod scale;
mod start;

#[derive(Debug, Parser)]
#[command(name = "scripts/bench", version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("PIPEKEEPER_COMMIT"), ")"))]
struct Arguments {
    what: What,
    /// How long each measurement takes
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// The database of `refresh` and `scale`: sqlite, postgres or mysql; a server comes in a container, or is there (see scripts/test)
    #[arg(long, default_value_t = Backend::Sqlite)]
    database: Backend,
    #[arg(long, default_value_t = 28080)]
    base_port: u16,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Process start to ready, and resident memory after 10 000 requests
    Start,
    /// The person webhook at 1 and 16 callers, beside the simulator asked directly
    Person,
    /// Refreshes by webhook, beside their floor: the lease, one fsync, the commit
    Refresh,
    /// A thousand connections and a million: the sweep's renewals, the webhook
    Scale,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let data = std::env::temp_dir().join(format!("pipekeeper-bench-{}", std::process::id()));
    let plan = Plan::new(data.clone(), arguments.base_port);
    let backend = arguments.database;
    let length = Duration::from_secs(arguments.seconds);
    let results = match arguments.what {
        What::Start => start::start(plan).await,
        What::Person => person::person(plan, length).await,
        What::Refresh => refresh::refresh(plan, backend, length).await,
        What::Scale => scale::scale(plan, backend).await,
    };
    results?;
    Ok(std::fs::remove_dir_all(&data)?)
}

/// What each service answers all day.
fn request_for(service: &str, client: &Client) -> anyhow::Result<(String, Vec<u8>)> {
    let (base, method, path, headers, body) = match service {
        "data-api" => {
            let body = json!({"person": {"email": "jane@example.com"}}).to_string();
            (
                &client.data_api,
                "POST",
                PERSON,
                basic(&client.webhook),
                body,
            )
        }
        "token-refresher" => {
            // A generation that is not the row's: the answer is that the token is newer.
            let body = json!({"appId": client.client_id, "generation": -1}).to_string();
            (
                &client.token_refresher,
                "POST",
                REFRESH,
                basic(&client.refresher),
                body,
            )
        }
        _ => (
            &client.auth_capture,
            "GET",
            "/readyz",
            String::new(),
            String::new(),
        ),
    };
    let host = host_of(base)?;
    let request = load::request(method, &host, path, &headers, &body);
    Ok((host, request))
}

/// What was results, and where.
fn caption(run: &str) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let date = SystemClock::shared().now().datetime().format("%Y-%m-%d");
    let build = if cfg!(debug_assertions) {
        "a debug build"
    } else {
        "a release build"
    };
    format!(
        "`scripts/bench {run}`: {build} on {cores} cores, with all that it talks to and the load, {date}."
    )
}

fn said_of(callers: usize) -> String {
    match callers {
        1 => "1 caller".to_owned(),
        more => format!("{more} callers"),
    }
}

fn basic((user, password): &(String, pipekeeper_core::secret::Secret)) -> String {
    let value = pipekeeper_core::oauth::basic_auth(user, password);
    format!(
        "content-type: application/json\r\nauthorization: {}\r\n",
        value.to_str().unwrap_or_default()
    )
}

fn host_of(url: &str) -> anyhow::Result<String> {
    Ok(url.strip_prefix("http://").context("not http")?.to_owned())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn megabytes(kib: u32) -> f64 {
    f64::from(kib) * 1024.0 / 1e6
}

#[expect(
    clippy::disallowed_methods,
    reason = "a stopwatch for people, which no test turns"
)]
fn now() -> Instant {
    Instant::now()
}
