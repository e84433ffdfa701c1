//! A grant that can't say whose it is: its access token has expired. It is stored under a name of its own, refreshed through
//! like any other, and filed where it belongs once the new token has told whose it is.
//!
//! Its refresh token is noted before it is stored: by that note the next run finds what an interrupted one has begun, and
//! the token that stands where it was found is not spent again.

use std::sync::Arc;
use std::time::Duration;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{AccountName, Connection, ConnectionId, ConnectionState};
use pipekeeper_core::granted::{Consent, PlainGrant, fit_for_column};
use pipekeeper_core::oauth::{Identity, IdentityError};
use pipekeeper_core::placement::{self, Arrival, ImportedToken, Placement, Refusal, Rows};
use pipekeeper_core::provider::App;
use pipekeeper_core::random;
use pipekeeper_core::refresh_schedule::minted_at;
use pipekeeper_core::store::disconnect;
use pipekeeper_core::store::{NewConnection, StoreError};
use pipekeeper_core::vault::RowContext;
use pipekeeper_refresh::{Outcome, RefreshError, Trigger};

use super::existing::{ACCOUNT, identity_of, is_here, is_provisional, refused};
use super::grant::{Grant, hint, unasked};
use super::source::SourceRow;
use super::{FirstGrant, RowOutcome, RowReport, Run, app_names, connection};
use crate::REFRESH_TIMEOUT;

/// A provider that has just issued a token may need a moment before it knows it everywhere.
const IDENTITY_TRIES: u32 = 5;

/// What is not filed yet counts as authorized so much earlier, so that whatever else is stored of its person is newer.
const AGE: Duration = Duration::from_hours(20 * 365 * 24);

/// What is said of a living grant whose person was disconnected here.
const ENDED: &str =
    "was disconnected here: its grant was alive, and is ended at the provider; connect it again";

/// What became of a refresh.
enum Renewed {
    Known(Box<Connection>, Box<Identity>),
    /// By the provider: it is none of this app's, or no good any more.
    Refused,
    Open(RowReport),
}

