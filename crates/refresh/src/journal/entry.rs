//! One line of a segment: an answer, or the mark that one is settled.
//!
//! `{"sum":"<CRC-32 of the entry>","entry":{…}}`. The checksum tells a line that was torn or has rotted from a whole one before
//! anything believes it; the seal proves that an answer was not forged.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::content_coding::ContentCoding;
use pipekeeper_core::crypto::Fingerprint;
use serde::{Deserialize, Serialize};

/// What every line begins with, and what no other place of a line can hold: there its quotes are escaped.
pub(super) const HEAD: &[u8] = b"{\"sum\":\"";
const AFTER_SUM: &[u8] = b"\",\"entry\":";
const END: &[u8] = b"}";

/// Which token was spent, on whose behalf, at which generation. (A provider may give the same refresh token again and
/// again: without the generation its old answers would be found for ever.)
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) connection: ConnectionId,
    pub(super) generation: i64,
    pub(super) spent: Fingerprint,
}

/// What the index knows a key by. A fingerprint is random to anyone without the key that made it, so that eight bytes of
/// it are enough to look for, and two can't be made to collide. The line that is found says whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct KeyHash(u64);

impl Key {
    pub(super) fn hash(&self) -> KeyHash {
        let spent = u128::from_be_bytes(*self.spent.as_bytes()) >> 64;
        let spent = u64::try_from(spent).unwrap_or_default();
        let generation = u64::from_le_bytes(self.generation.to_le_bytes());
        // An odd factor: no two generations of one token meet.
        KeyHash(spent ^ generation.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry<'a> {
    JournaledResponse {
        key: Key,
        received_at: Timestamp,
        coding: ContentCoding,
        body: Cow<'a, str>,
    },
    Settled {
        key: Key,
        at: Timestamp,
    },
}

/// Not a whole line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

#[derive(Serialize, Deserialize)]
struct Line<'a> {
    kind: Kind,
    #[serde(borrow)]
    connection: Cow<'a, str>,
    generation: i64,
    #[serde(borrow)]
    spent: Cow<'a, str>,
    /// Microseconds since 1970: received, or settled.
    at: i64,
    /// The content coding of the body, unless it is `identity`.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    coding: Option<Cow<'a, str>>,
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    body: Option<Cow<'a, str>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    JournaledResponse,
    Settled,
}

/// With its newline.
pub(super) fn answer_line(
    key: &Key,
    received_at: Timestamp,
    coding: &ContentCoding,
    sealed: &[u8],
) -> Vec<u8> {
    let body = STANDARD_NO_PAD.encode(sealed);
    line(&Line {
        coding: (!coding.is_identity()).then(|| coding.as_str().into()),
        body: Some(body.into()),
        ..Line::of(Kind::JournaledResponse, key, received_at)
    })
}

/// With its newline.
pub(super) fn settled_line(key: &Key, at: Timestamp) -> Vec<u8> {
    line(&Line::of(Kind::Settled, key, at))
}

impl<'a> Line<'a> {
    /// Without a body.
    fn of(kind: Kind, key: &'a Key, at: Timestamp) -> Self {
        Self {
            kind,
            connection: key.connection.as_str().into(),
            generation: key.generation,
            spent: key.spent.to_string().into(),
            at: at.unix_micros(),
            coding: None,
            body: None,
        }
    }
}

fn line(line: &Line<'_>) -> Vec<u8> {
    let json = serde_json::to_vec(line).expect("text and numbers are JSON");
    let mut line =
        Vec::with_capacity(HEAD.len() + 8 + AFTER_SUM.len() + json.len() + END.len() + 1);
    line.extend(HEAD);
    line.extend(sum(&json).as_bytes());
    line.extend(AFTER_SUM);
    line.extend(json);
    line.extend(END);
    line.push(b'\n');
    line
}

/// Reads a line without its newline.
pub(super) fn decode(line: &[u8]) -> Result<Entry<'_>, Unreadable> {
    let (said, rest) = line
        .strip_prefix(HEAD)
        .and_then(|line| line.split_at_checked(8))
        .ok_or(Unreadable)?;
    let json = rest
        .strip_prefix(AFTER_SUM)
        .and_then(|rest| rest.strip_suffix(END))
        .ok_or(Unreadable)?;
    if said != sum(json).as_bytes() {
        return Err(Unreadable);
    }
    let line: Line<'_> = serde_json::from_slice(json).map_err(|_no_line| Unreadable)?;
    let key = Key {
        connection: line.connection.parse().map_err(|_no_id| Unreadable)?,
        generation: line.generation,
        spent: Fingerprint::from_hex(&line.spent).ok_or(Unreadable)?,
    };
    let at = Timestamp::from_unix_micros(line.at).ok_or(Unreadable)?;
    match (line.kind, line.body) {
        (Kind::JournaledResponse, Some(body)) => Ok(Entry::JournaledResponse {
            key,
            received_at: at,
            coding: ContentCoding::named(line.coding.as_deref().unwrap_or_default()),
            body,
        }),
        (Kind::Settled, None) => Ok(Entry::Settled { key, at }),
        (Kind::JournaledResponse, None) | (Kind::Settled, Some(_)) => Err(Unreadable),
    }
}

/// The ciphertext of an answer's body.
pub(super) fn sealed(body: &str) -> Option<Vec<u8>> {
    STANDARD_NO_PAD.decode(body).ok()
}

fn sum(json: &[u8]) -> String {
    hex::encode(crc32fast::hash(json).to_be_bytes())
}
