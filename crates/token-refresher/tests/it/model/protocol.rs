//! The refresh protocol, one function a step, named as in `refresh`, `journal` and the store.

use super::provider::Rotation;
use super::search::{Deed, Next, Promise};
use super::state::{
    Answer, ConnectionState, Entry, Excuse, Flight, HeldFor, LeaseOwner, Phase, Process, Reason,
    State, Token,
};
use super::world::World;

/// The rules, each of which can be broken on purpose.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches, turned off one at a time"
)]
pub(super) struct Protocol {
    /// `lease_acquire` takes a lease that nobody holds.
    pub(super) lease_is_exclusive: bool,
    /// A process that runs keeps its lease for a lease length, at the end of which it may not call any more.
    pub(super) running_holder_keeps_lease: bool,
    /// One whose journal is out of reach keeps it for `orphan_grace` more.
    pub(super) orphan_grace: bool,
    pub(super) look_before_spending: bool,
    /// Also who is too late to call looks, before the lease goes to somebody who may not be able to.
    pub(super) look_before_release: bool,
    /// Nothing is waited for between the look and the call, and each call has its own look.
    pub(super) look_is_fresh: bool,
    /// Who is in doubt looks at the row too: its lease may have been ended by a commit that no journal knows of.
    pub(super) look_rereads_the_row: bool,
    pub(super) journal_before_commit: bool,
    pub(super) commit_compares_generation: bool,
    pub(super) commit_spares_revoked: bool,
    pub(super) revoke_moves_generation: bool,
    /// What came for a row that is revoked is revoked at the provider.
    pub(super) overtaken_by_revoke_revokes: bool,
    /// It takes the place of the token that it was the answer to, and of no newer one.
    pub(super) revoke_also_takes_the_newest: bool,
    /// `invalid_grant` counts only if the row has not moved on.
    pub(super) reread_after_invalid_grant: bool,
    pub(super) in_doubt_is_remembered: bool,
    /// A refusal's reason is the row's doubt as it is when it is written, not as it was when the row was read.
    pub(super) refusal_reads_the_rows_doubt: bool,
    /// Only who spent under a lease that is still its own takes the doubt off an active row.
    pub(super) doubt_ends_under_its_own_lease: bool,
    /// Answers of processes that are gone come back.
    pub(super) replay: bool,
}

impl Protocol {
    pub(super) const OURS: Self = Self {
        lease_is_exclusive: true,
        running_holder_keeps_lease: true,
        orphan_grace: true,
        look_before_spending: true,
        look_before_release: true,
        look_is_fresh: true,
        look_rereads_the_row: true,
        journal_before_commit: true,
        commit_compares_generation: true,
        commit_spares_revoked: true,
        revoke_moves_generation: true,
        overtaken_by_revoke_revokes: true,
        revoke_also_takes_the_newest: true,
        reread_after_invalid_grant: true,
        in_doubt_is_remembered: true,
        refusal_reads_the_rows_doubt: true,
        doubt_ends_under_its_own_lease: true,
        replay: true,
    };
}

/// What a process that runs may do next.
pub(super) fn steps(world: &World, state: &State, process: u8, next: &mut Vec<Next>) {
    match state.processes[usize::from(process)] {
        Process::Killed => return,
        Process::Idle => begin(world, state, process, false, next),
        Process::Flying(flight) => fly(world, state, process, flight, next),
    }
    if world.protocol.replay {
        replay(world, state, process, next);
    }
}

