//! Breadth first through every state, each kept whole: what is found first is the shortest story.

use std::collections::HashSet;
use std::fmt::{self, Write as _};
use std::hash::{BuildHasherDefault, Hasher};

use super::promises;
use super::state::{Answer, Reason, State, Token};
use super::world::World;

/// What must hold, whatever happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Promise {
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
pub(super) enum Deed {
    ConnectionFind,
    LeaseAcquire,
    LeaseNotAcquired,
    LeaseTakeOver,
    LeaseRelease,
    LookFinds(Token),
    LookFindsNothing,
    LookSeesRowMoved,
    Spend(Token, Answer),
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

/// One thing that may happen, and the world after it.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) process: Option<u8>,
    pub(super) deed: Deed,
    pub(super) state: State,
    /// It happens sooner or later, unless something else does; the rest is a user's choice or a fault.
    pub(super) is_progress: bool,
    pub(super) broken: Option<Promise>,
}

impl Next {
    pub(super) fn step(process: u8, deed: Deed, state: State) -> Self {
        Self {
            process: Some(process),
            ..Self::world(deed, state)
        }
    }

    pub(super) fn misfortune(process: u8, deed: Deed, state: State) -> Self {
        Self {
            is_progress: false,
            ..Self::step(process, deed, state)
        }
    }

    pub(super) fn world(deed: Deed, state: State) -> Self {
        Self {
            process: None,
            deed,
            state,
            is_progress: true,
            broken: None,
        }
    }

    pub(super) fn event(deed: Deed, state: State) -> Self {
        Self {
            is_progress: false,
            ..Self::world(deed, state)
        }
    }
}

/// A promise that was broken, and how.
#[derive(Debug)]
pub(super) struct Counterexample {
    pub(super) promise: Promise,
    pub(super) story: String,
}

#[derive(Debug)]
pub(super) struct Searched {
    pub(super) states: usize,
    pub(super) at_rest: usize,
    pub(super) found: Option<Counterexample>,
}

