//! Everything that a run is played on: processes, database, journals, and the accounts that are connected.

pub mod account;
pub mod in_call;
pub mod load;
pub mod supervisor;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use pipekeeper_core::store::Store;
use pipekeeper_core::vault::Vault;
use serde_json::json;
use tokio::sync::RwLock;
use tokio::sync::mpsc::UnboundedReceiver;

use self::account::{Account, ConsentBy};
use self::in_call::Armed;
use self::load::Answers;
use self::supervisor::Supervisor;
use super::database::{Away, Database};
use super::event_log::{Event, EventLog, Life};
use super::journals::Journals;
use super::responses::Responses;
use super::sabotage::Sabotage;
use super::schedule::{Outage, Restarted, Targets};
use super::trigger::{Hit, Trigger};
use super::{CALL_TIMEOUT_SECS, LEASE_SECS, ORPHAN_GRACE_SECS, Options, Program};
use up::client::Client;
use up::processes::{Plan, SIMULATOR, free_base_port, variable};

/// Access tokens live so long.
const ACCESS_TTL_SECS: u16 = 4;

/// One account in so many logs in, the others are installed from the Marketplace.
const LOGS_IN: u32 = 4;

pub const REFRESHERS: [&str; 4] = [
    "token-refresher",
    "token-refresher-2",
    "token-refresher-3",
    "token-refresher-4",
];
pub const DATA_APIS: [&str; 3] = ["data-api", "data-api-2", "data-api-3"];

/// The journal of each refresher: two share one, the others have disks of their own.
const JOURNALS: [&str; 3] = ["shared", "third", "fourth"];
const JOURNAL_OF: [usize; 4] = [0, 0, 1, 2];

#[derive(Debug)]
pub struct Stack {
    pub event_log: Arc<EventLog>,
    pub supervisor: Supervisor,
    pub trigger: Trigger,
    /// The steps that wait for a token call.
    pub armed: Armed,
    /// Every step shares it, but for those that bear no other at the same time.
    pub exclusive: RwLock<()>,
    /// Talks to the first of each service.
    pub client: Client,
    pub store: Store,
    pub vault: Vault,
    pub database: Database,
    pub journals: Journals,
    pub accounts: Vec<Arc<Account>>,
    pub answers: Answers,
    /// Up to where the simulator's log is of no more interest to steps.
    pub log_read_to: AtomicU64,
    /// How many rushes are under way: as long as there are any the provider is slow.
    pub rushes: tokio::sync::Mutex<usize>,
    program: Program,
    plan: Plan,
}

impl Stack {
    /// Starts everything and connects the accounts; also where token calls that are hit arrive.
    pub async fn start(options: &Options) -> anyhow::Result<(Self, UnboundedReceiver<Hit>)> {
        let directory = options.directory.as_path();
        let base_port = options.base_port.unwrap_or_else(free_base_port);
        let database = Database::make(options.backend).await;
        let directories = JOURNALS.map(|name| directory.join("journal").join(name));
        let journals = match options.program {
            Program::Injected { .. } => Journals::told(directories.to_vec())?,
            Program::Product => Journals::mounted(directories.to_vec())?,
        };
        fs::create_dir_all(directory.join("control"))?;
        let mut plan = Plan::new(directory.to_path_buf(), base_port);
        plan.database_url = Some(database.url());
        let more = REFRESHERS.iter().skip(1).chain(DATA_APIS.iter().skip(1));
        plan.more = more.map(|name| (*name).to_owned()).collect();
        if let Program::Injected { .. } = options.program {
            "chaos-refresher".clone_into(&mut plan.refresher);
        }
        plan.set = settings(&plan, &journals, options.program);
        let event_log = Arc::new(EventLog::default());
        let supervisor = Supervisor::start(&plan, &event_log).await?;
        let (trigger, hits) = Trigger::start().await?;
        let client = plan.client()?;
        client
            .sim(
                "settings",
                &json!({
                    "rotation": "single_use_with_reuse_detection",
                    // A second consent ends what the first one gave: a grant has one newest token.
                    "reinstall": "replaces_tokens",
                    "access_ttl_secs": ACCESS_TTL_SECS,
                }),
            )
            .await?;
        event_log.add(Event::TokenLifetime {
            secs: ACCESS_TTL_SECS.into(),
        });
        let store = database.store();
        let mut stack = Self {
            event_log,
            supervisor,
            trigger,
            armed: Armed::default(),
            exclusive: RwLock::default(),
            client,
            store,
            vault: plan.vault()?,
            database,
            journals,
            accounts: Vec::new(),
            answers: Answers::default(),
            log_read_to: AtomicU64::new(0),
            rushes: tokio::sync::Mutex::default(),
            program: options.program,
            plan,
        };
        let operator = stack.plan.operator()?;
        // Away from the simulator's companies with names of their own.
        for company in (101..).take(options.connections) {
            let consents_by = if company % LOGS_IN == 0 {
                ConsentBy::Login(operator.clone())
            } else {
                ConsentBy::Install
            };
            let account = Account::connect(&stack.client, company, consents_by).await?;
            stack.accounts.push(Arc::new(account));
        }
        Ok((stack, hits))
    }

