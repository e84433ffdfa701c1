use pipedrive_sim::DEFAULT_CLIENT_ID as FIRST;
use pipekeeper_core::connection::ConnectionState;
use pipekeeper_core::store::Backend;
use serde_json::json;
use stack_tests::stack::OTHER_APP as SECOND;

use super::{ALIAS, Fixture};
use crate::support::{clear_faults, fault, refreshes};

/// Two apps, an alias, an empty `AppId`, copies, another grant of the same person, an expired one, another platform, an app
/// that no one knows.
async fn table(backend: Backend) -> Fixture {
    let fixture = Fixture::prepare(backend).await;
    let older = fixture.consent(FIRST, 1, 1).await;
    let newer = fixture.consent(FIRST, 1, 1).await;
    let home = &fixture.home;
    home.insert(1, Some(ALIAS), "Pipedrive", &newer, "2026-03-01 00:00:00");
    let second = fixture.consent(SECOND, 2, 1).await;
    home.insert(2, Some(SECOND), "Pipedrive", &second, "2026-03-02 00:00:00");
    let nameless = fixture.consent(FIRST, 3, 1).await;
    home.insert(3, None, "Pipedrive", &nameless, "2026-03-03 00:00:00");
    home.insert(4, Some(FIRST), "Pipedrive", &newer, "2026-02-01 00:00:00");
    home.insert(5, Some(FIRST), "Pipedrive", &older, "2026-01-02 00:00:00");
    let expired = fixture.consent(FIRST, 4, 1).await;
    home.insert(6, Some(FIRST), "Pipedrive", &expired, "2026-01-02 00:00:00");
    home.insert(7, Some("hub"), "Hubspot", &expired, "2026-01-02 00:00:00");
    home.insert(
        8,
        Some("nobody"),
        "Pipedrive",
        &expired,
        "2026-01-02 00:00:00",
    );
    fixture.expire(FIRST, 4).await;
    fixture
}

pub(crate) async fn import_says_what_it_would_do_and_writes_nothing(backend: Backend) {
    let fixture = table(backend).await;
    let before = fixture.home.old_rows();

    let said = fixture.import(&["--app", "pipedrive"]).await;

    for (row, what) in [
        ("row 1", "is taken over"),
        ("row 2", "is taken over"),
        ("row 3", "is taken over"),
        ("row 4", "holds the same refresh token as row 1"),
        ("row 5", "another grant of the same person as row 1"),
        (
            "row 6",
            "its access token has expired: --refresh finds out whose it is",
        ),
        ("row 7", "of another platform, Hubspot"),
        (
            "row 8",
            "no app is known as nobody: name it in the `aliases`",
        ),
    ] {
        said.expect(row, what);
    }
    said.expect("row 1", "1 Acme Solar");
    said.expect("row 2", "second");
    for line in [
        "Nothing was written: --apply does it.\n",
        "Callers that name only the app pipedrive would get row 1, the newest: it becomes the default connection.\n",
        "Callers that name only the app second would get row 2, the newest: it becomes the default connection.\n",
    ] {
        assert!(said.out.contains(line), "{line} in {said:#?}");
    }
    let nameless = fixture.import(&[]).await;
    nameless.expect(
        "row 3",
        "names no app, and there are several: --app says which",
    );
    assert_eq!(fixture.home.our_rows().await, (vec![], vec![]));
    assert_eq!(fixture.home.old_rows(), before);
    assert_eq!(refreshes(&fixture.client).await, 0);
}

pub(crate) async fn import_takes_over_what_is_good_and_the_second_time_changes_nothing(
    backend: Backend,
) {
    let fixture = table(backend).await;
    let before = fixture.home.old_rows();

    let said = fixture.import(&["--app", "pipedrive", "--apply"]).await;

    assert!(
        said.out.contains("3 taken over, 3 left alone, 2 open."),
        "{said:#?}"
    );
    assert_eq!(fixture.default_company(FIRST).await.as_deref(), Some("1"));
    assert_eq!(fixture.default_company(SECOND).await.as_deref(), Some("2"));
    let rows = fixture.home.connections().await;
    let mut kept: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.app_id.as_str(),
                row.account_id.as_str(),
                row.owner.as_str(),
                row.state,
            )
        })
        .collect();
    kept.sort_unstable_by_key(|row| row.1);
    let active = ConnectionState::Active;
    assert_eq!(
        kept,
        [
            (FIRST, "~pipedrive:1", "~pipedrive:1", active),
            (SECOND, "~pipedrive:2", "~pipedrive:1", active),
            (FIRST, "~pipedrive:3", "~pipedrive:1", active),
        ]
    );
    assert!(
        rows.iter()
            .all(|row| row.generation == 1 && !row.company_name.is_empty())
    );
    let ours = fixture.home.our_rows().await;

    let again = fixture.import(&["--app", "pipedrive", "--apply"]).await;

    again.expect("row 1", "already here");
    again.expect("row 5", "already here");
    assert_eq!(fixture.home.our_rows().await, ours);
    assert_eq!(fixture.home.old_rows(), before);
    assert_eq!(refreshes(&fixture.client).await, 0, "nothing was spent");

    // And they are used like any other, by the name that n8n's callers have for the app.
    let _serving = fixture.serve().await;
    let body = json!({"appId": ALIAS, "accountId": "~pipedrive:1"});
    let answer = fixture
        .client
        .refresh(&body)
        .await
        .unwrap()
        .expect(200)
        .json();
    assert_eq!(
        (&answer["outcome"], &answer["AppId"]),
        (&json!("refreshed"), &json!(FIRST))
    );
}

