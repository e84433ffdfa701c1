//! n8n's template as a caller of us: its three flows with its own statements on the table and its own calls, and anyone who
//! calls its data webhook once a second.

use std::sync::Mutex;
use std::time::Duration;

use pipedrive_sim::DEFAULT_CLIENT_ID as FIRST;
use pipekeeper_core::store::Backend;
use serde_json::{Value, json};

use super::{ALIAS, Fixture};
use crate::support::EMAIL;

/// The user and password of n8n's Basic credential.
pub(crate) const CREDENTIAL: (&str, &str) = ("n8n-user", "n8n-password");

/// n8n goes round without end; no one waits so long.
const ROUNDS: u8 = 5;

/// Where the HTTP node "Refresh Access Token" sends its request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RefreshUrl {
    /// n8n's own node "Webhook".
    Own,
    Ours(String),
}

/// What can be changed in the workflow's editor.
#[derive(Debug, Clone)]
pub(crate) struct Workflow {
    pub(crate) refresh_node: bool,
    pub(crate) refresh_url: RefreshUrl,
    /// Whether anybody calls its data webhook.
    pub(crate) is_called: bool,
}

pub(crate) struct N8n<'a> {
    fixture: &'a Fixture,
    workflow: Mutex<Workflow>,
    /// Of each call of the data webhook: in which part of the move, and what came of it.
    calls: Mutex<Vec<(&'static str, Result<String, String>)>>,
    part: Mutex<&'static str>,
    /// Of two executions at once, each would spend the same refresh token: n8n has no single flight.
    execution: tokio::sync::Mutex<()>,
}

impl<'a> N8n<'a> {
    pub(crate) fn new(fixture: &'a Fixture) -> Self {
        Self {
            fixture,
            workflow: Mutex::new(Workflow {
                refresh_node: true,
                refresh_url: RefreshUrl::Own,
                is_called: true,
            }),
            calls: Mutex::default(),
            part: Mutex::new("before"),
            execution: tokio::sync::Mutex::default(),
        }
    }

    pub(crate) fn save(&self, change: impl FnOnce(&mut Workflow)) {
        change(&mut self.workflow.lock().unwrap());
    }

    pub(crate) fn begin(&self, part: &'static str) {
        *self.part.lock().unwrap() = part;
    }

    /// Each part in which a call failed, once, and the last call's fault.
    pub(crate) fn failures(&self) -> Vec<(&'static str, String)> {
        let calls = self.calls.lock().unwrap();
        let mut failed = Vec::new();
        for (part, outcome) in calls.iter() {
            if let Err(why) = outcome {
                failed.retain(|(known, _)| known != part);
                failed.push((*part, why.clone()));
            }
        }
        failed
    }

