//! What is sent: mostly almost right.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pipedrive_sim::{DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET};
use stack_tests::Client;
use stack_tests::client::{CALLBACK, PERSON, REFRESH};

use super::dice::Dice;

const MAX_BODY: usize = 64 * 1024;

/// What a generated request may hit upon.
pub(super) struct Known {
    pub(super) client: Client,
    pub(super) connection: String,
}

/// One request, as it goes over the wire.
pub(super) struct Request {
    pub(super) bytes: Vec<u8>,
    /// Not HTTP by its own fault.
    pub(super) is_broken: bool,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.bytes[..self.bytes.len().min(3000)];
        write!(f, "{} bytes: {}", self.bytes.len(), shown.escape_ascii())
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Route {
    Callback,
    Notice,
    Login,
    Person,
    Refresh,
    Nowhere,
}

const NASTY: [&str; 40] = [
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

const EMAILS: [&str; 8] = [
    "jane",
    "@",
    "a@",
    "@b",
    "jane@example.com\\u0000",
    "a b@c.d",
    "nobody@example.com",
    "a&fields=name@x.y",
];

const KEYS: [&str; 14] = [
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

impl Route {
    pub(super) const ALL: [Self; 6] = [
        Self::Callback,
        Self::Notice,
        Self::Login,
        Self::Person,
        Self::Refresh,
        Self::Nowhere,
    ];

    pub(super) fn seed(self) -> u64 {
        match self {
            Self::Callback => 11,
            Self::Notice => 22,
            Self::Login => 33,
            Self::Person => 44,
            Self::Refresh => 55,
            Self::Nowhere => 66,
        }
    }

    pub(super) fn service<'a>(self, known: &'a Known, dice: &mut Dice) -> &'a str {
        let client = &known.client;
        match self {
            Self::Callback | Self::Notice | Self::Login => &client.auth_capture,
            Self::Person => &client.data_api,
            Self::Refresh => &client.token_refresher,
            // A batch each: one connection serves one service.
            Self::Nowhere => match dice.below(3) {
                0 => &client.auth_capture,
                1 => &client.data_api,
                _ => &client.token_refresher,
            },
        }
    }

    pub(super) fn request(self, known: &Known, dice: &mut Dice) -> Request {
        let mut draft = match self {
            Self::Callback => callback(dice),
            Self::Notice => notice(dice),
            Self::Login => login(dice),
            Self::Person => person(known, dice),
            Self::Refresh => refresh(known, dice),
            Self::Nowhere => nowhere(dice),
        };
        if dice.per_mille(15) {
            draft.method = dice.one_of(&[
                "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW", "get",
            ]);
        }
        draft.odd_headers(dice);
        draft.odd_body(dice);
        draft.write(dice)
    }
}

/// A request before it is written down.
struct Draft {
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Option<Vec<u8>>,
}

impl Draft {
    fn new(method: &'static str, target: String) -> Self {
        Self {
            method,
            target,
            headers: Vec::new(),
            body: None,
        }
    }

    fn credentials(&mut self, dice: &mut Dice, user: &str, password: &str, right_per_mille: usize) {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let value = if dice.per_mille(right_per_mille) {
            basic(&format!("{user}:{password}"))
        } else {
            match dice.below(9) {
                0 => return,
                1 => basic(&format!("{user}:wrong")),
                2 => basic(&format!("wrong:{password}")),
                3 => basic("nocolon"),
                4 => "Basic".to_owned(),
                5 => format!("Basic {}", dice.one_of(&NASTY)),
                6 => "Bearer v1u-not-a-token".to_owned(),
                7 => format!("Basic {}", "A".repeat(dice.below(3000))),
                _ => format!("Basic {}", STANDARD.encode([0xff, 0xfe, b':', dice.byte()])),
            }
        };
        let value = value
            .into_bytes()
            .into_iter()
            .filter(|b| *b >= b' ')
            .collect();
        self.headers.push(("authorization", value));
    }

