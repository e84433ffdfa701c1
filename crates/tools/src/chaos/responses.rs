//! Which responses of the provider were durable, and when: from the notes of the refreshers' disk or, where they wrote to the
//! machine's own, from their journals. Both are read by code of this crate's own.

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
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event_log::Micros;
use super::injected::{Note, Noted};
use crate::client::fingerprint;

/// What the disks did with responses, by the fingerprint of the refresh token in them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Responses {
    pub synced: BTreeMap<String, Vec<OnDisk>>,
    /// The disk was full.
    pub refused: BTreeMap<String, Vec<OnDisk>>,
}

/// A response that met a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OnDisk {
    pub at_us: Micros,
    /// The journal's directory.
    pub journal: String,
}

impl Responses {
    /// Reads the sync log of a refresher that writes to this journal.
    pub(super) fn add_sync_log(
        &mut self,
        sync_log: &Path,
        journal: &str,
        vault: &Vault,
    ) -> anyhow::Result<()> {
        let text = fs::read(sync_log).unwrap_or_default();
        for line in text.split(|byte| *byte == b'\n') {
            // The last note may be in the making.
            let Ok(note) = serde_json::from_slice::<Note>(line) else {
                continue;
            };
            let list = match note.noted {
                Noted::Synced => &mut self.synced,
                Noted::Refused => &mut self.refused,
            };
            for (token, _) in tokens(note.lines.as_bytes(), vault)? {
                list.entry(token).or_default().push(OnDisk {
                    at_us: note.at_us,
                    journal: journal.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Reads a journal after the run; a response counts from when it was received.
    pub(super) fn add_journal(
        &mut self,
        directory: &Path,
        journal: &str,
        vault: &Vault,
    ) -> anyhow::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                self.add_journal(&path, journal, vault)?;
            } else if path.extension().is_some_and(|is| is == "jsonl") {
                let read = tokens(&fs::read(&path)?, vault);
                let read = read.with_context(|| format!("read {}", path.display()))?;
                for (token, at_us) in read {
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

/// The refresh tokens in the whole entries of a segment, and when each response was received.
fn tokens(segment: &[u8], vault: &Vault) -> anyhow::Result<Vec<(String, Micros)>> {
    let mut found = Vec::new();
    for line in segment.split(|byte| *byte == b'\n') {
        // A torn line is no JSON, and holds no response. What is JSON has to be understood.
        if let Ok(line) = serde_json::from_slice::<Value>(line) {
            found.extend(token(line, vault)?);
        }
    }
    Ok(found)
}

fn token(line: Value, vault: &Vault) -> anyhow::Result<Option<(String, Micros)>> {
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

    fn vault() -> Vault {
        Vault::new(Keyring::parse(&Keyring::generate("k1")).unwrap())
    }

    /// A line of the journal, received at 7.
    fn line(vault: &Vault, token: &str) -> String {
        let id = ConnectionId::generate();
        let spent = vault.fingerprint(&Secret::from("old"));
        let to = AnswerTo {
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
        responses.add_journal(home.path(), "own", &vault).unwrap();

        let expected = [(fingerprint("new"), on_disk(7))];
        assert_eq!(responses.synced, expected.into());
        fs::write(home.path().join("slot/2.jsonl"), "{}\n").unwrap();
        assert!(responses.add_journal(home.path(), "own", &vault).is_err());
    }

    #[test]
    fn a_sync_log_says_when_a_response_was_durable_and_which_was_refused() {
        let vault = vault();
        let home = TestDirectory::create();
        let log = home.path().join("log");
        let note = |at_us, noted, token| {
            let lines = line(&vault, token);
            serde_json::to_string(&Note {
                at_us,
                noted,
                lines,
            })
            .unwrap()
        };
        let (kept, lost) = (
            note(9, Noted::Synced, "kept"),
            note(8, Noted::Refused, "lost"),
        );
        fs::write(&log, format!("{lost}\n{kept}\n{{\"at")).unwrap();

        let mut responses = Responses::default();
        responses.add_sync_log(&log, "own", &vault).unwrap();

        assert_eq!(responses.synced, [(fingerprint("kept"), on_disk(9))].into());
        assert_eq!(
            responses.refused,
            [(fingerprint("lost"), on_disk(8))].into()
        );
    }
}
