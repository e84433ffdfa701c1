//! What the model knows of the environment at one moment: the row, the provider's records, the processes, their journals.

/// So many processes at most.
pub(super) const PROCESSES: usize = 3;
/// So many consents at most, the first one included.
pub(super) const FAMILIES: usize = 3;
/// So many answers at most that are of interest at once.
const ENTRIES: usize = 6;

/// Of one consent, the so-manyth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Token {
    pub(super) family: u8,
    pub(super) serial: u8,
}

/// What `connections.state` and `state_reason` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum ConnectionState {
    Active,
    ReauthRequired(Reason),
    Revoked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Reason {
    Rejected,
    AnswerLost,
}

/// For how long a lease has been watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum HeldFor {
    Less,
    Lease,
    LeaseAndGrace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct LeaseOwner {
    pub(super) process: u8,
    /// The process that took it is dead; one in its place is another.
    pub(super) gone: bool,
    pub(super) held_for: HeldFor,
}

/// The row of `connections`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that have nothing to do with each other"
)]
pub(super) struct Row {
    pub(super) generation: u8,
    /// `None`: wiped.
    pub(super) refresh_token: Option<Token>,
    pub(super) state: ConnectionState,
    pub(super) in_doubt: bool,
    pub(super) lease_owner: Option<LeaseOwner>,
    pub(super) revoke_pending: bool,
    /// `last_error`: the provider can't be told, and people are.
    pub(super) unconfirmed: bool,
    /// `early_renewals`: callers that name the generation that failed wait.
    pub(super) streak: bool,
}

/// One consent, as the provider's records have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Family {
    /// The token that can be spent.
    pub(super) serial: u8,
    pub(super) alive: bool,
    pub(super) ended_by_reuse: bool,
    /// The answer that carried that token is destroyed.
    pub(super) lost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct TokenRecords {
    pub(super) families: [Family; FAMILIES],
    pub(super) consents: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum ProviderResponse {
    Tokens(Token),
    InvalidGrant,
}

/// How far a refresh in flight has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It has read the row.
    Found,
    Leased,
    /// It has looked for the token's answer, and found nothing.
    Looked,
    /// The answer is in its socket.
    Answered(ProviderResponse),
    /// What its call did is unknown.
    Unknown,
    /// The answer is in its memory alone: its own journal has not got it.
    Unrecorded(Token),
    Recorded(Token),
    /// Another's answer, found in a journal.
    Adopting(Token),
    /// The row was revoked meanwhile: what was received is to be revoked too.
    Overtaken(Token),
    /// Its journal does not know yet.
    Committed,
}

/// Why a token may be presented although the provider has answered for it before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Excuse {
    /// The answer is in a journal in reach: there is none.
    No,
    /// If it was answered for, then the answer is destroyed.
    Destroyed,
    /// The look could not see it: stopped with its process before it was journaled, or in a journal out of reach.
    OutOfSight,
}

/// What a refresh in flight is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum About {
    /// A caller that names the generation that failed.
    Named,
    /// One that names none.
    Unnamed,
    /// A row that is `reauth_required`.
    Recheck,
    /// A row that is revoked, and whose newest token is unknown.
    Revocation,
}

/// A refresh in flight that holds, or has held, a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct InFlight {
    pub(super) phase: Phase,
    pub(super) generation: u8,
    pub(super) token: Token,
    /// What it knows itself; the row has its own.
    pub(super) in_doubt: bool,
    /// Its deadline is not over.
    pub(super) may_call: bool,
    /// Its first call came to nothing that it knows.
    pub(super) second_call: bool,
    pub(super) about: About,
    pub(super) excuse: Excuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Process {
    Killed,
    Idle,
    Flying(InFlight),
}

/// An answer in a journal's slot; a process has the slot of its own number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Entry {
    pub(super) base: u8,
    pub(super) slot: u8,
    pub(super) spent: Token,
    pub(super) answer: Token,
    /// Its writer is dead.
    pub(super) left: bool,
    pub(super) settled: bool,
}

/// Every journal's entries, sorted; those that can never be asked for are forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Journals([Option<Entry>; ENTRIES]);

impl Journals {
    pub(super) fn iter(&self) -> impl Iterator<Item = Entry> {
        self.0.iter().copied().flatten()
    }

    pub(super) fn record(&mut self, entry: Entry) {
        if self.iter().any(|known| known == entry) {
            return;
        }
        let place = self.0.iter_mut().find(|place| place.is_none());
        *place.expect("a configuration with more answers than ENTRIES") = Some(entry);
        self.sort();
    }

    pub(super) fn change(&mut self, change: impl Fn(&mut Entry)) {
        self.0.iter_mut().flatten().for_each(change);
        self.sort();
    }

    pub(super) fn forget(&mut self, of_no_use: impl Fn(&Entry) -> bool) {
        let mut changed = false;
        for place in &mut self.0 {
            if place.as_ref().is_some_and(&of_no_use) {
                *place = None;
                changed = true;
            }
        }
        if changed {
            self.sort();
        }
    }

    /// Entries first, so that equal journals are equal.
    fn sort(&mut self) {
        self.0.sort_by_key(|place| (place.is_none(), *place));
    }
}

/// What may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Faults {
    pub(super) kills: u8,
    /// Calls whose request or answer the network loses.
    pub(super) losses: u8,
    /// Answers that no journal takes: the disk is full.
    pub(super) unwritable: u8,
    pub(super) disconnects: u8,
    pub(super) consents: u8,
    pub(super) uninstalls: u8,
    pub(super) rechecks: u8,
    /// Refreshes for callers that name no generation.
    pub(super) unnamed: u8,
    /// The database loses its last commit.
    pub(super) failovers: u8,
}

