#![doc = include_str!("../README.md")]

mod backends;
mod clock;
mod database;
mod query_log;
pub mod service;

pub use clock::ManualClock;
pub use database::*;
pub use query_log::QueryLog;
