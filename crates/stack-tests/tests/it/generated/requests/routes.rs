//! What is sent to each route.

use pipedrive_sim::{DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET};
use tools::dice::Dice;
use up::client::{CALLBACK, PERSON, REFRESH};

use super::Known;
use super::draft::Draft;
use super::junk::{EMAILS, KEYS, deep, junk, value};

pub(super) fn callback(dice: &mut Dice) -> Draft {
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

pub(super) fn notice(dice: &mut Dice) -> Draft {
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

pub(super) fn login(dice: &mut Dice) -> Draft {
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

pub(super) fn person(known: &Known, dice: &mut Dice) -> Draft {
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

pub(super) fn refresh(known: &Known, dice: &mut Dice) -> Draft {
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

pub(super) fn nowhere(dice: &mut Dice) -> Draft {
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
