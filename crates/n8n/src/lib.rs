#![doc = include_str!("../README.md")]

mod config;
pub mod import;
pub mod mirror;
mod old_row;
pub mod rollback;

use std::time::Duration;

pub use crate::config::OldTable;

/// How long a command waits for each connection that it refreshes.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(45);

/// `7 Acme`: id and name at the provider.
fn named(id: &str, name: &str) -> String {
    format!("{id} {name}").trim().to_owned()
}
