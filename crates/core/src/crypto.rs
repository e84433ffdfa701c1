//! The token vault: XChaCha20-Poly1305 under a keyring, each ciphertext bound to its row and column.
//!
//! A sealed value is `format byte ‖ key id length ‖ key id ‖ 24-byte nonce ‖ ciphertext with tag`. The nonce is random;
//! it is large enough to stay so for ever. Where a value belongs is authenticated with it: a ciphertext moved to another
//! row, column or tenant does not open.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::random;
use crate::secret::Secret;

const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 24;
const KEY_BYTES: usize = 32;
const KEY_ID_MAX_BYTES: usize = 32;
const FINGERPRINT_BYTES: usize = 16;

/// Keeps the key that makes fingerprints apart from the one that seals.
const FINGERPRINT_KEY: &[u8] = b"pipekeeper token fingerprint 1";

/// Where a sealed value lives; all of it is authenticated.
#[derive(Debug, Clone, Copy)]
pub struct AadContext<'a> {
    pub table: &'a str,
    pub column: &'a str,
    pub id: &'a str,
    pub platform: &'a str,
    pub app_id: &'a str,
    pub account_id: &'a str,
    pub owner: &'a str,
}

/// One key seals, all open: that is how a key is rotated.
#[derive(Clone)]
pub struct Keyring {
    sealing: Key,
    retired: Vec<Key>,
}

#[derive(Clone)]
struct Key {
    id: String,
    cipher: XChaCha20Poly1305,
    fingerprints: Hmac<Sha256>,
}

/// Identifies a secret, and reveals nothing about it without the key: the head of an HMAC-SHA256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fingerprint([u8; FINGERPRINT_BYTES]);

impl Fingerprint {
    pub fn as_bytes(&self) -> &[u8; FINGERPRINT_BYTES] {
        &self.0
    }

    /// Reads what its `Display` wrote.
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; FINGERPRINT_BYTES];
        hex::decode_to_slice(text, &mut bytes).ok()?;
        Some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Keyring {
    /// Reads `id:base64-of-32-bytes`, separated by commas or white space; the first one seals.
    ///
    /// # Errors
    /// Says which key is unusable and why, never its value.
    pub fn parse(keys: &Secret) -> Result<Self, KeyringError> {
        let mut all = keys
            .expose()
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|entry| !entry.is_empty())
            .enumerate()
            .map(|(index, entry)| Key::parse(index, entry))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter();
        let sealing = all.next().ok_or(KeyringError::Empty)?;
        let retired: Vec<Key> = all.collect();
        if let Some(twice) = retired.iter().find(|key| {
            key.id == sealing.id || retired.iter().filter(|other| other.id == key.id).count() > 1
        }) {
            return Err(KeyringError::Twice(twice.id.clone()));
        }
        Ok(Self { sealing, retired })
    }

    /// A new random key in the form that [`Keyring::parse`] reads.
    pub fn generate(id: &str) -> Secret {
        Secret::new(format!(
            "{id}:{}",
            STANDARD.encode(random::bytes::<KEY_BYTES>())
        ))
    }

    pub fn seal(&self, context: &AadContext<'_>, plaintext: &[u8]) -> Vec<u8> {
        let key = &self.sealing;
        let nonce = random::bytes::<NONCE_BYTES>();
        let ciphertext = key
            .cipher
            .encrypt(
                &XNonce::from(nonce),
                Payload {
                    msg: plaintext,
                    aad: &associated_data(context, &key.id),
                },
            )
            .expect("fails only beyond 256 GiB");
        let id_bytes = u8::try_from(key.id.len()).expect("a key id has 32 bytes at most");
        let mut out = Vec::with_capacity(2 + key.id.len() + NONCE_BYTES + ciphertext.len());
        out.extend([FORMAT, id_bytes]);
        out.extend(key.id.as_bytes());
        out.extend(nonce);
        out.extend(ciphertext);
        out
    }

    /// The fingerprint under each key of the ring, the sealing key's first: which one another process has used depends on
    /// how far a rotation of keys has come.
    pub fn fingerprints(&self, secret: &Secret) -> impl Iterator<Item = Fingerprint> {
        std::iter::once(&self.sealing)
            .chain(&self.retired)
            .map(|key| key.fingerprint(secret))
    }

    /// Under the sealing key.
    pub fn fingerprint(&self, secret: &Secret) -> Fingerprint {
        self.sealing.fingerprint(secret)
    }

    /// # Errors
    /// As [`Keyring::open_bytes`]; what is no text is [`OpenError::Malformed`].
    pub fn open(&self, context: &AadContext<'_>, sealed: &[u8]) -> Result<Secret, OpenError> {
        let mut plaintext = self.open_bytes(context, sealed)?;
        match String::from_utf8(std::mem::take(&mut *plaintext)) {
            Ok(text) => Ok(Secret::new(text)),
            Err(not_text) => {
                drop(Zeroizing::new(not_text.into_bytes()));
                Err(OpenError::Malformed)
            }
        }
    }

    /// # Errors
    /// A key that is not in the ring is named; anything else that does not open is [`OpenError::Tampered`].
    pub fn open_bytes(
        &self,
        context: &AadContext<'_>,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (key_id, nonce, ciphertext) = split(sealed).ok_or(OpenError::Malformed)?;
        let key = std::iter::once(&self.sealing)
            .chain(&self.retired)
            .find(|key| key.id == key_id)
            .ok_or_else(|| OpenError::UnknownKey(key_id.to_owned()))?;
        key.cipher
            .decrypt(
                &XNonce::from(nonce),
                Payload {
                    msg: ciphertext,
                    aad: &associated_data(context, key_id),
                },
            )
            .map(Zeroizing::new)
            .map_err(|_opaque| OpenError::Tampered)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("sealing", &self.sealing.id)
            .field(
                "retired",
                &self.retired.iter().map(|key| &key.id).collect::<Vec<_>>(),
            )
            .finish()
    }
}

