//! Which responses of the provider were durable, and when: from the notes of the refreshers' disk or, where they wrote to the
//! machine's own, from their journals. Both are read by code of this crate's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::content_coding::ContentCoding;
use pipekeeper_core::crypto::Fingerprint;
use pipekeeper_core::vault::{JournalContext, Vault};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event_log::Micros;
use super::injected::{Note, Noted};
use up::client::fingerprint;

/// What the disks did with responses, by the fingerprint of the refresh token in them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Responses {
    pub synced: BTreeMap<String, Vec<OnDisk>>,
    /// The disk was full.
    pub refused: BTreeMap<String, Vec<OnDisk>>,
    /// A process noted that it is in the database, or of no more use.
    pub settled: BTreeMap<String, Vec<OnDisk>>,
    pub kept: Kept,
}

/// By what the run knows of the disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kept {
    #[default]
    BySyncLog,
    /// Only by what the journals hold in the end.
    ByJournal,
}

/// A response that met a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OnDisk {
    pub at_us: Micros,
    /// The journal's directory.
    pub journal: String,
}

impl Responses {
    /// Reads the sync log of a refresher that writes to this journal. Only the last note of a life may be torn: the next life
    /// begins with two newlines.
    pub(super) fn add_sync_log(
        &mut self,
        sync_log: &Path,
        journal: &str,
        vault: &Vault,
    ) -> anyhow::Result<()> {
        let text = fs::read(sync_log).with_context(|| format!("read {}", sync_log.display()))?;
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        // By the key that a response and the mark that it is settled share.
        let mut token_of: BTreeMap<Key, String> = BTreeMap::new();
        let mut settled = Vec::new();
        for (index, line) in lines
            .iter()
            .enumerate()
            .filter(|(_, line)| !line.is_empty())
        {
            let note = match serde_json::from_slice::<Note>(line) {
                Ok(note) => note,
                Err(_torn) if lines.get(index + 1).is_none_or(|next| next.is_empty()) => continue,
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("line {} of {}", index + 1, sync_log.display()));
                }
            };
            let on_disk = || OnDisk {
                at_us: note.at_us,
                journal: journal.to_owned(),
            };
            for read in read(note.lines.as_bytes(), vault)? {
                match (read, note.noted) {
                    (Read::Token { key, token, .. }, Noted::Synced | Noted::Refused) => {
                        let list = if note.noted == Noted::Synced {
                            &mut self.synced
                        } else {
                            &mut self.refused
                        };
                        list.entry(token.clone()).or_default().push(on_disk());
                        token_of.insert(key, token);
                    }
                    (Read::Settled { key }, Noted::Settled) => settled.push((key, on_disk())),
                    _ => {}
                }
            }
        }
        for (key, on_disk) in settled {
            if let Some(token) = token_of.get(&key) {
                self.settled.entry(token.clone()).or_default().push(on_disk);
            }
        }
        Ok(())
    }

    /// Reads a journal after the run, but for slots that were copied there; a response counts from when it was received.
    pub(super) fn add_journal(
        &mut self,
        directory: &Path,
        journal: &str,
        copies: &BTreeSet<PathBuf>,
        vault: &Vault,
    ) -> anyhow::Result<()> {
        self.kept = Kept::ByJournal;
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if copies.contains(&path) {
                continue;
            }
            if path.is_dir() {
                self.add_journal(&path, journal, copies, vault)?;
            } else if path.extension().is_some_and(|is| is == "jsonl") {
                let read = read(&fs::read(&path)?, vault);
                let read = read.with_context(|| format!("read {}", path.display()))?;
                for read in read {
                    let Read::Token { token, at_us, .. } = read else {
                        continue;
                    };
                    self.synced.entry(token).or_default().push(OnDisk {
                        at_us,
                        journal: journal.to_owned(),
                    });
                }
            }
        }
        Ok(())
    }
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

/// The connection, the generation, and the fingerprint of the token that was spent.
type Key = (String, i64, String);

/// What an entry of a segment says.
enum Read {
    /// The refresh token in a response, and when that was received.
    Token {
        key: Key,
        token: String,
        at_us: Micros,
    },
    Settled {
        key: Key,
    },
}

/// The whole entries of a segment.
fn read(segment: &[u8], vault: &Vault) -> anyhow::Result<Vec<Read>> {
    let mut found = Vec::new();
    for line in segment.split(|byte| *byte == b'\n') {
        // A torn line is no JSON, and holds no response. What is JSON has to be understood.
        if let Ok(line) = serde_json::from_slice::<Value>(line) {
            found.extend(entry(line, vault)?);
        }
    }
    Ok(found)
}

