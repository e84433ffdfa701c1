//! A database that answers, and refuses what a refresh brought.

use pipekeeper_core::oauth::TokenBody;

use super::*;
use crate::journal::{DiskFault, FaultyDisk};

/// From now on the database refuses such updates.
fn refuse(fixture: &Fixture, when: &str) {
    let trigger = format!(
        "CREATE TRIGGER refuse BEFORE UPDATE ON connections WHEN {when} BEGIN SELECT RAISE(ABORT, 'against a rule'); END"
    );
    fixture.database.lines(&trigger).unwrap();
}

fn allow(fixture: &Fixture) {
    fixture.database.lines("DROP TRIGGER refuse").unwrap();
}

/// No row of this connection may get newer tokens.
fn refuse_commits(fixture: &Fixture) {
    let id = &fixture.id;
    refuse(
        fixture,
        &format!("NEW.id = '{id}' AND NEW.generation > OLD.generation"),
    );
}

fn named(fixture: &Fixture) -> Vec<String> {
    vec![format!(
        "connection {}: the database refuses its new tokens",
        fixture.id
    )]
}

#[track_caller]
fn unstored(end: RefreshResult) -> Timestamp {
    match end {
        Err(RefreshError::Unstored { retry_at, .. }) => retry_at,
        other => panic!("{other:?}"),
    }
}

/// Nothing of this may take long.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    let limit = Duration::from_mins(2);
    tokio::time::timeout(limit, future).await.expect("it ends")
}

#[tokio::test]
async fn what_is_refused_beside_the_tokens_stays_as_it_was() {
    for column in ["scope", "api_domain"] {
        let fixture = Fixture::answering([granted()]).await;
        refuse(&fixture, &format!("NEW.{column} <> OLD.{column}"));
        let refresher = fixture.refresher();

        let row = refreshed(soon(refresh(&refresher, &fixture.id, Some(1))).await);

        assert_eq!(row.generation, 2, "{column}");
        assert_eq!(
            fixture.vault.refresh_token(&row).unwrap().expose(),
            "refresh-2"
        );
        assert_eq!((row.scope.as_str(), row.expires_at), ("base", at(3600)));
        assert_eq!(row.api_domain, "https://acme.pipedrive.com");
        assert_eq!(*row, fixture.row().await);
        assert_eq!(
            (refresher.journal.depth(), refresher.degraded_reasons()),
            (0, vec![])
        );
    }
}

#[tokio::test]
async fn refused_tokens_wait_in_the_journal_and_nobody_spends_again() {
    let fixture = Fixture::answering([granted(), granted()]).await;
    let joe = fixture.connect_with("joe", "refresh-joe").await;
    let ann = fixture.connect_with("ann", "refresh-ann").await;
    refuse_commits(&fixture);
    let one_call = Timing {
        max_concurrent_calls: 1,
        ..timing()
    };
    let (refresher, other) = (fixture.door_timed(one_call), fixture.refresher());

    assert_eq!(
        unstored(soon(refresh(&refresher, &fixture.id, Some(1))).await),
        at(60)
    );

    let row = fixture.row().await;
    assert_eq!((row.generation, row.lease_owner), (1, None));
    assert_eq!((row.in_doubt, row.retry_at), (true, Some(at(300))));
    assert_eq!(
        (refresher.journal.depth(), refresher.degraded_reasons()),
        (1, named(&fixture))
    );
    fixture.clock.advance(Duration::from_secs(20));
    for failed_generation in [Some(1), None] {
        assert_eq!(
            unstored(soon(refresh(&refresher, &fixture.id, failed_generation)).await),
            at(60)
        );
        let elsewhere = soon(refresh(&other, &fixture.id, failed_generation)).await;
        assert!(
            matches!(elsewhere, Err(RefreshError::TryLater { .. })),
            "{elsewhere:?}"
        );
    }
    let newer = soon(refresh(&refresher, &fixture.id, Some(0))).await;
    assert_eq!(already_newer(newer).generation, 1);
    refreshed(soon(refresh(&refresher, &joe, Some(1))).await);
    assert_eq!(fixture.calls().await, 2);

    // Asked again after a minute; what others left is replayed meanwhile.
    let dead = fixture.journal(&fixture.journals);
    let body = TokenBody::plain(tokens().to_string().as_bytes());
    let spent = Secret::from("refresh-ann");
    dead.record(&ann, 1, &spent, at(0), &body).await.unwrap();
    drop(dead);
    assert_eq!(soon(refresher.replay_once()).await.unwrap(), 1);
    assert_eq!(fixture.row_of(&ann).await.generation, 2);
    fixture.clock.advance(Duration::from_secs(40));
    assert_eq!(soon(refresher.replay_once()).await.unwrap(), 0);
    assert_eq!(
        fixture.row().await.retry_at,
        Some(at(360)),
        "held for longer"
    );
    assert_eq!(
        unstored(soon(refresh(&refresher, &fixture.id, Some(1))).await),
        at(120)
    );

    allow(&fixture);
    fixture.clock.advance(Duration::from_secs(59));
    assert_eq!(soon(refresher.replay_once()).await.unwrap(), 0, "not yet");
    fixture.clock.advance(Duration::from_secs(1));
    assert_eq!(soon(refresher.replay_once()).await.unwrap(), 1);

    let row = fixture.row().await;
    assert_eq!(
        fixture.vault.refresh_token(&row).unwrap().expose(),
        "refresh-2"
    );
    assert_eq!(
        (row.generation, row.retry_at, row.last_error),
        (2, None, None)
    );
    assert_eq!(
        (refresher.journal.depth(), refresher.degraded_reasons()),
        (0, vec![])
    );
    assert_eq!(fixture.calls().await, 2);
}

