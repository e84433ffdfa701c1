//! What documents claim, claim by claim.

use std::path::Path;

use super::facts::{Facts, fits, segments};
use super::figures;
use super::markdown::{Document, Line, Span};

/// Heads of columns that say what others have.
const OTHERS: [&str; 3] = ["CRM integration", "API v1", "API v2"];

/// Claims that are checked elsewhere or are about others' things: a document, and a word of it.
const ABOUT_OTHERS: [(&str, &str); 2] = [
    // The snapshot library's.
    ("CONTRIBUTING.md", "INSTA_UPDATE=always"),
    // That there is no such prefix.
    ("docs/from-crm-integration.md", "/v1/e/pipedrive"),
];

/// Something said in a document that isn't so.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Complaint {
    pub(crate) line: usize,
    pub(crate) what: String,
}

pub(crate) fn complaints(document: &Document, facts: &Facts) -> Vec<Complaint> {
    let mut all = Vec::new();
    let mut complain = |line: usize, what: Option<String>| {
        all.extend(what.map(|what| Complaint { line, what }));
    };
    for Line { number, text } in &document.text {
        for variable in variables(text) {
            complain(*number, no_variable(variable, facts));
        }
        for name in identifiers(text).filter(|name| name.starts_with("pipekeeper_")) {
            complain(*number, no_word(metric(name), facts));
        }
    }
    for span in &document.spans {
        let others = is_about_others(document, span);
        if !others {
            for complaint in span_complaints(span, facts) {
                complain(span.line, Some(complaint));
            }
        }
        if !others {
            complain(span.line, no_file(&span.text, document, facts));
        }
    }
    for Line { number, text } in &document.code {
        complain(*number, facts.commands.complaint(text));
        for path in url_paths(text) {
            complain(*number, no_route(None, path, facts));
        }
    }
    for (number, what) in configuration_complaints(document, facts) {
        complain(number, Some(what));
    }
    for Line { number, text } in &document.links {
        complain(*number, dead_link(text, document, facts));
    }
    table_complaints(document, facts, &mut complain);
    all.sort();
    all.dedup();
    all
}

fn is_about_others(document: &Document, span: &Span) -> bool {
    let path = document.path.to_string_lossy();
    let in_column = span
        .column
        .as_deref()
        .is_some_and(|head| OTHERS.contains(&head));
    in_column || ABOUT_OTHERS.contains(&(path.as_ref(), span.text.as_str()))
}

fn span_complaints(span: &Span, facts: &Facts) -> Vec<String> {
    let text = span.text.as_str();
    let mut all = Vec::new();
    if let Some((method, path)) = route(text) {
        all.extend(no_route(method, path, facts));
        return all;
    }
    if let Some(section) = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
    {
        let section = section.trim_end_matches(".*");
        all.extend(no_section(section, facts));
        return all;
    }
    all.extend(
        facts
            .commands
            .complaint(text)
            .filter(|_| begins_a_command(text, facts)),
    );
    let (key, _) = text.split_once(" = ").unwrap_or((text, ""));
    let first = key.split('.').next().unwrap_or_default();
    let is_file = key
        .rsplit('.')
        .next()
        .is_some_and(|end| matches!(end, "rs" | "toml" | "md"));
    if key.contains('.') && is_dotted(key) && facts.is_section(first) && !is_file {
        if facts.key(key).is_none() && !facts.is_section(key) {
            all.push(format!("no key {key}"));
        }
    } else {
        all.extend(identifiers(text).filter_map(|name| no_word(name, facts)));
        all.extend(shouted(text).filter_map(|name| no_word(name, facts)));
        all.extend(no_item(text, facts));
    }
    all.extend(other_default(key, &span.after, facts));
    all
}

/// `[sweep]`, or one of several tables: `[apps.second]`.
fn no_section(name: &str, facts: &Facts) -> Option<String> {
    let known = match name.split_once('.') {
        Some((tables, _)) => facts.is_section(tables),
        None => facts.is_section(name),
    };
    (!known).then(|| format!("no section [{name}]"))
}

/// Lines of TOML: a section, and keys of it.
fn configuration_complaints(document: &Document, facts: &Facts) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    let mut section = None;
    for Line { number, text } in &document.code {
        let inner = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        if let Some(name) = inner.filter(|name| is_dotted(name)) {
            all.extend(no_section(name, facts).map(|what| (*number, what)));
            section = Some(name);
        } else if let (Some(name), Some((key, _))) = (section, text.split_once(" = ")) {
            let key = format!("{name}.{}", key.trim_start_matches(['#', ' ']));
            if facts.key(&key).is_none() {
                all.push((*number, format!("no key {key}")));
            }
        } else {
            section = None;
        }
    }
    all
}