    fn odd_headers(&mut self, dice: &mut Dice) {
        if dice.per_mille(300) {
            let accept = dice.one_of(&[
                "*/*",
                "application/json",
                "text/html",
                "text/plain;q=0",
                ";;;",
                "é",
                "",
            ]);
            self.headers.push(("accept", accept.into()));
        }
        if dice.per_mille(100) {
            let id = dice.one_of(&[
                "abc",
                "a b",
                "",
                "\t",
                "é",
                "../..",
                "x-y_z.1",
                "00000000000000000000000000000000",
            ]);
            self.headers.push(("x-request-id", id.into()));
        }
        if dice.per_mille(100) {
            let parent = dice.one_of(&[
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "00-0af7",
                "é",
                "00-00000000000000000000000000000000-0-0",
                "",
            ]);
            self.headers.push(("traceparent", parent.into()));
        }
        if dice.per_mille(60) {
            let cookie = dice.one_of(&[
                "pipekeeper-login=",
                "a=b; ;;=",
                "é=é",
                "pipekeeper-login=x; pipekeeper-login=y",
                "\"",
            ]);
            self.headers.push(("cookie", cookie.into()));
        }
        if dice.per_mille(30) {
            let mut junk: Vec<u8> = (0..dice.below(60)).map(|_| dice.byte()).collect();
            junk.retain(|b| *b >= b' ' && *b != 0x7f);
            self.headers.push(("x-junk", junk));
        }
        if dice.per_mille(20) {
            let (name, value) = dice.one_of(&[
                ("expect", "100-continue"),
                ("content-encoding", "gzip"),
                ("origin", "null"),
                ("range", "bytes=0-"),
                ("upgrade", "h2c"),
                ("x-forwarded-host", "evil.example"),
                ("x-http-method-override", "DELETE"),
                ("content-type", "é"),
                ("if-match", "*"),
                ("te", "trailers"),
                ("connection", "close"),
            ]);
            self.headers.push((name, value.into()));
        }
    }

    fn odd_body(&mut self, dice: &mut Dice) {
        let takes_body = matches!(self.method, "POST" | "PUT" | "PATCH" | "DELETE");
        if takes_body && dice.below(2500) == 0 {
            let length = dice.one_of(&[MAX_BODY - 1, MAX_BODY, MAX_BODY + 1]);
            let mut body = self.body.take().unwrap_or_default();
            body.resize(length, b' ');
            self.body = Some(body);
        } else if takes_body && dice.below(25_000) == 0 {
            let megabyte: Vec<u8> = (0..16_384).map(|_| dice.byte()).collect();
            self.body = Some(megabyte.repeat(64));
        } else if let Some(body) = &mut self.body
            && dice.per_mille(350)
        {
            spoil(body, dice);
        }
    }

