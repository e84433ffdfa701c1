//! n8n's table as people have it: times as text, pasted tokens, rows without an id of their own, hidden rows.

use pipedrive_sim::DEFAULT_CLIENT_ID as FIRST;
use pipekeeper_core::clock::SystemClock;
use pipekeeper_core::connection::ConnectionState;
use pipekeeper_core::store::Backend;
use pipekeeper_testing::role_name;

use super::{ALIAS, Fixture, Tokens};

const APPLY: [&str; 4] = ["--app", "pipedrive", "--apply", "--refresh"];

/// Two living grants of one person: row 1 is the newer one, by what `times` say.
async fn two_grants(backend: Backend) -> Fixture {
    let fixture = Fixture::prepare(backend).await;
    fixture.home.times_as_text();
    for row in [1, 2] {
        let tokens = fixture.consent(FIRST, 1, 1).await;
        let now = "2026-03-01 00:00:00";
        fixture
            .home
            .insert(row, Some(FIRST), "Pipedrive", &tokens, now);
    }
    fixture
}

pub(crate) async fn import_orders_rows_by_time_and_not_by_text(backend: Backend) {
    let fixture = two_grants(backend).await;
    for (older, newer) in [
        ("2026-11-21T20:41:37+02:00", "2026-11-21T19:41:37Z"),
        ("2026-11-21T20:41:37.538+0200", "2026-11-21 19:41:37.000"),
        ("1795290096000", "2026-11-21T20:41:37+01:00"),
        ("21/11/2026 20:41", "2026-01-01T00:00:00Z"),
    ] {
        fixture.home.written(1, newer);
        fixture.home.written(2, older);

        let said = fixture.import(&[]).await;

        said.expect("row 1", "is taken over");
        said.expect("row 2", "another grant of the same person as row 1");
    }
}

/// Times that can't be read leave open which of two grants is the newer one: the other is kept for later.
pub(crate) async fn import_gives_no_living_grant_up_for_ended(backend: Backend) {
    let fixture = two_grants(backend).await;
    fixture.spends_once().await;
    fixture.home.written(1, "21/11/2026 20:41");
    fixture.home.written(2, "01/12/2026 08:00");
    fixture.import(&APPLY).await;
    let row = fixture.home.connections().await.remove(0);
    let (store, now) = (fixture.home.ours.store(), SystemClock::shared().now());
    let refused = store.connection_reauth_required(&row.id, row.generation, false, None, now);
    assert!(refused.await.unwrap());

    let said = fixture.import(&["--apply"]).await;

    said.expect("row 1", "taken over: connection");
    said.expect("row 2", "has ended here (rejected)");
    let row = fixture.home.connections().await.remove(0);
    assert_eq!(row.state, ConnectionState::Active);
    let refreshed = ["connections", "refresh", row.id.as_str()];
    fixture.done(&refreshed).await;
    assert_eq!(fixture.reused().await, 0);
}

/// The grant of one row was ended by its user; the other one's lives, and its refresh token is not spent in the same run.
pub(crate) async fn import_spends_one_refresh_token_of_a_person(backend: Backend) {
    let fixture = two_grants(backend).await;
    fixture.spends_once().await;
    fixture.home.written(1, "2026-11-21T20:41:37Z");
    let wrong = Tokens {
        refresh: "1:1:0123456789012345678901234567890123456789".to_owned(),
        ..fixture.home.tokens(1)
    };
    fixture.home.set_tokens(1, &wrong);
    let second = fixture.home.tokens(2);

    let said = fixture.import(&APPLY).await;

    said.expect("row 1", "its refresh token is refused");
    said.expect("row 2", "taken over, not refreshed");
    fixture.n8n_spends(FIRST, &second.refresh).await.unwrap();

    // Neither access token tells whose it is any more.
    let fixture = two_grants(backend).await;
    fixture.spends_once().await;
    fixture.home.written(1, "2026-11-21T20:41:37Z");
    fixture.home.set_tokens(
        1,
        &Tokens {
            refresh: wrong.refresh,
            ..fixture.home.tokens(1)
        },
    );
    fixture.expire(FIRST, 1).await;
    let second = fixture.home.tokens(2);

    let said = fixture.import(&APPLY).await;

    said.expect("row 1", "the provider refuses its refresh token");
    said.expect(
        "row 2",
        "is of the same person as row 1, whose refresh token was refused",
    );
    assert!(fixture.home.connections().await.is_empty());
    fixture.n8n_spends(FIRST, &second.refresh).await.unwrap();
}

/// The table keeps what was pasted, and we use what was meant.
pub(crate) async fn blanks_and_quotes_around_values_are_not_used(backend: Backend) {
    let fixture = Fixture::prepare(backend).await;
    fixture.spends_once().await;
    let pasted = ["{}\\n", " {} ", "\"{}\""];
    for (row, form) in (1..).zip(pasted) {
        let tokens = fixture.consent(FIRST, row, 1).await;
        let paste = |token: &str| form.replace("{}", token).replace("\\n", "\n");
        let tokens = Tokens {
            access: paste(&tokens.access),
            refresh: paste(&tokens.refresh),
        };
        let (app, now) = (format!("{ALIAS} "), "2026-03-01 00:00:00");
        fixture
            .home
            .insert(row, Some(&app), " Pipedrive ", &tokens, now);
    }

    let said = fixture.import(&APPLY).await;

    for row in ["row 1", "row 2", "row 3"] {
        said.expect(row, "taken over and refreshed");
    }
    let said = fixture.done(&["hand-back", "--apply"]).await;
    for row in ["1", "2", "3"] {
        said.expect(row, "handed back");
    }
    for row in 1..=3 {
        let handed = fixture.home.tokens(row);
        fixture.n8n_spends(FIRST, &handed.refresh).await.unwrap();
    }
    assert_eq!(fixture.reused().await, 0);
}

