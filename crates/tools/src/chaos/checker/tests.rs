use std::collections::BTreeMap;

use super::*;
use crate::chaos::event_log::{Life, Micros, Severed, Signal};
use crate::chaos::evidence::{Call, Grant};
use crate::chaos::responses::OnDisk;
use crate::chaos::stack::account::Row;
use crate::chaos::stack::load::{Answered, Asked, Outcome};
use pipekeeper_core::refresher_client::RefreshOutcome;

const COMPANY: u32 = 101;
const MILLI: Micros = 1_000;
const SECOND: Micros = 1_000 * MILLI;

/// Requests that prove something.
const ENOUGH: usize = 200;

/// A run on two refreshers that share a journal and one with a disk of its own, one data-api and one connection.
struct Run(Evidence);

impl Run {
    /// A run in which everything went well: the connection was refreshed twice.
    fn good() -> Self {
        let mut run = Self(Evidence {
            grants: vec![Grant {
                company_id: COMPANY,
                state: "active".to_owned(),
                refresh_token_fingerprint: Some("t3".to_owned()),
            }],
            rows: vec![Row {
                company: COMPANY,
                state: "active".to_owned(),
                generation: 3,
                refresh_token: Some("t3".to_owned()),
                ..Row::default()
            }],
            journal_of: pairs([("one", "shared"), ("two", "shared"), ("three", "own")]),
            refresher_of: pairs([("data-api", "one")]),
            ..Evidence::default()
        });
        run.event(0, Event::TokenLifetime { secs: 4 });
        for process in ["one", "two", "three", "data-api"] {
            run.life(0, process, 1);
        }
        run.exchanged(SECOND, "one", "t1", "t2");
        run.synced(SECOND + 5 * MILLI, "t2", "shared");
        run.exchanged(5 * SECOND, "three", "t2", "t3");
        run.synced(5 * SECOND + 5 * MILLI, "t3", "own");
        for _ in 0..ENOUGH {
            run.request(2 * SECOND, Outcome::Right);
        }
        run
    }

    fn event(&mut self, at_us: Micros, event: Event) {
        self.0.event_log.push(Entry { at_us, event });
        self.0.event_log.sort_by_key(|entry| entry.at_us);
    }

    fn life(&mut self, at_us: Micros, process: &str, life: Life) {
        let process = process.to_owned();
        self.event(
            at_us,
            Event::Started {
                process: process.clone(),
                life,
            },
        );
        self.event(at_us, Event::Ready { process, life });
    }

    fn signal(&mut self, at_us: Micros, process: &str, signal: Signal) {
        let signal = Event::Signal {
            process: process.to_owned(),
            life: 1,
            signal,
            why: "at random".to_owned(),
        };
        self.event(at_us, signal);
    }

    /// Killed, and started again half a second later.
    fn killed(&mut self, at_us: Micros, process: &str) {
        self.signal(at_us, process, Signal::Kill);
        self.life(at_us + SECOND / 2, process, 2);
    }

    /// A token call that the provider answers within a millisecond.
    fn call(&mut self, at_us: Micros, from: &str, presented: &str, outcome: &str) -> &mut Call {
        self.0.calls.push(Call {
            seq: u64::try_from(self.0.calls.len()).unwrap(),
            at_us,
            arrived_at_us: Some(at_us),
            answered_at_us: Some(at_us + MILLI),
            call: "refresh".to_owned(),
            company_id: Some(COMPANY),
            presented: Some(presented.to_owned()),
            outcome: outcome.to_owned(),
            query: format!("from={from}&life=1"),
            ..Call::default()
        });
        self.0.calls.last_mut().unwrap()
    }

    fn exchanged(&mut self, at_us: Micros, from: &str, presented: &str, issued: &str) -> &mut Call {
        let call = self.call(at_us, from, presented, "ok");
        call.issued = Some(issued.to_owned());
        call
    }

    fn synced(&mut self, at_us: Micros, token: &str, journal: &str) {
        note(&mut self.0.responses.synced, at_us, token, journal);
    }

    fn settled(&mut self, at_us: Micros, token: &str, journal: &str) {
        note(&mut self.0.responses.settled, at_us, token, journal);
    }

    fn refused_by_disk(&mut self, at_us: Micros, token: &str, journal: &str) {
        note(&mut self.0.responses.refused, at_us, token, journal);
    }

    fn database_away(&mut self, from_us: Micros, until_us: Micros) {
        let of = crate::chaos::database::DATABASE.to_owned();
        self.event(from_us, Event::Outage { of: of.clone() });
        self.event(until_us, Event::Back { of });
    }

    /// The newest token is exchanged by `one` at 7 s, and again presented, which ends the grant.
    fn reused(&mut self, by: &str, at_us: Micros) {
        self.exchanged(7 * SECOND, "one", "t3", "t4");
        self.refused(by, at_us);
    }

    fn refused(&mut self, by: &str, at_us: Micros) {
        self.call(at_us, by, "t3", "reuse").ended = true;
        self.0.grants[0].state = "revoked".to_owned();
        let row = &mut self.0.rows[0];
        row.state = "reauth_required".to_owned();
        row.reason = Some("answer_lost".to_owned());
        row.state_since_us = at_us + MILLI;
    }

