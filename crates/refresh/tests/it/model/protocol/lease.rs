//! The lease: which process refreshes, and when its holder is thought gone.

use crate::model::environment::Environment;
use crate::model::search::{Next, Step};
use crate::model::state::{
    About, ConnectionState, Excuse, HeldFor, InFlight, LeaseOwner, Phase, Process, State,
};

/// A refresh in flight's beginning: the row as it is, and its lease.
pub(in crate::model) fn begin(
    environment: &Environment,
    state: &State,
    process: u8,
    about: About,
    next: &mut Vec<Next>,
) {
    let row = &state.row;
    let is_due = match about {
        About::Recheck => matches!(row.state, ConnectionState::ReauthRequired(_)),
        About::Named | About::Unnamed => {
            row.state == ConnectionState::Active && row.generation < environment.wanted
        }
        About::Revocation => {
            let settles = environment.protocol.revocation_settles_the_doubt;
            let in_doubt = row.in_doubt || row.lease_owner.is_some();
            row.state == ConnectionState::Revoked && row.revoke_pending && in_doubt && settles
        }
    };
    let is_quiet = state.to_rewrite != 0 && environment.protocol.quiet_after_a_loss;
    let (true, false, Some(token)) = (is_due, is_quiet, row.refresh_token) else {
        return;
    };
    let revokes = about == About::Revocation;
    let in_flight = InFlight {
        phase: Phase::Leased,
        // Ending the row moved its generation.
        generation: row.generation - u8::from(revokes),
        token,
        in_doubt: row.in_doubt || revokes,
        may_call: true,
        second_call: false,
        about,
        excuse: Excuse::Destroyed,
    };
    let mut after = *state;
    match row.lease_owner {
        Some(owner) if is_orphan(environment, process, owner) => {
            after.row.in_doubt |= environment.protocol.in_doubt_is_remembered;
            take_lease(
                &mut after,
                process,
                InFlight {
                    in_doubt: true,
                    ..in_flight
                },
            );
            next.push(Next::step(process, Step::LeaseTakeOver, after));
        }
        Some(_) if revokes && !environment.protocol.revocation_waits_for_the_holder => {
            take_lease(&mut after, process, in_flight);
            next.push(Next::step(process, Step::LeaseTakeOver, after));
        }
        Some(_) if environment.protocol.lease_is_exclusive => {}
        // The row that is read and the row that is leased differ in nothing but the doubt.
        Some(_) | None if environment.protocol.refusal_reads_the_rows_doubt => {
            take_lease(&mut after, process, in_flight);
            next.push(Next::step(process, Step::LeaseAcquire, after));
        }
        Some(_) | None => {
            let found = InFlight {
                phase: Phase::Found,
                ..in_flight
            };
            after.set(process, Process::Flying(found));
            next.push(Next::step(process, Step::ConnectionFind, after));
        }
    }
}

fn is_orphan(environment: &Environment, process: u8, owner: LeaseOwner) -> bool {
    let protocol = &environment.protocol;
    if environment.in_reach(process, owner.process) {
        owner.gone || owner.held_for >= HeldFor::Lease || !protocol.running_holder_keeps_lease
    } else if environment.copied && !protocol.death_is_seen_at_the_lock_itself {
        true
    } else if protocol.orphan_grace {
        owner.held_for == HeldFor::LeaseAndGrace
    } else {
        owner.held_for >= HeldFor::Lease
    }
}

fn take_lease(state: &mut State, process: u8, in_flight: InFlight) {
    state.row.lease_owner = Some(LeaseOwner {
        process,
        gone: false,
        held_for: HeldFor::Less,
    });
    state.set(process, Process::Flying(in_flight));
}

pub(super) fn lease_acquire(state: &State, process: u8, in_flight: InFlight, next: &mut Vec<Next>) {
    let mut after = *state;
    let as_seen = state.row.generation == in_flight.generation
        && (in_flight.about == About::Recheck) == (state.row.state != ConnectionState::Active)
        && state.row.lease_owner.is_none();
    if as_seen {
        take_lease(
            &mut after,
            process,
            InFlight {
                phase: Phase::Leased,
                ..in_flight
            },
        );
        next.push(Next::step(process, Step::LeaseAcquire, after));
    } else {
        after.set(process, Process::Idle);
        next.push(Next::step(process, Step::LeaseNotAcquired, after));
    }
}

/// Nothing is spent.
pub(super) fn lease_release(state: &State, process: u8, next: &mut Vec<Next>) {
    let mut after = *state;
    if state.holds_lease(process) {
        after.row.lease_owner = None;
    }
    after.set(process, Process::Idle);
    next.push(Next::step(process, Step::LeaseRelease, after));
}