/// Such a row can't be told from others, and is written to by no one.
pub(crate) async fn row_without_an_id_of_its_own_is_open(backend: Backend) {
    let mut fixture = Fixture::prepare(backend).await;
    let home = &fixture.home;
    for row in 1..=5 {
        let tokens = fixture.consent(FIRST, row, 1).await;
        home.insert(
            row,
            Some(FIRST),
            "Pipedrive",
            &tokens,
            "2026-03-01 00:00:00",
        );
    }
    home.old(&format!(
        "CREATE TABLE loose AS SELECT * FROM {}",
        home.table()
    ));
    if backend == Backend::Mysql {
        home.old("ALTER TABLE loose MODIFY id INT NULL");
    }
    home.old("UPDATE loose SET id = NULL WHERE id IN (1, 2)");
    home.old("UPDATE loose SET id = 7 WHERE id IN (3, 4)");
    fixture
        .set
        .push(("old_table.table".to_owned(), "loose".to_owned()));

    let said = fixture.import(&["--apply"]).await;

    said.expect("row NULL", "has no id: give it one of its own");
    said.expect(
        "row 7",
        "has the same id as another row: give each an id of its own",
    );
    said.expect("row 5", "taken over");
    assert!(said.out.contains("1 taken over, 4 open."), "{said:#?}");
    assert_eq!(fixture.home.connections().await.len(), 1);
}

/// An empty list and a list of hidden rows are two things.
pub(crate) async fn import_names_row_level_security(backend: Backend) {
    let mut fixture = Fixture::prepare(backend).await;
    let tokens = fixture.consent(FIRST, 1, 1).await;
    let home = &fixture.home;
    home.insert(1, Some(FIRST), "Pipedrive", &tokens, "2026-03-01 00:00:00");
    let said = fixture.import(&[]).await;
    assert!(!said.out.contains("ecurity"), "{said:#?}");
    if backend != Backend::Postgres {
        return;
    }
    let reader = role_name();
    for statement in [
        format!("CREATE ROLE {reader} LOGIN PASSWORD 'secret'"),
        format!("GRANT SELECT ON \"App_tok\" TO {reader}"),
        "ALTER TABLE \"App_tok\" ENABLE ROW LEVEL SECURITY".to_owned(),
    ] {
        home.old(&statement);
    }
    let url = home.old.url_by(&reader, "secret").expose().to_owned();
    fixture.set.push(("old_table.url".to_owned(), url));

    let said = fixture.import(&[]).await;

    assert!(said.out.contains("Nothing was found."), "{said:#?}");
    assert!(
        said.out.contains("Row-level security applies to App_tok"),
        "{said:#?}"
    );
    for statement in [
        format!("DROP OWNED BY {reader}"),
        format!("DROP ROLE {reader}"),
    ] {
        fixture.home.old(&statement);
    }
}

/// An UPDATE that row-level security lets change nothing is no error to Postgres.
pub(crate) async fn row_that_no_update_changes_is_named(backend: Backend) {
    if backend != Backend::Postgres {
        return;
    }
    let mut fixture = Fixture::prepare(backend).await;
    let tokens = fixture.consent(FIRST, 1, 1).await;
    let home = &fixture.home;
    home.insert(1, Some(FIRST), "Pipedrive", &tokens, "2026-03-01 00:00:00");
    let reader = role_name();
    for statement in [
        format!("CREATE ROLE {reader} LOGIN PASSWORD 'secret'"),
        format!("GRANT SELECT, UPDATE ON \"App_tok\" TO {reader}"),
        "ALTER TABLE \"App_tok\" ENABLE ROW LEVEL SECURITY".to_owned(),
        format!("CREATE POLICY reads ON \"App_tok\" FOR SELECT TO {reader} USING (true)"),
    ] {
        home.old(&statement);
    }
    let url = home.old.url_by(&reader, "secret").expose().to_owned();
    fixture.set.push(("old_table.url".to_owned(), url));
    fixture.import(&["--app", "pipedrive", "--apply"]).await;
    let mirror = ("old_table.mirror".to_owned(), "true".to_owned());
    fixture.set.push(mirror);
    let mut serving = fixture.serve().await;

    fixture.says("an UPDATE changes no row").await;

    let said = fixture.done(&["rollback-to-n8n", "--apply"]).await;
    said.expect(
        "1",
        "is not handed back, and goes on here: row 1 can't be written",
    );
    serving.kill().await.unwrap();
    for statement in [
        "DROP POLICY reads ON \"App_tok\"".to_owned(),
        format!("DROP OWNED BY {reader}"),
        format!("DROP ROLE {reader}"),
    ] {
        fixture.home.old(&statement);
    }
}
