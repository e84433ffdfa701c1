//! Refresh tokens that were presented again after the provider had exchanged them: each by exactly one known cause.

use std::collections::BTreeMap;
use std::fmt;

use super::timeline::{LifeTime, Timeline};
use super::{Rule, Violation, clock, windows};
use crate::chaos::event_log::{Micros, Severed};
use crate::chaos::evidence::{Call, Evidence};
use crate::chaos::responses::OnDisk;
use crate::chaos::{CALL_TIMEOUT_SECS, LEASE_SECS, ORPHAN_GRACE_SECS};

const SECOND_US: Micros = 1_000_000;

/// A refresher that takes over a lease has searched the journals so long before it spends the token, at most.
const SEARCHED_WITHIN_US: Micros = 2 * SECOND_US;

/// Of a lease's time so much lies between the last moment at which a token is sent and the lease's end.
const LEASE_MARGIN_US: Micros = 2 * SECOND_US;

/// A token that was refused is not tried again sooner, but for what may differ between two clocks' readings.
const BACK_OFF_US: Micros = SECOND_US - 100_000;

/// A refresher whose database went back looks for what its journal holds before so much time is over.
const RECOMMITTED_WITHIN_US: Micros = 5 * SECOND_US;

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
    NeverArrived(String),
    /// (b) It arrived, and its refresher was killed or stopped before it could sync it.
    Interrupted(String),
    /// (c) It was synced where the next spender can't read, and lease and grace had passed.
    OutOfReach(String),
    /// (d) The journal's disk refused it, and its refresher was killed before the commit.
    DiskRefused(String),
    /// (e) The first call was delayed, and took effect after the second one; its sender's lease had ended.
    Overtaken(String),
    /// (f) The one refresh of a connection that was disconnected while its token was in doubt.
    Disconnected(String),
}

impl Cause {
    fn text(&self) -> (&'static str, &str) {
        match self {
            Self::NeverArrived(how) => ("the response never arrived", how),
            Self::Interrupted(how) => ("the response was not synced in time", how),
            Self::OutOfReach(how) => ("the response was out of reach", how),
            Self::DiskRefused(how) => ("the journal's disk refused the response", how),
            Self::Overtaken(how) => ("the first call was overtaken", how),
            Self::Disconnected(how) => ("the connection was disconnected in doubt", how),
        }
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
                let (text, how) = cause.text();
                write!(f, "{text} ({how})")
            }
            Err(known) => f.write_str(known),
        }
    }
}

/// Every reuse that the simulator saw, and those that no cause explains.
pub(super) fn all(evidence: &Evidence, timeline: &Timeline<'_>) -> (Vec<Reuse>, Vec<Violation>) {
    let history = History::of(evidence, timeline);
    let mut reuses = Vec::new();
    let mut violations = Vec::new();
    for presented in history.by_token.values() {
        for reuse in history.reuses(presented) {
            if reuse.cause.is_err() {
                violations.push(Violation {
                    rule: Rule::ReuseHasCause,
                    what: reuse.to_string(),
                });
            }
            reuses.push(reuse);
        }
    }
    (reuses, violations)
}

