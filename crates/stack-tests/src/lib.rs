#![doc = include_str!("../README.md")]

pub mod stack;

pub use stack::{Setup, Stack};
pub use up::client::{Client, Reply};
