//! What a run came to, in figures and words.

use std::collections::BTreeMap;
use std::fmt;

use super::Options;
use super::chronicle::{Blow, What};
use super::evidence::Evidence;
use super::judge::{Cause, Verdict};
use super::load::{Answered, Outcome};
use crate::measured::{Table, backend_name, grouped};

/// The figures of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    pub kills: usize,
    /// Of these, while the provider was answering the killed process.
    pub kills_at_commit_points: BTreeMap<String, usize>,
    pub stops: usize,
    pub restarts: usize,
    /// Starts that came to nothing, for want of a journal.
    pub refused_starts: usize,
    pub outages: usize,
    /// Token calls of refreshes, by what came of them.
    pub refreshes: BTreeMap<String, usize>,
    pub faults: usize,
    pub reuses_explained: usize,
    pub reuses_out_of_reach: usize,
    /// Of calls that the provider kept waiting, and whose senders were lost.
    pub reuses_overtaken: usize,
    pub reuses_unexplained: usize,
    /// Rows that were `reauth_required` at some time, by reason.
    pub deaths: BTreeMap<String, usize>,
    pub consents: usize,
    pub data: BTreeMap<String, usize>,
    pub webhook: BTreeMap<String, usize>,
}

/// A run as one row, beside which others of the same length stand.
pub fn table(options: &Options, figures: &Figures, verdict: &Verdict) -> Table<10> {
    let mut table = Table::new([
        "database",
        "seed",
        "kills and stops",
        "… at the provider's commit points",
        "refreshes",
        "refresh tokens seen again: after an answer that was never fsynced",
        "… whose journal was out of reach",
        "… by a call that took effect after its sender was lost",
        "… otherwise",
        "statements that did not hold",
    ]);
    table.row([
        backend_name(options.backend).to_owned(),
        options.seed.to_string(),
        grouped(figures.kills_and_stops()),
        grouped(figures.at_commit_points()),
        grouped(figures.refreshed()),
        grouped(figures.reuses_explained),
        grouped(figures.reuses_out_of_reach),
        grouped(figures.reuses_overtaken),
        grouped(figures.reuses_unexplained),
        grouped(verdict.violations.len()),
    ]);
    table
}

/// The points of a token call at which the simulator had the caller killed before it had the whole answer.
const COMMIT_POINTS: [&str; 3] = ["before_commit", "after_commit", "mid_answer"];

impl Figures {
    pub fn of(evidence: &Evidence, verdict: &Verdict) -> Self {
        let mut figures = Self {
            data: tally(&evidence.data),
            webhook: tally(&evidence.refreshes),
            ..Self::default()
        };
        for entry in &evidence.chronicle {
            match &entry.what {
                What::Struck { blow, why, .. } => match blow {
                    Blow::Kill => {
                        figures.kills += 1;
                        if COMMIT_POINTS.contains(&why.as_str()) {
                            count(&mut figures.kills_at_commit_points, why);
                        }
                    }
                    Blow::Stop => figures.stops += 1,
                    Blow::Terminate => figures.restarts += 1,
                    Blow::Continue => {}
                },
                What::Ended {
                    by_itself: true, ..
                } => figures.refused_starts += 1,
                What::Outage { .. } => figures.outages += 1,
                What::Mended { .. } => figures.consents += 1,
                _ => {}
            }
        }
        for call in evidence.calls.iter().filter(|call| call.call == "refresh") {
            count(&mut figures.refreshes, &call.outcome);
            figures.faults += usize::from(call.fault.is_some());
        }
        for reuse in &verdict.reuses {
            match &reuse.cause {
                Cause::Lost(_) => figures.reuses_explained += 1,
                Cause::Overtaken(_) => figures.reuses_overtaken += 1,
                Cause::OutOfReach(_) => figures.reuses_out_of_reach += 1,
                _ => figures.reuses_unexplained += 1,
            }
        }
        let at_rest = evidence.rows.iter();
        for row in at_rest.chain(&evidence.deaths) {
            if row.state == "reauth_required" {
                count(
                    &mut figures.deaths,
                    row.reason.as_deref().unwrap_or("no reason"),
                );
            }
        }
        figures
    }

    /// Kills at points that the provider chose.
    pub fn at_commit_points(&self) -> usize {
        self.kills_at_commit_points.values().sum()
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
            Outcome::Broken { .. } => count(&mut tally, "no answer"),
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
            "  at commit points   {} ({})",
            self.at_commit_points(),
            list(&self.kills_at_commit_points)
        )?;
        writeln!(f, "stops                {}", self.stops)?;
        writeln!(f, "rolling restarts     {}", self.restarts)?;
        writeln!(f, "outages              {}", self.outages)?;
        writeln!(f, "  starts refused     {}", self.refused_starts)?;
        writeln!(f, "refreshes            {}", list(&self.refreshes))?;
        writeln!(f, "  with a fault       {}", self.faults)?;
        writeln!(
            f,
            "reuses               {} never fsynced, {} out of reach, {} by delayed calls of the lost, {} unexplained",
            self.reuses_explained,
            self.reuses_out_of_reach,
            self.reuses_overtaken,
            self.reuses_unexplained
        )?;
        writeln!(f, "ended connections    {}", list(&self.deaths))?;
        writeln!(f, "new consents         {}", self.consents)?;
        writeln!(f, "data requests        {}", list(&self.data))?;
        writeln!(f, "refresh webhooks     {}", list(&self.webhook))
    }
}
