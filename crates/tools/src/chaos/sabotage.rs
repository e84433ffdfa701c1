//! What a run can break on purpose, to show that the checker notices.

use anyhow::anyhow;
use clap::ValueEnum;
use pipekeeper_refresh::{Rule, Rules};

use super::invariant::Invariant;

/// A promise of the protocol that is broken throughout the run. Each takes away every guard of its promise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sabotage {
    /// Responses are stored in the database alone
    JournalNotWritten,
    /// The journal's disk syncs nothing
    JournalNotSynced,
    /// The journal's disk syncs a response after it was committed to the database
    JournalAfterCommit,
    /// Something deletes the journals' files all the time
    JournalDeleted,
    /// Callers and commits are not held to the generation that they saw
    GenerationsNotCompared,
    /// No process searches the journals
    JournalsNotSearched,
    /// Tokens are spent while another process holds the lease
    LeasesIgnored,
    /// A token that a lost holder may have spent is taken for unspent
    DoubtIgnored,
    /// A response revives a connection that was disconnected
    RevokedRevived,
}

/// What becomes of what is written to the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DiskMode {
    /// Kept in memory until it is synced.
    Reliable,
    DropsWrites,
    NeverSyncs,
    /// Synced when the mark is written that the response is in the database.
    SyncsSettled,
}

impl Sabotage {
    pub fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied()
    }

    /// # Errors
    /// There is none of this name.
    pub fn named(name: &str) -> anyhow::Result<Self> {
        Self::from_str(name, false).map_err(|error| anyhow!(error))
    }

    /// As the command line has it.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    pub(super) fn rules(self) -> Rules {
        match self {
            Self::JournalNotWritten
            | Self::JournalNotSynced
            | Self::JournalAfterCommit
            | Self::JournalDeleted => Rules::default(),
            Self::GenerationsNotCompared => Rules::without(Rule::CompareGenerations),
            Self::JournalsNotSearched => Rules::without(Rule::SearchJournals),
            Self::LeasesIgnored => Rules::without(Rule::RespectLeases),
            Self::DoubtIgnored => Rules::without(Rule::RememberDoubt),
            Self::RevokedRevived => Rules::without(Rule::KeepRevoked),
        }
    }

    pub(super) fn disk_mode(self) -> DiskMode {
        match self {
            Self::JournalNotWritten => DiskMode::DropsWrites,
            Self::JournalNotSynced => DiskMode::NeverSyncs,
            Self::JournalAfterCommit => DiskMode::SyncsSettled,
            Self::JournalDeleted
            | Self::GenerationsNotCompared
            | Self::JournalsNotSearched
            | Self::LeasesIgnored
            | Self::DoubtIgnored
            | Self::RevokedRevived => DiskMode::Reliable,
        }
    }

    /// The invariant that its aimed steps make fail.
    pub fn expected(self) -> Invariant {
        match self {
            Self::JournalNotWritten
            | Self::JournalNotSynced
            | Self::JournalAfterCommit
            | Self::JournalDeleted
            | Self::JournalsNotSearched
            | Self::LeasesIgnored => Invariant::ReuseHasCause,
            Self::GenerationsNotCompared => Invariant::OldGenerationsAreNotRefreshed,
            Self::DoubtIgnored => Invariant::EndsAreTrue,
            Self::RevokedRevived => Invariant::RevokedStaysRevoked,
        }
    }
}
