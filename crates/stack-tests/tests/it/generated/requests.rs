//! What is sent: mostly almost right.

mod draft;
mod junk;
mod routes;

use std::fmt;

use stack_tests::Client;
use tools::rng::Rng;

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

    pub(super) fn service<'a>(self, known: &'a Known, rng: &mut Rng) -> &'a str {
        let client = &known.client;
        match self {
            Self::Callback | Self::Notice | Self::Login => &client.auth_capture,
            Self::Person => &client.data_api,
            Self::Refresh => &client.token_refresher,
            // A batch each: one connection serves one service.
            Self::Nowhere => match rng.below(3) {
                0 => &client.auth_capture,
                1 => &client.data_api,
                _ => &client.token_refresher,
            },
        }
    }

    pub(super) fn request(self, known: &Known, rng: &mut Rng) -> Request {
        let mut draft = match self {
            Self::Callback => callback(rng),
            Self::Notice => notice(rng),
            Self::Login => login(rng),
            Self::Person => person(known, rng),
            Self::Refresh => refresh(known, rng),
            Self::Nowhere => nowhere(rng),
        };
        if rng.per_mille(15) {
            draft.method = rng.one_of(&[
                "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW", "get",
            ]);
        }
        draft.odd_headers(rng);
        draft.odd_body(rng);
        draft.write(rng)
    }
}
