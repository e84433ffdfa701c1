//! Refresh tokens that were presented again after the provider had exchanged them: each by exactly one known cause.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::timeline::{LifeTime, SYNCED_WITHIN_US, Timeline};
use super::windows::Window;
use super::{Invariant, Violation, clock, windows};
use crate::chaos::event_log::{Life, Micros, Severed};
use crate::chaos::evidence::{Call, Evidence};
use crate::chaos::responses::{Kept, OnDisk};
use crate::chaos::{CALL_TIMEOUT_SECS, LEASE_SECS, ORPHAN_GRACE_SECS};

const SECOND_US: Micros = 1_000_000;

/// A refresher that takes over a lease has searched the journals so long before it spends the token, at most.
const SEARCHED_WITHIN_US: Micros = 2 * SECOND_US;

/// A lease is so much older than a call under it, at most: by a call that timed out before it, and what lies around them.
const SENT_WITHIN_US: Micros = 1_250_000;

/// The same where the database was away: the token is sent no later than this before the end of the lease.
const LEASE_MARGIN_US: Micros = 2 * SECOND_US;

/// A token that was refused is not tried again sooner, but for what may differ between two clocks' readings.
const BACK_OFF_US: Micros = SECOND_US - 100_000;

/// A refresher whose database went back has committed again what its journal holds before so much time is over: it connects within
/// five seconds, and spends nothing for five.
const RECOMMITTED_WITHIN_US: Micros = 10 * SECOND_US;

/// A process that has been given new tokens lately believes a refusal in doubt; others keep the row from so many refusals on.
const GRANTED_LATELY_US: Micros = 60 * SECOND_US;
const MASS_AT_LEAST: usize = 3;
const MASS_WINDOW_US: Micros = 600 * SECOND_US;

/// A refusal is noted before so much time is over: there are several queries between, and others wait for the same ones.
const NOTED_WITHIN_US: Micros = SECOND_US;

/// A token that was refused is presented again so many times, at most.
const TRIED_AGAIN: usize = 5;

/// A run proves nothing if more reuses than this, in per cent and in number, are explained only by a busy machine.
const LATE_PER_CENT: usize = 20;
const LATE_AT_LEAST: usize = 10;

/// The provider's faults in which the response never arrives as a whole.
const LOSES_THE_RESPONSE: [&str; 3] = ["commit_then_reset", "commit_then_hang", "truncated"];

/// A token that was presented again after the provider had exchanged it.
#[derive(Debug, Clone)]
pub struct Reuse {
    pub company: Option<u32>,
    pub token: String,
    /// The two calls, in the order in which they reached the provider.
    pub first: (String, Micros),
    pub second: (String, Micros),
    /// If there is none: what is known of the response.
    pub cause: Result<Cause, String>,
}

/// Why a token was presented again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// (a) The response never arrived.
    NeverArrived(Because),
    /// (b) It arrived, and its refresher was killed or stopped before it could sync it.
    Interrupted(Because),
    /// (c) It was synced where the next spender can't read, its refresher was kept from the commit, and lease and grace had
    /// passed.
    OutOfReach(Because),
    /// (d) The journal's disk refused it, and its refresher was killed before the commit.
    DiskRefused(Because),
    /// (e) The first call was delayed, and took effect after the second one; its sender's lease had ended.
    Overtaken(Because),
    /// (f) The one refresh of a connection that was disconnected while its token was in doubt.
    Disconnected(Because),
    /// It had been refused, and the refusal could not be believed or noted.
    TriedAgain(Because),
}

/// What a cause goes back to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Because {
    pub how: String,
    pub strike: Strike,
}

/// Something that the run did, which explains only so many lost responses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strike {
    /// SIGKILL or SIGSTOP: the responses to the calls that this process had under way.
    Signal {
        process: String,
        life: Life,
        at_us: Micros,
    },
    /// A response that was lost or late: its own.
    Response { seq: u64 },
    /// The one refresh after a disconnect.
    Disconnect { company: u32, at_us: Micros },
    /// The database was away or went back, or the app's connections were refused in masses.
    Other { at_us: Micros },
}

