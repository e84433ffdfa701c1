//! Holds the simulator's answers against the API documents that Pipedrive publishes:
//! `cargo run -p pipedrive-sim --example published -- FOLDER`, where FOLDER has `pipedrive-v1.yaml` and
//! `pipedrive-v2.yaml`. Says what it checked; any mismatch makes it fail.

mod document;
mod strict;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::Parser;
use pipedrive_sim::{
    DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_REDIRECT_URL, Options, Simulator,
};
use reqwest::{Client, RequestBuilder, redirect};
use serde_json::{Value, json};

use document::{Document, Operation};

/// Holds the simulator's answers against the API documents that Pipedrive publishes.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where `pipedrive-v1.yaml` and `pipedrive-v2.yaml` are.
    folder: PathBuf,
}

const AUTHORIZE: Operation = Operation {
    method: "get",
    path: "/oauth/authorize",
};
const TOKEN: Operation = Operation {
    method: "post",
    path: "/oauth/token",
};
const REFRESH: Operation = Operation {
    method: "post",
    path: "/oauth/token/",
};
const ME: Operation = Operation {
    method: "get",
    path: "/users/me",
};
const SEARCH: Operation = Operation {
    method: "get",
    path: "/persons/search",
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let folder = Arguments::parse().folder;
    let v1 = Document::read(&folder.join("pipedrive-v1.yaml"))?;
    let v2 = Document::read(&folder.join("pipedrive-v2.yaml"))?;
    let ours = Document::from(serde_json::from_str::<Value>(&pipedrive_sim::openapi()?)?);
    let app = Installed::start().await?;
    let mut report = Report::default();

    for (published, operation, at) in [
        (&v1, AUTHORIZE, "/oauth/authorize"),
        (&v1, TOKEN, "/oauth/token"),
        (&v1, REFRESH, "/oauth/token/"),
        (&v1, ME, "/v1/users/me"),
        (&v2, SEARCH, "/api/v2/persons/search"),
    ] {
        let ours = ours.parameters(Operation {
            path: at,
            ..operation
        })?;
        let mut missing = published.parameters(operation)?;
        // our document names the credentials in prose, since the form may carry them too
        missing.retain(|name| name != "Authorization" && !ours.contains(name));
        report.add(&format!("parameters of {at}"), &missing)?;
    }

    report.add("answer to a code", &v1.mismatches(TOKEN, &app.exchanged)?)?;
    let refreshed = app.refresh().await?;
    report.add("answer to a refresh", &v1.mismatches(REFRESH, &refreshed)?)?;
    for path in ["/v1/users/me", "/api/v1/users/me"] {
        report.add(path, &v1.mismatches(ME, &app.get(path).await?)?)?;
    }
    for query in [
        "term=jane%40example.com&fields=email&exact_match=true",
        "term=example&limit=2",
        "term=maria",
        "term=nobody%40nowhere.example",
    ] {
        let path = format!("/api/v2/persons/search?{query}");
        report.add(&path, &v2.mismatches(SEARCH, &app.get(&path).await?)?)?;
    }

    for (published, operation, at, pointer) in [
        (&v1, TOKEN, None, "/expires_in"),
        (&v1, ME, Some("/v1/users/me"), "/data/company_id"),
        (
            &v2,
            SEARCH,
            Some("/api/v2/persons/search?term=maria"),
            "/data/items/0/item/emails",
        ),
    ] {
        let mut spoiled = match at {
            Some(path) => app.get(path).await?,
            None => app.exchanged.clone(),
        };
        *spoiled
            .pointer_mut(pointer)
            .with_context(|| format!("no {pointer}"))? = json!({"spoiled": 1});
        let accepted = published.mismatches(operation, &spoiled)?.is_empty();
        let complaint = accepted.then(|| "a spoiled answer was taken".to_owned());
        report.add(&format!("refuses a wrong {pointer}"), complaint.as_slice())?;
    }

    app.simulator.stop().await;
    report.end()
}

/// What was checked, one line each.
#[derive(Debug, Default)]
struct Report {
    checked: usize,
    failed: usize,
}

impl Report {
    fn add(&mut self, what: &str, mismatches: &[String]) -> anyhow::Result<()> {
        let mut out = std::io::stdout();
        let verdict = if mismatches.is_empty() {
            "ok"
        } else {
            "MISMATCH"
        };
        writeln!(out, "{verdict:8} {what}")?;
        for mismatch in mismatches {
            writeln!(out, "         {mismatch}")?;
        }
        self.checked += 1;
        self.failed += usize::from(!mismatches.is_empty());
        Ok(())
    }

    fn end(self) -> anyhow::Result<ExitCode> {
        let Self { checked, failed } = self;
        writeln!(std::io::stdout(), "{checked} checked, {failed} failed")?;
        Ok(if failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// A simulator with one app, which is installed once.
struct Installed {
    simulator: Simulator,
    http: Client,
    exchanged: Value,
}

impl Installed {
    #[expect(
        clippy::disallowed_methods,
        reason = "the simulator shares no code with the services, so it has a client of its own"
    )]
    async fn start() -> anyhow::Result<Self> {
        let simulator = Simulator::start(Options::default()).await?;
        let http = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()?;
        let consent = [
            ("client_id", DEFAULT_CLIENT_ID),
            ("redirect_uri", DEFAULT_REDIRECT_URL),
            ("auto", "approve"),
        ];
        let authorize = http
            .get(format!("{}/oauth/authorize", simulator.url()))
            .query(&consent);
        let answer = authorize.send().await?.error_for_status()?;
        let location = answer
            .headers()
            .get("location")
            .context("no redirect")?
            .to_str()?;
        let (_, code) = location.split_once("code=").context("no code")?;
        let mut app = Self {
            http,
            exchanged: Value::Null,
            simulator,
        };
        app.exchanged = app
            .token(&[
                ("grant_type", "authorization_code"),
                ("code", code),
                ("redirect_uri", DEFAULT_REDIRECT_URL),
            ])
            .await?;
        Ok(app)
    }

    async fn refresh(&self) -> anyhow::Result<Value> {
        let token = self.text("refresh_token")?;
        self.token(&[("grant_type", "refresh_token"), ("refresh_token", token)])
            .await
    }

    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        let url = format!("{}{path}", self.simulator.url());
        success(self.http.get(url).bearer_auth(self.text("access_token")?)).await
    }

    async fn token(&self, form: &[(&str, &str)]) -> anyhow::Result<Value> {
        let url = format!("{}/oauth/token", self.simulator.url());
        let request = self.http.post(url).form(form);
        success(request.basic_auth(DEFAULT_CLIENT_ID, Some(DEFAULT_CLIENT_SECRET))).await
    }

    fn text(&self, key: &str) -> anyhow::Result<&str> {
        let value = self.exchanged.get(key).and_then(Value::as_str);
        value.with_context(|| format!("no {key}"))
    }
}

async fn success(request: RequestBuilder) -> anyhow::Result<Value> {
    let answer = request.send().await?;
    let (status, url) = (answer.status(), answer.url().clone());
    ensure!(status.is_success(), "{url} answered {status}");
    Ok(answer.json().await?)
}