/// `PIPEKEEPER__SECTION__KEY`, where it is not the pattern itself.
fn variables(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter_map(|word| word.strip_prefix("PIPEKEEPER__"))
        .filter(|rest| *rest != "SECTION__KEY" && !rest.is_empty())
}

fn no_variable(rest: &str, facts: &Facts) -> Option<String> {
    let key = rest.to_lowercase().replace("__", ".");
    facts
        .key(&key)
        .is_none()
        .then(|| format!("PIPEKEEPER__{rest} is no key"))
}

/// Names with an underscore: they are columns, keys, words of answers, and stand in the sources as they are.
fn identifiers(text: &str) -> impl Iterator<Item = &str> {
    names(text).filter(|name| {
        let inner = name.trim_matches('_');
        inner.contains('_')
            && inner.starts_with(|c: char| c.is_ascii_lowercase())
            && !inner.contains(|c: char| c.is_ascii_uppercase())
    })
}

/// `TOKEN_INVALIDATED`, `PIPE_DRIVE_CLIENT_ID`.
fn shouted(text: &str) -> impl Iterator<Item = &str> {
    names(text).filter(|name| {
        name.contains('_')
            && !name.starts_with("PIPEKEEPER__")
            && !name.contains(|c: char| c.is_ascii_lowercase())
            && name.starts_with(|c: char| c.is_ascii_uppercase())
    })
}

fn names(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// A histogram's parts have its name and more.
fn metric(name: &str) -> &str {
    ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|end| name.strip_suffix(end))
        .unwrap_or(name)
}

fn no_word(name: &str, facts: &Facts) -> Option<String> {
    (!facts.words.contains(name)).then(|| format!("{name} is nowhere in the sources"))
}

/// `module::name`
fn no_item(text: &str, facts: &Facts) -> Option<String> {
    let is_path = text.contains("::")
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "_:".contains(c));
    let last = text.rsplit("::").next().filter(|_| is_path)?;
    no_word(last, facts)
}

fn is_dotted(key: &str) -> bool {
    key.chars()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.'))
}

fn begins_a_command(text: &str, facts: &Facts) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default();
    first.starts_with("scripts/")
        || first.starts_with('<')
        || facts.commands.binaries.contains_key(first)
}

/// A default that stands behind its key: `upstream.max_wait_secs` (5).
fn other_default(key: &str, after: &str, facts: &Facts) -> Option<String> {
    let (said, _) = after.strip_prefix(" (")?.split_once(')')?;
    let said = said.strip_prefix("default ").unwrap_or(said);
    let is_value = said == "true"
        || said == "false"
        || said.starts_with('"')
        || said.chars().all(|c| c.is_ascii_digit());
    let defaults = defaults_of(key, facts)?;
    (is_value && !defaults.contains(&said.to_owned())).then(|| {
        format!(
            "the default of {key} is {}, not {said}",
            defaults.join(" or ")
        )
    })
}

/// By the whole key, or by its last part where that is enough.
fn defaults_of(key: &str, facts: &Facts) -> Option<Vec<String>> {
    if let Some(defaults) = facts.key(key) {
        return Some(defaults.iter().cloned().collect());
    }
    let suffix = format!(".{key}");
    let mut fitting = facts
        .keys
        .iter()
        .filter(|(known, _)| known.ends_with(&suffix));
    let (_, defaults) = fitting.next()?;
    fitting
        .next()
        .is_none()
        .then(|| defaults.iter().cloned().collect())
}

const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// `POST /path {"body":…}`, or a path alone.
fn route(text: &str) -> Option<(Option<&str>, &str)> {
    let (first, rest) = text.split_once(' ').unwrap_or((text, ""));
    if METHODS.contains(&first) && rest.starts_with('/') {
        return Some((Some(first), rest));
    }
    text.starts_with('/').then_some((None, text))
}

/// The paths of URLs in a line.
fn url_paths(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ')' | '>'))
        .filter_map(|word| word.split_once("://"))
        .filter_map(|(_, rest)| rest.split_once('/'))
        .map(|(_host, path)| path)
}