/// Responses that signals explain, and the calls that were under way at these signals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lost {
    pub responses: usize,
    pub under_way: usize,
}

impl Cause {
    fn text(&self) -> (&'static str, &Because) {
        match self {
            Self::NeverArrived(why) => ("the response never arrived", why),
            Self::Interrupted(why) => ("the response was not synced in time", why),
            Self::OutOfReach(why) => ("the response was out of reach", why),
            Self::DiskRefused(why) => ("the journal's disk refused the response", why),
            Self::Overtaken(why) => ("the first call was overtaken", why),
            Self::Disconnected(why) => ("the connection was disconnected in doubt", why),
            Self::TriedAgain(why) => ("it had been refused", why),
        }
    }

    pub fn because(&self) -> &Because {
        self.text().1
    }
}

impl fmt::Display for Reuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "company {}: token {} was presented by {} at {} and again by {} at {}: ",
            self.company.unwrap_or_default(),
            self.token,
            self.first.0,
            clock(self.first.1),
            self.second.0,
            clock(self.second.1),
        )?;
        match &self.cause {
            Ok(cause) => {
                let (text, because) = cause.text();
                write!(f, "{text} ({})", because.how)
            }
            Err(known) => f.write_str(known),
        }
    }
}

/// Every reuse that the simulator saw, and those that no cause explains.
pub(super) fn all(
    evidence: &Evidence,
    timeline: &Timeline<'_>,
) -> (Vec<Reuse>, Lost, Vec<Violation>) {
    let history = History::of(evidence, timeline);
    let presented = history.by_token.values();
    let reuses: Vec<Reuse> = presented
        .flat_map(|presented| history.reuses(presented))
        .collect();
    let without_cause = reuses.iter().filter(|reuse| reuse.cause.is_err());
    let mut violations: Vec<Violation> = without_cause
        .map(|reuse| Violation {
            rule: Invariant::ReuseHasCause,
            what: reuse.to_string(),
        })
        .collect();
    let (lost, beyond) = history.beyond_strikes(&reuses);
    violations.extend(beyond);
    violations.extend(history.by_lateness(&reuses));
    (reuses, lost, violations)
}

struct History<'a> {
    evidence: &'a Evidence,
    timeline: &'a Timeline<'a>,
    /// The calls that presented a token which the provider had issued and either exchanged or found exchanged, in the order in
    /// which they reached it.
    by_token: BTreeMap<&'a str, Vec<&'a Call>>,
    /// The first call that presented each token, whatever came of it.
    presented_at: BTreeMap<&'a str, Micros>,
    journals_away: BTreeMap<&'a str, Vec<Window>>,
}

impl<'a> History<'a> {
    fn of(evidence: &'a Evidence, timeline: &'a Timeline<'a>) -> Self {
        let mut by_token: BTreeMap<&str, Vec<&Call>> = BTreeMap::new();
        for call in evidence.calls.iter().filter(|call| call.call == "refresh") {
            if let Some(token) = &call.presented
                && matches!(call.outcome.as_str(), "ok" | "reuse")
            {
                by_token.entry(token).or_default().push(call);
            }
        }
        for calls in by_token.values_mut() {
            calls.sort_by_key(|call| (call.arrived_us(), call.seq));
        }
        let mut presented_at: BTreeMap<&str, Micros> = BTreeMap::new();
        let calls = evidence.calls.iter();
        for call in calls.filter(|call| matches!(call.call.as_str(), "refresh" | "revoke")) {
            if let Some(token) = &call.presented {
                let first = presented_at.entry(token).or_insert(Micros::MAX);
                *first = call.arrived_us().min(*first);
            }
        }
        Self {
            evidence,
            timeline,
            by_token,
            presented_at,
            journals_away: windows::journals_away(evidence),
        }
    }

