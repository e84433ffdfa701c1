//! `token-refresher connections list`.

use anyhow::{Context as _, bail, ensure};
use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{AccountName, ConnectionId, ConnectionState};
use pipekeeper_core::provider::{App, Apps};
use pipekeeper_core::store::{DefaultConnection, Listing, Overview, Page, Store};
use pipekeeper_core::terminal;
use serde::Serialize;

use super::default::{GoneDefault, default_of, gone_defaults};
use super::get;
use super::text::{away, shortened, state};

#[derive(Debug, Clone, clap::Args)]
pub struct List {
    /// Those of one app, by its key in the configuration
    #[arg(long, value_name = "KEY")]
    app: Option<String>,
    /// Those of one account; with several apps --app says of which
    #[arg(long, value_name = "ID")]
    account: Option<AccountName>,
    /// Those in one state, the newest consent first; with several apps --app says of which
    #[arg(long, value_parser = states())]
    state: Option<ConnectionState>,
    /// Maximum number of rows
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// Start after this connection id
    #[arg(long, value_name = "ID")]
    after: Option<ConnectionId>,
    /// One JSON document: `connections`, each with the columns of `connections_overview` and `default_of`, `next_after`, and
    /// `gone_defaults`
    #[arg(long)]
    json: bool,
}

fn states() -> impl clap::builder::TypedValueParser<Value = ConnectionState> {
    PossibleValuesParser::new(["active", "reauth_required", "revoked"])
        .try_map(|word| word.parse::<ConnectionState>())
}

#[derive(Serialize)]
struct Document<'a> {
    connections: Vec<Listed<'a>>,
    next_after: Option<&'a ConnectionId>,
    /// The apps whose default connection is gone.
    gone_defaults: Vec<GoneDefault>,
}

#[derive(Serialize)]
pub(super) struct Listed<'a> {
    #[serde(flatten)]
    row: &'a Overview,
    /// `app`, `account`
    default_of: Vec<&'static str>,
}

impl<'a> Listed<'a> {
    pub(super) fn of(row: &'a Overview, defaults: &[DefaultConnection]) -> Self {
        Self {
            row,
            default_of: default_of(row, defaults),
        }
    }
}

impl List {
    pub(super) async fn page(
        &self,
        store: &Store,
        apps: &Apps,
        now: Timestamp,
    ) -> anyhow::Result<String> {
        let listing = self.listing(apps)?;
        let after = match &self.after {
            Some(id) => Some(get(store, id).await.context("--after")?),
            None => None,
        };
        if let (Listing::Of { app, .. }, Some(after)) = (&listing, &after) {
            ensure!(
                *app == after.app(),
                "--after: {} is another app's",
                after.id
            );
        }
        let page = store
            .connections_page(&listing, after.as_ref(), self.limit)
            .await
            .context("the connections can't be read")?;
        let ids: Vec<&ConnectionId> = page.rows.iter().map(|row| &row.id).collect();
        let defaults = store.defaults_of(&ids).await;
        let defaults = defaults.context("the default connections can't be read")?;
        let apps_meant = apps
            .iter()
            .filter(|app| self.app.as_ref().is_none_or(|key| *key == app.key));
        let gone = gone_defaults(store, apps_meant).await?;
        if self.json {
            let listed = page.rows.iter().map(|row| Listed::of(row, &defaults));
            let document = Document {
                connections: listed.collect(),
                next_after: next_after(&page),
                gone_defaults: gone,
            };
            return Ok(terminal::plain_json(&serde_json::to_string_pretty(
                &document,
            )?));
        }
        let mut parts = vec![told(&page, &defaults, apps, now)];
        parts.extend(gone.iter().map(ToString::to_string));
        Ok(parts.join("\n\n"))
    }

    pub(super) fn listing(&self, apps: &Apps) -> anyhow::Result<Listing> {
        if self.app.is_none() && self.account.is_none() && self.state.is_none() {
            return Ok(Listing::All);
        }
        let keys = || {
            let keys: Vec<&str> = apps.iter().map(|app| app.key.as_str()).collect();
            keys.join(", ")
        };
        let mut meant = apps
            .iter()
            .filter(|app| self.app.as_ref().is_none_or(|key| *key == app.key));
        let app: &App = match (meant.next(), meant.next()) {
            (Some(app), None) => app,
            (Some(_), Some(_)) => bail!("several apps are configured: --app is one of {}", keys()),
            (None, _) => bail!(
                "no app `{}` is configured, but {}",
                self.app.as_deref().unwrap_or_default(),
                keys()
            ),
        };
        Ok(Listing::Of {
            app: app.app_key(),
            account_id: self.account.clone(),
            state: self.state,
        })
    }
}

fn next_after(page: &Page) -> Option<&ConnectionId> {
    page.rows.last().filter(|_| page.more).map(|last| &last.id)
}

pub(super) fn told(
    page: &Page,
    defaults: &[DefaultConnection],
    apps: &Apps,
    now: Timestamp,
) -> String {
    if page.rows.is_empty() {
        return "no connections".to_owned();
    }
    let heads = [
        "ID",
        "APP",
        "ACCOUNT",
        "OWNER",
        "DEFAULT OF",
        "COMPANY",
        "USER",
        "STATE",
        "EXPIRES",
        "IDLE UNTIL",
        "REFRESHED",
        "TROUBLE",
    ];
    let rows = page.rows.iter().map(|row| cells(row, defaults, apps, now));
    let table = terminal::table(heads, rows);
    match next_after(page) {
        Some(last) => format!("{table}\n\nMore rows: rerun with --after {last}"),
        None => table,
    }
}

fn cells(
    row: &Overview,
    defaults: &[DefaultConnection],
    apps: &Apps,
    now: Timestamp,
) -> [String; 12] {
    let app = apps.of(&row.app()).map_or(&row.app_id, |app| &app.key);
    let lives = row.state == ConnectionState::Active;
    let while_it_lives = |at: Option<Timestamp>| {
        at.filter(|_| lives)
            .map(|at| away(at, now))
            .unwrap_or_default()
    };
    [
        row.id.to_string(),
        app.clone(),
        row.account_id.as_str().to_owned(),
        row.owner.as_str().to_owned(),
        default_of(row, defaults).join(", "),
        shortened(first_of([
            &row.company_name,
            &row.company_domain,
            &row.company_id,
        ])),
        shortened(first_of([&row.user_name, &row.user_id, ""])),
        state(row.state, row.state_reason.as_deref()),
        while_it_lives(Some(row.expires_at)),
        while_it_lives(row.idle_deadline),
        row.refreshed_at.map(|at| away(at, now)).unwrap_or_default(),
        trouble(row),
    ]
}

/// The first that says anything.
fn first_of(names: [&str; 3]) -> &str {
    names
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or_default()
}

/// `3 × timeout, in doubt`
fn trouble(row: &Overview) -> String {
    let error = row.last_error.as_deref();
    let mut troubles = Vec::new();
    match (row.failures, error) {
        (0, Some(error)) => troubles.push(error.to_owned()),
        (0, None) => {}
        (failures, Some(error)) => troubles.push(format!("{failures} × {error}")),
        (failures, None) => troubles.push(format!("{failures} failures")),
    }
    if row.in_doubt && row.state == ConnectionState::Active {
        troubles.push("in doubt".to_owned());
    }
    if row.revoke_pending {
        troubles.push("provider not told yet".to_owned());
    }
    shortened(&troubles.join(", "))
}
