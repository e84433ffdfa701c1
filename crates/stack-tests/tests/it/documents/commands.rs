//! Command lines as documents show them, beside what the binaries say of themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use up::processes::{SERVICES, sibling};

/// What `--help` says of a command.
#[derive(Debug, Default, Clone)]
pub(crate) struct Help {
    subcommands: BTreeMap<String, Help>,
    flags: BTreeSet<String>,
    /// Whether it takes anything beside flags.
    takes_words: bool,
    /// What its first word can be, if not anything.
    words: BTreeSet<String>,
    pub(crate) text: String,
}

impl Help {
    pub(crate) fn of_binary(binary: &str) -> Self {
        Self::ask(binary, &[])
    }

    fn ask(binary: &str, path: &[&str]) -> Self {
        let program = sibling(binary).expect("`cargo build --workspace --bins` was run");
        let output = Command::new(program).args(path).arg("--help").output();
        let text = String::from_utf8(output.expect("it runs").stdout).expect("text");
        let mut help = Self::read(&text);
        for (name, subcommand) in &mut help.subcommands {
            *subcommand = Self::ask(binary, &[path, &[name.as_str()]].concat());
        }
        help
    }

    pub(crate) fn read(text: &str) -> Self {
        let mut help = Self {
            text: text.to_owned(),
            ..Self::default()
        };
        let mut section = "";
        for line in text.lines() {
            let bare = line.trim_start();
            match bare {
                "Commands:" | "Arguments:" | "Options:" => section = bare,
                _ => {}
            }
            let word = bare.split_whitespace().next().unwrap_or_default();
            match section {
                "Commands:" if line.len() - bare.len() == 2 && word != "help" => {
                    help.subcommands.insert(word.to_owned(), Self::default());
                }
                "Arguments:" => {
                    help.takes_words = true;
                    let listed = bare
                        .strip_prefix("- ")
                        .and_then(|value| value.split(':').next());
                    help.words.extend(listed.map(str::to_owned));
                }
                "Options:" if bare.starts_with('-') => help.flags.extend(flags_of(bare)),
                _ => {}
            }
        }
        help
    }

    /// What is wrong with the words after the command's name.
    fn complaint(&self, words: &[String]) -> Option<String> {
        let mut here = self;
        let mut value_of_flag = false;
        let mut first = true;
        for word in words {
            let may_be_value = std::mem::take(&mut value_of_flag);
            if let Some(flag) = word.strip_prefix("--") {
                let name = flag.split('=').next().unwrap_or_default();
                if !here.flags.contains(name) && !self.flags.contains(name) {
                    return Some(format!("knows no --{name}"));
                }
                value_of_flag = !flag.contains('=');
            } else if word.starts_with('-') {
                value_of_flag = true;
            } else if may_be_value {
            } else if !here.subcommands.is_empty() {
                let mut meant = word.split('|').map(|name| here.subcommands.get(name));
                match (meant.next().flatten(), meant.all(|other| other.is_some())) {
                    (Some(subcommand), true) => here = subcommand,
                    _ => return Some(format!("has no subcommand {word}")),
                }
            } else if !here.takes_words {
                return Some(format!("takes no `{word}`"));
            } else if std::mem::take(&mut first)
                && !here.words.is_empty()
                && !here.words.contains(word)
            {
                return Some(format!("can't do `{word}`"));
            }
        }
        None
    }
}

fn flags_of(line: &str) -> Vec<String> {
    let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let flags = words.filter_map(|word| word.strip_prefix("--"));
    flags
        .filter(|flag| !flag.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Every command that documents may show.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    pub(crate) binaries: BTreeMap<String, Help>,
    /// By name, and what each consists of.
    pub(crate) scripts: BTreeMap<String, String>,
}

impl Commands {
    /// What is wrong with a line, whose commands may stand anywhere in it.
    pub(crate) fn complaint(&self, line: &str) -> Option<String> {
        let words = words_of(line);
        let is_end =
            |word: &String| matches!(word.as_str(), "|" | ">" | ">>" | "&&" | "||" | ";" | "&");
        for (at, word) in words.iter().enumerate() {
            let name = word.rsplit('/').next().unwrap_or_default();
            let rest = &words[at + 1..];
            let rest = rest.split(is_end).next().unwrap_or_default();
            // `docker-compose exec data-api data-api config`: the last one is the command.
            if rest.iter().any(|word| self.helps(word).next().is_some()) {
                continue;
            }
            for (name, help) in self.helps(name) {
                if let Some(complaint) = help.complaint(rest) {
                    return Some(format!("{name} {complaint}"));
                }
            }
            if word.starts_with("scripts/")
                && !name.is_empty()
                && let Some(complaint) = self.script(name, rest)
            {
                return Some(complaint);
            }
        }
        None
    }

    /// The binaries that a word names: `<service>` is each of them.
    fn helps(&self, word: &str) -> impl Iterator<Item = (&str, &Help)> {
        let is_any = matches!(word, "<service>" | "<binary>");
        self.binaries
            .iter()
            .map(|(name, help)| (name.as_str(), help))
            .filter(move |(name, _)| {
                // These are started by their scripts.
                let is_script = self.scripts.contains_key(*name);
                (*name == word && !is_script) || (is_any && SERVICES.contains(name))
            })
    }

    fn script(&self, name: &str, rest: &[String]) -> Option<String> {
        let Some(text) = self.scripts.get(name) else {
            return Some(format!("there is no scripts/{name}"));
        };
        if let Some(help) = self.binaries.get(name) {
            return help
                .complaint(rest)
                .map(|complaint| format!("scripts/{name} {complaint}"));
        }
        // scripts/test hands all of them on.
        let hands_on = text.contains("cargo test \"$@\"");
        let flags = rest.iter().filter(|word| word.starts_with("--"));
        let mut unknown = flags.filter(|flag| !hands_on && !text.contains(flag.as_str()));
        unknown
            .next()
            .map(|flag| format!("scripts/{name} knows no {flag}"))
    }
}

/// As a shell would divide them, without quotes, brackets of what is optional, and comments.
fn words_of(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for word in line.split_whitespace() {
        if word == "#" || word.starts_with('#') {
            break;
        }
        let ends = word.ends_with(';');
        let word = word.trim_matches(['"', '\'', '[', ']', '(', ')', ';', '`', '…', ',']);
        if !word.is_empty() {
            words.push(word.to_owned());
        }
        if ends {
            words.push(";".to_owned());
        }
    }
    words
}