    /// Each call that presented the token again needs a cause.
    fn reuses(&self, presented: &[&Call]) -> Vec<Reuse> {
        let exchanged = presented.iter().find(|call| call.outcome == "ok");
        let mut reuses = Vec::new();
        let mut tried_again = 0;
        for pair in presented.windows(2) {
            let &[before, again] = pair else { continue };
            let cause = match exchanged {
                None => Err("the provider had never exchanged it".to_owned()),
                Some(_) if again.outcome == "ok" => self.overtaken(before, again),
                Some(_) if before.outcome == "ok" => self.lost(before, again),
                Some(exchanged) if exchanged.arrived_us() > again.arrived_us() => {
                    self.overtaken(again, exchanged)
                }
                // Refused before, which had ended the grant: no harm is done, but not without a reason.
                Some(_) => {
                    tried_again += 1;
                    if tried_again > TRIED_AGAIN {
                        Err(format!("it had been refused {tried_again} times"))
                    } else {
                        self.tried_again(before, again)
                    }
                }
            };
            let name = |call: &Call| {
                let sender = call.sender().map_or("nobody", |(process, _)| process);
                (sender.to_owned(), call.arrived_us())
            };
            reuses.push(Reuse {
                company: again.company_id,
                token: again.presented.clone().unwrap_or_default(),
                first: name(before),
                second: name(again),
                cause,
            });
        }
        reuses
    }

    /// The refusal was lost, or there was a reason not to believe it, and a back-off was kept.
    fn tried_again(&self, refused: &Call, again: &Call) -> Result<Cause, String> {
        let since = refused.answered_at_us.unwrap_or(refused.at_us);
        let until = again.arrived_us();
        let lost = self.never_arrived(refused);
        if let Some(why) = lost.or_else(|| self.interrupted(refused, again)) {
            return Ok(Cause::TriedAgain(why));
        }
        // A process that dies before it has noted the refusal says nothing to the next one. Refusals are noted one by one.
        let killed = self.life(refused).and_then(|life| life.killed);
        if let Some(at_us) =
            killed.filter(|at_us| (since..=since + NOTED_WITHIN_US).contains(at_us))
        {
            return Ok(Cause::TriedAgain(Because {
                how: format!("its refresher was killed at {}", clock(at_us)),
                strike: Strike::Other { at_us },
            }));
        }
        // A disconnect under a call sets the doubt, whatever the call brings.
        let leased_at = refused.arrived_us() - self.sent_within(refused);
        let why = self
            .kept_from_commit(refused, since, again)
            .or_else(|| self.disconnected(leased_at, again));
        if let Some(why) = why {
            return Ok(Cause::TriedAgain(why));
        }
        // A back-off is a time on a wall clock to every process but the one that has set it.
        let is_clock_wrong = [refused, again]
            .iter()
            .any(|call| self.timeline.had_wrong_clock(call));
        if until < since + BACK_OFF_US && !is_clock_wrong {
            return Err(format!(
                "it had been refused {} ms before, and no back-off was kept",
                millis(until - since)
            ));
        }
        let why = self
            .restored(refused.at_us, until)
            .or_else(|| self.not_believed(refused));
        why.map(Cause::TriedAgain).ok_or_else(|| {
            format!(
                "it had been refused {} ms before, and nothing kept its refresher from noting that",
                millis(until - since)
            )
        })
    }

    /// A process that has been given no tokens lately takes many refusals for its own mistake.
    fn not_believed(&self, refused: &Call) -> Option<Because> {
        let at_us = refused.arrived_us();
        let calls = || {
            self.evidence
                .calls
                .iter()
                .filter(|call| call.call == "refresh")
        };
        let granted = calls().any(|call| {
            let answered = call.answered_at_us.unwrap_or(Micros::MAX);
            call.outcome == "ok"
                && call.sender() == refused.sender()
                // It knows of them only when it has written them down.
                && (at_us - GRANTED_LATELY_US..at_us - self.timeline.synced_within_us)
                    .contains(&answered)
        });
        let refusals = calls().filter(|call| {
            matches!(call.outcome.as_str(), "reuse" | "invalid_grant")
                && (at_us - MASS_WINDOW_US..at_us).contains(&call.arrived_us())
        });
        let others: BTreeSet<_> = refusals.filter_map(|call| call.company_id).collect();
        (!granted && others.len() >= MASS_AT_LEAST).then(|| Because {
            how: format!(
                "{} connections were refused lately, and its refresher had been given no tokens",
                others.len()
            ),
            strike: Strike::Other { at_us },
        })
    }

