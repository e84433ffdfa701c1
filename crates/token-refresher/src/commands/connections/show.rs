//! `token-refresher connections show`.

use anyhow::Context as _;
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::provider::Apps;
use pipekeeper_core::store::{Overview, RefreshLogEntry, Store};
use pipekeeper_core::terminal;
use serde::Serialize;

use super::default::default_of;
use super::get;
use super::list::Listed;
use super::text::{shortened, state, when};

/// Attempts that are shown.
const ATTEMPTS: u16 = 10;

#[derive(Serialize)]
struct Document<'a> {
    connection: Listed<'a>,
    refresh_log: Vec<Attempt<'a>>,
}

/// The columns of `refresh_log`.
#[derive(Serialize)]
struct Attempt<'a> {
    started_at: Timestamp,
    trigger_kind: &'a str,
    outcome: &'a str,
    generation_before: i64,
    generation_after: Option<i64>,
    duration_ms: i64,
    error: Option<&'a str>,
}

impl<'a> From<&'a RefreshLogEntry> for Attempt<'a> {
    fn from(entry: &'a RefreshLogEntry) -> Self {
        Self {
            started_at: entry.started_at,
            trigger_kind: &entry.trigger,
            outcome: &entry.outcome,
            generation_before: entry.generation_before,
            generation_after: entry.generation_after,
            duration_ms: entry.duration_ms,
            error: entry.error.as_deref(),
        }
    }
}

pub(super) async fn show(
    store: &Store,
    apps: &Apps,
    id: &ConnectionId,
    json: bool,
    now: Timestamp,
) -> anyhow::Result<String> {
    let row = get(store, id).await?;
    let log = store
        .refresh_log_for(id, ATTEMPTS)
        .await
        .context("refresh_log can't be read")?;
    let defaults = store.defaults_of(&[&row.id]).await;
    let defaults = defaults.context("the default connections can't be read")?;
    if json {
        let document = Document {
            connection: Listed::of(&row, &defaults),
            refresh_log: log.iter().map(Attempt::from).collect(),
        };
        return Ok(terminal::plain_json(&serde_json::to_string_pretty(
            &document,
        )?));
    }
    let app = apps.of(&row.app()).map(|app| app.key.as_str());
    Ok(format!(
        "{}\n\n{}",
        terminal::pairs(fields(&row, &default_of(&row, &defaults), app, now)),
        attempts(&log, now)
    ))
}

/// Named as in the view `connections_overview`; a state and its reason stand together.
pub(super) fn fields(
    row: &Overview,
    default_of: &[&str],
    app: Option<&str>,
    now: Timestamp,
) -> impl IntoIterator<Item = (&'static str, String)> {
    let at = |at: Timestamp| when(at, now);
    let at_if = |at: Option<Timestamp>| at.map(|at| when(at, now)).unwrap_or_default();
    let app_id = match app {
        Some(key) => format!("{} (apps.{key})", row.app_id),
        None => format!("{} (not configured here)", row.app_id),
    };
    [
        ("id", row.id.to_string()),
        ("platform", row.platform.clone()),
        ("app_id", app_id),
        ("account_id", row.account_id.as_str().to_owned()),
        ("owner", row.owner.as_str().to_owned()),
        ("default_of", default_of.join(", ")),
        ("company_id", row.company_id.clone()),
        ("company_domain", row.company_domain.clone()),
        ("company_name", row.company_name.clone()),
        ("user_id", row.user_id.clone()),
        ("user_name", row.user_name.clone()),
        ("api_domain", row.api_domain.clone()),
        ("scope", row.scope.clone()),
        ("state", state(row.state, row.state_reason.as_deref())),
        ("state_since", at(row.state_since)),
        ("revoke_pending", yes_or_no(row.revoke_pending)),
        ("generation", row.generation.to_string()),
        ("expires_at", at(row.expires_at)),
        ("refreshed_at", at_if(row.refreshed_at)),
        ("authorized_at", at(row.authorized_at)),
        ("idle_deadline", at_if(row.idle_deadline)),
        ("last_used_at", at_if(row.last_used_at)),
        ("due_at", at(row.due_at)),
        ("in_doubt", yes_or_no(row.in_doubt)),
        ("early_renewals", row.early_renewals.to_string()),
        ("failures", row.failures.to_string()),
        ("retry_at", at_if(row.retry_at)),
        ("last_error", row.last_error.clone().unwrap_or_default()),
        ("created_at", at(row.created_at)),
        ("updated_at", at(row.updated_at)),
    ]
}

fn yes_or_no(value: bool) -> String {
    if value { "yes" } else { "no" }.to_owned()
}

pub(super) fn attempts(log: &[RefreshLogEntry], now: Timestamp) -> String {
    if log.is_empty() {
        return "No attempt to refresh it is remembered.".to_owned();
    }
    let rows = log.iter().map(|entry| {
        let generation = match entry.generation_after {
            Some(after) => format!("{} → {after}", entry.generation_before),
            None => entry.generation_before.to_string(),
        };
        [
            when(entry.started_at, now),
            entry.trigger.clone(),
            entry.outcome.clone(),
            generation,
            format!("{} ms", entry.duration_ms),
            shortened(entry.error.as_deref().unwrap_or_default()),
        ]
    });
    let heads = [
        "STARTED",
        "TRIGGER",
        "OUTCOME",
        "GENERATION",
        "TOOK",
        "ERROR",
    ];
    format!(
        "The last attempts to refresh it:\n\n{}",
        terminal::table(heads, rows)
    )
}
