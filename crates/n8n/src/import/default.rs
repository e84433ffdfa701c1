//! The default connection of each app that an import finds rows of: that of the newest row with an `AppId`, which is the
//! row that callers name.
//!
//! Where workflows still read the table (`old_table.mirror`), the default has to be the connection of that row, whatever
//! became the default before: only then the row that a caller reads next holds the token that it has asked for. What the
//! operator has chosen stays.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{AccountName, Connection, ConnectionState};
use pipekeeper_core::placement::DefaultReason;
use pipekeeper_core::provider::App;
use pipekeeper_core::store::{DefaultConnection, NewDefault, Store, StoreError};

use super::claim::FORMER;
use super::source::SourceRow;
use super::{RowOutcome, RowReport, Run};

/// A row that may say which connection is the default.
type Candidate<'a> = (&'a SourceRow, &'a RowReport);

/// The connection of the newest row of an app.
enum Newest<'a> {
    Known(&'a SourceRow, Box<Option<Connection>>),
    /// It is not known whose the newest row is.
    Open(&'a SourceRow),
    None,
}

impl Run<'_> {
    /// Sets the defaults, and says of each app which one it has. `apps`: of each that was found, the app that it names.
    pub(super) async fn set_defaults(
        &self,
        found: &[SourceRow],
        apps: &HashMap<usize, Arc<App>>,
        decided: &[(usize, RowReport)],
    ) -> anyhow::Result<Vec<String>> {
        let mut of_apps: BTreeMap<&str, (&Arc<App>, Vec<Candidate<'_>>)> = BTreeMap::new();
        for (place, report_of_row) in decided {
            let (Some(one), Some(app)) = (found.get(*place), apps.get(place)) else {
                continue;
            };
            // It may hold the token of another app.
            if report_of_row
                .app
                .as_ref()
                .is_none_or(|own| own.key == app.key)
            {
                let of_app = of_apps.entry(&app.key).or_insert((app, Vec::new()));
                of_app.1.push((one, report_of_row));
            }
        }
        let mut lines = Vec::new();
        for (app, candidates) in of_apps.into_values() {
            lines.extend(self.set_default(app, candidates).await?);
        }
        Ok(lines)
    }

    async fn set_default(
        &self,
        app: &Arc<App>,
        candidates: Vec<Candidate<'_>>,
    ) -> anyhow::Result<Option<String>> {
        let (store, now) = (self.refresher.store(), self.refresher.now());
        if self.apply {
            for (_, report_of_row) in &candidates {
                if let Some(row) = self.connection_of(app, report_of_row).await?
                    && row.state == ConnectionState::Active
                {
                    let account = Some(row.account_id.clone());
                    set_if_absent(store, &row, account, now).await?;
                }
            }
        }
        let default = store.default_connection(&app.app_key(), None).await?;
        let kept = default.as_ref().map(|(default, _)| default);
        let stays = |default: &DefaultConnection| {
            format!(
                "Callers that name only the app {} go on getting connection {}, its default connection.",
                app.key, default.connection_id
            )
        };
        let (one, row) = match self.newest(app, candidates).await? {
            Newest::None => return Ok(kept.map(stays)),
            Newest::Open(one) => {
                let open = format!(
                    "The default connection of the app {} is that of {}, the newest, which is open: none is set.",
                    app.key, one.name
                );
                return Ok(Some(kept.map_or(open, stays)));
            }
            Newest::Known(one, row) => (one, *row),
        };
        if let Some(kept) = kept
            && !(self.is_of_mirror() && may_move(kept, row.as_ref()))
        {
            return Ok(Some(stays(kept)));
        }
        Ok(Some(match row {
            Some(row) if self.apply => {
                set(store, &row, now).await?;
                format!(
                    "Callers that name only the app {} get connection {} ({}, the newest): its default connection from now on.",
                    app.key, row.id, one.name
                )
            }
            _ => format!(
                "Callers that name only the app {} would get {}, the newest: it becomes the default connection.",
                app.key, one.name
            ),
        }))
    }

    /// Whether workflows read the rows that were found.
    fn is_of_mirror(&self) -> bool {
        self.old_table.mirror && self.source_table.is_some()
    }

    async fn newest<'f>(
        &self,
        app: &App,
        mut candidates: Vec<Candidate<'f>>,
    ) -> anyhow::Result<Newest<'f>> {
        candidates.sort_by(|(a, _), (b, _)| b.by_default(a));
        for (one, report_of_row) in candidates {
            if report_of_row.did == RowOutcome::NeedsAction {
                return Ok(Newest::Open(one));
            }
            let row = self.connection_of(app, report_of_row).await?;
            let is_active = match &row {
                Some(row) => {
                    row.state == ConnectionState::Active
                        || !self.apply && report_of_row.did == RowOutcome::Imported
                }
                None => !self.apply && report_of_row.did != RowOutcome::AlreadyImported,
            };
            if is_active && !self.is_strangers(one, row.as_ref()).await? {
                return Ok(Newest::Known(one, Box::new(row)));
            }
        }
        Ok(Newest::None)
    }

    /// The connection of the person whose grant it is.
    async fn connection_of(
        &self,
        app: &App,
        report_of_row: &RowReport,
    ) -> Result<Option<Connection>, StoreError> {
        let store = self.refresher.store();
        match (&report_of_row.connection, &report_of_row.identity) {
            (Some(id), _) => store.connection_find(id).await,
            (None, Some(who)) => {
                store
                    .connection_find_by_grant(&app.app_key(), &who.company_id, &who.user_id)
                    .await
            }
            (None, None) => Ok(None),
        }
    }

    /// Whether the row was imported as another person's before: an install must not change what callers get.
    async fn is_strangers(
        &self,
        found: &SourceRow,
        row: Option<&Connection>,
    ) -> Result<bool, StoreError> {
        let (Some(table), Some(source_row)) = (&self.source_table, &found.row) else {
            return Ok(false);
        };
        let store = self.refresher.store();
        let before = if self.apply {
            store.import_find(FORMER, source_row).await?
        } else {
            store.import_find(table, source_row).await?
        };
        let before = before.filter(|before| before.handed_back_at.is_none());
        Ok(before.is_some_and(|before| Some(&before.connection_id) != row.map(|row| &row.id)))
    }
}

/// Whether the connection of the newest row takes the default's place.
pub(crate) fn may_move(default: &DefaultConnection, row: Option<&Connection>) -> bool {
    default.reason != DefaultReason::Operator.as_str() && !row.is_some_and(|row| default.is(row))
}

/// Makes a connection the default of its app.
pub(crate) async fn set(store: &Store, row: &Connection, now: Timestamp) -> Result<(), StoreError> {
    let new = NewDefault {
        app: row.app(),
        account: None,
        reason: DefaultReason::Import,
    };
    store.default_connection_set(row, &new, now).await
}

async fn set_if_absent(
    store: &Store,
    row: &Connection,
    account: Option<AccountName>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let new = NewDefault {
        app: row.app(),
        account,
        reason: DefaultReason::Import,
    };
    store.default_connection_set_if_absent(row, &new, now).await
}
