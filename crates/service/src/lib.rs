#![doc = include_str!("../README.md")]

pub mod accept;
pub mod body;
pub mod caller;
pub mod config;
mod edge;
mod health;
mod listener;
pub mod metrics;
pub mod problem;
pub mod refresher;
mod run;
pub mod selection;
pub mod server;
pub mod telemetry;

pub use edge::{record, trace};
pub use run::main;
pub use server::{Context, Loaded, NoCommand, Server, Service};
