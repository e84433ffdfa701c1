use pipedrive_sim::DEFAULT_CLIENT_ID as FIRST;
use pipekeeper_core::store::Backend;
use serde_json::json;
use stack_tests::stack::OTHER_APP as SECOND;
use tokio::process::Child;
use up::client::fingerprint;

use super::{ALIAS, Fixture};
use crate::support::{settings, until};

/// Two apps in the table, and another platform's row; both are taken over, and the old access tokens end with a refresh.
async fn mirrored(backend: Backend) -> Fixture {
    let mut fixture = Fixture::prepare(backend).await;
    let rules = json!({
        "rotation": "single_use_with_reuse_detection",
        "old_access_token_after_refresh": "dead",
    });
    settings(&fixture.client, rules).await;
    for (id, app, company) in [(1, FIRST, 1), (2, SECOND, 2)] {
        let tokens = fixture.consent(app, company, 1).await;
        fixture
            .home
            .insert(id, Some(app), "Pipedrive", &tokens, "2026-03-01 00:00:00");
    }
    let hubspot = fixture.consent(FIRST, 9, 1).await;
    fixture
        .home
        .insert(7, Some("hub"), "Hubspot", &hubspot, "2026-03-01 00:00:00");
    fixture.import(&["--apply", "--refresh"]).await;
    fixture
        .set
        .push(("old_table.mirror".to_owned(), "true".to_owned()));
    fixture
}

/// Starts token-refresher and waits until both rows are up to date.
async fn serve(fixture: &Fixture) -> Child {
    let serving = fixture.serve().await;
    until("the old rows have tokens that work", || async {
        let home = &fixture.home;
        fixture.api_takes(&home.tokens(1).access).await
            && fixture.api_takes(&home.tokens(2).access).await
    })
    .await;
    serving
}

/// n8n's workflows: told of a 401, they call the refresh webhook and read the row at once.
pub(crate) async fn workflow_that_reads_the_old_row_after_a_refresh_finds_the_new_token(
    backend: Backend,
) {
    let fixture = mirrored(backend).await;
    let _serving = serve(&fixture).await;
    let (first, second, third) = (
        fixture.home.tokens(1),
        fixture.home.tokens(2),
        fixture.home.tokens(7),
    );

    for round in 1..=3 {
        let body = json!({"appId": ALIAS, "generation": null});
        fixture.home.ours.lines(aged(backend)).unwrap();
        let answer = fixture
            .client
            .refresh(&body)
            .await
            .unwrap()
            .expect(200)
            .json();
        assert_eq!(answer["outcome"], "refreshed", "{round}");
        let row = fixture.home.tokens(1);
        assert!(fixture.api_takes(&row.access).await, "{round}");
        assert_ne!(row.access, first.access);
        assert_eq!(
            row.refresh, first.refresh,
            "the refresh token is not mirrored"
        );
    }
    let already = fixture
        .client
        .refresh(&json!({"appId": ALIAS}))
        .await
        .unwrap();
    assert_eq!(already.expect(200).json()["outcome"], "already_newer");
    assert_eq!(fixture.home.tokens(2), second, "another app's row");
    assert_eq!(fixture.home.tokens(7), third, "another platform's row");
    assert_eq!(fixture.reused().await, 0);
}

/// Older than what counts as minted a moment ago.
pub(super) fn aged(backend: Backend) -> &'static str {
    match backend {
        Backend::Sqlite => {
            "UPDATE connections SET refreshed_at = refreshed_at - 60000000, early_renewals = 0"
        }
        Backend::Postgres => {
            "UPDATE connections SET refreshed_at = refreshed_at - interval '60 seconds', early_renewals = 0"
        }
        Backend::Mysql => {
            "UPDATE connections SET refreshed_at = TIMESTAMPADD(SECOND, -60, refreshed_at), early_renewals = 0"
        }
    }
}

