//! A database that went back in time while its refreshers run on.

use super::*;
use crate::refresher::continuity::HeldLease;

const TAKE: &str = "CREATE TABLE snapshot AS SELECT * FROM connections";
const RESTORE: [&str; 2] = [
    "DELETE FROM connections",
    "INSERT INTO connections SELECT * FROM snapshot",
];

impl Fixture {
    fn take_snapshot(&self) {
        self.database.lines(TAKE).unwrap();
    }

    /// What was committed since the snapshot is lost.
    fn restore(&self) {
        for statement in RESTORE {
            self.database.lines(statement).unwrap();
        }
    }
}

async fn sees_the_loss(refresher: &Arc<Refresher>, fixture: &Fixture) {
    let end = refresh(refresher, &fixture.id, Some(1)).await;
    assert!(matches!(end, Err(RefreshError::Busy)), "{end:?}");
}

#[tokio::test]
async fn a_row_that_is_older_than_what_was_seen_is_healed_before_anything_is_spent() {
    let fixture = Fixture::answering([granted(), granted()]).await;
    fixture.take_snapshot();
    let refresher = fixture.refresher();
    refreshed(refresh(&refresher, &fixture.id, Some(1)).await);
    fixture.restore();

    sees_the_loss(&refresher, &fixture).await;
    // Nor for anybody else.
    let other = fixture.connect("joe").await;
    let end = refresh(&refresher, &other, Some(1)).await;
    assert!(matches!(end, Err(RefreshError::Busy)), "{end:?}");
    assert_eq!(refresher.keep_continuity().await.unwrap(), 1);

    let row = fixture.row().await;
    assert_eq!(row.generation, 2);
    let token = fixture.vault.refresh_token(&row).unwrap();
    assert_eq!(token.expose(), "refresh-2");
    assert_eq!(
        already_newer(refresh(&refresher, &fixture.id, Some(1)).await).generation,
        2
    );
    assert_eq!(fixture.calls().await, 1);
    fixture.clock.advance(Duration::from_secs(5));
    refreshed(refresh(&refresher, &other, Some(1)).await);
}

/// Only this process can read what the holder wrote down.
#[tokio::test]
async fn a_lease_that_was_taken_over_is_given_back_where_commits_may_be_lost() {
    let fixture = Fixture::answering([granted(), granted()]).await;
    let other = fixture.connect("joe").await;
    fixture.take_snapshot();
    let refresher = fixture.refresher();
    refreshed(refresh(&refresher, &other, Some(1)).await);
    fixture.restore();
    let end = refresh(&refresher, &other, Some(1)).await;
    assert!(matches!(end, Err(RefreshError::Busy)), "{end:?}");
    let dead = fixture.journal(&fixture.journals);
    let holder = format!("{}/0", dead.process());
    fixture.leased_by(&holder).await;
    dead.die();

    let row = fixture.row().await;
    let lease = refresher.acquire(&row).await.unwrap().unwrap();
    let _guard = refresher.continuity.hold(&row, &lease);
    let released = refresher.release_if_quiet(&row, &lease).await;

    assert!(matches!(released, Err(RefreshError::Busy)), "{released:?}");
    let row = fixture.row().await;
    assert_eq!(row.lease_owner.as_deref(), Some(holder.as_str()));
    // A held lease is written again, even over the lease of the next process.
    assert!(refresher.continuity.held().is_empty());
    assert!(row.in_doubt);
    let elsewhere = TestDirectory::create();
    let far = fixture.door_with(&[], &elsewhere);
    let end = far
        .refresh(&fixture.id, Some(1), Trigger::Sweep, Duration::from_mins(2))
        .await;
    assert!(matches!(end, Err(RefreshError::Busy)), "{end:?}");
    assert_eq!(fixture.calls().await, 1);
}

/// `mv backup.db pipekeeper.db`, while the process runs.
#[tokio::test]
async fn a_backup_that_is_put_back_meanwhile_costs_no_token() {
    let fixture = Fixture::answering([granted()]).await;
    let path = fixture.database.url().expose().replace("sqlite:", "");
    let backup = format!("{path}.backup");
    fixture
        .database
        .lines(&format!("VACUUM INTO '{backup}'"))
        .unwrap();
    let journals = TestDirectory::create();
    let (spender, other) = (fixture.refresher(), fixture.door_with(&[], &journals));
    for refresher in [&spender, &other] {
        assert_eq!(refresher.keep_continuity().await.unwrap(), 0);
    }
    refreshed(refresh(&spender, &fixture.id, Some(1)).await);

    std::fs::rename(&backup, &path).unwrap();

    // The other one has seen nothing of the row: the file is another one.
    assert_eq!(fixture.row().await.generation, 1);
    assert_eq!(other.keep_continuity().await.unwrap(), 0);
    let end = refresh(&other, &fixture.id, Some(1)).await;
    assert!(matches!(end, Err(RefreshError::Busy)), "{end:?}");
    assert_eq!(spender.keep_continuity().await.unwrap(), 1);
    let row = already_newer(refresh(&other, &fixture.id, Some(1)).await);
    let token = fixture.vault.refresh_token(&row).unwrap();
    assert_eq!((row.generation, token.expose()), (2, "refresh-2"));
    assert_eq!(fixture.calls().await, 1);
}

