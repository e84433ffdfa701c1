//! Pipedrive's uninstall notice: a DELETE on the callback URL.

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{Connection, ConnectionState};
use pipekeeper_core::placement::UNINSTALLED;
use pipekeeper_core::provider::App;
use pipekeeper_core::refresher_client::{REFUSED_AFTER_RENEWAL, RefreshClientError, Trace};
use pipekeeper_core::store::Revocation;
use pipekeeper_service::body::Fields;
use pipekeeper_service::problem::{Code, Problem};

use crate::AuthCapture;

/// What becomes of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Uninstalled {
    Revoked,
    /// From before the connection's last consent, or of a grant that is alive.
    Stale,
    Unknown,
}

/// Ends the connection that the notice is about.
pub(crate) async fn uninstall(
    service: &AuthCapture,
    app: &App,
    notice: &Fields,
    trace: &Trace,
) -> Result<Uninstalled, Problem> {
    let company_id = notice.text("company_id")?;
    let user_id = notice.text("user_id")?;
    let client_id = notice.text("client_id")?;
    let (Some(company_id), Some(user_id)) = (company_id, user_id) else {
        return Ok(Uninstalled::Unknown);
    };
    if client_id.is_some_and(|id| id != app.client_id) {
        return Ok(Uninstalled::Unknown);
    }
    let at = notice
        .text("timestamp")
        .unwrap_or_default()
        .as_deref()
        .and_then(instant);
    let (rows, key) = (&service.context.store, app.app_key());
    let noticed_at = service.context.clock.now();
    let mut dead = None;
    let mut is_second_check = false;
    loop {
        let found = rows
            .connection_find_by_grant(&key, &company_id, &user_id)
            .await?;
        let Some(row) = found else {
            return Ok(Uninstalled::Unknown);
        };
        if row.state == ConnectionState::Revoked {
            return Ok(Uninstalled::Revoked);
        }
        match timing(at, &row) {
            Timing::Before => return Ok(Uninstalled::Stale),
            Timing::After => {}
            Timing::Unclear if dead == Some(row.generation) => {}
            Timing::Unclear => {
                if !is_accepted(service, &row, trace).await? {
                    // The refresh wrote so, without moving the generation: a consent since then would.
                    dead = Some(row.generation);
                    continue;
                }
                // The token may be from before the uninstall: the refresh was under way, or its response was in a journal.
                let renewed = rows.connection_find(&row.id).await?;
                let refreshed_at = renewed.and_then(|renewed| renewed.refreshed_at);
                let is_new = row.lease_owner.is_none() && refreshed_at >= Some(noticed_at);
                if is_new || is_second_check {
                    return Ok(Uninstalled::Stale);
                }
                is_second_check = true;
                continue;
            }
        }
        let now = service.context.clock.now();
        let known = Revocation::Known;
        if rows
            .connection_revoke(&row.id, row.generation, UNINSTALLED, known, now)
            .await?
        {
            tracing::info!(connection.id = %row.id, "uninstalled at the provider");
            return Ok(Uninstalled::Revoked);
        }
        // A refresh or a reconnect was faster: look again whether the notice is still news.
    }
}

/// The provider's clock and ours may differ by so much.
const CLOCKS_DIFFER: Duration = Duration::from_mins(5);

/// The longest wait for a second refresh.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// When a notice was written, compared with the connection's last consent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timing {
    Before,
    After,
    /// Only the provider knows.
    Unclear,
}

fn timing(at: Option<Timestamp>, row: &Connection) -> Timing {
    match at {
        Some(at) if at.saturating_add(CLOCKS_DIFFER) <= row.authorized_at => Timing::Before,
        Some(at) if at > row.authorized_at.saturating_add(CLOCKS_DIFFER) => Timing::After,
        Some(_) | None => Timing::Unclear,
    }
}

/// Whether the provider accepts the connection's refresh token: asks for a token newer than the row's.
async fn is_accepted(
    service: &AuthCapture,
    row: &Connection,
    trace: &Trace,
) -> Result<bool, Problem> {
    let mut has_waited = false;
    loop {
        let refreshed = service
            .refresher
            .refresh(&row.id, row.generation, trace)
            .await;
        match refreshed {
            Ok(_) => return Ok(true),
            Err(RefreshClientError::Invalidated(said)) if said.state != ConnectionState::Active => {
                return Ok(false);
            }
            // The refresh of a moment ago has a successor a moment later.
            Err(RefreshClientError::Failed {
                reason: Some(reason),
                retry_after: Some(wait),
                ..
            }) if reason == REFUSED_AFTER_RENEWAL && wait <= WAIT_MAX && !has_waited => {
                has_waited = true;
                tokio::time::sleep(wait).await;
            }
            Err(error) => {
                return Err(Problem::new(
                    Code::RefreshFailed,
                    "Whether this notice is current could not be checked; send it again.",
                )
                .caused_by(error));
            }
        }
    }
}

/// RFC 3339, `YYYY-MM-DD HH:MM:SS` in UTC, or a number of seconds or milliseconds: Pipedrive does not document which.
fn instant(text: &str) -> Option<Timestamp> {
    if let Ok(number) = text.parse::<i64>() {
        // The year 2001 in milliseconds is the year 33 658 in seconds.
        let millis = if number.unsigned_abs() < 1_000_000_000_000 {
            number.checked_mul(1000)?
        } else {
            number
        };
        return Timestamp::from_unix_micros(millis.checked_mul(1000)?);
    }
    DateTime::parse_from_rfc3339(text)
        .map(|at| at.with_timezone(&Utc))
        .or_else(|_| {
            NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").map(|at| at.and_utc())
        })
        .ok()
        .map(Timestamp::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_notice_is_read_in_every_form_it_may_have() {
        let at = Timestamp::from_unix_micros(1_700_000_000_000_000);
        for text in [
            "2023-11-14T22:13:20.000Z",
            "2023-11-14 22:13:20",
            "1700000000",
            "1700000000000",
        ] {
            assert_eq!(instant(text), at, "{text}");
        }
        for text in [
            "",
            "yesterday",
            "99999999999999999999",
            "-9223372036854775808",
            "2023-11-14",
        ] {
            assert_eq!(instant(text), None, "{text}");
        }
    }
}
