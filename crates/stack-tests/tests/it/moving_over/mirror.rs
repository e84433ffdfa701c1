use pipedrive_sim::DEFAULT_CLIENT_ID as FIRST;
use pipekeeper_core::store::Backend;
use serde_json::json;
use stack_tests::stack::OTHER_APP as SECOND;
use tokio::process::Child;
use up::client::fingerprint;

use super::{ALIAS, Place};
use crate::support::{settings, until};

/// Two apps in the table, and another platform's row; both are taken over, and the old access tokens end with a refresh.
async fn mirrored(backend: Backend) -> Place {
    let mut place = Place::prepare(backend).await;
    let rules = json!({
        "rotation": "single_use_with_reuse_detection",
        "old_access_token_after_refresh": "dead",
    });
    settings(&place.client, rules).await;
    for (id, app, company) in [(1, FIRST, 1), (2, SECOND, 2)] {
        let tokens = place.consent(app, company, 1).await;
        place
            .home
            .insert(id, Some(app), "Pipedrive", &tokens, "2026-03-01 00:00:00");
    }
    let hubspot = place.consent(FIRST, 9, 1).await;
    place
        .home
        .insert(7, Some("hub"), "Hubspot", &hubspot, "2026-03-01 00:00:00");
    place.import(&["--apply", "--refresh"]).await;
    place
        .set
        .push(("old_table.mirror".to_owned(), "true".to_owned()));
    place
}

/// Starts token-refresher and waits until both rows are up to date.
async fn serve(place: &Place) -> Child {
    let serving = place.serve().await;
    until("the old rows have tokens that work", || async {
        let home = &place.home;
        place.api_takes(&home.tokens(1).access).await
            && place.api_takes(&home.tokens(2).access).await
    })
    .await;
    serving
}

