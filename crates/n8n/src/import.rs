//! `token-refresher import`: grants that other places keep become connections.
//!
//! Nothing is written to where they are. What the provider says of an access token (`/v1/users/me`) decides whose grant it
//! is; one whose access token has expired is found out by a refresh, if that is asked for. Every step can be
//! cut short, and is taken up by the same command.

mod claim;
mod default;
mod existing;
mod expired;
mod grant;
mod source;

pub(crate) use claim::FORMER;
pub(crate) use default::{may_move, set as set_default};

use std::collections::{BTreeMap, HashMap};
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{bail, ensure};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{AppKey, ConnectionId};
use pipekeeper_core::http_client;
use pipekeeper_core::oauth::Identity;
use pipekeeper_core::provider::{App, Apps};
use pipekeeper_core::store::{AppTok, AppTokRow};
use pipekeeper_core::terminal;
use pipekeeper_refresh::Refresher;

use crate::config::OldTable;
use crate::named;

use self::grant::{Grant, IdentityCheck};
use self::source::SourceRow;

/// So many grants' owners are asked for at a time.
const ASKED_AT_ONCE: usize = 8;

/// `token-refresher import …`.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// What keeps the grants now: the table at `old_table.url`, or a file
    #[arg(long)]
    from: From,
    /// The CSV export of the table, or JSON: the table's rows, or the CRM integration's documents
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// The key in the configuration of the app that rows without an `AppId` belong to
    #[arg(long, value_name = "KEY")]
    app: Option<String>,
    /// Apply the changes (default: dry run)
    #[arg(long)]
    apply: bool,
    /// Refresh each grant that is taken over once: it is proven to be good, and an expired one says whose it is
    #[arg(long)]
    refresh: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum From {
    Postgres,
    Mysql,
    Sqlite,
    Csv,
    Json,
}

/// What is done about one row or document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum RowOutcome {
    /// A new connection, or an ended one anew.
    Imported,
    /// Nothing had to be done.
    AlreadyImported,
    /// It belongs to no app of ours.
    Skipped,
    /// The operator has to act.
    NeedsAction,
}

/// A line of the report.
#[derive(Debug, Clone)]
struct RowReport {
    did: RowOutcome,
    said: String,
    identity: Option<Box<Identity>>,
    /// The app that it turned out to be of.
    app: Option<Arc<App>>,
    /// The connection that it is, or became.
    connection: Option<ConnectionId>,
}

impl RowReport {
    fn new(did: RowOutcome, said: impl Into<String>) -> Self {
        Self {
            did,
            said: said.into(),
            identity: None,
            app: None,
            connection: None,
        }
    }

    fn of(mut self, identity: &Identity) -> Self {
        self.identity = Some(Box::new(identity.clone()));
        self
    }

    fn at(mut self, connection: &ConnectionId) -> Self {
        self.connection = Some(connection.clone());
        self
    }
}

/// An app, a company and its user.
type Person = (AppKey, String, String);

/// The first grant of a person that a run has found.
#[derive(Debug, Clone)]
struct FirstGrant {
    /// Where: `row 3`.
    name: String,
    /// The provider refused its refresh token in this run.
    is_refused: bool,
}

/// One run of the command, or of the mirror over rows that have changed.
struct Run<'a> {
    refresher: &'a Arc<Refresher>,
    client: reqwest::Client,
    old_table: &'a OldTable,
    /// The name under which rows of the old table are noted; `None` where the source is a file.
    source_table: Option<String>,
    apply: bool,
    refresh: bool,
    /// Whose grants this run has found, by app, company and user: a second one of the same person is not spent.
    taken: HashMap<Person, FirstGrant>,
    /// The newest first: each is authorized a little before the last.
    at: Timestamp,
}

/// An import that can begin: what the source holds, and the app of rows that name none.
#[derive(Debug)]
pub struct Import {
    arguments: Arguments,
    found: Vec<SourceRow>,
    source_table: Option<String>,
    hides_rows: bool,
    app: Option<Arc<App>>,
}

