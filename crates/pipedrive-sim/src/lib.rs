#![doc = include_str!("../README.md")]

mod api;
mod app;
mod control;
mod faults;
mod oauth;
mod outside;
mod routes;
mod settings;
mod simulator;
mod world;

pub use app::{App, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, DEFAULT_REDIRECT_URL};
pub use routes::openapi;
pub use settings::{
    CodeReuse, DeclineError, InvalidClientStatus, OldAccessToken, Plan, Reinstall, Rotation,
    Settings, UnauthorizedBody,
};
pub use simulator::{Options, Simulator, healthy};