impl Run<'_> {
    /// Takes over a grant whose owner only a refresh can tell.
    pub(super) async fn take_expired(
        &mut self,
        found: &[SourceRow],
        grant: &Grant,
    ) -> anyhow::Result<Vec<(usize, RowReport)>> {
        let apps = grant.apps();
        let begun = self.noted(&grant.token_hash).await?;
        let begun = begun.filter(is_provisional);
        if begun
            .as_ref()
            .is_some_and(|row| row.state == ConnectionState::Revoked)
        {
            return Ok(grant.all(&RowReport::new(RowOutcome::Skipped, ENDED)));
        }
        if begun.is_none() {
            for app in &apps {
                if let Some(report_of_row) = self.already_held(found, grant, app).await? {
                    return Ok(grant.told(found, app, &report_of_row));
                }
            }
        }
        let report_of_row = match (self.refresh, self.apply) {
            (false, _) if begun.is_some() => RowReport::new(
                RowOutcome::NeedsAction,
                "an earlier run has begun with it: run this again with --apply --refresh",
            ),
            (false, _) if apps.len() > 1 => RowReport::new(
                RowOutcome::NeedsAction,
                format!(
                    "rows of the apps {} hold the same refresh token: --refresh finds out whose it is",
                    app_names(&apps)
                ),
            ),
            (false, _) => RowReport::new(
                RowOutcome::NeedsAction,
                "its access token has expired: --refresh finds out whose it is",
            ),
            (true, false) => RowReport::new(
                RowOutcome::Imported,
                "is refreshed to find out whose it is, and taken over",
            ),
            (true, true) => return self.renew_and_file(found, grant, begun).await,
        };
        Ok(grant.all(&report_of_row))
    }

    /// A token that names its owner in its own text, who is here: it is not spent, for the other may be the grant's newest.
    async fn already_held(
        &self,
        found: &[SourceRow],
        grant: &Grant,
        app: &App,
    ) -> anyhow::Result<Option<RowReport>> {
        let newest = grant.newest(found);
        let Some((company_id, user_id)) = hint(&newest.refresh_token) else {
            return Ok(None);
        };
        let key = app.app_key();
        let person = (key.clone(), company_id.clone(), user_id.clone());
        let held = self
            .refresher
            .store()
            .connection_find_by_grant(&key, &company_id, &user_id)
            .await?;
        if let Some(FirstGrant { name, is_refused }) = self.taken.get(&person) {
            let report_of_row = if *is_refused {
                RowReport::new(
                    RowOutcome::NeedsAction,
                    format!(
                        "is of the same person as {name}, whose refresh token was refused: connect it again, or remove that \
                         row's tokens and run this again"
                    ),
                )
            } else {
                let said = format!("expired, and by its own text of the same person as {name}");
                RowReport::new(RowOutcome::Skipped, said)
            };
            return Ok(Some(match held {
                Some(held) => report_of_row.of(&identity_of(&held)),
                None => report_of_row,
            }));
        }
        let Some(held) = held else { return Ok(None) };
        let is_replaced = self.is_replaced(found, grant).await?;
        let token = self.compared(Some(&held), &newest.refresh_token, is_replaced);
        let identity = identity_of(&held);
        let rows = Rows {
            of_person: Some(&held),
            of_account: None,
        };
        let report_of_row = match placement::decide(&identity, Arrival::Import(token), rows) {
            Placement::Insert | Placement::Update { .. } => return Ok(None),
            Placement::Keep(held) => RowReport::new(
                RowOutcome::Skipped,
                format!(
                    "expired, and by its own text of the same person as {}",
                    connection(&held.id)
                ),
            ),
            Placement::Refuse { refusal, .. } => refused(refusal),
        };
        Ok(Some(report_of_row.of(&identity)))
    }

    async fn renew_and_file(
        &mut self,
        found: &[SourceRow],
        grant: &Grant,
        mut begun: Option<Connection>,
    ) -> anyhow::Result<Vec<(usize, RowReport)>> {
        if let Some(row) = &begun
            && let Some((app, held)) = self.overtaken_by(grant, row).await?
        {
            let report_of_row = self.file_beside(found, grant, &app, row, &held).await?;
            return Ok(grant.told(found, &app, &report_of_row.of(&identity_of(&held))));
        }
        for app in grant.apps() {
            let row = match &begun {
                Some(row) if row.app() == app.app_key() => row.clone(),
                // An earlier run has come as far as another app.
                Some(_) => continue,
                None => self.store_provisionally(found, grant, &app).await?,
            };
            match self.renewed(row, &app).await? {
                Renewed::Known(row, who) => {
                    let filed = self.file(found, grant, &app, *row, &who).await?;
                    return Ok(grant.told(found, &app, &filed.of(&who)));
                }
                Renewed::Open(report_of_row) => return Ok(grant.told(found, &app, &report_of_row)),
                Renewed::Refused => {
                    begun = None;
                    let newest = grant.newest(found);
                    if let Some((company_id, user_id)) = hint(&newest.refresh_token) {
                        self.note_first((app.app_key(), company_id, user_id), &newest.name, true);
                    }
                }
            }
        }
        let refused = "the provider refuses its refresh token: connect it again";
        Ok(grant.all(&RowReport::new(RowOutcome::NeedsAction, refused)))
    }

    /// Who is here by now that an earlier run has begun with: filed by it, or connected since. The token that it has left is
    /// the connection's own, or older, and is not spent.
    async fn overtaken_by(
        &self,
        grant: &Grant,
        begun: &Connection,
    ) -> anyhow::Result<Option<(Arc<App>, Connection)>> {
        let key = begun.app();
        let apps = grant.apps();
        let Some(app) = apps.into_iter().find(|app| app.app_key() == key) else {
            return Ok(None);
        };
        let Ok(token) = self.refresher.vault().refresh_token(begun) else {
            return Ok(None);
        };
        let Some((company_id, user_id)) = hint(&token) else {
            return Ok(None);
        };
        let held = self
            .refresher
            .store()
            .connection_find_by_grant(&key, &company_id, &user_id)
            .await?
            .filter(|held| held.state == ConnectionState::Active);
        Ok(held.map(|held| (app, held)))
    }

    async fn store_provisionally(
        &mut self,
        found: &[SourceRow],
        grant: &Grant,
        app: &App,
    ) -> anyhow::Result<Connection> {
        let newest = grant.newest(found);
        let store = self.refresher.store().clone();
        let account_id: AccountName = ACCOUNT.parse()?;
        let owner: AccountName = grant.token_hash.parse()?;
        let (key, now) = (app.app_key(), self.refresher.now());
        let left = store
            .connection_find_by_owner(&key, &account_id, &owner)
            .await?;
        match left {
            // Another run's, whose note ours may have replaced: it may hold the newest token.
            Some(left) if left.state == ConnectionState::Active => {
                self.note(&grant.token_hash, &left.id).await?;
                return Ok(left);
            }
            // One that an interrupted run had refused.
            Some(left) => self.drop_row(&left).await?,
            None => {}
        }
        let id = ConnectionId::generate();
        let vault = self.refresher.vault();
        let to = RowContext {
            id: &id,
            app: &key,
            account_id: &account_id,
            owner: &owner,
        };
        let (access_token, refresh_token) = (
            vault.seal_access_token(to, &newest.access_token),
            vault.seal_refresh_token(to, &newest.refresh_token),
        );
        let api_domain = self.api_domain(app, newest);
        let api_domain = api_domain.map_or_else(String::new, |domain| domain.as_str().to_owned());
        let consent = Consent {
            account_id,
            owner,
            company_id: ACCOUNT.to_owned(),
            company_domain: String::new(),
            company_name: String::new(),
            user_id: grant.token_hash.clone(),
            user_name: String::new(),
            api_domain,
            scope: fit_for_column(&newest.scope),
            access_token,
            refresh_token,
            expires_at: now,
            authorized_at: now.saturating_sub(AGE),
            idle_deadline: None,
            // This command's alone.
            due_at: Timestamp::far_future(),
        };
        self.note(&grant.token_hash, &id).await?;
        let new = NewConnection {
            id: id.clone(),
            app: key,
            consent,
        };
        store.connection_insert(&new, now).await?;
        Ok(store
            .connection_find(&id)
            .await?
            .ok_or(StoreError::Duplicate)?)
    }

    async fn renewed(&self, row: Connection, app: &Arc<App>) -> anyhow::Result<Renewed> {
        let again = |why: String| Renewed::Open(RowReport::new(RowOutcome::NeedsAction, why));
        if row.generation > 1 {
            // By an earlier run.
            match self.owner_of(&row, app, 1).await? {
                Ok(who) => return Ok(Renewed::Known(Box::new(row), Box::new(who))),
                Err(error) if error.is_refusal() => {}
                Err(error) => return Ok(again(unasked(error))),
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
        let row = match refreshed {
            Ok(
                Outcome::Refreshed(row)
                | Outcome::Replayed(row)
                | Outcome::AlreadyNewer(row)
                | Outcome::Adopted(row)
                | Outcome::Revoked(row)
                | Outcome::RevocationUnconfirmed(row),
            ) => Arc::unwrap_or_clone(row),
            Err(RefreshError::Ended { .. }) => {
                self.drop_row(&row).await?;
                self.forget_imports(&row.id).await?;
                return Ok(Renewed::Refused);
            }
            Err(error) => {
                return Ok(again(format!("not refreshed ({error}): run this again")));
            }
        };
        Ok(match self.owner_of(&row, app, IDENTITY_TRIES).await? {
            Ok(who) => Renewed::Known(Box::new(row), Box::new(who)),
            Err(error) => again(unasked(error)),
        })
    }

    async fn owner_of(
        &self,
        row: &Connection,
        app: &App,
        tries: u32,
    ) -> anyhow::Result<Result<Identity, IdentityError>> {
        let api_domain = app.provider.api_domain(&row.api_domain)?;
        let token = self.refresher.vault().access_token(row)?;
        let mut asked_times = 1;
        loop {
            match self.identify(app, &api_domain, &token).await {
                Err(error) if error.is_refusal() && asked_times < tries => asked_times += 1,
                asked => return Ok(asked),
            }
            let pause = (Duration::from_millis(200), Duration::from_millis(500));
            tokio::time::sleep(random::between(pause.0, pause.1)).await;
        }
    }

    /// Gives what is known now the place of the one that it is.
    async fn file(
        &mut self,
        found: &[SourceRow],
        grant: &Grant,
        app: &Arc<App>,
        row: Connection,
        who: &Identity,
    ) -> anyhow::Result<RowReport> {
        let newest = grant.newest(found);
        let key = app.app_key();
        let person = (key.clone(), who.company_id.clone(), who.user_id.clone());
        self.note_first(person, &newest.name, false);
        let store = self.refresher.store().clone();
        let held = store
            .connection_find_by_grant(&key, &who.company_id, &who.user_id)
            .await?;
        let (account_and_owner, of_account) = match &held {
            Some(held) => ((held.account_id.clone(), held.owner.clone()), None),
            None => match self.account_and_owner(newest, who, app).await? {
                Ok(named) => named,
                Err(report_of_row) => return Ok(report_of_row),
            },
        };
        // Another run has filed it since this one has read it.
        if let Some(held) = held.as_ref().filter(|held| held.id == row.id) {
            return self.file_beside(found, grant, app, &row, held).await;
        }
        let rows = Rows {
            of_person: held.as_ref(),
            of_account: of_account.as_ref(),
        };
        // What a refresh has returned is a living grant. Only tokens that were minted later may be its own successors.
        let is_newer = |held: &Connection| minted_at(held) > minted_at(&row);
        let token = if held.as_ref().is_some_and(is_newer) {
            ImportedToken::Different
        } else {
            ImportedToken::Replaces
        };
        let target = match placement::decide(who, Arrival::Import(token), rows) {
            Placement::Insert => &row,
            Placement::Update { row: held, .. } => held,
            Placement::Keep(held) => {
                return self.file_beside(found, grant, app, &row, held).await;
            }
            Placement::Refuse {
                refusal: Refusal::Ended(held),
                ..
            } => {
                // No other row holds these tokens: the sweep revokes them.
                disconnect(&store, &row.id, self.refresher.now()).await?;
                let said = format!("{ENDED}: {}", connection(&held.id));
                return Ok(RowReport::new(RowOutcome::Skipped, said));
            }
            Placement::Refuse { refusal, .. } => return Ok(refused(refusal)),
        };
        let (id, generation) = (target.id.clone(), target.generation);
        let vault = self.refresher.vault();
        let granted = PlainGrant {
            identity: who,
            access_token: &vault.access_token(&row)?,
            refresh_token: &vault.refresh_token(&row)?,
            api_domain: &app.provider.api_domain(&row.api_domain)?,
            scope: &row.scope,
            expires_at: row.expires_at,
            authorized_at: self.next_at(),
            last_used_at: None,
        };
        let consent = granted.sealed(vault, app, &id, account_and_owner);
        let filed = store
            .connection_reconnect(&id, generation, &consent, self.refresher.now())
            .await?;
        let current = store.connection_find(&id).await?;
        let Some(current) = current.filter(|_| filed) else {
            return Ok(RowReport::new(
                RowOutcome::NeedsAction,
                "it was written to meanwhile: run this again",
            ));
        };
        self.note(&grant.token_hash, &current.id).await?;
        self.link(found, grant, app, &current).await?;
        if current.id != row.id {
            self.drop_row(&row).await?;
        }
        let said = format!("taken over and refreshed: {}", connection(&current.id));
        Ok(RowReport::new(RowOutcome::Imported, said).at(&current.id))
    }

    /// Its person is here: what was stored of it gives way, unless it is that very row, which another run has filed.
    async fn file_beside(
        &self,
        found: &[SourceRow],
        grant: &Grant,
        app: &App,
        row: &Connection,
        held: &Connection,
    ) -> anyhow::Result<RowReport> {
        self.note(&grant.token_hash, &held.id).await?;
        self.link(found, grant, app, held).await?;
        if held.id != row.id {
            self.drop_row(row).await?;
        }
        Ok(is_here(held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_is_filed_under_the_name_of_what_is_not_filed_yet() {
        let name: AccountName = ACCOUNT.parse().unwrap();
        assert!(name.is_marketplace(), "no login may name it");
        assert!(!ACCOUNT.starts_with(pipekeeper_core::connection::MARKETPLACE_PREFIX));
    }
}
