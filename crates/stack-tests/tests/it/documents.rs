//! What documents say of commands, variables, keys, defaults, routes, metrics, files and figures is so.

mod checks;
mod commands;
mod facts;
mod figures;
mod markdown;
mod spoiled;

use std::fs;
use std::path::{Path, PathBuf};

use checks::complaints;
use facts::Facts;
use markdown::Document;

/// Every document that people are given, by its path from the top.
fn documents(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = [
        "README.md",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        ".env.example",
        "crates/README.md",
        "migrations/README.md",
        "docs/measured/README.md",
    ]
    .map(PathBuf::from)
    .into();
    for entry in fs::read_dir(root.join("crates")).unwrap() {
        found.push(
            Path::new("crates")
                .join(entry.unwrap().file_name())
                .join("README.md"),
        );
    }
    for entry in fs::read_dir(root.join("docs")).unwrap() {
        found.push(Path::new("docs").join(entry.unwrap().file_name()));
    }
    found.retain(|path| root.join(path).is_file());
    found.sort();
    found
}

#[test]
fn every_documented_command_variable_and_figure_is_there() {
    let facts = Facts::gather();
    let mut all = Vec::new();
    for path in documents(&facts.root) {
        let text = fs::read_to_string(facts.root.join(&path)).unwrap();
        let document = match path.extension() {
            Some(extension) if extension == "md" => Document::markdown(&path, &text),
            _ => Document::plain(&path, &text),
        };
        for complaint in complaints(&document, &facts) {
            all.push(format!(
                "{}:{}: {}",
                path.display(),
                complaint.line,
                complaint.what
            ));
        }
    }
    assert!(all.is_empty(), "{}", all.join("\n"));
}