    /// The provider took the second call first: the first one was on its way, and no process waited for it any more.
    fn overtaken(&self, first: &Call, second: &Call) -> Result<Cause, String> {
        let (from, until) = (first.arrived_us(), second.arrived_us());
        let waited = until - from;
        let life = self.life(first);
        let killed = life.and_then(|life| life.killed);
        if let Some(at_us) = killed.filter(|at_us| *at_us <= until) {
            return Ok(Cause::Overtaken(Because {
                how: format!("its sender was killed at {}", clock(at_us)),
                strike: signal(first, at_us),
            }));
        }
        let is_stopped = life.is_some_and(|life| {
            let mut stops = life.stops.iter();
            stops.any(|stop| stop.overlaps(from, until))
        });
        // It gives up after its time-out, and the next one waits for a back-off; a frozen one's lease has to end.
        let ends_after = if is_stopped {
            SECOND_US * Micros::from(LEASE_SECS) - self.sent_within(first)
        } else {
            SECOND_US * Micros::from(CALL_TIMEOUT_SECS) + BACK_OFF_US - self.late(first)
        };
        if waited >= ends_after && first.sender() != second.sender() {
            return Ok(Cause::Overtaken(Because {
                how: format!(
                    "it was delayed past its sender's lease: {} ms",
                    millis(waited)
                ),
                strike: Strike::Response { seq: first.seq },
            }));
        }
        if first.sender() == second.sender()
            && let Some(why) = self.given_up(first, until)
        {
            return Ok(Cause::Overtaken(why));
        }
        Err(format!(
            "the first call took effect later, and its sender was waiting for the response ({} ms after)",
            millis(waited)
        ))
    }

    /// The provider exchanged the token at the first call: what became of the response.
    fn lost(&self, first: &Call, second: &Call) -> Result<Cause, String> {
        let response = first.issued.as_deref().unwrap_or_default();
        let until = second.arrived_us();
        let restored = self.restored(first.at_us, until);
        if let Some(used) = self.presented_at.get(response)
            && *used < until
            && restored.is_none()
        {
            return Err(format!(
                "the response had arrived, for the token in it was presented at {}",
                clock(*used)
            ));
        }
        let cause = self.cause(first, second, response)?;
        match self.disconnected(first.arrived_us(), second) {
            Some(why) => Ok(Cause::Disconnected(why)),
            None => Ok(cause),
        }
    }

    fn cause(&self, first: &Call, second: &Call, response: &str) -> Result<Cause, String> {
        let until = second.arrived_us();
        if let Some(settled) = self.settled_before(response, until)
            && self.lost_by_restore(settled.at_us, until).is_none()
        {
            // The next spender may have read the row just before.
            let held_up = self.kept_from_commit(first, first.answered_us(), second);
            return match held_up {
                Some(why) if settled.at_us + SEARCHED_WITHIN_US > until => {
                    Ok(Cause::OutOfReach(why))
                }
                _ => Err(format!(
                    "the response had been committed at {}",
                    clock(settled.at_us)
                )),
            };
        }
        let synced = self.synced_before(response, until);
        let readable = synced.iter().find(|entry| self.can_read(second, entry));
        if let Some(entry) = readable {
            return self.synced_too_late(first, second, entry);
        }
        if let Some(entry) = synced.first() {
            return self.out_of_reach(first, second, entry);
        }
        if let Some(why) = self.never_arrived(first) {
            return Ok(Cause::NeverArrived(why));
        }
        if let Some(why) = self.interrupted(first, second) {
            return Ok(Cause::Interrupted(why));
        }
        if let Some(why) = self.disk_refused(first, second, response) {
            return Ok(Cause::DiskRefused(why));
        }
        Err(format!(
            "the response had arrived at {}, it was never synced, and nothing kept its refresher from that",
            clock(first.answered_at_us.unwrap_or_default())
        ))
    }