impl Import {
    /// Reads the source.
    ///
    /// # Errors
    /// The source can't be read, or the app is not configured.
    pub async fn prepare(
        arguments: Arguments,
        old_table: &OldTable,
        apps: &Apps,
    ) -> anyhow::Result<Self> {
        let old = open(&arguments, old_table)?;
        let mut hides_rows = false;
        let found = match (&old, &arguments.file) {
            (Some(old), _) => {
                let rows = source::table(old).await?;
                hides_rows = old.hides_rows().await?;
                rows
            }
            (None, Some(path)) if arguments.from == From::Csv => source::csv(path)?,
            (None, Some(path)) => source::json(path)?,
            (None, None) => bail!("--file says which file to read"),
        };
        let app = arguments.app.as_deref().map(|key| apps.get(key));
        let app = app.transpose()?.cloned();
        Ok(Self {
            arguments,
            found,
            source_table: old.map(|old| old.table().to_owned()),
            hides_rows,
            app,
        })
    }

    /// Imports what was read, and returns a report.
    ///
    /// # Errors
    /// One of the two databases can't be used. The same command continues what was begun.
    pub async fn run(
        self,
        old_table: &OldTable,
        refresher: &Arc<Refresher>,
    ) -> anyhow::Result<String> {
        // Of each that was found: the app it is of, and what is done about it.
        let mut lines: Vec<(&str, Option<RowReport>)> = Vec::new();
        let mut grants = Grants::new();
        for (index, one) in self.found.iter().enumerate() {
            match grant::app_of(one, refresher.apps(), self.app.as_ref()) {
                Ok(app) => {
                    lines.push((&app.key, None));
                    grants
                        .entry(grant::token_hash(one))
                        .or_insert_with(|| Grant::of(one))
                        .add(index, app);
                }
                Err(report_of_row) => lines.push(("-", Some(report_of_row))),
            }
        }
        let run = Run {
            client: http_client::build(refresher.timing().call_limits())?,
            old_table,
            source_table: self.source_table.clone(),
            apply: self.arguments.apply,
            refresh: self.arguments.refresh,
            taken: HashMap::new(),
            at: refresher.now(),
            refresher,
        };
        let (decided, defaults) = run.decided_with_defaults(&self.found, grants).await?;
        for (index, report_of_row) in decided {
            if let Some((_, place)) = lines.get_mut(index) {
                *place = Some(report_of_row);
            }
        }
        let mut report = report(&self.found, &lines, &defaults, self.arguments.apply);
        if let Some(table) = self.source_table.filter(|_| self.hides_rows) {
            write!(
                report,
                "\nRow-level security applies to {table}: rows that its policies hide from this role are not in this list. \
                 Use the table's owner, or a role with BYPASSRLS."
            )?;
        }
        Ok(report)
    }
}

fn open(arguments: &Arguments, old_table: &OldTable) -> anyhow::Result<Option<AppTok>> {
    let named = match arguments.from {
        From::Postgres => "postgres",
        From::Mysql => "mysql",
        From::Sqlite => "sqlite",
        From::Csv | From::Json => return Ok(None),
    };
    ensure!(
        arguments.file.is_none(),
        "--file belongs to --from csv and --from json: the table is at old_table.url"
    );
    let old = old_table.open()?;
    ensure!(
        old.backend().as_str() == named,
        "old_table.url is that of a {} database, not {named}",
        old.backend()
    );
    Ok(Some(old))
}

/// A row that was imported before, and holds another refresh token by now.
pub(crate) struct ChangedRow {
    pub(crate) row: AppTokRow,
    /// The app of the connection that it belonged to, for a row that names none.
    pub(crate) app: Arc<App>,
}

/// What became of such a row.
pub(crate) struct Reconciled {
    pub(crate) source_row: String,
    pub(crate) said: String,
    /// Its tokens are stored here.
    pub(crate) is_stored: bool,
}

