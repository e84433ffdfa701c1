//! Tokens into rows and out of them: what is sealed where, and to whom.

use crate::connection::{ConnectionId, KeeperName};
use crate::crypto::{Keyring, OpenError, Place};
use crate::secret::Secret;
use crate::store::{AppKey, Connection, Login, Sealed};

/// The row that tokens are sealed to.
#[derive(Debug, Clone, Copy)]
pub struct SealedTo<'a> {
    pub id: &'a ConnectionId,
    pub app: &'a AppKey,
    pub account_id: &'a KeeperName,
    pub owner: &'a KeeperName,
}

impl<'a> SealedTo<'a> {
    fn place(&self, column: &'a str) -> Place<'a> {
        Place {
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

/// Opens and seals with one keyring. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Vault(Keyring);

impl Vault {
    pub fn new(keyring: Keyring) -> Self {
        Self(keyring)
    }

    pub fn seal_access_token(&self, to: SealedTo<'_>, token: &Secret) -> Sealed {
        self.0
            .seal(&to.place("access_token"), token.expose().as_bytes())
            .into()
    }

    pub fn seal_refresh_token(&self, to: SealedTo<'_>, token: &Secret) -> Sealed {
        self.0
            .seal(&to.place("refresh_token"), token.expose().as_bytes())
            .into()
    }

    pub fn access_token(&self, row: &Connection) -> Result<Secret, OpenError> {
        let app = row.app();
        self.0.open(
            &sealed_to(row, &app).place("access_token"),
            row.access_token.as_bytes(),
        )
    }

    pub fn refresh_token(&self, row: &Connection) -> Result<Secret, OpenError> {
        let app = row.app();
        self.0.open(
            &sealed_to(row, &app).place("refresh_token"),
            row.refresh_token.as_bytes(),
        )
    }

    /// A login's PKCE verifier (RFC 7636 §4.1).
    pub fn seal_verifier(&self, state_hash: &str, app: &AppKey, verifier: &Secret) -> Sealed {
        let place = verifier_place(state_hash, &app.platform, &app.app_id);
        self.0.seal(&place, verifier.expose().as_bytes()).into()
    }

    pub fn verifier(&self, login: &Login) -> Result<Option<Secret>, OpenError> {
        let place = verifier_place(&login.state_hash, &login.platform, &login.app_id);
        login
            .verifier
            .as_ref()
            .map(|sealed| self.0.open(&place, sealed.as_bytes()))
            .transpose()
    }
}

fn sealed_to<'a>(row: &'a Connection, app: &'a AppKey) -> SealedTo<'a> {
    SealedTo {
        id: &row.id,
        app,
        account_id: &row.account_id,
        owner: &row.owner,
    }
}

fn verifier_place<'a>(state_hash: &'a str, platform: &'a str, app_id: &'a str) -> Place<'a> {
    Place {
        table: "logins",
        column: "verifier",
        id: state_hash,
        platform,
        app_id,
        account_id: "",
        owner: "",
    }
}
