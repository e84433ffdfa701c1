//! Which row a consent may write, and which connection becomes the default: decided from what was read, without any I/O.
//!
//! A person of a company has at most one row per app (the unique key `connections_grant`), and so has an account with its
//! owner (`connections_keeper`). A consent finds up to two rows: the person's, and the one under the account and owner that
//! it is for. [`decide`] says which of them it may write. Logins, installs and the import all ask here.
//!
//! Callers that name only an app, or only an account, get its default connection. [`default_reason`] says when a connection
//! becomes it. A connection that strangers can make must never change what existing callers get.

use crate::connection::{Connection, ConnectionState, HANDED_BACK};
use crate::oauth::Identity;

/// Why a connection is `revoked` whose person has removed the app at the provider.
pub const UNINSTALLED: &str = "uninstalled";

mod companies;

pub use companies::{Admission, AllowedCompanies};

/// How a consent came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// By a login in which an authenticated caller named the account and owner.
    Login,
    /// Without one: from the Marketplace, by a team's own link, or by a login without credentials.
    Install(Admission),
    /// In tokens that something else has kept so far.
    Import(ImportedToken),
}

/// An imported refresh token, compared with that of the person's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportedToken {
    /// Another one, which may be older or newer.
    Different,
    /// A newer one, like that of a new consent: it was written into a row that had been imported before, or a refresh has
    /// just returned it.
    Replaces,
    /// The same one, or the row's own can't be opened.
    Known,
}

/// The rows that a consent finds. They may be one and the same.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// That of the same app, company and user.
    pub of_person: Option<&'a Connection>,
    /// That of the same app, account and owner.
    pub of_account: Option<&'a Connection>,
}

/// What becomes of a consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement<'a> {
    Insert,
    Update {
        row: &'a Connection,
        owner: Owner,
        removes: Option<Removal<'a>>,
    },
    /// Nothing is written: an import finds the person connected.
    Keep(&'a Connection),
    Refuse {
        refusal: Refusal<'a>,
        tokens: RefusedTokens<'a>,
    },
}

/// Under which account and owner the updated row is filed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Those that it has.
    Unchanged,
    /// Those that the consent is for.
    Named,
}

/// A row that has ended and that would break a unique key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal<'a> {
    pub row: &'a Connection,
    /// It is the same person's as the row that stays: where it was the default connection, that row is it now.
    pub default_follows: bool,
}

/// Why a consent gets no row of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal<'a> {
    /// The account is connected to another company, or as another person.
    DifferentCompany,
    /// The person is connected by another account.
    AlreadyConnected,
    /// `login.companies` does not name the company.
    CompanyNotAllowed,
    /// An import finds that the person's connection has ended.
    Ended(&'a Connection),
    /// An import finds that the connection's tokens are on their way back to the old table.
    BeingHandedBack(&'a Connection),
    /// An import finds another person under the account and owner.
    AccountTaken(&'a Connection),
}

/// What becomes of the tokens of a refused consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedTokens<'a> {
    /// The person's row gets them: the provider may have ended the older ones with this consent.
    StoreIn(&'a Connection),
    /// No row holds this person's grant: it is ended at the provider.
    Revoke,
    /// They stay where they were found.
    Leave,
}

/// Which row the consent of this person may write.
pub fn decide<'a>(identity: &Identity, arrival: Arrival, rows: Rows<'a>) -> Placement<'a> {
    match arrival {
        Arrival::Login => login(identity, rows),
        Arrival::Install(admission) => install(admission, rows),
        Arrival::Import(token) => import(token, rows),
    }
}

fn login<'a>(identity: &Identity, rows: Rows<'a>) -> Placement<'a> {
    match (rows.of_person, rows.of_account) {
        (None, None) => Placement::Insert,
        (None, Some(own)) if may_change_person(own, identity) => update(own, Owner::Named),
        (None, Some(_)) => refuse(Refusal::DifferentCompany, None),
        (Some(held), Some(own)) if held.id == own.id => update(held, Owner::Named),
        // An install waits for a login to adopt it; any login may take a row that has ended.
        (Some(held), None) if is_adoptable(held) => update(held, Owner::Named),
        // Two rows would have to become one: only a row that has ended can make room.
        (Some(held), Some(own)) if is_gone(held) && may_change_person(own, identity) => {
            Placement::Update {
                row: own,
                owner: Owner::Named,
                removes: Some(Removal {
                    row: held,
                    default_follows: true,
                }),
            }
        }
        (Some(held), Some(own)) if held.account_id.is_marketplace() && is_gone(own) => {
            Placement::Update {
                row: held,
                owner: Owner::Named,
                removes: Some(Removal {
                    row: own,
                    default_follows: false,
                }),
            }
        }
        (Some(held), Some(_)) if is_adoptable(held) => {
            refuse(Refusal::DifferentCompany, Some(held))
        }
        (Some(held), _) => refuse(Refusal::AlreadyConnected, Some(held)),
    }
}