/// A flight's beginning: the row as it is, and its lease.
pub(super) fn begin(
    world: &World,
    state: &State,
    process: u8,
    recheck: bool,
    next: &mut Vec<Next>,
) {
    let row = &state.row;
    let is_due = if recheck {
        matches!(row.state, ConnectionState::ReauthRequired(_))
    } else {
        row.state == ConnectionState::Active && row.generation < world.wanted
    };
    let (true, Some(token)) = (is_due, row.refresh_token) else {
        return;
    };
    let flight = Flight {
        phase: Phase::Leased,
        generation: row.generation,
        token,
        in_doubt: row.in_doubt,
        may_call: true,
        second_call: false,
        recheck,
        excuse: Excuse::Destroyed,
    };
    let mut after = *state;
    match row.lease_owner {
        Some(owner) if is_orphan(world, process, owner) => {
            after.row.in_doubt |= world.protocol.in_doubt_is_remembered;
            take_lease(
                &mut after,
                process,
                Flight {
                    in_doubt: true,
                    ..flight
                },
            );
            next.push(Next::step(process, Deed::LeaseTakeOver, after));
        }
        Some(_) if world.protocol.lease_is_exclusive => {}
        // The row that is read and the row that is leased differ in nothing but the doubt.
        Some(_) | None if world.protocol.refusal_reads_the_rows_doubt => {
            take_lease(&mut after, process, flight);
            next.push(Next::step(process, Deed::LeaseAcquire, after));
        }
        Some(_) | None => {
            let found = Flight {
                phase: Phase::Found,
                ..flight
            };
            after.set(process, Process::Flying(found));
            next.push(Next::step(process, Deed::ConnectionFind, after));
        }
    }
}

fn is_orphan(world: &World, process: u8, owner: LeaseOwner) -> bool {
    let protocol = &world.protocol;
    if world.in_reach(process, owner.process) {
        owner.gone || owner.held_for >= HeldFor::Lease || !protocol.running_holder_keeps_lease
    } else if protocol.orphan_grace {
        owner.held_for == HeldFor::LeaseAndGrace
    } else {
        owner.held_for >= HeldFor::Lease
    }
}

fn take_lease(state: &mut State, process: u8, flight: Flight) {
    state.row.lease_owner = Some(LeaseOwner {
        process,
        gone: false,
        held_for: HeldFor::Less,
    });
    state.set(process, Process::Flying(flight));
}

fn fly(world: &World, state: &State, process: u8, flight: Flight, next: &mut Vec<Next>) {
    match flight.phase {
        Phase::Found => lease_acquire(state, process, flight, next),
        Phase::Leased => {
            if flight.may_call || world.protocol.look_before_release {
                look(world, state, process, flight, next);
            } else {
                lease_release(state, process, next);
            }
        }
        Phase::Looked => spend(world, state, process, flight, next),
        Phase::Unknown => {
            let again = Flight {
                second_call: true,
                ..flight
            };
            match (
                flight.may_call && !flight.second_call,
                world.protocol.look_is_fresh,
            ) {
                (false, _) => {}
                (true, true) => look(world, state, process, again, next),
                (true, false) => spend(world, state, process, again, next),
            }
            connection_spend_failed(world, state, process, next);
        }
        Phase::Answered(Answer::Tokens(answer)) => {
            record(world, state, process, flight, answer, next);
        }
        Phase::Answered(Answer::InvalidGrant) => rejected(world, state, process, flight, next),
        Phase::Unrecorded(answer) | Phase::Recorded(answer) | Phase::Adopting(answer) => {
            commit(world, state, process, flight, answer, next);
        }
        Phase::Overtaken(answer) => {
            let mut after = *state;
            let took = connection_revoke_also(world, &mut after, flight.generation, answer);
            settle(&mut after, process, flight);
            after.set(process, Process::Idle);
            let deed = Deed::ConnectionRevokeAlso { answer, took };
            next.push(Next::step(process, deed, after));
        }
        Phase::Committed => {
            let mut after = *state;
            settle(&mut after, process, flight);
            after.set(process, Process::Idle);
            next.push(Next::step(process, Deed::Settle, after));
        }
    }
}

fn lease_acquire(state: &State, process: u8, flight: Flight, next: &mut Vec<Next>) {
    let mut after = *state;
    let as_seen = state.row.generation == flight.generation
        && flight.recheck == (state.row.state != ConnectionState::Active)
        && state.row.lease_owner.is_none();
    if as_seen {
        take_lease(
            &mut after,
            process,
            Flight {
                phase: Phase::Leased,
                ..flight
            },
        );
        next.push(Next::step(process, Deed::LeaseAcquire, after));
    } else {
        after.set(process, Process::Idle);
        next.push(Next::step(process, Deed::LeaseNotAcquired, after));
    }
}