/// Stores the tokens of rows that others have written to. Nothing is spent: the provider is asked whose they are.
pub(crate) async fn reconcile(
    refresher: &Arc<Refresher>,
    client: &reqwest::Client,
    old_table: &OldTable,
    source_table: &str,
    changed: Vec<ChangedRow>,
) -> anyhow::Result<Vec<Reconciled>> {
    let mut run = Run {
        refresher,
        client: client.clone(),
        old_table,
        source_table: Some(source_table.to_owned()),
        apply: true,
        refresh: false,
        taken: HashMap::new(),
        at: refresher.now(),
    };
    let mut found = Vec::new();
    let mut grants = Grants::new();
    let mut decided = Vec::new();
    for (index, changed) in changed.into_iter().enumerate() {
        let one = source::of_table(changed.row);
        match grant::app_of(&one, refresher.apps(), Some(&changed.app)) {
            Ok(app) => grants
                .entry(grant::token_hash(&one))
                .or_insert_with(|| Grant::of(&one))
                .add(index, app),
            Err(report_of_row) => decided.push((index, report_of_row)),
        }
        found.push(one);
    }
    decided.extend(run.decided(&found, grants).await?);
    let mut reconciled = Vec::new();
    for (index, report_of_row) in decided {
        let Some((one, source_row)) = found
            .get(index)
            .and_then(|one| Some((one, one.row.clone()?)))
        else {
            continue;
        };
        let link = refresher
            .store()
            .import_find(source_table, &source_row)
            .await?;
        let hash = grant::token_hash(one);
        reconciled.push(Reconciled {
            source_row,
            said: report_of_row.said,
            is_stored: link.is_some_and(|link| link.token_hash == hash),
        });
    }
    Ok(reconciled)
}

/// Whether the row is of one of these apps' platforms, and holds tokens.
pub(crate) fn is_usable(row: &AppTokRow, apps: &Apps) -> bool {
    let one = source::of_table(row.clone());
    match grant::app_of(&one, apps, None) {
        Ok(_) => true,
        // Of several apps it may name none.
        Err(report_of_row) => report_of_row.did == RowOutcome::NeedsAction,
    }
}

/// The newest row of each app: of those that name it by their `AppId`, if any does. `app`: that of a row's connection, for
/// one that names none.
pub(crate) fn newest_rows(
    apps: &Apps,
    rows: &[AppTokRow],
    app: impl Fn(&AppTokRow) -> Option<Arc<App>>,
) -> Vec<(Arc<App>, String)> {
    let mut newest: BTreeMap<String, (Arc<App>, SourceRow)> = BTreeMap::new();
    for row in rows {
        let chosen = app(row);
        let one = source::of_table(row.clone());
        let Ok(app) = grant::app_of(&one, apps, chosen.as_ref()) else {
            continue;
        };
        match newest.get(&app.key) {
            Some((_, other)) if other.by_default(&one).is_ge() => {}
            Some(_) | None => {
                newest.insert(app.key.clone(), (Arc::clone(app), one));
            }
        }
    }
    let newest = newest.into_values();
    newest
        .filter_map(|(app, one)| Some((app, one.row?)))
        .collect()
}

/// What was found, by the refresh token's hash.
type Grants = BTreeMap<String, Grant>;