pub(crate) async fn import_finds_out_by_a_refresh_whose_an_expired_grant_is(backend: Backend) {
    let fixture = table(backend).await;
    fixture.spends_once().await;
    // Grants that their users have ended: more of them than a running service would take for theirs.
    let dead = fixture.consent(FIRST, 5, 1).await;
    for company in 20..25 {
        let dead = fixture.consent(FIRST, company, 1).await;
        fixture.home.insert(
            company,
            Some(FIRST),
            "Pipedrive",
            &dead,
            "2026-01-02 00:00:00",
        );
        let whose = json!({"company": company, "client_id": FIRST});
        fixture.client.sim("revoke", &whose).await.unwrap();
    }
    fixture
        .home
        .insert(9, Some(FIRST), "Pipedrive", &dead, "2026-01-02 00:00:00");
    let whose = json!({"company": 5, "client_id": FIRST});
    fixture.client.sim("revoke", &whose).await.unwrap();
    // n8n's refresh has written the second app's tokens over those of a row of the first.
    let shared = fixture.consent(SECOND, 6, 1).await;
    fixture.home.insert(
        10,
        Some(SECOND),
        "Pipedrive",
        &shared,
        "2026-01-02 00:00:00",
    );
    fixture
        .home
        .insert(11, Some(FIRST), "Pipedrive", &shared, "2026-01-03 00:00:00");
    let before = fixture.home.old_rows();
    let dry = fixture.import(&["--app", "pipedrive"]).await;
    dry.expect(
        "row 10",
        "hold the same refresh token: --refresh finds out whose it is",
    );
    let apply = ["--app", "pipedrive", "--apply", "--refresh"];

    let said = fixture.import(&apply).await;

    said.expect("row 6", "taken over and refreshed");
    said.expect("row 6", "4 ");
    said.expect("row 9", "the provider refuses its refresh token");
    for row in 20..25 {
        said.expect(
            &format!("row {row}"),
            "the provider refuses its refresh token",
        );
    }
    said.expect("row 10", "taken over and refreshed");
    said.expect(
        "row 11",
        "holds the refresh token of row 10, which is app second's",
    );
    let rows = fixture.home.connections().await;
    assert_eq!(rows.len(), 5, "{rows:#?}");
    assert!(rows.iter().all(|row| row.state == ConnectionState::Active));
    assert!(
        rows.iter()
            .all(|row| row.account_id.as_str().starts_with("~pipedrive:"))
    );
    assert!(
        rows.iter()
            .all(|row| row.refreshed_at.is_some() || row.generation == 3)
    );
    let ours = fixture.home.our_rows().await;

    let again = fixture.import(&apply).await;

    again.expect("row 6", "already here");
    again.expect("row 9", "the provider refuses its refresh token");
    again.expect("row 10", "already here");
    assert_eq!(fixture.home.our_rows().await, ours);
    assert_eq!(fixture.home.old_rows(), before);
    assert_eq!(fixture.reused().await, 0);
}

pub(crate) async fn import_asks_again_later_what_the_provider_does_not_say_now(backend: Backend) {
    let fixture = table(backend).await;
    fault(
        &fixture.client,
        json!({"on": "api", "fault": "500", "times": 0}),
    )
    .await;

    let said = fixture.import(&["--app", "pipedrive", "--apply"]).await;

    said.expect("row 2", "whose it is could not be asked");
    assert!(fixture.home.connections().await.is_empty());
    clear_faults(&fixture.client).await;
    let said = fixture.import(&["--app", "pipedrive", "--apply"]).await;
    said.expect("row 2", "taken over");
}