/// No one waits for those: the sweep's, a caller's who reads our rows.
pub(crate) async fn renewal_that_no_workflow_asked_for_is_mirrored_too(backend: Backend) {
    let fixture = mirrored(backend).await;
    let _serving = serve(&fixture).await;
    let before = fixture.home.tokens(2);
    let row = fixture
        .home
        .connections()
        .await
        .into_iter()
        .find(|row| row.app_id == SECOND);
    let row = row.unwrap();

    let body = json!({"connectionId": row.id.as_str(), "generation": row.generation});
    fixture.client.refresh(&body).await.unwrap().expect(200);

    until("the old row has the new token", || async {
        fixture.api_takes(&fixture.home.tokens(2).access).await
    })
    .await;
    assert_ne!(fixture.home.tokens(2).access, before.access);
    assert_eq!(fixture.home.tokens(2).refresh, before.refresh);
}

/// Who reads the old row is told to wait; our refreshes go on, and what is missing follows, also by another process.
pub(crate) async fn old_table_that_is_away_is_brought_up_to_date_later(backend: Backend) {
    let fixture = mirrored(backend).await;
    let mut serving = fixture.serve().await;
    let table = fixture.home.table();
    fixture
        .home
        .old(&format!("ALTER TABLE {table} RENAME TO away"));

    let waits = fixture.client.refresh(&json!({"appId": ALIAS})).await;
    let problem = waits.unwrap().expect_problem(503, "REFRESH_BUSY");
    assert_eq!(problem["reason"], "old_table");
    let rows = fixture.home.connections().await;
    let row = rows.iter().find(|row| row.app_id == FIRST).unwrap();
    let body = json!({"connectionId": row.id.as_str()});
    fixture.client.refresh(&body).await.unwrap().expect(200);

    until("it is said", || async {
        fixture.degraded().await.contains("old_table")
    })
    .await;
    serving.kill().await.unwrap();
    let _again = fixture.serve().await;
    until("it is said again", || async {
        fixture.degraded().await.contains("old_table")
    })
    .await;
    fixture
        .home
        .old(&format!("ALTER TABLE away RENAME TO {table}"));
    until("the old row has the new token", || async {
        fixture.api_takes(&fixture.home.tokens(1).access).await
    })
    .await;
    until("it is said no more", || async {
        fixture.degraded().await == "[]"
    })
    .await;
}

/// The workflow's token has failed, not ours: it gets ours, and nothing is spent.
pub(crate) async fn row_that_lags_behind_is_no_reason_to_refresh(backend: Backend) {
    let fixture = mirrored(backend).await;
    let _serving = serve(&fixture).await;
    let ours = fixture.home.tokens(1);
    let mut older = ours.clone();
    older.access = "older".to_owned();

    // What goes on in the background may bring the row up to date a moment before the call.
    for attempt in 1.. {
        fixture.home.set_tokens(1, &older);
        let before = crate::support::refreshes(&fixture.client).await;
        let answer = fixture
            .client
            .refresh(&json!({"appId": ALIAS}))
            .await
            .unwrap();
        let is_newer = answer.expect(200).json()["outcome"] == "already_newer";
        if is_newer && crate::support::refreshes(&fixture.client).await == before {
            break;
        }
        assert!(attempt < 9, "the connection is refreshed each time");
        fixture.home.ours.lines(aged(backend)).unwrap();
    }
    let row = fixture.home.tokens(1);
    assert!(fixture.api_takes(&row.access).await);
    assert_eq!(row.refresh, ours.refresh);
}

/// No one asks us for the token of a row that workflows read.
pub(crate) async fn mirrored_connection_counts_as_in_use(backend: Backend) {
    let fixture = mirrored(backend).await;
    let _serving = fixture.serve().await;

    until("the sweep is to renew it ahead of its end", || async {
        let rows = fixture.home.connections().await;
        rows.iter()
            .all(|row| row.last_used_at.is_some() && row.due_at <= row.expires_at)
    })
    .await;
}

/// Told before n8n's refresh is switched off, and before anybody depends on it.
pub(crate) async fn table_that_cannot_be_written_is_named_at_the_start(backend: Backend) {
    let fixture = mirrored(backend).await;
    fixture.home.refuse_writes();
    let before = fixture.home.old_rows();

    let _serving = fixture.serve().await;

    until("it is said", || async {
        fixture.degraded().await.contains("can't be written")
    })
    .await;
    assert_eq!(fixture.home.old_rows(), before);
}

