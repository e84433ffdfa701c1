//! The table that n8n's workflows keep tokens in: `id, AppId, Platform, acc_token, ref_token, created_at, updated_at`.
//!
//! It belongs to the team, in a database of its own, with columns of any type: all are read as text, and a row is identified
//! by the text of its id. Every write is read back before it is committed: a column may cut what it is given.

use diesel::prelude::*;
use diesel::query_builder::SqlQuery;
use diesel::result::Error as DieselError;
use diesel::sql_types::{Bool, Nullable, Text};
use diesel_async::{AsyncConnection as _, RunQueryDsl};

use super::outages::{Effect, Outcome};
use super::{Backend, Store, StoreError, StoreOptions, on_conn};
use crate::clock::Timestamp;
use crate::crypto::sha256_hex;
use crate::secret::Secret;

/// The old table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AppTok {
    store: Store,
    table: TableName,
}

/// One of its rows.
///
/// The tokens are as they are stored; [`usable`] is what can be sent.
#[derive(Debug, Clone)]
pub struct AppTokRow {
    /// `None` where it is NULL.
    pub id: Option<String>,
    /// `None` also where it is blank.
    pub app_id: Option<String>,
    pub platform: Option<String>,
    pub access_token: Secret,
    pub refresh_token: Secret,
    pub created_at: Option<String>,
    pub updated_at: Option<String>,
}

impl AppTokRow {
    /// What is noted of its refresh token.
    pub fn token_hash(&self) -> String {
        sha256_hex(usable(self.refresh_token.expose()))
    }

    /// Whether it holds these tokens, byte for byte.
    pub fn holds(&self, tokens: RowTokens<'_>) -> bool {
        let is = |stored: &Secret, token: &Secret| stored.matches(token.expose().as_bytes());
        is(&self.access_token, tokens.access_token) && is(&self.refresh_token, tokens.refresh_token)
    }
}

/// What a row is given.
#[derive(Debug, Clone, Copy)]
pub struct RowTokens<'a> {
    pub access_token: &'a Secret,
    pub refresh_token: &'a Secret,
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowWrite {
    Written,
    /// The row is gone, is not the only one with its id, or holds other tokens than were seen. Nothing was written.
    Conflict,
    /// The row would hold something else than it was given: a column is too short, or a trigger changes it. Nothing was
    /// written.
    Altered,
    /// The table's engine can't undo a write, so none was tried.
    NotTransactional,
}

/// Whether a write is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keep {
    Yes,
    /// Everything but the commit.
    No,
}

/// A token or name as it can be used: pasted values come with blanks, line ends and quotation marks around them.
pub fn usable(text: &str) -> &str {
    let is_blank = |c: char| c.is_whitespace() || matches!(c, '\u{feff}' | '\u{200b}');
    let mut inner = text;
    loop {
        let trimmed = inner.trim_matches(is_blank);
        let unquoted = ['"', '\'']
            .into_iter()
            .find_map(|quote| trimmed.strip_prefix(quote)?.strip_suffix(quote));
        match unquoted {
            Some(unquoted) => inner = unquoted,
            None => return trimmed,
        }
    }
}

/// `table` or `schema.table`: letters, digits and underscores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableName(String);

#[derive(Debug, thiserror::Error)]
#[error("is no name of a table such as App_tok or public.App_tok")]
pub struct BadTableName;

impl TableName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn quoted(&self, backend: Backend) -> String {
        let parts: Vec<String> = self
            .0
            .split('.')
            .map(|part| quoted(backend, part))
            .collect();
        parts.join(".")
    }
}

impl std::str::FromStr for TableName {
    type Err = BadTableName;

    fn from_str(text: &str) -> Result<Self, BadTableName> {
        let is_name = |part: &str| {
            (1..=63).contains(&part.len()) && part.chars().all(|c| c.is_alphanumeric() || c == '_')
        };
        let parts: Vec<&str> = text.split('.').collect();
        if parts.len() <= 2 && parts.into_iter().all(is_name) {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadTableName)
        }
    }
}