    /// When a process noted that the response was in the row.
    fn settled_before(&self, response: &str, until: Micros) -> Option<&OnDisk> {
        let settled = self.evidence.responses.settled.get(response);
        let settled = settled.into_iter().flatten();
        settled
            .filter(|entry| entry.at_us <= until)
            .min_by_key(|entry| entry.at_us)
    }

    fn restored(&self, from: Micros, until: Micros) -> Option<Because> {
        let at_us = self.timeline.restored_between(from, until)?;
        Some(Because {
            how: format!("the database went back at {}", clock(at_us)),
            strike: Strike::Other { at_us },
        })
    }

    /// The last time that the database went back to before a commit.
    fn lost_by_restore(&self, committed_us: Micros, until: Micros) -> Option<Micros> {
        self.timeline.lost_by_restore(committed_us, until)
    }

    fn synced_before(&self, response: &str, at_us: Micros) -> Vec<&OnDisk> {
        let synced = self.evidence.responses.synced.get(response);
        let synced = synced.into_iter().flatten();
        synced.filter(|entry| entry.at_us <= at_us).collect()
    }

    /// Whether the sender of this call could find the response: in its own journal, or in a copy of another.
    fn can_read(&self, call: &Call, entry: &OnDisk) -> bool {
        let reader = call.sender().map_or("", |(process, _)| process);
        let Some(own) = self.evidence.journal_of.get(reader) else {
            return false;
        };
        let copied = || {
            self.timeline.copies.iter().any(|copy| {
                copy.from == entry.journal
                    && copy.to == own
                    && entry.at_us <= copy.began_us
                    && copy.at_us + SEARCHED_WITHIN_US <= call.arrived_us()
            })
        };
        *own == entry.journal || copied()
    }

    /// In reach of the next spender: it may have come after his search only, if its refresher had been stopped meanwhile.
    fn synced_too_late(
        &self,
        first: &Call,
        second: &Call,
        entry: &OnDisk,
    ) -> Result<Cause, String> {
        let searched = entry.at_us + SEARCHED_WITHIN_US <= second.arrived_us();
        let answered = first.answered_us();
        let until = self.timeline.synced_by(answered);
        let stops = self.life(first).map_or(&[][..], |life| &life.stops);
        match stops.iter().find(|stop| stop.overlaps(answered, until)) {
            Some(stop) if !searched => Ok(Cause::Interrupted(Because {
                how: format!("its refresher was stopped at {}", clock(stop.from)),
                strike: signal(first, stop.from),
            })),
            _ => Err(format!(
                "the response was in journal {}, which the second one reads, since {}",
                entry.journal,
                clock(entry.at_us)
            )),
        }
    }

    fn out_of_reach(&self, first: &Call, second: &Call, entry: &OnDisk) -> Result<Cause, String> {
        let journal = &entry.journal;
        let since = clock(entry.at_us);
        let arrived = second.arrived_us();
        if let Some(restored) = self.timeline.restored_between(first.at_us, arrived) {
            let until = (restored + RECOMMITTED_WITHIN_US).min(arrived);
            let mut readers = self.evidence.journal_of.iter();
            let reader = readers.find(|(refresher, reads)| {
                *reads == journal && self.timeline.was_up(refresher, restored, until)
            });
            if let Some((refresher, _)) = reader {
                return Err(format!(
                    "the database had gone back at {}, and {refresher}, which was up, did not commit the response again that its journal held",
                    clock(restored)
                ));
            }
            return Ok(Cause::OutOfReach(Because {
                how: format!(
                    "in journal {journal} since {since}, and the database went back at {}",
                    clock(restored)
                ),
                strike: Strike::Other { at_us: restored },
            }));
        }
        let Some(why) = self.kept_from_commit(first, entry.at_us, second) else {
            return Err(format!(
                "the response was in journal {journal} since {since}, and nothing kept its refresher from the commit"
            ));
        };
        let lease_us = SECOND_US * Micros::from(LEASE_SECS + ORPHAN_GRACE_SECS);
        let elapsed = arrived - first.arrived_us();
        if elapsed < lease_us - self.sent_within(first) {
            return Err(format!(
                "the response was in journal {journal} since {since}, and its refresher's lease and grace had not passed after {} ms",
                millis(elapsed)
            ));
        }
        Ok(Cause::OutOfReach(Because {
            how: format!(
                "in journal {journal} since {since}, {} ms after the first call; {}",
                millis(elapsed),
                why.how
            ),
            strike: why.strike,
        }))
    }

