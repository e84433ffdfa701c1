//! Tokens into rows and out of them: what is sealed where, and to whom.

use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::connection::{AccountName, AppKey, Connection, ConnectionId};
use crate::content_coding::ContentCoding;
use crate::crypto::{AadContext, Fingerprint, Keyring, OpenError};
use crate::sealed::Sealed;
use crate::secret::Secret;

/// The row that tokens are sealed to.
#[derive(Debug, Clone, Copy)]
pub struct RowContext<'a> {
    pub id: &'a ConnectionId,
    pub app: &'a AppKey,
    pub account_id: &'a AccountName,
    pub owner: &'a AccountName,
}

impl<'a> RowContext<'a> {
    /// `app` is the row's own.
    pub fn of(row: &'a Connection, app: &'a AppKey) -> Self {
        Self {
            id: &row.id,
            app,
            account_id: &row.account_id,
            owner: &row.owner,
        }
    }

    fn context(&self, column: &'a str) -> AadContext<'a> {
        AadContext {
            table: "connections",
            column,
            id: self.id.as_str(),
            platform: &self.app.platform,
            app_id: &self.app.app_id,
            account_id: self.account_id.as_str(),
            owner: self.owner.as_str(),
        }
    }
}

/// What an answer of a token endpoint answers: one token, spent at one generation of its connection.
#[derive(Debug, Clone, Copy)]
pub struct JournalContext<'a> {
    pub id: &'a ConnectionId,
    pub generation: i64,
    pub spent: Fingerprint,
    pub received_at: Timestamp,
    /// How its body is to be read: a change of it makes other bytes.
    pub coding: &'a ContentCoding,
}

impl JournalContext<'_> {
    /// The id of its context: without white space in any of its parts, no two answers have the same one.
    fn name(self) -> String {
        let (id, generation, spent) = (self.id, self.generation, self.spent);
        let received_at = self.received_at.unix_micros();
        let name = format!("{id} {generation} {spent} {received_at}");
        if self.coding.is_identity() {
            name
        } else {
            format!("{name} {}", self.coding.as_str())
        }
    }
}

/// Opens and seals with one keyring. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault(Keyring);

impl Vault {
    pub fn new(keyring: Keyring) -> Self {
        Self(keyring)
    }

    pub fn seal_access_token(&self, to: RowContext<'_>, token: &Secret) -> Sealed {
        self.0
            .seal(&to.context("access_token"), token.expose().as_bytes())
            .into()
    }

    pub fn seal_refresh_token(&self, to: RowContext<'_>, token: &Secret) -> Sealed {
        self.0
            .seal(&to.context("refresh_token"), token.expose().as_bytes())
            .into()
    }

    pub fn access_token(&self, row: &Connection) -> Result<Secret, OpenError> {
        let app = row.app();
        self.0.open(
            &RowContext::of(row, &app).context("access_token"),
            row.access_token.as_bytes(),
        )
    }

    pub fn refresh_token(&self, row: &Connection) -> Result<Secret, OpenError> {
        let app = row.app();
        self.0.open(
            &RowContext::of(row, &app).context("refresh_token"),
            row.refresh_token.as_bytes(),
        )
    }

    /// What the token is known by in the journal, under the key that seals.
    pub fn fingerprint(&self, token: &Secret) -> Fingerprint {
        self.0.fingerprint(token)
    }

    /// … and under every key of the ring, the one that seals first.
    pub fn fingerprints(&self, token: &Secret) -> impl Iterator<Item = Fingerprint> {
        self.0.fingerprints(token)
    }

    pub fn is_fingerprint_of(&self, fingerprint: Fingerprint, token: &Secret) -> bool {
        self.fingerprints(token).any(|own| own == fingerprint)
    }

    /// The body of a token endpoint's answer, for the journal.
    pub fn seal_answer(&self, to: JournalContext<'_>, body: &[u8]) -> Vec<u8> {
        self.0.seal(&answer_context(&to.name()), body)
    }

    pub fn answer(
        &self,
        to: JournalContext<'_>,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        self.0.open_bytes(&answer_context(&to.name()), sealed)
    }

    /// A login's PKCE verifier (RFC 7636 §4.1).
    pub fn seal_verifier(&self, state_hash: &str, app: &AppKey, verifier: &Secret) -> Sealed {
        let context = verifier_context(state_hash, &app.platform, &app.app_id);
        self.0.seal(&context, verifier.expose().as_bytes()).into()
    }

    pub fn verifier(
        &self,
        state_hash: &str,
        app: &AppKey,
        sealed: &Sealed,
    ) -> Result<Secret, OpenError> {
        let context = verifier_context(state_hash, &app.platform, &app.app_id);
        self.0.open(&context, sealed.as_bytes())
    }

    /// The `state` of a login that is stored nowhere else.
    pub fn seal_state(&self, state: &[u8]) -> Vec<u8> {
        self.0.seal(&STATE, state)
    }

    pub fn state(&self, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        self.0.open_bytes(&STATE, sealed)
    }

    /// What a browser is told again when it repeats a callback.
    pub fn seal_result(&self, callback_id: &str, result: &[u8]) -> Sealed {
        self.0.seal(&result_context(callback_id), result).into()
    }

    pub fn result(
        &self,
        callback_id: &str,
        sealed: &Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        self.0
            .open_bytes(&result_context(callback_id), sealed.as_bytes())
    }
}

/// It has no row: what it is bound to is in it.
const STATE: AadContext<'static> = AadContext {
    table: "logins",
    column: "state",
    id: "",
    platform: "",
    app_id: "",
    account_id: "",
    owner: "",
};

fn result_context(callback_id: &str) -> AadContext<'_> {
    AadContext {
        table: "callbacks",
        column: "result",
        id: callback_id,
        platform: "",
        app_id: "",
        account_id: "",
        owner: "",
    }
}

fn answer_context(name: &str) -> AadContext<'_> {
    AadContext {
        table: "journal",
        column: "answer",
        id: name,
        platform: "",
        app_id: "",
        account_id: "",
        owner: "",
    }
}

fn verifier_context<'a>(state_hash: &'a str, platform: &'a str, app_id: &'a str) -> AadContext<'a> {
    AadContext {
        table: "logins",
        column: "verifier",
        id: state_hash,
        platform,
        app_id,
        account_id: "",
        owner: "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_opens_as_the_answer_to_what_was_spent_and_to_nothing_else() {
        let vault = Vault::new(Keyring::parse(&Keyring::generate("k1")).unwrap());
        let (id, other) = (ConnectionId::generate(), ConnectionId::generate());
        let (identity, gzip) = (ContentCoding::default(), ContentCoding::named("gzip"));
        let to = JournalContext {
            id: &id,
            generation: 7,
            spent: vault.fingerprint(&Secret::from("token")),
            received_at: Timestamp::from_unix_micros(1).unwrap(),
            coding: &identity,
        };
        let sealed = vault.seal_answer(to, b"body");

        assert_eq!(*vault.answer(to, &sealed).unwrap(), b"body");
        let elsewhere = [
            JournalContext { id: &other, ..to },
            JournalContext {
                generation: 8,
                ..to
            },
            JournalContext {
                spent: vault.fingerprint(&Secret::from("other")),
                ..to
            },
            JournalContext {
                received_at: Timestamp::from_unix_micros(2).unwrap(),
                ..to
            },
            JournalContext {
                coding: &gzip,
                ..to
            },
        ];
        for to in elsewhere {
            assert_eq!(
                vault.answer(to, &sealed).unwrap_err(),
                OpenError::Tampered,
                "{to:?}"
            );
        }
    }
}
