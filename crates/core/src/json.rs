//! JSON as other systems write it. What is not quite JSON costs the member that it is in, not the members beside it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::str::Chars;

use serde_json::{Deserializer, Value};
use zeroize::Zeroizing;

const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// Stands for a character that could not be read.
const UNREADABLE: char = char::REPLACEMENT_CHARACTER;

/// `serde_json` itself follows 128 levels.
const DEPTH_MAX: usize = 100;

/// The text without the byte order mark that RFC 8259 §8.1 lets a reader ignore.
pub fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text)
}

/// The first value in `text`; null where there is none.
///
/// Beyond RFC 8259 it may begin with a byte order mark and be followed by anything. Within it, bytes that are not UTF-8,
/// lone surrogates and unknown escapes become U+FFFD; numbers out of range, `NaN` and the like, and what is nested deeper
/// than a hundred levels become null. Of two members with the same name the last one counts.
pub fn read(text: &[u8]) -> Value {
    let text = without_byte_order_mark(text);
    first_value(text)
        .or_else(|| first_value(repaired(text).as_bytes()))
        .unwrap_or_default()
}

/// A text that is not empty and that could be read from its first to its last character.
pub fn text(value: Option<&Value>) -> Option<&str> {
    value
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty() && !text.contains(UNREADABLE))
}

/// A [`text`] that is useful only exactly as it was sent, such as a token or an id: it has no control characters.
pub fn exact(value: Option<&Value>) -> Option<&str> {
    text(value).filter(|text| !text.contains(char::is_control))
}

fn first_value(text: &[u8]) -> Option<Value> {
    Deserializer::from_slice(text).into_iter().next()?.ok()
}

/// The first value in `text`, with a substitute for each piece that `serde_json` refuses.
fn repaired(text: &[u8]) -> Zeroizing<String> {
    const PUNCTUATION: &str = "{}[],:\" \t\r\n";
    let text = Zeroizing::new(String::from_utf8_lossy(text).into_owned());
    let mut repaired = Zeroizing::new(String::with_capacity(text.len() * 2));
    let mut depth = 0_usize;
    let mut rest = text.chars();
    loop {
        let from_here = rest.as_str();
        let Some(c) = rest.next() else { break };
        let piece: Cow<'_, str> = match c {
            '{' | '[' => {
                depth += 1;
                if depth == DEPTH_MAX + 1 {
                    repaired.push_str("null");
                }
                c.to_string().into()
            }
            '"' => string(&mut rest).into(),
            _ if PUNCTUATION.contains(c) => c.to_string().into(),
            _ => {
                let end = from_here.find(|c| PUNCTUATION.contains(c));
                let (word, after) = from_here.split_at(end.unwrap_or(from_here.len()));
                rest = after.chars();
                let is_value = serde_json::from_str::<Value>(word).is_ok();
                if is_value { word } else { "null" }.into()
            }
        };
        if depth <= DEPTH_MAX {
            repaired.push_str(&piece);
        }
        if matches!(c, '}' | ']') {
            depth = depth.saturating_sub(1);
            if depth == 0 {
                break;
            }
        }
    }
    repaired
}

/// A string behind its opening quote. One without an end stays without one.
fn string(rest: &mut Chars<'_>) -> String {
    let mut out = String::from('"');
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                out.push('"');
                break;
            }
            '\\' => push_escaped(&mut out, escaped(rest)),
            c => push_escaped(&mut out, c),
        }
    }
    out
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '"' | '\\' => out.extend(['\\', c]),
        c if c < ' ' => {
            let _never_fails = write!(out, "\\u{:04x}", u32::from(c));
        }
        c => out.push(c),
    }
}

