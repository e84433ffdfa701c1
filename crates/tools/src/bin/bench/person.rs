//! The person webhook beside the simulator asked directly.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tools::load::{self, Until};
use tools::results::{Table, per_second};
use up::client::Client;
use up::processes::{Plan, Processes};

use super::{caption, host_of, millis, request_for, said_of};

/// Real n8n 2.8.4 on a machine of two cores, its data workflow repaired so that it answers: the best requests/s results
/// (with `ab -k`) at 1 and 16 callers.
const N8N: [f64; 2] = [24.0, 40.0];

pub(super) async fn person(plan: Plan, length: Duration) -> anyhow::Result<()> {
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
    let mut table = Table::new([
        "person webhook",
        "requests/s",
        "p50",
        "p99",
        "beside the simulator asked directly",
        "real n8n 2.8.4 (results apart)",
    ]);
    for (callers, n8n) in [1, 16].into_iter().zip(N8N) {
        let warm = Until::Elapsed(Duration::from_secs(1));
        load::run(&address, &request, callers, warm).await?;
        let ours = load::run(&address, &request, callers, Until::Elapsed(length)).await?;
        load::run(&simulator, &direct, callers, warm).await?;
        let floor = load::run(&simulator, &direct, callers, Until::Elapsed(length)).await?;
        table.row([
            said_of(callers),
            per_second(ours.per_second),
            format!("{:.2} ms", millis(ours.p50)),
            format!("{:.2} ms", millis(ours.p99)),
            format!(
                "{:.2} of {}",
                ours.per_second / floor.per_second,
                per_second(floor.per_second)
            ),
            format!("{n8n:.0} requests/s"),
        ]);
    }
    table.write(&mut io::stdout(), &caption("person"))?;
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
