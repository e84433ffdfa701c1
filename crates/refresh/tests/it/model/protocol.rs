//! The refresh protocol, one function a step, named as in `refresh`, `journal` and the store.
//! Its modules are those of `refresh`.

mod attempt;
mod commit;
mod failure;
mod lease;
mod replay;
mod rewrite;

use super::environment::Environment;
use super::provider::Rotation;
use super::search::{Next, Property, Step};
use super::state::{About, InFlight, Phase, Process, ProviderResponse, State};

use attempt::{look, record, spend};
use commit::{commit, connection_revoke_also, settle};
use failure::{connection_spend_failed, rejected};
pub(super) use lease::begin;
use lease::{lease_acquire, lease_release};
use replay::replay;
use rewrite::rewrite;

/// The rules, each of which can be broken on purpose.
#[derive(Debug, Clone, Copy)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "switches, turned off one at a time"
)]
pub(super) struct Protocol {
    /// `lease_acquire` takes a free lease.
    pub(super) lease_is_exclusive: bool,
    /// A process that runs keeps its lease for a lease length, at the end of which it may not call any more.
    pub(super) running_holder_keeps_lease: bool,
    /// One whose journal is out of reach keeps it for `orphan_grace` more.
    pub(super) orphan_grace: bool,
    pub(super) look_before_spending: bool,
    /// Also who is too late to call looks, before the lease goes to a process that may not be able to.
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
    /// A holder is dead only if the lock that was looked at is its own, and no copy of it.
    pub(super) death_is_seen_at_the_lock_itself: bool,
    /// A disconnect while a lease is held leaves the lease, and a doubt.
    pub(super) disconnect_keeps_the_lease: bool,
    /// A doubt is resolved, by a search or one more refresh, before the token is revoked.
    pub(super) revocation_settles_the_doubt: bool,
    /// It waits for the lease's holder.
    pub(super) revocation_waits_for_the_holder: bool,
    /// Only callers that name the generation that failed have others wait.
    pub(super) unnamed_refreshes_make_no_streak: bool,
    /// Nothing is spent between the loss of the connections and the end of the time that others need to write what they have.
    pub(super) quiet_after_a_loss: bool,
    /// Each process writes its responses again, those too that were committed.
    pub(super) responses_are_rewritten: bool,
    /// Each process writes its leases again.
    pub(super) leases_are_rewritten: bool,
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
        death_is_seen_at_the_lock_itself: true,
        disconnect_keeps_the_lease: true,
        revocation_settles_the_doubt: true,
        revocation_waits_for_the_holder: true,
        unnamed_refreshes_make_no_streak: true,
        quiet_after_a_loss: true,
        responses_are_rewritten: true,
        leases_are_rewritten: true,
    };
}

/// What a process that runs may do next.
pub(super) fn steps(environment: &Environment, state: &State, process: u8, next: &mut Vec<Next>) {
    match state.processes[usize::from(process)] {
        Process::Killed => return,
        Process::Idle => {
            begin(environment, state, process, About::Named, next);
            begin(environment, state, process, About::Revocation, next);
        }
        Process::Flying(in_flight) => fly(environment, state, process, in_flight, next),
    }
    if environment.protocol.replay {
        replay(environment, state, process, next);
    }
    rewrite(environment, state, process, next);
}

fn fly(
    environment: &Environment,
    state: &State,
    process: u8,
    in_flight: InFlight,
    next: &mut Vec<Next>,
) {
    match in_flight.phase {
        Phase::Found => lease_acquire(state, process, in_flight, next),
        Phase::Leased => {
            if in_flight.may_call || environment.protocol.look_before_release {
                look(environment, state, process, in_flight, next);
            } else {
                lease_release(state, process, next);
            }
        }
        Phase::Looked => spend(environment, state, process, in_flight, next),
        Phase::Unknown => {
            let again = InFlight {
                second_call: true,
                ..in_flight
            };
            match (
                in_flight.may_call && !in_flight.second_call,
                environment.protocol.look_is_fresh,
            ) {
                (false, _) => {}
                (true, true) => look(environment, state, process, again, next),
                (true, false) => spend(environment, state, process, again, next),
            }
            connection_spend_failed(environment, state, process, next);
        }
        Phase::Answered(ProviderResponse::Tokens(answer)) => {
            record(environment, state, process, in_flight, answer, next);
        }
        Phase::Answered(ProviderResponse::InvalidGrant) => {
            rejected(environment, state, process, in_flight, next);
        }
        Phase::Unrecorded(answer) | Phase::Recorded(answer) | Phase::Adopting(answer) => {
            commit(environment, state, process, in_flight, answer, next);
        }
        Phase::Overtaken(answer) => {
            let mut after = *state;
            let took =
                connection_revoke_also(environment, &mut after, in_flight.generation, answer);
            settle(&mut after, process, in_flight);
            after.set(process, Process::Idle);
            let step = Step::ConnectionRevokeAlso { answer, took };
            next.push(Next::step(process, step, after));
        }
        Phase::Committed => {
            let mut after = *state;
            settle(&mut after, process, in_flight);
            after.set(process, Process::Idle);
            next.push(Next::step(process, Step::Settle, after));
        }
    }
}

/// A process dies; what was in its memory alone is gone with it.
pub(super) fn kill(environment: &Environment, state: &State, process: u8) -> Next {
    let mut after = *state;
    let mut broken = None;
    if let Some(in_flight) = state.in_flight(process) {
        match in_flight.phase {
            Phase::Answered(ProviderResponse::Tokens(answer)) | Phase::Unrecorded(answer) => {
                environment.provider.destroyed(&mut after.records, answer);
                after.destroyed |= 1 << in_flight.generation;
                let reached_us = matches!(in_flight.phase, Phase::Unrecorded(_));
                let sticky = environment.provider.rotation == Rotation::Sticky;
                if reached_us && !environment.protocol.journal_before_commit && !sticky {
                    broken = Some(Property::ReachedIsKept);
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
    // One that starts anew has seen nothing, and has nothing to write but what lies in its slot.
    after.to_rewrite &= !(1 << process);
    Next {
        broken,
        ..Next::misfortune(process, Step::Killed, after)
    }
}
