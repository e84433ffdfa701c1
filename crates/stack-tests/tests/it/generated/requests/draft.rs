//! A request while it is being made up, and how it is spoiled and written down.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tools::rng::Rng;

use super::Request;
use super::junk::{NASTY, spoil};

const MAX_BODY: usize = 64 * 1024;

/// A request before it is written down.
pub(super) struct Draft {
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) headers: Vec<(&'static str, Vec<u8>)>,
    pub(super) body: Option<Vec<u8>>,
}

impl Draft {
    pub(super) fn new(method: &'static str, target: String) -> Self {
        Self {
            method,
            target,
            headers: Vec::new(),
            body: None,
        }
    }

    pub(super) fn credentials(
        &mut self,
        rng: &mut Rng,
        user: &str,
        password: &str,
        right_per_mille: usize,
    ) {
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        let value = if rng.per_mille(right_per_mille) {
            basic(&format!("{user}:{password}"))
        } else {
            match rng.below(9) {
                0 => return,
                1 => basic(&format!("{user}:wrong")),
                2 => basic(&format!("wrong:{password}")),
                3 => basic("nocolon"),
                4 => "Basic".to_owned(),
                5 => format!("Basic {}", rng.one_of(&NASTY)),
                6 => "Bearer v1u-not-a-token".to_owned(),
                7 => format!("Basic {}", "A".repeat(rng.below(3000))),
                _ => format!("Basic {}", STANDARD.encode([0xff, 0xfe, b':', rng.byte()])),
            }
        };
        let value = value
            .into_bytes()
            .into_iter()
            .filter(|b| *b >= b' ')
            .collect();
        self.headers.push(("authorization", value));
    }

    pub(super) fn odd_headers(&mut self, rng: &mut Rng) {
        if rng.per_mille(300) {
            let accept = rng.one_of(&[
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
        if rng.per_mille(100) {
            let id = rng.one_of(&[
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
        if rng.per_mille(100) {
            let parent = rng.one_of(&[
                "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "00-0af7",
                "é",
                "00-00000000000000000000000000000000-0-0",
                "",
            ]);
            self.headers.push(("traceparent", parent.into()));
        }
        if rng.per_mille(60) {
            let cookie = rng.one_of(&[
                "pipekeeper-login=",
                "a=b; ;;=",
                "é=é",
                "pipekeeper-login=x; pipekeeper-login=y",
                "\"",
            ]);
            self.headers.push(("cookie", cookie.into()));
        }
        if rng.per_mille(30) {
            let mut junk: Vec<u8> = (0..rng.below(60)).map(|_| rng.byte()).collect();
            junk.retain(|b| *b >= b' ' && *b != 0x7f);
            self.headers.push(("x-junk", junk));
        }
        if rng.per_mille(20) {
            let (name, value) = rng.one_of(&[
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

    pub(super) fn odd_body(&mut self, rng: &mut Rng) {
        let takes_body = matches!(self.method, "POST" | "PUT" | "PATCH" | "DELETE");
        if takes_body && rng.below(2500) == 0 {
            let length = rng.one_of(&[MAX_BODY - 1, MAX_BODY, MAX_BODY + 1]);
            let mut body = self.body.take().unwrap_or_default();
            body.resize(length, b' ');
            self.body = Some(body);
        } else if takes_body && rng.below(25_000) == 0 {
            let megabyte: Vec<u8> = (0..16_384).map(|_| rng.byte()).collect();
            self.body = Some(megabyte.repeat(64));
        } else if let Some(body) = &mut self.body
            && rng.per_mille(350)
        {
            spoil(body, rng);
        }
    }

    pub(super) fn write(self, rng: &mut Rng) -> Request {
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
        if rng.per_mille(5) {
            is_broken = true;
            let line = rng.one_of(&[
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
            Some(body) if rng.per_mille(40) => {
                bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                for chunk in body.chunks(1 + rng.below(body.len().max(1))) {
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
