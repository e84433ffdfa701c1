//! The demo: one Pipedrive account from consent to a healed 401. Each step is checked by what the simulator counted, not
//! by what we hope for.

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::client::{CALLBACK, Client, PERSON, REFRESH, Reply, total};

const EMAIL: &str = "jane@example.com";
const NAME: &str = "Jane Doe";

/// Callers who meet the expired token at once.
const CROWD: usize = 50;

/// Plays the demo and tells it to `out`.
///
/// # Errors
/// The first thing that did not hold.
pub async fn play(client: &Client, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
    writeln!(
        out,
        "One Pipedrive account, from consent to a healed 401. All of this happens over HTTP, just now."
    )?;
    let mut demo = Story { client, out };
    demo.connect().await?;
    let usual = demo.first_look_up().await?;
    demo.token_dies().await?;
    demo.look_up_again(usual).await?;
    demo.refresh_as_n8n().await?;
    demo.crowd().await?;
    writeln!(demo.out, "\nAll of it held.")?;
    Ok(())
}

struct Story<'a> {
    client: &'a Client,
    out: &'a mut (dyn Write + Send),
}

impl Story<'_> {
    async fn connect(&mut self) -> anyhow::Result<()> {
        self.step("1. The user gives consent, and Pipedrive sends the code to auth-capture")?;
        let before = Counters::read(self.client).await?;
        let query = self.client.marketplace_consent("approve", 1, 1).await?;
        let length = code_length(&query);
        self.tell(
            "the authorize page",
            &format!("user 1 of company 1 consents; redirected with a code of {length} characters"),
        )?;

        let callback = self.client.callback(&query).await?;
        expect(&callback, 200, "GET", CALLBACK)?;
        let connection = &callback.json()["connection"];
        self.tell(
            &format!("GET {CALLBACK}?code=…"),
            &format!(
                "200, connected: {} at {}, generation {}",
                text(&connection["user_name"]),
                text(&connection["company_name"]),
                connection["generation"]
            ),
        )?;
        let counted = self.counted_since(&before).await?;
        ensure!(
            counted.exchanges == 1,
            "the simulator should have seen one code exchanged"
        );
        Ok(())
    }

    async fn first_look_up(&mut self) -> anyhow::Result<f64> {
        self.step("2. An application asks for a person by email")?;
        let before = Counters::read(self.client).await?;
        let took = self.look_up().await?;
        let counted = self.counted_since(&before).await?;
        ensure!(
            counted.refreshes == 0,
            "a good token should not have been refreshed"
        );
        Ok(took)
    }

    async fn token_dies(&mut self) -> anyhow::Result<()> {
        self.step("3. The access token dies early, as after a change of scopes")?;
        let expired = self.client.sim("expire", &json!({})).await?;
        let expired = &expired["expired"];
        ensure!(*expired != 0, "there should have been a token to expire");
        self.tell(
            "POST /_sim/expire",
            &format!("access tokens that are worthless now: {expired}; no notice was sent"),
        )
    }

    async fn look_up_again(&mut self, usual: f64) -> anyhow::Result<()> {
        self.step("4. The application asks again, and does not notice")?;
        let before = Counters::read(self.client).await?;
        let healed = self.look_up().await?;
        let counted = self.counted_since(&before).await?;
        ensure!(
            counted.searches_401 == 1,
            "Pipedrive should have refused the dead token once"
        );
        ensure!(
            counted.refresher_calls == 1,
            "data-api should have called token-refresher once"
        );
        ensure!(
            counted.refreshes == 1,
            "exactly one refresh token should have been spent"
        );
        self.tell(
            "the price of a 401",
            &format!("{healed:.0} ms instead of {usual:.0} ms"),
        )
    }

    async fn refresh_as_n8n(&mut self) -> anyhow::Result<()> {
        self.step(
            "5. n8n's own refresh call comes a moment later: there is nothing left to spend",
        )?;
        let before = Counters::read(self.client).await?;
        let refresh = self
            .client
            .refresh(&json!({"appId": self.client.client_id}))
            .await?;
        expect(&refresh, 200, "POST", REFRESH)?;
        ensure!(
            !refresh.body.contains("token\":"),
            "an answer of token-refresher should hold no token"
        );
        let row = refresh.json();
        self.tell(
            &format!("POST {REFRESH} {{\"appId\":…}}"),
            &format!(
                "200, outcome {}, generation {}, tokens: none shown",
                text(&row["outcome"]),
                row["generation"]
            ),
        )?;
        let counted = self.counted_since(&before).await?;
        ensure!(
            counted.refreshes == 0,
            "a token a moment old should not have been refreshed"
        );
        Ok(())
    }

    async fn crowd(&mut self) -> anyhow::Result<()> {
        self.step(&format!(
            "6. The token dies once more, and {CROWD} callers run into it at once"
        ))?;
        // A token that was minted for a 401 is not renewed for another one within the first second.
        tokio::time::sleep(Duration::from_millis(1100)).await;
        self.client.sim("expire", &json!({})).await?;
        let before = Counters::read(self.client).await?;
        let started = now();
        let mut crowd = JoinSet::new();
        for _ in 0..CROWD {
            let client = self.client.clone();
            crowd.spawn(async move { client.person(EMAIL).await });
        }
        let mut right = 0;
        while let Some(caller) = crowd.join_next().await {
            let answer = caller??;
            expect(&answer, 200, "POST", PERSON)?;
            right += usize::from(answer.body == NAME);
        }
        let took = since(started);
        self.tell(
            &format!("{CROWD} × POST {PERSON}"),
            &format!("right answers: {right}, the last after {took:.0} ms"),
        )?;
        let counted = self.counted_since(&before).await?;
        ensure!(
            right == CROWD,
            "all {CROWD} callers should have got the name"
        );
        ensure!(
            counted.refreshes == 1,
            "exactly one refresh token should have been spent"
        );
        Ok(())
    }

    async fn look_up(&mut self) -> anyhow::Result<f64> {
        let started = now();
        let answer = self
            .client
            .person(EMAIL)
            .await
            .context("data-api does not answer")?;
        let took = since(started);
        expect(&answer, 200, "POST", PERSON)?;
        self.tell(
            &format!("POST {PERSON} {{\"person\":{{\"email\":\"{EMAIL}\"}}}}"),
            &format!("200 {} in {took:.0} ms", answer.body),
        )?;
        ensure!(answer.body == NAME, "the answer should have been {NAME}");
        Ok(took)
    }

    /// Tells what was counted since, by the simulator and by token-refresher itself.
    async fn counted_since(&mut self, before: &Counters) -> anyhow::Result<Counters> {
        let counted = Counters::read(self.client).await?.minus(before);
        let line: Vec<_> = [
            (counted.exchanges, "codes exchanged"),
            (counted.searches_200, "searches answered"),
            (counted.searches_401, "searches refused with 401"),
            (counted.refreshes, "refresh tokens spent"),
        ]
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{what}: {count}"))
        .collect();
        let line = if line.is_empty() {
            "nothing".to_owned()
        } else {
            line.join(", ")
        };
        self.tell("the simulator counted", &line)?;
        let calls = counted.refresher_calls;
        self.tell(
            "token-refresher counted",
            &format!("calls of its webhook: {calls}"),
        )?;
        Ok(counted)
    }

    fn step(&mut self, what: &str) -> anyhow::Result<()> {
        Ok(writeln!(self.out, "\n{what}")?)
    }

    fn tell(&mut self, what: &str, happened: &str) -> anyhow::Result<()> {
        Ok(writeln!(self.out, "   {what}\n     → {happened}")?)
    }
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

    fn minus(&self, before: &Self) -> Self {
        Self {
            exchanges: self.exchanges - before.exchanges,
            refreshes: self.refreshes - before.refreshes,
            searches_200: self.searches_200 - before.searches_200,
            searches_401: self.searches_401 - before.searches_401,
            refresher_calls: self.refresher_calls - before.refresher_calls,
        }
    }
}

fn expect(answer: &Reply, status: u16, method: &str, path: &str) -> anyhow::Result<()> {
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
