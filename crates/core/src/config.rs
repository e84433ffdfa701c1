//! Configuration: embedded defaults, a TOML file over them, the environment over both; all problems at once.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};

use ::config::{Config, Environment, File, FileFormat};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use crate::secret::Secret;

mod text;

use text::Use;

/// The providers that ship, below everything else.
const SHIPPED_PROVIDERS: &str = include_str!("../providers.toml");

/// Variables that ported deployments already have, and the keys they stand for.
const ALIASES: [(&str, &str); 4] = [
    ("DATABASE_URL", "database.url"),
    ("PIPE_DRIVE_CLIENT_ID", "apps.pipedrive.client_id"),
    ("PIPE_DRIVE_CLIENT_SECRET", "apps.pipedrive.client_secret"),
    ("PIPE_DRIVE_REDIRECT_URL", "apps.pipedrive.redirect_url"),
];

/// Where a service's configuration comes from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// `config.default.toml` of the service: every key, commented.
    pub defaults: &'static str,
    pub file: Option<PathBuf>,
    pub env: Vec<(String, String)>,
}

impl Sources {
    /// The process's own environment; `PIPEKEEPER_CONFIG` names the file unless `file` does.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the environment"
    )]
    pub fn of_process(defaults: &'static str, file: Option<PathBuf>) -> Self {
        // What is not UTF-8 in a value stays visible as such: the loader refuses it.
        let env: Vec<_> = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((
                    name.into_string().ok()?,
                    value.to_string_lossy().into_owned(),
                ))
            })
            .collect();
        // Compose files set what is not set to nothing.
        let named = std::env::var("PIPEKEEPER_CONFIG")
            .ok()
            .filter(|name| !name.is_empty());
        let file = file.or_else(|| named.map(PathBuf::from));
        Self {
            defaults,
            file,
            env,
        }
    }
}

/// Hands out the sections of the merged configuration and gathers what is wrong with them.
pub struct Loader {
    defaults: Config,
    merged: Config,
    asked_for: Vec<String>,
    problems: Vec<String>,
    warnings: Vec<String>,
}

impl Loader {
    /// # Errors
    /// Where a source can't be read or is not TOML: then there is nothing to look at key by key.
    pub fn new(sources: &Sources) -> Result<Self, Problems> {
        let defaults = Config::builder()
            .add_source(File::from_str(SHIPPED_PROVIDERS, FileFormat::Toml))
            .add_source(File::from_str(sources.defaults, FileFormat::Toml))
            .build()
            .map_err(|error| Problems(vec![problem_of(&error)]))?;
        let mut builder = Config::builder().add_source(defaults.clone());
        let mut problems = Vec::new();
        if let Some(path) = &sources.file {
            let file = File::from(path.as_path()).format(FileFormat::Toml);
            let read = Config::builder().add_source(file).build();
            let read = read.map_err(|error| Problems(vec![problem_of(&error)]))?;
            // The loader makes texts of dates, and nothing of `nan`.
            let raw = std::fs::read_to_string(path)
                .map_err(|error| Problems(vec![problem_of(&error)]))?
                .parse()
                .map_err(|error: toml::de::Error| Problems(vec![problem_of(&error)]))?;
            problems.extend(values_that_are_no_text(&defaults, &raw));
            builder = builder.add_source(read);
        }
        let mut aliased = Vec::new();
        for (variable, key) in ALIASES {
            let value = sources
                .env
                .iter()
                .find(|(name, value)| name == variable && !value.is_empty());
            if let Some((_, value)) = value
                && defaults.get::<Value>(key).is_ok()
            {
                aliased.push((key, value.clone()));
            }
        }
        for (key, value) in aliased {
            builder = builder
                .set_override(key, value)
                .map_err(|error| Problems(vec![problem_of(&error)]))?;
        }
        let own: std::collections::HashMap<String, String> = sources
            .env
            .iter()
            .filter(|(name, _)| name.starts_with("PIPEKEEPER__"))
            .cloned()
            .collect();
        let merged = builder
            .build()
            .and_then(|below| {
                Config::builder()
                    .add_source(below)
                    .add_source(
                        Environment::with_prefix("PIPEKEEPER")
                            .prefix_separator("__")
                            .separator("__")
                            .source(Some(own)),
                    )
                    .build()
            })
            .map_err(|error| Problems(vec![problem_of(&error)]))?;
        let mut loader = Self {
            defaults,
            merged,
            asked_for: Vec::new(),
            problems,
            warnings: Vec::new(),
        };
        for (path, leaf) in leaves(&loader.merged) {
            if let Some(text) = leaf.as_str() {
                loader.check_text(&path, text, Use::of(&path));
            }
        }
        Ok(loader)
    }

