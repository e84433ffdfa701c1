//! What a database says that it does for a query.

use chrono::{DateTime, NaiveDateTime, Utc};
use pipekeeper_core::store::Backend;
use pipekeeper_testing::TestDatabase;
use serde_json::Value;

#[derive(Default)]
pub(crate) struct Plan {
    /// And what was said of it.
    query: String,
    indexes: Vec<String>,
    /// What of the index is looked up, in the database's own words.
    bounds: String,
    /// From the first row or entry to the last.
    scans: bool,
    sorts: bool,
    index_only: bool,
}

impl Plan {
    /// Of a query as diesel shows it: its text, and `-- binds: [...]`.
    pub(crate) fn of(database: &TestDatabase, query: &str) -> Self {
        let backend = database.backend();
        let query = with_values(backend, query);
        let explain = match backend {
            Backend::Sqlite => "EXPLAIN QUERY PLAN",
            Backend::Postgres => "EXPLAIN (FORMAT JSON)",
            Backend::Mysql => "EXPLAIN FORMAT=JSON",
        };
        let lines = database.lines(&format!("{explain} {query}"));
        let lines = lines.unwrap_or_else(|error| panic!("{error}\n{query}"));
        let mut plan = Self {
            query: format!("{query}\n{}", lines.join("\n")),
            ..Self::default()
        };
        match backend {
            Backend::Sqlite => lines.iter().for_each(|step| plan.note_step(step)),
            Backend::Postgres => plan.note_nodes(&parsed(&lines)),
            Backend::Mysql => plan.note_tables(&parsed(&lines)),
        }
        plan
    }

    #[track_caller]
    pub(crate) fn goes_by(&self, indexes: &[&str]) {
        let expected = |index: &String| indexes.contains(&index.as_str());
        let goes = !self.indexes.is_empty() && self.indexes.iter().all(expected);
        assert!(
            goes,
            "by {:?} not {indexes:?}: {}",
            self.indexes, self.query
        );
        assert!(!self.scans, "reads all: {}", self.query);
        assert!(!self.sorts, "sorts: {}", self.query);
    }

    /// It begins, or ends, at a value of this column.
    #[track_caller]
    pub(crate) fn is_bounded_by(&self, column: &str) {
        let bounded = self.bounds.contains(column);
        assert!(bounded, "{column} not in {}: {}", self.bounds, self.query);
    }

    #[track_caller]
    pub(crate) fn reads_no_row(&self) {
        assert!(self.index_only, "reads rows: {}", self.query);
    }

    /// `SEARCH connections USING COVERING INDEX connections_due (state=? AND due_at<?)`
    fn note_step(&mut self, step: &str) {
        self.scans |= step.contains("SCAN");
        self.sorts |= step.contains("TEMP B-TREE");
        self.index_only |= step.contains("COVERING INDEX");
        if let Some((_, index)) = step.split_once("INDEX ") {
            self.bounds.push_str(index);
            let index = index.split_whitespace().next().unwrap();
            self.indexes.push(match index {
                "sqlite_autoindex_connections_2" => "connections_keeper".to_owned(),
                "sqlite_autoindex_connections_3" => "connections_grant".to_owned(),
                "sqlite_autoindex_connections_1" | "sqlite_autoindex_default_connections_1" => {
                    "PRIMARY".to_owned()
                }
                _ => index.to_owned(),
            });
        }
    }

    /// Postgres.
    fn note_nodes(&mut self, nodes: &Value) {
        each_object(nodes, &mut |node| {
            match node.get("Node Type").and_then(Value::as_str) {
                Some("Seq Scan") => self.scans = true,
                Some("Sort" | "Incremental Sort") => self.sorts = true,
                Some("Index Only Scan") => self.index_only = true,
                _ => {}
            }
            if let Some(index) = node.get("Index Name").and_then(Value::as_str) {
                match node.get("Index Cond").and_then(Value::as_str) {
                    Some(condition) => self.bounds.push_str(condition),
                    // From end to end.
                    None => self.scans = true,
                }
                self.indexes.push(match index {
                    "connections_pkey" | "default_connections_pkey" => "PRIMARY".to_owned(),
                    _ => index.to_owned(),
                });
            }
        });
    }

    /// `MySQL` and `MariaDB`.
    fn note_tables(&mut self, tables: &Value) {
        each_object(tables, &mut |table| {
            self.sorts |= table.contains_key("filesort")
                || table.get("using_filesort") == Some(&Value::Bool(true));
            self.index_only |= table.get("using_index") == Some(&Value::Bool(true));
            let access = table.get("access_type").and_then(Value::as_str);
            self.scans |= matches!(access, Some("ALL" | "index"));
            if let Some(Value::Array(columns)) = table.get("used_key_parts") {
                self.bounds.extend(columns.iter().filter_map(Value::as_str));
            }
            if let Some(index) = table.get("key").and_then(Value::as_str) {
                self.indexes.push(index.to_owned());
            }
            // A row that its unique key would have, and that was looked up while it was planned.
            let message = table.get("message").and_then(Value::as_str);
            if message.is_some_and(|said| said.ends_with("after reading const tables")) {
                self.indexes.push("PRIMARY".to_owned());
            }
        });
    }
}

fn parsed(lines: &[String]) -> Value {
    serde_json::from_str(&lines.join("\n")).unwrap()
}

fn each_object(value: &Value, found: &mut impl FnMut(&serde_json::Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            found(object);
            object.values().for_each(|value| each_object(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| each_object(value, found)),
        _ => {}
    }
}

/// Puts the values where the placeholders are. `SQLite` plans without knowing them.
fn with_values(backend: Backend, query: &str) -> String {
    let (text, binds) = query.split_once(" -- binds: [").unwrap();
    let binds = binds.strip_suffix(']').unwrap();
    match backend {
        Backend::Sqlite => text.to_owned(),
        Backend::Postgres => {
            let binds = literals(binds, |naive| format!("timestamptz '{naive}+00'"));
            // The last one first: `$1` is also the beginning of `$10`.
            let numbered = binds.iter().enumerate().rev();
            numbered.fold(text.to_owned(), |text, (index, bind)| {
                text.replace(&format!("${}", index + 1), bind)
            })
        }
        Backend::Mysql => {
            let binds = literals(binds, |naive| format!("timestamp '{naive}'"));
            let mut parts = text.split('?');
            let first = parts.next().unwrap().to_owned();
            let parts: Vec<_> = parts.collect();
            assert_eq!(parts.len(), binds.len(), "{query}");
            let filled = binds.iter().zip(parts);
            filled.fold(first, |text, (bind, part)| text + bind + part)
        }
    }
}

/// Of values as `Debug` shows them, none of which contains `", "` or a quotation mark.
fn literals(binds: &str, instant: impl Fn(NaiveDateTime) -> String) -> Vec<String> {
    let literal = |bind: &str| {
        if let Some(text) = bind.strip_prefix('"') {
            return format!("'{}'", text.strip_suffix('"').unwrap());
        }
        if let Ok(at) = bind.parse::<DateTime<Utc>>() {
            return instant(at.naive_utc());
        }
        match bind {
            "None" => "NULL".to_owned(),
            "[sealed]" => "''".to_owned(),
            number_or_bool => number_or_bool.to_owned(),
        }
    };
    binds
        .split(", ")
        .map(|bind| {
            let inner = bind.strip_prefix("Some(");
            literal(inner.map_or(bind, |inner| inner.strip_suffix(')').unwrap()))
        })
        .collect()
}