impl Key {
    fn parse(index: usize, entry: &str) -> Result<Self, KeyringError> {
        let (id, value) = entry.split_once(':').ok_or(KeyringError::NoId {
            position: index + 1,
        })?;
        if id.is_empty()
            || id.len() > KEY_ID_MAX_BYTES
            || !id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        {
            return Err(KeyringError::BadId {
                position: index + 1,
            });
        }
        let bytes = [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD]
            .iter()
            .find_map(|engine| engine.decode(value).ok())
            .and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes).ok())
            .ok_or_else(|| KeyringError::BadKey(id.to_owned()))?;
        Ok(Self {
            id: id.to_owned(),
            cipher: XChaCha20Poly1305::new(&bytes.into()),
            fingerprints: fingerprints_under(&bytes),
        })
    }

    fn fingerprint(&self, secret: &Secret) -> Fingerprint {
        let tag = self
            .fingerprints
            .clone()
            .chain_update(secret.expose())
            .finalize()
            .into_bytes();
        let mut head = [0; FINGERPRINT_BYTES];
        head.iter_mut().zip(tag).for_each(|(to, byte)| *to = byte);
        Fingerprint(head)
    }
}

fn fingerprints_under(key: &[u8; KEY_BYTES]) -> Hmac<Sha256> {
    let derived = mac(key).chain_update(FINGERPRINT_KEY).finalize();
    mac(&derived.into_bytes())
}

