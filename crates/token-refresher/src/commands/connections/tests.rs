use std::collections::BTreeSet;
use std::sync::Arc;

use clap::Parser as _;
use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::config::{Loader, Sources};
use pipekeeper_core::connection::ConnectionState;
use pipekeeper_core::provider::{AppUse, Apps};
use pipekeeper_core::store::{
    DefaultConnection, Listing, Overview, Page, RefreshLogEntry, StoreError,
};
use pipekeeper_refresh::RefreshError;

use super::{list, refresh, show};

const ID: &str = "019ab000-0000-7000-8000-000000000001";

const TWO_APPS: &str = r#"
[apps.pipedrive]
provider = "pipedrive"
client_id = "57db0bab2932f657"
client_secret = "s3cret"
[apps.second]
provider = "pipedrive"
client_id = "0000000000000000"
client_secret = "s3cret"
"#;

fn apps(toml: &'static str) -> Apps {
    let sources = Sources {
        defaults: toml,
        file: None,
        env: Vec::new(),
    };
    let mut loader = Loader::new(&sources).unwrap();
    let apps = Apps::load(&mut loader, AppUse::Refresh);
    loader.finish().unwrap();
    apps
}

/// Its first app alone.
fn one_app() -> Apps {
    apps(TWO_APPS.split("[apps.second]").next().unwrap())
}

fn at(secs: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_800_000_000_000_000 + secs * 1_000_000).unwrap()
}

fn row() -> Overview {
    Overview {
        id: ID.parse().unwrap(),
        platform: "Pipedrive".to_owned(),
        app_id: "57db0bab2932f657".to_owned(),
        account_id: "acme".parse().unwrap(),
        owner: "jane".parse().unwrap(),
        company_id: "7".to_owned(),
        company_domain: "acme".to_owned(),
        company_name: "Åcme \u{1f980}".to_owned(),
        user_id: "11".to_owned(),
        user_name: "Jane".to_owned(),
        api_domain: "https://acme.pipedrive.com".to_owned(),
        scope: "base deals:full".to_owned(),
        expires_at: at(3000),
        refreshed_at: Some(at(-600)),
        authorized_at: at(-86_400 * 3),
        idle_deadline: Some(at(86_400 * 59)),
        last_used_at: None,
        generation: 41,
        state: ConnectionState::Active,
        state_reason: None,
        state_since: at(-86_400 * 3),
        in_doubt: false,
        due_at: at(2700),
        early_renewals: 0,
        failures: 0,
        retry_at: None,
        last_error: None,
        revoke_pending: false,
        created_at: at(-86_400 * 3),
        updated_at: at(-600),
    }
}

/// That which the row is, of its app or of an account.
fn default(account_id: &str) -> DefaultConnection {
    DefaultConnection {
        platform: "Pipedrive".to_owned(),
        app_id: "57db0bab2932f657".to_owned(),
        account_id: account_id.to_owned(),
        connection_id: ID.parse().unwrap(),
        company_id: "7".to_owned(),
        user_id: "11".to_owned(),
        reason: "login".to_owned(),
        set_at: at(0),
    }
}

