//! Values as people read them in a terminal, which is never sent what it would act on.

use std::fmt::Write as _;
use std::time::Duration;

use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::ConnectionState;
use pipekeeper_core::store::never;

/// What a provider or a caller named, with everything that moves a cursor or hides letters written out: `\u{1b}`.
pub(super) fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) {
            plain.extend(c.escape_unicode());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// The same for a JSON document, in which only strings can hold such characters: JSON asks for the first 32 of them alone.
pub(super) fn plain_json(document: &str) -> String {
    let mut plain = String::with_capacity(document.len());
    for c in document.chars() {
        if c != '\n' && is_unseen(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a String can't fail.
                let _ = write!(plain, "\\u{unit:04x}");
            }
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Control characters, and those that turn the direction of writing or take no room.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{feff}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

/// How far away: `in 59 min`, `8 min ago`.
pub(super) fn away(at: Timestamp, now: Timestamp) -> String {
    if at == never() {
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
    if at == never() {
        return "never".to_owned();
    }
    let date = at.datetime().format("%Y-%m-%d %H:%M:%S UTC");
    format!("{date} ({})", away(at, now))
}

/// `reauth_required (rejected)`
pub(super) fn state(state: ConnectionState, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{} ({})", state.as_str(), plain(reason)),
        None => state.as_str().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_unix_micros(1_800_000_000_000_000 + secs * 1_000_000).unwrap()
    }

    #[test]
    fn names_cannot_move_the_cursor_or_hide() {
        let name = "Acme\u{1b}[2J\r\n\u{9b}31m\u{202e}moc\u{200b}\u{7f} \u{e5}\u{1f980}";
        assert_eq!(
            plain(name),
            "Acme\\u{1b}[2J\\u{d}\\u{a}\\u{9b}31m\\u{202e}moc\\u{200b}\\u{7f} \u{e5}\u{1f980}"
        );
    }

    #[test]
    fn json_for_a_terminal_is_the_same_json() {
        let name = "Acme\u{1b}\u{9b}31m\u{202e}\u{7f} \"\u{e5}\u{1f980}\"\n";
        let document = serde_json::to_string_pretty(&[name, "b"]).unwrap();

        let plain = plain_json(&document);

        assert!(!plain.chars().any(|c| c != '\n' && is_unseen(c)), "{plain}");
        let read: Vec<String> = serde_json::from_str(&plain).unwrap();
        assert_eq!(read, [name, "b"]);
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
        assert_eq!(away(never(), at(0)), "never");
        assert_eq!(when(at(60), at(0)), "2027-01-15 08:01:00 UTC (in 60 s)");
        assert_eq!(when(never(), at(0)), "never");
    }
}
