//! The demo: one Pipedrive account from consent to a healed 401. Each step is checked by what the simulator counted, not
//! by what we hope for.

use std::io::Write;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::client::{Answer, CALLBACK, Client, PERSON, REFRESH, total};

const EMAIL: &str = "jane@example.com";
const NAME: &str = "Jane Doe";

/// Callers who meet the expired token at once.
const CROWD: usize = 50;

/// Plays the story and tells it to `out`.
///
/// # Errors
/// The first thing that did not hold.
pub async fn play(client: &Client, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    writeln!(
        out,
        "One Pipedrive account, from consent to a healed 401. All of this happens over HTTP, just now."
    )?;

    step(
        out,
        1,
        "The user gives consent, and Pipedrive sends the code to auth-capture",
    )?;
    let before = Counters::read(client).await?;
    let query = client.marketplace_consent("approve", 1, 1).await?;
    tell(
        out,
        "authorize page",
        &format!(
            "consent of user 1 of company 1, redirected with a code of {} characters",
            code_length(&query)
        ),
    )?;
    let callback = client.callback(&query).await?;
    expect(&callback, 200, "GET", CALLBACK)?;
    let connection = callback.json()["connection"].clone();
    tell(
        out,
        &format!("GET {CALLBACK}?code=…"),
        &format!(
            "200, connected: {} at {}, generation {}",
            text(&connection["user_name"]),
            text(&connection["company_name"]),
            connection["generation"]
        ),
    )?;
    let after = Counters::read(client).await?;
    after.tell(out, &before)?;
    ensure!(
        after.exchanges - before.exchanges == 1,
        "the simulator should have seen one code exchanged"
    );

    step(out, 2, "An application asks for a person by email")?;
    let before = Counters::read(client).await?;
    let took = look_up(client, out).await?;
    let after = Counters::read(client).await?;
    after.tell(out, &before)?;
    ensure!(
        after.refreshes == before.refreshes,
        "a good token should not have been refreshed"
    );

    step(
        out,
        3,
        "The access token dies early, as after a change of scopes",
    )?;
    let expired = client.sim("expire", &json!({})).await?;
    tell(
        out,
        "POST /_sim/expire",
        &format!(
            "{} access tokens are worthless now; nobody was told",
            expired["expired"]
        ),
    )?;

    step(out, 4, "The application asks again, and does not notice")?;
    let before = Counters::read(client).await?;
    let healed = look_up(client, out).await?;
    let after = Counters::read(client).await?;
    after.tell(out, &before)?;
    ensure!(
        after.searches_401 - before.searches_401 == 1,
        "Pipedrive should have refused the dead token once"
    );
    ensure!(
        after.refresher_calls - before.refresher_calls == 1,
        "data-api should have called token-refresher once"
    );
    ensure!(
        after.refreshes - before.refreshes == 1,
        "exactly one refresh token should have been spent"
    );
    tell(
        out,
        "the price of a 401",
        &format!("{healed:.0} ms instead of {took:.0} ms"),
    )?;

    step(
        out,
        5,
        "n8n's own refresh call comes a moment later: there is nothing left to spend",
    )?;
    let before = Counters::read(client).await?;
    let refresh = client.refresh(&json!({"appId": client.client_id})).await?;
    expect(&refresh, 200, "POST", REFRESH)?;
    ensure!(
        !refresh.body.contains("token\":"),
        "an answer of token-refresher should hold no token"
    );
    tell(
        out,
        &format!("POST {REFRESH} {{\"appId\":…}}"),
        &format!(
            "200, outcome {}, generation {}, tokens: none shown",
            text(&refresh.json()["outcome"]),
            refresh.json()["generation"]
        ),
    )?;
    let after = Counters::read(client).await?;
    after.tell(out, &before)?;
    ensure!(
        after.refreshes == before.refreshes,
        "a token a moment old should not have been refreshed"
    );

    step(
        out,
        6,
        &format!("The token dies once more, and {CROWD} callers run into it at once"),
    )?;
    // A token that was minted for a 401 is not renewed for another one within the first second.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    client.sim("expire", &json!({})).await?;
    let before = Counters::read(client).await?;
    let started = now();
    let crowd: Vec<_> = (0..CROWD)
        .map(|_| {
            let client = client.clone();
            tokio::task::spawn(async move { client.person(EMAIL).await })
        })
        .collect();
    let mut right = 0;
    for caller in crowd {
        let answer = caller.await??;
        expect(&answer, 200, "POST", PERSON)?;
        right += usize::from(answer.body == NAME);
    }
    tell(
        out,
        &format!("{CROWD} × POST {PERSON}"),
        &format!("{right} right answers in {:.0} ms", since(started)),
    )?;
    let after = Counters::read(client).await?;
    after.tell(out, &before)?;
    ensure!(
        right == CROWD,
        "all {CROWD} callers should have got the name"
    );
    ensure!(
        after.refreshes - before.refreshes == 1,
        "exactly one refresh token should have been spent"
    );

    writeln!(out, "\nAll of it held.")?;
    Ok(())
}

