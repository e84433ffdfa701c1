//! Breadth first through every state, each kept whole: what is found first is the shortest story.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::hash::{BuildHasherDefault, Hasher};

use super::environment::Environment;
use super::properties;
use super::state::{ProviderResponse, Reason, State, Token};

/// What must hold, whatever happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Property {
    /// No token is presented again whose answer is journaled in reach or committed.
    PresentedOnce,
    /// An answer that reached us is never lost.
    ReachedIsKept,
    /// Nothing needs a new consent, at rest, while the provider holds the grant good.
    ReauthOnlyIfDead,
    /// A revoked row is revived by a new consent alone.
    RevokedStays,
    /// After a disconnect no grant lives on.
    NothingLeftBehind,
    /// A grant that died of an answer that was lost is told so.
    LostIsToldAsLost,
    /// At rest an active row holds the newest token.
    NewestIsHeld,
    /// What we revoke for an older consent's sake does not end a newer one.
    NewConsentIsSpared,
    /// Callers that name no generation delay no others.
    OthersAreNotDelayed,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    ConnectionFind,
    LeaseAcquire,
    LeaseNotAcquired,
    LeaseTakeOver,
    LeaseRelease,
    LookFinds(Token),
    LookFindsNothing,
    LookSeesRowMoved,
    Spend(Token, ProviderResponse),
    AnswerLost(Token),
    RequestLost(Token),
    Record(Token),
    RecordLater,
    RecordFails,
    ConnectionCommit {
        answer: Token,
        took: bool,
    },
    ConnectionReauthRequired {
        took: bool,
        reason: Reason,
    },
    ConnectionStillRefused,
    ConnectionSpendFailed,
    ConnectionRevokeAlso {
        answer: Token,
        took: bool,
    },
    RevocationUnconfirmed,
    Failover,
    Rewrite {
        leases: bool,
        responses: u8,
    },
    Settle,
    Replay {
        answer: Token,
        took: bool,
        revokes: bool,
    },
    Killed,
    Started,
    LeaseLengthPasses,
    OrphanGracePasses,
    Disconnect,
    RevocationTold(Token),
    Consent,
    ConnectionReconnect,
    Uninstall,
    UninstallNotice {
        is_late: bool,
    },
}

/// One thing that may happen, and the environment after it.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) process: Option<u8>,
    pub(super) step: Step,
    pub(super) state: State,
    /// It happens sooner or later, unless something else does; the rest is a user's choice or a fault.
    pub(super) is_progress: bool,
    pub(super) broken: Option<Property>,
}

impl Next {
    pub(super) fn step(process: u8, step: Step, state: State) -> Self {
        Self {
            process: Some(process),
            ..Self::environment(step, state)
        }
    }

    pub(super) fn misfortune(process: u8, step: Step, state: State) -> Self {
        Self {
            is_progress: false,
            ..Self::step(process, step, state)
        }
    }

    pub(super) fn environment(step: Step, state: State) -> Self {
        Self {
            process: None,
            step,
            state,
            is_progress: true,
            broken: None,
        }
    }

    pub(super) fn event(step: Step, state: State) -> Self {
        Self {
            is_progress: false,
            ..Self::environment(step, state)
        }
    }
}

/// A property that was broken, and how.
#[derive(Debug)]
pub(super) struct Counterexample {
    pub(super) property: Property,
    pub(super) story: String,
}

#[derive(Debug)]
pub(super) struct Searched {
    pub(super) states: usize,
    pub(super) at_rest: usize,
    pub(super) found: Option<Counterexample>,
}

/// Every state that the environment can come to, up to the first broken property.
pub(super) fn search(environment: &Environment) -> Searched {
    let start = environment.start();
    let mut seen: HashSet<State, BuildHasherDefault<Mixer>> = HashSet::default();
    let mut came_from: Vec<(u32, u8)> = vec![(0, 0)];
    let (mut front, mut back) = (vec![(start, 0)], Vec::new());
    seen.insert(start.nameless(environment.disks));
    let (mut at_rest, mut next) = (0, Vec::new());
    while !front.is_empty() {
        for (state, number) in front.drain(..) {
            environment.next(&state, &mut next);
            let rests = !next.iter().any(|next| next.is_progress);
            at_rest += usize::from(rests);
            let broken = properties::broken(&state, rests);
            let by_step = next.iter().position(|next| next.broken.is_some());
            if let Some(property) = broken.or_else(|| by_step.and_then(|step| next[step].broken)) {
                let last = if broken.is_some() { None } else { by_step };
                let story = tell(environment, &came_from, number, last);
                return Searched {
                    states: seen.len(),
                    at_rest,
                    found: Some(Counterexample { property, story }),
                };
            }
            for (step, next) in next.iter().enumerate() {
                if seen.insert(next.state.nameless(environment.disks)) {
                    let id = u32::try_from(came_from.len()).unwrap();
                    came_from.push((number, u8::try_from(step).unwrap()));
                    back.push((next.state, id));
                }
            }
        }
        std::mem::swap(&mut front, &mut back);
    }
    Searched {
        states: seen.len(),
        at_rest,
        found: None,
    }
}

