use pipedrive_sim::DEFAULT_CLIENT_ID as FIRST;
use pipekeeper_core::clock::SystemClock;
use pipekeeper_core::connection::{ConnectionState, HANDED_BACK};
use pipekeeper_core::store::Backend;
use serde_json::json;
use stack_tests::stack::OTHER_APP as SECOND;
use up::client::fingerprint;

use super::fixture::{Fixture, Home};
use crate::support::refreshes;

pub(crate) async fn after_the_way_back_the_old_table_has_the_newest_tokens_and_we_spend_none(
    backend: Backend,
) {
    let fixture = Fixture::prepare(backend).await;
    fixture.spends_once().await;
    for (id, app, company) in [(1, FIRST, 1), (2, SECOND, 2)] {
        let tokens = fixture.consent(app, company, 1).await;
        fixture
            .home
            .insert(id, Some(app), "Pipedrive", &tokens, "2026-03-01 00:00:00");
        // n8n's insert, twice: a copy.
        fixture.home.insert(
            id + 2,
            Some(app),
            "Pipedrive",
            &tokens,
            "2026-02-01 00:00:00",
        );
    }
    fixture.import(&["--apply", "--refresh"]).await;
    let serving = fixture.serve().await;
    let rows = fixture.home.connections().await;
    for row in &rows {
        let body = json!({"connectionId": row.id.as_str(), "generation": row.generation});
        fixture.client.refresh(&body).await.unwrap().expect(200);
    }
    let (ours, old) = (fixture.home.our_rows().await, fixture.home.old_rows());
    let dry = fixture.done(&["rollback-to-n8n"]).await;
    dry.expect("1, 3", "is handed back");
    assert!(
        dry.out.ends_with("Nothing was written: --apply does it.\n"),
        "{dry:#?}"
    );
    assert_eq!(
        (fixture.home.our_rows().await, fixture.home.old_rows()),
        (ours, old)
    );

    let one = fixture
        .done(&["rollback-to-n8n", "--app", "pipedrive", "--apply"])
        .await;
    one.expect("1, 3", "handed back");
    assert!(!one.out.contains("second"), "{one:#?}");
    let said = fixture.done(&["rollback-to-n8n", "--apply"]).await;
    said.expect("2, 4", "handed back");

    for (id, app, company) in [(1, FIRST, 1), (2, SECOND, 2)] {
        let handed = fixture.home.tokens(id);
        assert_eq!(
            fingerprint(&handed.refresh),
            fixture.newest(app, company).await
        );
        assert!(fixture.api_takes(&handed.access).await);
        assert_eq!(fixture.home.tokens(id + 2), handed, "the copy");
    }
    let spent = refreshes(&fixture.client).await;
    let ours = fixture.home.our_rows().await;
    for row in &ours.0 {
        assert_eq!(
            (row.state, row.state_reason.as_deref()),
            (ConnectionState::Revoked, Some(HANDED_BACK))
        );
        assert!(row.access_token.is_wiped() && row.refresh_token.is_wiped());
        for generation in [row.generation - 1, row.generation] {
            let body = json!({"connectionId": row.id.as_str(), "generation": generation});
            let refused = fixture.client.refresh(&body).await.unwrap();
            assert_eq!(
                refused.expect_problem(409, "TOKEN_INVALIDATED")["reason"],
                HANDED_BACK
            );
        }
    }
    fixture.done(&["recheck"]).await;
    let again = fixture.done(&["rollback-to-n8n", "--apply"]).await;
    assert_eq!(again.out, "Nothing came from App_tok.\n");
    assert_eq!(fixture.home.our_rows().await, ours);
    assert_eq!(refreshes(&fixture.client).await, spent, "we spend none");

    // n8n goes on where we have stopped.
    for (id, app) in [(1, FIRST), (2, SECOND)] {
        let tokens = fixture
            .n8n_spends(app, &fixture.home.tokens(id).refresh)
            .await
            .unwrap();
        fixture.home.set_tokens(id, &tokens);
        fixture.home.set_tokens(id + 2, &tokens);
    }
    assert_eq!(fixture.reused().await, 0);

    // And the other way once more.
    let anew = fixture.import(&["--apply", "--refresh"]).await;
    anew.expect("row 3", "taken over and refreshed");
    anew.expect("row 1", "holds the same refresh token as row 3");
    let rows = fixture.home.connections().await;
    assert!(
        rows.iter().all(|row| row.state == ConnectionState::Active),
        "{rows:#?}"
    );
    assert_eq!(rows.len(), 2);
    assert_eq!(fixture.reused().await, 0);
    drop(serving);
}