fn mac(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// Every part carries its length, so that no two places give the same bytes.
fn associated_data(context: &AadContext<'_>, key_id: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    for part in [
        context.table,
        context.column,
        context.id,
        context.platform,
        context.app_id,
        context.account_id,
        context.owner,
        key_id,
    ] {
        out.extend(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        out.extend(part.as_bytes());
    }
    out
}

fn split(sealed: &[u8]) -> Option<(&str, [u8; NONCE_BYTES], &[u8])> {
    let (&[format, id_bytes], rest) = sealed.split_first_chunk()?;
    if format != FORMAT {
        return None;
    }
    let (key_id, rest) = rest.split_at_checked(usize::from(id_bytes))?;
    let (nonce, ciphertext) = rest.split_first_chunk()?;
    Some((str::from_utf8(key_id).ok()?, *nonce, ciphertext))
}

/// Why a keyring can't be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    #[error("holds no key; write `id:base64-of-32-bytes`")]
    Empty,
    #[error("key {position} has no id; write `id:base64-of-32-bytes`")]
    NoId { position: usize },
    #[error("the id of key {position} is not 1 to 32 letters, digits, `-`, `_` or `.`")]
    BadId { position: usize },
    #[error("key `{0}` is not base64 of 32 bytes")]
    BadKey(String),
    #[error("key id `{0}` stands twice")]
    Twice(String),
}

/// Why a sealed value does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    #[error("sealed with key `{0}`, which is not in the keyring")]
    UnknownKey(String),
    #[error("the sealed value belongs elsewhere or was changed")]
    Tampered,
    #[error("not a sealed value")]
    Malformed,
}

/// SHA-256 as lower-case hex: how one-time values are stored and looked up.
pub fn sha256_hex(text: &str) -> String {
    hex::encode(Sha256::digest(text.as_bytes()))
}

/// SHA-256 as base64, as a Content-Security-Policy names what it lets in.
pub fn sha256_base64(text: &str) -> String {
    STANDARD.encode(Sha256::digest(text.as_bytes()))
}

