//! No newer token: what that means for the connection.

use crate::model::environment::Environment;
use crate::model::search::{Next, Step};
use crate::model::state::{About, ConnectionState, InFlight, Process, Reason, Row, State};

pub(super) fn rejected(
    environment: &Environment,
    state: &State,
    process: u8,
    in_flight: InFlight,
    next: &mut Vec<Next>,
) {
    let (protocol, row) = (&environment.protocol, &state.row);
    let mut after = *state;
    after.set(process, Process::Idle);
    if in_flight.about == About::Revocation {
        let is_pending = row.revoke_pending && row.generation == in_flight.generation + 1;
        if is_pending {
            after.row = Row {
                refresh_token: None,
                in_doubt: false,
                lease_owner: None,
                revoke_pending: false,
                unconfirmed: true,
                ..after.row
            };
        } else if state.holds_lease(process) {
            after.row.lease_owner = None;
        }
        next.push(Next::step(process, Step::RevocationUnconfirmed, after));
        return;
    }
    if in_flight.about == About::Recheck {
        if state.holds_lease(process) && matches!(row.state, ConnectionState::ReauthRequired(_)) {
            after.row.lease_owner = None;
        }
        next.push(Next::step(process, Step::ConnectionStillRefused, after));
        return;
    }
    let in_doubt = in_flight.in_doubt || (protocol.refusal_reads_the_rows_doubt && row.in_doubt);
    let reason = if in_doubt && protocol.in_doubt_is_remembered {
        Reason::AnswerLost
    } else {
        Reason::Rejected
    };
    let unmoved = row.generation == in_flight.generation || !protocol.reread_after_invalid_grant;
    let took = unmoved && row.state == ConnectionState::Active;
    if took {
        after.row.state = ConnectionState::ReauthRequired(reason);
        after.row.lease_owner = None;
    } else if state.holds_lease(process) {
        after.row.lease_owner = None;
    }
    next.push(Next::step(
        process,
        Step::ConnectionReauthRequired { took, reason },
        after,
    ));
}

pub(super) fn connection_spend_failed(
    environment: &Environment,
    state: &State,
    process: u8,
    next: &mut Vec<Next>,
) {
    let mut after = *state;
    if state.holds_lease(process) {
        after.row.in_doubt |= environment.protocol.in_doubt_is_remembered;
        after.row.lease_owner = None;
    }
    after.set(process, Process::Idle);
    next.push(Next::step(process, Step::ConnectionSpendFailed, after));
}