/// The same person's install renews the row, whether a login or an install made it, and leaves it to its account. No other
/// living row is touched.
fn install(admission: Admission, rows: Rows<'_>) -> Placement<'_> {
    match (rows.of_person, rows.of_account, admission) {
        (Some(held), _, Admission::Unlisted) if !holds_grant(held) => {
            refuse(Refusal::CompanyNotAllowed, Some(held))
        }
        (Some(held), _, _) => update(held, Owner::Unchanged),
        (None, _, Admission::Unlisted) => refuse(Refusal::CompanyNotAllowed, None),
        (None, None, _) => Placement::Insert,
        (None, Some(own), _) if is_free(own) => update(own, Owner::Named),
        (None, Some(_), _) => refuse(Refusal::DifferentCompany, None),
    }
}

fn import(token: ImportedToken, rows: Rows<'_>) -> Placement<'_> {
    let leave = |refusal| Placement::Refuse {
        refusal,
        tokens: RefusedTokens::Leave,
    };
    match (rows.of_person, rows.of_account) {
        (None, None) => Placement::Insert,
        (None, Some(own)) => leave(Refusal::AccountTaken(own)),
        (Some(held), _) => match held.state {
            ConnectionState::Active if token == ImportedToken::Replaces => {
                update(held, Owner::Unchanged)
            }
            ConnectionState::Active => Placement::Keep(held),
            ConnectionState::Revoked if is_handed_back(held) && is_gone(held) => {
                update(held, Owner::Unchanged)
            }
            ConnectionState::Revoked if is_handed_back(held) => {
                leave(Refusal::BeingHandedBack(held))
            }
            // The token that was refused is not worth another try.
            ConnectionState::ReauthRequired if token != ImportedToken::Known => {
                update(held, Owner::Unchanged)
            }
            // A grant that lives after the person has uninstalled the app is that of a later install.
            ConnectionState::Revoked
                if token == ImportedToken::Replaces && is_uninstalled(held) =>
            {
                update(held, Owner::Unchanged)
            }
            ConnectionState::ReauthRequired | ConnectionState::Revoked => {
                leave(Refusal::Ended(held))
            }
        },
    }
}

fn update(row: &Connection, owner: Owner) -> Placement<'_> {
    Placement::Update {
        row,
        owner,
        removes: None,
    }
}

fn refuse<'a>(refusal: Refusal<'a>, of_person: Option<&'a Connection>) -> Placement<'a> {
    let tokens = match of_person {
        Some(row) if holds_grant(row) => RefusedTokens::StoreIn(row),
        Some(_) | None => RefusedTokens::Revoke,
    };
    Placement::Refuse { refusal, tokens }
}

/// Whether an account's row may become another person's: one of the same company, or any person's once it has ended.
fn may_change_person(own: &Connection, identity: &Identity) -> bool {
    own.company_id == identity.company_id || is_free(own)
}

/// Whether the row has ended, and its tokens are not on their way back to the old table.
fn is_free(row: &Connection) -> bool {
    let is_being_handed_back = is_handed_back(row) && !is_gone(row);
    row.state == ConnectionState::Revoked && !is_being_handed_back
}

/// Whether a login of another account may take the person's row over.
fn is_adoptable(held: &Connection) -> bool {
    held.account_id.is_marketplace() || held.state == ConnectionState::Revoked
}

/// Whether a living grant of the person belongs to the row. One that was handed back lives on in the old table.
pub fn holds_grant(row: &Connection) -> bool {
    row.state != ConnectionState::Revoked || is_handed_back(row)
}

/// It has ended, and nothing is left of its tokens.
fn is_gone(row: &Connection) -> bool {
    row.state == ConnectionState::Revoked && row.refresh_token.is_wiped()
}

fn is_handed_back(row: &Connection) -> bool {
    row.state_reason.as_deref() == Some(HANDED_BACK)
}

fn is_uninstalled(row: &Connection) -> bool {
    row.state_reason.as_deref() == Some(UNINSTALLED)
}

/// Why a connection is the default one of its app or account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultReason {
    /// An import found it as the newest.
    Import,
    /// An authenticated caller's login made it.
    Login,
    /// It is an install from a company in `login.companies`.
    AllowedCompany,
    /// It is the first install, where `login.companies` names no company.
    FirstInstall,
    /// The operator chose it.
    Operator,
}

impl DefaultReason {
    /// The word in the database. (The migration that made the table wrote `migration`.)
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Login => "login",
            Self::AllowedCompany => "allowed_company",
            Self::FirstInstall => "first_install",
            Self::Operator => "operator",
        }
    }
}

/// What an app, or an account of it, has beside a connection that was just authorized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    Nothing,
    /// Other connections, whatever their state.
    Others,
    /// A default connection is set, whatever has become of it.
    Default,
}

/// Whether a connection that was just authorized becomes the default one, and why. Only the operator's command replaces a
/// default that is set.
pub fn default_reason(arrival: Arrival, beside: Beside) -> Option<DefaultReason> {
    match (arrival, beside) {
        (_, Beside::Default) => None,
        (Arrival::Login, _) => Some(DefaultReason::Login),
        (Arrival::Import(_), _) => Some(DefaultReason::Import),
        (Arrival::Install(Admission::Listed), _) => Some(DefaultReason::AllowedCompany),
        (Arrival::Install(Admission::Open), Beside::Nothing) => Some(DefaultReason::FirstInstall),
        (Arrival::Install(Admission::Open | Admission::Unlisted), _) => None,
    }
}

#[cfg(test)]
mod tests;
