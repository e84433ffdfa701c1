//! What was received goes into the row, by compare on the generation.

use crate::model::environment::Environment;
use crate::model::search::{Next, Property, Step};
use crate::model::state::{About, ConnectionState, InFlight, Phase, Process, Row, State, Token};

pub(super) fn commit(
    environment: &Environment,
    state: &State,
    process: u8,
    in_flight: InFlight,
    answer: Token,
    next: &mut Vec<Next>,
) {
    let mut after = *state;
    let spent_it = !matches!(in_flight.phase, Phase::Adopting(_));
    let own_lease = spent_it && state.holds_lease(process);
    let took = connection_commit(
        environment,
        &mut after,
        in_flight.generation,
        answer,
        own_lease,
    );
    if took && spent_it {
        let is_named = in_flight.about == About::Named;
        after.named_one |= is_named;
        after.row.streak |= is_named || !environment.protocol.unnamed_refreshes_make_no_streak;
    }
    let revokes = environment.protocol.overtaken_by_revoke_revokes;
    if !took && state.row.state == ConnectionState::Revoked && revokes {
        let overtaken = InFlight {
            phase: Phase::Overtaken(answer),
            ..in_flight
        };
        after.set(process, Process::Flying(overtaken));
    } else if !took && state.row.generation < in_flight.generation {
        // A row of before a failover: the answer is kept for it.
        after.set(process, Process::Idle);
    } else if took && matches!(in_flight.phase, Phase::Recorded(_)) {
        let committed = InFlight {
            phase: Phase::Committed,
            ..in_flight
        };
        after.set(process, Process::Flying(committed));
    } else {
        settle(&mut after, process, in_flight);
        after.set(process, Process::Idle);
    }
    next.push(Next {
        broken: revived(state, took),
        ..Next::step(process, Step::ConnectionCommit { answer, took }, after)
    });
}

/// One UPDATE: the generation guards it, not the lease.
pub(super) fn connection_commit(
    environment: &Environment,
    state: &mut State,
    generation: u8,
    answer: Token,
    own_lease: bool,
) -> bool {
    let (protocol, row) = (&environment.protocol, &mut state.row);
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
    state.before_commit = Some(Row {
        lease_owner: None,
        ..*row
    });
    row.generation += 1;
    row.refresh_token = Some(answer);
    row.state = ConnectionState::Active;
    row.lease_owner = None;
    if state.to_rewrite != 0 {
        // A process that waits for it, to write what follows, goes on.
        state.lose_connections(environment.disks);
    }
    true
}

pub(super) fn revived(before: &State, took: bool) -> Option<Property> {
    (took && before.row.state == ConnectionState::Revoked).then_some(Property::RevokedStays)
}

/// What came for a revoked row is what the sweep has to revoke, if the row was revoked right after the token that was spent:
/// later on, the row has had a newer token than that.
pub(super) fn connection_revoke_also(
    environment: &Environment,
    state: &mut State,
    base: u8,
    answer: Token,
) -> bool {
    let row = &mut state.row;
    let is_newest = row.generation == base + 1;
    let counts = is_newest || !environment.protocol.revoke_also_takes_the_newest;
    if row.state != ConnectionState::Revoked || !counts {
        return false;
    }
    row.generation += 1;
    row.refresh_token = Some(answer);
    row.in_doubt = false;
    row.lease_owner = None;
    row.revoke_pending = true;
    true
}

/// The journal is told that nothing is left to do for a refresh in flight's answer.
pub(super) fn settle(state: &mut State, process: u8, in_flight: InFlight) {
    state.journals.change(|entry| {
        if entry.slot == process && !entry.left && entry.base == in_flight.generation {
            entry.settled = true;
        }
    });
}
