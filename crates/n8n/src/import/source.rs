//! What other places keep grants in: n8n's table, its exports, the CRM integration's documents.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{AppTok, AppTokRow, usable};
use serde_json::Value;

use super::RowOutcome;

/// A grant as it was found, and where.
#[derive(Debug)]
pub(crate) struct SourceRow {
    /// `row 3`, `document 507f…`: what the report calls it.
    pub(crate) name: String,
    /// The id of its row, if it is one of the old table itself and no other row has it.
    pub(crate) row: Option<String>,
    pub(crate) app_id: Option<String>,
    pub(crate) platform: Option<String>,
    pub(crate) access_token: Secret,
    pub(crate) refresh_token: Secret,
    /// The tenant and user it is filed under; `None` where it is an install.
    pub(crate) account_and_owner: Option<(String, String)>,
    pub(crate) api_domain: Option<String>,
    pub(crate) scope: String,
    pub(crate) expires_at: Option<Timestamp>,
    /// Why it can't be imported.
    pub(crate) unfit: Option<(RowOutcome, &'static str)>,
    age: Age,
}

/// When it was last written, when it was created, its id. Only a suggestion of which is newer: people write times in their
/// own format and zone, and a time that can't be read counts as the oldest.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Age(Option<Timestamp>, Option<Timestamp>, Id);

#[derive(Debug, Default, PartialEq, Eq)]
struct Id(String);

impl Ord for Id {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self.0.parse::<u64>(), other.0.parse::<u64>()) {
            (Ok(own), Ok(others)) => own.cmp(&others),
            _ => self.0.cmp(&other.0),
        }
    }
}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl SourceRow {
    pub(crate) fn by_age(&self, other: &Self) -> Ordering {
        self.age.cmp(&other.age)
    }

    /// Which of two rows rather says which connection is the default: callers name the `AppId` of one.
    pub(crate) fn by_default(&self, other: &Self) -> Ordering {
        let rank = |found: &Self| found.app_id.is_some();
        rank(self)
            .cmp(&rank(other))
            .then_with(|| self.by_age(other))
    }

    fn of_row(row: AppTokRow, name: String) -> Self {
        let text = |text: Option<String>| text.map(|text| usable(&text).to_owned());
        let token = |token: &Secret| Secret::from(usable(token.expose()));
        Self {
            name,
            row: None,
            app_id: text(row.app_id),
            platform: text(row.platform),
            access_token: token(&row.access_token),
            refresh_token: token(&row.refresh_token),
            account_and_owner: None,
            api_domain: None,
            scope: String::new(),
            expires_at: None,
            unfit: None,
            age: Age(
                row.updated_at.as_deref().and_then(Timestamp::parse),
                row.created_at.as_deref().and_then(Timestamp::parse),
                Id(row.id.unwrap_or_default()),
            ),
        }
    }

    /// A document of the CRM integration.
    fn of_document(document: &Value, number: usize) -> Self {
        let token = document.get("token").unwrap_or(&Value::Null);
        let of = |value: &Value, key: &str| value.get(key).and_then(text);
        let account_and_owner = of(document, "account_id").zip(of(document, "owner"));
        let unfit = if document.get("token_invalidated") == Some(&Value::Bool(true)) {
            Some((
                RowOutcome::Skipped,
                "invalidated where it is (token_invalidated): connect it again",
            ))
        } else if account_and_owner.is_none() {
            Some((RowOutcome::Skipped, "has no account_id, or no owner"))
        } else {
            None
        };
        let secs = |key: &str| of(token, key).and_then(|secs| secs.parse::<f64>().ok());
        let generated_at = secs("generated_at");
        let expires_at = generated_at
            .zip(secs("expires_in"))
            .and_then(|(at, secs)| Timestamp::from_unix_secs(at + secs));
        let secret = |key: &str| Secret::from(usable(&of(token, key).unwrap_or_default()));
        let id = of(document, "_id");
        Self {
            name: id.clone().map_or_else(
                || format!("document {number}"),
                |id| format!("document {id}"),
            ),
            row: None,
            app_id: of(document, "AppId").or_else(|| of(document, "app_id")),
            platform: None,
            access_token: secret("access_token"),
            refresh_token: secret("refresh_token"),
            account_and_owner,
            api_domain: of(token, "api_domain"),
            scope: of(token, "scope").unwrap_or_default(),
            expires_at,
            unfit,
            age: Age(
                generated_at.and_then(Timestamp::from_unix_secs),
                None,
                Id(id.unwrap_or_default()),
            ),
        }
    }
}

