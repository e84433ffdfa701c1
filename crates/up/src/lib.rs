#![doc = include_str!("../README.md")]
#![expect(
    clippy::indexing_slicing,
    reason = "indexing a serde_json::Value gives null where there is nothing, it does not panic"
)]

pub mod client;
pub mod demo;
pub mod processes;
pub mod tasks;