    /// Notes what a text caught on its way here.
    fn check_text(&mut self, path: &str, text: &str, used_as: Use) {
        if let Some(problem) = text::problem(text, used_as) {
            self.problem(path, &problem);
        } else if let Some(warning) = text::warning(text, used_as) {
            self.warnings.push(format!("{path}: {warning}"));
        }
    }

    /// What may be meant as it is, and most likely is not.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The section as `T`, which refuses unknown keys; `None` after noting the problem.
    pub fn section<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        self.asked_for.push(name.to_owned());
        self.table(name)
    }

    /// A table as `T`; what stands in a table's place may be a secret that lost its key, and is not shown.
    fn table<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        if matches!(self.merged.get::<Value>(name), Ok(value) if !value.is_object()) {
            self.problem(name, "is a section, and can't be a value");
            return None;
        }
        match self.merged.get::<T>(name) {
            Ok(table) => Some(table),
            Err(error) => {
                if !self.name_keys::<T>(name) {
                    self.problem(name, &problem_of(&error));
                }
                None
            }
        }
    }

    /// Notes each invalid key of a table, the others at their defaults: a deserializer stops at the
    /// first. Says whether there was one.
    fn name_keys<T: DeserializeOwned>(&mut self, name: &str) -> bool {
        type Table = std::collections::HashMap<String, ::config::Value>;
        let read = |table: Table| ::config::Value::from(table).try_deserialize::<T>();
        let (Ok(defaults), Ok(merged)) = (
            self.defaults.get::<Table>(name),
            self.merged.get::<Table>(name),
        ) else {
            return false;
        };
        if read(defaults.clone()).is_err() {
            return false;
        }
        let mut named = false;
        for (key, value) in merged {
            let mut table = defaults.clone();
            table.insert(key.clone(), value);
            if let Err(error) = read(table) {
                self.problem(&format!("{name}.{key}"), &problem_of(&error));
                named = true;
            }
        }
        named
    }

    /// The entries of a table of tables, by key; those with problems are left out after noting them. A key is part of a
    /// path in the configuration and of URLs.
    pub fn entries<T: DeserializeOwned>(&mut self, name: &str) -> Vec<(String, T)> {
        self.asked_for.push(name.to_owned());
        if !self.has(name) {
            return Vec::new();
        }
        let keys = self.table::<BTreeMap<String, Value>>(name);
        keys.unwrap_or_default()
            .into_keys()
            .filter_map(|key| {
                let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
                if key.is_empty() || !key.bytes().all(is_name) {
                    self.problem(
                        &format!("{name}.{key:?}"),
                        "is not a name of letters, digits, `-` and `_`",
                    );
                    return None;
                }
                let entry = self.table(&format!("{name}.{key}"))?;
                Some((key, entry))
            })
            .collect()
    }

    /// A secret given in place or as the path of a file that holds it (its last line break is not part of it).
    pub fn secret(&mut self, name: &str, value: Secret, file: &str) -> Secret {
        if file.is_empty() {
            return value;
        }
        if !value.is_empty() {
            self.problem(name, "is set, and so is its _file: keep one");
            return value;
        }
        match Secret::read(Path::new(file)) {
            Ok(secret) => {
                self.check_text(&format!("{name}_file"), secret.expose(), Use::of(name));
                secret
            }
            Err(error) => {
                self.problem(
                    &format!("{name}_file"),
                    &format!("can't read {file}: {error}"),
                );
                value
            }
        }
    }

    /// Whether a source says anything of this key.
    pub fn has(&self, key: &str) -> bool {
        self.merged.get::<Value>(key).is_ok()
    }

    pub fn url(&mut self, name: &str, text: &str) -> Option<Url> {
        match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.host().is_some() => {
                Some(url)
            }
            Ok(_) => {
                self.problem(name, "is not an http or https URL");
                None
            }
            Err(_) if text.is_empty() => {
                self.problem(name, "is not set");
                None
            }
            Err(error) => {
                self.problem(name, &format!("is no URL: {error}"));
                None
            }
        }
    }

    pub fn problem(&mut self, key: &str, what: &str) {
        self.problems.push(format!("{key}: {what}"));
    }

    /// # Errors
    /// Everything that was noted, and every section that was not read.
    pub fn finish(mut self) -> Result<(), Problems> {
        let sections: Vec<String> = self
            .merged
            .clone()
            .try_deserialize::<BTreeMap<String, Value>>()
            .unwrap_or_default()
            .into_keys()
            .collect();
        for section in sections {
            if !self.asked_for.contains(&section) {
                self.problem(&section, "no such section");
            }
        }
        if self.problems.is_empty() {
            Ok(())
        } else {
            self.problems.sort();
            self.problems.dedup();
            Err(Problems(self.problems))
        }
    }

    /// The merged configuration as TOML lines of dotted keys, secrets redacted.
    pub fn effective(&self) -> String {
        let mut out = String::new();
        for (path, leaf) in leaves(&self.merged) {
            let _ = writeln!(out, "{path} = {}", redacted(&path, &leaf));
        }
        out
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loader")
            .field("problems", &self.problems)
            .finish_non_exhaustive()
    }
}

