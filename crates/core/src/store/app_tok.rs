//! The table that n8n's workflows keep tokens in: `id, AppId, Platform, acc_token, ref_token, created_at, updated_at`.
//!
//! It is somebody else's, in a database of its own, with columns of whatever types that somebody chose: all are read as
//! text, and a row is known by the text of its id.

use diesel::prelude::*;
use diesel::query_builder::SqlQuery;
use diesel::sql_types::{Nullable, Text};
use diesel_async::RunQueryDsl;

use super::{Backend, Store, StoreError, StoreOptions, on_conn};
use crate::clock::Timestamp;
use crate::secret::Secret;

/// Rows are read so many at a time.
const PAGE: usize = 500;

/// The old table. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AppTok {
    store: Store,
    table: TableName,
}

/// One of its rows.
#[derive(Debug, Clone)]
pub struct AppTokRow {
    pub id: String,
    /// `None` also where it is empty.
    pub app_id: Option<String>,
    pub platform: Option<String>,
    pub access_token: Secret,
    pub refresh_token: Secret,
    pub created_at: Option<String>,
    pub updated_at: Option<String>,
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

impl AppTok {
    /// Reads the URL; connects to nothing yet.
    ///
    /// # Errors
    /// [`StoreError::Url`], which says nothing of the URL's contents.
    pub fn open(url: &Secret, table: TableName) -> Result<Self, StoreError> {
        let options = StoreOptions {
            max_connections: 2,
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

    /// All rows, in the order of their ids' texts.
    pub async fn rows(&self) -> Result<Vec<AppTokRow>, StoreError> {
        let mut rows: Vec<AppTokRow> = Vec::new();
        loop {
            let after = rows.last().map_or_else(String::new, |row| row.id.clone());
            let page = self.page(&after).await?;
            let is_last = page.len() < PAGE;
            rows.extend(page);
            if is_last {
                return Ok(rows);
            }
        }
    }

    async fn page(&self, after: &str) -> Result<Vec<AppTokRow>, StoreError> {
        let (id, table) = (self.exact("id"), self.name());
        let query = format!(
            "SELECT {} FROM {table} WHERE {} > {} ORDER BY {} LIMIT {PAGE}",
            self.columns(),
            id,
            self.value(1),
            id,
        );
        self.read(&query, after).await
    }

    pub async fn row(&self, id: &str) -> Result<Option<AppTokRow>, StoreError> {
        let query = format!(
            "SELECT {} FROM {} WHERE {} = {}",
            self.columns(),
            self.name(),
            self.exact("id"),
            self.value(1),
        );
        let found = self.read(&query, id).await?;
        Ok(found.into_iter().find(|row| row.id == id))
    }

    async fn read(&self, query: &str, bound: &str) -> Result<Vec<AppTokRow>, StoreError> {
        let rows: Vec<RawRow> = on_conn!(self.store, |conn| sql(query)
            .bind::<Text, _>(bound)
            .load(conn))?;
        Ok(rows.into_iter().map(AppTokRow::from).collect())
    }

    /// Gives a row another access token, if it still holds both tokens that were seen there.
    pub async fn access_token_write(
        &self,
        seen: &AppTokRow,
        access_token: &Secret,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let query = self.update(&["acc_token"], now);
        let changed = on_conn!(self.store, |conn| sql(&query)
            .bind::<Text, _>(access_token.expose())
            .bind::<Text, _>(seen.id.as_str())
            .bind::<Text, _>(seen.refresh_token.expose())
            .bind::<Text, _>(seen.access_token.expose())
            .execute(conn))?;
        Ok(changed == 1)
    }

    /// Gives a row both tokens, if it still holds both that were seen there.
    pub async fn tokens_write(
        &self,
        seen: &AppTokRow,
        access_token: &Secret,
        refresh_token: &Secret,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let query = self.update(&["acc_token", "ref_token"], now);
        let changed = on_conn!(self.store, |conn| sql(&query)
            .bind::<Text, _>(access_token.expose())
            .bind::<Text, _>(refresh_token.expose())
            .bind::<Text, _>(seen.id.as_str())
            .bind::<Text, _>(seen.refresh_token.expose())
            .bind::<Text, _>(seen.access_token.expose())
            .execute(conn))?;
        Ok(changed == 1)
    }

    /// Sets these columns, and when: bound are their values, then the id, the refresh and the access token that were seen.
    fn update(&self, columns: &[&str], now: Timestamp) -> String {
        let mut values = (1..).map(|number| self.value(number));
        let mut is = |column: String| {
            let value = values.next().unwrap_or_default();
            format!("{column} = {value}")
        };
        let set: Vec<String> = columns
            .iter()
            .map(|column| is(self.column(column)))
            .collect();
        let seen = [
            self.exact("id"),
            self.exact("ref_token"),
            format!("COALESCE({}, '')", self.exact("acc_token")),
        ];
        format!(
            "UPDATE {} SET {}, {} = {} WHERE {}",
            self.name(),
            set.join(", "),
            self.column("updated_at"),
            self.instant(now),
            seen.map(is).join(" AND "),
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
        let columns = named.map(|(column, name)| format!("{} AS {name}", self.text(column)));
        columns.join(", ")
    }

    fn text(&self, name: &str) -> String {
        let to = match self.backend() {
            Backend::Postgres | Backend::Sqlite => "TEXT",
            Backend::Mysql => "CHAR",
        };
        format!("CAST({} AS {to})", self.column(name))
    }

    /// Byte for byte: a page begins where the last one ended, and `a` is not `A`, as it is to `MySQL`.
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
        let told = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        Self {
            id: row.id.unwrap_or_default(),
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