/// Each holds a link of the chain.
#[tokio::test]
async fn with_separate_journals_each_process_writes_its_own_responses_again() {
    let chain = |refresh: &str| {
        plain(ResponseTemplate::new(200).set_body_json(json!({
            "access_token": "access", "refresh_token": refresh, "expires_in": 3600,
        })))
    };
    let fixture = Fixture::answering(["refresh-2", "refresh-3", "refresh-4"].map(chain)).await;
    fixture.take_snapshot();
    let (here, there) = (TestDirectory::create(), TestDirectory::create());
    let (one, two) = (
        fixture.door_with(&[], &here),
        fixture.door_with(&[], &there),
    );
    for (generation, refresher) in [(1, &one), (2, &two), (3, &one)] {
        fixture.clock.advance(Duration::from_secs(10));
        refreshed(refresh(refresher, &fixture.id, Some(generation)).await);
    }
    fixture.restore();
    for refresher in [&one, &two] {
        sees_the_loss(refresher, &fixture).await;
    }

    let (by_one, by_two) = tokio::join!(one.keep_continuity(), two.keep_continuity());

    assert_eq!((by_one.unwrap(), by_two.unwrap()), (2, 1));
    let row = fixture.row().await;
    let token = fixture.vault.refresh_token(&row).unwrap();
    assert_eq!((row.generation, token.expose()), (4, "refresh-4"));
    assert_eq!(fixture.calls().await, 3);
}

#[tokio::test]
async fn a_response_is_written_again_only_to_the_row_that_it_was_given_for() {
    for change in [
        "UPDATE connections SET state = 'revoked'",
        // A new consent whose token is the same, as a provider with sticky refresh tokens gives it.
        "UPDATE connections SET authorized_at = authorized_at + 1000000000",
        "UPDATE connections SET generation = 3",
    ] {
        let fixture = Fixture::answering([granted()]).await;
        fixture.take_snapshot();
        let refresher = fixture.refresher();
        refreshed(refresh(&refresher, &fixture.id, Some(1)).await);
        fixture.restore();
        sees_the_loss(&refresher, &fixture).await;
        fixture.database.lines(change).unwrap();
        let before = fixture.row().await;

        assert_eq!(refresher.keep_continuity().await.unwrap(), 0, "{change}");

        assert_eq!(fixture.row().await, before, "{change}");
    }
    let fixture = Fixture::answering([granted()]).await;
    let other = fixture.consent(&fixture.id, "jane", "access-1", "refresh-0");
    fixture.take_snapshot();
    let refresher = fixture.refresher();
    refreshed(refresh(&refresher, &fixture.id, Some(1)).await);
    fixture.restore();
    sees_the_loss(&refresher, &fixture).await;
    fixture
        .database
        .lines("UPDATE connections SET generation = 0")
        .unwrap();
    fixture
        .store
        .connection_reconnect(&fixture.id, 0, &other, at(0))
        .await
        .unwrap();

    assert_eq!(refresher.keep_continuity().await.unwrap(), 0);
    assert_eq!(fixture.row().await.generation, 1);
}