/// What has ended here stays so, unless what is found is newer.
pub(crate) async fn import_revives_by_newer_tokens_alone(backend: Backend) {
    let fixture = Fixture::prepare(backend).await;
    let first = fixture.consent(FIRST, 1, 1).await;
    fixture
        .home
        .insert(1, Some(FIRST), "Pipedrive", &first, "2026-03-01 00:00:00");
    fixture.import(&["--app", "pipedrive", "--apply"]).await;
    let (store, now) = (
        fixture.home.ours.store(),
        pipekeeper_core::clock::SystemClock::shared().now(),
    );
    let row = fixture.home.connections().await.remove(0);
    let refused = store.connection_reauth_required(&row.id, row.generation, false, None, now);
    assert!(refused.await.unwrap());
    let ended = fixture.home.our_rows().await;

    let said = fixture.import(&["--apply"]).await;

    said.expect("row 1", "has ended here (rejected): connect it again");
    assert_eq!(fixture.home.our_rows().await, ended);

    let second = fixture.consent(FIRST, 1, 1).await;
    fixture.home.set_tokens(1, &second);
    fixture
        .import(&["--apply"])
        .await
        .expect("row 1", "taken over");
    let row = fixture.home.connections().await.remove(0);
    assert_eq!(row.state, ConnectionState::Active);

    // Disconnected on purpose: no one's table undoes that.
    let known = pipekeeper_core::store::Revocation::Known;
    let revoked = store.connection_revoke(&row.id, row.generation, "disconnected", known, now);
    assert!(revoked.await.unwrap());
    let third = fixture.consent(FIRST, 1, 1).await;
    fixture.home.set_tokens(1, &third);
    let said = fixture.import(&["--apply"]).await;
    said.expect(
        "row 1",
        "was disconnected here (disconnected), and the row's grant may live: connect it again",
    );
}

pub(crate) async fn exports_and_documents_are_taken_over_alike(backend: Backend) {
    let fixture = Fixture::prepare(backend).await;
    fixture.spends_once().await;
    let (one, two) = (
        fixture.consent(FIRST, 1, 1).await,
        fixture.consent(FIRST, 2, 1).await,
    );
    let (three, gone) = (
        fixture.consent(FIRST, 3, 1).await,
        fixture.consent(FIRST, 4, 1).await,
    );
    fixture.expire(FIRST, 2).await;
    let csv = format!(
        "id,created_at,AppId,Platform,acc_token,ref_token,updated_at\n\
         1,2026-01-01 00:00:00+00,{ALIAS},Pipedrive,{},{},2026-01-01T00:00:00.000Z\n\
         2,2026-01-01 00:00:00+00,{ALIAS},Pipedrive,{},{},\n",
        one.access, one.refresh, two.access, two.refresh
    );
    let document = |id: &str, account: &str, tokens: &super::Tokens, invalidated: bool| {
        json!({
            "_id": {"$oid": id}, "account_id": account, "owner": "jane", "token_invalidated": invalidated,
            "token": {"access_token": tokens.access, "refresh_token": tokens.refresh, "expires_in": 3600,
                "generated_at": 4_000_000_000_u64, "scope": "base,deals:full", "api_domain": fixture.client.simulator},
        })
    };
    let documents = json!([
        document("a1", "acme", &three, false),
        document("a2", "gone", &gone, true),
    ]);
    let csv = fixture.home.write("tokens.csv", &csv);
    let documents = fixture.home.write("documents.json", &documents.to_string());
    let from_csv = [
        "import",
        "--from",
        "csv",
        "--file",
        &csv,
        "--apply",
        "--refresh",
    ];
    let from_json = [
        "import",
        "--from",
        "json",
        "--file",
        &documents,
        "--app",
        "pipedrive",
        "--apply",
    ];

    let said = fixture.done(&from_csv).await;
    said.expect("row 1", "taken over and refreshed");
    said.expect("row 2", "taken over and refreshed");
    let said = fixture.done(&from_json).await;
    said.expect("document a1", "taken over");
    said.expect("document a2", "invalidated where it is");

    let ours = fixture.home.our_rows().await;
    let filed = ours
        .0
        .iter()
        .find(|row| row.account_id.as_str() == "acme")
        .unwrap();
    assert_eq!(
        (filed.owner.as_str(), filed.scope.as_str()),
        ("jane", "base,deals:full")
    );
    assert_eq!(filed.expires_at.unix_micros(), 4_000_003_600_000_000);
    // The files hold what has been spent by now: it is not spent again.
    fixture
        .done(&from_csv)
        .await
        .expect("row 2", "already here");
    fixture
        .done(&from_json)
        .await
        .expect("document a1", "already here");
    assert_eq!(fixture.home.our_rows().await, ours);
    assert_eq!(fixture.reused().await, 0);
}
