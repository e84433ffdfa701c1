#![doc = include_str!("../README.md")]

pub mod client;
pub mod processes;
pub mod stack;
pub mod story;

pub use client::{Answer, Client};
pub use stack::{Setup, Stack};
