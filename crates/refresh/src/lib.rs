#![doc = include_str!("../README.md")]

mod journal;
mod recheck;
mod refresher;
mod rules;
mod sweep;
mod timing;
mod token_request;

pub use crate::journal::{Disk, Journal, JournalError, MachineDisk, SegmentFile};
pub use crate::refresher::{
    Dependencies, Outcome, RefreshError, RefreshResult, Refresher, ReplayError, Trigger,
};
pub use crate::rules::{Rule, Rules};
pub use crate::sweep::Swept;
pub use crate::timing::Timing;
