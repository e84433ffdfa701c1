//! What is sent: mostly almost right.

mod draft;
mod junk;
mod routes;

use std::fmt;

use stack_tests::Client;
use tools::dice::Dice;

use self::routes::{callback, login, notice, nowhere, person, refresh};

/// What a generated request may hit upon.
pub(super) struct Known {
    pub(super) client: Client,
    pub(super) connection: String,
}

/// One request, as it goes over the wire.
pub(super) struct Request {
    pub(super) bytes: Vec<u8>,
    /// Not HTTP by its own fault.
    pub(super) is_broken: bool,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.bytes[..self.bytes.len().min(3000)];
        write!(f, "{} bytes: {}", self.bytes.len(), shown.escape_ascii())
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Route {
    Callback,
    Notice,
    Login,
    Person,
    Refresh,
    Nowhere,
}

impl Route {
    pub(super) const ALL: [Self; 6] = [
        Self::Callback,
        Self::Notice,
        Self::Login,
        Self::Person,
        Self::Refresh,
        Self::Nowhere,
    ];

    pub(super) fn seed(self) -> u64 {
        match self {
            Self::Callback => 11,
            Self::Notice => 22,
            Self::Login => 33,
            Self::Person => 44,
            Self::Refresh => 55,
            Self::Nowhere => 66,
        }
    }

    pub(super) fn service<'a>(self, known: &'a Known, dice: &mut Dice) -> &'a str {
        let client = &known.client;
        match self {
            Self::Callback | Self::Notice | Self::Login => &client.auth_capture,
            Self::Person => &client.data_api,
            Self::Refresh => &client.token_refresher,
            // A batch each: one connection serves one service.
            Self::Nowhere => match dice.below(3) {
                0 => &client.auth_capture,
                1 => &client.data_api,
                _ => &client.token_refresher,
            },
        }
    }

    pub(super) fn request(self, known: &Known, dice: &mut Dice) -> Request {
        let mut draft = match self {
            Self::Callback => callback(dice),
            Self::Notice => notice(dice),
            Self::Login => login(dice),
            Self::Person => person(known, dice),
            Self::Refresh => refresh(known, dice),
            Self::Nowhere => nowhere(dice),
        };
        if dice.per_mille(15) {
            draft.method = dice.one_of(&[
                "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW", "get",
            ]);
        }
        draft.odd_headers(dice);
        draft.odd_body(dice);
        draft.write(dice)
    }
}
