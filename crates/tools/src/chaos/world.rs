//! Everything that a run is played on: processes, database, journals, and the accounts that are connected.

use std::collections::BTreeMap;
use std::sync::Arc;

use pipekeeper_core::store::Store;
use pipekeeper_core::vault::Vault;
use serde_json::json;

use super::account::Account;
use super::chronicle::Chronicle;
use super::crew::Crew;
use super::database::Database;
use super::journals::Journals;
use super::schedule::{Restarted, Targets};
use super::trigger::Trigger;
use super::{CALL_TIMEOUT_SECS, LEASE_SECS, ORPHAN_GRACE_SECS, Options};
use crate::client::Client;
use crate::processes::{Plan, SIMULATOR, free_base_port};

/// Access tokens end so soon.
const ACCESS_TTL_SECS: u16 = 4;

pub const REFRESHERS: [&str; 3] = ["token-refresher", "token-refresher-2", "token-refresher-3"];
pub const DATA_APIS: [&str; 3] = ["data-api", "data-api-2", "data-api-3"];

/// The journal of each refresher: two share one, and one has its own.
const JOURNALS: [&str; 2] = ["shared", "own"];
const JOURNAL_OF: [usize; 3] = [0, 0, 1];

#[derive(Debug)]
pub struct World {
    pub chronicle: Arc<Chronicle>,
    pub crew: Arc<Crew>,
    pub trigger: Trigger,
    /// Talks to the first of each service.
    pub client: Client,
    pub store: Store,
    pub vault: Vault,
    pub database: Database,
    pub journals: Journals,
    pub accounts: Vec<Arc<Account>>,
    plan: Plan,
}

impl World {
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        let directory = options.directory.as_path();
        let base_port = options.base_port.unwrap_or_else(free_base_port);
        let database = Database::make(options.backend, &directory.join("pipekeeper.db")).await;
        let directories = JOURNALS.map(|name| directory.join("journal").join(name));
        let journals = Journals::make(directories.to_vec())?;
        let mut plan = Plan::new(directory.to_path_buf(), base_port);
        plan.database_url = Some(database.url());
        let more = REFRESHERS.iter().skip(1).chain(DATA_APIS.iter().skip(1));
        plan.more = more.map(|name| (*name).to_owned()).collect();
        plan.set = settings(&plan, &journals);
        let chronicle = Arc::new(Chronicle::default());
        let crew = Arc::new(Crew::start(&plan, &chronicle).await?);
        let trigger = Trigger::start(Arc::clone(&crew)).await?;
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
        let store = database.store()?;
        let mut world = Self {
            chronicle,
            crew,
            trigger,
            client,
            store,
            vault: plan.vault()?,
            database,
            journals,
            accounts: Vec::new(),
            plan,
        };
        // Away from the simulator's companies with names of their own.
        for company in (101..).take(options.connections) {
            let account = Account::connect(&world.client, company).await?;
            world.accounts.push(Arc::new(account));
        }
        Ok(world)
    }

    pub fn targets(options: &Options) -> Targets {
        Targets {
            refreshers: REFRESHERS.len(),
            data_apis: DATA_APIS.len(),
            journals: JOURNALS.len(),
            connections: options.connections,
        }
    }

    /// Which journal each refresher can read.
    pub fn reach() -> BTreeMap<String, String> {
        REFRESHERS
            .iter()
            .zip(JOURNAL_OF)
            .filter_map(|(refresher, journal)| {
                Some((
                    (*refresher).to_owned(),
                    (*JOURNALS.get(journal)?).to_owned(),
                ))
            })
            .collect()
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

/// The process that a schedule means.
pub fn process_of(service: Restarted, number: usize) -> &'static str {
    let several: &[&str] = match service {
        Restarted::Refresher => &REFRESHERS,
        Restarted::DataApi => &DATA_APIS,
        Restarted::AuthCapture => &["auth-capture"],
    };
    several.get(number).copied().unwrap_or("auth-capture")
}

/// Times as short as they may be, so that ten minutes hold what months bring otherwise.
fn settings(plan: &Plan, journals: &Journals) -> Vec<(String, String)> {
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
    let simulator = plan.url(SIMULATOR);
    for (refresher, journal) in REFRESHERS.iter().zip(JOURNAL_OF) {
        // The simulator sees by the query who calls.
        for endpoint in ["token", "revoke"] {
            set.push((
                format!("{refresher}.providers.pipedrive.{endpoint}_url"),
                format!("{simulator}/oauth/{endpoint}?from={refresher}"),
            ));
        }
        if let Some(directory) = journals.directories().get(journal) {
            set.push((
                format!("{refresher}.journal.directory"),
                directory.display().to_string(),
            ));
        }
    }
    set
}