async fn look_up(client: &Client, out: &mut (dyn Write + Send)) -> anyhow::Result<f64> {
    let started = now();
    let answer = client
        .person(EMAIL)
        .await
        .context("data-api does not answer")?;
    let took = since(started);
    expect(&answer, 200, "POST", PERSON)?;
    tell(
        out,
        &format!("POST {PERSON} {{\"person\":{{\"email\":\"{EMAIL}\"}}}}"),
        &format!("200 {} in {took:.0} ms", answer.body),
    )?;
    ensure!(answer.body == NAME, "the answer should have been {NAME}");
    Ok(took)
}

/// What the simulator and the services counted.
struct Counters {
    exchanges: u64,
    refreshes: u64,
    searches_200: u64,
    searches_401: u64,
    refresher_calls: u64,
}

impl Counters {
    async fn read(client: &Client) -> anyhow::Result<Self> {
        let stats = client
            .stats()
            .await
            .context("the simulator does not answer")?;
        let (mut searches_200, mut searches_401) = (0, 0);
        for (route, tally) in stats["api"].as_object().into_iter().flatten() {
            if route.ends_with("persons/search") {
                searches_200 += tally["200"].as_u64().unwrap_or(0);
                searches_401 += tally["401"].as_u64().unwrap_or(0);
            }
        }
        Ok(Self {
            exchanges: total(&stats["token"]["authorization_code"]),
            refreshes: total(&stats["token"]["refresh_token"]),
            searches_200,
            searches_401,
            refresher_calls: client.refresher_calls().await?,
        })
    }

    fn tell(&self, out: &mut dyn Write, before: &Self) -> std::io::Result<()> {
        let counted = [
            (self.exchanges - before.exchanges, "codes exchanged"),
            (self.searches_200 - before.searches_200, "searches answered"),
            (
                self.searches_401 - before.searches_401,
                "searches refused with 401",
            ),
            (self.refreshes - before.refreshes, "refresh tokens spent"),
        ];
        let line: Vec<_> = counted
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{what}: {count}"))
            .collect();
        let line = if line.is_empty() {
            "nothing reached Pipedrive".to_owned()
        } else {
            line.join(", ")
        };
        let calls = self.refresher_calls - before.refresher_calls;
        tell(out, "the simulator counted", &line)?;
        tell(
            out,
            "token-refresher counted",
            &format!("calls of its webhook: {calls}"),
        )
    }
}

fn step(out: &mut dyn Write, number: u32, what: &str) -> std::io::Result<()> {
    writeln!(out, "\n{number}. {what}")
}

fn tell(out: &mut dyn Write, what: &str, happened: &str) -> std::io::Result<()> {
    writeln!(out, "   {what}\n     → {happened}")
}

fn expect(answer: &Answer, status: u16, method: &str, path: &str) -> anyhow::Result<()> {
    ensure!(
        answer.status == status,
        "{method} {path} answered {}: {}",
        answer.status,
        answer.body
    );
    Ok(())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn code_length(query: &str) -> usize {
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == "code")
        .map_or(0, |(_, code)| code.len())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a stopwatch for people, which no test turns"
)]
fn now() -> Instant {
    Instant::now()
}

fn since(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}
