//! One account: a company and its only user, their connection here and their grant at the provider.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::disconnect::disconnect;
use pipekeeper_core::store::Connection;
use serde::Serialize;
use serde_json::{Value, json};

use super::chronicle::{Micros, What};
use super::world::World;
use crate::client::{Client, fingerprint};

/// How often a consent or a disconnect is tried again that something kept from being stored.
const TRIES: u32 = 60;

#[derive(Debug)]
pub struct Account {
    /// The company's id and the user's.
    pub company: u32,
    /// Stays the same whatever happens to the connection.
    pub id: ConnectionId,
    /// As auth-capture shows it.
    pub connection: Value,
    /// What is done to it is done one after the other.
    turn: tokio::sync::Mutex<()>,
    being_mended: AtomicBool,
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

impl Account {
    pub async fn connect(client: &Client, company: u32) -> anyhow::Result<Self> {
        let connection = client.connect(company, company).await?;
        let id = connection["id"].as_str().context("no id")?.parse()?;
        Ok(Self {
            company,
            id,
            connection,
            turn: tokio::sync::Mutex::default(),
            being_mended: AtomicBool::new(false),
        })
    }

    /// Whose data it opens.
    pub fn person(&self) -> String {
        format!("Jane Doe of Company {}", self.company)
    }

    async fn find(&self, world: &World) -> anyhow::Result<Connection> {
        let found = world.store.connection_find(&self.id).await?;
        found.with_context(|| format!("the row of company {} is gone", self.company))
    }

    pub async fn row(&self, world: &World) -> anyhow::Result<Row> {
        let row = self.find(world).await?;
        let token = world.vault.refresh_token(&row).ok();
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
    pub async fn reconnect(&self, world: &World) {
        let _turn = self.turn.lock().await;
        self.consent(world).await;
    }

    /// A new consent, if a caller was told that one is needed and it still is; what the row said before.
    pub async fn mend(&self, world: &World) -> Option<Row> {
        if self.being_mended.swap(true, Ordering::Relaxed) {
            return None;
        }
        let _turn = self.turn.lock().await;
        let ended = match self.row(world).await {
            Ok(row) if row.state != "active" => Some(row),
            _ => None,
        };
        if ended.is_some() {
            self.consent(world).await;
        }
        self.being_mended.store(false, Ordering::Relaxed);
        ended
    }

    async fn consent(&self, world: &World) {
        for _ in 0..TRIES {
            let began_us = world.chronicle.now_us();
            // An outage has auth-capture hold the tokens, and its caller wait.
            if world
                .client
                .connect(self.company, self.company)
                .await
                .is_ok()
            {
                world.chronicle.add(What::Mended {
                    company: self.company,
                    began_us,
                });
                return;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        world.chronicle.add(What::Failed {
            what: format!("connect company {} again", self.company),
        });
    }

    fn severed(&self, world: &World, how: &str) {
        world.chronicle.add(What::Severed {
            company: self.company,
            how: how.to_owned(),
        });
    }

    /// The user uninstalls the app at the provider.
    pub async fn uninstall(&self, world: &World, notify: bool) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        self.severed(world, "uninstalled");
        let body = json!({
            "company": self.company, "user": self.company, "notify": notify,
            // Long after any consent: auth-capture does not ask the provider whether the notice is about this one.
            "timestamp": "2999-01-01T00:00:00Z",
        });
        world.client.sim("uninstall", &body).await?;
        Ok(())
    }

    /// The provider ends the grant and tells nobody.
    pub async fn revoke(&self, world: &World) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        self.severed(world, "revoked by the provider");
        let body = json!({"company": self.company, "user": self.company});
        world.client.sim("revoke", &body).await?;
        Ok(())
    }

    /// Ends it here; the provider has to be told by whoever sees the row.
    pub async fn disconnect(&self, world: &World) -> anyhow::Result<()> {
        let _turn = self.turn.lock().await;
        self.severed(world, "disconnected");
        let mut tries = 0;
        loop {
            match self.end_here(world).await {
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

    async fn end_here(&self, world: &World) -> anyhow::Result<()> {
        let row = self.find(world).await?;
        let now = row.updated_at.max(world.chronicle.now());
        disconnect(&world.store, &row.id, now).await?;
        Ok(())
    }
}
