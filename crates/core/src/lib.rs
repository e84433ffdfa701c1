//! What is true of Pipekeeper without any HTTP server.

pub mod clock;
pub mod config;
pub mod connection;
pub mod content_coding;
pub mod crypto;
pub mod disconnect;
pub mod granted;
pub mod http_client;
pub mod json;
pub mod lifetime;
pub mod oauth;
pub mod placement;
pub mod provider;
pub mod random;
pub mod secret;
pub mod store;
pub mod tasks;
pub mod terminal;
pub mod vault;
pub mod webhook;