/// Every state that the world can come to, up to the first broken promise.
pub(super) fn search(world: &World) -> Searched {
    let start = world.start();
    let mut seen: HashSet<State, BuildHasherDefault<Mixer>> = HashSet::default();
    let mut came_from: Vec<(u32, u8)> = vec![(0, 0)];
    let (mut front, mut back) = (vec![(start, 0)], Vec::new());
    seen.insert(start.nameless(world.disks));
    let (mut at_rest, mut next) = (0, Vec::new());
    while !front.is_empty() {
        for (state, number) in front.drain(..) {
            world.next(&state, &mut next);
            let rests = !next.iter().any(|next| next.is_progress);
            at_rest += usize::from(rests);
            let broken = promises::broken(&state, rests);
            let by_step = next.iter().position(|next| next.broken.is_some());
            if let Some(promise) = broken.or_else(|| by_step.and_then(|step| next[step].broken)) {
                let last = if broken.is_some() { None } else { by_step };
                let story = tell(world, &came_from, number, last);
                return Searched {
                    states: seen.len(),
                    at_rest,
                    found: Some(Counterexample { promise, story }),
                };
            }
            for (step, next) in next.iter().enumerate() {
                if seen.insert(next.state.nameless(world.disks)) {
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

fn tell(world: &World, came_from: &[(u32, u8)], number: u32, last: Option<usize>) -> String {
    let mut steps: Vec<usize> = last.into_iter().collect();
    let mut at = number;
    while at != 0 {
        let (before, step) = came_from[usize::try_from(at).unwrap()];
        steps.push(usize::from(step));
        at = before;
    }
    let (mut state, mut next, mut story) = (world.start(), Vec::new(), String::new());
    for (line, step) in steps.into_iter().rev().enumerate() {
        world.next(&state, &mut next);
        let taken = &next[step];
        writeln!(story, "{:>3}. {taken}", line + 1).unwrap();
        state = taken.state;
    }
    writeln!(story, "     {:?}", state.row).unwrap();
    writeln!(
        story,
        "     {:?}",
        &state.books.families[..usize::from(state.books.consents)]
    )
    .unwrap();
    story
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(process) = self.process {
            write!(f, "{}: ", ["A", "B", "C"][usize::from(process)])?;
        }
        match self.deed {
            Deed::ConnectionFind => f.write_str("connection_find")?,
            Deed::LeaseAcquire => f.write_str("lease_acquire")?,
            Deed::LeaseNotAcquired => f.write_str("lease_acquire: too late")?,
            Deed::LeaseTakeOver => f.write_str("lease_take_over")?,
            Deed::LeaseRelease => f.write_str("lease_release")?,
            Deed::LookFinds(answer) => write!(f, "look: {answer}")?,
            Deed::LookFindsNothing => f.write_str("look: nothing")?,
            Deed::LookSeesRowMoved => f.write_str("look: the row has moved on")?,
            Deed::Spend(token, Answer::Tokens(answer)) => write!(f, "spend {token} → {answer}")?,
            Deed::Spend(token, Answer::InvalidGrant) => write!(f, "spend {token} → invalid_grant")?,
            Deed::AnswerLost(token) => write!(f, "spend {token} → the answer is lost")?,
            Deed::RequestLost(token) => write!(f, "spend {token} → the request is lost")?,
            Deed::Record(answer) => write!(f, "record {answer}")?,
            Deed::RecordLater => f.write_str("record: after the commit")?,
            Deed::RecordFails => f.write_str("record: the journal takes nothing")?,
            Deed::ConnectionCommit { answer, took } => {
                write!(f, "connection_commit {answer}{}", unless(took))?;
            }
            Deed::ConnectionReauthRequired { took, reason } => {
                write!(f, "connection_reauth_required {reason:?}{}", unless(took))?;
            }
            Deed::ConnectionStillRefused => f.write_str("connection_still_refused")?,
            Deed::ConnectionSpendFailed => f.write_str("connection_spend_failed")?,
            Deed::ConnectionRevokeAlso { answer, took } => {
                write!(f, "connection_revoke_also {answer}{}", unless(took))?;
            }
            Deed::RevocationUnconfirmed => f.write_str("revocation unconfirmed")?,
            Deed::Failover => f.write_str("the database loses its last commit")?,
            Deed::Rewrite { leases, responses } => {
                write!(f, "keep_continuity: {responses} responses")?;
                f.write_str(if leases { ", a lease" } else { "" })?;
            }
            Deed::Settle => f.write_str("settle")?,
            Deed::Replay {
                answer, took: true, ..
            } => write!(f, "replay: connection_commit {answer}")?,
            Deed::Replay {
                answer,
                revokes: true,
                ..
            } => write!(f, "replay: connection_revoke_also {answer}")?,
            Deed::Replay { answer, .. } => write!(f, "replay: {answer} is dropped")?,
            Deed::Killed => f.write_str("is killed")?,
            Deed::Started => f.write_str("is started again")?,
            Deed::LeaseLengthPasses => f.write_str("a lease length passes")?,
            Deed::OrphanGracePasses => f.write_str("orphan_grace passes")?,
            Deed::Disconnect => f.write_str("disconnect: connection_revoke Pending")?,
            Deed::RevocationTold(token) => {
                write!(
                    f,
                    "sweep: oauth::revoke {token}, connection_revocation_told"
                )?;
            }
            Deed::Consent => f.write_str("a new consent at the provider")?,
            Deed::ConnectionReconnect => f.write_str("connection_reconnect")?,
            Deed::Uninstall => f.write_str("uninstalled at the provider")?,
            Deed::UninstallNotice { is_late: false } => {
                f.write_str("uninstall notice: connection_revoke Known")?;
            }
            Deed::UninstallNotice { is_late: true } => f.write_str("uninstall notice: late")?,
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