    fn write(self, dice: &mut Dice) -> Request {
        let mut is_broken = false;
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(self.method.as_bytes());
        bytes.push(b' ');
        for byte in self.target.bytes() {
            // A blank or a control character would end the target: that request is no HTTP.
            if byte > b' ' && byte != 0x7f {
                bytes.push(byte);
            }
        }
        is_broken |= self
            .target
            .bytes()
            .any(|b| !b.is_ascii() || b"\"<>\\^`{|}#".contains(&b));
        bytes.extend_from_slice(b" HTTP/1.1\r\nhost: localhost\r\n");
        if dice.per_mille(5) {
            is_broken = true;
            let line = dice.one_of(&[
                "x y: z",
                ": empty",
                "content-length: -1",
                "content-length: 1, 2",
                "transfer-encoding: chunked, identity",
                "no colon at all",
                "host: second",
                "\u{0}: x",
                "x: \u{0}",
            ]);
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        for (name, value) in &self.headers {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        }
        match self.body {
            None => bytes.extend_from_slice(b"\r\n"),
            Some(body) if dice.per_mille(40) => {
                bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                for chunk in body.chunks(1 + dice.below(body.len().max(1))) {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
            Some(body) => {
                bytes.extend_from_slice(
                    format!("content-length: {}\r\n\r\n", body.len()).as_bytes(),
                );
                bytes.extend_from_slice(&body);
            }
        }
        Request { bytes, is_broken }
    }
}

fn callback(dice: &mut Dice) -> Draft {
    let path = dice.one_of(&[
        CALLBACK,
        CALLBACK,
        "/auth/callback",
        "/webhook/pipedrive/callback",
        "/auth/callback/",
        "/webhook/unknown/callback",
        "/webhook/pipedrive/callback/pipedrive",
        "/webhook/pipedrive/callback/unknown",
        "/webhook/%ff/callback/%00",
    ]);
    let mut query = Vec::new();
    match dice.below(10) {
        // Few: each is an exchange at the provider.
        0 => query.push(("code", junk(dice))),
        1 | 2 => {
            query.push(("code", junk(dice)));
            query.push(("state", format!("s{}", junk(dice))));
        }
        3 => query.push(("state", junk(dice))),
        4 | 5 => query.push(("error", junk(dice))),
        6 => query.extend([("code", junk(dice)), ("code", junk(dice))]),
        7 => query.extend([("error", junk(dice)), ("code", junk(dice))]),
        8 => query.push(("code", String::new())),
        _ => query.push((dice.one_of(&KEYS), junk(dice))),
    }
    Draft::new("GET", with_query(path, &query, dice))
}

fn notice(dice: &mut Dice) -> Draft {
    let path = dice.one_of(&[
        CALLBACK,
        "/auth/callback",
        "/webhook/pipedrive/callback",
        "/webhook/x/callback/y",
    ]);
    let mut draft = Draft::new("DELETE", path.to_owned());
    draft.credentials(dice, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, 400);
    let unreadable = [
        "\"yesterday\"",
        "1e99",
        "null",
        "\"\"",
        "-9223372036854775808",
        "[]",
        "{}",
        "true",
    ];
    let readable = [
        "\"2020-01-01 00:00:00\"",
        "\"2999-01-01T00:00:00Z\"",
        "1577836800",
        "32503680000000",
    ];
    // A time that can't be read would be checked by a refresh, and the next one, a moment later, could not be.
    let (company, user, time) = if dice.per_mille(100) {
        (
            dice.one_of(&["1", "\"1\""]),
            dice.one_of(&["2", "\"2\""]),
            dice.one_of(&readable),
        )
    } else {
        let company = dice.one_of(&[
            "1",
            "2",
            "\"x\"",
            "1.0",
            "99999999999999999999",
            "null",
            "[]",
        ]);
        let user = dice.one_of(&["7", "\"\"", "-1", "2e0", "{}", "\"1 \""]);
        (
            company,
            user,
            if dice.per_mille(500) {
                dice.one_of(&readable)
            } else {
                dice.one_of(&unreadable)
            },
        )
    };
    let client = dice.one_of(&[DEFAULT_CLIENT_ID, "other", ""]);
    let body = format!(
        r#"{{"client_id":"{client}","company_id":{company},"user_id":{user},"timestamp":{time},"{}":{}}}"#,
        dice.one_of(&KEYS),
        value(dice, 0)
    );
    draft.body = Some(body.into_bytes());
    draft
}

fn login(dice: &mut Dice) -> Draft {
    let mut query = Vec::new();
    match dice.below(40) {
        // Few: each writes a row.
        0 => {}
        1..=12 => query.push((
            dice.one_of(&["provider", "app"]),
            format!("x{}", junk(dice)),
        )),
        13..=20 => query.push((dice.one_of(&["account_id", "owner"]), junk(dice))),
        21..=24 => query.extend([("account_id", junk(dice)), ("account_id", junk(dice))]),
        _ => query.extend([
            ("account_id", format!("~{}", junk(dice))),
            ("owner", junk(dice)),
        ]),
    }
    let mut draft = Draft::new("GET", with_query("/auth/login", &query, dice));
    draft.credentials(dice, "operator", "webhook-password", 500);
    draft
}

fn person(known: &Known, dice: &mut Dice) -> Draft {
    let path = dice.one_of(&[
        PERSON,
        "/webhook/pipedrive/person",
        "/webhook/pipedrive/person/",
    ]);
    let query = match dice.below(20) {
        0 => vec![(
            "full",
            dice.one_of(&["true", "false", "1", "", "%ff"]).to_owned(),
        )],
        1 => vec![("x", junk(dice))],
        _ => Vec::new(),
    };
    let mut draft = Draft::new("POST", with_query(path, &query, dice));
    draft.credentials(
        dice,
        &known.client.webhook.0,
        known.client.webhook.1.expose(),
        600,
    );
    let body = match dice.below(12) {
        // Few: each is a call of the provider's.
        0 if dice.per_mille(300) => {
            format!(
                r#"{{"person":{{"email":"{}"}},"accountId":"~pipedrive:4711"}}"#,
                dice.one_of(&EMAILS)
            )
        }
        0..=3 => format!(r#"{{"person":{{"email":{}}}}}"#, value(dice, 0)),
        4..=6 => format!(
            r#"{{"person":{{"email":"a@b.c"}},"{}":{},"accountId":"no{}"}}"#,
            dice.one_of(&KEYS),
            value(dice, 0),
            dice.byte()
        ),
        7 | 8 => format!(r#"{{"person":{}}}"#, value(dice, 0)),
        9 => deep(dice),
        _ => value(dice, 0),
    };
    draft.body = Some(body.into_bytes());
    draft
}

fn refresh(known: &Known, dice: &mut Dice) -> Draft {
    let path = dice.one_of(&[
        REFRESH,
        "/webhook/pipedrive/refresh",
        "/webhook/pipedrive/refresh/",
    ]);
    let mut draft = Draft::new("POST", path.to_owned());
    draft.credentials(
        dice,
        &known.client.refresher.0,
        known.client.refresher.1.expose(),
        600,
    );
    let id = &known.connection;
    let body = match dice.below(14) {
        0 => format!(
            r#"{{"connectionId":"{id}","generation":{},"deadline_ms":{}}}"#,
            value(dice, 2),
            value(dice, 2)
        ),
        1 => format!(r#"{{"connectionId":{},"generation":1}}"#, value(dice, 1)),
        2 => format!(
            r#"{{"appId":"{DEFAULT_CLIENT_ID}","accountId":{},"owner":{}}}"#,
            value(dice, 1),
            value(dice, 1)
        ),
        3..=5 => {
            let content_type = dice.one_of(&[
                "application/x-www-form-urlencoded",
                "APPLICATION/X-WWW-FORM-URLENCODED; charset=x",
                "application/json",
            ]);
            draft.headers.push(("content-type", content_type.into()));
            let pairs: Vec<_> = (0..dice.below(6))
                .map(|_| format!("{}={}", dice.one_of(&KEYS), junk(dice)))
                .collect();
            pairs.join("&")
        }
        6 => deep(dice),
        _ => {
            let members: Vec<_> = (0..dice.below(5))
                .map(|_| format!(r#""{}":{}"#, dice.one_of(&KEYS), value(dice, 0)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
    };
    draft.body = Some(body.into_bytes());
    draft
}

fn nowhere(dice: &mut Dice) -> Draft {
    let method = dice.one_of(&["GET", "POST", "DELETE", "PUT", "OPTIONS", "PATCH", "BREW"]);
    let mut target = match dice.below(8) {
        0 => "*".to_owned(),
        1 => format!("http://evil.example/{}", junk(dice)),
        2 => format!("/webhook/{}", junk(dice)),
        3 => format!("/{}/../{}", junk(dice), junk(dice)),
        4 => "/".repeat(1 + dice.below(200)),
        5 => format!("/{}", "a/".repeat(dice.below(2000))),
        6 => dice
            .one_of(&[
                "/healthz/",
                "/readyz",
                "/metrics",
                "/openapi.jsonx",
                "/export/deals",
                "/proxy/x",
            ])
            .to_owned(),
        _ => format!("/{}?{}={}", junk(dice), junk(dice), junk(dice)),
    };
    if dice.per_mille(2) {
        target = format!("/{}", "x".repeat(60_000));
    }
    let mut draft = Draft::new(method, target);
    if dice.per_mille(300) {
        draft.body = Some(value(dice, 0).into_bytes());
    }
    draft
}

/// A text of no use, fit for a query or a form.
fn junk(dice: &mut Dice) -> String {
    match dice.below(12) {
        0 => {
            let bytes: Vec<u8> = (0..dice.below(40)).map(|_| dice.byte()).collect();
            url::form_urlencoded::byte_serialize(&bytes).collect()
        }
        1 => "x".repeat(dice.below(300)),
        2 => "9".repeat(dice.below(400)),
        3 => format!("1.1.{}", "0123456789abcdef".repeat(2)),
        4..=6 => {
            // Escaped as a browser would.
            let text = dice.one_of(&NASTY);
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
        7 => dice.one_of(&NASTY).to_owned(),
        _ => format!("w{:02x}", dice.byte()),
    }
}

fn with_query(path: &str, query: &[(&str, String)], dice: &mut Dice) -> String {
    let mut target = path.to_owned();
    for (index, (key, value)) in query.iter().enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        target.push_str(key);
        if !dice.per_mille(20) {
            target.push('=');
        }
        target.push_str(value);
    }
    target
}

/// JSON, valid for the most part.
fn value(dice: &mut Dice, depth: usize) -> String {
    match dice.below(if depth > 3 { 9 } else { 12 }) {
        0 => dice.one_of(&["null", "true", "false"]).to_owned(),
        1 => dice
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
        2 => "9".repeat(1 + dice.below(400)),
        3 => format!("\"{}\"", "x".repeat(dice.below(400))),
        4 => format!("\"{}\"", dice.one_of(&EMAILS)),
        5 => dice
            .one_of(&[
                r#""\ud800""#,
                r#""\u0000""#,
                r#""\x""#,
                "\"",
                "\"\u{1}\"",
                r#""\udbff\udfff""#,
            ])
            .to_owned(),
        6 => dice.below(5).to_string(),
        7 | 8 => format!("\"{}\"", dice.one_of(&NASTY)),
        9 => {
            let items: Vec<_> = (0..dice.below(4)).map(|_| value(dice, depth + 1)).collect();
            format!("[{}]", items.join(","))
        }
        _ => {
            let members: Vec<_> = (0..dice.below(4))
                .map(|_| format!(r#""{}":{}"#, dice.one_of(&KEYS), value(dice, depth + 1)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
    }
}

fn deep(dice: &mut Dice) -> String {
    let (open, close) = dice.one_of(&[("[", "]"), (r#"{"person":"#, "}"), (r#"{"appId":["#, "]}")]);
    let depth = 1 + dice.below(400);
    let closed = if dice.per_mille(500) {
        depth
    } else {
        dice.below(depth)
    };
    format!("{}1{}", open.repeat(depth), close.repeat(closed))
}

/// Flips, cuts, doubles or breaks the UTF-8 of a body.
fn spoil(body: &mut Vec<u8>, dice: &mut Dice) {
    let at = dice.below(body.len());
    match dice.below(6) {
        0 => body.truncate(at),
        1 => body.insert(at, dice.byte()),
        2 => {
            if let Some(byte) = body.get_mut(at) {
                *byte ^= 1 << dice.below(8);
            }
        }
        3 => body.extend_from_slice(&[0xed, 0xa0, 0x80]),
        4 => body.extend_from_within(at..),
        _ => body.splice(..0, [0xef, 0xbb, 0xbf]).for_each(drop),
    }
}