/// The new tokens may have ended ours, and ours are not written over them.
pub(crate) async fn same_person_who_installs_again_through_n8n_replaces_our_tokens(
    backend: Backend,
) {
    let fixture = mirrored(backend).await;
    settings(&fixture.client, json!({"reinstall": "replaces_tokens"})).await;
    let _serving = serve(&fixture).await;
    let ours = fixture.home.connections().await.len();

    fixture
        .home
        .set_tokens(1, &fixture.consent(FIRST, 1, 1).await);
    fixture.takes_over(1).await;

    fixture.home.ours.lines(aged(backend)).unwrap();
    let answer = fixture.client.refresh(&json!({"appId": ALIAS})).await;
    answer.unwrap().expect(200);
    assert!(fixture.api_takes(&fixture.home.tokens(1).access).await);
    assert!(!fixture.degraded().await.contains("row 1"));

    fixture
        .home
        .set_tokens(1, &fixture.consent(FIRST, 1, 1).await);
    fixture.takes_over(1).await;
    fixture.says("n8n still refreshes").await;
    assert_eq!(fixture.home.connections().await.len(), ours);
    let said = fixture.done(&["rollback-to-n8n", "--apply"]).await;
    said.expect("1", "handed back");
    let handed = fixture.home.tokens(1);
    assert_eq!(fingerprint(&handed.refresh), fixture.newest(FIRST, 1).await);
    assert_eq!(fixture.reused().await, 0);
}

/// Existing callers keep their connection; the row waits for the operator, or for its former person.
pub(crate) async fn other_person_who_installs_through_n8n_gets_a_connection_of_their_own(
    backend: Backend,
) {
    let fixture = mirrored(backend).await;
    let _serving = serve(&fixture).await;
    let strange = fixture.consent(FIRST, 8, 1).await;
    fixture.home.set_tokens(1, &strange);

    fixture
        .says("row 1 holds the tokens of another person")
        .await;

    assert_eq!(fixture.default_company(FIRST).await.as_deref(), Some("1"));
    let waits = fixture
        .client
        .refresh(&json!({"appId": ALIAS}))
        .await
        .unwrap();
    assert_eq!(
        waits.expect_problem(503, "REFRESH_BUSY")["reason"],
        "old_table"
    );
    assert_eq!(waits.retry_after(), 30);
    assert_eq!(fixture.home.tokens(1), strange, "not written");
    let rows = fixture.home.connections().await;
    let eight = rows.iter().find(|row| row.company_id == "8").unwrap();
    fixture
        .done(&["connections", "refresh", eight.id.as_str()])
        .await;
    assert_eq!(fixture.home.tokens(1), strange, "not written");

    fixture
        .done(&["connections", "default", eight.id.as_str()])
        .await;
    until("it is written", || async {
        fixture.api_takes(&fixture.home.tokens(1).access).await && fixture.degraded().await == "[]"
    })
    .await;
    let answer = fixture.client.refresh(&json!({"appId": ALIAS})).await;
    answer.unwrap().expect(200);
    let said = fixture.done(&["rollback-to-n8n", "--apply"]).await;
    said.expect("1", "handed back");
    said.expect("-", "has no row in the old table, and stays here");
    let handed = fixture.home.tokens(1);
    assert_eq!(fingerprint(&handed.refresh), fixture.newest(FIRST, 8).await);
    assert_eq!(fixture.reused().await, 0);
}

/// Whose they are, only a refresh can tell, and that is the operator's to ask for.
pub(crate) async fn expired_tokens_of_a_changed_row_wait_for_the_import(backend: Backend) {
    let fixture = mirrored(backend).await;
    settings(&fixture.client, json!({"reinstall": "replaces_tokens"})).await;
    let _serving = serve(&fixture).await;
    let anew = fixture.consent(FIRST, 1, 1).await;
    fixture.expire(FIRST, 1).await;
    let spent = crate::support::refreshes(&fixture.client).await;
    fixture.home.set_tokens(1, &anew);

    fixture.says("`import --apply --refresh`").await;

    assert_eq!(crate::support::refreshes(&fixture.client).await, spent);
    assert_eq!(fixture.home.tokens(1), anew);
    let said = fixture
        .done(&["rollback-to-n8n", "--apply", "--app", "pipedrive"])
        .await;
    said.expect(
        "1",
        "is not handed back, and goes on here: row 1 holds another refresh token",
    );
    let said = fixture.import(&["--apply", "--refresh"]).await;
    said.expect("row 1", "taken over and refreshed");
    until("it is said no more", || async {
        fixture.degraded().await == "[]"
    })
    .await;
    assert!(fixture.api_takes(&fixture.home.tokens(1).access).await);
    let said = fixture.done(&["rollback-to-n8n", "--apply"]).await;
    said.expect("1", "handed back");
    let handed = fixture.home.tokens(1);
    assert_eq!(fingerprint(&handed.refresh), fixture.newest(FIRST, 1).await);
    assert_eq!(fixture.reused().await, 0);
}

