//! `oauth.pipedrive.com`: consent, tokens, revocation.

pub(crate) mod authorize;
pub(crate) mod client;
pub(crate) mod error;
pub(crate) mod revoke;
pub(crate) mod token;
