//! What the judge goes by: the simulator's log and books, the rows, the journals, and what the run did and was told.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use anyhow::Context as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::account::Row;
use super::chronicle::{Entry, Micros};
use super::load::{Answered, Answers};
use super::world::World;

#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The simulator's log, in its order.
    pub calls: Vec<Call>,
    /// The simulator's books.
    pub grants: Vec<Grant>,
    /// All rows at the end, once things had calmed down.
    pub rows: Vec<Row>,
    /// Rows as they were when a new consent was about to mend them.
    pub deaths: Vec<Row>,
    /// By directory: when each answer that is written down was received, by the fingerprint of the refresh token in it.
    pub journals: BTreeMap<String, BTreeMap<String, Micros>>,
    /// The directory that each refresher reads.
    pub reach: BTreeMap<String, String>,
    pub chronicle: Vec<Entry>,
    pub data: Vec<Answered>,
    pub refreshes: Vec<Answered>,
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
    /// `from=PROCESS`
    pub query: String,
    pub answered_at_us: Option<Micros>,
}

impl Call {
    /// The process that called.
    pub fn from(&self) -> &str {
        self.query.strip_prefix("from=").unwrap_or_default()
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
    pub async fn collect(
        world: &World,
        answers: &Answers,
        restless: Vec<String>,
    ) -> anyhow::Result<Self> {
        let mut calls = Vec::new();
        let mut next = 0;
        loop {
            let page: Page = ask(world, &format!("log?since={next}")).await?;
            next = page.next;
            if page.events.is_empty() {
                break;
            }
            calls.extend(page.events);
        }
        let Stats { books } = ask(world, "stats").await?;
        let mut rows = Vec::new();
        for account in &world.accounts {
            rows.push(account.row(world).await?);
        }
        Ok(Self {
            calls,
            grants: books,
            rows,
            deaths: answers.deaths(),
            journals: super::journaled::all(world)?,
            reach: World::reach(),
            chronicle: world.chronicle.entries(),
            data: answers.data(),
            refreshes: answers.refreshes(),
            restless,
        })
    }

    /// Writes down what a failed run is understood by.
    pub fn keep(&self, directory: &Path) -> anyhow::Result<()> {
        lines(&directory.join("simulator.jsonl"), &self.calls)?;
        lines(&directory.join("books.jsonl"), &self.grants)?;
        lines(&directory.join("rows.jsonl"), &self.rows)?;
        lines(&directory.join("deaths.jsonl"), &self.deaths)?;
        lines(&directory.join("chronicle.jsonl"), &self.chronicle)?;
        lines(&directory.join("data.jsonl"), &self.data)?;
        lines(&directory.join("refreshes.jsonl"), &self.refreshes)?;
        let journals: Vec<_> = self.journals.iter().collect();
        lines(&directory.join("journals.jsonl"), &journals)
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

async fn ask<T: DeserializeOwned>(world: &World, control: &str) -> anyhow::Result<T> {
    let url = format!("{}/_sim/{control}", world.client.simulator);
    let answer = world.client.http.get(url).send().await?;
    answer
        .json()
        .await
        .with_context(|| format!("/_sim/{control}"))
}
