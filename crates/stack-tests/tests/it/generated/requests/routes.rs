//! What is sent to each route.

use pipedrive_sim::{DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET};
use tools::rng::Rng;
use up::client::{CALLBACK, PERSON, REFRESH};

use super::Known;
use super::draft::Draft;
use super::junk::{EMAILS, KEYS, deep, junk, value};

pub(super) fn callback(rng: &mut Rng) -> Draft {
    let path = rng.one_of(&[
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
    match rng.below(10) {
        // Few: each is an exchange at the provider.
        0 => query.push(("code", junk(rng))),
        1 | 2 => {
            query.push(("code", junk(rng)));
            query.push(("state", format!("s{}", junk(rng))));
        }
        3 => query.push(("state", junk(rng))),
        4 | 5 => query.push(("error", junk(rng))),
        6 => query.extend([("code", junk(rng)), ("code", junk(rng))]),
        7 => query.extend([("error", junk(rng)), ("code", junk(rng))]),
        8 => query.push(("code", String::new())),
        _ => query.push((rng.one_of(&KEYS), junk(rng))),
    }
    Draft::new("GET", with_query(path, &query, rng))
}

pub(super) fn notice(rng: &mut Rng) -> Draft {
    let path = rng.one_of(&[
        CALLBACK,
        "/auth/callback",
        "/webhook/pipedrive/callback",
        "/webhook/x/callback/y",
    ]);
    let mut draft = Draft::new("DELETE", path.to_owned());
    draft.credentials(rng, DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET, 400);
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
    let (company, user, time) = if rng.per_mille(100) {
        (
            rng.one_of(&["1", "\"1\""]),
            rng.one_of(&["2", "\"2\""]),
            rng.one_of(&readable),
        )
    } else {
        let company = rng.one_of(&[
            "1",
            "2",
            "\"x\"",
            "1.0",
            "99999999999999999999",
            "null",
            "[]",
        ]);
        let user = rng.one_of(&["7", "\"\"", "-1", "2e0", "{}", "\"1 \""]);
        (
            company,
            user,
            if rng.per_mille(500) {
                rng.one_of(&readable)
            } else {
                rng.one_of(&unreadable)
            },
        )
    };
    let client = rng.one_of(&[DEFAULT_CLIENT_ID, "other", ""]);
    let body = format!(
        r#"{{"client_id":"{client}","company_id":{company},"user_id":{user},"timestamp":{time},"{}":{}}}"#,
        rng.one_of(&KEYS),
        value(rng, 0)
    );
    draft.body = Some(body.into_bytes());
    draft
}

pub(super) fn login(rng: &mut Rng) -> Draft {
    let mut query = Vec::new();
    match rng.below(40) {
        // Few: each writes a row.
        0 => {}
        1..=12 => query.push((rng.one_of(&["provider", "app"]), format!("x{}", junk(rng)))),
        13..=20 => query.push((rng.one_of(&["account_id", "owner"]), junk(rng))),
        21..=24 => query.extend([("account_id", junk(rng)), ("account_id", junk(rng))]),
        _ => query.extend([
            ("account_id", format!("~{}", junk(rng))),
            ("owner", junk(rng)),
        ]),
    }
    let mut draft = Draft::new("GET", with_query("/auth/login", &query, rng));
    draft.credentials(rng, "operator", "webhook-password", 500);
    draft
}

pub(super) fn person(known: &Known, rng: &mut Rng) -> Draft {
    let path = rng.one_of(&[
        PERSON,
        "/webhook/pipedrive/person",
        "/webhook/pipedrive/person/",
    ]);
    let query = match rng.below(20) {
        0 => vec![(
            "full",
            rng.one_of(&["true", "false", "1", "", "%ff"]).to_owned(),
        )],
        1 => vec![("x", junk(rng))],
        _ => Vec::new(),
    };
    let mut draft = Draft::new("POST", with_query(path, &query, rng));
    draft.credentials(
        rng,
        &known.client.webhook.0,
        known.client.webhook.1.expose(),
        600,
    );
    let body = match rng.below(12) {
        // Few: each is a call of the provider's.
        0 if rng.per_mille(300) => {
            format!(
                r#"{{"person":{{"email":"{}"}},"accountId":"~pipedrive:4711"}}"#,
                rng.one_of(&EMAILS)
            )
        }
        0..=3 => format!(r#"{{"person":{{"email":{}}}}}"#, value(rng, 0)),
        4..=6 => format!(
            r#"{{"person":{{"email":"a@b.c"}},"{}":{},"accountId":"no{}"}}"#,
            rng.one_of(&KEYS),
            value(rng, 0),
            rng.byte()
        ),
        7 | 8 => format!(r#"{{"person":{}}}"#, value(rng, 0)),
        9 => deep(rng),
        _ => value(rng, 0),
    };
    draft.body = Some(body.into_bytes());
    draft
}

pub(super) fn refresh(known: &Known, rng: &mut Rng) -> Draft {
    let path = rng.one_of(&[
        REFRESH,
        "/webhook/pipedrive/refresh",
        "/webhook/pipedrive/refresh/",
    ]);
    let mut draft = Draft::new("POST", path.to_owned());
    draft.credentials(
        rng,
        &known.client.refresher.0,
        known.client.refresher.1.expose(),
        600,
    );
    let id = &known.connection;
    let body = match rng.below(14) {
        0 => format!(
            r#"{{"connectionId":"{id}","generation":{},"deadline_ms":{}}}"#,
            value(rng, 2),
            value(rng, 2)
        ),
        1 => format!(r#"{{"connectionId":{},"generation":1}}"#, value(rng, 1)),
        2 => format!(
            r#"{{"appId":"{DEFAULT_CLIENT_ID}","accountId":{},"owner":{}}}"#,
            value(rng, 1),
            value(rng, 1)
        ),
        3..=5 => {
            let content_type = rng.one_of(&[
                "application/x-www-form-urlencoded",
                "APPLICATION/X-WWW-FORM-URLENCODED; charset=x",
                "application/json",
            ]);
            draft.headers.push(("content-type", content_type.into()));
            let pairs: Vec<_> = (0..rng.below(6))
                .map(|_| format!("{}={}", rng.one_of(&KEYS), junk(rng)))
                .collect();
            pairs.join("&")
        }
        6 => deep(rng),
        _ => {
            let members: Vec<_> = (0..rng.below(5))
                .map(|_| format!(r#""{}":{}"#, rng.one_of(&KEYS), value(rng, 0)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
    };
    draft.body = Some(body.into_bytes());
    draft
}

pub(super) fn nowhere(rng: &mut Rng) -> Draft {
    let method = rng.one_of(&["GET", "POST", "DELETE", "PUT", "OPTIONS", "PATCH", "BREW"]);
    let mut target = match rng.below(8) {
        0 => "*".to_owned(),
        1 => format!("http://evil.example/{}", junk(rng)),
        2 => format!("/webhook/{}", junk(rng)),
        3 => format!("/{}/../{}", junk(rng), junk(rng)),
        4 => "/".repeat(1 + rng.below(200)),
        5 => format!("/{}", "a/".repeat(rng.below(2000))),
        6 => rng
            .one_of(&[
                "/healthz/",
                "/readyz",
                "/metrics",
                "/openapi.jsonx",
                "/export/deals",
                "/proxy/x",
            ])
            .to_owned(),
        _ => format!("/{}?{}={}", junk(rng), junk(rng), junk(rng)),
    };
    if rng.per_mille(2) {
        target = format!("/{}", "x".repeat(60_000));
    }
    let mut draft = Draft::new(method, target);
    if rng.per_mille(300) {
        draft.body = Some(value(rng, 0).into_bytes());
    }
    draft
}

fn with_query(path: &str, query: &[(&str, String)], rng: &mut Rng) -> String {
    let mut target = path.to_owned();
    for (index, (key, value)) in query.iter().enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        target.push_str(key);
        if !rng.per_mille(20) {
            target.push('=');
        }
        target.push_str(value);
    }
    target
}