#[test]
fn a_list_is_a_table_of_what_people_look_for() {
    let troubled = Overview {
        app_id: "of no app here".to_owned(),
        account_id: "507f191e810c19729de860ea".parse().unwrap(),
        company_name: String::new(),
        failures: 3,
        last_error: Some("timeout".to_owned()),
        in_doubt: true,
        ..row()
    };
    let ended = Overview {
        user_name: "\u{1b}[31mMallory".to_owned(),
        state: ConnectionState::Revoked,
        state_reason: Some("disconnected".to_owned()),
        revoke_pending: true,
        refreshed_at: None,
        ..row()
    };
    let page = |more| Page {
        rows: vec![row(), troubled.clone(), ended.clone()],
        more,
    };

    let told = list::told(
        &page(true),
        &[default(""), default("acme")],
        &one_app(),
        at(0),
    );

    insta::assert_snapshot!(told, @r"
    ID                                    APP             ACCOUNT                   OWNER  DEFAULT OF    COMPANY  USER               STATE                   EXPIRES    IDLE UNTIL  REFRESHED   TROUBLE
    019ab000-0000-7000-8000-000000000001  pipedrive       acme                      jane   app, account  Åcme 🦀  Jane               active                  in 50 min  in 59 d     10 min ago  -
    019ab000-0000-7000-8000-000000000001  of no app here  507f191e810c19729de860ea  jane   app           acme     Jane               active                  in 50 min  in 59 d     10 min ago  3 × timeout, in doubt
    019ab000-0000-7000-8000-000000000001  pipedrive       acme                      jane   app, account  Åcme 🦀  \u{1b}[31mMallory  revoked (disconnected)  -          -           -           provider not told yet

    More rows: rerun with --after 019ab000-0000-7000-8000-000000000001
    ");
    let last = list::told(&page(false), &[], &one_app(), at(0));
    assert!(!last.contains("--after"), "{last}");
    let none = Page {
        rows: Vec::new(),
        more: false,
    };
    assert_eq!(list::told(&none, &[], &one_app(), at(0)), "no connections");
}

#[test]
fn all_of_a_connection_is_shown_but_its_secrets() {
    let fields: Vec<_> = show::fields(&row(), &["app"], Some("pipedrive"), at(0))
        .into_iter()
        .collect();

    let shown: BTreeSet<&str> = fields.iter().map(|(name, _)| *name).collect();
    let serde_json::Value::Object(columns) = serde_json::to_value(row()).unwrap() else {
        unreachable!("a row is an object")
    };
    let mut columns: BTreeSet<&str> = columns.keys().map(String::as_str).collect();
    // It stands beside its state.
    columns.remove("state_reason");
    // It is another table's.
    columns.insert("default_of");
    assert_eq!(shown, columns);
    insta::assert_snapshot!(pipekeeper_core::terminal::pairs(fields), @r"
    id              019ab000-0000-7000-8000-000000000001
    platform        Pipedrive
    app_id          57db0bab2932f657 (apps.pipedrive)
    account_id      acme
    owner           jane
    default_of      app
    company_id      7
    company_domain  acme
    company_name    Åcme 🦀
    user_id         11
    user_name       Jane
    api_domain      https://acme.pipedrive.com
    scope           base deals:full
    state           active
    state_since     2027-01-12 08:00:00 UTC (3 d ago)
    revoke_pending  no
    generation      41
    expires_at      2027-01-15 08:50:00 UTC (in 50 min)
    refreshed_at    2027-01-15 07:50:00 UTC (10 min ago)
    authorized_at   2027-01-12 08:00:00 UTC (3 d ago)
    idle_deadline   2027-03-15 08:00:00 UTC (in 59 d)
    last_used_at    -
    due_at          2027-01-15 08:45:00 UTC (in 45 min)
    in_doubt        no
    early_renewals  0
    failures        0
    retry_at        -
    last_error      -
    created_at      2027-01-12 08:00:00 UTC (3 d ago)
    updated_at      2027-01-15 07:50:00 UTC (10 min ago)
    ");
}

#[test]
fn attempts_are_told_line_by_line() {
    let entry = RefreshLogEntry {
        connection_id: ID.parse().unwrap(),
        started_at: at(-600),
        trigger: "webhook".to_owned(),
        outcome: "refreshed".to_owned(),
        generation_before: 40,
        generation_after: Some(41),
        duration_ms: 212,
        error: None,
    };
    let failed = RefreshLogEntry {
        started_at: at(-605),
        outcome: "unknown".to_owned(),
        generation_after: None,
        duration_ms: 10_000,
        error: Some("timeout".to_owned()),
        ..entry.clone()
    };

    insta::assert_snapshot!(show::attempts(&[entry, failed], at(0)), @r"
    The last attempts to refresh it:

    STARTED                               TRIGGER  OUTCOME    GENERATION  TOOK      ERROR
    2027-01-15 07:50:00 UTC (10 min ago)  webhook  refreshed  40 → 41     212 ms    -
    2027-01-15 07:49:55 UTC (10 min ago)  webhook  unknown    40          10000 ms  timeout
    ");
    let none = show::attempts(&[], at(0));
    assert_eq!(none, "No attempt to refresh it is remembered.");
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    list: list::List,
}

fn listing(apps: &Apps, line: &[&str]) -> Result<Listing, String> {
    let line = std::iter::once("list").chain(line.iter().copied());
    let line = Line::try_parse_from(line).map_err(|error| error.to_string())?;
    line.list.listing(apps).map_err(|error| error.to_string())
}

#[test]
fn lists_are_of_the_app_that_is_named_or_the_only_one() {
    let (one, two) = (one_app(), apps(TWO_APPS));
    assert_eq!(listing(&two, &[]), Ok(Listing::All));
    let of = |app: &str| Listing::Of {
        app: two
            .iter()
            .find(|configured| configured.key == app)
            .unwrap()
            .app_key(),
        account_id: Some("acme".parse().unwrap()),
        state: Some(ConnectionState::ReauthRequired),
    };
    let line = ["--account", "acme", "--state", "reauth_required"];
    assert_eq!(listing(&one, &line), Ok(of("pipedrive")));
    let named = [&line[..], &["--app", "second"]].concat();
    assert_eq!(listing(&two, &named), Ok(of("second")));

    let several = listing(&two, &line).unwrap_err();
    assert!(several.contains("pipedrive, second"), "{several}");
    let unknown = listing(&one, &["--app", "second"]).unwrap_err();
    assert!(
        unknown.contains("`second`") && unknown.contains("pipedrive"),
        "{unknown}"
    );
    for useless in [
        &["--state", "dead"][..],
        &["--limit", "0"],
        &["--limit", "1001"],
        &["--account", " acme"],
        &["--after", "two words"],
    ] {
        assert!(listing(&one, useless).is_err(), "{useless:?}");
    }
}

#[test]
fn each_way_not_to_refresh_is_told_in_words() {
    let (retry_at, token_expires_at) = (at(30), at(3000));
    let ends = |error| {
        let error = refresh::told(Err(error), 41, at(0)).unwrap_err();
        format!("{error:#}")
    };
    let told = [
        RefreshError::NotFound,
        RefreshError::Ended {
            state: ConnectionState::ReauthRequired,
            reason: Some("rejected".to_owned()),
            since: at(-60),
        },
        RefreshError::Ended {
            state: ConnectionState::Revoked,
            reason: Some("uninstalled".to_owned()),
            since: at(-60),
        },
        RefreshError::RefusedAfterRenewal { retry_at },
        RefreshError::TryLater {
            retry_at,
            token_expires_at,
        },
        RefreshError::Busy,
        RefreshError::ClientMisconfigured {
            word: "invalid_client",
            retry_at,
            token_expires_at,
        },
        RefreshError::NotSent {
            retry_at,
            token_expires_at,
        },
        RefreshError::Provider {
            word: "http_500".to_owned(),
            timed_out: false,
            retry_at,
            token_expires_at,
        },
        RefreshError::Unstored {
            retry_at,
            token_expires_at,
        },
        RefreshError::UnknownApp,
        RefreshError::Store(Arc::new(StoreError::Duplicate)),
    ]
    .map(ends)
    .join("\n");

    insta::assert_snapshot!(told, @r"
    not refreshed: it is not there any more
    not refreshed: it is reauth_required (rejected) since 2027-01-15 07:59:00 UTC (60 s ago): the account has to be connected again. If the mistake was ours, `token-refresher recheck` has it tried once more
    not refreshed: it is revoked (uninstalled) since 2027-01-15 07:59:00 UTC (60 s ago): only a new consent revives it
    not refreshed: its token was renewed ahead of time a moment ago, and another would fare no better; the next renewal may come 2027-01-15 08:00:30 UTC (in 30 s)
    not refreshed: a refresh failed a moment ago, the next may come 2027-01-15 08:00:30 UTC (in 30 s); the access token it has ends 2027-01-15 08:50:00 UTC (in 50 min)
    not refreshed: another process is refreshing it, or the provider is slow; `token-refresher connections show` reports the result
    not refreshed: the provider refuses our client (invalid_client): check client_id and client_secret; it is asked again 2027-01-15 08:00:30 UTC (in 30 s); the access token it has ends 2027-01-15 08:50:00 UTC (in 50 min)
    not refreshed: the provider's token endpoint can't be reached; the next attempt may come 2027-01-15 08:00:30 UTC (in 30 s); the access token it has ends 2027-01-15 08:50:00 UTC (in 50 min)
    not refreshed: the provider returned an invalid response (http_500); the next attempt may come 2027-01-15 08:00:30 UTC (in 30 s); the access token it has ends 2027-01-15 08:50:00 UTC (in 50 min)
    not refreshed: the provider has given new tokens, but the database refuses to store them: the log says why. They are kept, and the database is asked again 2027-01-15 08:00:30 UTC (in 30 s); the access token it has ends 2027-01-15 08:50:00 UTC (in 50 min)
    not refreshed: its app is not configured here
    not refreshed: the database could not be used: another row has the same unique values
    ");
}
