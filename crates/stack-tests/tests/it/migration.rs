//! Moving over from n8n's table, and back: with the real command, a real table, and the simulator's books.

mod fixture;
mod guide;
mod import;
mod interrupted;
mod mirror;
mod n8n;
mod rollback;
mod table;

use fixture::{ALIAS, Fixture, Tokens};
pub(crate) use guide::*;
pub(crate) use import::*;
pub(crate) use interrupted::*;
pub(crate) use mirror::*;
pub(crate) use rollback::*;
pub(crate) use table::*;
