//! How Postgres is spoken to: unnamed statements over rustls.

pub(super) mod connection;
pub(super) mod tls;
mod verifier;
