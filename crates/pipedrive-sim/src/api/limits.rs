//! Burst windows and daily budgets.

use std::collections::VecDeque;

use actix_web::HttpResponse;
use actix_web::http::header::{HeaderName, HeaderValue};

use crate::settings::{Plan, Settings};
use crate::world::people::Spent;

const WINDOW_MS: u64 = 2000;
const SEARCHES: usize = 10;
const DAILY_BASE: u64 = 30_000;
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// What the settings allow.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    burst: Option<usize>,
    daily: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exceeded {
    Daily,
    Burst,
}

/// What the rate headers say. The search window speaks for itself where it is the narrower one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rates {
    burst: Option<Window>,
    daily: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    limit: usize,
    remaining: usize,
    reset_secs: u64,
}

impl Limits {
    pub(crate) fn new(settings: &Settings) -> Self {
        let (burst, multiplier) = match settings.plan {
            Plan::Lite => (Some(80), Some(1)),
            Plan::Growth => (Some(160), Some(2)),
            Plan::Premium => (Some(400), Some(5)),
            Plan::Ultimate => (Some(480), Some(7)),
            Plan::Unlimited => (None, None),
        };
        let of_plan = multiplier.map(|multiplier| DAILY_BASE * multiplier * settings.seats);
        Self {
            burst,
            daily: settings.budget_tokens.or(of_plan),
        }
    }

    /// Refuses when what is left of today does not cover the cost; takes nothing yet.
    pub(crate) fn daily_check(
        self,
        spent: &mut Spent,
        cost: u64,
        now: u64,
    ) -> Result<(), Exceeded> {
        let Some(budget) = self.daily else {
            return Ok(());
        };
        let today = now / DAY_MS;
        if spent.day != today {
            *spent = Spent {
                day: today,
                tokens: 0,
            };
        }
        if spent.tokens + cost > budget {
            return Err(Exceeded::Daily);
        }
        Ok(())
    }

    /// Counts this request in its windows, unless one of them is full. A search counts in both.
    pub(crate) fn burst_take(
        self,
        calls: &mut VecDeque<u64>,
        searches: Option<&mut VecDeque<u64>>,
        now: u64,
    ) -> Result<Rates, (Exceeded, Rates)> {
        let Some(limit) = self.burst else {
            return Ok(Rates::default());
        };
        let mut rates = Rates::default();
        slide(calls, now);
        let mut full = calls.len() >= limit;
        let Some(searches) = searches else {
            if !full {
                calls.push_back(now);
            }
            rates.burst = Some(Window::of(calls, limit, now));
            return if full {
                Err((Exceeded::Burst, rates))
            } else {
                Ok(rates)
            };
        };
        slide(searches, now);
        full |= searches.len() >= SEARCHES;
        if !full {
            calls.push_back(now);
            searches.push_back(now);
        }
        rates.burst = Some(Window::of(searches, SEARCHES, now));
        if full {
            Err((Exceeded::Burst, rates))
        } else {
            Ok(rates)
        }
    }

    /// The budget, and what is left of it.
    pub(crate) fn daily_left(self, spent: &Spent) -> Option<(u64, u64)> {
        self.daily
            .map(|budget| (budget, budget.saturating_sub(spent.tokens)))
    }
}

impl Window {
    fn of(calls: &VecDeque<u64>, limit: usize, now: u64) -> Self {
        let oldest_leaves_in = calls.front().map_or(0, |at| at + WINDOW_MS - now);
        Self {
            limit,
            remaining: limit.saturating_sub(calls.len()),
            reset_secs: oldest_leaves_in.div_ceil(1000),
        }
    }
}

fn slide(calls: &mut VecDeque<u64>, now: u64) {
    while calls.front().is_some_and(|at| at + WINDOW_MS <= now) {
        calls.pop_front();
    }
}

impl Rates {
    pub(crate) fn with_daily(self, daily: Option<(u64, u64)>) -> Self {
        Self { daily, ..self }
    }

    pub(crate) fn write(self, answer: &mut HttpResponse) {
        let headers = answer.headers_mut();
        let mut put = |name: &'static str, value: HeaderValue| {
            headers.insert(HeaderName::from_static(name), value);
        };
        if let Some(window) = self.burst {
            put("x-ratelimit-limit", window.limit.into());
            put("x-ratelimit-remaining", window.remaining.into());
            put("x-ratelimit-reset", window.reset_secs.into());
        }
        if let Some((budget, left)) = self.daily {
            put("x-daily-ratelimit-token-limit", budget.into());
            put("x-daily-ratelimit-token-remaining", left.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(plan: Plan, budget_tokens: Option<u64>) -> Limits {
        Limits::new(&Settings {
            plan,
            budget_tokens,
            ..Settings::default()
        })
    }

    #[test]
    fn the_window_rolls() {
        let limits = limits(Plan::Lite, None);
        let mut calls = VecDeque::new();
        for n in 0..80 {
            assert!(limits.burst_take(&mut calls, None, 1000 + n).is_ok());
        }

        let (exceeded, rates) = limits.burst_take(&mut calls, None, 2500).unwrap_err();
        assert_eq!(exceeded, Exceeded::Burst);
        let window = Window {
            limit: 80,
            remaining: 0,
            reset_secs: 1,
        };
        assert_eq!(rates.burst, Some(window));

        assert!(limits.burst_take(&mut calls, None, 3000).is_ok());
        assert!(limits.burst_take(&mut calls, None, 3000).is_err());
    }

    #[test]
    fn searches_have_a_window_of_their_own() {
        let limits = limits(Plan::Ultimate, None);
        let (mut calls, mut searches) = (VecDeque::new(), VecDeque::new());
        for _ in 0..10 {
            assert!(
                limits
                    .burst_take(&mut calls, Some(&mut searches), 1000)
                    .is_ok()
            );
        }

        assert!(
            limits
                .burst_take(&mut calls, Some(&mut searches), 1000)
                .is_err()
        );
        assert!(limits.burst_take(&mut calls, None, 1000).is_ok());
    }

    #[test]
    fn a_budget_lasts_until_midnight() {
        let limits = limits(Plan::Unlimited, Some(40));
        let mut spent = Spent::default();
        for _ in 0..2 {
            assert_eq!(limits.daily_check(&mut spent, 20, 5), Ok(()));
            spent.tokens += 20;
        }

        assert_eq!(limits.daily_check(&mut spent, 2, 5), Err(Exceeded::Daily));
        assert_eq!(limits.daily_check(&mut spent, 2, DAY_MS), Ok(()));
    }

    #[test]
    fn without_a_plan_nothing_is_counted() {
        let limits = limits(Plan::Unlimited, None);
        let mut calls = VecDeque::new();

        assert_eq!(limits.burst_take(&mut calls, None, 1), Ok(Rates::default()));
        assert!(calls.is_empty());
    }
}