fn entry(line: Value, vault: &Vault) -> anyhow::Result<Option<Read>> {
    let Line { entry } = serde_json::from_value(line)?;
    let key = (
        entry.connection.clone(),
        entry.generation,
        entry.spent.clone(),
    );
    if entry.kind == "settled" {
        return Ok(Some(Read::Settled { key }));
    }
    let Some(body) = entry.body.filter(|_| entry.kind == "answer") else {
        return Ok(None);
    };
    let to = JournalContext {
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
    Ok(token.map(|token| Read::Token {
        key,
        token: fingerprint(&token),
        at_us: entry.at,
    }))
}

#[cfg(test)]
mod tests {
    use pipekeeper_core::connection::ConnectionId;
    use pipekeeper_core::crypto::Keyring;
    use pipekeeper_core::secret::Secret;
    use pipekeeper_testing::TestDirectory;
    use serde_json::json;

    use super::*;

    fn vault() -> Vault {
        Vault::new(Keyring::parse(&Keyring::generate("k1")).unwrap())
    }

    /// A line of the journal, received at 7.
    fn line(vault: &Vault, token: &str) -> String {
        let id = ConnectionId::generate();
        let spent = vault.fingerprint(&Secret::from("old"));
        let to = JournalContext {
            id: &id,
            generation: 3,
            spent,
            received_at: Timestamp::from_unix_micros(7).unwrap(),
            coding: &ContentCoding::default(),
        };
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
    }

    fn on_disk(at_us: Micros) -> Vec<OnDisk> {
        let journal = "own".to_owned();
        vec![OnDisk { at_us, journal }]
    }

    #[test]
    fn whole_responses_are_found_wherever_they_lie_and_torn_ones_are_not() {
        let vault = vault();
        let home = TestDirectory::create();
        fs::create_dir(home.path().join("slot")).unwrap();
        let torn = line(&vault, "torn");
        let text = [
            line(&vault, "new").as_bytes(),
            b"\n",
            &torn.as_bytes()[..50],
        ]
        .concat();
        fs::write(home.path().join("slot/1.jsonl"), text).unwrap();

        let mut responses = Responses::default();
        let home = home.path();
        fs::create_dir(home.join("copy")).unwrap();
        fs::copy(home.join("slot/1.jsonl"), home.join("copy/1.jsonl")).unwrap();
        let copies = BTreeSet::from([home.join("copy")]);
        responses.add_journal(home, "own", &copies, &vault).unwrap();

        let expected = [(fingerprint("new"), on_disk(7))];
        assert_eq!(responses.synced, expected.into());
        fs::write(home.join("slot/2.jsonl"), "{}\n").unwrap();
        assert!(responses.add_journal(home, "own", &copies, &vault).is_err());
    }

    #[test]
    fn a_sync_log_says_when_a_response_was_durable_and_which_was_refused() {
        let vault = vault();
        let home = TestDirectory::create();
        let log = home.path().join("log");
        let note = |at_us, noted, lines: &str| {
            let lines = lines.to_owned();
            serde_json::to_string(&Note {
                at_us,
                noted,
                lines,
            })
            .unwrap()
        };
        let kept = line(&vault, "kept");
        let mut mark: Value = serde_json::from_str(&kept).unwrap();
        mark["entry"]["kind"] = "settled".into();
        mark["entry"]["body"] = Value::Null;
        let (synced, refused, settled) = (
            note(9, Noted::Synced, &kept),
            note(8, Noted::Refused, &line(&vault, "lost")),
            note(10, Noted::Settled, &mark.to_string()),
        );
        let read = |text: String| {
            fs::write(&log, text).unwrap();
            let mut responses = Responses::default();
            let read = responses.add_sync_log(&log, "own", &vault);
            read.map(|()| responses)
        };

        // The first life was killed in the middle of a note, and the second one is making one.
        let responses = read(format!(
            "\n\n{refused}\n{{\"at\n\n{synced}\n{settled}\n{{\"at"
        ));

        let responses = responses.unwrap();
        let only = |token, at_us| BTreeMap::from([(fingerprint(token), on_disk(at_us))]);
        assert_eq!(responses.synced, only("kept", 9));
        assert_eq!(responses.refused, only("lost", 8));
        assert_eq!(responses.settled, only("kept", 10));
        assert!(read(format!("{refused}\n{{\"at\n{synced}\n")).is_err());
        fs::remove_file(&log).unwrap();
        let missing = Responses::default().add_sync_log(&log, "own", &vault);
        assert!(missing.is_err());
    }
}
