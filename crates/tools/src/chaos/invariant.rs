//! What must hold of a run.

/// A rule that a run can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    ReuseHasCause,
    FewResponsesAreLost,
    FewRefreshes,
    OldGenerationsAreNotRefreshed,
    GoodGrantsAreHeld,
    EndsAreTrue,
    RevokedStaysRevoked,
    AnswersAreRight,
    DataIsAvailable,
    ComesToRest,
    RunsAsPlanned,
}

impl Invariant {
    pub fn text(self) -> &'static str {
        match self {
            Self::ReuseHasCause => {
                "a refresh token is presented again only if the response to it was lost, by a cause that is known"
            }
            Self::FewResponsesAreLost => {
                "a kill or a stop loses at most the responses to the calls that its process had under way"
            }
            Self::FewRefreshes => {
                "an access token is renewed at most twice in its lifetime, unless callers ask for it"
            }
            Self::OldGenerationsAreNotRefreshed => {
                "a caller that names an older generation causes no refresh"
            }
            Self::GoodGrantsAreHeld => {
                "a grant that is good at the provider is active here, with its newest refresh token"
            }
            Self::EndsAreTrue => {
                "only the provider's refusal ends a connection, and a lost response is reported as answer_lost"
            }
            Self::RevokedStaysRevoked => {
                "a revoked connection becomes active only by a new consent"
            }
            Self::AnswersAreRight => {
                "no caller gets another account's data, a wrong status or, from a process that is up, no response"
            }
            Self::DataIsAvailable => {
                "at least 95 % of the data requests for good grants succeed while all that they need is up"
            }
            Self::ComesToRest => "everything comes to rest once the faults are over",
            Self::RunsAsPlanned => {
                "no process ends unasked, and the run can do what it has planned"
            }
        }
    }
}
