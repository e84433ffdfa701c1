//! The protocol's rules by name, so that a test bench can break one of them and see that the breach is noticed.
//!
//! Nothing that the service's own `main` reads can break a rule: `scripts/chaos --sabotage` starts this library from a `main`
//! of its own.

/// A rule of the refresh protocol that can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A token is spent only for a caller who saw the row's current generation fail, and a response is stored only over the
    /// generation that it was requested for.
    CompareGenerations,
    /// The journals are searched before a token is spent, after a refusal, and for responses of processes that ended.
    SearchJournals,
    /// Only the holder of a connection's lease spends its token.
    RespectLeases,
    /// A token that a lost holder may have spent is in doubt.
    RememberDoubt,
    /// A refresh never revives a revoked row.
    KeepRevoked,
}

/// Which rules the protocol keeps: all of them by default.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    broken: Option<Rule>,
}

impl Rules {
    /// All rules but this one.
    pub fn without(rule: Rule) -> Self {
        Self { broken: Some(rule) }
    }

    pub(crate) fn keep(self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }
}
