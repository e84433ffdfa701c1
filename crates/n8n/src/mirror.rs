//! The old table as a mirror: each new access token is written to the rows that its connection was imported from, for
//! workflows that still read them there. The refresh token is not: only one party spends.
//!
//! Every second all rows are read and compared with what they should hold. A row is written only while it holds the refresh
//! token that was imported from it, and the access token that was read a moment before: of two processes the later one
//! writes nothing older.
//!
//! A row with another refresh token is that of a consent through n8n. The import finds out whose it is
//! (`import::reconcile`): the same person's tokens replace ours; another person's become a connection of their own,
//! and the row is not written unless the operator makes that one the default.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{AppKey, Connection, ConnectionId, ConnectionState};
use pipekeeper_core::crypto::OpenError;
use pipekeeper_core::http_client;
use pipekeeper_core::placement::UNINSTALLED;
use pipekeeper_core::refresh_schedule::{due_at, minted_at};
use pipekeeper_core::store::{AppTok, AppTokRow, Import, RowTokens, RowWrite, StoreError};
use pipekeeper_refresh::Refresher;

use crate::config::OldTable;
use crate::import::{self, ChangedRow, FORMER, Reconciled};
use crate::old_row;

/// How long a caller waits for the old table.
const WAIT: Duration = Duration::from_secs(2);

/// Imports are read so many at a time.
const PAGE: u16 = 200;

/// How often one row is tried again at once: n8n writes there, too.
const TRIES: u8 = 5;

/// Of the time, the share that reading a large table may take.
const READING_SHARE: u32 = 10;

/// How often a table that can't be written is tried again.
const TRIAL_EVERY: Duration = Duration::from_mins(1);

/// How often the use of a mirrored connection is noted.
const TOUCH_EVERY: Duration = Duration::from_hours(1);

/// How often the provider is asked whose the tokens of a changed row are.
const ASK_EVERY: Duration = Duration::from_mins(1);

/// Two new refresh tokens of one row within this time are not two consents.
const CHANGES_APART: Duration = Duration::from_hours(1);

#[derive(Debug)]
pub struct Mirror {
    old: AppTok,
    config: OldTable,
    client: reqwest::Client,
    refresher: Arc<Refresher>,
    /// By the row's id: the changed rows that the provider was asked about.
    asked: Mutex<HashMap<String, IdentityCheck>>,
    /// By the row's id: until when to say that n8n still refreshes.
    still_refreshed: Mutex<BTreeMap<String, Timestamp>>,
    /// The apps that the table has rows of; `None` until it was read.
    mirrored_apps: Mutex<Option<HashSet<AppKey>>>,
    degraded_reasons: Mutex<Troubles>,
    trial: Mutex<Trial>,
    /// When the next pass begins, by the monotonic clock.
    next_pass: Mutex<Duration>,
}

/// What keeps rows of the old table from being up to date.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Troubles {
    unreachable: bool,
    /// Why no row can be written, as a trial has shown.
    unwritable: Option<String>,
    /// By the row's id: why it is not written.
    conflicts: BTreeMap<String, String>,
    /// Of which app the default connection is not that of the newest row.
    defaults: Vec<String>,
}

impl Troubles {
    fn of_rows(&self) -> impl Iterator<Item = &String> {
        let rows = self.conflicts.values().chain(&self.defaults);
        rows.chain(&self.unwritable)
    }
}

/// A row whose tokens are not stored here, and why.
#[derive(Debug)]
struct IdentityCheck {
    /// The tokens that it held.
    row: AppTokRow,
    said: String,
    /// By the monotonic clock.
    at: Duration,
}

/// A row of ours, as a pass has found it.
struct Linked {
    connection: Connection,
    is_strangers: bool,
}

/// Whether writing was tried before anything depends on it.
#[derive(Debug, Default, Clone, Copy)]
enum Trial {
    #[default]
    Due,
    /// By the monotonic clock.
    DueAt(Duration),
    Done,
}

/// What became of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Synced {
    /// It holds the connection's access token.
    Current { written: bool },
    /// The connection is not mirrored.
    NotMirrored,
    /// It holds another refresh token: the next pass finds out whose.
    Changed,
    /// It is not written until the operator acts.
    Conflict(String),
}

