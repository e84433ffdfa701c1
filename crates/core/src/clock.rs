//! Time: the one place that asks for it, so that tests can turn it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An instant in UTC, cut to microseconds: what all three databases can hold.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(DateTime<Utc>);

impl Timestamp {
    /// The last instant that all three databases hold: due then = never due.
    pub fn far_future() -> Self {
        Self::from_unix_micros(253_402_300_799_999_999).expect("the year 9999 exists")
    }

    /// Cuts to microseconds, so that a value read back equals the one written.
    pub fn new(at: DateTime<Utc>) -> Self {
        Self(at.trunc_subsecs(6))
    }

    /// `None` outside of chrono's range (about ±262 000 years).
    pub fn from_unix_micros(micros: i64) -> Option<Self> {
        DateTime::from_timestamp_micros(micros).map(Self)
    }

    pub fn from_unix_secs(secs: f64) -> Option<Self> {
        let since = Duration::try_from_secs_f64(secs).ok()?;
        Self::from_unix_micros(i64::try_from(since.as_micros()).ok()?)
    }

    /// A time as databases, n8n and Pipedrive write it: RFC 3339 with `T` or a blank, in UTC where no zone is given; RFC 2822;
    /// or seconds or milliseconds since 1970.
    pub fn parse(text: &str) -> Option<Self> {
        const MILLISECONDS_FROM: f64 = 1e11;
        let text = text.trim();
        if let Ok(number) = text.parse::<f64>() {
            let is_in_millis = number >= MILLISECONDS_FROM;
            return Self::from_unix_secs(if is_in_millis {
                number / 1000.0
            } else {
                number
            });
        }
        if let Ok(at) = DateTime::parse_from_rfc2822(text) {
            return Some(Self::new(at.to_utc()));
        }
        let (date, clock) = text.split_once(['T', 't', ' '])?;
        let zone_at = clock.find(|c: char| !c.is_ascii_digit() && !matches!(c, ':' | '.'));
        let (clock, zone) = clock.split_at(zone_at.unwrap_or(clock.len()));
        let zone = match zone.trim() {
            "" | "Z" | "z" | "UTC" => "+00",
            offset => offset,
        };
        let text = format!("{date} {clock} {zone}");
        let at = DateTime::parse_from_str(&text, "%Y-%m-%d %H:%M:%S%.f %#z").ok()?;
        Some(Self::new(at.to_utc()))
    }

    pub fn unix_micros(self) -> i64 {
        self.0.timestamp_micros()
    }

    pub fn datetime(self) -> DateTime<Utc> {
        self.0
    }

    /// The largest representable instant where the sum lies beyond it.
    #[must_use]
    pub fn saturating_add(self, by: Duration) -> Self {
        TimeDelta::from_std(by)
            .ok()
            .and_then(|by| self.0.checked_add_signed(by))
            .map_or(Self(DateTime::<Utc>::MAX_UTC), Self::new)
    }

    /// The smallest representable instant where the difference lies before it.
    #[must_use]
    pub fn saturating_sub(self, by: Duration) -> Self {
        TimeDelta::from_std(by)
            .ok()
            .and_then(|by| self.0.checked_sub_signed(by))
            .map_or(Self(DateTime::<Utc>::MIN_UTC), Self::new)
    }

    /// How long after `earlier` this is; zero if it is not.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        (self.0 - earlier.0).to_std().unwrap_or_default()
    }
}

/// RFC 3339 with microseconds, in UTC.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// RFC 3339 with whole seconds: what people and Pipedrive read.
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_rfc3339_opts(SecondsFormat::Secs, true))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        DateTime::<Utc>::deserialize(deserializer).map(Self::new)
    }
}

/// Wall-clock time for what is stored, monotonic time for what is awaited.
pub trait Clock: fmt::Debug + Send + Sync {
    fn now(&self) -> Timestamp;

    /// Time since some fixed point in the life of this process; never goes back.
    fn monotonic(&self) -> Duration;
}

pub type SharedClock = Arc<dyn Clock>;

/// The machine's own clocks.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
}

impl SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the machine for the time"
    )]
    pub fn shared() -> SharedClock {
        Arc::new(Self {
            started: Instant::now(),
        })
    }
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the machine for the time"
    )]
    fn now(&self) -> Timestamp {
        Timestamp::new(Utc::now())
    }

    fn monotonic(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_whatever_its_zone_and_format() {
        let utc = Timestamp::parse("2026-11-21T19:41:37Z").unwrap();
        for same in [
            "2026-11-21T20:41:37+01:00",
            "2026-11-21 19:41:37",
            "2026-11-21 19:41:37.000 UTC",
            "2026-11-21 20:41:37.000+01",
            "2026-11-21T14:11:37.0-0530",
            "2026-11-21t19:41:37z",
            "Sat, 21 Nov 2026 19:41:37 +0000",
            "1795290097",
            "1795290097000",
        ] {
            assert_eq!(Timestamp::parse(same), Some(utc), "{same}");
        }
        for unknown in [
            "21/11/2026 19:41",
            "11/21/2026 7:41 PM",
            "2026-11-21",
            "yesterday",
            "-1",
            "inf",
            "",
        ] {
            assert_eq!(Timestamp::parse(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn arithmetic_stops_at_the_ends_of_time() {
        let at = Timestamp::from_unix_micros(1_000_000).unwrap();
        assert_eq!(
            at.saturating_add(Duration::MAX),
            Timestamp(DateTime::<Utc>::MAX_UTC)
        );
        assert_eq!(
            at.saturating_sub(Duration::MAX),
            Timestamp(DateTime::<Utc>::MIN_UTC)
        );
        assert_eq!(
            at.saturating_since(at.saturating_add(Duration::from_secs(1))),
            Duration::ZERO
        );
    }

    #[test]
    fn an_instant_survives_the_database_unit() {
        let at = Timestamp::new(DateTime::from_timestamp(1_700_000_000, 123_456_789).unwrap());
        assert_eq!(Timestamp::from_unix_micros(at.unix_micros()), Some(at));
        assert_eq!(at.to_string(), "2023-11-14T22:13:20.123456Z");
    }
}