#[tokio::test]
async fn the_next_process_stores_what_the_database_refused_the_last_one() {
    let fixture = Fixture::answering([granted()]).await;
    refuse_commits(&fixture);
    let refresher = fixture.refresher();
    unstored(soon(refresh(&refresher, &fixture.id, Some(1))).await);
    fixture.tasks.idle().await;
    drop(refresher);

    let next = fixture.refresher();
    assert_eq!(soon(next.replay_once()).await.unwrap(), 0);
    assert_eq!(next.degraded_reasons(), named(&fixture));
    allow(&fixture);
    fixture.clock.advance(Duration::from_mins(1));
    assert_eq!(soon(next.replay_once()).await.unwrap(), 1);

    let row = fixture.row().await;
    assert_eq!((row.generation, fixture.calls().await), (2, 1));
    assert_eq!(next.degraded_reasons(), [""; 0]);
}

#[tokio::test]
async fn what_another_process_has_stored_is_waited_for_no_longer() {
    let fixture = Fixture::answering([granted()]).await;
    refuse_commits(&fixture);
    let refresher = fixture.refresher();
    unstored(soon(refresh(&refresher, &fixture.id, Some(1))).await);
    allow(&fixture);
    let again = fixture.consent(&fixture.id, "jane", "access-9", "refresh-9");
    let reconnected = fixture
        .store
        .connection_reconnect(&fixture.id, 1, &again, at(0));
    assert!(reconnected.await.unwrap());

    assert_eq!(
        already_newer(refresh(&refresher, &fixture.id, Some(1)).await).generation,
        2
    );
    fixture.clock.advance(Duration::from_mins(1));
    assert_eq!(soon(refresher.replay_once()).await.unwrap(), 0);

    assert_eq!(
        (refresher.journal.depth(), refresher.degraded_reasons()),
        (0, vec![])
    );
    assert_eq!(fixture.row().await.generation, 2);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_tokens_that_the_journal_has() {
    let fixture = Fixture::answering([granted()]).await;
    refuse_commits(&fixture);
    let refresher = fixture.refresher();
    unstored(soon(refresh(&refresher, &fixture.id, Some(1))).await);

    assert!(fixture.tasks.drain(Duration::from_mins(2)).await);
}

#[tokio::test]
async fn tokens_that_neither_journal_nor_database_takes_are_held_until_one_does() {
    let fixture = Fixture::answering([granted()]).await;
    refuse_commits(&fixture);
    let disk = FaultyDisk::default();
    let clock = Arc::<ManualClock>::clone(&fixture.clock);
    let journal = Journal::open_on(
        Arc::new(disk.clone()),
        Duration::from_mins(1),
        fixture.journals.path(),
        DAY,
        fixture.vault.clone(),
        clock,
    );
    let refresher = fixture.door_of(&[], journal.unwrap());
    disk.trouble(DiskFault::ReadOnly);
    let mend = async {
        while !refresher.degraded_reasons().contains(&named(&fixture)[0]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(refresher.replay_once().await.unwrap(), 0);
        assert!(refresher.degraded_reasons().contains(&named(&fixture)[0]));
        allow(&fixture);
    };

    let caller = refresh(&refresher, &fixture.id, Some(1));
    let both = Box::pin(async { tokio::join!(caller, mend) });
    let (end, ()) = soon(both).await;

    assert_eq!((refreshed(end).generation, fixture.calls().await), (2, 1));
    assert_eq!(refresher.degraded_reasons(), ["journal: can't be written"]);
}

#[tokio::test]
async fn a_row_that_can_not_be_read_back_holds_up_nobody() {
    let fixture = Fixture::answering([granted()]).await;
    let damage = "CREATE TRIGGER damage AFTER UPDATE OF lease_owner ON connections \
                  BEGIN UPDATE connections SET generation = 5, state = 'nonsense'; END";
    fixture.database.lines(damage).unwrap();

    unstored(soon(fixture.refresh(Some(1))).await);
}

#[tokio::test]
async fn an_end_that_the_database_refuses_to_note_is_an_end() {
    let fixture = Fixture::answering([refusal(400, "invalid_grant")]).await;
    refuse(&fixture, "NEW.state <> OLD.state");
    let end = soon(fixture.refresh(Some(1))).await;
    assert!(matches!(end, Err(RefreshError::Store(_))), "{end:?}");

    let fixture = Fixture::answering([status(429)]).await;
    refuse(&fixture, "NEW.failures > OLD.failures");
    let end = soon(fixture.refresh(Some(1))).await;
    assert!(matches!(end, Err(RefreshError::Provider { .. })), "{end:?}");

    let fixture = Fixture::answering([refusal(401, "invalid_client")]).await;
    refuse(
        &fixture,
        "NEW.lease_owner IS NULL AND OLD.lease_owner IS NOT NULL",
    );
    let end = soon(fixture.refresh(Some(1))).await;
    assert!(
        matches!(end, Err(RefreshError::ClientMisconfigured { .. })),
        "{end:?}"
    );
}