    pub fn targets(options: &Options) -> Targets {
        Targets {
            refreshers: REFRESHERS.len(),
            data_apis: DATA_APIS.len(),
            journals: JOURNALS.len(),
            connections: options.connections,
            has_clocks: matches!(options.program, Program::Injected { .. }),
        }
    }

    /// The journal of each refresher.
    pub fn journal_of() -> BTreeMap<String, String> {
        let journals = JOURNAL_OF.map(|journal| JOURNALS.get(journal).copied());
        REFRESHERS
            .into_iter()
            .zip(journals)
            .filter_map(|(refresher, journal)| Some((refresher.to_owned(), journal?.to_owned())))
            .collect()
    }

    /// The refresher that each data-api asks.
    pub fn refresher_of() -> BTreeMap<String, String> {
        DATA_APIS
            .iter()
            .zip(REFRESHERS)
            .map(|(data_api, refresher)| ((*data_api).to_owned(), refresher.to_owned()))
            .collect()
    }

    /// What the disks did with the provider's responses.
    pub fn responses(&self) -> anyhow::Result<Responses> {
        let mut responses = Responses::default();
        for (refresher, journal) in Self::journal_of() {
            if let Program::Injected { .. } = self.program {
                let log = control(&self.plan, &refresher, "syncs");
                responses.add_sync_log(&log, &journal, &self.vault)?;
            }
        }
        if self.program == Program::Product {
            for (directory, journal) in self.journals.directories().iter().zip(JOURNALS) {
                let copies = self.journals.copies();
                responses.add_journal(directory, journal, &copies, &self.vault)?;
            }
        }
        Ok(responses)
    }

    /// Takes the database away if no other step has.
    pub fn try_database_away(&self) -> anyhow::Result<Option<Away<'_>>> {
        self.database.try_take_away(Outage::Cut, &self.event_log)
    }

    /// Puts a refresher's wall clock wrong, or right with an offset of 0.
    pub fn set_clock(&self, refresher: &str, offset_ms: i64) -> anyhow::Result<()> {
        let file = control(&self.plan, refresher, "clock");
        replace(&file, &offset_ms.to_string(), || {
            self.event_log.add(Event::Clock {
                process: refresher.to_owned(),
                offset_ms,
            });
        })?;
        Ok(())
    }

    /// The client, talking to another data-api and another token-refresher.
    pub fn client_of(&self, data_api: &str, refresher: &str) -> Client {
        Client {
            data_api: self.plan.url(data_api),
            token_refresher: self.plan.url(refresher),
            ..self.client.clone()
        }
    }
}

/// Replaces a file in one step, right after `note`. Two actions may set one clock at the same time: one after the other.
fn replace(file: &Path, text: &str, note: impl FnOnce()) -> io::Result<()> {
    static REPLACING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = REPLACING.lock().unwrap_or_else(PoisonError::into_inner);
    let unfinished = file.with_extension("unfinished");
    fs::write(&unfinished, text)?;
    note();
    fs::rename(unfinished, file)
}

