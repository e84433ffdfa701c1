//! Under a lease: look before spending, spend, and write the answer down.

use super::lease::lease_release;
use crate::model::environment::Environment;
use crate::model::search::{Next, Property, Step};
use crate::model::state::{
    Entry, Excuse, InFlight, Phase, Process, ProviderResponse, State, Token,
};

/// For the answer to this generation's token: in every journal in reach, and in the row.
pub(super) fn look(
    environment: &Environment,
    state: &State,
    process: u8,
    in_flight: InFlight,
    next: &mut Vec<Next>,
) {
    let protocol = &environment.protocol;
    let mut after = *state;
    let answers =
        |entry: &Entry| entry.base == in_flight.generation && entry.spent == in_flight.token;
    let found = state
        .journals
        .iter()
        .filter(answers)
        .find(|entry| environment.in_reach(process, entry.slot));
    if let (Some(entry), true) = (found, protocol.look_before_spending) {
        let phase = Phase::Adopting(entry.answer);
        after.set(process, Process::Flying(InFlight { phase, ..in_flight }));
        next.push(Next::step(process, Step::LookFinds(entry.answer), after));
        return;
    }
    if in_flight.in_doubt && protocol.look_rereads_the_row && !state.holds_lease(process) {
        after.set(process, Process::Idle);
        next.push(Next::step(process, Step::LookSeesRowMoved, after));
        return;
    }
    // Of those whose commit the database lost, the process that has them writes them again.
    let elsewhere = state
        .journals
        .iter()
        .any(|entry| answers(&entry) && (entry.left || !entry.settled));
    let stopped = state.in_flights().any(|other| {
        let unsynced = matches!(
            other.phase,
            Phase::Answered(ProviderResponse::Tokens(_)) | Phase::Unrecorded(_)
        );
        unsynced && other.generation == in_flight.generation && !other.may_call
    });
    let excuse = if found.is_some() {
        Excuse::No
    } else if stopped || (elsewhere && !environment.back_within_grace) {
        Excuse::OutOfSight
    } else {
        Excuse::Destroyed
    };
    let looked = InFlight {
        phase: Phase::Looked,
        excuse,
        ..in_flight
    };
    if protocol.look_is_fresh {
        spend(environment, state, process, looked, next);
    } else {
        after.set(process, Process::Flying(looked));
        next.push(Next::step(process, Step::LookFindsNothing, after));
    }
}

/// What the body's last check of the deadline lets out.
pub(super) fn spend(
    environment: &Environment,
    state: &State,
    process: u8,
    in_flight: InFlight,
    next: &mut Vec<Next>,
) {
    let is_quiet = state.to_rewrite != 0 && environment.protocol.quiet_after_a_loss;
    if !in_flight.may_call || is_quiet {
        return lease_release(state, process, next);
    }
    let (base, token) = (in_flight.generation, in_flight.token);
    let is_explained = match in_flight.excuse {
        Excuse::No => false,
        Excuse::Destroyed => state.is_destroyed(base),
        Excuse::OutOfSight => true,
    };
    let again = state.is_answered(base) && (!is_explained || state.is_committed(base));
    let broken = again.then_some(Property::PresentedOnce);

    let mut after = *state;
    let answer = environment.provider.spend(&mut after.records, token);
    if let ProviderResponse::Tokens(_) = answer {
        after.answered |= 1 << base;
    }
    if state.left.losses > 0 {
        let lost = InFlight {
            phase: Phase::Unknown,
            in_doubt: true,
            ..in_flight
        };
        let mut unheard = after;
        unheard.left.losses -= 1;
        if let ProviderResponse::Tokens(answer) = answer {
            environment.provider.destroyed(&mut unheard.records, answer);
            unheard.destroyed |= 1 << base;
        }
        unheard.set(process, Process::Flying(lost));
        next.push(Next {
            broken,
            ..Next::misfortune(process, Step::AnswerLost(token), unheard)
        });

        let mut unsent = *state;
        unsent.left.losses -= 1;
        unsent.set(process, Process::Flying(lost));
        next.push(Next {
            broken,
            ..Next::misfortune(process, Step::RequestLost(token), unsent)
        });
    }
    let answered = InFlight {
        phase: Phase::Answered(answer),
        ..in_flight
    };
    after.set(process, Process::Flying(answered));
    next.push(Next {
        broken,
        ..Next::step(process, Step::Spend(token, answer), after)
    });
}

/// Synced before anything else is done with it. A journal that can't take it does not prevent the commit.
pub(super) fn record(
    environment: &Environment,
    state: &State,
    process: u8,
    in_flight: InFlight,
    answer: Token,
    next: &mut Vec<Next>,
) {
    let unrecorded = Process::Flying(InFlight {
        phase: Phase::Unrecorded(answer),
        ..in_flight
    });
    if !environment.protocol.journal_before_commit {
        let mut after = *state;
        after.set(process, unrecorded);
        next.push(Next::step(process, Step::RecordLater, after));
        return;
    }
    let mut after = *state;
    after.journals.record(Entry {
        base: in_flight.generation,
        slot: process,
        spent: in_flight.token,
        answer,
        left: false,
        settled: false,
    });
    after.set(
        process,
        Process::Flying(InFlight {
            phase: Phase::Recorded(answer),
            ..in_flight
        }),
    );
    next.push(Next::step(process, Step::Record(answer), after));

    if state.left.unwritable > 0 {
        let mut after = *state;
        after.left.unwritable -= 1;
        after.set(process, unrecorded);
        next.push(Next::misfortune(process, Step::RecordFails, after));
    }
}
