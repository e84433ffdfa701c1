//! What is there: keys, words, metrics, commands, routes, files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pipekeeper_service::Service;
use serde_json::Value;
use up::processes::{SERVICES, SIMULATOR, sibling};

use super::commands::{Commands, Help};
use super::markdown::{Document, Table};

/// Directories whose files say what is there.
const SOURCES: [&str; 5] = ["crates", "migrations", "scripts", "deploy", ".ci"];

/// Files at the top that do, too.
const TOP: [&str; 5] = [
    "Cargo.toml",
    "docker-compose.yml",
    ".dockerignore",
    ".clippy.toml",
    ".deny.toml",
];

#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) root: PathBuf,
    /// `refresh.lease_secs`, and its defaults.
    pub(crate) keys: BTreeMap<String, BTreeSet<String>>,
    /// Where each service listens.
    pub(crate) addresses: BTreeMap<String, String>,
    /// Everything in the sources that could be a name.
    pub(crate) words: BTreeSet<String>,
    pub(crate) commands: Commands,
    /// Method, and path in segments.
    pub(crate) routes: Vec<(String, Vec<String>)>,
    pub(crate) file_names: BTreeSet<String>,
    /// The tables in `docs/measured`, as they were written when they were measured.
    pub(crate) measured: Vec<Table>,
}

impl Facts {
    pub(crate) fn gather() -> Self {
        let root = crate::support::root();
        let mut facts = Self {
            root: root.clone(),
            ..Self::default()
        };
        for directory in SOURCES {
            facts.read_sources(&root.join(directory));
        }
        for name in TOP {
            facts.read_source(&root.join(name));
        }
        facts.read_defaults("providers", &root.join("crates/core/providers.toml"));
        for service in SERVICES {
            let defaults = format!("crates/{service}/config.default.toml");
            facts.read_defaults(service, &root.join(defaults));
            facts.add_routes(&openapi(service));
        }
        facts.add_aliases::<auth_capture::AuthCapture>();
        facts.add_aliases::<data_api::DataApi>();
        facts.add_aliases::<token_refresher::TokenRefresher>();
        facts.add_routes(&openapi(SIMULATOR));
        for path in ["/openapi.json", "/metrics"] {
            facts.add_route("GET", path);
        }
        for binary in SERVICES
            .into_iter()
            .chain([SIMULATOR, "up", "bench", "chaos"])
        {
            let help = Help::of_binary(binary);
            facts.commands.binaries.insert(binary.to_owned(), help);
        }
        for (path, text) in files(&root.join("scripts")) {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            facts.commands.scripts.insert(name, text);
        }
        for (path, text) in files(&root.join("docs/measured")) {
            let tables = Document::markdown(&path, &text).tables;
            facts.measured.extend(tables);
        }
        facts
    }

    fn read_sources(&mut self, directory: &Path) {
        for (path, text) in files(directory) {
            self.file_names
                .insert(path.file_name().unwrap().to_string_lossy().into_owned());
            // Neither documents nor what is said here of spoiled ones.
            let is_document = path.extension().is_some_and(|extension| extension == "md");
            if !is_document
                && !path.starts_with(self.root.join("crates/stack-tests/tests/it/documents"))
            {
                self.note_words(&text);
            }
        }
    }

    fn read_source(&mut self, path: &Path) {
        if let Ok(text) = fs::read_to_string(path) {
            self.note_words(&text);
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        self.file_names.insert(name);
    }

    pub(crate) fn note_words(&mut self, text: &str) {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        self.words.extend(words.map(str::to_owned));
    }

    fn read_defaults(&mut self, service: &str, path: &Path) {
        let text = fs::read_to_string(path).unwrap();
        let mut section = String::new();
        for line in text.lines() {
            if let Some(name) = line
                .strip_prefix('[')
                .and_then(|rest| rest.strip_suffix(']'))
            {
                section = name.to_owned();
            } else if let Some((key, value)) = line.split_once(" = ")
                && !line.starts_with('#')
            {
                let key = format!("{section}.{key}");
                if key == "http.listen" {
                    let address = value.trim_matches('"').to_owned();
                    self.addresses.insert(service.to_owned(), address);
                }
                self.keys.entry(key).or_default().insert(value.to_owned());
            }
        }
    }

    pub(crate) fn add_route(&mut self, method: &str, path: &str) {
        self.routes.push((method.to_owned(), segments(path)));
    }

    fn add_routes(&mut self, openapi: &Value) {
        for (path, item) in openapi["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys() {
                self.add_route(&method.to_uppercase(), path);
            }
        }
    }

    /// Another path takes what its route takes.
    fn add_aliases<S: Service>(&mut self) {
        for (alias, route) in S::ALIASES {
            let route = segments(route);
            let methods: Vec<String> = self
                .routes
                .iter()
                .filter(|(_, known)| fits(known, &route))
                .map(|(method, _)| method.clone())
                .collect();
            for method in methods {
                self.add_route(&method, alias);
            }
        }
    }

    /// The key as the defaults have it: further apps and providers have the keys of those that are there.
    pub(crate) fn key(&self, dotted: &str) -> Option<&BTreeSet<String>> {
        let mut parts: Vec<&str> = dotted.split('.').collect();
        if let [table @ ("apps" | "providers"), _, _] = parts[..] {
            parts = vec![table, "pipedrive", parts[2]];
        }
        self.keys.get(&parts.join("."))
    }

    pub(crate) fn is_section(&self, name: &str) -> bool {
        let begins = |key: &&String| key.starts_with(&format!("{name}."));
        self.keys.keys().find(begins).is_some()
    }
}

pub(crate) fn segments(path: &str) -> Vec<String> {
    path.split('/')
        .filter(|segment| !segment.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Whether a path is of a route, where either may have a place for anything.
pub(crate) fn fits(route: &[String], path: &[String]) -> bool {
    let open = |segment: &String| segment.starts_with(['{', '<', ':', '…']);
    let same = |(one, other): (&String, &String)| one == other || open(one) || open(other);
    route.len() == path.len() && route.iter().zip(path).all(same)
}

fn openapi(binary: &str) -> Value {
    let output = Command::new(sibling(binary).unwrap())
        .arg("openapi")
        .output();
    serde_json::from_slice(&output.unwrap().stdout).unwrap()
}

/// The text files below a directory; none where there is no such directory.
fn files(directory: &Path) -> Vec<(PathBuf, String)> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if let Ok(text) = fs::read_to_string(&path) {
            found.push((path, text));
        }
    }
    found
}