/// Whether rows held an older access token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WereCurrent {
    Yes,
    No,
}

#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    #[error("our own database could not be used")]
    Own(#[source] StoreError),
    #[error("the old table could not be used")]
    Old(#[source] StoreError),
    #[error("the stored token does not open")]
    Sealed(#[from] OpenError),
    #[error("the old table's row is written to again and again")]
    Contended,
    #[error("the old table's row has another refresh token")]
    Changed,
    #[error("no row of the old table is this connection's")]
    NoRow,
    #[error("{0}")]
    Conflict(String),
    #[error("the old table's database did not answer in time")]
    TooSlow,
}

impl Mirror {
    /// `None` where it is switched off.
    pub fn of(config: &OldTable, refresher: &Arc<Refresher>) -> anyhow::Result<Option<Arc<Self>>> {
        if !config.mirror {
            return Ok(None);
        }
        Ok(Some(Arc::new(Self {
            old: config.open()?,
            config: config.clone(),
            client: http_client::build(refresher.timing().call_limits())?,
            refresher: Arc::clone(refresher),
            asked: Mutex::default(),
            still_refreshed: Mutex::default(),
            mirrored_apps: Mutex::default(),
            degraded_reasons: Mutex::default(),
            trial: Mutex::default(),
            next_pass: Mutex::default(),
        })))
    }

    /// Sees to it that every row imported as this connection holds its current access token. `must_have_row`: it is the
    /// default connection, whose token a caller reads in the table next.
    ///
    /// # Errors
    /// One does not, for now.
    pub async fn sync_connection(
        &self,
        id: &ConnectionId,
        must_have_row: bool,
    ) -> Result<WereCurrent, MirrorError> {
        let sync_all = async {
            let store = self.refresher.store();
            let links = store.imports_of_connection(id).await;
            let mut links = links.map_err(MirrorError::Own)?;
            links.retain(|link| self.is_linked(link));
            if links.is_empty() && must_have_row && self.mirrors_app_of(id).await? {
                return Err(MirrorError::NoRow);
            }
            let former = self.former_connections().await;
            let former = former.map_err(MirrorError::Own)?;
            let mut were_current = WereCurrent::Yes;
            for link in links {
                if self
                    .is_strangers(&link, &former)
                    .await
                    .map_err(MirrorError::Own)?
                {
                    continue;
                }
                match self.sync(&link, None).await? {
                    Synced::Current { written: false } | Synced::NotMirrored => {}
                    Synced::Current { written: true } => were_current = WereCurrent::No,
                    Synced::Changed => return Err(MirrorError::Changed),
                    Synced::Conflict(why) => return Err(MirrorError::Conflict(why)),
                }
            }
            Ok(were_current)
        };
        let synced = tokio::time::timeout(WAIT, sync_all).await;
        synced.unwrap_or(Err(MirrorError::TooSlow))
    }

    /// Whether the table has rows of the connection's app; also as long as that is not known.
    async fn mirrors_app_of(&self, id: &ConnectionId) -> Result<bool, MirrorError> {
        let row = self.refresher.store().connection_find(id).await;
        let row = row.map_err(MirrorError::Own)?;
        let apps = lock(&self.mirrored_apps);
        Ok(match (&*apps, row) {
            (Some(apps), Some(row)) => apps.contains(&row.app()),
            (_, None) => false,
            (None, Some(_)) => true,
        })
    }

    /// By the row's id: whose it was before another person's tokens were written into it.
    async fn former_connections(&self) -> Result<HashMap<String, ConnectionId>, StoreError> {
        let mut all = HashMap::new();
        let mut after = String::new();
        loop {
            let page = self
                .refresher
                .store()
                .imports_of(FORMER, &after, PAGE)
                .await?;
            let Some((last, _)) = page.last() else {
                return Ok(all);
            };
            after.clone_from(&last.source_row);
            let page = page.into_iter();
            all.extend(page.map(|(former, _)| (former.source_row, former.connection_id)));
        }
    }

    /// Whether another person's tokens were written into the row, and the operator has not made that one the default.
    async fn is_strangers(
        &self,
        link: &Import,
        former: &HashMap<String, ConnectionId>,
    ) -> Result<bool, StoreError> {
        let was = former.get(&link.source_row);
        if was.is_none_or(|was| *was == link.connection_id) {
            return Ok(false);
        }
        let id = &link.connection_id;
        let defaults = self.refresher.store().defaults_of(&[id]).await?;
        Ok(!defaults.iter().any(|default| default.account_id.is_empty()))
    }

    /// Compares every row with its connection, and brings up to date what is not.
    ///
    /// # Errors
    /// Our own database can't be used.
    pub async fn sync_once(&self) -> Result<(), MirrorError> {
        let begun = self.refresher.monotonic();
        if begun < *lock(&self.next_pass) {
            return Ok(());
        }
        let done = self.pass().await;
        let ended = self.refresher.monotonic();
        let took = match &done {
            Ok(took) => *took,
            Err(_) => ended.saturating_sub(begun),
        };
        *lock(&self.next_pass) = ended.saturating_add(took * READING_SHARE);
        done.map(drop)
    }

    async fn pass(&self) -> Result<Duration, MirrorError> {
        let begun = self.refresher.monotonic();
        let mut degraded_reasons = Troubles::default();
        // The old rows before our own: what is written is never older than what it replaces.
        let rows = match self.old.rows().await {
            Ok(rows) => rows,
            Err(error) => return Ok(self.report_unreachable(error, begun)),
        };
        let mut by_id: HashMap<&str, Vec<&AppTokRow>> = HashMap::new();
        for row in &rows {
            if let Some(id) = &row.id {
                by_id.entry(id).or_default().push(row);
            }
        }
        match self.trial_write(&rows, &by_id).await {
            Ok(why) => degraded_reasons.unwritable = why,
            Err(error) => return Ok(self.report_unreachable(error, begun)),
        }
        let former = self.former_connections().await.map_err(MirrorError::Own)?;
        let mut linked: HashMap<String, Linked> = HashMap::new();
        let mut changed = Vec::new();
        let mut after = String::new();
        while !self.refresher.is_stopping() {
            let page = self
                .refresher
                .store()
                .imports_of(self.old.table(), &after, PAGE)
                .await
                .map_err(MirrorError::Own)?;
            let Some((last, _)) = page.last() else { break };
            after.clone_from(&last.source_row);
            for (link, row) in page {
                if !self.is_linked(&link) {
                    continue;
                }
                let is_strangers = self.is_strangers(&link, &former).await;
                let is_strangers = is_strangers.map_err(MirrorError::Own)?;
                let id = link.source_row.clone();
                let found = Linked {
                    connection: row.clone(),
                    is_strangers,
                };
                linked.insert(id.clone(), found);
                // A refresh would end the access token that another person's row goes on with.
                if !is_strangers {
                    self.touch(&row).await.map_err(MirrorError::Own)?;
                }
                let seen = by_id.get(id.as_str()).into_iter().flatten().copied();
                let seen = old_row::only(&id, seen.cloned().collect());
                if let Ok(seen) = &seen
                    && seen.token_hash() != link.token_hash
                    && may_have_consented(&row)
                {
                    changed.push((link, seen.clone(), row));
                    continue;
                }
                if is_strangers {
                    degraded_reasons
                        .conflicts
                        .insert(id.clone(), strangers(&id, &row));
                    continue;
                }
                match self.sync(&link, Some((seen, row))).await {
                    Ok(Synced::Current { .. } | Synced::NotMirrored | Synced::Changed) => {}
                    Ok(Synced::Conflict(why)) => {
                        degraded_reasons.conflicts.insert(id, why);
                    }
                    Err(error @ MirrorError::Contended) => {
                        degraded_reasons
                            .conflicts
                            .insert(id.clone(), format!("row {id}: {error}"));
                    }
                    Err(MirrorError::Old(error)) => {
                        return Ok(self.report_unreachable(error, begun));
                    }
                    Err(error) => {
                        tracing::debug!(connection.id = %link.connection_id, "the old row is not up to date yet: {:#}", anyhow::Error::from(error));
                    }
                }
            }
        }
        self.keep_defaults(&rows, &linked, &mut degraded_reasons)
            .await?;
        let took = self.refresher.monotonic().saturating_sub(begun);
        self.reconcile(changed, &mut degraded_reasons).await;
        self.report(degraded_reasons);
        Ok(took)
    }

    /// The default connection of each app in the table is that of its newest row, unless the operator has chosen another.
    async fn keep_defaults(
        &self,
        rows: &[AppTokRow],
        linked: &HashMap<String, Linked>,
        degraded_reasons: &mut Troubles,
    ) -> Result<(), MirrorError> {
        let (store, apps) = (self.refresher.store(), self.refresher.apps());
        let of_row = |row: &AppTokRow| linked.get(row.id.as_deref()?);
        let newest = import::newest_rows(apps, rows, |row| {
            apps.of(&of_row(row)?.connection.app()).cloned()
        });
        let keys = newest.iter().map(|(app, _)| app.app_key()).collect();
        *lock(&self.mirrored_apps) = Some(keys);
        for (app, source_row) in newest {
            let default = store.default_connection(&app.app_key(), None).await;
            let default = default
                .map_err(MirrorError::Own)?
                .map(|(default, _)| default);
            let newest = linked.get(&source_row).filter(|newest| {
                !newest.is_strangers && newest.connection.state == ConnectionState::Active
            });
            let moves = |row: &Connection| {
                default
                    .as_ref()
                    .is_none_or(|default| import::may_move(default, Some(row)))
            };
            if let Some(Linked { connection, .. }) = newest
                && connection.app() == app.app_key()
                && moves(connection)
            {
                import::set_default(store, connection, self.refresher.now())
                    .await
                    .map_err(MirrorError::Own)?;
                tracing::warn!(connection.id = %connection.id, "it is the default connection of the app {} from now on: row {source_row} of the old table is the newest", app.key);
                continue;
            }
            let Some(default) = default else { continue };
            let is_linked = linked
                .values()
                .any(|one| one.connection.id == default.connection_id);
            if !is_linked {
                degraded_reasons.defaults.push(format!(
                    "the default connection of the app {}, {}, has no row in the table: workflows that read the table get no new \
                     token; `import --apply --refresh` takes their row over, or `connections default` chooses its connection",
                    app.key, default.connection_id
                ));
            } else if !linked.contains_key(&source_row) && import::may_move(&default, None) {
                degraded_reasons.defaults.push(format!(
                    "row {source_row}, the newest of the app {}, was not imported: callers who name only the app get connection {}, \
                     of an older row; `import --apply --refresh` takes it over, or `connections default` keeps that connection",
                    app.key, default.connection_id
                ));
            }
        }
        Ok(())
    }

    /// Stores the tokens of rows that others have written to, or reports why not.
    async fn reconcile(
        &self,
        changed: Vec<(Import, AppTokRow, Connection)>,
        degraded_reasons: &mut Troubles,
    ) {
        let now = self.refresher.monotonic();
        let mut asking = Vec::new();
        let mut before: HashMap<String, Import> = HashMap::new();
        let changed_ids: HashSet<&str> = changed
            .iter()
            .map(|(link, ..)| link.source_row.as_str())
            .collect();
        lock(&self.asked).retain(|id, _| changed_ids.contains(id.as_str()));
        for (link, row, connection) in changed {
            let asked = lock(&self.asked).get(&link.source_row).and_then(|asked| {
                let is_same = asked.row.holds(RowTokens {
                    access_token: &row.access_token,
                    refresh_token: &row.refresh_token,
                });
                let is_recent = now.saturating_sub(asked.at) < ASK_EVERY;
                (is_same && is_recent).then(|| asked.said.clone())
            });
            let app = self.refresher.apps().of(&connection.app());
            match (asked, app) {
                (Some(said), _) => {
                    degraded_reasons.conflicts.insert(link.source_row, said);
                }
                (None, Some(app)) => {
                    asking.push(ChangedRow {
                        row,
                        app: Arc::clone(app),
                    });
                    before.insert(link.source_row.clone(), link);
                }
                (None, None) => {}
            }
        }
        if asking.is_empty() {
            return;
        }
        let rows: HashMap<String, AppTokRow> = asking
            .iter()
            .filter_map(|changed| Some((changed.row.id.clone()?, changed.row.clone())))
            .collect();
        let table = self.old.table();
        let done =
            import::reconcile(&self.refresher, &self.client, &self.config, table, asking).await;
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                tracing::warn!(
                    "rows of the old table have changed, and their tokens are not stored yet: {error:#}"
                );
                return;
            }
        };
        for Reconciled {
            source_row,
            said,
            is_stored,
        } in done
        {
            if !is_stored {
                let said = format!(
                    "row {source_row} holds another refresh token than was imported: {said}; `import --apply --refresh` takes it over"
                );
                if let Some(row) = rows.get(&source_row) {
                    let asked = IdentityCheck {
                        row: row.clone(),
                        said: said.clone(),
                        at: now,
                    };
                    lock(&self.asked).insert(source_row.clone(), asked);
                }
                degraded_reasons.conflicts.insert(source_row, said);
                continue;
            }
            tracing::warn!("row {source_row} of the old table holds a new consent: {said}");
            let last = before.get(&source_row).and_then(|link| link.replaced_at);
            let at = self.refresher.now();
            if last.is_some_and(|last| at.saturating_since(last) < CHANGES_APART) {
                let until = at.saturating_add(CHANGES_APART);
                lock(&self.still_refreshed).insert(source_row, until);
            }
        }
    }

    fn is_linked(&self, link: &Import) -> bool {
        link.handed_back_at.is_none() && link.source_table == self.old.table()
    }

    /// Brings one row up to date. `known`: the row and its connection, read in this order.
    async fn sync(
        &self,
        link: &Import,
        mut known: Option<(Result<AppTokRow, String>, Connection)>,
    ) -> Result<Synced, MirrorError> {
        let (store, id) = (self.refresher.store(), &link.source_row);
        let mut written = false;
        for _ in 0..TRIES {
            let (seen, row) = if let Some(known) = known.take() {
                known
            } else {
                let seen = old_row::read(&self.old, id).await;
                let seen = seen.map_err(MirrorError::Old)?;
                let row = store.connection_find(&link.connection_id).await;
                let Some(row) = row.map_err(MirrorError::Own)? else {
                    return Ok(Synced::NotMirrored);
                };
                (seen, row)
            };
            if row.state != ConnectionState::Active {
                return Ok(Synced::NotMirrored);
            }
            let seen = match seen {
                Ok(seen) => seen,
                Err(why) => return Ok(Synced::Conflict(why)),
            };
            if seen.token_hash() != link.token_hash {
                return Ok(Synced::Changed);
            }
            let token = self.refresher.vault().access_token(&row)?;
            let tokens = RowTokens {
                access_token: &token,
                refresh_token: &seen.refresh_token,
            };
            if seen.holds(tokens) {
                return Ok(Synced::Current { written });
            }
            let done = self.old.write(&seen, tokens, self.refresher.now()).await;
            written |= matches!(done, Ok(RowWrite::Written));
            let refusal = old_row::refusal(&self.old, &seen, done, tokens).await;
            if let Some(why) = refusal.map_err(MirrorError::Old)? {
                return Ok(Synced::Conflict(why));
            }
        }
        Err(MirrorError::Contended)
    }

    /// Notes that the connection is in use: the workflows that read its row send us no request for its token.
    async fn touch(&self, row: &Connection) -> Result<(), StoreError> {
        let now = self.refresher.now();
        let is_noted = |at| now.saturating_since(at) < TOUCH_EVERY;
        if row.state != ConnectionState::Active || row.last_used_at.is_some_and(is_noted) {
            return Ok(());
        }
        let Some(app) = self.refresher.apps().of(&row.app()) else {
            return Ok(());
        };
        let due_at = due_at(app, minted_at(row), row.expires_at, Some(now), now);
        self.refresher
            .store()
            .connection_touch(&row.id, now, due_at)
            .await
    }

    /// Why no row can be written, told by writing to one what it holds, and taking that back: before n8n's refresh is
    /// switched off, and before a refresh makes the row's access token useless.
    async fn trial_write(
        &self,
        rows: &[AppTokRow],
        by_id: &HashMap<&str, Vec<&AppTokRow>>,
    ) -> Result<Option<String>, StoreError> {
        let now = self.refresher.monotonic();
        let is_due = match *lock(&self.trial) {
            Trial::Due => true,
            Trial::DueAt(at) => now >= at,
            Trial::Done => return Ok(None),
        };
        let last = lock(&self.degraded_reasons).unwritable.clone();
        let is_ours = |row: &&AppTokRow| {
            let id = row.id.as_deref();
            let is_only = id
                .and_then(|id| by_id.get(id))
                .is_some_and(|all| all.len() == 1);
            is_only && import::is_usable(row, self.refresher.apps())
        };
        let Some(row) = rows.iter().find(is_ours).filter(|_| is_due) else {
            return Ok(last);
        };
        let tokens = RowTokens {
            access_token: &row.access_token,
            refresh_token: &row.refresh_token,
        };
        let done = self.old.try_write(row, tokens, self.refresher.now()).await;
        let is_done = matches!(done, Ok(RowWrite::Written));
        let why = old_row::refusal(&self.old, row, done, tokens).await?;
        *lock(&self.trial) = if is_done {
            Trial::Done
        } else {
            Trial::DueAt(now + TRIAL_EVERY)
        };
        Ok(why)
    }

    /// How long the pass took until then.
    fn report_unreachable(&self, error: StoreError, begun: Duration) -> Duration {
        let mut degraded_reasons = lock(&self.degraded_reasons);
        if !degraded_reasons.unreachable {
            let what = "the old table can't be kept up to date for now; refreshes go on";
            // The store logs the outage.
            if error.is_unavailable() {
                tracing::warn!("{what}");
            } else {
                tracing::warn!("{what}: {:#}", anyhow::Error::from(error));
            }
        }
        degraded_reasons.unreachable = true;
        self.refresher.monotonic().saturating_sub(begun)
    }

    /// Logs what is new of it, once.
    fn report(&self, now: Troubles) {
        let mut last = lock(&self.degraded_reasons);
        if last.unreachable {
            tracing::info!("the old table is kept up to date again");
        }
        let known: Vec<&String> = last.of_rows().collect();
        for why in now.of_rows() {
            if !known.contains(&why) {
                tracing::warn!("not written to the old table: {why}");
            }
        }
        *last = now;
    }

    /// What works, but not as it should.
    pub fn degraded_reasons(&self) -> Vec<String> {
        let degraded_reasons = lock(&self.degraded_reasons);
        let now = self.refresher.now();
        let still = lock(&self.still_refreshed);
        let still = still.iter().filter(|(_, until)| now < **until);
        let still = still.map(|(id, _)| {
            format!(
                "row {id} was given another refresh token twice within an hour: n8n still refreshes; deactivate its node \"Webhook\""
            )
        });
        let unreachable = degraded_reasons
            .unreachable
            .then(|| "its database can't be used, so that its rows are not up to date".to_owned());
        unreachable
            .into_iter()
            .chain(degraded_reasons.of_rows().cloned())
            .chain(still)
            .map(|why| format!("old_table: {why}"))
            .collect()
    }
}

/// Whether new tokens in the connection's row are those of a new consent. Who was disconnected here stays so.
fn may_have_consented(row: &Connection) -> bool {
    match row.state {
        ConnectionState::Active | ConnectionState::ReauthRequired => true,
        ConnectionState::Revoked => row.state_reason.as_deref() == Some(UNINSTALLED),
    }
}

/// What is said of a row that another person has got.
fn strangers(id: &str, row: &Connection) -> String {
    format!(
        "row {id} holds the tokens of another person than was imported, who has installed the app through n8n's callback: \
         connection {}; the row is not written until `connections default` chooses that connection, or its former person \
         installs the app again",
        row.id
    )
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
