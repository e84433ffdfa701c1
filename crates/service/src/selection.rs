//! Which connection a caller means: `appId`, `platform`, `accountId`, `owner`, as the webhooks take them.

use pipekeeper_core::connection::KeeperName;
use pipekeeper_core::provider::{AppChoice, Apps};
use pipekeeper_core::store::{AppKey, Selector};

use crate::body::{Fields, unusable};
use crate::problem::{Code, Problem};

/// An app, and whose connection of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Selected {
    pub app: AppKey,
    pub selector: Selector,
}

/// # Errors
/// Names the field that is of no use; an app that is not configured has no connections.
pub fn select(apps: &Apps, fields: &Fields) -> Result<Selected, Problem> {
    let (app_id, platform) = (fields.text("appId")?, fields.text("platform")?);
    let account_id = fields.parse::<KeeperName>("accountId")?;
    let owner = fields.parse::<KeeperName>("owner")?;
    let selector = match (account_id, owner) {
        (None, None) => Selector::App,
        (Some(account_id), None) => Selector::Account(account_id),
        (Some(account_id), Some(owner)) => Selector::Keeper { account_id, owner },
        (None, Some(_)) => {
            return Err(unusable("accountId", "is missing; an owner belongs to one"));
        }
    };
    match apps.meant(app_id.as_deref(), platform.as_deref()) {
        AppChoice::One(app) => Ok(Selected {
            app: app.app_key(),
            selector,
        }),
        AppChoice::Unknown => Err(not_found()),
        AppChoice::Several => Err(ambiguous()),
    }
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
