//! What was received goes into the row, by compare on the generation.

use crate::model::search::{Deed, Next, Promise};
use crate::model::state::{About, ConnectionState, Flight, Phase, Process, Row, State, Token};
use crate::model::world::World;

pub(super) fn commit(
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
    if took && spent_it {
        let is_named = flight.about == About::Named;
        after.named_one |= is_named;
        after.row.streak |= is_named || !world.protocol.unnamed_refreshes_make_no_streak;
    }
    let revokes = world.protocol.overtaken_by_revoke_revokes;
    if !took && state.row.state == ConnectionState::Revoked && revokes {
        let overtaken = Flight {
            phase: Phase::Overtaken(answer),
            ..flight
        };
        after.set(process, Process::Flying(overtaken));
    } else if !took && state.row.generation < flight.generation {
        // A row of before a failover: the answer is kept for it.
        after.set(process, Process::Idle);
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
pub(super) fn connection_commit(
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
        state.lose_connections(world.disks);
    }
    true
}

pub(super) fn revived(before: &State, took: bool) -> Option<Promise> {
    (took && before.row.state == ConnectionState::Revoked).then_some(Promise::RevokedStays)
}

/// What came for a revoked row is what the sweep has to revoke, if the row was revoked right after the token that was spent:
/// later on, the row has had a newer token than that.
pub(super) fn connection_revoke_also(
    world: &World,
    state: &mut State,
    base: u8,
    answer: Token,
) -> bool {
    let row = &mut state.row;
    let is_newest = row.generation == base + 1;
    let counts = is_newest || !world.protocol.revoke_also_takes_the_newest;
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

/// The journal is told that nothing is left to do for a flight's answer.
pub(super) fn settle(state: &mut State, process: u8, flight: Flight) {
    state.journals.change(|entry| {
        if entry.slot == process && !entry.left && entry.base == flight.generation {
            entry.settled = true;
        }
    });
}