    /// How much older than this call its sender's lease may be.
    fn sent_within(&self, call: &Call) -> Micros {
        let at_us = call.arrived_us();
        let latest = SECOND_US * Micros::from(LEASE_SECS) - LEASE_MARGIN_US;
        let away = self.timeline.database_away.iter();
        if away
            .filter(|window| window.overlaps(at_us - latest, at_us))
            .count()
            > 0
        {
            return latest;
        }
        (SENT_WITHIN_US + self.late(call)).min(latest)
    }

    /// How late timers were while this call was under way.
    fn late(&self, call: &Call) -> Micros {
        let before = SECOND_US * Micros::from(CALL_TIMEOUT_SECS);
        self.timeline
            .late_within(call.arrived_us() - before, before)
    }

    /// (a): by the simulator's log, and by whether its sender was there to read it.
    fn never_arrived(&self, call: &Call) -> Option<Because> {
        let own = |how: String| Because {
            how,
            strike: Strike::Response { seq: call.seq },
        };
        if let Some(fault) = &call.fault
            && LOSES_THE_RESPONSE.contains(&fault.as_str())
        {
            return Some(own(format!("fault {fault}")));
        }
        let killed = self.life(call).and_then(|life| life.killed);
        if let Some(at_us) = killed
            && at_us <= call.answered_us()
        {
            return Some(Because {
                how: format!("its refresher was killed at {}", clock(at_us)),
                strike: signal(call, at_us),
            });
        }
        if call.answered_at_us.is_none() {
            return Some(own("the provider did not send it".to_owned()));
        }
        self.given_up(call, Micros::MAX)
    }

    /// Its sender waited no longer.
    fn given_up(&self, call: &Call, before_us: Micros) -> Option<Because> {
        let answered = call.answered_us().min(before_us);
        let arrived = call.arrived_us();
        // The call began a little before it arrived.
        let patience = SECOND_US * Micros::from(CALL_TIMEOUT_SECS) - 50_000 - self.late(call);
        (answered >= arrived + patience).then(|| Because {
            how: format!("it took {} ms", millis(answered - arrived)),
            strike: Strike::Response { seq: call.seq },
        })
    }

    /// (b): the signal that came before the response could be synced. A stop explains it while it lasts, or if the call had
    /// timed out when the process went on.
    fn interrupted(&self, call: &Call, again: &Call) -> Option<Because> {
        let answered = call.answered_at_us?;
        let life = self.life(call)?;
        let held = self.held(life, answered, Holds::Stops);
        if let Some(killed) = life.killed
            && answered <= killed
            && killed <= held.until
        {
            return Some(Because {
                how: format!("its refresher was killed at {}", clock(killed)),
                strike: signal(call, killed),
            });
        }
        let stop = held.by?;
        let timed_out_us = call.arrived_us() + SECOND_US * Micros::from(CALL_TIMEOUT_SECS);
        let timed_out = stop.until.is_none_or(|until| until >= timed_out_us);
        (timed_out || again.arrived_us() <= held.until).then(|| Because {
            how: format!("its refresher was stopped at {}", clock(stop.from)),
            strike: signal(call, stop.from),
        })
    }

