//! What callers were told.

use super::*;

#[test]
fn another_accounts_data_is_named() {
    let mut run = Run::good();
    let said = "Jane Doe of Company 102".to_owned();
    run.request(3 * SECOND, Outcome::Wrong { said });

    run.breaks(
        Invariant::AnswersAreRight,
        "was answered `Jane Doe of Company 102`",
    );
}

#[test]
fn honest_statuses_are_no_wrong_ones() {
    let mut run = Run::good();
    for honest in [429, 502, 503, 504] {
        run.request(3 * SECOND, status(honest, "REFRESH_BUSY"));
    }
    run.holds();

    run.request(3 * SECOND, status(500, "INTERNAL"));
    run.breaks(Invariant::AnswersAreRight, "got a wrong 500");
}

#[test]
fn invalidated_is_said_only_of_connections_that_have_ended() {
    let mut run = Run::good();
    run.request(9 * SECOND, status(401, "TOKEN_INVALIDATED"));
    run.breaks(Invariant::AnswersAreRight, "got a wrong 401");

    run.severed(8 * SECOND, Severed::Uninstalled);
    run.consented(10 * SECOND, 11 * SECOND);
    run.holds();

    run.request(12 * SECOND, status(401, "TOKEN_INVALIDATED"));
    run.breaks(Invariant::AnswersAreRight, "got a wrong 401");
}

#[test]
fn no_response_is_excused_only_while_the_process_is_down() {
    let broken = || Outcome::Broken {
        how: "connection closed".to_owned(),
    };
    let mut run = Run::good();
    run.request(9 * SECOND, broken());
    run.breaks(
        Invariant::AnswersAreRight,
        "got no response although the process was up",
    );

    run.signal(8 * SECOND, "data-api", Signal::Terminate);
    run.life(10 * SECOND, "data-api", 2);
    run.holds();
}

#[test]
fn refresh_webhook_says_409_only_of_connections_that_have_ended() {
    let conflict = |code| Asked {
        answered: answered("one", 9 * SECOND, status(409, code)),
        generation: None,
        newer: None,
    };
    let mut run = Run::good();
    run.0.refreshes.push(conflict("TOKEN_INVALIDATED"));
    run.breaks(Invariant::AnswersAreRight, "got a wrong 409");

    run.severed(8 * SECOND, Severed::Disconnected);
    run.holds();
}

#[test]
fn refusal_after_a_renewal_is_no_409() {
    let mut outcome = status(409, "TOKEN_INVALIDATED");
    if let Outcome::Status { said, .. } = &mut outcome {
        *said = "refused_after_renewal".to_owned();
    }
    let mut run = Run::good();
    run.0.refreshes.push(Asked {
        answered: answered("one", 9 * SECOND, outcome),
        generation: None,
        newer: None,
    });
    run.breaks(Invariant::AnswersAreRight, "got a wrong 409");
}