/// The S256 code challenge of RFC 7636 §4.2.
pub fn pkce_challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: AadContext<'static> = AadContext {
        table: "connections",
        column: "refresh_token",
        id: "c1",
        platform: "Pipedrive",
        app_id: "app",
        account_id: "acme",
        owner: "jane",
    };

    fn ring(id: &str) -> Keyring {
        Keyring::parse(&Keyring::generate(id)).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_and_never_looks_the_same() {
        let ring = ring("k1");
        let (one, two) = (ring.seal(&CONTEXT, b"token"), ring.seal(&CONTEXT, b"token"));
        assert_ne!(one, two);
        assert_eq!(ring.open(&CONTEXT, &one).unwrap().expose(), "token");
    }

    #[test]
    fn a_value_moved_to_another_row_column_or_tenant_does_not_open() {
        let ring = ring("k1");
        let sealed = ring.seal(&CONTEXT, b"token");
        let moved = [
            AadContext {
                table: "logins",
                ..CONTEXT
            },
            AadContext {
                column: "access_token",
                ..CONTEXT
            },
            AadContext {
                id: "c2",
                ..CONTEXT
            },
            AadContext {
                platform: "Other",
                ..CONTEXT
            },
            AadContext {
                app_id: "app2",
                ..CONTEXT
            },
            AadContext {
                account_id: "acm",
                owner: "ejane",
                ..CONTEXT
            },
            AadContext {
                owner: "joe",
                ..CONTEXT
            },
        ];
        for context in moved {
            assert_eq!(
                ring.open(&context, &sealed).unwrap_err(),
                OpenError::Tampered,
                "{context:?}"
            );
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let ring = ring("k1");
        let sealed = ring.seal(&CONTEXT, b"token");
        for index in 0..sealed.len() {
            let mut broken = sealed.clone();
            broken[index] ^= 1;
            assert!(ring.open(&CONTEXT, &broken).is_err(), "byte {index}");
            assert!(
                ring.open(&CONTEXT, &sealed[..index]).is_err(),
                "cut at {index}"
            );
        }
    }

    #[test]
    fn bytes_that_are_no_text_come_back_as_they_were() {
        let ring = ring("k1");
        let sealed = ring.seal(&CONTEXT, b"\xff\x00");
        assert_eq!(*ring.open_bytes(&CONTEXT, &sealed).unwrap(), b"\xff\x00");
        assert_eq!(
            ring.open(&CONTEXT, &sealed).unwrap_err(),
            OpenError::Malformed
        );
    }

    #[test]
    fn a_fingerprint_is_the_same_again_and_another_for_every_secret_and_key() {
        let (old, new) = (Keyring::generate("old"), Keyring::generate("new"));
        let both = Secret::new(format!("{}, {}", new.expose(), old.expose()));
        let (old, both) = (
            Keyring::parse(&old).unwrap(),
            Keyring::parse(&both).unwrap(),
        );
        let (one, two) = (Secret::from("token-1"), Secret::from("token-2"));

        assert_eq!(old.fingerprint(&one), old.fingerprint(&one));
        assert_ne!(old.fingerprint(&one), old.fingerprint(&two));
        assert_ne!(old.fingerprint(&one), both.fingerprint(&one));
        assert_eq!(
            both.fingerprints(&one).collect::<Vec<_>>(),
            [both.fingerprint(&one), old.fingerprint(&one)]
        );
    }

    #[test]
    fn a_fingerprint_is_read_as_it_was_written() {
        let fingerprint = ring("k1").fingerprint(&Secret::from("token"));
        let text = fingerprint.to_string();
        assert_eq!(Fingerprint::from_hex(&text), Some(fingerprint));
        for other in [format!("{text}00"), "0".repeat(30), "g".repeat(32)] {
            assert_eq!(Fingerprint::from_hex(&other), None, "{other}");
        }
    }

    #[test]
    fn an_unknown_key_names_itself() {
        let sealed = ring("2025-old").seal(&CONTEXT, b"token");
        let error = ring("k1").open(&CONTEXT, &sealed).unwrap_err();
        assert_eq!(error, OpenError::UnknownKey("2025-old".to_owned()));
    }

    #[test]
    fn a_retired_key_still_opens() {
        let (old, new) = (Keyring::generate("old"), Keyring::generate("new"));
        let sealed = Keyring::parse(&old).unwrap().seal(&CONTEXT, b"token");
        let both = Secret::new(format!("{}, {}", new.expose(), old.expose()));
        let both = Keyring::parse(&both).unwrap();
        assert_eq!(both.open(&CONTEXT, &sealed).unwrap().expose(), "token");
        assert_eq!(&both.seal(&CONTEXT, b"token")[2..5], b"new");
    }

    #[test]
    fn a_key_is_taken_in_either_alphabet_with_and_without_padding() {
        // Its base64 has a `+` and a `/` in it.
        let bytes: Vec<u8> = (0..32).map(|byte| 255 - byte).collect();
        let sealed = Keyring::parse(&Secret::new(format!("k:{}", STANDARD.encode(&bytes))))
            .unwrap()
            .seal(&CONTEXT, b"token");
        for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
            let text = engine.encode(&bytes);
            let ring = Keyring::parse(&Secret::new(format!("k:{text}"))).unwrap();
            assert_eq!(
                ring.open(&CONTEXT, &sealed).unwrap().expose(),
                "token",
                "{text}"
            );
        }
    }

    #[test]
    fn unusable_keyrings_say_why_without_their_value() {
        let key = Keyring::generate("a");
        let twice = format!("{} {}", key.expose(), key.expose());
        for (keys, error) in [
            ("", KeyringError::Empty),
            ("AAAA", KeyringError::NoId { position: 1 }),
            ("b d:AAAA", KeyringError::NoId { position: 1 }),
            ("ä:AAAA", KeyringError::BadId { position: 1 }),
            ("a:AAAA", KeyringError::BadKey("a".to_owned())),
            (twice.as_str(), KeyringError::Twice("a".to_owned())),
        ] {
            assert_eq!(Keyring::parse(&Secret::from(keys)).unwrap_err(), error);
        }
    }

    #[test]
    fn debug_shows_ids_alone() {
        let key = Keyring::generate("k1");
        let shown = format!("{:?}", Keyring::parse(&key).unwrap());
        assert_eq!(shown, r#"Keyring { sealing: "k1", retired: [] }"#);
    }
}
