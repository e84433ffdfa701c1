//! What the refreshers' journals hold, read by code of the judge's own.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::content_coding::ContentCoding;
use pipekeeper_core::crypto::Fingerprint;
use pipekeeper_core::vault::{AnswerTo, Vault};
use serde::Deserialize;
use serde_json::Value;

use super::chronicle::Micros;
use super::world::World;
use crate::client::fingerprint;

/// By refresh token, as the simulator's fingerprints name it: when the answer that gave it was received.
type Entries = BTreeMap<String, Micros>;

/// By directory.
pub(super) fn all(world: &World) -> anyhow::Result<BTreeMap<String, Entries>> {
    let mut all = BTreeMap::new();
    for directory in world.journals.directories() {
        let name = directory.file_name().context("a directory with a name")?;
        let mut entries = Entries::new();
        read(directory, &world.vault, &mut entries)?;
        all.insert(name.to_string_lossy().into_owned(), entries);
    }
    Ok(all)
}

#[derive(Deserialize)]
struct Line {
    entry: Entry,
}

#[derive(Deserialize)]
struct Entry {
    kind: String,
    connection: String,
    generation: i64,
    spent: String,
    at: i64,
    body: Option<String>,
}

#[derive(Deserialize)]
struct Tokens {
    refresh_token: Option<String>,
}

fn read(directory: &Path, vault: &Vault, entries: &mut Entries) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, vault, entries)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            let text = fs::read(&path)?;
            for line in text.split(|byte| *byte == b'\n') {
                // A torn line is no JSON, and holds no answer. What is JSON has to be understood.
                if let Ok(line) = serde_json::from_slice::<Value>(line) {
                    let read = answer(line, vault);
                    let read = read.with_context(|| format!("read {}", path.display()))?;
                    entries.extend(read);
                }
            }
        }
    }
    Ok(())
}

fn answer(line: Value, vault: &Vault) -> anyhow::Result<Option<(String, Micros)>> {
    let Line { entry } = serde_json::from_value(line)?;
    let Some(body) = entry.body.filter(|_| entry.kind == "answer") else {
        return Ok(None);
    };
    let to = AnswerTo {
        id: &entry.connection.parse()?,
        generation: entry.generation,
        spent: Fingerprint::from_hex(&entry.spent).context("no fingerprint")?,
        received_at: Timestamp::from_unix_micros(entry.at).context("no time")?,
        // The simulator packs nothing.
        coding: &ContentCoding::default(),
    };
    let body = vault.answer(to, &STANDARD_NO_PAD.decode(body)?)?;
    // A provider's error page with status 200 is journaled, too.
    let tokens = serde_json::from_slice::<Tokens>(&body).ok();
    let token = tokens.and_then(|tokens| tokens.refresh_token);
    Ok(token.map(|token| (fingerprint(&token), entry.at)))
}

#[cfg(test)]
mod tests {
    use pipekeeper_core::connection::ConnectionId;
    use pipekeeper_core::crypto::Keyring;
    use pipekeeper_core::secret::Secret;
    use pipekeeper_core::test_util::TestDirectory;
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_answers_are_found_wherever_they_lie_and_torn_ones_are_not() {
        let vault = Vault::new(Keyring::parse(&Keyring::generate("k1")).unwrap());
        let id = ConnectionId::generate();
        let spent = vault.fingerprint(&Secret::from("old"));
        let at = Timestamp::from_unix_micros(7).unwrap();
        let to = AnswerTo {
            id: &id,
            generation: 3,
            spent,
            received_at: at,
            coding: &ContentCoding::default(),
        };
        let line = |token: &str| {
            let body = json!({"refresh_token": token}).to_string();
            let body = STANDARD_NO_PAD.encode(vault.seal_answer(to, body.as_bytes()));
            json!({
                "sum": "",
                "entry": {
                    "kind": "answer", "connection": id, "generation": 3,
                    "spent": spent.to_string(), "at": 7, "body": body,
                },
            })
            .to_string()
        };
        let home = TestDirectory::create();
        fs::create_dir(home.path().join("slot")).unwrap();
        let torn = line("torn");
        let text = [line("new").as_bytes(), b"\n", &torn.as_bytes()[..50]].concat();
        fs::write(home.path().join("slot/1.jsonl"), text).unwrap();

        let mut entries = Entries::new();
        read(home.path(), &vault, &mut entries).unwrap();

        assert_eq!(entries, Entries::from([(fingerprint("new"), 7)]));
        fs::write(home.path().join("slot/2.jsonl"), "{}\n").unwrap();
        assert!(read(home.path(), &vault, &mut entries).is_err());
    }
}
