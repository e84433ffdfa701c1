//! What the checker goes by: the simulator's log and books, the rows, what was durable, and what the run did and was told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::event_log::{Entry, Life, Micros};
use super::responses::Responses;
use super::stack::Stack;
use super::stack::account::Row;
use super::stack::load::{Answered, Asked};

#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The simulator's log, in its order.
    pub calls: Vec<Call>,
    /// The simulator's books.
    pub grants: Vec<Grant>,
    /// All rows at the end, once things had calmed down.
    pub rows: Vec<Row>,
    /// Rows as they were when a new consent was about to replace them.
    pub ended: Vec<Row>,
    pub responses: Responses,
    /// The journal that each refresher writes and reads.
    pub journal_of: BTreeMap<String, String>,
    /// The refresher that each data-api asks.
    pub refresher_of: BTreeMap<String, String>,
    pub event_log: Vec<Entry>,
    pub data: Vec<Answered>,
    pub refreshes: Vec<Asked>,
    /// Connections that did not come to rest, and why.
    pub restless: Vec<String>,
}

/// An event of the simulator's log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Call {
    pub seq: u64,
    pub at_us: Micros,
    /// When it was read, if it is a token call.
    pub arrived_at_us: Option<Micros>,
    pub call: String,
    pub company_id: Option<u32>,
    pub presented: Option<String>,
    pub issued: Option<String>,
    pub outcome: String,
    /// A grant that was alive is dead since.
    pub ended: bool,
    pub fault: Option<String>,
    /// `from=PROCESS&life=N`
    pub query: String,
    pub answered_at_us: Option<Micros>,
}

impl Call {
    /// The process that called, and in which of its lives.
    pub fn sender(&self) -> Option<(&str, Life)> {
        let (process, life) = self.query.strip_prefix("from=")?.split_once("&life=")?;
        Some((process, life.parse().ok()?))
    }

    /// When it reached the provider.
    pub fn arrived_us(&self) -> Micros {
        self.arrived_at_us.unwrap_or(self.at_us)
    }

    /// When the provider sent its response; never, if it did not.
    pub fn answered_us(&self) -> Micros {
        self.answered_at_us.unwrap_or(Micros::MAX)
    }
}

/// An entry of the simulator's books.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Grant {
    pub company_id: u32,
    pub state: String,
    pub refresh_token_fingerprint: Option<String>,
}

#[derive(Deserialize)]
struct Page {
    events: Vec<Call>,
    next: u64,
}

#[derive(Deserialize)]
struct Stats {
    books: Vec<Grant>,
}

impl Evidence {
    /// All that is known at this moment; `restless` is what did not come to rest.
    pub async fn collect(stack: &Stack, restless: Vec<String>) -> anyhow::Result<Self> {
        let mut rows = Vec::new();
        for account in &stack.accounts {
            rows.push(account.row(stack).await?);
        }
        let (data, refreshes) = (stack.answers.data(), stack.answers.refreshes());
        let ended = stack.answers.ended();
        // Later than what comes of it, and so on.
        let (calls, _) = calls_since(stack, 0).await?;
        let Stats { books } = ask(stack, "stats").await?;
        Ok(Self {
            calls,
            grants: books,
            rows,
            ended,
            responses: stack.responses()?,
            journal_of: Stack::journal_of(),
            refresher_of: Stack::refresher_of(),
            event_log: stack.event_log.entries(),
            data,
            refreshes,
            restless,
        })
    }

    /// Writes down what a failed run is understood by.
    pub fn keep(&self, directory: &Path) -> anyhow::Result<()> {
        lines(&directory.join("simulator.jsonl"), &self.calls)?;
        lines(&directory.join("books.jsonl"), &self.grants)?;
        lines(&directory.join("rows.jsonl"), &self.rows)?;
        lines(&directory.join("ended.jsonl"), &self.ended)?;
        lines(&directory.join("events.jsonl"), &self.event_log)?;
        lines(&directory.join("data.jsonl"), &self.data)?;
        lines(&directory.join("refreshes.jsonl"), &self.refreshes)?;
        let (synced, refused) = (&self.responses.synced, &self.responses.refused);
        let synced: Vec<_> = synced.iter().collect();
        lines(&directory.join("synced.jsonl"), &synced)?;
        let refused: Vec<_> = refused.iter().collect();
        lines(&directory.join("refused.jsonl"), &refused)?;
        let settled: Vec<_> = self.responses.settled.iter().collect();
        lines(&directory.join("settled.jsonl"), &settled)
    }

    /// The companies that the run is about.
    pub fn companies(&self) -> BTreeSet<u32> {
        self.rows.iter().map(|row| row.company).collect()
    }
}

fn lines<T: Serialize>(path: &Path, items: &[T]) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for item in items {
        serde_json::to_writer(&mut file, item)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

/// The simulator's log from one number on, and where it goes on.
pub(super) async fn calls_since(stack: &Stack, since: u64) -> anyhow::Result<(Vec<Call>, u64)> {
    let (mut calls, mut next) = (Vec::new(), since);
    loop {
        let page: Page = ask(stack, &format!("log?since={next}")).await?;
        next = page.next;
        if page.events.is_empty() {
            return Ok((calls, next));
        }
        calls.extend(page.events);
    }
}

async fn ask<T: DeserializeOwned>(stack: &Stack, control: &str) -> anyhow::Result<T> {
    let url = format!("{}/_sim/{control}", stack.client.simulator);
    let answer = stack.client.http.get(url).send().await?;
    answer
        .json()
        .await
        .with_context(|| format!("/_sim/{control}"))
}
