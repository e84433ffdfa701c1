//! What a run came to, in figures and words.

use std::collections::BTreeMap;
use std::fmt;

use super::checker::{Cause, Verdict};
use super::event_log::{Event, Signal};
use super::evidence::Evidence;
use super::stack::load::{Answered, Outcome};
use super::{Options, Program};
use crate::results::{Table, backend_name, grouped};

/// The figures of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    pub kills: usize,
    /// Of these, those that were aimed at a token call, by the point of the call.
    pub kills_in_calls: BTreeMap<String, usize>,
    pub stops: usize,
    pub restarts: usize,
    /// Starts that came to nothing, for want of a journal.
    pub refused_starts: usize,
    pub outages: usize,
    /// Refresh calls whose responses were lost to signals, and those that were under way at these signals.
    pub lost_to_signals: usize,
    pub under_way: usize,
    /// Connections that were ended.
    pub severed: usize,
    /// Token calls of refreshes, by what came of them.
    pub refreshes: BTreeMap<String, usize>,
    pub faults: usize,
    pub reuses: Reuses,
    /// Rows that were `reauth_required` at some time, by reason.
    pub ended: BTreeMap<String, usize>,
    pub consents: usize,
    pub data: BTreeMap<String, usize>,
    pub webhook: BTreeMap<String, usize>,
    /// Hundredths of a per cent of the data requests that had all they need.
    pub availability: usize,
}

/// Reuses of refresh tokens by their cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reuses {
    pub never_arrived: usize,
    pub interrupted: usize,
    pub out_of_reach: usize,
    pub disk_refused: usize,
    pub overtaken: usize,
    pub disconnected: usize,
    /// After a refusal.
    pub tried_again: usize,
    pub without_cause: usize,
}

/// A run as one row, beside which others of the same length stand.
pub fn table(options: &Options, figures: &Figures, verdict: &Verdict) -> Table<14> {
    let mut table = Table::new([
        "database",
        "token-refresher",
        "seed",
        "kills and stops",
        "… in token calls",
        "refreshes",
        "tokens presented again: the response never arrived",
        "… killed or stopped before the fsync",
        "… fsynced out of reach",
        "… refused by the disk",
        "… the first call was overtaken",
        "… disconnected in doubt",
        "data requests that succeeded",
        "violations",
    ]);
    let reuses = figures.reuses;
    let program = match options.program {
        Program::Product => "the product's",
        Program::Injected { .. } => "injected",
    };
    let [whole, hundredths] = [figures.availability / 100, figures.availability % 100];
    table.row([
        backend_name(options.backend).to_owned(),
        program.to_owned(),
        options.seed.to_string(),
        grouped(figures.kills_and_stops()),
        grouped(figures.in_calls()),
        grouped(figures.refreshed()),
        grouped(reuses.never_arrived),
        grouped(reuses.interrupted),
        grouped(reuses.out_of_reach),
        grouped(reuses.disk_refused),
        grouped(reuses.overtaken),
        grouped(reuses.disconnected),
        format!("{whole}.{hundredths:02} %"),
        grouped(verdict.violations.len()),
    ]);
    table
}

impl Figures {
    pub fn of(evidence: &Evidence, verdict: &Verdict) -> Self {
        let refreshes: Vec<Answered> = evidence
            .refreshes
            .iter()
            .map(|asked| asked.answered.clone())
            .collect();
        let mut figures = Self {
            data: tally(&evidence.data),
            webhook: tally(&refreshes),
            availability: verdict.availability.per_ten_thousand(),
            lost_to_signals: verdict.lost.responses,
            under_way: verdict.lost.under_way,
            ..Self::default()
        };
        for entry in &evidence.event_log {
            figures.count_event(&entry.event);
        }
        for call in evidence.calls.iter().filter(|call| call.call == "refresh") {
            count(&mut figures.refreshes, &call.outcome);
            figures.faults += usize::from(call.fault.is_some());
        }
        let reuses = &mut figures.reuses;
        for reuse in &verdict.reuses {
            *match &reuse.cause {
                Ok(Cause::NeverArrived(_)) => &mut reuses.never_arrived,
                Ok(Cause::Interrupted(_)) => &mut reuses.interrupted,
                Ok(Cause::OutOfReach(_)) => &mut reuses.out_of_reach,
                Ok(Cause::DiskRefused(_)) => &mut reuses.disk_refused,
                Ok(Cause::Overtaken(_)) => &mut reuses.overtaken,
                Ok(Cause::Disconnected(_)) => &mut reuses.disconnected,
                Ok(Cause::TriedAgain(_)) => &mut reuses.tried_again,
                Err(_) => &mut reuses.without_cause,
            } += 1;
        }
        let rows = evidence.rows.iter().chain(&evidence.ended);
        for row in rows.filter(|row| row.state == "reauth_required") {
            let reason = row.reason.as_deref().unwrap_or("no reason");
            count(&mut figures.ended, reason);
        }
        figures
    }

