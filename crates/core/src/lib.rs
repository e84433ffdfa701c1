//! What is true of Pipekeeper without any HTTP server.

pub mod clock;
mod columns;
pub mod config;
pub mod connection;
pub mod content_coding;
pub mod crypto;
pub mod granted;
pub mod http_client;
pub mod json;
pub mod oauth;
pub mod placement;
pub mod provider;
pub mod random;
pub mod refresh_schedule;
pub mod refresher_client;
mod schema;
pub mod sealed;
pub mod secret;
pub mod store;
pub mod tasks;
pub mod terminal;
pub mod vault;
