//! Moving over from n8n's table, and back: with the real command, a real table, and the simulator's books.

mod guide;
mod import;
mod interrupted;
mod mirror;
mod n8n;
mod place;
mod table;
mod way_back;

pub(crate) use guide::*;
pub(crate) use import::*;
pub(crate) use interrupted::*;
pub(crate) use mirror::*;
use place::{ALIAS, Place, Tokens};
pub(crate) use table::*;
pub(crate) use way_back::*;