impl Run<'_> {
    /// What becomes of each, by its place among what was found; and lines about the default connections.
    async fn decided_with_defaults(
        mut self,
        found: &[SourceRow],
        grants: Grants,
    ) -> anyhow::Result<(Vec<(usize, RowReport)>, Vec<String>)> {
        let apps = grants.values().flat_map(|grant| grant.rows.iter().cloned());
        let apps: HashMap<usize, Arc<App>> = apps.collect();
        let decided = self.decided(found, grants).await?;
        let defaults = self.set_defaults(found, &apps, &decided).await?;
        Ok((decided, defaults))
    }

    async fn decided(
        &mut self,
        found: &[SourceRow],
        grants: Grants,
    ) -> anyhow::Result<Vec<(usize, RowReport)>> {
        let mut grants: Vec<Grant> = grants.into_values().collect();
        for grant in &mut grants {
            grant.sort(found);
        }
        // The newest first: of several grants of one person it is the one that is taken.
        grants.sort_by(|a, b| b.newest(found).by_age(a.newest(found)));
        let mut decided = Vec::new();
        let mut asking = Vec::new();
        for grant in grants {
            match self.known(found, &grant).await? {
                Some(verdicts) => decided.extend(verdicts),
                None => asking.push(grant),
            }
        }
        let run = &*self;
        let asked: Vec<(Grant, IdentityCheck)> = stream::iter(asking)
            .map(|grant| async move {
                let asked = run.ask(found, &grant).await;
                (grant, asked)
            })
            .buffered(ASKED_AT_ONCE)
            .collect()
            .await;
        // Who is known before who has yet to be found out.
        let (good, rest): (Vec<_>, Vec<_>) = asked
            .into_iter()
            .partition(|(_, asked)| matches!(asked, IdentityCheck::Known(_)));
        for (grant, asked) in good.into_iter().chain(rest) {
            let verdicts = match asked {
                IdentityCheck::Known(known) => self.take(found, &grant, &known).boxed().await?,
                IdentityCheck::Expired => self.take_expired(found, &grant).boxed().await?,
                IdentityCheck::Unknown(why) => {
                    grant.all(&RowReport::new(RowOutcome::NeedsAction, why))
                }
            };
            decided.extend(verdicts);
        }
        Ok(decided)
    }

    /// Notes the person's first grant; the one that is noted already stays, unless it was refused.
    fn note_first(&mut self, person: Person, name: &str, is_refused: bool) {
        let first = FirstGrant {
            name: name.to_owned(),
            is_refused,
        };
        let noted = self.taken.entry(person).or_insert_with(|| first.clone());
        if noted.is_refused || noted.name == name {
            *noted = first;
        }
    }

    /// A little before the last one.
    fn next_at(&mut self) -> Timestamp {
        let at = self.at;
        self.at = at.saturating_sub(std::time::Duration::from_micros(1));
        at
    }
}

impl fmt::Display for RowOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Imported => "taken over",
            Self::AlreadyImported => "already here",
            Self::Skipped => "left alone",
            Self::NeedsAction => "open",
        })
    }
}

fn report(
    found: &[SourceRow],
    lines: &[(&str, Option<RowReport>)],
    defaults: &[String],
    apply: bool,
) -> String {
    let mut rows = Vec::new();
    let mut sums: BTreeMap<RowOutcome, usize> = BTreeMap::new();
    for (one, (app, report_of_row)) in found.iter().zip(lines) {
        let Some(report_of_row) = report_of_row else {
            continue;
        };
        let (company, user) = match &report_of_row.identity {
            Some(who) => (
                named(&who.company_id, &who.company_name),
                named(&who.user_id, &who.user_name),
            ),
            None => Default::default(),
        };
        *sums.entry(report_of_row.did.clone()).or_default() += 1;
        rows.push([
            one.name.clone(),
            (*app).to_owned(),
            company,
            user,
            report_of_row.said.clone(),
        ]);
    }
    let sums: Vec<String> = sums
        .iter()
        .map(|(did, number)| match (did, apply) {
            (RowOutcome::Imported, false) => format!("{number} to be taken over"),
            _ => format!("{number} {did}"),
        })
        .collect();
    let mut end = match (sums.is_empty(), apply) {
        (true, _) => "Nothing was found.".to_owned(),
        (false, true) => format!("{}.", sums.join(", ")),
        (false, false) => format!("{}. Nothing was written: --apply does it.", sums.join(", ")),
    };
    for default in defaults {
        end.push('\n');
        end.push_str(default);
    }
    if rows.is_empty() {
        return end;
    }
    let headings = ["FOUND", "APP", "COMPANY", "USER", "WHAT"];
    format!("{}\n\n{end}", terminal::table(headings, rows))
}

/// Where one of ours is named: only its id.
fn connection(id: &ConnectionId) -> String {
    format!("connection {id}")
}

/// The apps' names in what is said.
fn app_names(apps: &[Arc<App>]) -> String {
    let names: Vec<&str> = apps.iter().map(|app| app.key.as_str()).collect();
    names.join(" and ")
}
