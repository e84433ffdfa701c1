//! The imports between the files of a crate: no file depends on one that depends on it. What a parent module and its children use
//! of each other does not count: they are one unit in several files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::support::root;

/// A module's path within its crate: empty for `lib.rs`.
type Module = Vec<String>;

type Graph = BTreeMap<Module, BTreeSet<Module>>;

#[test]
fn no_files_of_a_crate_depend_on_each_other() {
    let mut circles = Vec::new();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let directory = entry.unwrap().path().join("src");
        if directory.join("lib.rs").exists() {
            let name = directory.parent().unwrap().file_name().unwrap();
            for circle in circles_of(&graph_of(&sources(&directory))) {
                circles.push(format!("{}: {}", name.display(), circle.join(" ↔ ")));
            }
        }
    }
    circles.sort();
    assert!(circles.is_empty(), "{}", circles.join("\n"));
}

#[test]
fn domain_types_do_not_know_the_store() {
    let graph = graph_of(&sources(&root().join("crates/core/src")));
    let is_store = |module: &Module| module.first().is_some_and(|name| name == "store");
    for (from, to) in &graph {
        if !is_store(from) {
            let used: Vec<_> = to.iter().filter(|to| is_store(to)).collect();
            assert!(used.is_empty(), "{} uses {used:?}", from.join("::"));
        }
    }
    assert!(graph.keys().any(is_store));
}

#[test]
fn a_circle_is_found_through_groups_and_a_third_file() {
    let sources = |third: &str| -> BTreeMap<Module, String> {
        [
            ("", "mod a; mod b; mod c; pub use a::A;"),
            ("a", "use crate::b::{self, inner::{B, C as D}};"),
            ("b", "// use crate::a::A;\nuse super::c::C;\nmod inner;"),
            ("b::inner", "use super::B; use crate::{b, A};"),
            ("c", third),
        ]
        .map(|(path, text)| (module(path), text.to_owned()))
        .into()
    };

    let none = circles_of(&graph_of(&sources("use std::fmt;")));
    assert!(none.is_empty(), "{none:?}");
    let circles = circles_of(&graph_of(&sources("fn f() { crate::a::g() }")));
    assert_eq!(circles, [["a", "b", "c"]]);
}

fn module(path: &str) -> Module {
    path.split("::")
        .filter(|part| !part.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Each file without its tests, by its module.
fn sources(directory: &Path) -> BTreeMap<Module, String> {
    let mut found = BTreeMap::new();
    collect(directory, &Module::new(), &mut found);
    found
}

fn collect(directory: &Path, parent: &Module, found: &mut BTreeMap<Module, String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if name == "tests" || name == "bin" {
            continue;
        }
        let mut module = parent.clone();
        if path.is_dir() {
            module.push(name);
            collect(&path, &module, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") && name != "main" {
            if name != "lib" {
                module.push(name);
            }
            let text = fs::read_to_string(&path).unwrap();
            let product = text.split("\n#[cfg(test)]\nmod tests").next().unwrap();
            found.insert(module, product.to_owned());
        }
    }
}

fn graph_of(sources: &BTreeMap<Module, String>) -> Graph {
    let mut graph = Graph::new();
    for (from, text) in sources {
        let used = graph.entry(from.clone()).or_default();
        for path in paths(text, from) {
            // The longest part of the path that is a file.
            let file = (0..=path.len())
                .rev()
                .map(|length| path[..length].to_vec())
                .find(|module| sources.contains_key(module));
            let to = file.unwrap_or_default();
            if !from.starts_with(&to) && !to.starts_with(from) {
                used.insert(to);
            }
        }
    }
    graph
}

/// The paths within the crate that a file names, from the crate's root.
fn paths(text: &str, from: &Module) -> Vec<Module> {
    let code: String = text
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = Vec::new();
    for (start, keyword) in ["crate::", "super::", "self::"]
        .iter()
        .flat_map(|keyword| code.match_indices(keyword))
    {
        let (before, after) = code.split_at(start);
        let before = before.chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || "_:$".contains(c)) {
            continue;
        }
        let base = match keyword {
            "crate::" => Module::new(),
            "super::" => from[..from.len().saturating_sub(1)].to_vec(),
            _ => from.clone(),
        };
        expand(after.strip_prefix(keyword).unwrap(), &base, &mut found);
    }
    found
}

/// What a path, or a group of them, leads to. Returns what follows.
fn expand<'a>(mut rest: &'a str, base: &Module, found: &mut Vec<Module>) -> &'a str {
    let mut path = base.clone();
    loop {
        rest = rest.trim_start();
        if let Some(mut group) = rest.strip_prefix('{') {
            loop {
                group = group.trim_start();
                if let Some(after) = group.strip_prefix('}') {
                    return after;
                }
                let after = expand(group, &path, found);
                let after = after.trim_start();
                group = after.strip_prefix(',').unwrap_or(after);
                if group.len() == after.len() && !group.starts_with('}') {
                    // `as` and a name, or no list at all.
                    let Some(end) = group.find([',', '}']) else {
                        return group;
                    };
                    let (_, after) = group.split_at(end);
                    group = after.strip_prefix(',').unwrap_or(after);
                }
            }
        }
        let end = rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        match name {
            "super" => drop(path.pop()),
            "self" | "" => {}
            name => path.push(name.to_owned()),
        }
        match after.strip_prefix("::") {
            Some(more) if !name.is_empty() => rest = more,
            _ => {
                found.push(path);
                return after;
            }
        }
    }
}

/// Files that reach each other, as paths; each circle once.
fn circles_of(graph: &Graph) -> Vec<Vec<String>> {
    let reached: BTreeMap<_, _> = graph
        .keys()
        .map(|from| (from, reach(graph, from)))
        .collect();
    let mut circles = BTreeSet::new();
    for (from, to) in &reached {
        let circle: Vec<String> = to
            .iter()
            .filter(|other| to.contains(*from) && reached[*other].contains(*from))
            .map(|other| other.join("::"))
            .collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}

fn reach<'a>(graph: &'a Graph, from: &'a Module) -> BTreeSet<&'a Module> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for next in graph.get(module).into_iter().flatten() {
            if reached.insert(next) {
                open.push(next);
            }
        }
    }
    reached
}