fn no_route(method: Option<&str>, text: &str, facts: &Facts) -> Option<String> {
    let word = text.split_whitespace().next().unwrap_or_default();
    let path = word.split(['?', '#']).next().unwrap_or_default();
    let path = segments(path);
    let first = path.first()?;
    // Only what could be one of ours, where no method says that it has to be.
    let ours = facts
        .routes
        .iter()
        .any(|(_, route)| route.first() == Some(first));
    if method.is_none() && !ours {
        return None;
    }
    let open_end = path.last().is_some_and(|last| last == "…") || path.len() == 1;
    let found = facts.routes.iter().any(|(known, route)| {
        let fitting = if open_end {
            route.starts_with(&path[..1])
        } else {
            fits(route, &path)
        };
        fitting && method.is_none_or(|method| method == known)
    });
    (!found).then(|| format!("no route {} {word}", method.unwrap_or_default()))
}

/// A path of a file, where it looks like one.
fn no_file(text: &str, document: &Document, facts: &Facts) -> Option<String> {
    let path = text.trim_end_matches('/');
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    // Scripts are commands.
    if path.is_empty()
        || path.starts_with('/')
        || path.starts_with("scripts/")
        || !path.chars().all(is_name)
    {
        return None;
    }
    let end = path
        .rsplit_once('.')
        .map(|(_, end)| end)
        .unwrap_or_default();
    if !path.contains('/') {
        let is_file = matches!(end, "rs" | "toml" | "md" | "sql" | "yml");
        // Or the reader has made it.
        let made = document.code.iter().any(|line| line.text.contains(path));
        let there = made || facts.file_names.contains(path) || facts.root.join(path).is_file();
        return (is_file && !there).then(|| format!("no file {path}"));
    }
    let here = document.path.parent().unwrap_or(Path::new(""));
    let places = [
        facts.root.clone(),
        facts.root.join(here),
        facts.root.join(here).join("src"),
        facts.root.join("crates"),
    ];
    let first = path.split('/').next().unwrap_or_default();
    // What only a running stack makes.
    let made = matches!(first, "data" | "target");
    let claims = !made && places.iter().any(|place| place.join(first).exists())
        || matches!(end, "rs" | "toml" | "md" | "sql" | "yml");
    let there = places.iter().any(|place| place.join(path).exists());
    (claims && !there).then(|| format!("no file {path}"))
}

fn dead_link(target: &str, document: &Document, facts: &Facts) -> Option<String> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
    if file.is_empty() {
        let known = document.anchors.iter().any(|known| known == anchor);
        return (!known).then(|| format!("no heading #{anchor}"));
    }
    let here = document.path.parent().unwrap_or(Path::new(""));
    let path = facts.root.join(here).join(file);
    if !path.exists() {
        return Some(format!("the link to {target} leads nowhere"));
    }
    if anchor.is_empty() {
        return None;
    }
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let there = Document::markdown(&path, &text).anchors;
    (!there.iter().any(|known| known == anchor)).then(|| format!("no heading #{anchor} in {file}"))
}

fn table_complaints(
    document: &Document,
    facts: &Facts,
    complain: &mut impl FnMut(usize, Option<String>),
) {
    for table in &document.tables {
        let place = |head: &str| table.heads.iter().position(|known| known == head);
        for (line, cells) in &table.rows {
            let cell = |head: &str| {
                let cell = place(head).and_then(|at| cells.get(at));
                cell.map(|cell| cell.trim_matches('`'))
            };
            if let (Some(key), Some(said)) = (cell("key"), cell("default")) {
                let defaults = defaults_of(key, facts);
                let known = defaults.as_ref().is_some_and(|known| {
                    known
                        .iter()
                        .any(|default| default.trim_matches('"') == said.trim_matches('"'))
                });
                complain(
                    *line,
                    (!known).then(|| format!("the default of {key} is {defaults:?}, not {said}")),
                );
            }
            if let (Some(service), Some(said)) = (cell("service"), cell("default address")) {
                complain(*line, other_address(service, said, facts));
            }
            if let Some(module) = cell("module") {
                complain(*line, no_module(module, &document.path, facts));
            }
            // Nothing is compared before anything is kept.
            if table.section == "Measured" && !facts.measured.is_empty() {
                complain(*line, figures::not_measured(&table.heads, cells, facts));
            }
        }
    }
}

fn other_address(service: &str, said: &str, facts: &Facts) -> Option<String> {
    let known = if let Some(address) = facts.addresses.get(service) {
        address == said
    } else {
        let help = facts.commands.binaries.get(service)?;
        help.text.contains(said)
    };
    (!known).then(|| format!("{service} does not listen on {said}"))
}

/// In a crate's README: its modules are its files.
fn no_module(module: &str, document: &Path, facts: &Facts) -> Option<String> {
    let source = facts.root.join(document.parent()?).join("src");
    let there = source.join(format!("{module}.rs")).exists() || source.join(module).is_dir();
    (source.is_dir() && !there).then(|| format!("no module {module}"))
}