fn tell(
    environment: &Environment,
    came_from: &[(u32, u8)],
    number: u32,
    last: Option<usize>,
) -> String {
    let mut steps: Vec<usize> = last.into_iter().collect();
    let mut at = number;
    while at != 0 {
        let (before, step) = came_from[usize::try_from(at).unwrap()];
        steps.push(usize::from(step));
        at = before;
    }
    let (mut state, mut next, mut story) = (environment.start(), Vec::new(), String::new());
    for (line, step) in steps.into_iter().rev().enumerate() {
        environment.next(&state, &mut next);
        let taken = &next[step];
        writeln!(story, "{:>3}. {taken}", line + 1).unwrap();
        state = taken.state;
    }
    writeln!(story, "     {:?}", state.row).unwrap();
    writeln!(
        story,
        "     {:?}",
        &state.records.families[..usize::from(state.records.consents)]
    )
    .unwrap();
    story
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(process) = self.process {
            write!(f, "{}: ", ["A", "B", "C"][usize::from(process)])?;
        }
        match self.step {
            Step::ConnectionFind => f.write_str("connection_find")?,
            Step::LeaseAcquire => f.write_str("lease_acquire")?,
            Step::LeaseNotAcquired => f.write_str("lease_acquire: too late")?,
            Step::LeaseTakeOver => f.write_str("lease_take_over")?,
            Step::LeaseRelease => f.write_str("lease_release")?,
            Step::LookFinds(answer) => write!(f, "look: {answer}")?,
            Step::LookFindsNothing => f.write_str("look: nothing")?,
            Step::LookSeesRowMoved => f.write_str("look: the row has moved on")?,
            Step::Spend(token, ProviderResponse::Tokens(answer)) => {
                write!(f, "spend {token} → {answer}")?;
            }
            Step::Spend(token, ProviderResponse::InvalidGrant) => {
                write!(f, "spend {token} → invalid_grant")?;
            }
            Step::AnswerLost(token) => write!(f, "spend {token} → the answer is lost")?,
            Step::RequestLost(token) => write!(f, "spend {token} → the request is lost")?,
            Step::Record(answer) => write!(f, "record {answer}")?,
            Step::RecordLater => f.write_str("record: after the commit")?,
            Step::RecordFails => f.write_str("record: the journal takes nothing")?,
            Step::ConnectionCommit { answer, took } => {
                write!(f, "connection_commit {answer}{}", unless(took))?;
            }
            Step::ConnectionReauthRequired { took, reason } => {
                write!(f, "connection_reauth_required {reason:?}{}", unless(took))?;
            }
            Step::ConnectionStillRefused => f.write_str("connection_still_refused")?,
            Step::ConnectionSpendFailed => f.write_str("connection_spend_failed")?,
            Step::ConnectionRevokeAlso { answer, took } => {
                write!(f, "connection_revoke_also {answer}{}", unless(took))?;
            }
            Step::RevocationUnconfirmed => f.write_str("revocation unconfirmed")?,
            Step::Failover => f.write_str("the database loses its last commit")?,
            Step::Rewrite { leases, responses } => {
                write!(f, "keep_continuity: {responses} responses")?;
                f.write_str(if leases { ", a lease" } else { "" })?;
            }
            Step::Settle => f.write_str("settle")?,
            Step::Replay {
                answer, took: true, ..
            } => write!(f, "replay: connection_commit {answer}")?,
            Step::Replay {
                answer,
                revokes: true,
                ..
            } => write!(f, "replay: connection_revoke_also {answer}")?,
            Step::Replay { answer, .. } => write!(f, "replay: {answer} is dropped")?,
            Step::Killed => f.write_str("is killed")?,
            Step::Started => f.write_str("is started again")?,
            Step::LeaseLengthPasses => f.write_str("a lease length passes")?,
            Step::OrphanGracePasses => f.write_str("orphan_grace passes")?,
            Step::Disconnect => f.write_str("disconnect: connection_revoke Pending")?,
            Step::RevocationTold(token) => {
                write!(
                    f,
                    "sweep: oauth::revoke {token}, connection_revocation_told"
                )?;
            }
            Step::Consent => f.write_str("a new consent at the provider")?,
            Step::ConnectionReconnect => f.write_str("connection_reconnect")?,
            Step::Uninstall => f.write_str("uninstalled at the provider")?,
            Step::UninstallNotice { is_late: false } => {
                f.write_str("uninstall notice: connection_revoke Known")?;
            }
            Step::UninstallNotice { is_late: true } => f.write_str("uninstall notice: late")?,
        }
        let row = &self.state.row;
        write!(f, "  [generation {}, {:?}", row.generation, row.state)?;
        if row.in_doubt {
            f.write_str(", in_doubt")?;
        }
        if let Some(owner) = row.lease_owner {
            write!(f, ", lease {}", ["A", "B", "C"][usize::from(owner.process)])?;
        }
        f.write_str("]")
    }
}

fn unless(took: bool) -> &'static str {
    if took { "" } else { ": the row has moved on" }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.family, self.serial)
    }
}

/// Multiplies and rotates: states are few and no enemy chooses them.
#[derive(Debug, Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(u64::try_from(word).unwrap());
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word.unsigned_abs().try_into().unwrap());
    }
}