/// n8n's workflows: told of a 401, they call the refresh webhook and read the row at once.
pub(crate) async fn workflow_that_reads_the_old_row_after_a_refresh_finds_the_new_token(
    backend: Backend,
) {
    let place = mirrored(backend).await;
    let _serving = serve(&place).await;
    let (first, second, third) = (
        place.home.tokens(1),
        place.home.tokens(2),
        place.home.tokens(7),
    );

    for round in 1..=3 {
        let body = json!({"appId": ALIAS, "generation": null});
        place.home.ours.lines(aged(backend)).unwrap();
        let answer = place
            .client
            .refresh(&body)
            .await
            .unwrap()
            .expect(200)
            .json();
        assert_eq!(answer["outcome"], "refreshed", "{round}");
        let row = place.home.tokens(1);
        assert!(place.api_takes(&row.access).await, "{round}");
        assert_ne!(row.access, first.access);
        assert_eq!(
            row.refresh, first.refresh,
            "the refresh token is not mirrored"
        );
    }
    let already = place
        .client
        .refresh(&json!({"appId": ALIAS}))
        .await
        .unwrap();
    assert_eq!(already.expect(200).json()["outcome"], "already_newer");
    assert_eq!(place.home.tokens(2), second, "another app's row");
    assert_eq!(place.home.tokens(7), third, "another platform's row");
    assert_eq!(place.reused().await, 0);
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

/// Nobody waits for those: the sweep's, a caller's who reads our rows.
pub(crate) async fn renewal_that_no_workflow_asked_for_is_mirrored_too(backend: Backend) {
    let place = mirrored(backend).await;
    let _serving = serve(&place).await;
    let before = place.home.tokens(2);
    let row = place
        .home
        .connections()
        .await
        .into_iter()
        .find(|row| row.app_id == SECOND);
    let row = row.unwrap();

    let body = json!({"connectionId": row.id.as_str(), "generation": row.generation});
    place.client.refresh(&body).await.unwrap().expect(200);

    until("the old row has the new token", || async {
        place.api_takes(&place.home.tokens(2).access).await
    })
    .await;
    assert_ne!(place.home.tokens(2).access, before.access);
    assert_eq!(place.home.tokens(2).refresh, before.refresh);
}

/// Who reads the old row is told to wait; our refreshes go on, and what is missing follows, also by another process.
pub(crate) async fn old_table_that_is_away_is_brought_up_to_date_later(backend: Backend) {
    let place = mirrored(backend).await;
    let mut serving = place.serve().await;
    let table = place.home.table();
    place
        .home
        .old(&format!("ALTER TABLE {table} RENAME TO away"));

    let waits = place.client.refresh(&json!({"appId": ALIAS})).await;
    let problem = waits.unwrap().expect_problem(503, "REFRESH_BUSY");
    assert_eq!(problem["reason"], "old_table");
    let rows = place.home.connections().await;
    let row = rows.iter().find(|row| row.app_id == FIRST).unwrap();
    let body = json!({"connectionId": row.id.as_str()});
    place.client.refresh(&body).await.unwrap().expect(200);

    until("it is said", || async {
        place.degraded().await.contains("old_table")
    })
    .await;
    serving.kill().await.unwrap();
    let _again = place.serve().await;
    until("it is said again", || async {
        place.degraded().await.contains("old_table")
    })
    .await;
    place
        .home
        .old(&format!("ALTER TABLE away RENAME TO {table}"));
    until("the old row has the new token", || async {
        place.api_takes(&place.home.tokens(1).access).await
    })
    .await;
    until("it is said no more", || async {
        place.degraded().await == "[]"
    })
    .await;
}

/// The workflow's token has failed, not ours: it gets ours, and nothing is spent.
pub(crate) async fn row_that_lags_behind_is_no_reason_to_refresh(backend: Backend) {
    let place = mirrored(backend).await;
    let _serving = serve(&place).await;
    let ours = place.home.tokens(1);
    let mut older = ours.clone();
    older.access = "older".to_owned();

    // What goes on in the background may bring the row up to date a moment before the call.
    for attempt in 1.. {
        place.home.set_tokens(1, &older);
        let before = crate::support::refreshes(&place.client).await;
        let answer = place
            .client
            .refresh(&json!({"appId": ALIAS}))
            .await
            .unwrap();
        let is_newer = answer.expect(200).json()["outcome"] == "already_newer";
        if is_newer && crate::support::refreshes(&place.client).await == before {
            break;
        }
        assert!(attempt < 9, "the connection is refreshed each time");
        place.home.ours.lines(aged(backend)).unwrap();
    }
    let row = place.home.tokens(1);
    assert!(place.api_takes(&row.access).await);
    assert_eq!(row.refresh, ours.refresh);
}

/// Nobody asks us for the token of a row that workflows read.
pub(crate) async fn mirrored_connection_counts_as_in_use(backend: Backend) {
    let place = mirrored(backend).await;
    let _serving = place.serve().await;

    until("the sweep is to renew it ahead of its end", || async {
        let rows = place.home.connections().await;
        rows.iter()
            .all(|row| row.last_used_at.is_some() && row.due_at <= row.expires_at)
    })
    .await;
}

/// Told before n8n's refresh is switched off, and before anybody depends on it.
pub(crate) async fn table_that_cannot_be_written_is_named_at_the_start(backend: Backend) {
    let place = mirrored(backend).await;
    place.home.refuse_writes();
    let before = place.home.old_rows();

    let _serving = place.serve().await;

    until("it is said", || async {
        place.degraded().await.contains("can't be written")
    })
    .await;
    assert_eq!(place.home.old_rows(), before);
}

/// The new tokens may have ended ours, and ours are not written over them.
pub(crate) async fn same_person_who_installs_again_through_n8n_replaces_our_tokens(
    backend: Backend,
) {
    let place = mirrored(backend).await;
    settings(&place.client, json!({"reinstall": "replaces_tokens"})).await;
    let _serving = serve(&place).await;
    let ours = place.home.connections().await.len();

    place.home.set_tokens(1, &place.consent(FIRST, 1, 1).await);
    place.takes_over(1).await;

    place.home.ours.lines(aged(backend)).unwrap();
    let answer = place.client.refresh(&json!({"appId": ALIAS})).await;
    answer.unwrap().expect(200);
    assert!(place.api_takes(&place.home.tokens(1).access).await);
    assert!(!place.degraded().await.contains("row 1"));

    place.home.set_tokens(1, &place.consent(FIRST, 1, 1).await);
    place.takes_over(1).await;
    place.says("n8n still refreshes").await;
    assert_eq!(place.home.connections().await.len(), ours);
    let said = place.done(&["rollback-to-n8n", "--apply"]).await;
    said.expect("1", "handed back");
    let handed = place.home.tokens(1);
    assert_eq!(fingerprint(&handed.refresh), place.newest(FIRST, 1).await);
    assert_eq!(place.reused().await, 0);
}

/// Existing callers keep their connection; the row waits for the operator, or for its former person.
pub(crate) async fn other_person_who_installs_through_n8n_gets_a_connection_of_their_own(
    backend: Backend,
) {
    let place = mirrored(backend).await;
    let _serving = serve(&place).await;
    let strange = place.consent(FIRST, 8, 1).await;
    place.home.set_tokens(1, &strange);

    place.says("row 1 holds the tokens of another person").await;

    assert_eq!(place.default_company(FIRST).await.as_deref(), Some("1"));
    let waits = place
        .client
        .refresh(&json!({"appId": ALIAS}))
        .await
        .unwrap();
    assert_eq!(
        waits.expect_problem(503, "REFRESH_BUSY")["reason"],
        "old_table"
    );
    assert_eq!(waits.retry_after(), 30);
    assert_eq!(place.home.tokens(1), strange, "not written");
    let rows = place.home.connections().await;
    let eight = rows.iter().find(|row| row.company_id == "8").unwrap();
    place
        .done(&["connections", "refresh", eight.id.as_str()])
        .await;
    assert_eq!(place.home.tokens(1), strange, "not written");

    place
        .done(&["connections", "default", eight.id.as_str()])
        .await;
    until("it is written", || async {
        place.api_takes(&place.home.tokens(1).access).await && place.degraded().await == "[]"
    })
    .await;
    let answer = place.client.refresh(&json!({"appId": ALIAS})).await;
    answer.unwrap().expect(200);
    let said = place.done(&["rollback-to-n8n", "--apply"]).await;
    said.expect("1", "handed back");
    said.expect("-", "has no row in the old table, and stays here");
    let handed = place.home.tokens(1);
    assert_eq!(fingerprint(&handed.refresh), place.newest(FIRST, 8).await);
    assert_eq!(place.reused().await, 0);
}

/// Whose they are, only a refresh can tell, and that is the operator's to ask for.
pub(crate) async fn expired_tokens_of_a_changed_row_wait_for_the_import(backend: Backend) {
    let place = mirrored(backend).await;
    settings(&place.client, json!({"reinstall": "replaces_tokens"})).await;
    let _serving = serve(&place).await;
    let anew = place.consent(FIRST, 1, 1).await;
    place.expire(FIRST, 1).await;
    let spent = crate::support::refreshes(&place.client).await;
    place.home.set_tokens(1, &anew);

    place.says("`import --apply --refresh`").await;

    assert_eq!(crate::support::refreshes(&place.client).await, spent);
    assert_eq!(place.home.tokens(1), anew);
    let said = place
        .done(&["rollback-to-n8n", "--apply", "--app", "pipedrive"])
        .await;
    said.expect(
        "1",
        "is not handed back, and goes on here: row 1 holds another refresh token",
    );
    let said = place.import(&["--apply", "--refresh"]).await;
    said.expect("row 1", "taken over and refreshed");
    until("it is said no more", || async {
        place.degraded().await == "[]"
    })
    .await;
    assert!(place.api_takes(&place.home.tokens(1).access).await);
    let said = place.done(&["rollback-to-n8n", "--apply"]).await;
    said.expect("1", "handed back");
    let handed = place.home.tokens(1);
    assert_eq!(fingerprint(&handed.refresh), place.newest(FIRST, 1).await);
    assert_eq!(place.reused().await, 0);
}

/// Without the mirror: the import itself does not leave the newer tokens alone.
pub(crate) async fn import_takes_the_new_tokens_of_a_row_that_it_knows(backend: Backend) {
    let place = mirrored(backend).await;
    settings(&place.client, json!({"reinstall": "replaces_tokens"})).await;
    place.home.set_tokens(1, &place.consent(FIRST, 1, 1).await);

    let dry = place.import(&[]).await;
    dry.expect("row 1", "replaces the older tokens of connection");
    let said = place.import(&["--apply", "--refresh"]).await;

    said.expect("row 1", "taken over and refreshed");
    let said = place.done(&["rollback-to-n8n", "--apply"]).await;
    said.expect("1", "handed back");
    let handed = place.home.tokens(1);
    assert_eq!(fingerprint(&handed.refresh), place.newest(FIRST, 1).await);
    assert_eq!(place.reused().await, 0);
}

/// Whoever was connected before or is connected later: who asks by the app's name alone reads a row next.
pub(crate) async fn default_while_mirroring_is_the_connection_of_the_newest_row(backend: Backend) {
    let mut place = Place::prepare(backend).await;
    place.spends_once().await;
    let first = place.consent(FIRST, 1, 1).await;
    for (row, written) in [(1, "2026-03-02 00:00:00"), (3, "2026-03-01 00:00:00")] {
        place
            .home
            .insert(row, Some(ALIAS), "Pipedrive", &first, written);
    }
    let tokens = place.consent(FIRST, 9, 1).await;
    place.import_file(&tokens).await;
    assert_eq!(place.default_company(FIRST).await.as_deref(), Some("9"));
    let mirror = ("old_table.mirror".to_owned(), "true".to_owned());
    place.set.push(mirror);
    let _serving = place.serve().await;

    place.says("has no row in the table").await;
    let waits = place
        .client
        .refresh(&json!({"appId": ALIAS}))
        .await
        .unwrap();
    assert_eq!(
        waits.expect_problem(503, "REFRESH_BUSY")["reason"],
        "old_table"
    );
    assert_eq!(waits.retry_after(), 30);

    let said = place.import(&["--apply", "--refresh"]).await;
    assert!(said.out.contains("(row 1, the newest)"), "{said:#?}");
    until("it is said no more", || async {
        place.degraded().await == "[]"
    })
    .await;
    let tokens = place.consent(FIRST, 10, 1).await;
    place.import_file(&tokens).await;
    assert_eq!(place.default_company(FIRST).await.as_deref(), Some("1"));

    // Of two rows one lags behind.
    let mut older = place.home.tokens(3);
    older.access = "older".to_owned();
    place.home.set_tokens(3, &older);
    let answer = place.client.refresh(&json!({"appId": ALIAS})).await;
    answer.unwrap().expect(200);
    assert_eq!(place.home.tokens(3).access, place.home.tokens(1).access);

    // Somebody consents through n8n, and nobody imports the row.
    let tokens = place.consent(FIRST, 4, 1).await;
    let (newest, written) = (4, "2030-01-01 00:00:00");
    place
        .home
        .insert(newest, Some(ALIAS), "Pipedrive", &tokens, written);
    place
        .says("row 4, the newest of the app pipedrive, was not imported")
        .await;
    place.import(&["--apply", "--refresh"]).await;
    until("it is said no more", || async {
        place.degraded().await == "[]"
    })
    .await;
    assert_eq!(place.default_company(FIRST).await.as_deref(), Some("4"));
    assert_eq!(place.reused().await, 0);
}
