//! Under a lease: look before spending, spend, and write the answer down.

use super::lease::lease_release;
use crate::model::search::{Deed, Next, Promise};
use crate::model::state::{Answer, Entry, Excuse, Flight, Phase, Process, State, Token};
use crate::model::world::World;

/// For the answer to this generation's token: in every journal in reach, and in the row.
pub(super) fn look(
    world: &World,
    state: &State,
    process: u8,
    flight: Flight,
    next: &mut Vec<Next>,
) {
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
    // Of those whose commit the database lost, the process that has them writes them again.
    let elsewhere = state
        .journals
        .iter()
        .any(|entry| answers(&entry) && (entry.left || !entry.settled));
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
pub(super) fn spend(
    world: &World,
    state: &State,
    process: u8,
    flight: Flight,
    next: &mut Vec<Next>,
) {
    let is_quiet = state.to_rewrite != 0 && world.protocol.quiet_after_a_loss;
    if !flight.may_call || is_quiet {
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

/// Synced before anything else is done with it. A journal that can't take it does not prevent the commit.
pub(super) fn record(
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
