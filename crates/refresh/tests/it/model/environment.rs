//! Everything around the refreshers: time, deaths, people.

use super::protocol::{self, Protocol};
use super::provider::Provider;
use super::search::{Next, Step};
use super::state::{
    About, ConnectionState, FAMILIES, Faults, HeldFor, Phase, Process, ProviderResponse, Row,
    State, Token,
};

/// One configuration to search.
#[derive(Debug, Clone, Copy)]
pub(super) struct Environment {
    pub(super) protocol: Protocol,
    pub(super) provider: Provider,
    /// The disk that each process's slot is on. Those of one disk can read each other's.
    pub(super) disks: &'static [u8],
    pub(super) faults: Faults,
    /// A caller asks for a newer token until the row is of this generation.
    pub(super) wanted: u8,
    /// Each disk has copies of the slots of the others, with free locks.
    pub(super) copied: bool,
    /// A process that dies or stops is back, and has written what it had, before `orphan_grace` is over.
    pub(super) back_within_grace: bool,
}

impl Environment {
    pub(super) fn start(&self) -> State {
        let processes = u8::try_from(self.disks.len()).unwrap();
        State::start(processes, self.faults)
    }

    pub(super) fn in_reach(&self, process: u8, slot: u8) -> bool {
        self.disks[usize::from(process)] == self.disks[usize::from(slot)]
    }

    /// Whatever may happen next.
    pub(super) fn next(&self, state: &State, next: &mut Vec<Next>) {
        next.clear();
        for process in 0..u8::try_from(self.disks.len()).unwrap() {
            protocol::steps(self, state, process, next);
            self.life_and_death(state, process, next);
        }
        self.time(state, next);
        self.people(state, next);
        self.revocations(state, next);
        self.failover(state, next);
        for next in next {
            next.state.tidy();
        }
    }

    fn life_and_death(&self, state: &State, process: u8, next: &mut Vec<Next>) {
        match state.processes[usize::from(process)] {
            Process::Killed => {
                let mut after = *state;
                after.set(process, Process::Idle);
                next.push(Next::step(process, Step::Started, after));
            }
            Process::Idle if state.left.rechecks > 0 => {
                let first = next.len();
                protocol::begin(self, state, process, About::Recheck, next);
                for begun in next.iter_mut().skip(first) {
                    begun.state.left.rechecks -= 1;
                    begun.is_progress = false;
                }
            }
            Process::Idle if state.left.unnamed > 0 => {
                let first = next.len();
                protocol::begin(self, state, process, About::Unnamed, next);
                for begun in next.iter_mut().skip(first) {
                    begun.state.left.unnamed -= 1;
                    begun.is_progress = false;
                }
            }
            Process::Flying(_) if state.left.kills > 0 => {
                let mut killed = protocol::kill(self, state, process);
                killed.state.left.kills -= 1;
                next.push(killed);
            }
            Process::Idle | Process::Flying(_) => {}
        }
    }

    /// A process that isn't scheduled stands still. Time passes it by: after a lease length it may not call any more.
    fn time(&self, state: &State, next: &mut Vec<Next>) {
        let Some(owner) = state.row.lease_owner else {
            return;
        };
        let mut after = *state;
        let mut age = |held_for| {
            if let Some(owner) = &mut after.row.lease_owner {
                owner.held_for = held_for;
            }
        };
        match owner.held_for {
            HeldFor::Less => {
                age(HeldFor::Lease);
                if !owner.gone
                    && let Process::Flying(in_flight) =
                        &mut after.processes[usize::from(owner.process)]
                {
                    in_flight.may_call = false;
                }
                next.push(Next::environment(Step::LeaseLengthPasses, after));
            }
            HeldFor::Lease if self.disks.iter().any(|disk| *disk != self.disks[0]) => {
                let has_answer = state.in_flight(owner.process).is_some_and(|in_flight| {
                    matches!(
                        in_flight.phase,
                        Phase::Answered(ProviderResponse::Tokens(_))
                            | Phase::Unrecorded(_)
                            | Phase::Recorded(_)
                    )
                });
                let is_kept = state
                    .journals
                    .iter()
                    .any(|entry| entry.base == state.row.generation && !entry.settled);
                if self.back_within_grace && ((has_answer && !owner.gone) || is_kept) {
                    return;
                }
                age(HeldFor::LeaseAndGrace);
                next.push(Next::environment(Step::OrphanGracePasses, after));
            }
            HeldFor::Lease | HeldFor::LeaseAndGrace => {}
        }
    }