#[derive(QueryableByName)]
struct Flag {
    #[diesel(sql_type = Bool)]
    holds: bool,
}

/// Why a transaction is rolled back.
enum Undo {
    Failed(DieselError),
    Because(RowWrite),
}

impl From<DieselError> for Undo {
    fn from(error: DieselError) -> Self {
        Self::Failed(error)
    }
}

#[derive(QueryableByName)]
struct RawRow {
    #[diesel(sql_type = Nullable<Text>)]
    id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    app_id: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    platform: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    acc_token: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    ref_token: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    created_at: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    updated_at: Option<String>,
}

impl Outcome for RowWrite {
    fn effect(&self) -> Effect {
        Effect::Wrote(usize::from(*self == Self::Written))
    }
}

impl AppTok {
    /// Reads the URL; connects to nothing yet.
    ///
    /// # Errors
    /// [`StoreError::Url`], which says nothing of the URL's contents.
    pub fn open(url: &Secret, table: TableName) -> Result<Self, StoreError> {
        let options = StoreOptions {
            max_connections: 2,
            name: "the old table's database",
            ..StoreOptions::default()
        };
        Ok(Self {
            store: Store::open(url, &options)?,
            table,
        })
    }

    pub fn backend(&self) -> Backend {
        self.store.backend()
    }

    pub fn table(&self) -> &str {
        self.table.as_str()
    }

    /// All rows.
    pub async fn rows(&self) -> Result<Vec<AppTokRow>, StoreError> {
        let query = format!("SELECT {} FROM {}", self.columns(), self.name());
        let rows: Vec<RawRow> = on_conn!(self.store, |conn| sql(&query).load(conn))?;
        Ok(rows.into_iter().map(AppTokRow::from).collect())
    }

    /// The rows with this id: more than one where the table does not keep it unique.
    pub async fn rows_with(&self, id: &str) -> Result<Vec<AppTokRow>, StoreError> {
        let query = self.select_by_id();
        let rows: Vec<RawRow> = on_conn!(self.store, |conn| sql(&query)
            .bind::<Text, _>(id)
            .load(conn))?;
        Ok(rows.into_iter().map(AppTokRow::from).collect())
    }

    /// Whether row-level security may hide rows of the table from us.
    pub async fn hides_rows(&self) -> Result<bool, StoreError> {
        match self.backend() {
            Backend::Mysql | Backend::Sqlite => Ok(false),
            Backend::Postgres => {
                let query = "SELECT COALESCE(row_security_active(to_regclass($1)), false) AS holds";
                let name = self.name();
                let rows: Vec<Flag> = on_conn!(self.store, |conn| sql(query)
                    .bind::<Text, _>(&name)
                    .load(conn))?;
                Ok(rows.iter().any(|row| row.holds))
            }
        }
    }

    /// Gives a row other tokens, if it still holds both that were seen there.
    pub async fn write(
        &self,
        seen: &AppTokRow,
        tokens: RowTokens<'_>,
        now: Timestamp,
    ) -> Result<RowWrite, StoreError> {
        self.write_if_undoable(seen, tokens, now, Keep::Yes).await
    }

    /// Does what [`write`](Self::write) does, and takes it back: whether it would succeed.
    pub async fn try_write(
        &self,
        seen: &AppTokRow,
        tokens: RowTokens<'_>,
        now: Timestamp,
    ) -> Result<RowWrite, StoreError> {
        self.write_if_undoable(seen, tokens, now, Keep::No).await
    }

    async fn write_if_undoable(
        &self,
        seen: &AppTokRow,
        tokens: RowTokens<'_>,
        now: Timestamp,
        keep: Keep,
    ) -> Result<RowWrite, StoreError> {
        if self.is_transactional().await? {
            self.transact(seen, tokens, now, keep).await
        } else {
            Ok(RowWrite::NotTransactional)
        }
    }