    /// (d): a commit has to be done by [`Timeline::committed_by`], not counting the time in which the database was away.
    fn disk_refused(&self, first: &Call, second: &Call, response: &str) -> Option<Because> {
        let answered = first.answered_at_us?;
        let refused = match self.evidence.responses.kept {
            Kept::BySyncLog => {
                let noted = self.evidence.responses.refused.get(response)?;
                noted.first()?.at_us
            }
            // What the machine's disk refuses is noted nowhere.
            Kept::ByJournal => {
                let (process, _) = first.sender()?;
                let mut away = self.journals_away.get(process)?.iter();
                away.find(|window| window.holds(answered))?;
                answered
            }
        };
        let why = self.kept_from_commit(first, refused, second)?;
        Some(Because {
            how: format!("refused at {}, and {}", clock(refused), why.how),
            ..why
        })
    }

    /// What kept the process that made a call from writing to the database what came of it, from an instant on: it was killed
    /// before it could, or it was stopped or the database away until the second call.
    fn kept_from_commit(&self, call: &Call, from_us: Micros, second: &Call) -> Option<Because> {
        let life = self.life(call)?;
        let held = self.held(life, from_us, Holds::StopsAndDatabase);
        let until = second.arrived_us();
        if let Some(killed) = life.killed
            && from_us <= killed
            && killed <= held.until.min(until)
        {
            return Some(Because {
                how: format!("its refresher was killed at {}", clock(killed)),
                strike: signal(call, killed),
            });
        }
        let by = held.by.filter(|_| until <= held.until)?;
        let is_stop = life.stops.contains(&by);
        Some(Because {
            how: if is_stop {
                format!("its refresher was stopped at {}", clock(by.from))
            } else {
                format!("the database was away from {} on", clock(by.from))
            },
            strike: if is_stop {
                signal(call, by.from)
            } else {
                Strike::Other { at_us: by.from }
            },
        })
    }

    /// Until when what was due at an instant may not have been done yet.
    fn held(&self, life: &LifeTime, from_us: Micros, holds: Holds) -> Held {
        let due_by = |from_us| match holds {
            Holds::Stops => self.timeline.synced_by(from_us),
            Holds::StopsAndDatabase => self.timeline.committed_by(from_us),
        };
        let mut held = Held {
            until: due_by(from_us),
            by: None,
        };
        let mut from_us = from_us;
        loop {
            let stops = life.stops.iter().map(|stop| (*stop, 0));
            let away = self.timeline.database_away.iter();
            let away = away
                .filter(|_| holds == Holds::StopsAndDatabase)
                // It is tried again now and then.
                .map(|away| (*away, SECOND_US));
            let next = stops.chain(away).find(|(window, _)| {
                window.overlaps(from_us, held.until)
                    && window.until.is_none_or(|until| until > from_us)
            });
            let Some((window, pause)) = next else {
                return held;
            };
            held.by = Some(window);
            let Some(until) = window.until else {
                held.until = Micros::MAX;
                return held;
            };
            from_us = until;
            held.until = held.until.max(due_by(until + pause));
        }
    }

    /// (f): what is left of a connection that was disconnected since then.
    fn disconnected(&self, from_us: Micros, second: &Call) -> Option<Because> {
        let company = second.company_id?;
        let (at_us, _) = self
            .timeline
            .severed
            .get(&company)?
            .iter()
            .find(|(at_us, how)| {
                *how == Severed::Disconnected && (from_us..=second.arrived_us()).contains(at_us)
            })?;
        let consents = self.timeline.consents.get(&company);
        let consented = consents.into_iter().flatten();
        let consented = consented
            .filter(|consent| consent.overlaps(*at_us, second.arrived_us()))
            .count();
        (consented == 0).then(|| Because {
            how: format!("at {}", clock(*at_us)),
            strike: Strike::Disconnect {
                company,
                at_us: *at_us,
            },
        })
    }