/// Nothing is spent.
fn lease_release(state: &State, process: u8, next: &mut Vec<Next>) {
    let mut after = *state;
    if state.holds_lease(process) {
        after.row.lease_owner = None;
    }
    after.set(process, Process::Idle);
    next.push(Next::step(process, Deed::LeaseRelease, after));
}

/// For the answer to this generation's token: in every journal in reach, and in the row.
fn look(world: &World, state: &State, process: u8, flight: Flight, next: &mut Vec<Next>) {
    let protocol = &world.protocol;
    let mut after = *state;
    let answers = |entry: &Entry| entry.base == flight.generation && entry.spent == flight.token;
    let found = state
        .journals
        .iter()
        .filter(answers)
        .find(|entry| world.in_reach(process, entry.slot));
    if let (Some(entry), true) = (found, protocol.look_before_spending) {
        let phase = Phase::Adopting(entry.answer);
        after.set(process, Process::Flying(Flight { phase, ..flight }));
        next.push(Next::step(process, Deed::LookFinds(entry.answer), after));
        return;
    }
    if flight.in_doubt && protocol.look_rereads_the_row && !state.holds_lease(process) {
        after.set(process, Process::Idle);
        next.push(Next::step(process, Deed::LookSeesRowMoved, after));
        return;
    }
    let elsewhere = state.journals.iter().any(|entry| answers(&entry));
    let stopped = state.flights().any(|other| {
        let unsynced = matches!(
            other.phase,
            Phase::Answered(Answer::Tokens(_)) | Phase::Unrecorded(_)
        );
        unsynced && other.generation == flight.generation && !other.may_call
    });
    let excuse = if found.is_some() {
        Excuse::No
    } else if stopped || (elsewhere && !world.back_within_grace) {
        Excuse::OutOfSight
    } else {
        Excuse::Destroyed
    };
    let looked = Flight {
        phase: Phase::Looked,
        excuse,
        ..flight
    };
    if protocol.look_is_fresh {
        spend(world, state, process, looked, next);
    } else {
        after.set(process, Process::Flying(looked));
        next.push(Next::step(process, Deed::LookFindsNothing, after));
    }
}

/// What the body's last check of the deadline lets out.
fn spend(world: &World, state: &State, process: u8, flight: Flight, next: &mut Vec<Next>) {
    if !flight.may_call {
        return lease_release(state, process, next);
    }
    let (base, token) = (flight.generation, flight.token);
    let is_explained = match flight.excuse {
        Excuse::No => false,
        Excuse::Destroyed => state.is_destroyed(base),
        Excuse::OutOfSight => true,
    };
    let again = state.is_answered(base) && (!is_explained || state.is_committed(base));
    let broken = again.then_some(Promise::PresentedOnce);

    let mut after = *state;
    let answer = world.provider.spend(&mut after.books, token);
    if let Answer::Tokens(_) = answer {
        after.answered |= 1 << base;
    }
    if state.left.losses > 0 {
        let lost = Flight {
            phase: Phase::Unknown,
            in_doubt: true,
            ..flight
        };
        let mut unheard = after;
        unheard.left.losses -= 1;
        if let Answer::Tokens(answer) = answer {
            world.provider.destroyed(&mut unheard.books, answer);
            unheard.destroyed |= 1 << base;
        }
        unheard.set(process, Process::Flying(lost));
        next.push(Next {
            broken,
            ..Next::misfortune(process, Deed::AnswerLost(token), unheard)
        });

        let mut unsent = *state;
        unsent.left.losses -= 1;
        unsent.set(process, Process::Flying(lost));
        next.push(Next {
            broken,
            ..Next::misfortune(process, Deed::RequestLost(token), unsent)
        });
    }
    let answered = Flight {
        phase: Phase::Answered(answer),
        ..flight
    };
    after.set(process, Process::Flying(answered));
    next.push(Next {
        broken,
        ..Next::step(process, Deed::Spend(token, answer), after)
    });
}