    async fn transact(
        &self,
        seen: &AppTokRow,
        tokens: RowTokens<'_>,
        now: Timestamp,
        keep: Keep,
    ) -> Result<RowWrite, StoreError> {
        let Some(id) = seen.id.as_deref() else {
            return Ok(RowWrite::Conflict);
        };
        let (update, select) = (self.update(now), self.select_by_id());
        let (access_token, refresh_token) =
            (tokens.access_token.expose(), tokens.refresh_token.expose());
        on_conn!(self.store, |conn| async {
            let ended = conn
                .transaction::<(), Undo, _>(async |conn| {
                    let changed = sql(&update)
                        .bind::<Text, _>(access_token)
                        .bind::<Text, _>(refresh_token)
                        .bind::<Text, _>(id)
                        .bind::<Text, _>(seen.refresh_token.expose())
                        .bind::<Text, _>(seen.access_token.expose())
                        .execute(conn)
                        .await?;
                    if changed != 1 {
                        return Err(Undo::Because(RowWrite::Conflict));
                    }
                    let now: Vec<RawRow> = sql(&select).bind::<Text, _>(id).load(conn).await?;
                    let [row] = now.as_slice() else {
                        return Err(Undo::Because(RowWrite::Conflict));
                    };
                    if row.acc_token.as_deref() != Some(access_token)
                        || row.ref_token.as_deref() != Some(refresh_token)
                    {
                        return Err(Undo::Because(RowWrite::Altered));
                    }
                    match keep {
                        Keep::Yes => Ok(()),
                        Keep::No => Err(Undo::Because(RowWrite::Written)),
                    }
                })
                .await;
            match ended {
                Ok(()) => Ok(RowWrite::Written),
                Err(Undo::Because(end)) => Ok(end),
                Err(Undo::Failed(error)) => Err(error),
            }
        })
    }

    /// Whether a write can be undone: not with `MyISAM` and its like.
    async fn is_transactional(&self) -> Result<bool, StoreError> {
        match self.backend() {
            Backend::Postgres | Backend::Sqlite => Ok(true),
            Backend::Mysql => {
                let (schema, table) = match self.table.0.split_once('.') {
                    Some((schema, table)) => (Some(schema), table),
                    None => (None, self.table.as_str()),
                };
                let query = "SELECT e.TRANSACTIONS <> 'YES' AS holds FROM information_schema.TABLES t \
                             JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE \
                             WHERE t.TABLE_SCHEMA = COALESCE(?, DATABASE()) AND t.TABLE_NAME = ?";
                let rows: Vec<Flag> = on_conn!(self.store, |conn| sql(query)
                    .bind::<Nullable<Text>, _>(schema)
                    .bind::<Text, _>(table)
                    .load(conn))?;
                Ok(!rows.iter().any(|row| row.holds))
            }
        }
    }

    fn select_by_id(&self) -> String {
        format!(
            "SELECT {} FROM {} WHERE {} = {}",
            self.columns(),
            self.name(),
            self.exact("id"),
            self.value(1),
        )
    }

    /// Binds the two new tokens, then the id, the refresh and the access token that were seen.
    fn update(&self, now: Timestamp) -> String {
        let [access, refresh, id, seen_refresh, seen_access] =
            [1, 2, 3, 4, 5].map(|number| self.value(number));
        format!(
            "UPDATE {} SET {} = {access}, {} = {refresh}, {} = {} \
             WHERE {} = {id} AND {} = {seen_refresh} AND COALESCE({}, '') = {seen_access}",
            self.name(),
            self.column("acc_token"),
            self.column("ref_token"),
            self.column("updated_at"),
            self.instant(now),
            self.exact("id"),
            self.exact("ref_token"),
            self.exact("acc_token"),
        )
    }

    fn name(&self) -> String {
        self.table.quoted(self.backend())
    }

    fn column(&self, name: &str) -> String {
        quoted(self.backend(), name)
    }

