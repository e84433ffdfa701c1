//! Rows that a grant meets here: whose they are, and what the report says of them.

use pipekeeper_core::connection::{Connection, ConnectionState};
use pipekeeper_core::oauth::Identity;
use pipekeeper_core::placement::Refusal;

use super::{RowOutcome, RowReport, connection};

/// The account of what is not filed yet. No caller's name begins so.
pub(super) const ACCOUNT: &str = "~import";

pub(super) fn is_provisional(row: &Connection) -> bool {
    row.account_id.as_str() == ACCOUNT
}

pub(super) fn is_here(row: &Connection) -> RowReport {
    RowReport::new(
        RowOutcome::AlreadyImported,
        format!("already here: {}", connection(&row.id)),
    )
    .at(&row.id)
}

/// What is said of a grant that gets no row.
pub(super) fn refused(refusal: Refusal<'_>) -> RowReport {
    match refusal {
        Refusal::Ended(row) => has_ended(row),
        Refusal::BeingHandedBack(row) => RowReport::new(
            RowOutcome::NeedsAction,
            format!(
                "is being handed back: end that with `rollback-to-n8n --apply` first: {}",
                connection(&row.id)
            ),
        ),
        Refusal::AccountTaken(row) => RowReport::new(
            RowOutcome::NeedsAction,
            format!(
                "its account and owner are already connected as another user: {}",
                connection(&row.id)
            ),
        ),
        // The rest are those of logins and installs.
        Refusal::DifferentCompany | Refusal::AlreadyConnected | Refusal::CompanyNotAllowed => {
            RowReport::new(
                RowOutcome::NeedsAction,
                "another account or company has its place",
            )
        }
    }
}

pub(super) fn has_ended(row: &Connection) -> RowReport {
    let reason = row.state_reason.as_deref().unwrap_or(row.state.as_str());
    let here = connection(&row.id);
    RowReport::new(
        RowOutcome::Skipped,
        match row.state {
            ConnectionState::Active | ConnectionState::ReauthRequired => {
                format!("has ended here ({reason}): connect it again: {here}")
            }
            ConnectionState::Revoked => format!(
                "was disconnected here ({reason}), and the row's grant may live: connect it again: {here}"
            ),
        },
    )
    .at(&row.id)
}

pub(super) fn identity_of(row: &Connection) -> Identity {
    Identity {
        company_id: row.company_id.clone(),
        company_domain: row.company_domain.clone(),
        company_name: row.company_name.clone(),
        user_id: row.user_id.clone(),
        user_name: row.user_name.clone(),
    }
}
