//! Values as people read them.

use std::time::Duration;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::ConnectionState;

use pipekeeper_core::terminal;

/// Longer names and errors end in `…` where a table has many columns.
const LONGEST: usize = 32;

/// How far away: `in 59 min`, `8 min ago`.
pub(super) fn away(at: Timestamp, now: Timestamp) -> String {
    if at == Timestamp::far_future() {
        "never".to_owned()
    } else if at > now {
        format!("in {}", span(at.saturating_since(now)))
    } else {
        format!("{} ago", span(now.saturating_since(at)))
    }
}

/// In the one unit that is neither zero nor hundreds of it.
fn span(length: Duration) -> String {
    let secs = length.as_secs();
    match secs {
        0..120 => format!("{secs} s"),
        120..7200 => format!("{} min", secs / 60),
        7200..172_800 => format!("{} h", secs / 3600),
        _ => format!("{} d", secs / 86_400),
    }
}

/// `2026-11-22 05:59:59 UTC (in 59 min)`
pub(super) fn when(at: Timestamp, now: Timestamp) -> String {
    if at == Timestamp::far_future() {
        return "never".to_owned();
    }
    let date = at.datetime().format("%Y-%m-%d %H:%M:%S UTC");
    format!("{date} ({})", away(at, now))
}

/// `reauth_required (rejected)`
pub(super) fn state(state: ConnectionState, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{} ({})", state.as_str(), terminal::plain(reason)),
        None => state.as_str().to_owned(),
    }
}

/// Up to 32 characters of the text.
pub(super) fn shortened(text: &str) -> String {
    if text.chars().nth(LONGEST).is_none() {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_unix_micros(1_800_000_000_000_000 + secs * 1_000_000).unwrap()
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let longest = "株".repeat(32);
        assert_eq!(shortened(&longest), longest);
        assert_eq!(shortened(&(longest + "式")), "株".repeat(31) + "…");
    }

    #[test]
    fn times_are_told_in_one_unit() {
        for (secs, expected) in [
            (0, "0 s ago"),
            (1, "in 1 s"),
            (-119, "119 s ago"),
            (120, "in 2 min"),
            (-7199, "119 min ago"),
            (7200, "in 2 h"),
            (172_799, "in 47 h"),
            (-172_800, "2 d ago"),
            (60 * 86_400, "in 60 d"),
        ] {
            assert_eq!(away(at(secs), at(0)), expected);
        }
        assert_eq!(away(Timestamp::far_future(), at(0)), "never");
        assert_eq!(when(at(60), at(0)), "2027-01-15 08:01:00 UTC (in 60 s)");
        assert_eq!(when(Timestamp::far_future(), at(0)), "never");
    }
}
