#![doc = include_str!("../README.md")]

pub mod accept;
pub mod auth;
pub mod body;
pub mod config;
pub mod connection_selector;
mod health;
mod known_paths;
mod listener;
pub mod metrics;
mod middleware;
mod observer;
pub mod problem;
pub mod refresher;
mod run;
pub mod server;
pub mod telemetry;

pub use middleware::{record, trace};
pub use run::main;
pub use server::{Context, Loaded, NoCommand, Server, Service};
