//! A database that answers, and refuses what a refresh brought.

use pipekeeper_core::oauth::TokenBody;

use super::*;
use crate::journal::{ForgetfulDisk, Trouble};

/// From now on the database refuses such updates.
fn refuse(world: &World, when: &str) {
    let trigger = format!(
        "CREATE TRIGGER refuse BEFORE UPDATE ON connections WHEN {when} BEGIN SELECT RAISE(ABORT, 'against a rule'); END"
    );
    world.database.lines(&trigger).unwrap();
}

fn allow(world: &World) {
    world.database.lines("DROP TRIGGER refuse").unwrap();
}

/// No row of this connection may get newer tokens.
fn refuse_commits(world: &World) {
    let id = &world.id;
    refuse(
        world,
        &format!("NEW.id = '{id}' AND NEW.generation > OLD.generation"),
    );
}

fn named(world: &World) -> Vec<String> {
    vec![format!(
        "connection {}: the database refuses its new tokens",
        world.id
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
        let world = World::answering([granted()]).await;
        refuse(&world, &format!("NEW.{column} <> OLD.{column}"));
        let refresher = world.refresher();

        let row = refreshed(soon(refresh(&refresher, &world.id, Some(1))).await);

        assert_eq!(row.generation, 2, "{column}");
        assert_eq!(
            world.vault.refresh_token(&row).unwrap().expose(),
            "refresh-2"
        );
        assert_eq!((row.scope.as_str(), row.expires_at), ("base", at(3600)));
        assert_eq!(row.api_domain, "https://acme.pipedrive.com");
        assert_eq!(*row, world.row().await);
        assert_eq!(
            (refresher.journal.depth(), refresher.troubles()),
            (0, vec![])
        );
    }
}

#[tokio::test]
async fn refused_tokens_wait_in_the_journal_and_nobody_spends_again() {
    let world = World::answering([granted(), granted()]).await;
    let joe = world.connect_with("joe", "refresh-joe").await;
    let ann = world.connect_with("ann", "refresh-ann").await;
    refuse_commits(&world);
    let one_call = Timing {
        max_concurrent_calls: 1,
        ..timing()
    };
    let (refresher, other) = (world.door_timed(one_call), world.refresher());

    assert_eq!(
        unstored(soon(refresh(&refresher, &world.id, Some(1))).await),
        at(60)
    );

    let row = world.row().await;
    assert_eq!((row.generation, row.lease_owner), (1, None));
    assert_eq!((row.in_doubt, row.retry_at), (true, Some(at(300))));
    assert_eq!(
        (refresher.journal.depth(), refresher.troubles()),
        (1, named(&world))
    );
    world.clock.advance(Duration::from_secs(20));
    for failed_generation in [Some(1), None] {
        assert_eq!(
            unstored(soon(refresh(&refresher, &world.id, failed_generation)).await),
            at(60)
        );
        let elsewhere = soon(refresh(&other, &world.id, failed_generation)).await;
        assert!(
            matches!(elsewhere, Err(RefreshError::TryLater { .. })),
            "{elsewhere:?}"
        );
    }
    let newer = soon(refresh(&refresher, &world.id, Some(0))).await;
    assert_eq!(already_newer(newer).generation, 1);
    refreshed(soon(refresh(&refresher, &joe, Some(1))).await);
    assert_eq!(world.calls().await, 2);

    // Asked again after a minute; what others left is replayed meanwhile.
    let dead = world.journal(&world.journals);
    let body = TokenBody::plain(tokens().to_string().as_bytes());
    let spent = Secret::from("refresh-ann");
    dead.record(&ann, 1, &spent, at(0), &body).await.unwrap();
    drop(dead);
    assert_eq!(soon(refresher.replay_once()).await.unwrap(), 1);
    assert_eq!(world.row_of(&ann).await.generation, 2);
    world.clock.advance(Duration::from_secs(40));
    assert_eq!(soon(refresher.replay_once()).await.unwrap(), 0);
    assert_eq!(world.row().await.retry_at, Some(at(360)), "held for longer");
    assert_eq!(
        unstored(soon(refresh(&refresher, &world.id, Some(1))).await),
        at(120)
    );

    allow(&world);
    world.clock.advance(Duration::from_secs(59));
    assert_eq!(soon(refresher.replay_once()).await.unwrap(), 0, "not yet");
    world.clock.advance(Duration::from_secs(1));
    assert_eq!(soon(refresher.replay_once()).await.unwrap(), 1);

    let row = world.row().await;
    assert_eq!(
        world.vault.refresh_token(&row).unwrap().expose(),
        "refresh-2"
    );
    assert_eq!(
        (row.generation, row.retry_at, row.last_error),
        (2, None, None)
    );
    assert_eq!(
        (refresher.journal.depth(), refresher.troubles()),
        (0, vec![])
    );
    assert_eq!(world.calls().await, 2);
}

#[tokio::test]
async fn the_next_process_stores_what_the_database_refused_the_last_one() {
    let world = World::answering([granted()]).await;
    refuse_commits(&world);
    let refresher = world.refresher();
    unstored(soon(refresh(&refresher, &world.id, Some(1))).await);
    world.tasks.idle().await;
    drop(refresher);

    let next = world.refresher();
    assert_eq!(soon(next.replay_once()).await.unwrap(), 0);
    assert_eq!(next.troubles(), named(&world));
    allow(&world);
    world.clock.advance(Duration::from_mins(1));
    assert_eq!(soon(next.replay_once()).await.unwrap(), 1);

    let row = world.row().await;
    assert_eq!((row.generation, world.calls().await), (2, 1));
    assert_eq!(next.troubles(), [""; 0]);
}

#[tokio::test]
async fn what_another_process_has_stored_is_waited_for_no_longer() {
    let world = World::answering([granted()]).await;
    refuse_commits(&world);
    let refresher = world.refresher();
    unstored(soon(refresh(&refresher, &world.id, Some(1))).await);
    allow(&world);
    let again = world.consent(&world.id, "jane", "access-9", "refresh-9");
    let reconnected = world
        .store
        .connection_reconnect(&world.id, 1, &again, at(0));
    assert!(reconnected.await.unwrap());

    assert_eq!(
        already_newer(refresh(&refresher, &world.id, Some(1)).await).generation,
        2
    );
    world.clock.advance(Duration::from_mins(1));
    assert_eq!(soon(refresher.replay_once()).await.unwrap(), 0);

    assert_eq!(
        (refresher.journal.depth(), refresher.troubles()),
        (0, vec![])
    );
    assert_eq!(world.row().await.generation, 2);
}

#[tokio::test]
async fn shutdown_does_not_wait_for_tokens_that_the_journal_has() {
    let world = World::answering([granted()]).await;
    refuse_commits(&world);
    let refresher = world.refresher();
    unstored(soon(refresh(&refresher, &world.id, Some(1))).await);

    assert!(world.tasks.drain(Duration::from_mins(2)).await);
}

#[tokio::test]
async fn tokens_that_neither_journal_nor_database_takes_are_held_until_one_does() {
    let world = World::answering([granted()]).await;
    refuse_commits(&world);
    let disk = ForgetfulDisk::default();
    let clock = Arc::<ManualClock>::clone(&world.clock);
    let journal = Journal::open_on(
        Arc::new(disk.clone()),
        Duration::from_mins(1),
        world.journals.path(),
        DAY,
        world.vault.clone(),
        clock,
    );
    let refresher = world.door_of(&[], journal.unwrap());
    disk.trouble(Trouble::ReadOnly);
    let mend = async {
        while !refresher.troubles().contains(&named(&world)[0]) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(refresher.replay_once().await.unwrap(), 0);
        assert!(refresher.troubles().contains(&named(&world)[0]));
        allow(&world);
    };

    let caller = refresh(&refresher, &world.id, Some(1));
    let both = Box::pin(async { tokio::join!(caller, mend) });
    let (end, ()) = soon(both).await;

    assert_eq!((refreshed(end).generation, world.calls().await), (2, 1));
    assert_eq!(refresher.troubles(), ["journal: can't be written"]);
}

#[tokio::test]
async fn a_row_that_can_not_be_read_back_holds_up_nobody() {
    let world = World::answering([granted()]).await;
    let damage = "CREATE TRIGGER damage AFTER UPDATE OF lease_owner ON connections \
                  BEGIN UPDATE connections SET generation = 5, state = 'nonsense'; END";
    world.database.lines(damage).unwrap();

    unstored(soon(world.refresh(Some(1))).await);
}

#[tokio::test]
async fn an_end_that_the_database_refuses_to_note_is_an_end() {
    let world = World::answering([refusal(400, "invalid_grant")]).await;
    refuse(&world, "NEW.state <> OLD.state");
    let end = soon(world.refresh(Some(1))).await;
    assert!(matches!(end, Err(RefreshError::Store(_))), "{end:?}");

    let world = World::answering([status(429)]).await;
    refuse(&world, "NEW.failures > OLD.failures");
    let end = soon(world.refresh(Some(1))).await;
    assert!(matches!(end, Err(RefreshError::Provider { .. })), "{end:?}");

    let world = World::answering([refusal(401, "invalid_client")]).await;
    refuse(
        &world,
        "NEW.lease_owner IS NULL AND OLD.lease_owner IS NOT NULL",
    );
    let end = soon(world.refresh(Some(1))).await;
    assert!(
        matches!(end, Err(RefreshError::ClientMisconfigured { .. })),
        "{end:?}"
    );
}