fn connection_spend_failed(world: &World, state: &State, process: u8, next: &mut Vec<Next>) {
    let mut after = *state;
    if state.holds_lease(process) {
        after.row.in_doubt |= world.protocol.in_doubt_is_remembered;
        after.row.lease_owner = None;
    }
    after.set(process, Process::Idle);
    next.push(Next::step(process, Deed::ConnectionSpendFailed, after));
}

/// Synced before anything else is done with it. A journal that can't take it keeps nobody from committing.
fn record(
    world: &World,
    state: &State,
    process: u8,
    flight: Flight,
    answer: Token,
    next: &mut Vec<Next>,
) {
    let unrecorded = Process::Flying(Flight {
        phase: Phase::Unrecorded(answer),
        ..flight
    });
    if !world.protocol.journal_before_commit {
        let mut after = *state;
        after.set(process, unrecorded);
        next.push(Next::step(process, Deed::RecordLater, after));
        return;
    }
    let mut after = *state;
    after.journals.record(Entry {
        base: flight.generation,
        slot: process,
        spent: flight.token,
        answer,
        left: false,
        settled: false,
    });
    after.set(
        process,
        Process::Flying(Flight {
            phase: Phase::Recorded(answer),
            ..flight
        }),
    );
    next.push(Next::step(process, Deed::Record(answer), after));

    if state.left.unwritable > 0 {
        let mut after = *state;
        after.left.unwritable -= 1;
        after.set(process, unrecorded);
        next.push(Next::misfortune(process, Deed::RecordFails, after));
    }
}

fn rejected(world: &World, state: &State, process: u8, flight: Flight, next: &mut Vec<Next>) {
    let (protocol, row) = (&world.protocol, &state.row);
    let mut after = *state;
    after.set(process, Process::Idle);
    if flight.recheck {
        if state.holds_lease(process) && matches!(row.state, ConnectionState::ReauthRequired(_)) {
            after.row.lease_owner = None;
        }
        next.push(Next::step(process, Deed::ConnectionStillRefused, after));
        return;
    }
    let in_doubt = flight.in_doubt || (protocol.refusal_reads_the_rows_doubt && row.in_doubt);
    let reason = if in_doubt && protocol.in_doubt_is_remembered {
        Reason::AnswerLost
    } else {
        Reason::Rejected
    };
    let unmoved = row.generation == flight.generation || !protocol.reread_after_invalid_grant;
    let took = unmoved && row.state == ConnectionState::Active;
    if took {
        after.row.state = ConnectionState::ReauthRequired(reason);
        after.row.lease_owner = None;
    }
    next.push(Next::step(
        process,
        Deed::ConnectionReauthRequired { took, reason },
        after,
    ));
}

fn commit(
    world: &World,
    state: &State,
    process: u8,
    flight: Flight,
    answer: Token,
    next: &mut Vec<Next>,
) {
    let mut after = *state;
    let spent_it = !matches!(flight.phase, Phase::Adopting(_));
    let own_lease = spent_it && state.holds_lease(process);
    let took = connection_commit(world, &mut after, flight.generation, answer, own_lease);
    let revokes = world.protocol.overtaken_by_revoke_revokes;
    if !took && state.row.state == ConnectionState::Revoked && revokes {
        let overtaken = Flight {
            phase: Phase::Overtaken(answer),
            ..flight
        };
        after.set(process, Process::Flying(overtaken));
    } else if took && matches!(flight.phase, Phase::Recorded(_)) {
        let committed = Flight {
            phase: Phase::Committed,
            ..flight
        };
        after.set(process, Process::Flying(committed));
    } else {
        settle(&mut after, process, flight);
        after.set(process, Process::Idle);
    }
    next.push(Next {
        broken: revived(state, took),
        ..Next::step(process, Deed::ConnectionCommit { answer, took }, after)
    });
}