/// The character that an escape sequence stands for (RFC 8259 §7), behind its backslash.
fn escaped(rest: &mut Chars<'_>) -> char {
    match rest.next() {
        Some(c @ ('"' | '\\' | '/')) => c,
        Some('b') => '\u{8}',
        Some('f') => '\u{c}',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('u') => {
            let Some(first) = code_unit(rest) else {
                return UNREADABLE;
            };
            if let Some(c) = char::from_u32(first.into()) {
                return c;
            }
            let mut ahead = rest.clone();
            let second = (ahead.next() == Some('\\') && ahead.next() == Some('u'))
                .then(|| code_unit(&mut ahead))
                .flatten();
            let pair = second.and_then(|second| char::decode_utf16([first, second]).next()?.ok());
            if pair.is_some() {
                *rest = ahead;
            }
            pair.unwrap_or(UNREADABLE)
        }
        _ => UNREADABLE,
    }
}

fn code_unit(rest: &mut Chars<'_>) -> Option<u16> {
    let (digits, after) = rest.as_str().split_at_checked(4)?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    let unit = u16::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
    *rest = after.chars();
    Some(unit)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_quite_json_costs_its_own_member_alone() {
        let deep = format!(r#"{{"a":{}1{},"b":2}}"#, "[".repeat(300), "]".repeat(300));
        for (text, a) in [
            (&b"\xEF\xBB\xBF{\"a\":1,\"b\":2}"[..], json!(1)),
            (b"{\"a\":1,\"b\":2}<!-- cached -->", json!(1)),
            (b"{\"a\":1,\"b\":2}\0\0", json!(1)),
            (b"{\"a\":1,\"b\":2}}", json!(1)),
            (b"{\"a\":0,\"b\":2,\"a\":1}", json!(1)),
            (b"{\"a\":0,\"a\":1e999,\"b\":2}", json!(null)),
            (b"{\"a\":NaN,\"b\":2}", json!(null)),
            (b"{\"a\":-Infinity,\"b\":2}", json!(null)),
            (b"{\"a\":[undefined, 1],\"b\":2}", json!([null, 1])),
            (b"{\"a\":0x1F,\"b\":2}", json!(null)),
            (b"{\"a\":\"caf\xE9\",\"b\":2}", json!("caf\u{FFFD}")),
            (br#"{"a":"caf\ud83d","b":2}"#, json!("caf\u{FFFD}")),
            (
                br#"{"a":"\ud83d\u0041 \udc00","b":2}"#,
                json!("\u{FFFD}A \u{FFFD}"),
            ),
            (
                br#"{"a":"\ud83d\ude00 \x41\u12","b":2}"#,
                json!("😀 \u{FFFD}41\u{FFFD}12"),
            ),
            (b"{\"a\":\"x\0\ty\\\"\\\\\",\"b\":2}", json!("x\0\ty\"\\")),
            (br#"{"a":"\u0000","b":2}"#, json!("\0")),
            (deep.as_bytes(), Value::Null),
        ] {
            let shown = String::from_utf8_lossy(text);
            let read = read(text);
            assert_eq!(read["b"], json!(2), "{shown}");
            if text.len() < 300 {
                assert_eq!(read["a"], a, "{shown}");
            }
        }
    }

    #[test]
    fn what_is_no_json_at_all_is_null() {
        for text in [
            &b""[..],
            b"<html><body>{}</body></html>",
            b"{\"a\":1",
            b"{\"a\":\"x",
            b"{\"a\":\"x\\",
            b"{\"a\":\"\\u00",
            b"{a:1}",
            b"null",
            b"\xFF\xFE{\0\"\0a\0\"\0:\0n\0}\0",
        ] {
            assert_eq!(read(text), Value::Null, "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn a_token_is_used_exactly_as_it_was_sent_or_not_at_all() {
        assert_eq!(exact(Some(&json!("a:b/+ü"))), Some("a:b/+ü"));
        for bad in [
            json!(""),
            json!("a\0"),
            json!("a\n"),
            json!("a\u{FFFD}"),
            json!(7),
        ] {
            assert_eq!(exact(Some(&bad)), None, "{bad}");
        }
        assert_eq!(exact(None), None);
    }
}