struct History<'a> {
    evidence: &'a Evidence,
    timeline: &'a Timeline<'a>,
    /// The calls that presented a token which the provider had issued and either exchanged or found exchanged, in the order in
    /// which they reached it.
    by_token: BTreeMap<&'a str, Vec<&'a Call>>,
    journals_away: BTreeMap<&'a str, Vec<windows::Window>>,
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
        Self {
            evidence,
            timeline,
            by_token,
            journals_away: windows::journals_away(evidence),
        }
    }

    /// Each call that presented the token again needs a cause.
    fn reuses(&self, presented: &[&Call]) -> Vec<Reuse> {
        let exchanged = presented.iter().find(|call| call.outcome == "ok");
        let mut reuses = Vec::new();
        for pair in presented.windows(2) {
            let &[before, again] = pair else { continue };
            let cause = match exchanged {
                None => Err("the provider had never exchanged it".to_owned()),
                Some(_) if again.outcome == "ok" => self.overtaken(before, again),
                Some(_) if before.outcome == "ok" => self.lost(before, again),
                Some(exchanged) if exchanged.arrived_us() > again.arrived_us() => {
                    self.overtaken(again, exchanged)
                }
                // Refused before, which had ended the grant: no harm is done, but not without a pause.
                Some(_) => match self.tried_again(before, again) {
                    Ok(()) => continue,
                    Err(why) => Err(why),
                },
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

    /// The refusal was lost, or a back-off was kept.
    fn tried_again(&self, refused: &Call, again: &Call) -> Result<(), String> {
        let lost = self.never_arrived(refused).is_some() || self.interrupted(refused).is_some();
        let since = refused.answered_at_us.unwrap_or(refused.at_us);
        if lost || again.arrived_us() >= since + BACK_OFF_US {
            return Ok(());
        }
        Err(format!(
            "it had been refused {} ms before, and no back-off was kept",
            millis(again.arrived_us() - since)
        ))
    }

    /// The provider took the second call first: the first one was on its way, and nobody waited for it any more.
    fn overtaken(&self, first: &Call, second: &Call) -> Result<Cause, String> {
        let waited = second.arrived_us() - first.arrived_us();
        let killed = self.life(first).and_then(|life| life.killed);
        if let Some(at_us) = killed.filter(|at_us| *at_us <= second.arrived_us()) {
            return Ok(Cause::Overtaken(format!(
                "its sender was killed at {}",
                clock(at_us)
            )));
        }
        if waited >= LEASE_MARGIN_US && first.sender() != second.sender() {
            return Ok(Cause::Overtaken(format!(
                "it was delayed past its sender's lease: {} ms",
                millis(waited)
            )));
        }
        if first.sender() == second.sender()
            && let Some(how) = self.given_up(first, second.arrived_us())
        {
            return Ok(Cause::NeverArrived(how));
        }
        Err(format!(
            "the first call took effect later, and its sender was waiting for the response ({} ms after)",
            millis(waited)
        ))
    }

    /// The provider exchanged the token at the first call: what became of the response.
    fn lost(&self, first: &Call, second: &Call) -> Result<Cause, String> {
        let response = first.issued.as_deref().unwrap_or_default();
        let restored = self
            .timeline
            .restored_between(first.at_us, second.arrived_us());
        if let Some(used) = self.by_token.get(response).and_then(|calls| calls.first())
            && used.arrived_us() < second.arrived_us()
            && restored.is_none()
        {
            return Err(format!(
                "the response had arrived, for the token in it was presented at {}",
                clock(used.arrived_us())
            ));
        }
        let cause = self.cause(first, second, response)?;
        match self.disconnected(first, second) {
            Some(how) => Ok(Cause::Disconnected(how)),
            None => Ok(cause),
        }
    }

    fn cause(&self, first: &Call, second: &Call, response: &str) -> Result<Cause, String> {
        let synced = self.synced_before(response, second.arrived_us());
        let readable = synced.iter().find(|entry| self.can_read(second, entry));
        if let Some(entry) = readable {
            return self.synced_too_late(first, second, entry);
        }
        if let Some(entry) = synced.first() {
            return self.out_of_reach(first, second, entry);
        }
        if let Some(how) = self.never_arrived(first) {
            return Ok(Cause::NeverArrived(how));
        }
        if let Some(how) = self.interrupted(first) {
            return Ok(Cause::Interrupted(how));
        }
        if let Some(how) = self.disk_refused(first, second, response) {
            return Ok(Cause::DiskRefused(how));
        }
        Err(format!(
            "the response had arrived at {}, it was never synced, and nothing kept its refresher from that",
            clock(first.answered_at_us.unwrap_or_default())
        ))
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
        match self.interrupted(first) {
            Some(how) if !searched && self.is_stopped(first) => Ok(Cause::Interrupted(how)),
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
        if let Some(restored) = self
            .timeline
            .restored_between(first.at_us, second.arrived_us())
        {
            let until = (restored + RECOMMITTED_WITHIN_US).min(second.arrived_us());
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
        }
        // The lease is a little older than its call.
        let lease_us = SECOND_US * Micros::from(LEASE_SECS + ORPHAN_GRACE_SECS);
        let sent_after_us = SECOND_US * Micros::from(LEASE_SECS) - LEASE_MARGIN_US;
        let elapsed = second.arrived_us() - first.arrived_us();
        if elapsed < lease_us - sent_after_us {
            return Err(format!(
                "the response was in journal {journal} since {since}, and its refresher's lease and grace had not passed after {} ms",
                millis(elapsed)
            ));
        }
        Ok(Cause::OutOfReach(format!(
            "in journal {journal} since {since}, {} ms after the first call",
            millis(elapsed)
        )))
    }

    /// (a): by the simulator's log, and by whether anybody was there to read it.
    fn never_arrived(&self, call: &Call) -> Option<String> {
        if let Some(fault) = &call.fault
            && LOSES_THE_RESPONSE.contains(&fault.as_str())
        {
            return Some(format!("fault {fault}"));
        }
        let killed = self.life(call).and_then(|life| life.killed);
        if let Some(at_us) = killed
            && call.answered_at_us.is_none_or(|answered| at_us <= answered)
        {
            return Some(format!("its refresher was killed at {}", clock(at_us)));
        }
        if call.answered_at_us.is_none() {
            return Some("the provider did not send it".to_owned());
        }
        self.given_up(call, Micros::MAX)
    }

    /// Its sender waited no longer.
    fn given_up(&self, call: &Call, before_us: Micros) -> Option<String> {
        let answered = call.answered_at_us.unwrap_or(Micros::MAX);
        let arrived = call.arrived_us();
        let timeout_us = SECOND_US * Micros::from(CALL_TIMEOUT_SECS);
        // The call began a little before it arrived.
        let patience =
            timeout_us - 50_000 - self.timeline.late_within(arrived - timeout_us, timeout_us);
        let given_up = answered.min(before_us) >= arrived + patience;
        given_up.then(|| format!("it took {} ms", millis(answered.min(before_us) - arrived)))
    }

    /// (b): the signal that came before the response could be synced.
    fn interrupted(&self, call: &Call) -> Option<String> {
        let answered = call.answered_at_us?;
        let limit = self.timeline.synced_by(answered);
        let life = self.life(call)?;
        if let Some(killed) = life.killed
            && answered <= killed
            && killed <= limit
        {
            return Some(format!("its refresher was killed at {}", clock(killed)));
        }
        let mut stops = life.stops.iter();
        let stop = stops.find(|stop| stop.overlaps(answered, limit))?;
        Some(format!("its refresher was stopped at {}", clock(stop.from)))
    }

    fn is_stopped(&self, call: &Call) -> bool {
        let answered = call.answered_at_us.unwrap_or(call.at_us);
        let limit = self.timeline.synced_by(answered);
        self.life(call)
            .is_some_and(|life| life.stops.iter().any(|stop| stop.overlaps(answered, limit)))
    }

    /// (d): a commit takes no longer than a sync, but for the time in which the database was away.
    fn disk_refused(&self, first: &Call, second: &Call, response: &str) -> Option<String> {
        let answered = first.answered_at_us?;
        let (process, _) = first.sender()?;
        let noted = self.evidence.responses.refused.get(response);
        let noted = noted
            .and_then(|noted| noted.first())
            .map(|entry| entry.at_us);
        let away = self.journals_away.get(process);
        let is_away = away.is_some_and(|away| away.iter().any(|window| window.holds(answered)));
        let refused = noted.or(is_away.then_some(answered))?;
        let life = self.life(first)?;
        let stops = life.stops.iter().map(|stop| stop.from);
        let mut signals = life.killed.into_iter().chain(stops);
        let lost = signals.find(|signal| {
            *signal >= answered
                && *signal <= second.arrived_us()
                && *signal <= self.committed_by(refused)
        })?;
        Some(format!(
            "refused at {}, and its refresher was killed or stopped at {}",
            clock(refused),
            clock(lost)
        ))
    }

    fn committed_by(&self, from_us: Micros) -> Micros {
        let limit = self.timeline.synced_by(from_us);
        let away = self.timeline.database_away.iter();
        let away = away.filter(|window| window.overlaps(from_us, limit));
        let back = away.map(|window| window.until.unwrap_or(Micros::MAX));
        back.max().map_or(limit, |back| {
            self.timeline
                .synced_by(back.max(limit))
                .saturating_add(SECOND_US)
        })
    }

    /// (f): what is left of a connection that was disconnected between the two calls.
    fn disconnected(&self, first: &Call, second: &Call) -> Option<String> {
        let company = second.company_id?;
        let (at_us, _) = self
            .timeline
            .severed
            .get(&company)?
            .iter()
            .find(|(at_us, how)| {
                *how == Severed::Disconnected
                    && *at_us >= first.arrived_us()
                    && *at_us <= second.arrived_us()
            })?;
        let consents = self.timeline.consents.get(&company);
        let consented = consents.into_iter().flatten();
        let consented = consented
            .filter(|consent| consent.overlaps(*at_us, second.arrived_us()))
            .count();
        (consented == 0).then(|| format!("at {}", clock(*at_us)))
    }

    fn life<'b>(&'b self, call: &'b Call) -> Option<&'b LifeTime> {
        self.timeline.life(call.sender())
    }
}

fn millis(us: Micros) -> Micros {
    us / 1000
}