    /// A strike explains no more responses than it could meet.
    fn beyond_strikes(&self, reuses: &[Reuse]) -> (Lost, Vec<Violation>) {
        let mut lost = Lost::default();
        let mut tokens: BTreeMap<&Strike, BTreeSet<&str>> = BTreeMap::new();
        for reuse in reuses {
            if let Ok(cause) = &reuse.cause {
                let of_strike = tokens.entry(&cause.because().strike).or_default();
                of_strike.insert(&reuse.token);
            }
        }
        let mut violations = Vec::new();
        for (strike, tokens) in tokens {
            let (most, what) = match strike {
                Strike::Signal {
                    process,
                    life,
                    at_us,
                } => {
                    let under_way = self.under_way((process, *life), *at_us);
                    lost.responses += tokens.len();
                    lost.under_way += under_way;
                    let what = format!("a signal to {process} at {}", clock(*at_us));
                    (under_way, what)
                }
                Strike::Response { seq } => (1, format!("call {seq}")),
                Strike::Disconnect { company, at_us } => (
                    1,
                    format!("a disconnect of company {company} at {}", clock(*at_us)),
                ),
                Strike::Other { .. } => continue,
            };
            if tokens.len() > most {
                violations.push(Violation {
                    rule: Invariant::FewResponsesAreLost,
                    what: format!(
                        "{what} explains {} lost responses, and {most} calls were under way",
                        tokens.len()
                    ),
                });
            }
        }
        (lost, violations)
    }

    /// The calls of a process whose responses were not in the database yet at an instant.
    fn under_way(&self, sender: (&str, Life), at_us: Micros) -> usize {
        let lease = SECOND_US * Micros::from(LEASE_SECS);
        let calls = self.evidence.calls.iter().filter(|call| {
            // What the process had sent the provider may read a moment later. A response that the disk has refused waits for the
            // database as long as that is away.
            let response = call.issued.as_deref().unwrap_or_default();
            let waits = self.evidence.responses.refused.contains_key(response);
            call.call == "refresh"
                && call.sender() == Some(sender)
                && call.arrived_us() < at_us + SECOND_US
                && (waits || call.arrived_us() >= at_us - lease)
        });
        calls
            .filter(|call| {
                let response = call.issued.as_deref().unwrap_or_default();
                self.settled_before(response, at_us).is_none()
            })
            .count()
    }

    /// A machine that is too busy proves little.
    fn by_lateness(&self, reuses: &[Reuse]) -> Option<Violation> {
        let interrupted = reuses.iter().filter_map(|reuse| match &reuse.cause {
            Ok(Cause::Interrupted(because)) => Some((reuse, because)),
            _ => None,
        });
        let by_lateness = interrupted.filter(|(reuse, because)| {
            let Strike::Signal { at_us, .. } = because.strike else {
                return false;
            };
            let calls = self.by_token.get(reuse.token.as_str());
            let answered = calls.into_iter().flatten().map(|call| call.answered_us());
            let answered = answered.filter(|answered| *answered <= at_us).max();
            answered.is_some_and(|answered| at_us - answered > SYNCED_WITHIN_US)
        });
        let count = by_lateness.count();
        let is_busy = count >= LATE_AT_LEAST && count * 100 > reuses.len() * LATE_PER_CENT;
        is_busy.then(|| Violation {
            rule: Invariant::RunsAsPlanned,
            what: format!(
                "{count} of {} tokens that were presented again are explained only because this machine was busy",
                reuses.len()
            ),
        })
    }

    fn life<'b>(&'b self, call: &'b Call) -> Option<&'b LifeTime> {
        self.timeline.life(call.sender())
    }
}

/// What can keep a process from writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holds {
    Stops,
    StopsAndDatabase,
}

struct Held {
    until: Micros,
    /// The last thing that did.
    by: Option<Window>,
}

/// A signal to the sender of a call.
fn signal(call: &Call, at_us: Micros) -> Strike {
    let (process, life) = call.sender().unwrap_or_default();
    Strike::Signal {
        process: process.to_owned(),
        life,
        at_us,
    }
}

fn millis(us: Micros) -> Micros {
    us / 1000
}
