//! `scripts/bench`: how fast the stack starts and answers.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::{Parser, ValueEnum};
use serde_json::json;
use stack_tests::client::{Client, PERSON, REFRESH};
use stack_tests::load::{self, Measured, Until};
use stack_tests::processes::{Plan, Processes, SERVICES};

/// Real n8n 2.8.4 on a machine of two cores, its data workflow repaired so that it answers: the best requests/s measured
/// (with `ab -k`) at 1 and 16 callers.
const N8N: [f64; 2] = [24.0, 40.0];

/// Requests before a process's memory is read.
const REQUESTS: usize = 10_000;

#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
struct Arguments {
    what: What,
    /// How long each measurement takes
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, default_value_t = 28080)]
    base_port: u16,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum What {
    /// Process start to ready, and resident memory after 10 000 requests
    Start,
    /// The person webhook at 1 and 16 callers, beside the simulator asked directly
    Person,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let data = std::env::temp_dir().join(format!("pipekeeper-bench-{}", std::process::id()));
    let plan = Plan::new(data.clone(), arguments.base_port);
    let measured = match arguments.what {
        What::Start => start(plan).await,
        What::Person => person(plan, Duration::from_secs(arguments.seconds)).await,
    };
    measured?;
    Ok(std::fs::remove_dir_all(&data)?)
}

async fn start(mut plan: Plan) -> anyhow::Result<()> {
    plan.without = SERVICES.map(str::to_owned).to_vec();
    let mut processes = Processes::start(plan.clone()).await?;
    let mut out = io::stdout();
    writeln!(
        out,
        "process start to ready on SQLite, milliseconds (the first start creates and migrates the database)"
    )?;
    for service in SERVICES {
        let mut took = Vec::new();
        for run in 0..6 {
            let started = now();
            processes.start_one(service).await?;
            took.push(started.elapsed());
            if run < 5 {
                processes.stop_one(service).await?;
            }
        }
        let (first, later) = took.split_first().context("six starts")?;
        let worst = later.iter().max().context("five starts")?;
        writeln!(
            out,
            "  {service:16} first {:5.0}   later, worst of five {:5.0}",
            millis(*first),
            millis(*worst)
        )?;
    }

    let client = plan.client()?;
    client.connect(1, 1).await?;
    writeln!(
        out,
        "\nresident memory after {REQUESTS} requests over 16 connections, MB"
    )?;
    for service in SERVICES {
        let (address, request) = request_for(service, &client)?;
        let before = processes.resident_kib(service)?;
        load::run(&address, &request, 16, Until::Requests(REQUESTS)).await?;
        let after = processes.resident_kib(service)?;
        writeln!(
            out,
            "  {service:16} at start {:5.1}   after {:5.1}",
            megabytes(before),
            megabytes(after)
        )?;
    }
    processes.stop().await
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

async fn person(plan: Plan, length: Duration) -> anyhow::Result<()> {
    let processes = Processes::start(plan.clone()).await?;
    let client = plan.client()?;
    client.connect(1, 1).await?;
    let (address, request) = request_for("data-api", &client)?;
    // The floor: the same search, asked of the simulator without us in between.
    let token = access_token(&client).await?;
    let simulator = host_of(&client.simulator)?;
    let direct = load::request(
        "GET",
        &simulator,
        "/api/v2/persons/search?term=jane%40example.com&fields=email&exact_match=true",
        &format!("authorization: Bearer {token}\r\n"),
        "",
    );
    let mut out = io::stdout();
    writeln!(
        out,
        "{:34} {:>10} {:>9} {:>9}",
        "", "requests/s", "p50 ms", "p99 ms"
    )?;
    for (connections, n8n) in [1, 16].into_iter().zip(N8N) {
        let warm = Until::Elapsed(Duration::from_secs(1));
        load::run(&address, &request, connections, warm).await?;
        let ours = load::run(&address, &request, connections, Until::Elapsed(length)).await?;
        load::run(&simulator, &direct, connections, warm).await?;
        let floor = load::run(&simulator, &direct, connections, Until::Elapsed(length)).await?;
        line(
            &mut out,
            &format!("person webhook, {connections} callers"),
            &ours,
        )?;
        line(
            &mut out,
            &format!("simulator alone, {connections} callers"),
            &floor,
        )?;
        writeln!(
            out,
            "  {:.2} of the simulator alone; {:.0} times real n8n 2.8.4 ({n8n} requests/s, measured apart)\n",
            ours.per_second / floor.per_second,
            ours.per_second / n8n,
        )?;
    }
    processes.stop().await
}

/// A token of another user's, got the way that any OAuth client gets one.
async fn access_token(client: &Client) -> anyhow::Result<String> {
    let query = client.marketplace_consent("approve", 1, 2).await?;
    let code = url::form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == "code")
        .context("no code")?
        .1
        .into_owned();
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", &client.redirect_url),
        ("client_id", &client.client_id),
        ("client_secret", pipedrive_sim::DEFAULT_CLIENT_SECRET),
    ];
    let response = client
        .http
        .post(format!("{}/oauth/token", client.simulator))
        .form(&form)
        .send()
        .await?;
    ensure!(
        response.status().is_success(),
        "the token endpoint answered {}",
        response.status()
    );
    let tokens: serde_json::Value = response.json().await?;
    Ok(tokens
        .get("access_token")
        .and_then(|token| token.as_str())
        .context("no token")?
        .to_owned())
}

fn line(out: &mut dyn Write, what: &str, measured: &Measured) -> io::Result<()> {
    writeln!(
        out,
        "{what:34} {:>10.0} {:>9.2} {:>9.2}",
        measured.per_second,
        millis(measured.p50),
        millis(measured.p99)
    )
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