    fn people(&self, state: &State, next: &mut Vec<Next>) {
        let (row, left, under_way) = (&state.row, &state.left, &state.under_way);
        if left.disconnects > 0 && row.state != ConnectionState::Revoked {
            let mut after = *state;
            after.left.disconnects -= 1;
            self.connection_revoke(&mut after.row, true);
            next.push(Next::event(Step::Disconnect, after));
        }
        if left.consents > 0
            && under_way.consent.is_none()
            && usize::from(state.records.consents) < FAMILIES
        {
            let mut after = *state;
            after.left.consents -= 1;
            after.under_way.consent = Some(self.provider.consent(&mut after.records));
            next.push(Next::event(Step::Consent, after));
        }
        if let Some(family) = under_way.consent {
            let mut after = *state;
            after.under_way.consent = None;
            after.under_way.notice = under_way.notice.map(|_| true);
            after.row = Row {
                generation: row.generation + 1,
                refresh_token: Some(Token { family, serial: 0 }),
                state: ConnectionState::Active,
                in_doubt: false,
                lease_owner: None,
                revoke_pending: false,
                unconfirmed: false,
                streak: false,
            };
            next.push(Next::environment(Step::ConnectionReconnect, after));
        }
        if left.uninstalls > 0 {
            let mut after = *state;
            after.left.uninstalls -= 1;
            Provider::uninstall(&mut after.records);
            after.under_way.notice = Some(false);
            next.push(Next::event(Step::Uninstall, after));

            // The notice is faster than what it tells of.
            if under_way.consent.is_none() && left.consents == 0 {
                let mut after = *state;
                after.left.uninstalls -= 1;
                self.uninstalled(&mut after.row);
                after.under_way.uninstall = true;
                next.push(Next::event(Step::UninstallNotice { is_late: false }, after));
            }
        }
        if under_way.uninstall {
            let mut after = *state;
            after.under_way.uninstall = false;
            Provider::uninstall(&mut after.records);
            next.push(Next::environment(Step::Uninstall, after));
        }
        if let Some(is_late) = under_way.notice {
            let mut after = *state;
            after.under_way.notice = None;
            if !is_late {
                self.uninstalled(&mut after.row);
            }
            next.push(Next::environment(Step::UninstallNotice { is_late }, after));
        }
    }

    fn connection_revoke(&self, row: &mut Row, pending: bool) {
        let keeps = pending && self.protocol.disconnect_keeps_the_lease;
        if keeps {
            row.in_doubt |= row.lease_owner.is_some();
        } else {
            row.lease_owner = None;
        }
        row.revoke_pending = pending;
        if self.protocol.revoke_moves_generation {
            row.generation += 1;
        }
        row.state = ConnectionState::Revoked;
    }

    fn uninstalled(&self, row: &mut Row) {
        if row.state != ConnectionState::Revoked {
            self.connection_revoke(row, false);
            row.refresh_token = None;
        }
    }

    /// The sweep tells the provider of a disconnect.
    fn revocations(&self, state: &State, next: &mut Vec<Next>) {
        let is_settled = !state.row.in_doubt && state.row.lease_owner.is_none();
        let is_quiet = state.to_rewrite != 0 && self.protocol.quiet_after_a_loss;
        if is_quiet || (!is_settled && self.protocol.revocation_settles_the_doubt) {
            return;
        }
        let somebody_runs = state
            .processes
            .iter()
            .any(|process| *process != Process::Killed);
        let (true, true, Some(token)) = (
            somebody_runs,
            state.row.revoke_pending,
            state.row.refresh_token,
        ) else {
            return;
        };
        let mut after = *state;
        let broken = Provider::revoke(&mut after.records, token);
        after.row.revoke_pending = false;
        after.row.refresh_token = None;
        after.row.in_doubt = false;
        after.row.lease_owner = None;
        next.push(Next {
            broken,
            ..Next::environment(Step::RevocationTold(token), after)
        });
    }

    /// A replica takes over that has not got the last refresh. Every process that runs loses its connections.
    fn failover(&self, state: &State, next: &mut Vec<Next>) {
        let (true, Some(before)) = (state.left.failovers > 0, state.before_commit) else {
            return;
        };
        let mut after = *state;
        after.left.failovers -= 1;
        after.before_commit = None;
        after.went_back = true;
        after.row = before;
        after.committed &= !(1 << before.generation);
        after.lose_connections(self.disks);
        next.push(Next::event(Step::Failover, after));
    }
}
