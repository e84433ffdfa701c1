//! `token-refresher rollback-to-n8n`: the newest tokens go back to the rows that they came from, once, after our own spending of
//! them has stopped for good.
//!
//! First each row is written on trial: the very update, read back and rolled back. Only if all succeed our own spending
//! stops, by one conditional update: the connection is `revoked`, reason `handed_back`, which no refresh, sweep, replay or
//! recheck passes. Then the old rows get the tokens, then, once all were read back, ours are wiped. Rows that are gone, or that
//! others have written to, are named and not waited for. An interrupted run is continued by the same command.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use pipekeeper_core::connection::{AppKey, Connection, ConnectionId, ConnectionState, HANDED_BACK};
use pipekeeper_core::crypto::sha256_hex;
use pipekeeper_core::provider::Apps;
use pipekeeper_core::store::{AppTok, AppTokRow, Import, RowTokens, RowWrite};
use pipekeeper_core::terminal;
use pipekeeper_refresh::{RefreshError, Refresher, Trigger};

use crate::config::OldTable;
use crate::old_row::{self, of_old_table};
use crate::{REFRESH_TIMEOUT, named};

/// Rows are read so many at a time.
const PAGE: u16 = 200;

/// So often a connection is looked at before it is left to the next run: others may be using it.
const TRIES: u8 = 10;

/// `token-refresher rollback-to-n8n …`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// The app's key in the configuration; all of them by default
    #[arg(long, value_name = "KEY")]
    app: Option<String>,
    /// Apply the changes (default: dry run)
    #[arg(long)]
    apply: bool,
}

/// A connection, and the rows of the old table that wait for its tokens.
struct Waiting {
    row: Connection,
    imports: Vec<Import>,
}

/// A rollback that can begin: the old table's database is configured, and the app exists.
#[derive(Debug)]
pub struct Rollback {
    old: AppTok,
    app: Option<AppKey>,
    apply: bool,
}

impl Rollback {
    /// # Errors
    /// No old table is configured, or no app has this key.
    pub fn prepare(
        arguments: &Arguments,
        old_table: &OldTable,
        apps: &Apps,
    ) -> anyhow::Result<Self> {
        let old = old_table.open()?;
        let app = arguments.app.as_deref().map(|key| apps.get(key));
        Ok(Self {
            old,
            app: app.transpose()?.map(|app| app.app_key()),
            apply: arguments.apply,
        })
    }

    /// # Errors
    /// One of the two databases can't be used. The same command continues what was begun.
    pub async fn run(self, refresher: &Arc<Refresher>) -> anyhow::Result<String> {
        let Self { old, app, apply } = self;
        let run = Run {
            refresher,
            old,
            app,
            apply,
        };
        run.all().await
    }
}

struct Run<'a> {
    refresher: &'a Arc<Refresher>,
    old: AppTok,
    /// The only app whose connections are meant.
    app: Option<AppKey>,
    apply: bool,
}

