//! What callers were told: the right data, or an honest status.

use super::windows::{any_touches, down, ended};
use super::{Invariant, Violation, clock};
use crate::chaos::evidence::Evidence;
use crate::chaos::stack::load::{Answered, Outcome};

/// Never another account's data, never a wrong status; no response at all only while the data-api was being restarted. How many
/// of the honest 429, 502, 503 and 504 there may be, [`super::bounds`] says.
pub(super) fn data_is_right(evidence: &Evidence) -> Vec<Violation> {
    let (ended, down) = (ended(evidence), down(evidence));
    let is_over = |answered: &Answered| any_touches(ended.get(&answered.company), answered);
    let is_down = |answered: &Answered| any_touches(down.get(answered.process.as_str()), answered);
    let data = evidence.data.iter();
    data.filter_map(|answered| match &answered.outcome {
        Outcome::Right
        | Outcome::Status {
            status: 429 | 502..=504,
            ..
        } => None,
        Outcome::Wrong { said } => Some((answered, format!("was answered `{said}`"))),
        Outcome::Status {
            status: 401, code, ..
        } if code == "TOKEN_INVALIDATED" && is_over(answered) => None,
        Outcome::Status { status, said, .. } => {
            Some((answered, format!("got a wrong {status}: {said}")))
        }
        Outcome::Broken { .. } if is_down(answered) => None,
        Outcome::Broken { how } => Some((
            answered,
            format!("got no response although the process was up: {how}"),
        )),
    })
    .map(|(answered, what)| of_request(answered, &what))
    .collect()
}

/// The refresh webhook's 409 says that a connection is over only when it is.
pub(super) fn refreshes_are_honest(evidence: &Evidence) -> Vec<Violation> {
    let (ended, down) = (ended(evidence), down(evidence));
    let is_over = |answered: &Answered| any_touches(ended.get(&answered.company), answered);
    let is_down = |answered: &Answered| any_touches(down.get(answered.process.as_str()), answered);
    let refreshes = evidence.refreshes.iter().map(|asked| &asked.answered);
    refreshes
        .filter_map(|answered| match &answered.outcome {
            Outcome::Right
            | Outcome::Broken { .. }
            | Outcome::Status {
                status: 429 | 502..=504,
                ..
            } => None,
            // A process that was stopped finds the time up in which a request has to arrive.
            Outcome::Status { status: 408, .. } if is_down(answered) => None,
            Outcome::Status { status: 409, .. } if is_over(answered) => None,
            Outcome::Wrong { said } => Some((answered, format!("was answered `{said}`"))),
            Outcome::Status { status, said, .. } => {
                Some((answered, format!("got a wrong {status}: {said}")))
            }
        })
        .map(|(answered, what)| of_request(answered, &what))
        .collect()
}

fn of_request(answered: &Answered, what: &str) -> Violation {
    Violation {
        rule: Invariant::AnswersAreRight,
        what: format!(
            "a request for company {} of {}, {} to {}, {what}",
            answered.company,
            answered.process,
            clock(answered.began_us),
            clock(answered.ended_us)
        ),
    }
}