/// The first refresher that reads this journal.
pub fn reader_of(journal: usize) -> anyhow::Result<usize> {
    let mut journals = JOURNAL_OF.iter();
    let reader = journals.position(|read| *read == journal);
    reader.context("no refresher reads this journal")
}

/// The process that a schedule means.
pub fn process_of(service: Restarted, number: usize) -> &'static str {
    let several: &[&str] = match service {
        Restarted::Refresher => &REFRESHERS,
        Restarted::DataApi => &DATA_APIS,
        Restarted::AuthCapture => &["auth-capture"],
    };
    several.get(number).copied().unwrap_or("auth-capture")
}

/// A file by which the run tells a refresher something, or learns something of it.
fn control(plan: &Plan, refresher: &str, what: &str) -> PathBuf {
    plan.data
        .join("control")
        .join(format!("{refresher}.{what}"))
}

/// Times as short as they may be, so that ten minutes hold what months bring otherwise.
fn settings(plan: &Plan, journals: &Journals, program: Program) -> Vec<(String, String)> {
    let mut set: Vec<(String, String)> = [
        ("token-refresher.refresh.timeout_secs", CALL_TIMEOUT_SECS),
        ("token-refresher.refresh.lease_secs", LEASE_SECS),
        (
            "token-refresher.refresh.orphan_grace_secs",
            ORPHAN_GRACE_SECS,
        ),
        ("token-refresher.sweep.every_secs", 1),
        ("token-refresher.http.workers", 1),
        ("token-refresher.http.shutdown_grace_secs", 10),
        ("data-api.http.workers", 1),
        ("data-api.http.shutdown_grace_secs", 10),
        ("data-api.upstream.timeout_secs", 3),
        ("auth-capture.http.workers", 1),
        ("auth-capture.login.marketplace_concurrency", 16),
    ]
    .map(|(key, value): (&str, u16)| (key.to_owned(), value.to_string()))
    .to_vec();
    for (refresher, journal) in REFRESHERS.iter().zip(JOURNAL_OF) {
        let Some(directory) = journals.directories().get(journal) else {
            continue;
        };
        let mut tell = |key: &str, value: &Path| {
            set.push((format!("{refresher}.{key}"), value.display().to_string()));
        };
        tell("journal.directory", directory);
        if let Program::Injected { sabotage } = program {
            tell("chaos.clock_file", &control(plan, refresher, "clock"));
            tell("chaos.sync_log", &control(plan, refresher, "syncs"));
            tell("chaos.full_file", &Journals::full_file(directory));
            let sabotage = sabotage.map_or_else(String::new, Sabotage::name);
            tell("chaos.sabotage", Path::new(&sabotage));
        }
    }
    set
}

/// What one life of a process is told beside its settings: the provider's URLs, by which the simulator sees who calls.
pub(super) fn life_settings(plan: &Plan, process: &str, life: Life) -> Vec<(String, String)> {
    if !REFRESHERS.contains(&process) {
        return Vec::new();
    }
    let simulator = plan.url(SIMULATOR);
    ["token", "revoke"]
        .map(|endpoint| {
            (
                variable(&format!("providers.pipedrive.{endpoint}_url")),
                format!("{simulator}/oauth/{endpoint}?from={process}&life={life}"),
            )
        })
        .to_vec()
}

#[cfg(test)]
mod tests {
    use std::thread;

    use pipekeeper_testing::TestDirectory;

    use super::*;

    #[test]
    fn two_actions_may_set_one_clock_at_the_same_time() {
        let directory = TestDirectory::create();
        let file = directory.path().join("clock");
        thread::scope(|scope| {
            for offset in ["1", "2"] {
                let file = &file;
                scope.spawn(move || {
                    for _ in 0..500 {
                        replace(file, offset, || {}).unwrap();
                    }
                });
            }
        });
        assert!(["1", "2"].contains(&fs::read_to_string(&file).unwrap().as_str()));
    }
}
