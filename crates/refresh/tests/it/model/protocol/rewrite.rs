//! After the database lost commits: what each process has is written again, before anything is spent.

use super::commit::{connection_commit, connection_revoke_also};
use crate::model::environment::Environment;
use crate::model::search::{Next, Step};
use crate::model::state::{ConnectionState, HeldFor, LeaseOwner, Process, State};

/// This process's leases and responses, for as long as anything follows upon what is there: that it takes a while is what the
/// others are quiet for.
pub(super) fn rewrite(environment: &Environment, state: &State, process: u8, next: &mut Vec<Next>) {
    if state.to_rewrite & (1 << process) == 0 {
        return;
    }
    let mut after = *state;
    after.to_rewrite &= !(1 << process);
    let mut leases = rewrite_lease(environment, &mut after, process);
    let mut responses = 0;
    while rewrite_response(environment, &mut after, process) {
        responses += 1;
        leases |= rewrite_lease(environment, &mut after, process);
    }
    if leases || responses > 0 {
        // Others may have what follows upon it.
        after.lose_connections(environment.disks);
        after.to_rewrite &= !(1 << process);
    }
    next.push(Next::step(
        process,
        Step::Rewrite { leases, responses },
        after,
    ));
}

fn rewrite_lease(environment: &Environment, state: &mut State, process: u8) -> bool {
    let Process::Flying(in_flight) = state.processes[usize::from(process)] else {
        return false;
    };
    let ended = state.row.state == ConnectionState::Revoked && state.row.revoke_pending;
    let fits = (ended || state.row.state == ConnectionState::Active)
        && state.row.generation - u8::from(ended) == in_flight.generation
        && environment.protocol.leases_are_rewritten;
    match state.row.lease_owner {
        None if fits => {}
        // Its lease had lasted too long, and is this one's since.
        Some(owner) if fits && in_flight.may_call && owner.process != process => {
            state.row.in_doubt = true;
        }
        None | Some(_) => return false,
    }
    // One that has lasted too long may have been taken over.
    state.row.in_doubt |= in_flight.in_doubt || !in_flight.may_call || ended;
    state.row.lease_owner = Some(LeaseOwner {
        process,
        gone: false,
        held_for: HeldFor::Less,
    });
    true
}

fn rewrite_response(environment: &Environment, state: &mut State, process: u8) -> bool {
    let row = state.row;
    let ended = row.state == ConnectionState::Revoked;
    if !environment.protocol.responses_are_rewritten || (ended && !row.revoke_pending) {
        return false;
    }
    let base = row.generation - u8::from(ended);
    let follows = state.journals.iter().find(|entry| {
        environment.in_reach(process, entry.slot)
            && entry.base == base
            && Some(entry.spent) == row.refresh_token
    });
    match follows {
        Some(entry) if ended => connection_revoke_also(environment, state, base, entry.answer),
        Some(entry) => connection_commit(environment, state, base, entry.answer, false),
        None => false,
    }
}