/// What has begun upstream and not yet come through to the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct UnderWay {
    /// A consent whose tokens are not stored yet.
    pub(super) consent: Option<u8>,
    /// An uninstall notice, and whether it is older than the row's last consent.
    pub(super) notice: Option<bool>,
    /// The notice came first.
    pub(super) uninstall: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) row: Row,
    pub(super) records: TokenRecords,
    pub(super) processes: [Process; PROCESSES],
    pub(super) journals: Journals,
    pub(super) left: Faults,
    pub(super) under_way: UnderWay,
    /// One bit a generation: the provider has given tokens for its refresh token.
    pub(super) answered: u16,
    /// One bit a generation: such an answer was destroyed before a journal had it.
    pub(super) destroyed: u16,
    /// One bit a generation: such an answer is the next generation's.
    pub(super) committed: u16,
    /// A caller that named the failed generation has got a new token.
    pub(super) named_one: bool,
    /// The row before the last refresh was committed, if the database may yet lose that.
    pub(super) before_commit: Option<Row>,
    /// One bit a process: it has lost its connections, and not yet written again what it has.
    pub(super) to_rewrite: u8,
    /// The database has lost a commit, and perhaps a doubt with it.
    pub(super) went_back: bool,
}

impl State {
    pub(super) fn start(processes: u8, faults: Faults) -> Self {
        let first = Token {
            family: 0,
            serial: 0,
        };
        let mut records = TokenRecords {
            families: [Family::default(); FAMILIES],
            consents: 1,
        };
        records.families[0].alive = true;
        let mut all = [Process::Killed; PROCESSES];
        all[..usize::from(processes)].fill(Process::Idle);
        Self {
            row: Row {
                generation: 1,
                refresh_token: Some(first),
                state: ConnectionState::Active,
                in_doubt: false,
                lease_owner: None,
                revoke_pending: false,
                unconfirmed: false,
                streak: false,
            },
            records,
            processes: all,
            journals: Journals::default(),
            left: faults,
            under_way: UnderWay::default(),
            answered: 0,
            destroyed: 0,
            committed: 0,
            named_one: false,
            before_commit: None,
            to_rewrite: 0,
            went_back: false,
        }
    }

    pub(super) fn in_flight(&self, process: u8) -> Option<InFlight> {
        match self.processes[usize::from(process)] {
            Process::Flying(in_flight) => Some(in_flight),
            Process::Idle | Process::Killed => None,
        }
    }

    pub(super) fn set(&mut self, process: u8, to: Process) {
        self.processes[usize::from(process)] = to;
    }

    pub(super) fn in_flights(&self) -> impl Iterator<Item = InFlight> {
        self.processes.iter().filter_map(|process| match process {
            Process::Flying(in_flight) => Some(*in_flight),
            Process::Idle | Process::Killed => None,
        })
    }

    /// All processes that run: each has yet to write again what it has.
    pub(super) fn lose_connections(&mut self, disks: &[u8]) {
        for (process, life) in self.processes.iter().enumerate().take(disks.len()) {
            if *life != Process::Killed {
                self.to_rewrite |= 1 << process;
            }
        }
    }

    pub(super) fn holds_lease(&self, process: u8) -> bool {
        self.row
            .lease_owner
            .is_some_and(|owner| owner.process == process && !owner.gone)
    }

    pub(super) fn is_answered(&self, generation: u8) -> bool {
        self.answered & (1 << generation) != 0
    }

    pub(super) fn is_destroyed(&self, generation: u8) -> bool {
        self.destroyed & (1 << generation) != 0
    }

    pub(super) fn is_committed(&self, generation: u8) -> bool {
        self.committed & (1 << generation) != 0
    }

    /// The same state with the processes of each disk in an order of their own: who is called A makes no difference.
    pub(super) fn nameless(&self, disks: &[u8]) -> Self {
        let mut order = [0, 1, 2];
        order[..disks.len()].sort_by_key(|place| {
            let to_rewrite = self.to_rewrite & (1 << place) != 0;
            (disks[*place], self.processes[*place], to_rewrite)
        });
        if order.is_sorted() {
            return *self;
        }
        let name = |process: &mut u8| {
            let at = order.iter().position(|old| *old == usize::from(*process));
            *process = u8::try_from(at.unwrap()).unwrap();
        };
        let mut other = *self;
        other.processes = order.map(|old| self.processes[old]);
        if let Some(owner) = &mut other.row.lease_owner {
            name(&mut owner.process);
        }
        other.journals.change(|entry| name(&mut entry.slot));
        let mut before = other.before_commit;
        if let Some(owner) = before.as_mut().and_then(|row| row.lease_owner.as_mut()) {
            name(&mut owner.process);
        }
        other.before_commit = before;
        other.to_rewrite = 0;
        for (new, old) in order.iter().enumerate() {
            if self.to_rewrite & (1 << old) != 0 {
                other.to_rewrite |= 1 << new;
            }
        }
        other
    }

    /// Forgets what can't matter any more, so that worlds with the same future are one.
    pub(super) fn tidy(&mut self) {
        let generation = self.row.generation;
        let mut asked_for = 1_u16 << generation;
        if self.row.revoke_pending {
            asked_for |= 1 << (generation - 1);
        }
        if self.left.failovers == 0 {
            self.before_commit = None;
        }
        if let Some(before) = self.before_commit {
            for generation in before.generation..generation {
                asked_for |= 1 << generation;
            }
        }
        for in_flight in self.in_flights() {
            asked_for |= 1 << in_flight.generation;
        }
        self.answered &= asked_for;
        self.destroyed &= asked_for;
        self.committed &= asked_for;
        self.journals.forget(|entry| {
            let is_past = entry.base < generation && asked_for & (1 << entry.base) == 0;
            entry.settled && is_past
        });
    }
}