/// One UPDATE: the generation guards it, not the lease.
fn connection_commit(
    world: &World,
    state: &mut State,
    generation: u8,
    answer: Token,
    own_lease: bool,
) -> bool {
    let (protocol, row) = (&world.protocol, &mut state.row);
    let in_time = row.generation == generation || !protocol.commit_compares_generation;
    let spared = row.state == ConnectionState::Revoked && protocol.commit_spares_revoked;
    if !in_time || spared {
        return false;
    }
    row.in_doubt &= if protocol.doubt_ends_under_its_own_lease {
        !(own_lease && row.state == ConnectionState::Active)
    } else {
        matches!(row.state, ConnectionState::ReauthRequired(_))
    };
    state.committed |= 1 << generation;
    row.generation += 1;
    row.refresh_token = Some(answer);
    row.state = ConnectionState::Active;
    row.lease_owner = None;
    true
}

fn revived(before: &State, took: bool) -> Option<Promise> {
    (took && before.row.state == ConnectionState::Revoked).then_some(Promise::RevokedStays)
}

/// What came for a revoked row is what the sweep has to revoke, if the row was revoked right after the token that was spent:
/// later on, the row has had a newer token than that.
fn connection_revoke_also(world: &World, state: &mut State, base: u8, answer: Token) -> bool {
    let row = &mut state.row;
    let is_newest = row.generation == base + 1;
    let counts = is_newest || !world.protocol.revoke_also_takes_the_newest;
    if row.state != ConnectionState::Revoked || !counts {
        return false;
    }
    row.generation += 1;
    row.refresh_token = Some(answer);
    row.revoke_pending = true;
    true
}

/// The journal is told that nothing is left to do for a flight's answer.
fn settle(state: &mut State, process: u8, flight: Flight) {
    state.journals.change(|entry| {
        if entry.slot == process && !entry.left && entry.base == flight.generation {
            entry.settled = true;
        }
    });
}

/// The answers that the dead have left: in this process's own slot, and in every slot in reach that nobody holds.
fn replay(world: &World, state: &State, process: u8, next: &mut Vec<Next>) {
    let readable = |entry: &Entry| {
        let dead = state.processes[usize::from(entry.slot)] == Process::Killed;
        let reached = entry.slot == process || (dead && world.in_reach(process, entry.slot));
        entry.left && !entry.settled && reached
    };
    for entry in state.journals.iter().filter(readable) {
        let mut after = *state;
        let is_current = state.row.refresh_token == Some(entry.spent);
        let took =
            is_current && connection_commit(world, &mut after, entry.base, entry.answer, false);
        let revokes = !took
            && state.row.state == ConnectionState::Revoked
            && world.protocol.overtaken_by_revoke_revokes;
        let revokes =
            revokes && connection_revoke_also(world, &mut after, entry.base, entry.answer);
        after.journals.change(|known| {
            if *known == entry {
                known.settled = true;
            }
        });
        let deed = Deed::Replay {
            answer: entry.answer,
            took,
            revokes,
        };
        next.push(Next {
            broken: revived(state, took),
            ..Next::step(process, deed, after)
        });
    }
}

/// A process dies; what was in its memory alone is gone with it.
pub(super) fn kill(world: &World, state: &State, process: u8) -> Next {
    let mut after = *state;
    let mut broken = None;
    if let Some(flight) = state.flight(process) {
        match flight.phase {
            Phase::Answered(Answer::Tokens(answer)) | Phase::Unrecorded(answer) => {
                world.provider.destroyed(&mut after.books, answer);
                after.destroyed |= 1 << flight.generation;
                let reached_us = matches!(flight.phase, Phase::Unrecorded(_));
                let sticky = world.provider.rotation == Rotation::Sticky;
                if reached_us && !world.protocol.journal_before_commit && !sticky {
                    broken = Some(Promise::ReachedIsKept);
                }
            }
            _ => {}
        }
    }
    if let Some(owner) = &mut after.row.lease_owner
        && owner.process == process
    {
        owner.gone = true;
    }
    after
        .journals
        .change(|entry| entry.left |= entry.slot == process);
    after.set(process, Process::Killed);
    Next {
        broken,
        ..Next::misfortune(process, Deed::Killed, after)
    }
}
