//! What is true of Pipekeeper without any HTTP server.

pub mod clock;
pub mod connection;
pub mod crypto;
pub mod random;
pub mod secret;
