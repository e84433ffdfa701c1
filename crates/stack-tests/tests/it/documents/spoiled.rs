//! Each check can fail: a true claim of each kind, and the same one spoiled.

use std::path::Path;
use std::sync::LazyLock;

use super::checks::complaints;
use super::facts::Facts;
use super::markdown::Document;

const MEASURED: &str = "| database | seed | kills | start |
| --- | --- | --- | --- |
| SQLite | 21 | 1 219 | 16 ms |
| SQLite | 22 | 1 249 | 16 ms |
| MariaDB | 21 | 7 | 9 ms |
";

static FACTS: LazyLock<Facts> = LazyLock::new(|| {
    let mut facts = Facts::gather();
    facts.measured = Document::markdown(Path::new("docs/measured/it.md"), MEASURED).tables;
    facts
});

#[track_caller]
fn told(path: &str, text: &str) -> Vec<(usize, String)> {
    let told = complaints(&Document::markdown(Path::new(path), text), &FACTS);
    told.into_iter()
        .map(|complaint| (complaint.line, complaint.what))
        .collect()
}

/// The first is so, the second is told for what it is, by its line.
#[track_caller]
fn tells(good: &str, bad: &str, complaint: &str) {
    assert_eq!(told("README.md", good), [], "{good}");
    let bad = format!("A title\n\nsome text,\n{bad}");
    let told = told("README.md", &bad);
    assert_eq!(told.len(), 1, "{bad}: {told:?}");
    let (line, what) = &told[0];
    assert!(what.contains(complaint), "{bad}: {told:?}");
    assert!(*line >= 4, "{bad}: {told:?}");
}

#[test]
fn variables() {
    tells(
        "PIPEKEEPER__REFRESH__LEASE_SECS=30",
        "PIPEKEEPER__REFRESH__LEASE_SECONDS=30",
        "PIPEKEEPER__REFRESH__LEASE_SECONDS is no key",
    );
    tells(
        "`PIPEKEEPER__APPS__SECOND__CLIENT_ID`, `PIPE_DRIVE_CLIENT_ID`",
        "`PIPEDRIVE_CLIENT_ID`",
        "PIPEDRIVE_CLIENT_ID is nowhere",
    );
}

#[test]
fn keys_and_sections() {
    tells(
        "`telemetry.format = \"pretty\"`, `apps.second.client_id`",
        "`telemetry.colour`",
        "no key telemetry.colour",
    );
    tells(
        "`[apps.pipedrive]`, `[sweep]`",
        "`[sweeper]`",
        "no section [sweeper]",
    );
    tells(
        "`lease_secs`",
        "`lease_seconds`",
        "lease_seconds is nowhere",
    );
}

#[test]
fn defaults() {
    tells(
        "`upstream.max_wait_secs` (5), `lease_secs` (default 30)",
        "`upstream.max_wait_secs` (6)",
        "the default of upstream.max_wait_secs is 5, not 6",
    );
    tells(
        "| key | default |\n| --- | --- |\n| `refresh.log_days` | 30 |",
        "\n| key | default |\n| --- | --- |\n| `sweep.every_secs` | 6 |",
        "not 6",
    );
    tells(
        "| service | default address |\n| --- | --- |\n| data-api | 127.0.0.1:8081 |\n| pipedrive-sim | 127.0.0.1:8090 |",
        "\n| service | default address |\n| --- | --- |\n| data-api | 127.0.0.1:8082 |",
        "data-api does not listen on 127.0.0.1:8082",
    );
}

#[test]
fn commands() {
    tells(
        "`token-refresher connections list --state active --json`",
        "`token-refresher connections list --all`",
        "token-refresher knows no --all",
    );
    tells(
        "```sh\ndocker-compose exec data-api data-api config | less\n```",
        "\n```sh\ndocker-compose exec data-api \\\n  data-api configure\n```",
        "data-api has no subcommand configure",
    );
    tells(
        "`token-refresher connections list|show|refresh|disconnect`, `<service> migrate`",
        "`token-refresher connections list|drop`",
        "has no subcommand list|drop",
    );
    tells(
        "`<service> --config FILE serve`",
        "`<service> recheck`",
        "has no subcommand recheck",
    );
}

#[test]
fn scripts() {
    tells(
        "`scripts/bench refresh --database postgres`, `scripts/check --advisories`",
        "`scripts/bench refreshes`",
        "scripts/bench can't do `refreshes`",
    );
    tells(
        "`scripts/up --demo`",
        "`scripts/up --play`",
        "knows no --play",
    );
    tells(
        "`scripts/test -p pipekeeper-core`",
        "`scripts/check --quickly`",
        "scripts/check knows no --quickly",
    );
    tells("`scripts/test`", "`scripts/tests`", "no scripts/tests");
}