    fn columns(&self) -> String {
        let named = [
            ("id", "id"),
            ("AppId", "app_id"),
            ("Platform", "platform"),
            ("acc_token", "acc_token"),
            ("ref_token", "ref_token"),
            ("created_at", "created_at"),
            ("updated_at", "updated_at"),
        ];
        let columns = named.map(|(column, name)| {
            let read = match column {
                "created_at" | "updated_at" => self.time(column),
                _ => self.text(column),
            };
            format!("{read} AS {name}")
        });
        columns.join(", ")
    }

    /// A time with its zone, whatever the session's `DateStyle`; text as it is.
    fn time(&self, name: &str) -> String {
        match self.backend() {
            Backend::Postgres => format!("to_json({}) #>> '{{}}'", self.column(name)),
            Backend::Mysql | Backend::Sqlite => self.text(name),
        }
    }

    fn text(&self, name: &str) -> String {
        let to = match self.backend() {
            Backend::Postgres | Backend::Sqlite => "TEXT",
            Backend::Mysql => "CHAR",
        };
        format!("CAST({} AS {to})", self.column(name))
    }

    /// Byte for byte: `a` is not `A`, as it is to `MySQL`.
    fn exact(&self, name: &str) -> String {
        let text = self.text(name);
        match self.backend() {
            Backend::Postgres => format!("{text} COLLATE \"C\""),
            Backend::Mysql => format!("CAST({text} AS BINARY)"),
            Backend::Sqlite => text,
        }
    }

    fn value(&self, number: u8) -> String {
        match self.backend() {
            Backend::Postgres => format!("${number}"),
            Backend::Mysql | Backend::Sqlite => "?".to_owned(),
        }
    }

    /// A literal, which the database takes for whatever type the column has.
    fn instant(&self, at: Timestamp) -> String {
        let at = at.datetime();
        match self.backend() {
            Backend::Postgres | Backend::Sqlite => {
                format!("'{}'", at.format("%Y-%m-%dT%H:%M:%S%.3fZ"))
            }
            // With an offset it would be refused.
            Backend::Mysql => format!("'{}'", at.format("%Y-%m-%d %H:%M:%S")),
        }
    }
}

fn quoted(backend: Backend, name: &str) -> String {
    match backend {
        Backend::Postgres => format!("\"{name}\""),
        // SQLite takes a name in double quotes for a text where it knows no such column.
        Backend::Mysql | Backend::Sqlite => format!("`{name}`"),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a table that is not ours, under a name that is configured; values are bound"
)]
fn sql(text: &str) -> SqlQuery {
    diesel::sql_query(text)
}

impl From<RawRow> for AppTokRow {
    fn from(row: RawRow) -> Self {
        let told = |text: Option<String>| text.filter(|text| !usable(text).is_empty());
        Self {
            id: row.id,
            app_id: told(row.app_id),
            platform: told(row.platform),
            access_token: Secret::new(row.acc_token.unwrap_or_default()),
            refresh_token: Secret::new(row.ref_token.unwrap_or_default()),
            created_at: told(row.created_at),
            updated_at: told(row.updated_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pasted_around_a_token_is_not_used() {
        for text in [
            "t",
            " t\n",
            "\u{feff}t\r\n",
            "\"t\"",
            " '\u{200b}t ' ",
            "\" 't'\"",
        ] {
            assert_eq!(usable(text), "t", "{text:?}");
        }
        for kept in ["it's", "\"", "a \"b\" c", ""] {
            assert_eq!(usable(kept), kept, "{kept:?}");
        }
    }

    #[test]
    fn a_table_is_named_by_words_alone() {
        for good in ["App_tok", "public.App_tok", "tökens", "a1.b2"] {
            assert!(good.parse::<TableName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            "a.b.c",
            "a b",
            "a\"b",
            "a`b",
            "a;--",
            &"x".repeat(64),
        ] {
            assert!(bad.parse::<TableName>().is_err(), "{bad}");
        }
    }
}