/// Text and numbers, also as `MongoDB`'s extended JSON has them; `None` where it is empty.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()).filter(|text| !text.trim().is_empty()),
        Value::Number(number) => Some(number.to_string()),
        Value::Object(members) if members.len() == 1 => members
            .iter()
            .find(|(key, _)| key.starts_with('$'))
            .and_then(|(_, inner)| text(inner)),
        Value::Object(_) | Value::Array(_) | Value::Bool(_) | Value::Null => None,
    }
}

/// All rows of the table, where it is.
pub(crate) async fn table(old: &AppTok) -> anyhow::Result<Vec<SourceRow>> {
    let rows = old.rows().await.with_context(|| {
        format!(
            "can't read the table {} with the columns id, AppId, Platform, acc_token, ref_token, created_at, updated_at",
            old.table()
        )
    })?;
    let mut with_id: HashMap<String, usize> = HashMap::new();
    for id in rows.iter().filter_map(|row| row.id.clone()) {
        *with_id.entry(id).or_default() += 1;
    }
    let found = rows.into_iter().map(|row| {
        let mut found = of_table(row);
        let unfit = match &found.row {
            None => "has no id: give it one of its own",
            Some(id) if with_id.get(id) != Some(&1) => {
                "has the same id as another row: give each an id of its own"
            }
            Some(_) => return found,
        };
        found.unfit = Some((RowOutcome::NeedsAction, unfit));
        found.row = None;
        found
    });
    let mut found: Vec<SourceRow> = found.collect();
    found.sort_by(|a, b| a.age.2.cmp(&b.age.2));
    Ok(found)
}

/// A row of the table whose id no other row has.
pub(crate) fn of_table(row: AppTokRow) -> SourceRow {
    let id = row.id.clone();
    let name = format!("row {}", id.as_deref().unwrap_or("NULL"));
    SourceRow {
        row: id,
        ..SourceRow::of_row(row, name)
    }
}

/// The table's export.
pub(crate) fn csv(path: &Path) -> anyhow::Result<Vec<SourceRow>> {
    let shown = path.display();
    let mut reader = csv::Reader::from_path(path).with_context(|| format!("can't read {shown}"))?;
    let head = reader
        .headers()
        .with_context(|| format!("{shown} has no header line"))?
        .clone();
    for column in ["acc_token", "ref_token"] {
        ensure!(
            head.iter().any(|name| name == column),
            "{shown} has no column `{column}`"
        );
    }
    let mut found = Vec::new();
    for (index, record) in reader.records().enumerate() {
        // What the crate says of a record that does not read holds none of it.
        let record = record.with_context(|| format!("{shown} is no CSV"))?;
        let cell = |column: &str| {
            let at = head.iter().position(|name| name == column)?;
            record
                .get(at)
                .map(str::to_owned)
                .filter(|text| !text.trim().is_empty() && text != "NULL")
        };
        found.push(row_of(cell, index + 1));
    }
    Ok(found)
}

/// Rows of the table, or documents of the CRM integration: an array, or one after the other.
pub(crate) fn json(path: &Path) -> anyhow::Result<Vec<SourceRow>> {
    let shown = path.display();
    let file = fs::read_to_string(path).with_context(|| format!("can't read {shown}"))?;
    let items = items(&file).with_context(|| format!("{shown} is no JSON"))?;
    let mut found = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let number = index + 1;
        if item.get("acc_token").is_some() {
            let cell = |column: &str| item.get(column).and_then(text);
            found.push(row_of(cell, number));
        } else {
            found.push(SourceRow::of_document(item, number));
        }
    }
    Ok(found)
}

fn items(file: &str) -> anyhow::Result<Vec<Value>> {
    // Windows' tools begin a file with a mark of its encoding.
    let file = file.trim_start_matches('\u{feff}');
    let mut items = Vec::new();
    for item in serde_json::Deserializer::from_str(file).into_iter() {
        // What serde says holds no value.
        match item? {
            Value::Array(several) => items.extend(several),
            one => items.push(one),
        }
    }
    if let Some(at) = items.iter().position(|item| !item.is_object()) {
        bail!("item {} is no object", at + 1);
    }
    Ok(items)
}