impl Run<'_> {
    async fn all(&self) -> anyhow::Result<String> {
        let is_meant = |row: &Connection| self.app.as_ref().is_none_or(|app| row.app() == *app);
        if self.apply {
            // What a process that is gone was answered comes before what its rows say.
            self.refresher.replay_once().await?;
        }
        let mut lines = Vec::new();
        for waiting in self.waiting().await?.into_values() {
            if !is_meant(&waiting.row) {
                continue;
            }
            let said = self.one(&waiting).await?;
            let rows: Vec<&str> = waiting
                .imports
                .iter()
                .map(|import| import.source_row.as_str())
                .collect();
            lines.push(self.line(rows.join(", "), &waiting.row, said));
        }
        let mut after: Option<ConnectionId> = None;
        loop {
            let table = self.old.table();
            let store = self.refresher.store();
            let page = store
                .connections_without_import(table, after.as_ref(), PAGE)
                .await?;
            for row in page.iter().filter(|row| is_meant(row)) {
                let said = format!("has no row in the old table, and stays here: {}", row.id);
                lines.push(self.line("-".to_owned(), row, said));
            }
            after = page.last().map(|row| row.id.clone());
            if page.len() < usize::from(PAGE) {
                break;
            }
        }
        let end = if self.apply {
            ""
        } else {
            "\nNothing was written: --apply does it."
        };
        if lines.is_empty() {
            return Ok(format!("Nothing came from {}.", self.old.table()));
        }
        let headings = ["ROWS", "APP", "COMPANY", "USER", "WHAT"];
        Ok(format!("{}{end}", terminal::table(headings, lines)))
    }

    fn line(&self, rows: String, row: &Connection, said: String) -> [String; 5] {
        let app = self.refresher.apps().of(&row.app());
        [
            rows,
            app.map_or_else(|| row.app_id.clone(), |app| app.key.clone()),
            named(&row.company_id, &row.company_name),
            named(&row.user_id, &row.user_name),
            said,
        ]
    }

    /// All that came from the old table, with the rows that are not their own masters again.
    async fn waiting(&self) -> anyhow::Result<BTreeMap<ConnectionId, Waiting>> {
        let mut all: BTreeMap<ConnectionId, Waiting> = BTreeMap::new();
        let mut after = String::new();
        loop {
            let page = self
                .refresher
                .store()
                .imports_of(self.old.table(), &after, PAGE)
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(all);
            };
            after.clone_from(&last.source_row);
            for (import, row) in page {
                if import.handed_back_at.is_some() {
                    continue;
                }
                let waiting = all.entry(row.id.clone()).or_insert_with(|| Waiting {
                    row,
                    imports: Vec::new(),
                });
                waiting.imports.push(import);
            }
        }
    }

    async fn one(&self, waiting: &Waiting) -> anyhow::Result<String> {
        let row = &waiting.row;
        let is_stopped = row.state_reason.as_deref() == Some(HANDED_BACK);
        match row.state {
            ConnectionState::Active => {}
            ConnectionState::Revoked if is_stopped && !self.apply => {
                return Ok("is stopped; its tokens are handed back".to_owned());
            }
            ConnectionState::Revoked if is_stopped => return self.finish(row, waiting).await,
            ConnectionState::Revoked | ConnectionState::ReauthRequired => {
                return Ok(format!(
                    "has ended here ({}): its row is left alone",
                    row.state_reason.as_deref().unwrap_or(row.state.as_str())
                ));
            }
        }
        let vault = self.refresher.vault();
        let tokens = RowTokens {
            access_token: &vault.access_token(row)?,
            refresh_token: &vault.refresh_token(row)?,
        };
        let (mut writable, mut refused, mut said) = (0, false, Vec::new());
        for import in &waiting.imports {
            match self.write(import, tokens, Write::Trial).await? {
                Ok(()) => writable += 1,
                Err(why) => {
                    refused |= matches!(why, Unwritten::Refused(_));
                    said.push(why.said());
                }
            }
        }
        if refused || writable == 0 {
            let why = said.join("; ");
            return Ok(format!("is not handed back, and goes on here: {why}"));
        }
        if !self.apply {
            said.insert(0, "is handed back".to_owned());
            return Ok(said.join("; "));
        }
        match self.stop(&row.id).await? {
            Ok(stopped) => self.finish(&stopped, waiting).await,
            Err(why) => Ok(why),
        }
    }

    /// Ends our own spending, once it is known which token is the newest.
    async fn stop(&self, id: &ConnectionId) -> anyhow::Result<Result<Connection, String>> {
        let store = self.refresher.store();
        for _ in 0..TRIES {
            let row = store.connection_find(id).await?;
            let Some(row) = row.filter(|row| row.state == ConnectionState::Active) else {
                return Ok(Err(
                    "has ended here meanwhile: its row is left alone".to_owned()
                ));
            };
            let token = self.refresher.vault().refresh_token(&row)?;
            let journaled = self
                .refresher
                .has_journaled_response(&row, &token)
                .await
                .context("a journal may hold a newer token, and can't be read")?;
            if journaled || row.in_doubt || row.lease_owner.is_some() {
                // It waits for a refresh under way, commits a journaled response, and otherwise asks the provider.
                let (generation, trigger) = (Some(row.generation), Trigger::Operator);
                let refreshed = self
                    .refresher
                    .refresh(id, generation, trigger, REFRESH_TIMEOUT)
                    .await;
                match refreshed {
                    Ok(_) | Err(RefreshError::Ended { .. }) => {}
                    Err(error) => {
                        return Ok(Err(format!(
                            "is not handed back: which token is the newest is not known ({error}); run this again"
                        )));
                    }
                }
                continue;
            }
            let (generation, now) = (row.generation, self.refresher.now());
            if store.connection_hand_back(id, generation, now).await?
                && let Some(stopped) = store.connection_find(id).await?
            {
                return Ok(Ok(stopped));
            }
        }
        Ok(Err(
            "is not handed back: it is being used; run this again".to_owned()
        ))
    }

    /// Writes the tokens where they belong, and wipes ours once no row waits for them.
    async fn finish(&self, row: &Connection, waiting: &Waiting) -> anyhow::Result<String> {
        let store = self.refresher.store();
        let (mut refused, mut said) = (false, Vec::new());
        let mut done: Vec<&Import> = waiting.imports.iter().collect();
        if !row.refresh_token.is_wiped() {
            let vault = self.refresher.vault();
            let tokens = RowTokens {
                access_token: &vault.access_token(row)?,
                refresh_token: &vault.refresh_token(row)?,
            };
            let before = store.imports_of_connection(&row.id).await?;
            let is_written = |import: &Import| {
                import.source_table == self.old.table() && import.handed_back_at.is_some()
            };
            let mut is_anywhere = before.iter().any(is_written);
            done.clear();
            for import in &waiting.imports {
                match self.write(import, tokens, Write::Kept).await? {
                    Ok(()) => {
                        is_anywhere = true;
                        done.push(import);
                    }
                    Err(why) => {
                        refused |= matches!(why, Unwritten::Refused(_));
                        said.push(why.said());
                    }
                }
            }
            if refused || !is_anywhere {
                for import in done {
                    self.is_back(import).await?;
                }
                return Ok(format!(
                    "is stopped, and not handed back yet: {}; our tokens are kept: mend that, or delete the row, and run this again",
                    said.join("; ")
                ));
            }
            store
                .connection_handed_back(&row.id, row.generation, self.refresher.now())
                .await?;
            done = waiting.imports.iter().collect();
        }
        for import in done {
            self.is_back(import).await?;
        }
        said.insert(0, "handed back".to_owned());
        Ok(said.join("; "))
    }

    /// Notes that n8n has the row again, with the refresh token that it holds.
    async fn is_back(&self, import: &Import) -> anyhow::Result<()> {
        let seen = of_old_table(old_row::read(&self.old, &import.source_row).await)?;
        let holds = seen.map_or_else(|_| import.token_hash.clone(), |seen| seen.token_hash());
        let (store, now) = (self.refresher.store(), self.refresher.now());
        store.import_handed_back(import, &holds, now).await?;
        Ok(())
    }

    /// Gives a row the tokens; others may be writing to it.
    async fn write(
        &self,
        import: &Import,
        tokens: RowTokens<'_>,
        write: Write,
    ) -> anyhow::Result<Result<(), Unwritten>> {
        let id = &import.source_row;
        for _ in 0..TRIES {
            let seen = match self.ready(import, tokens).await? {
                Ok(seen) => seen,
                Err(why) => return Ok(Err(why)),
            };
            if write == Write::Kept && seen.holds(tokens) {
                return Ok(Ok(()));
            }
            let now = self.refresher.now();
            let written = match write {
                Write::Trial => self.old.try_write(&seen, tokens, now).await,
                Write::Kept => self.old.write(&seen, tokens, now).await,
            };
            let is_written = matches!(written, Ok(RowWrite::Written));
            let refusal = old_row::refusal(&self.old, &seen, written, tokens).await;
            if let Some(why) = of_old_table(refusal)? {
                return Ok(Err(Unwritten::Refused(why)));
            }
            if is_written {
                return Ok(Ok(()));
            }
        }
        let why = format!("row {id} is being written to");
        Ok(Err(Unwritten::Refused(why)))
    }

    /// The row, if it still holds what was imported from it, or already what it is to be given.
    async fn ready(
        &self,
        import: &Import,
        given: RowTokens<'_>,
    ) -> anyhow::Result<Result<AppTokRow, Unwritten>> {
        let id = &import.source_row;
        let rows = of_old_table(self.old.rows_with(id).await)?;
        let is_gone = rows.is_empty();
        let seen = match old_row::only(id, rows) {
            Ok(seen) => seen,
            Err(why) if is_gone => return Ok(Err(Unwritten::Others(why))),
            Err(why) => return Ok(Err(Unwritten::Refused(why))),
        };
        let holds = seen.token_hash();
        Ok(
            if holds == import.token_hash || holds == sha256_hex(given.refresh_token.expose()) {
                Ok(seen)
            } else {
                Err(Unwritten::Others(format!(
                    "row {id} holds another refresh token than was imported: `import --apply --refresh` finds out whose it is"
                )))
            },
        )
    }
}

/// Why a row does not get the tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Unwritten {
    /// Workflows may read it, and find none that work.
    Refused(String),
    /// It is gone, or others have written to it: it does not wait for our tokens.
    Others(String),
}

impl Unwritten {
    fn said(self) -> String {
        match self {
            Self::Refused(why) | Self::Others(why) => why,
        }
    }
}

/// Whether a write is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Trial,
    Kept,
}
