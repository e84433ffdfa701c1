//! Answers of processes that are gone, and that no row shows yet.

use super::commit::{connection_commit, connection_revoke_also, revived};
use crate::model::environment::Environment;
use crate::model::search::{Next, Step};
use crate::model::state::{ConnectionState, Entry, Process, State};

/// The answers that the dead have left: in this process's own slot, and in every slot in reach that is not locked.
pub(super) fn replay(environment: &Environment, state: &State, process: u8, next: &mut Vec<Next>) {
    let readable = |entry: &Entry| {
        let dead = state.processes[usize::from(entry.slot)] == Process::Killed;
        let reached = entry.slot == process || (dead && environment.in_reach(process, entry.slot));
        entry.left && !entry.settled && reached
    };
    for entry in state.journals.iter().filter(readable) {
        let mut after = *state;
        let is_current = state.row.refresh_token == Some(entry.spent);
        let took = is_current
            && connection_commit(environment, &mut after, entry.base, entry.answer, false);
        let revokes = !took
            && state.row.state == ConnectionState::Revoked
            && environment.protocol.overtaken_by_revoke_revokes;
        let revokes =
            revokes && connection_revoke_also(environment, &mut after, entry.base, entry.answer);
        after.journals.change(|known| {
            if *known == entry {
                known.settled = true;
            }
        });
        let step = Step::Replay {
            answer: entry.answer,
            took,
            revokes,
        };
        next.push(Next {
            broken: revived(state, took),
            ..Next::step(process, step, after)
        });
    }
}