    /// A caller a second.
    pub(crate) async fn probe(&self) -> ! {
        loop {
            if self.workflow.lock().unwrap().is_called {
                drop(self.call().await);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// A call of the data webhook, noted.
    pub(crate) async fn call(&self) -> Result<String, String> {
        let _one_at_a_time = self.execution.lock().await;
        let part = *self.part.lock().unwrap();
        let outcome = self.data().await;
        self.calls.lock().unwrap().push((part, outcome.clone()));
        outcome
    }

    /// "Get Pipedrive Token", "Get contact from Pipedrive", "Access Token Invalid", "Refresh Access Token", and round again.
    async fn data(&self) -> Result<String, String> {
        let client = &self.fixture.client;
        for _ in 0..ROUNDS {
            let token = self.read("acc_token").ok_or("no row")?;
            let search = client
                .http
                .get(format!("{}/api/v2/persons/search", client.simulator))
                .query(&[("fields", "email"), ("term", EMAIL)])
                .bearer_auth(token)
                .send()
                .await
                .unwrap();
            let status = search.status().as_u16();
            let body: Value = search.json().await.unwrap();
            let is_refused = body
                .to_string()
                .contains("Invalid token: access token is invalid");
            match (status, is_refused) {
                (200, _) => {
                    let name = &body["data"]["items"][0]["item"]["name"];
                    return Ok(name.as_str().unwrap_or_default().to_owned());
                }
                (401, true) => self.refresh_access_token().await?,
                _ => return Err(format!("{status} {body}")),
            }
        }
        Err("goes round without end".to_owned())
    }

    async fn refresh_access_token(&self) -> Result<(), String> {
        let Workflow {
            refresh_node,
            refresh_url,
            ..
        } = self.workflow.lock().unwrap().clone();
        match refresh_url {
            RefreshUrl::Own if refresh_node => self.refresh().await,
            RefreshUrl::Own => Err("404 n8n".to_owned()),
            RefreshUrl::Ours(url) => {
                let request = self.fixture.client.http.post(url);
                let answer = request
                    .basic_auth(CREDENTIAL.0, Some(CREDENTIAL.1))
                    .json(&json!({"appId": ALIAS}))
                    .send()
                    .await
                    .map_err(|error| error.to_string())?;
                let status = answer.status();
                if status.is_success() {
                    Ok(())
                } else {
                    Err(format!("{status} {}", answer.text().await.unwrap()))
                }
            }
        }
    }

    /// "Supabase- look for the record", "Get Pipedrive acess token", "Update thr row with new access token".
    async fn refresh(&self) -> Result<(), String> {
        let token = self.read("ref_token").ok_or("no row")?;
        let tokens = self.fixture.n8n_spends(FIRST, &token).await;
        let tokens = tokens.map_err(|answer| answer.to_string())?;
        let home = &self.fixture.home;
        home.old(&format!(
            "UPDATE {} SET acc_token = '{}', ref_token = '{}' WHERE {} = 'Pipedrive'",
            home.table(),
            tokens.access,
            tokens.refresh,
            home.column("Platform"),
        ));
        Ok(())
    }

    /// "Generate Refresh Token from authcode", "Look for the related record in Supabase", "Insert" or "Update tokns in the
    /// record": somebody installs the app through n8n's callback.
    pub(crate) async fn callback(&self, company: u32, user: u32) {
        let tokens = self.fixture.consent(FIRST, company, user).await;
        let home = &self.fixture.home;
        let (table, platform) = (home.table(), home.column("Platform"));
        let (access, refresh) = (&tokens.access, &tokens.refresh);
        let now = match home.backend {
            Backend::Postgres | Backend::Mysql => "now()",
            Backend::Sqlite => "strftime('%Y-%m-%dT%H:%M:%fZ')",
        };
        let found = home.old(&format!(
            "SELECT id AS line FROM {table} WHERE {platform} = 'Pipedrive'"
        ));
        home.old(&if found.is_empty() {
            format!(
                "INSERT INTO {table} (ref_token, acc_token, {platform}, created_at, updated_at) \
                 VALUES ('{refresh}', '{access}', 'Pipedrive', {now}, {now})"
            )
        } else {
            format!(
                "UPDATE {table} SET acc_token = '{access}', ref_token = '{refresh}', updated_at = {now} \
                 WHERE {platform} = 'Pipedrive'"
            )
        });
    }

    /// n8n's insert forgets it; somebody edits the row, or nothing works.
    pub(crate) fn app_id_by_hand(&self) {
        let home = &self.fixture.home;
        let (table, app_id) = (home.table(), home.column("AppId"));
        home.old(&format!("UPDATE {table} SET {app_id} = '{ALIAS}'"));
    }

    fn read(&self, column: &str) -> Option<String> {
        let home = &self.fixture.home;
        let query = format!(
            "SELECT {column} AS line FROM {} WHERE {} = 'Pipedrive' AND {} = '{ALIAS}'",
            home.table(),
            home.column("Platform"),
            home.column("AppId"),
        );
        home.old(&query).into_iter().next()
    }
}