/// A refresh that no one knows the end of is looked into first.
pub(crate) async fn token_in_doubt_is_not_handed_back(backend: Backend) {
    let fixture = Fixture::prepare(backend).await;
    let tokens = fixture.consent(FIRST, 1, 1).await;
    fixture
        .home
        .insert(1, Some(FIRST), "Pipedrive", &tokens, "2026-03-01 00:00:00");
    fixture.import(&["--apply"]).await;
    let doubt = match backend {
        Backend::Mysql | Backend::Sqlite => "UPDATE connections SET in_doubt = 1",
        Backend::Postgres => "UPDATE connections SET in_doubt = true",
    };
    fixture.home.ours.lines(doubt).unwrap();
    let outage = json!({"on": "token", "fault": "500", "times": 0});
    crate::support::fault(&fixture.client, outage).await;

    let said = fixture.done(&["rollback-to-n8n", "--apply"]).await;

    said.expect(
        "1",
        "is not handed back: which token is the newest is not known",
    );
    assert_eq!(fixture.home.tokens(1), tokens);
    crate::support::clear_faults(&fixture.client).await;
    let ready = "UPDATE connections SET retry_at = NULL";
    fixture.home.ours.lines(ready).unwrap();
    let said = fixture.done(&["rollback-to-n8n", "--apply"]).await;
    said.expect("1", "handed back");
    let handed = fixture.home.tokens(1);
    assert_eq!(fingerprint(&handed.refresh), fixture.newest(FIRST, 1).await);
}

/// What was connected here has no row to go back to, and goes on.
pub(crate) async fn connection_without_a_row_stays_here(backend: Backend) {
    let fixture = Fixture::prepare(backend).await;
    let tokens = fixture.consent(FIRST, 1, 1).await;
    fixture
        .home
        .insert(1, Some(FIRST), "Pipedrive", &tokens, "2026-03-01 00:00:00");
    fixture.import(&["--apply"]).await;
    fixture
        .home
        .old(&format!("DELETE FROM {}", fixture.home.table()));
    let gone = fixture.done(&["rollback-to-n8n", "--apply"]).await;
    gone.expect("1", "is not handed back, and goes on here: row 1 is gone");

    fixture.home.ours.lines("DELETE FROM imports").unwrap();
    let said = fixture.done(&["rollback-to-n8n", "--apply"]).await;

    said.expect("-", "has no row in the old table, and stays here");
    let rows = fixture.home.connections().await;
    assert_eq!(rows[0].state, ConnectionState::Active);
}

/// Nothing stops here before it is known that the row takes what it is given.
pub(crate) async fn row_that_cannot_take_the_tokens_is_not_handed_back(backend: Backend) {
    type Spoil = fn(&Home);
    let spoils: [(Spoil, &str); 2] = [
        (Home::refuse_writes, "can't be written"),
        (Home::cut_tokens, "would not hold the tokens as they are"),
    ];
    for (spoil, why) in spoils {
        let fixture = Fixture::prepare(backend).await;
        let tokens = fixture.consent(FIRST, 1, 1).await;
        fixture
            .home
            .insert(1, Some(FIRST), "Pipedrive", &tokens, "2026-03-01 00:00:00");
        fixture.import(&["--apply"]).await;
        spoil(&fixture.home);
        let before = (fixture.home.our_rows().await, fixture.home.old_rows());

        for arguments in [
            ["rollback-to-n8n"].as_slice(),
            &["rollback-to-n8n", "--apply"],
        ] {
            let said = fixture.done(arguments).await;

            said.expect("1", "is not handed back, and goes on here: row 1");
            said.expect("1", why);
            let now = (fixture.home.our_rows().await, fixture.home.old_rows());
            assert_eq!(now, before, "{arguments:?}");
        }
    }
}

/// n8n may read just the row that does not take the tokens: they are kept until it does.
pub(crate) async fn tokens_are_kept_until_each_row_has_them(backend: Backend) {
    let fixture = Fixture::with(backend, Backend::Sqlite).await;
    let home = &fixture.home;
    let tokens = fixture.consent(FIRST, 1, 1).await;
    for row in [1, 3] {
        home.insert(
            row,
            Some(FIRST),
            "Pipedrive",
            &tokens,
            "2026-03-01 00:00:00",
        );
    }
    fixture.import(&["--apply", "--refresh"]).await;
    home.old(
        "CREATE TRIGGER refuse BEFORE UPDATE ON App_tok WHEN NEW.id = 3 BEGIN SELECT RAISE(ABORT, 'read only'); END",
    );
    let said = fixture.done(&["rollback-to-n8n", "--apply"]).await;
    said.expect("1, 3", "is not handed back, and goes on here: row 3");
    let row = home.connections().await.remove(0);
    assert_eq!(row.state, ConnectionState::Active);

    // It stopped, and then row 3 took nothing.
    let (store, now) = (home.ours.store(), SystemClock::shared().now());
    let stopped = store.connection_hand_back(&row.id, row.generation, now);
    assert!(stopped.await.unwrap());
    let said = fixture.done(&["rollback-to-n8n", "--apply"]).await;
    said.expect("1, 3", "is stopped, and not handed back yet: row 3");
    assert!(!home.connections().await[0].refresh_token.is_wiped());
    home.old("DROP TRIGGER refuse");
    let said = fixture.done(&["rollback-to-n8n", "--apply"]).await;

    said.expect("3", "handed back");
    assert!(home.connections().await[0].refresh_token.is_wiped());
    assert_eq!(home.tokens(1), home.tokens(3));
    let newest = fixture.newest(FIRST, 1).await;
    assert_eq!(fingerprint(&home.tokens(3).refresh), newest);
}
