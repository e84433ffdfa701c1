//! One account: a company and its only user, their connection here and their grant at the provider.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use pipekeeper_core::connection::{Connection, ConnectionId};
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Disconnected, disconnect};
use serde::Serialize;
use serde_json::{Value, json};

use super::Stack;
use crate::chaos::event_log::{Event, Micros, Severed};
use crate::chaos::schedule::Notice;
use up::client::{Client, fingerprint};

/// How often a consent or a disconnect is tried again that something kept from being stored.
const TRIES: u32 = 60;

/// The owner of the accounts that log in.
const OWNER: &str = "chaos";

#[derive(Debug)]
pub struct Account {
    /// The company's id and the user's.
    pub company: u32,
    /// Stays the same whatever happens to the connection.
    pub id: ConnectionId,
    /// As auth-capture shows it.
    pub connection: Value,
    consents_by: ConsentBy,
    /// What is done to it is done one after the other.
    turn: tokio::sync::Mutex<()>,
    is_reconnecting: AtomicBool,
}

/// How the user's consent begins.
#[derive(Debug, Clone)]
pub enum ConsentBy {
    /// From the provider's Marketplace.
    Install,
    /// From our login, which the operator starts for an account that he names: user name and password.
    Login((String, Secret)),
}

/// A row without its secrets.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Row {
    pub company: u32,
    pub state: String,
    pub reason: Option<String>,
    pub state_since_us: Micros,
    pub generation: i64,
    /// As the simulator writes it; none where there is no token.
    pub refresh_token: Option<String>,
    pub expires_at_us: Micros,
    pub lease_owner: Option<String>,
    pub in_doubt: bool,
    pub revoke_pending: bool,
    pub last_error: Option<String>,
}

impl ConsentBy {
    async fn consent(&self, client: &Client, company: u32) -> anyhow::Result<Value> {
        let operator = match self {
            Self::Install => return client.connect(company, company).await,
            Self::Login(operator) => operator,
        };
        let query = format!("account_id=company-{company}&owner={OWNER}");
        let (location, cookie) = client.start_login_by(operator, &query).await?;
        let back = client
            .consent(&location, "approve", company, company)
            .await?;
        let answer = client.finish_login(&back, Some(&cookie)).await?;
        ensure!(
            answer.status == 200,
            "the callback answered {}: {}",
            answer.status,
            answer.body
        );
        Ok(answer.json()["connection"].clone())
    }
}

impl Account {
    pub async fn connect(
        client: &Client,
        company: u32,
        consents_by: ConsentBy,
    ) -> anyhow::Result<Self> {
        let connection = consents_by.consent(client, company).await?;
        let id = connection["id"].as_str().context("no id")?.parse()?;
        Ok(Self {
            company,
            id,
            connection,
            consents_by,
            turn: tokio::sync::Mutex::default(),
            is_reconnecting: AtomicBool::new(false),
        })
    }

    /// Whose data it opens.
    pub fn person(&self) -> String {
        format!("Jane Doe of Company {}", self.company)
    }

    async fn find(&self, stack: &Stack) -> anyhow::Result<Connection> {
        let found = stack.store.connection_find(&self.id).await?;
        found.with_context(|| format!("the row of company {} is gone", self.company))
    }

    pub async fn row(&self, stack: &Stack) -> anyhow::Result<Row> {
        let row = self.find(stack).await?;
        let token = stack.vault.refresh_token(&row).ok();
        Ok(Row {
            company: self.company,
            state: row.state.as_str().to_owned(),
            reason: row.state_reason,
            state_since_us: row.state_since.unix_micros(),
            generation: row.generation,
            refresh_token: token.map(|token| fingerprint(token.expose())),
            expires_at_us: row.expires_at.unix_micros(),
            lease_owner: row.lease_owner,
            in_doubt: row.in_doubt,
            revoke_pending: row.revoke_pending,
            last_error: row.last_error,
        })
    }

    /// A new consent, whatever there is.
    pub async fn reconnect(&self, stack: &Stack) {
        let _turn = self.turn.lock().await;
        self.consent(stack).await;
    }

    /// A new consent, if a caller was told that one is needed and it still is; what the row said before.
    pub async fn reconnect_if_ended(&self, stack: &Stack) -> Option<Row> {
        if self.is_reconnecting.swap(true, Ordering::Relaxed) {
            return None;
        }
        let _turn = self.turn.lock().await;
        let ended = match self.row(stack).await {
            Ok(row) if row.state != "active" => Some(row),
            _ => None,
        };
        if ended.is_some() {
            self.consent(stack).await;
        }
        self.is_reconnecting.store(false, Ordering::Relaxed);
        ended
    }

    async fn consent(&self, stack: &Stack) {
        let company = self.company;
        stack.event_log.add(Event::Consenting { company });
        for _ in 0..TRIES {
            let began_us = stack.event_log.now_us();
            // In an outage auth-capture keeps the tokens, and its caller waits.
            let consented = self.consents_by.consent(&stack.client, company).await;
            if consented.is_ok() {
                stack.event_log.add(Event::Consented { company, began_us });
                return;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        stack.event_log.add(Event::Failed {
            what: format!("connect company {company} again"),
        });
    }

    /// Ends the connection, or its grant.
    pub async fn sever(&self, stack: &Stack, how: Severed, notice: Notice) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        stack.event_log.add(Event::Severed {
            company: self.company,
            how,
        });
        let selection = json!({"company": self.company, "user": self.company});
        match how {
            Severed::Disconnected => return self.disconnect(stack).await,
            Severed::Uninstalled => {
                let mut uninstall = selection;
                uninstall["notify"] = (notice != Notice::Lost).into();
                if notice == Notice::LongAfter {
                    uninstall["timestamp"] = "2999-01-01T00:00:00Z".into();
                }
                let told = stack.client.sim("uninstall", &uninstall).await?;
                let answers = told["notices"].as_array().map_or(&[][..], Vec::as_slice);
                let is_revoked = answers.iter().any(|answer| {
                    let body = answer["body"].as_str().unwrap_or_default();
                    answer["status"] == 200 && body.contains("\"revoked\"")
                });
                if is_revoked {
                    let row = self.row(stack).await.ok();
                    self.revoked(stack, row.map(|row| row.generation));
                }
            }
            Severed::Revoked => {
                stack.client.sim("revoke", &selection).await?;
            }
        }
        Ok(())
    }

    async fn disconnect(&self, stack: &Stack) -> anyhow::Result<()> {
        let mut tries = 0;
        loop {
            match self.disconnect_once(stack).await {
                Ok(()) => return Ok(()),
                // As an operator does while the database is away.
                Err(_) if tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    async fn disconnect_once(&self, stack: &Stack) -> anyhow::Result<()> {
        let row = self.find(stack).await?;
        let now = row.updated_at.max(stack.event_log.now());
        let generation = match disconnect(&stack.store, &row.id, now).await? {
            Disconnected::Unknown => return Ok(()),
            Disconnected::Now(before) => before.generation + 1,
            Disconnected::Before(row) => row.generation,
        };
        self.revoked(stack, Some(generation));
        Ok(())
    }

    fn revoked(&self, stack: &Stack, generation: Option<i64>) {
        stack.event_log.add(Event::Revoked {
            company: self.company,
            generation,
        });
    }
}
