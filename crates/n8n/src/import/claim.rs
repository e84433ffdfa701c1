//! Whose a grant is, is known: the row that it gets here, or why it gets none.

use pipekeeper_core::connection::{
    AccountName, Connection, ConnectionId, ConnectionState, HANDED_BACK,
};
use pipekeeper_core::granted::PlainGrant;
use pipekeeper_core::oauth::Identity;
use pipekeeper_core::placement::{self, Arrival, ImportedToken, Placement, Rows};
use pipekeeper_core::provider::App;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Import, NewConnection, Revocation, StoreError};
use pipekeeper_refresh::{RefreshError, Trigger};

use super::existing::{has_ended, identity_of, is_here, is_provisional, refused};
use super::grant::{Grant, Known};
use super::source::SourceRow;
use super::{RowOutcome, RowReport, Run, connection};
use crate::REFRESH_TIMEOUT;

/// Under this name each refresh token that became a connection's is noted by its hash, wherever it was found: none is spent
/// a second time. No table has such a name.
const GRANTS: &str = "~grant";

/// Under this name it is noted which connection a row of the old table belonged to, before another person's tokens were
/// written into it.
pub(crate) const FORMER: &str = "~former";

impl Run<'_> {
    /// A refresh token that was taken over before is not looked at again.
    pub(super) async fn known(
        &mut self,
        found: &[SourceRow],
        grant: &Grant,
    ) -> anyhow::Result<Option<Vec<(usize, RowReport)>>> {
        let Some(row) = self.noted(&grant.token_hash).await? else {
            return Ok(None);
        };
        let apps = grant.apps();
        let Some(app) = apps.iter().find(|app| app.app_key() == row.app()) else {
            return Ok(None);
        };
        if is_provisional(&row) || row.state_reason.as_deref() == Some(HANDED_BACK) {
            return Ok(None);
        }
        let report_of_row = match row.state {
            ConnectionState::Active => {
                self.link(found, grant, app, &row).await?;
                is_here(&row)
            }
            ConnectionState::ReauthRequired | ConnectionState::Revoked => has_ended(&row),
        };
        Ok(Some(grant.told(
            found,
            app,
            &report_of_row.of(&identity_of(&row)),
        )))
    }

    /// The connection that a refresh token was taken over for.
    pub(super) async fn noted(&self, token_hash: &str) -> Result<Option<Connection>, StoreError> {
        let store = self.refresher.store();
        let Some(note) = store.import_find(GRANTS, token_hash).await? else {
            return Ok(None);
        };
        let row = store.connection_find(&note.connection_id).await?;
        // A run that was killed, or lost a race, before the tokens were stored has left a note of what did not happen.
        let is_stored =
            |row: &Connection| note.replaced_at.is_none_or(|at| row.authorized_at >= at);
        Ok(row.filter(|row| note.token_hash == token_hash && is_stored(row)))
    }

    pub(super) async fn note(&self, token_hash: &str, id: &ConnectionId) -> Result<(), StoreError> {
        self.put(Import {
            token_hash: token_hash.to_owned(),
            ..grant_note(token_hash, id)
        })
        .await
    }

    /// Takes back what was noted of a connection that is none after all.
    pub(super) async fn forget_imports(&self, id: &ConnectionId) -> Result<(), StoreError> {
        self.refresher.store().imports_forget(id).await
    }

    /// Notes which rows of the old table are this connection's.
    pub(super) async fn link(
        &self,
        found: &[SourceRow],
        grant: &Grant,
        app: &App,
        row: &Connection,
    ) -> Result<(), StoreError> {
        let Some(source_table) = &self.source_table else {
            return Ok(());
        };
        for (place, own) in &grant.rows {
            let source_row = found.get(*place).and_then(|found| found.row.clone());
            if let Some(source_row) = source_row
                && own.key == app.key
            {
                self.put(Import {
                    source_table: source_table.clone(),
                    source_row,
                    connection_id: row.id.clone(),
                    token_hash: grant.token_hash.clone(),
                    handed_back_at: None,
                    replaced_at: None,
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Writes what is not noted yet.
    async fn put(&self, mut import: Import) -> Result<(), StoreError> {
        let (store, now) = (self.refresher.store(), self.refresher.now());
        if !self.apply {
            return Ok(());
        }
        let noted = store
            .import_find(&import.source_table, &import.source_row)
            .await?;
        if let Some(noted) = noted {
            let is_same_token = noted.token_hash == import.token_hash;
            let is_handed_back = noted.handed_back_at.is_some();
            if is_same_token && !is_handed_back && noted.connection_id == import.connection_id {
                return Ok(());
            }
            if Some(&import.source_table) == self.source_table.as_ref() {
                if !is_handed_back {
                    import.replaced_at = if is_same_token {
                        noted.replaced_at
                    } else {
                        Some(now)
                    };
                }
                self.put_former(&noted, &import, is_handed_back).await?;
            }
        }
        store.import_put(&import, now).await
    }

    /// Notes whose a row was before another person's tokens were written into it. What was handed back begins anew.
    async fn put_former(
        &self,
        noted: &Import,
        import: &Import,
        is_handed_back: bool,
    ) -> Result<(), StoreError> {
        let (store, now) = (self.refresher.store(), self.refresher.now());
        let former = store.import_find(FORMER, &import.source_row).await?;
        let connection_id = match (former, is_handed_back) {
            (Some(_), true) => &import.connection_id,
            (None, false) if noted.connection_id != import.connection_id => &noted.connection_id,
            (Some(_), false) | (None, _) => return Ok(()),
        };
        let former = Import {
            source_table: FORMER.to_owned(),
            source_row: import.source_row.clone(),
            connection_id: connection_id.clone(),
            token_hash: noted.token_hash.clone(),
            handed_back_at: None,
            replaced_at: None,
        };
        store.import_put(&former, now).await
    }

    /// Whether a row that was imported before holds another refresh token since: a new consent.
    pub(super) async fn is_replaced(
        &self,
        found: &[SourceRow],
        grant: &Grant,
    ) -> Result<bool, StoreError> {
        let Some(source_table) = &self.source_table else {
            return Ok(false);
        };
        for (place, _) in &grant.rows {
            if let Some(row) = found.get(*place).and_then(|found| found.row.as_deref()) {
                let link = self
                    .refresher
                    .store()
                    .import_find(source_table, row)
                    .await?;
                let is_other = |link: Import| {
                    link.handed_back_at.is_none() && link.token_hash != grant.token_hash
                };
                if link.is_some_and(is_other) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Takes over a grant that is known to be this person's.
    pub(super) async fn take(
        &mut self,
        found: &[SourceRow],
        grant: &Grant,
        known: &Known,
    ) -> anyhow::Result<Vec<(usize, RowReport)>> {
        let report_of_row = self.take_one(found, grant, known).await?;
        let report_of_row = report_of_row.of(&known.identity);
        Ok(grant.told(found, &known.app, &report_of_row))
    }

    async fn take_one(
        &mut self,
        found: &[SourceRow],
        grant: &Grant,
        known: &Known,
    ) -> anyhow::Result<RowReport> {
        let (app, who) = (&known.app, &known.identity);
        let newest = grant.newest(found);
        let person = (app.app_key(), who.company_id.clone(), who.user_id.clone());
        let first = self.taken.get(&person).cloned();
        self.note_first(person.clone(), &newest.name, false);
        let store = self.refresher.store().clone();
        let held = store
            .connection_find_by_grant(&app.app_key(), &who.company_id, &who.user_id)
            .await?;
        let proof = match first {
            Some(first) if !first.is_refused => {
                if let Some(held) = &held {
                    self.link(found, grant, app, held).await?;
                }
                let beside = format!(
                    "another grant of the same person as {}: kept for when that one ends",
                    first.name
                );
                return Ok(RowReport::new(RowOutcome::Skipped, beside));
            }
            Some(first) => Proof::Spared(first.name),
            None if self.refresh => Proof::Refresh,
            None => Proof::None,
        };
        let granted = PlainGrant {
            identity: who,
            access_token: &known.access_token,
            refresh_token: &newest.refresh_token,
            api_domain: &known.api_domain,
            scope: &newest.scope,
            expires_at: newest.expires_at.unwrap_or_else(|| self.refresher.now()),
            authorized_at: self.next_at(),
            last_used_at: None,
        };
        let is_replaced = self.is_replaced(found, grant).await?;
        let token = self.compared(held.as_ref(), granted.refresh_token, is_replaced);
        let (account_and_owner, of_account) = match &held {
            Some(held) => ((held.account_id.clone(), held.owner.clone()), None),
            None => match self.account_and_owner(newest, who, app).await? {
                Ok(named) => named,
                Err(report_of_row) => return Ok(report_of_row),
            },
        };
        let rows = Rows {
            of_person: held.as_ref(),
            of_account: of_account.as_ref(),
        };
        match placement::decide(who, Arrival::Import(token), rows) {
            Placement::Insert => {}
            Placement::Keep(held) => {
                self.link(found, grant, app, held).await?;
                return Ok(is_here(held));
            }
            Placement::Update { row, .. } => {
                return self.revive(found, grant, app, row, &granted, proof).await;
            }
            Placement::Refuse { refusal, .. } => return Ok(refused(refusal)),
        }
        if !self.apply {
            let planned = if self.refresh {
                "is taken over, and refreshed once"
            } else {
                "is taken over"
            };
            return Ok(RowReport::new(RowOutcome::Imported, planned));
        }
        let id = ConnectionId::generate();
        let consent = granted.sealed(self.refresher.vault(), app, &id, account_and_owner);
        // Before the connection is there: by it this token is known, however soon this process ends.
        self.note(&grant.token_hash, &id).await?;
        let new = NewConnection {
            id: id.clone(),
            app: app.app_key(),
            consent,
        };
        store.connection_insert(&new, self.refresher.now()).await?;
        let Some(row) = store.connection_find(&id).await? else {
            return Ok(RowReport::new(
                RowOutcome::NeedsAction,
                "gone at once: run this again",
            ));
        };
        self.link(found, grant, app, &row).await?;
        let proven = self.prove(&row, Fresh::Yes, proof).await?;
        if proven.did == RowOutcome::NeedsAction {
            self.note_first(person, &newest.name, true);
        }
        Ok(proven)
    }

    /// Gives a connection the newer tokens that were found.
    async fn revive(
        &mut self,
        found: &[SourceRow],
        grant: &Grant,
        app: &App,
        held: &Connection,
        granted: &PlainGrant<'_>,
        proof: Proof,
    ) -> anyhow::Result<RowReport> {
        let here = connection(&held.id);
        if !self.apply {
            let said = match held.state {
                ConnectionState::Active => format!("replaces the older tokens of {here}"),
                ConnectionState::ReauthRequired | ConnectionState::Revoked => {
                    format!("is taken over anew: {here}")
                }
            };
            return Ok(RowReport::new(RowOutcome::Imported, said).at(&held.id));
        }
        let (store, now) = (self.refresher.store(), self.refresher.now());
        let account_and_owner = (held.account_id.clone(), held.owner.clone());
        let mut consent = granted.sealed(self.refresher.vault(), app, &held.id, account_and_owner);
        consent.authorized_at = now;
        // Before the tokens are there: by it they are known to be the connection's, however soon this process ends.
        let mut note = Import {
            token_hash: grant.token_hash.clone(),
            replaced_at: Some(now),
            ..grant_note(&grant.token_hash, &held.id)
        };
        let before = store.import_find(GRANTS, &grant.token_hash).await?;
        store.import_put(&note, now).await?;
        let revived = store
            .connection_reconnect(&held.id, held.generation, &consent, now)
            .await?;
        let row = store.connection_find(&held.id).await?;
        let Some(row) = row.filter(|_| revived) else {
            note.token_hash.clear();
            store.import_put(&before.unwrap_or(note), now).await?;
            return Ok(RowReport::new(
                RowOutcome::NeedsAction,
                "it was written to meanwhile: run this again",
            ));
        };
        self.link(found, grant, app, &row).await?;
        self.prove(&row, Fresh::No, proof).await
    }

    /// One refresh, if it is asked for.
    async fn prove(
        &self,
        row: &Connection,
        fresh: Fresh,
        proof: Proof,
    ) -> anyhow::Result<RowReport> {
        let here = connection(&row.id);
        match proof {
            Proof::Refresh => {}
            Proof::None => {
                return Ok(
                    RowReport::new(RowOutcome::Imported, format!("taken over: {here}")).at(&row.id),
                );
            }
            Proof::Spared(first) => {
                let said = format!(
                    "taken over, not refreshed, because the refresh token of {first}, of the same person, was refused: {here}"
                );
                return Ok(RowReport::new(RowOutcome::Imported, said).at(&row.id));
            }
        }
        let refreshed = self
            .refresher
            .refresh(
                &row.id,
                Some(row.generation),
                Trigger::Operator,
                REFRESH_TIMEOUT,
            )
            .await;
        Ok(match refreshed {
            Ok(_) => RowReport::new(
                RowOutcome::Imported,
                format!("taken over and refreshed: {here}"),
            )
            .at(&row.id),
            Err(RefreshError::Ended { .. }) => {
                if fresh == Fresh::Yes {
                    self.drop_row(row).await?;
                    self.forget_imports(&row.id).await?;
                }
                RowReport::new(
                    RowOutcome::NeedsAction,
                    "its access token works, but its refresh token is refused: is it another app's? Connect it again",
                )
            }
            Err(error) => RowReport::new(
                RowOutcome::Imported,
                format!("taken over, not refreshed yet ({error}): {here}"),
            )
            .at(&row.id),
        })
    }

    /// Takes a row away whose tokens are useless, or are another row's by now; not one that another process has
    /// written to since. The provider is told nothing.
    pub(super) async fn drop_row(&self, row: &Connection) -> Result<(), StoreError> {
        let (store, now) = (self.refresher.store(), self.refresher.now());
        let mut generation = row.generation;
        if row.state != ConnectionState::Revoked {
            let known = Revocation::Known;
            if !store
                .connection_revoke(&row.id, generation, "imported", known, now)
                .await?
            {
                return Ok(());
            }
            generation += 1;
        }
        store.connection_forget(&row.id, generation).await.map(drop)
    }

    /// A token that would be taken over, beside that of the person's row.
    pub(super) fn compared(
        &self,
        held: Option<&Connection>,
        found: &Secret,
        is_replaced: bool,
    ) -> ImportedToken {
        let own = held.map(|row| self.refresher.vault().refresh_token(row));
        match own {
            Some(Ok(own)) if own.expose() == found.expose() => ImportedToken::Known,
            _ if is_replaced => ImportedToken::Replaces,
            Some(Err(_)) => ImportedToken::Known,
            _ => ImportedToken::Different,
        }
    }

    /// The account and owner that it is filed under, and the row that is there already.
    pub(super) async fn account_and_owner(
        &self,
        found: &SourceRow,
        who: &Identity,
        app: &App,
    ) -> anyhow::Result<Result<(AccountAndOwner, Option<Connection>), RowReport>> {
        let named = match &found.account_and_owner {
            Some((account_id, owner)) => account_id
                .parse::<AccountName>()
                .and_then(|account_id| Ok((account_id, owner.parse::<AccountName>()?)))
                .ok()
                .filter(|(account_id, owner)| {
                    !account_id.is_marketplace() && !owner.is_marketplace()
                }),
            None => AccountName::marketplace(&who.company_id)
                .and_then(|company| Ok((company, AccountName::marketplace(&who.user_id)?)))
                .ok(),
        };
        let Some((account_id, owner)) = named else {
            return Ok(Err(RowReport::new(
                RowOutcome::NeedsAction,
                "its account or owner is not a valid name: 1 to 128 bytes, no ~ at the beginning",
            )));
        };
        let own = self
            .refresher
            .store()
            .connection_find_by_owner(&app.app_key(), &account_id, &owner)
            .await?;
        Ok(Ok(((account_id, owner), own)))
    }
}

/// Tenant and user.
type AccountAndOwner = (AccountName, AccountName);

/// What is noted of a refresh token; its `token_hash` is empty until that is true.
fn grant_note(token_hash: &str, id: &ConnectionId) -> Import {
    Import {
        source_table: GRANTS.to_owned(),
        source_row: token_hash.to_owned(),
        connection_id: id.clone(),
        token_hash: String::new(),
        handed_back_at: None,
        replaced_at: None,
    }
}

/// How it is proven that a grant which was taken over is good.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Proof {
    /// Not at all: it was not asked for.
    None,
    Refresh,
    /// Not in this run: it has spent one refresh token of the same person, that of this row.
    Spared(String),
}

/// Whether a row was made a moment ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fresh {
    Yes,
    No,
}
