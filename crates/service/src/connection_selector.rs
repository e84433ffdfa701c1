//! Which connection a caller means: `connectionId`, `appId`, `platform`, `accountId`, `owner`, as the webhooks take them.

use pipekeeper_core::connection::{AccountName, AppKey, Connection, ConnectionId};
use pipekeeper_core::provider::{AppChoice, Apps};
use pipekeeper_core::store::{Selection, Selector, Store, StoreError};

use crate::body::{Fields, unusable};
use crate::problem::{Code, Problem};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    Of {
        app: AppKey,
        selector: Selector,
    },
    /// The connection of this id, if it is of the app, account and owner that are named beside it.
    Connection {
        id: ConnectionId,
        app: Option<AppKey>,
        account_id: Option<AccountName>,
        owner: Option<AccountName>,
    },
}

impl Target {
    pub async fn find(&self, store: &Store) -> Result<Selection, StoreError> {
        match self {
            Self::Of { app, selector } => store.connection_select(app, selector).await,
            Self::Connection {
                id,
                app,
                account_id,
                owner,
            } => {
                let is_meant = |row: &Connection| {
                    app.as_ref().is_none_or(|app| row.app() == *app)
                        && account_id.as_ref().is_none_or(|id| row.account_id == *id)
                        && owner.as_ref().is_none_or(|owner| row.owner == *owner)
                };
                let row = store.connection_find(id).await?;
                Ok(row.filter(is_meant).into())
            }
        }
    }
}

/// # Errors
/// Names the invalid field; an app that is not configured has no connections.
pub fn select(apps: &Apps, fields: &Fields) -> Result<Target, Problem> {
    let id = fields.parse::<ConnectionId>("connectionId")?;
    let (app_id, platform) = (fields.text("appId")?, fields.text("platform")?);
    let account_id = fields.parse::<AccountName>("accountId")?;
    let owner = fields.parse::<AccountName>("owner")?;
    let app = || match apps.meant(app_id.as_deref(), platform.as_deref()) {
        AppChoice::One(app) => Ok(app.app_key()),
        AppChoice::Unknown => Err(not_found()),
        AppChoice::Several => Err(ambiguous()),
    };
    if let Some(id) = id {
        return Ok(Target::Connection {
            id,
            app: app_id.is_some().then(app).transpose()?,
            account_id,
            owner,
        });
    }
    let selector = match (account_id, owner) {
        (None, None) => Selector::App,
        (Some(account_id), None) => Selector::Account(account_id),
        (Some(account_id), Some(owner)) => Selector::Owner { account_id, owner },
        (None, Some(_)) => {
            return Err(unusable("accountId", "is missing; an owner belongs to one"));
        }
    };
    Ok(Target::Of {
        app: app()?,
        selector,
    })
}

pub fn not_found() -> Problem {
    Problem::new(
        Code::ConnectionNotFound,
        "No such connection; connect the account first.",
    )
}

/// Lists none of those that fit: they may be other tenants'.
pub fn ambiguous() -> Problem {
    Problem::new(
        Code::ConnectionAmbiguous,
        "More than one connection fits, and none is the default; name accountId and owner too.",
    )
}

/// The default connection is no longer what callers who name no account used to get; no other one takes its place.
pub fn default_gone() -> Problem {
    Problem::new(
        Code::ConnectionNotFound,
        "The default connection is gone: it was removed, or given to another account, company or user. Name accountId and owner, or ask the operator to choose another default.",
    )
    .with("reason", "default_connection_gone")
}
