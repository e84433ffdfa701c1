//! What `rollback-to-n8n` and the mirror have in common: a row of the old table, and why it can't be written.

use anyhow::Context as _;
use pipekeeper_core::store::{AppTok, AppTokRow, Backend, RowTokens, RowWrite, StoreError};

/// The only row with this id, or why there is none.
pub(crate) async fn read(old: &AppTok, id: &str) -> Result<Result<AppTokRow, String>, StoreError> {
    let rows = old.rows_with(id).await?;
    Ok(only(id, rows))
}

pub(crate) fn only(id: &str, rows: Vec<AppTokRow>) -> Result<AppTokRow, String> {
    let mut rows = rows.into_iter();
    match (rows.next(), rows.next()) {
        (Some(row), None) => Ok(row),
        (Some(_), Some(_)) => Err(format!("row {id} is not the only one with this id")),
        (None, _) => Err(format!("row {id} is gone")),
    }
}

/// Why a write came to nothing; `None` where the row has changed since it was read, or the write was done.
///
/// # Errors
/// The old table's database is unavailable.
pub(crate) async fn refusal(
    old: &AppTok,
    seen: &AppTokRow,
    written: Result<RowWrite, StoreError>,
    tokens: RowTokens<'_>,
) -> Result<Option<String>, StoreError> {
    let id = seen.id.as_deref().unwrap_or("NULL");
    match written {
        Ok(RowWrite::Written) => Ok(None),
        // To MySQL a row that is given what it holds has not changed.
        Ok(RowWrite::Conflict) if old.backend() == Backend::Mysql => Ok(None),
        Ok(RowWrite::Conflict) => {
            let still = read(old, id).await?;
            let is_unchanged = still.is_ok_and(|still| {
                still.holds(RowTokens {
                    access_token: &seen.access_token,
                    refresh_token: &seen.refresh_token,
                })
            });
            Ok(is_unchanged.then(|| {
                format!(
                    "row {id} can't be written: an UPDATE changes no row (does row-level security let this role update it?)"
                )
            }))
        }
        Ok(RowWrite::Altered) => Ok(Some(format!(
            "row {id} would not hold the tokens as they are: acc_token or ref_token is too short, or a trigger changes them"
        ))),
        Ok(RowWrite::NotTransactional) => Ok(Some(format!(
            "row {id} can't be written safely: the table's engine has no transactions; change it with ALTER TABLE (to InnoDB)"
        ))),
        Err(error) if error.is_unavailable() => Err(error),
        Err(error) => {
            let said = format!("{:#}", anyhow::Error::from(error));
            let shows = |token: &str| !token.is_empty() && said.contains(token);
            let shows_a_token =
                shows(tokens.access_token.expose()) || shows(tokens.refresh_token.expose());
            let why = if shows_a_token {
                "the database refused it"
            } else {
                &said
            };
            Ok(Some(format!("row {id} can't be written: {why}")))
        }
    }
}

/// Of the old table's database, whose troubles are not those of our own.
pub(crate) fn of_old_table<T>(done: Result<T, StoreError>) -> anyhow::Result<T> {
    done.map_err(|error| anyhow::anyhow!("{:#}", anyhow::Error::from(error)))
        .context("the old table's database can't be used")
}
