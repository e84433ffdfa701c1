//! What must hold of a state; what must hold of a step is said where the step is taken.

use super::search::Property;
use super::state::{ConnectionState, Family, Reason, State};

/// The first property that this state breaks. `rests`: nothing is left to happen of itself.
pub(super) fn broken(state: &State, rests: bool) -> Option<Property> {
    let of_any_state: [(Property, Check); 2] = [
        (Property::LostIsToldAsLost, lost_is_told_as_lost),
        (Property::OthersAreNotDelayed, others_are_not_delayed),
    ];
    let of_rest: [(Property, Check); 3] = [
        (Property::ReauthOnlyIfDead, reauth_only_if_dead),
        (Property::NothingLeftBehind, nothing_left_behind),
        (Property::NewestIsHeld, newest_is_held),
    ];
    let at_rest = of_rest.iter().filter(|_| rests);
    let mut all = of_any_state.iter().chain(at_rest);
    all.find(|(_, holds)| !holds(state))
        .map(|(property, _)| *property)
}

type Check = fn(&State) -> bool;

/// The newest consent: the one that the row has, or is to have.
fn grant(state: &State) -> Family {
    state.records.families[usize::from(state.records.consents - 1)]
}

/// The provider would renew it, and its token is not lost with a destroyed answer.
fn is_good(family: Family) -> bool {
    family.alive && !family.lost
}

fn reauth_only_if_dead(state: &State) -> bool {
    !matches!(state.row.state, ConnectionState::ReauthRequired(_)) || !is_good(grant(state))
}

/// Also not one whose token is lost, unless that is reported.
fn nothing_left_behind(state: &State) -> bool {
    state.row.state != ConnectionState::Revoked
        || state.row.unconfirmed
        || !state.records.families.iter().any(|family| family.alive)
}

fn lost_is_told_as_lost(state: &State) -> bool {
    let of_row = state
        .row
        .refresh_token
        .map(|token| state.records.families[usize::from(token.family)]);
    state.row.state != ConnectionState::ReauthRequired(Reason::Rejected)
        || state.went_back
        || !of_row.is_some_and(|family| family.ended_by_reuse)
}

/// A caller that names the generation that failed waits for its own early refreshes alone.
fn others_are_not_delayed(state: &State) -> bool {
    !state.row.streak || state.named_one
}

fn newest_is_held(state: &State) -> bool {
    let newest = state.records.consents - 1;
    let family = grant(state);
    state.row.state != ConnectionState::Active
        || !is_good(family)
        || state
            .row
            .refresh_token
            .is_some_and(|token| token.family == newest && token.serial == family.serial)
}