    fn count_event(&mut self, event: &Event) {
        match event {
            Event::Signal { signal, why, .. } => match signal {
                Signal::Kill => {
                    self.kills += 1;
                    if super::stack::in_call::is_in_call(why) {
                        count(&mut self.kills_in_calls, why);
                    }
                }
                Signal::Stop => self.stops += 1,
                Signal::Terminate => self.restarts += 1,
                Signal::Continue => {}
            },
            Event::Ended { unasked: true, .. } => self.refused_starts += 1,
            Event::Outage { .. } => self.outages += 1,
            Event::Severed { .. } => self.severed += 1,
            Event::Consented { .. } => self.consents += 1,
            _ => {}
        }
    }

    /// Kills at points of a token call that the provider chose.
    pub fn in_calls(&self) -> usize {
        self.kills_in_calls.values().sum()
    }

    pub fn kills_and_stops(&self) -> usize {
        self.kills + self.stops
    }

    /// Refreshes that took effect at the provider.
    pub fn refreshed(&self) -> usize {
        self.refreshes.get("ok").copied().unwrap_or_default()
    }
}

fn count(tally: &mut BTreeMap<String, usize>, what: &str) {
    *tally.entry(what.to_owned()).or_default() += 1;
}

fn tally(answers: &[Answered]) -> BTreeMap<String, usize> {
    let mut tally = BTreeMap::new();
    for answered in answers {
        match &answered.outcome {
            Outcome::Right => count(&mut tally, "200"),
            Outcome::Wrong { .. } => count(&mut tally, "wrong"),
            Outcome::Status { status, code, .. } => count(&mut tally, &format!("{status} {code}")),
            Outcome::Broken { .. } => count(&mut tally, "no response"),
        }
    }
    tally
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |tally: &BTreeMap<String, usize>| {
            let parts: Vec<_> = tally
                .iter()
                .map(|(what, n)| format!("{what}: {n}"))
                .collect();
            parts.join(", ")
        };
        writeln!(f, "kills                {}", self.kills)?;
        writeln!(
            f,
            "  in token calls     {} ({})",
            self.in_calls(),
            list(&self.kills_in_calls)
        )?;
        writeln!(f, "stops                {}", self.stops)?;
        writeln!(f, "rolling restarts     {}", self.restarts)?;
        writeln!(f, "outages              {}", self.outages)?;
        writeln!(f, "  starts refused     {}", self.refused_starts)?;
        writeln!(f, "connections ended    {}", self.severed)?;
        writeln!(f, "refreshes            {}", list(&self.refreshes))?;
        writeln!(f, "  with a fault       {}", self.faults)?;
        writeln!(f, "presented again      {}", self.reuses)?;
        writeln!(
            f,
            "lost to signals      {} responses, of {} calls under way",
            self.lost_to_signals, self.under_way
        )?;
        writeln!(f, "reauth_required      {}", list(&self.ended))?;
        writeln!(f, "new consents         {}", self.consents)?;
        writeln!(f, "data requests        {}", list(&self.data))?;
        writeln!(
            f,
            "  that had all       {}.{:02} % succeeded",
            self.availability / 100,
            self.availability % 100
        )?;
        writeln!(f, "refresh webhooks     {}", list(&self.webhook))
    }
}

impl fmt::Display for Reuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} never arrived, {} killed or stopped before the fsync, {} out of reach, {} refused by the disk, {} overtaken, {} disconnected in doubt, {} tried again after a refusal, {} without a cause",
            self.never_arrived,
            self.interrupted,
            self.out_of_reach,
            self.disk_refused,
            self.overtaken,
            self.disconnected,
            self.tried_again,
            self.without_cause
        )
    }
}