/// Without the mirror: the import itself does not leave the newer tokens alone.
pub(crate) async fn import_takes_the_new_tokens_of_a_row_that_it_knows(backend: Backend) {
    let fixture = mirrored(backend).await;
    settings(&fixture.client, json!({"reinstall": "replaces_tokens"})).await;
    fixture
        .home
        .set_tokens(1, &fixture.consent(FIRST, 1, 1).await);

    let dry = fixture.import(&[]).await;
    dry.expect("row 1", "replaces the older tokens of connection");
    let said = fixture.import(&["--apply", "--refresh"]).await;

    said.expect("row 1", "taken over and refreshed");
    let said = fixture.done(&["rollback-to-n8n", "--apply"]).await;
    said.expect("1", "handed back");
    let handed = fixture.home.tokens(1);
    assert_eq!(fingerprint(&handed.refresh), fixture.newest(FIRST, 1).await);
    assert_eq!(fixture.reused().await, 0);
}

/// Anyone who was connected before or is connected later: who asks by the app's name alone reads a row next.
pub(crate) async fn default_while_mirroring_is_the_connection_of_the_newest_row(backend: Backend) {
    let mut fixture = Fixture::prepare(backend).await;
    fixture.spends_once().await;
    let first = fixture.consent(FIRST, 1, 1).await;
    for (row, written) in [(1, "2026-03-02 00:00:00"), (3, "2026-03-01 00:00:00")] {
        fixture
            .home
            .insert(row, Some(ALIAS), "Pipedrive", &first, written);
    }
    let tokens = fixture.consent(FIRST, 9, 1).await;
    fixture.import_file(&tokens).await;
    assert_eq!(fixture.default_company(FIRST).await.as_deref(), Some("9"));
    let mirror = ("old_table.mirror".to_owned(), "true".to_owned());
    fixture.set.push(mirror);
    let _serving = fixture.serve().await;

    fixture.says("has no row in the table").await;
    let waits = fixture
        .client
        .refresh(&json!({"appId": ALIAS}))
        .await
        .unwrap();
    assert_eq!(
        waits.expect_problem(503, "REFRESH_BUSY")["reason"],
        "old_table"
    );
    assert_eq!(waits.retry_after(), 30);

    let said = fixture.import(&["--apply", "--refresh"]).await;
    assert!(said.out.contains("(row 1, the newest)"), "{said:#?}");
    until("it is said no more", || async {
        fixture.degraded().await == "[]"
    })
    .await;
    let tokens = fixture.consent(FIRST, 10, 1).await;
    fixture.import_file(&tokens).await;
    assert_eq!(fixture.default_company(FIRST).await.as_deref(), Some("1"));

    // Of two rows one lags behind.
    let mut older = fixture.home.tokens(3);
    older.access = "older".to_owned();
    fixture.home.set_tokens(3, &older);
    let answer = fixture.client.refresh(&json!({"appId": ALIAS})).await;
    answer.unwrap().expect(200);
    assert_eq!(fixture.home.tokens(3).access, fixture.home.tokens(1).access);

    // Somebody consents through n8n, and no one imports the row.
    let tokens = fixture.consent(FIRST, 4, 1).await;
    let (newest, written) = (4, "2030-01-01 00:00:00");
    fixture
        .home
        .insert(newest, Some(ALIAS), "Pipedrive", &tokens, written);
    fixture
        .says("row 4, the newest of the app pipedrive, was not imported")
        .await;
    fixture.import(&["--apply", "--refresh"]).await;
    until("it is said no more", || async {
        fixture.degraded().await == "[]"
    })
    .await;
    assert_eq!(fixture.default_company(FIRST).await.as_deref(), Some("4"));
    assert_eq!(fixture.reused().await, 0);
}