/// Its holder is calling: no one else may take the token for unspent.
#[tokio::test]
async fn a_lease_that_the_database_lost_is_taken_again_for_the_call_under_way() {
    let fixture = Fixture::new().await;
    fixture.take_snapshot();
    let (respond, may_respond) = std::sync::mpsc::channel();
    let may_respond = Mutex::new(may_respond);
    let reached = Arc::new(tokio::sync::Notify::new());
    let at_provider = Arc::clone(&reached);
    let waits = move || {
        at_provider.notify_one();
        may_respond.lock().unwrap().recv().unwrap();
    };
    fixture.answer([after(waits, granted())]).await;
    let refresher = fixture.refresher();
    let lost_meanwhile = async {
        reached.notified().await;
        let lease = fixture.row().await.lease_owner;
        fixture.restore();
        assert_eq!(fixture.row().await.lease_owner, None);
        // What another connection shows.
        let other = fixture.connect("joe").await;
        fixture
            .database
            .lines("UPDATE connections SET generation = 2 WHERE owner = 'joe'")
            .unwrap();
        let _seen = refresh(&refresher, &other, Some(1)).await;
        fixture
            .database
            .lines("UPDATE connections SET generation = 1 WHERE owner = 'joe'")
            .unwrap();
        let _lost = refresh(&refresher, &other, Some(1)).await;
        assert_eq!(refresher.keep_continuity().await.unwrap(), 0);

        assert_eq!(fixture.row().await.lease_owner, lease);
        respond.send(()).unwrap();
    };

    let (end, ()) = tokio::join!(refresh(&refresher, &fixture.id, Some(1)), lost_meanwhile);

    assert_eq!(refreshed(end).generation, 2);
    assert_eq!(fixture.calls().await, 1);
}

/// A lease that a refresh held and has ended, while the guard was still alive.
async fn ended_lease(refresher: &Arc<Refresher>, fixture: &Fixture) -> HeldLease {
    let row = fixture.row().await;
    let lease = refresher.acquire(&row).await.unwrap().unwrap();
    let _guard = refresher.continuity.hold(&row, &lease);
    let held = refresher.continuity.held()[&row.id].clone();
    refresher.release(&row, &lease).await;
    assert!(refresher.continuity.held().is_empty());
    held
}

/// No one would end it any more: callers would wait for a lease that no one holds.
#[tokio::test]
async fn a_lease_that_its_flight_has_ended_is_not_taken_again() {
    let fixture = Fixture::new().await;
    let refresher = fixture.refresher();
    let held = ended_lease(&refresher, &fixture).await;

    refresher
        .rewrite_lease(&fixture.row().await, &held, false)
        .await
        .unwrap();

    assert_eq!(fixture.row().await.lease_owner, None);
}

#[tokio::test]
async fn a_lease_that_was_given_back_is_not_taken_from_whoever_spends_next() {
    let fixture = Fixture::new().await;
    let refresher = fixture.refresher();
    let held = ended_lease(&refresher, &fixture).await;
    fixture.leased_by("next").await;

    refresher
        .rewrite_lease(&fixture.row().await, &held, false)
        .await
        .unwrap();

    assert_eq!(fixture.row().await.lease_owner.as_deref(), Some("next"));
}

#[tokio::test]
async fn a_lease_that_a_refusal_has_ended_is_not_taken_again() {
    let fixture = Fixture::new().await;
    let refresher = fixture.refresher();
    let row = fixture.row().await;
    let lease = refresher.acquire(&row).await.unwrap().unwrap();
    let _guard = refresher.continuity.hold(&row, &lease);
    let AppChoice::One(app) = refresher.apps.find(Some(&row.app_id), Some(&row.platform)) else {
        panic!("the row's app is configured");
    };
    let token = refresher.vault.refresh_token(&row).unwrap();
    let asked = Asked {
        trigger: Trigger::Sweep,
        failed_generation: Some(row.generation),
    };

    let context = SpendContext::new(&row, app, &token, &lease, asked);
    let end = refresher.on_invalid_grant(context, false).await;

    assert!(matches!(end, Err(RefreshError::Ended { .. })), "{end:?}");
    assert_eq!(fixture.row().await.lease_owner, None);
    assert!(refresher.continuity.held().is_empty());
}

#[tokio::test]
async fn a_lease_that_is_of_no_use_is_given_back_once_the_database_answers() {
    let fixture = Fixture::answering([granted()]).await;
    let other = fixture.connect("joe").await;
    fixture.take_snapshot();
    let refresher = fixture.refresher();
    refreshed(refresh(&refresher, &other, Some(1)).await);
    fixture.restore();
    let end = refresh(&refresher, &other, Some(1)).await;
    assert!(matches!(end, Err(RefreshError::Busy)), "{end:?}");
    let row = fixture.row().await;
    let lease = refresher.acquire(&row).await.unwrap().unwrap();
    let path = fixture.database.url().expose().replace("sqlite:", "");
    let away = format!("{path}.away");
    std::fs::rename(&path, &away).unwrap();

    let releasing = refresher.release_if_quiet(&row, &lease);
    tokio::pin!(releasing);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut releasing).await;
    std::fs::rename(&away, &path).unwrap();
    let released = releasing.await;

    assert!(early.is_err(), "{early:?}");
    assert!(matches!(released, Err(RefreshError::Busy)), "{released:?}");
    assert_eq!(fixture.row().await.lease_owner, None);
}