/// Everything that is wrong with a configuration, a line each.
#[derive(Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration can't be used:")?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// An error's text on one line, without the lines of the file that a TOML error quotes: they may hold a secret.
pub(crate) fn problem_of(error: &dyn std::error::Error) -> String {
    let is_quoted = |line: &&str| {
        line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ')
            .starts_with('|')
    };
    let text = chain(error);
    let lines: Vec<&str> = text.lines().filter(|line| !is_quoted(line)).collect();
    lines.join(" ")
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let _ = write!(text, ": {next}");
        cause = next.source();
    }
    text
}

/// Every value with its key, `section.key`, in the order of the keys.
fn leaves(config: &Config) -> Vec<(String, Value)> {
    fn walk(leaves: &mut Vec<(String, Value)>, prefix: &str, tree: Value) {
        let Value::Object(map) = tree else {
            leaves.push((prefix.to_owned(), tree));
            return;
        };
        let keys: BTreeMap<String, Value> = map.into_iter().collect();
        for (key, value) in keys {
            let path = if prefix.is_empty() {
                key
            } else {
                format!("{prefix}.{key}")
            };
            walk(leaves, &path, value);
        }
    }
    let mut leaves = Vec::new();
    if let Ok(tree @ Value::Object(_)) = config.clone().try_deserialize() {
        walk(&mut leaves, "", tree);
    }
    leaves
}

/// The keys of a file that hold something else than text where text belongs: what was written is not what would arrive,
/// `1e5` as `100000`, `1979-05-27` as a text of its own, `nan` not at all.
fn values_that_are_no_text(defaults: &Config, file: &toml::Table) -> Vec<String> {
    fn walk(wrong: &mut Vec<String>, prefix: &str, table: &toml::Table) {
        for (key, value) in table {
            let path = if prefix.is_empty() {
                key.clone()
            } else {
                format!("{prefix}.{key}")
            };
            match value {
                toml::Value::Table(table) => walk(wrong, &path, table),
                toml::Value::String(_) => {}
                _ => wrong.push(path),
            }
        }
    }
    let expected: BTreeMap<String, Value> = leaves(defaults).into_iter().collect();
    let is_text = |path: &str| {
        let mut parts: Vec<&str> = path.split('.').collect();
        // Entries by hand have the keys of those that ship.
        if let [section @ ("apps" | "providers"), _, _] = parts.as_slice() {
            parts = vec![
                section,
                "pipedrive",
                parts.last().copied().unwrap_or_default(),
            ];
        }
        expected.get(&parts.join(".")).is_some_and(Value::is_string)
    };
    let mut wrong = Vec::new();
    walk(&mut wrong, "", file);
    wrong.retain(|path| is_text(path));
    wrong
        .into_iter()
        .map(|path| format!("{path}: is not text; put quotes around the value"))
        .collect()
}

fn redacted(path: &str, leaf: &Value) -> Value {
    let key = path.rsplit('.').next().unwrap_or(path);
    if leaf.as_str() == Some("") {
        leaf.clone()
    } else if is_secret(key) || path == "old_table.url" {
        // Whatever its type: a password may look like a number.
        Value::from("[redacted]")
    } else if path == "database.url" {
        Value::from(without_password(leaf.as_str().unwrap_or_default()))
    } else {
        leaf.clone()
    }
}

/// `password`, `operator_password`, `client_secret`, …
fn is_secret(key: &str) -> bool {
    key == "keys" || key.ends_with("password") || key.ends_with("secret")
}

/// A database URL that may be shown: its password, and any that stands in its query, are gone.
fn without_password(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else {
        return if text.starts_with("sqlite:") {
            text.to_owned()
        } else {
            "[redacted]".to_owned()
        };
    };
    if url.password().is_some() && url.set_password(Some("redacted")).is_err() {
        return "[redacted]".to_owned();
    }
    // A password with an unescaped `/`, `?` or `#` ends up behind the host.
    let behind = [Some(url.path()), url.query(), url.fragment()];
    if behind.iter().flatten().any(|part| part.contains('@')) {
        return "[redacted]".to_owned();
    }
    if url.query_pairs().any(|(key, _)| key == "password") {
        url.set_query(Some("[redacted]"));
    }
    url.to_string()
}

#[cfg(test)]
mod tests;