fn row_of(cell: impl Fn(&str) -> Option<String>, number: usize) -> SourceRow {
    let secret = |column: &str| Secret::new(cell(column).unwrap_or_default());
    let id = cell("id");
    let name = id
        .clone()
        .map_or_else(|| format!("item {number}"), |id| format!("row {id}"));
    let row = AppTokRow {
        id: Some(id.unwrap_or_else(|| number.to_string())),
        app_id: cell("AppId"),
        platform: cell("Platform"),
        access_token: secret("acc_token"),
        refresh_token: secret("ref_token"),
        created_at: cell("created_at"),
        updated_at: cell("updated_at"),
    };
    SourceRow::of_row(row, name)
}

#[cfg(test)]
mod tests {
    use pipekeeper_testing::TestDirectory;

    use super::*;

    fn file(text: &str) -> (TestDirectory, std::path::PathBuf) {
        let directory = TestDirectory::create();
        let path = directory.path().join("export");
        fs::write(&path, text).unwrap();
        (directory, path)
    }

    #[test]
    fn the_export_of_supabase_is_read() {
        let (_directory, path) = file(
            "id,created_at,AppId,Platform,acc_token,ref_token,updated_at\n\
             9,2026-11-21 20:41:37.538+00,57db,Pipedrive,\"a,1\",\"r\"\"1\",2026-11-21T20:41:37.538Z\n\
             10,,,,a2,r2,\n",
        );
        let found = csv(&path).unwrap();

        assert_eq!(found.len(), 2);
        assert_eq!(found[0].name, "row 9");
        assert_eq!(found[0].row, None);
        assert_eq!(found[0].app_id.as_deref(), Some("57db"));
        assert_eq!(found[0].access_token.expose(), "a,1");
        assert_eq!(found[0].refresh_token.expose(), "r\"1");
        assert_eq!((&found[1].app_id, &found[1].platform), (&None, &None));
        assert_eq!(found[1].by_age(&found[0]), Ordering::Less);

        let (_directory, path) = file("id,AppId\n1,x\n");
        let error = format!("{:#}", csv(&path).unwrap_err());
        assert!(error.contains("has no column `acc_token`"), "{error}");
    }

    #[test]
    fn ids_are_ordered_as_numbers_where_they_are() {
        let id = |text: &str| Id(text.to_owned());
        assert!(id("9") < id("10"));
        assert!(id("a") < id("b"));
    }

    #[test]
    fn documents_are_read_with_and_without_extended_json() {
        let plain = r#"{"_id":"507f","account_id":"acme","owner":"jane","token":{"access_token":"a","refresh_token":"r",
            "expires_in":3600,"generated_at":1728547200,"scope":"base","api_domain":"https://acme.pipedrive.com"},
            "token_invalidated":false}"#
            .replace('\n', "");
        let extended = r#"{"_id":{"$oid":"5080"},"account_id":{"$oid":"507f191e"},"owner":"u","token":{"access_token":"a",
            "refresh_token":"r","expires_in":{"$numberInt":"3600"},"generated_at":{"$numberLong":"1728547201"}},
            "token_invalidated":true}"#
            .replace('\n', "");
        for text in [
            format!("[{plain},{extended}]"),
            format!("{plain}\n\n{extended}\n"),
            format!("\u{feff}{plain}\r\n{extended}\r\n"),
            format!("{plain}\n{extended}").replace(',', ",\n"),
        ] {
            let (_directory, path) = file(&text);
            let found = json(&path).unwrap();

            assert_eq!(found[0].name, "document 507f");
            assert_eq!(
                found[0].account_and_owner,
                Some(("acme".to_owned(), "jane".to_owned()))
            );
            let at = Timestamp::from_unix_micros(1_728_550_800_000_000);
            assert_eq!(found[0].expires_at, at);
            assert_eq!(found[0].unfit, None);
            assert_eq!(found[1].name, "document 5080");
            assert_eq!(
                found[1].account_and_owner,
                Some(("507f191e".to_owned(), "u".to_owned()))
            );
            assert!(found[1].unfit.is_some());
            assert_eq!(found[0].by_age(&found[1]), Ordering::Less);
        }
    }

    #[test]
    fn what_is_of_no_use_is_named_without_what_it_holds() {
        for (text, why) in [
            ("[\"secret-token\"]", "item 1 is no object"),
            ("secret-token", "is no JSON"),
        ] {
            let (_directory, path) = file(text);
            let error = format!("{:#}", json(&path).unwrap_err());
            assert!(error.contains(why), "{error}");
            assert!(!error.contains("secret-token"), "{error}");
        }
    }
}