    fn severed(&mut self, at_us: Micros, how: Severed) {
        let company = COMPANY;
        self.event(at_us, Event::Severed { company, how });
    }

    fn consented(&mut self, began_us: Micros, stored_us: Micros) {
        let company = COMPANY;
        self.event(began_us, Event::Consenting { company });
        self.event(stored_us, Event::Consented { company, began_us });
    }

    fn row_state(&mut self, at_us: Micros, state: &str, generation: i64) {
        let seen = Event::RowState {
            company: COMPANY,
            state: state.to_owned(),
            generation,
            read_us: at_us,
        };
        self.event(at_us, seen);
    }

    fn request(&mut self, at_us: Micros, outcome: Outcome) {
        self.0.data.push(answered("data-api", at_us, outcome));
    }

    fn asked(&mut self, at_us: Micros, generation: i64, newer: (i64, RefreshOutcome)) {
        self.0.refreshes.push(Asked {
            answered: answered("one", at_us, Outcome::Right),
            generation: Some(generation),
            newer: Some(newer),
        });
    }

    #[track_caller]
    fn holds(&self) -> Verdict {
        let verdict = check(&self.0, Moment::AtRest);
        assert_eq!(verdict.violations, []);
        verdict
    }

    /// The cause of the only reuse.
    #[track_caller]
    fn cause(&self) -> Cause {
        let verdict = self.holds();
        let [reuse] = verdict.reuses.as_slice() else {
            panic!("{:?}", verdict.reuses);
        };
        reuse.cause.clone().unwrap()
    }

    #[track_caller]
    fn breaks(&self, rule: Invariant, what: &str) {
        let violations = check(&self.0, Moment::AtRest).violations;
        let [violation] = violations.as_slice() else {
            panic!("{violations:#?}");
        };
        assert_eq!(violation.rule, rule);
        assert!(violation.what.contains(what), "{}", violation.what);
    }
}

fn note(noted: &mut BTreeMap<String, Vec<OnDisk>>, at_us: Micros, token: &str, journal: &str) {
    let journal = journal.to_owned();
    let list = noted.entry(token.to_owned()).or_default();
    list.push(OnDisk { at_us, journal });
}

fn pairs<const COUNT: usize>(pairs: [(&str, &str); COUNT]) -> BTreeMap<String, String> {
    pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

fn answered(process: &str, at_us: Micros, outcome: Outcome) -> Answered {
    Answered {
        process: process.to_owned(),
        company: COMPANY,
        began_us: at_us,
        ended_us: at_us + MILLI,
        outcome,
    }
}

fn status(status: u16, code: &str) -> Outcome {
    Outcome::Status {
        status,
        code: code.to_owned(),
        said: String::new(),
    }
}

mod bounds;
mod requests;
mod reuse;
mod rows;

#[test]
fn a_good_run_breaks_no_rule() {
    let verdict = Run::good().holds();

    assert!(verdict.reuses.is_empty());
}

#[test]
fn a_process_that_ends_unasked_is_named_unless_its_journal_took_nothing() {
    let ended = |process: &str| Event::Ended {
        process: process.to_owned(),
        life: 1,
        status: "exit status: 1".to_owned(),
        unasked: true,
    };
    let mut run = Run::good();
    let of = crate::chaos::journals::outage_of("own");
    run.event(10 * SECOND, Event::Outage { of: of.clone() });
    run.event(13 * SECOND, Event::Back { of });
    run.event(12 * SECOND, ended("three"));
    run.life(13 * SECOND, "three", 2);
    run.holds();

    run.event(14 * SECOND, ended("one"));

    run.breaks(Invariant::RunsAsPlanned, "one ended unasked");
}

#[test]
fn signal_to_a_process_that_has_not_been_ready_for_a_second_is_named() {
    for (at, holds) in [(900, false), (1_100, true)] {
        let mut run = Run::good();
        run.killed(10 * SECOND, "three");
        // Ready again at 10.5 s.
        let signal = Event::Signal {
            process: "three".to_owned(),
            life: 2,
            signal: Signal::Stop,
            why: "at random".to_owned(),
        };
        run.event(10 * SECOND + (500 + at) * MILLI, signal);

        if holds {
            run.holds();
        } else {
            run.breaks(
                Invariant::RunsAsPlanned,
                "before it had been ready for a second",
            );
        }
    }
}

#[test]
fn what_the_run_could_not_do_and_what_did_not_come_to_rest_is_named() {
    let mut run = Run::good();
    let what = "connect company 101 again".to_owned();
    run.event(9 * SECOND, Event::Failed { what });
    run.breaks(
        Invariant::RunsAsPlanned,
        "could not connect company 101 again",
    );

    let mut run = Run::good();
    run.0.restless.push("company 101: active".to_owned());
    run.breaks(Invariant::ComesToRest, "company 101");
}

#[test]
fn during_a_run_only_what_is_final_is_held_against_it() {
    let mut run = Run::good();
    run.0.rows[0].refresh_token = Some("t2".to_owned());
    run.0.restless.push("company 101: active".to_owned());

    assert_eq!(check(&run.0, Moment::During).violations, []);
    assert_eq!(check(&run.0, Moment::AtRest).violations.len(), 2);
}