#[test]
fn links_and_files() {
    tells(
        "[the map](crates/README.md#the-map), [here](#here)\n\n# Here",
        "[the map](crates/MAP.md)",
        "leads nowhere",
    );
    tells(
        "[a](crates/README.md)",
        "[a](crates/README.md#nothing)",
        "no heading #nothing",
    );
    tells(
        "`crates/core/src/store.rs`, `refresh/src/token_request.rs`, `config.default.toml`",
        "`crates/core/src/storage.rs`",
        "no file crates/core/src/storage.rs",
    );
    tells(
        "`providers.toml`",
        "`suppliers.toml`",
        "no file suppliers.toml",
    );
    let modules = |name: &str| format!("| module | what |\n| --- | --- |\n| `{name}` | it |");
    assert_eq!(told("crates/data-api/README.md", &modules("tokens")), []);
    let missing = told("crates/data-api/README.md", &modules("exports"));
    assert_eq!(missing, [(3, "no module exports".to_owned())]);
}

#[test]
fn names_in_the_code() {
    tells(
        "`journal::tests::disks::nobody_is_told_of_an_answer_before_it_would_survive_a_power_cut`",
        "`journal::Jornal`",
        "Jornal is nowhere",
    );
    tells(
        "401 `TOKEN_INVALIDATED`",
        "401 `TOKEN_DEAD`",
        "TOKEN_DEAD is nowhere",
    );
}

#[test]
fn metrics() {
    tells(
        "`pipekeeper_refresh_total{provider,outcome}`, pipekeeper_refresh_duration_seconds_count",
        "pipekeeper_refreshes_total",
        "pipekeeper_refreshes_total is nowhere",
    );
}

#[test]
fn routes() {
    tells(
        "`POST /webhook/pipedrive/person`, `DELETE /auth/callback`, `/readyz`, `/_sim/…`, `GET /auth/login?app=a`",
        "`GET /webhook/pipedrive/person`",
        "no route GET /webhook/pipedrive/person",
    );
    tells(
        "```sh\ncurl http://127.0.0.1:8082/webhook/pipedrive/refresh\n```",
        "\n```sh\ncurl http://127.0.0.1:8082/webhook/pipedrive/renew\n```",
        "no route",
    );
    tells("`/healthz`", "`/webhook/pipedrive/renew`", "no route");
}

#[test]
fn figures() {
    let heads = MEASURED.lines().next().unwrap();
    let table = |row: &str| format!("## Measured\n\n{heads}\n| --- | --- | --- | --- |\n{row}");
    tells(
        &table("| MariaDB | 21 | 7 | 9 ms |"),
        &table("| MariaDB | 21 | 7 | 8 ms |"),
        "`8 ms` was not measured so",
    );
    let counts = heads.replace(" start |", "");
    tells(
        &table("| SQLite | 21 | 1 219 | 16 ms |"),
        &format!("## Measured\n\n{counts}\n| --- | --- | --- |\n| SQLite | 21 | 1 219 |"),
        "docs/measured has no table of",
    );
}

#[test]
fn ranges_of_figures() {
    let measured = |row: &str| {
        let document = format!("| database | seed | kills |\n| --- | --- | --- |\n{row}");
        Document::markdown(Path::new("README.md"), &document)
            .tables
            .remove(0)
    };
    let facts = Facts {
        measured: vec![measured(
            "| SQLite | 21 | 1 219 |\n| SQLite | 22 | 1 249 |\n| SQLite | 23 | 999 |",
        )],
        ..Facts::default()
    };
    let complaint = |row: &str| {
        let said = measured(row);
        super::figures::not_measured(&said.heads, &said.rows[0].1, &facts)
    };
    assert_eq!(complaint("| SQLite | 21–23 | 999–1 249 |"), None);
    let wrong = complaint("| SQLite | 21–23 | 999–1 250 |").unwrap();
    assert!(wrong.contains("999–1 250"), "{wrong}");
    assert!(complaint("| SQLite | 21–24 | 999–1 249 |").is_some());
    assert!(complaint("| MariaDB | 21–23 | 999–1 249 |").is_some());
}

/// Columns of what others have are theirs to say.
#[test]
fn others_are_not_ours_to_check() {
    let table =
        |head: &str| format!("| {head} | here |\n| --- | --- |\n| `GET /export/:type` | none |");
    assert_eq!(told("README.md", &table("CRM integration")), []);
    assert_eq!(told("README.md", &table("them")).len(), 1);
}
