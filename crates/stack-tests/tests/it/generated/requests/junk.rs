//! Values that are almost of use, and some that are of none.

use tools::rng::Rng;

pub(super) const NASTY: [&str; 40] = [
    "",
    " ",
    "0",
    "-1",
    "1e999",
    "NaN",
    "null",
    "true",
    "[]",
    "{}",
    "..",
    "../../etc/passwd",
    "%",
    "%zz",
    "%00",
    "%0d%0aX: y",
    "%FF%FE",
    "%C0%AF",
    "%ED%A0%80",
    "%E2%80%AE",
    "'",
    "\"",
    "' OR 1=1 --",
    "<script>alert(1)</script>",
    "${jndi:ldap://x}",
    "{{7*7}}",
    "\u{feff}",
    "é",
    "\u{202e}",
    "🌞",
    "𝒳",
    "ﬁ",
    "\\u0000",
    "\\",
    ";",
    "&",
    "=",
    "?",
    "#",
    "9999999999999999999999999999999999999999",
];

pub(super) const EMAILS: [&str; 8] = [
    "jane",
    "@",
    "a@",
    "@b",
    "jane@example.com\\u0000",
    "a b@c.d",
    "nobody@example.com",
    "a&fields=name@x.y",
];

pub(super) const KEYS: [&str; 14] = [
    "appId",
    "platform",
    "accountId",
    "owner",
    "connectionId",
    "generation",
    "deadline_ms",
    "person",
    "email",
    "client_id",
    "company_id",
    "user_id",
    "timestamp",
    "x",
];

/// Random text, fit for a query or a form.
pub(super) fn junk(rng: &mut Rng) -> String {
    match rng.below(12) {
        0 => {
            let bytes: Vec<u8> = (0..rng.below(40)).map(|_| rng.byte()).collect();
            url::form_urlencoded::byte_serialize(&bytes).collect()
        }
        1 => "x".repeat(rng.below(300)),
        2 => "9".repeat(rng.below(400)),
        3 => format!("1.1.{}", "0123456789abcdef".repeat(2)),
        4..=6 => {
            // Escaped as a browser would.
            let text = rng.one_of(&NASTY);
            text.bytes()
                .map(|b| {
                    if b.is_ascii_alphanumeric() {
                        char::from(b).to_string()
                    } else {
                        format!("%{b:02X}")
                    }
                })
                .collect()
        }
        7 => rng.one_of(&NASTY).to_owned(),
        _ => format!("w{:02x}", rng.byte()),
    }
}

/// JSON, valid for the most part.
pub(super) fn value(rng: &mut Rng, depth: usize) -> String {
    match rng.below(if depth > 3 { 9 } else { 12 }) {
        0 => rng.one_of(&["null", "true", "false"]).to_owned(),
        1 => rng
            .one_of(&[
                "0",
                "-0",
                "-1",
                "1.5",
                "1e308",
                "1e309",
                "-1e999",
                "18446744073709551616",
                "00",
                "+1",
                ".5",
            ])
            .to_owned(),
        2 => "9".repeat(1 + rng.below(400)),
        3 => format!("\"{}\"", "x".repeat(rng.below(400))),
        4 => format!("\"{}\"", rng.one_of(&EMAILS)),
        5 => rng
            .one_of(&[
                r#""\ud800""#,
                r#""\u0000""#,
                r#""\x""#,
                "\"",
                "\"\u{1}\"",
                r#""\udbff\udfff""#,
            ])
            .to_owned(),
        6 => rng.below(5).to_string(),
        7 | 8 => format!("\"{}\"", rng.one_of(&NASTY)),
        9 => {
            let items: Vec<_> = (0..rng.below(4)).map(|_| value(rng, depth + 1)).collect();
            format!("[{}]", items.join(","))
        }
        _ => {
            let members: Vec<_> = (0..rng.below(4))
                .map(|_| format!(r#""{}":{}"#, rng.one_of(&KEYS), value(rng, depth + 1)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
    }
}

pub(super) fn deep(rng: &mut Rng) -> String {
    let (open, close) = rng.one_of(&[("[", "]"), (r#"{"person":"#, "}"), (r#"{"appId":["#, "]}")]);
    let depth = 1 + rng.below(400);
    let closed = if rng.per_mille(500) {
        depth
    } else {
        rng.below(depth)
    };
    format!("{}1{}", open.repeat(depth), close.repeat(closed))
}

/// Flips, cuts, doubles or breaks the UTF-8 of a body.
pub(super) fn spoil(body: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(body.len());
    match rng.below(6) {
        0 => body.truncate(at),
        1 => body.insert(at, rng.byte()),
        2 => {
            if let Some(byte) = body.get_mut(at) {
                *byte ^= 1 << rng.below(8);
            }
        }
        3 => body.extend_from_slice(&[0xed, 0xa0, 0x80]),
        4 => body.extend_from_within(at..),
        _ => body.splice(..0, [0xef, 0xbb, 0xbf]).for_each(drop),
    }
}
