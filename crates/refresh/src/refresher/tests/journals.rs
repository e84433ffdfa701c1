//! An answer that reached a journal is never lost, and never asked for again.

use std::fs::File;
use std::path::Path;

use pipekeeper_core::oauth::TokenBody;
use pipekeeper_core::sealed::Sealed;

use super::*;
use crate::journal::{DiskFault, FaultyDisk};

/// An answer to the token of generation 1, written down by a process that did not get to commit it.
async fn written(fixture: &Fixture, journal: &Journal) {
    received(
        &fixture.id,
        journal,
        &TokenBody::plain(tokens().to_string().as_bytes()),
    )
    .await;
}

/// The same with any other body.
async fn received(id: &ConnectionId, journal: &Journal, body: &TokenBody) {
    let spent = Secret::from("refresh-1");
    journal.record(id, 1, &spent, at(0), body).await.unwrap();
}

/// The lease of such a process.
async fn leased(fixture: &Fixture, journal: &Journal) {
    let owner = format!("{}/0", journal.process());
    fixture.leased_by(&owner).await;
}

#[track_caller]
fn replayed(result: RefreshResult) -> Arc<Connection> {
    match result {
        Ok(Outcome::Replayed(row)) => row,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_dead_holders_answer_is_committed_at_once_in_place_of_a_second_spend() {
    let fixture = Fixture::answering([]).await;
    let dead = fixture.journal(&fixture.journals);
    leased(&fixture, &dead).await;
    written(&fixture, &dead).await;
    drop(dead);

    let row = replayed(fixture.refresh(Some(1)).await);

    assert_eq!((row.generation, fixture.calls().await), (2, 0));
    assert!(row.in_doubt, "its heir has not spent it");
    assert_eq!(
        fixture.vault.refresh_token(&row).unwrap().expose(),
        "refresh-2"
    );
    assert_eq!(*row, fixture.row().await);
}

/// The ids of their keys agree, the bytes do not.
#[tokio::test]
async fn a_process_with_a_wrong_key_leaves_responses_to_those_that_can_open_them() {
    let mut fixture = Fixture::answering([]).await;
    let dead = fixture.journal(&fixture.journals);
    leased(&fixture, &dead).await;
    written(&fixture, &dead).await;
    drop(dead);
    let wrong = Vault::new(Keyring::parse(&Keyring::generate("k1")).unwrap());
    let right = std::mem::replace(&mut fixture.vault, wrong);
    let mistaken = fixture.refresher();
    assert_eq!(mistaken.replay_once().await.unwrap(), 0);
    drop(mistaken);
    fixture.vault = right;

    assert_eq!(fixture.refresher().replay_once().await.unwrap(), 1);

    assert_eq!(fixture.row().await.generation, 2);
}

#[tokio::test]
async fn an_answer_without_tokens_hides_no_later_one() {
    let fixture = Fixture::answering([]).await;
    let refresher = fixture.refresher();
    let first = fixture.journal(&fixture.journals);
    let page = TokenBody::plain(b"<html>Please wait</html>");
    received(&fixture.id, &first, &page).await;
    first.settle(&fixture.id, 1, &Secret::from("refresh-1"));
    assert_eq!(
        refresher.replay_once().await.unwrap(),
        0,
        "it knows the page"
    );
    let second = fixture.journal(&fixture.journals);
    leased(&fixture, &second).await;
    written(&fixture, &second).await;
    drop((first, second));

    let row = replayed(refresh(&refresher, &fixture.id, Some(1)).await);

    assert_eq!((row.generation, fixture.calls().await), (2, 0));
}

#[tokio::test]
async fn a_dead_holders_lease_is_taken_over_at_once() {
    let fixture = Fixture::answering([granted()]).await;
    let dead = fixture.journal(&fixture.journals);
    leased(&fixture, &dead).await;
    drop(dead);

    let row = refreshed(fixture.refresh(Some(1)).await);

    assert_eq!((row.generation, row.in_doubt), (2, false));
}

#[tokio::test]
async fn what_a_dead_holder_may_have_spent_dies_as_an_answer_lost() {
    let fixture = Fixture::answering([refusal(400, "invalid_grant")]).await;
    let dead = fixture.journal(&fixture.journals);
    leased(&fixture, &dead).await;
    drop(dead);

    let end = fixture.refresh(Some(1)).await;

    let Err(RefreshError::Ended { reason, .. }) = end else {
        panic!("{end:?}")
    };
    assert_eq!(reason.as_deref(), Some("answer_lost"));
}

#[tokio::test]
async fn a_frozen_holders_answer_is_looked_for_when_its_lease_has_lasted() {
    let fixture = Fixture::answering([]).await;
    let frozen = fixture.journal(&fixture.journals);
    leased(&fixture, &frozen).await;
    written(&fixture, &frozen).await;
    let refresher = fixture.refresher();
    let time = async {
        while refresher.lease_observer.0.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fixture.clock.advance(Duration::from_secs(29));
        assert_eq!(fixture.row().await.generation, 1, "it may be calling");
        while refresher
            .lease_observer
            .0
            .lock()
            .unwrap()
            .values()
            .any(|seen| seen.last.is_zero())
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fixture.clock.advance(Duration::from_millis(1001));
    };

    let (end, ()) = tokio::join!(refresh(&refresher, &fixture.id, Some(1)), time);

    assert_eq!((replayed(end).generation, fixture.calls().await), (2, 0));
}

#[tokio::test]
async fn a_sibling_that_wrote_its_answer_down_while_we_asked_is_believed_over_a_refusal() {
    let fixture = Fixture::new().await;
    let frozen = Arc::new(fixture.journal(&fixture.journals));
    leased(&fixture, &frozen).await;
    let owner = format!("{}/0", frozen.process());
    assert!(
        fixture
            .store
            .lease_release(&fixture.id, &owner)
            .await
            .unwrap()
    );
    fixture
        .database
        .lines("UPDATE connections SET in_doubt = 1")
        .unwrap();
    let sibling = fixture.elsewhere({
        let frozen = Arc::clone(&frozen);
        move |_, id| {
            let frozen = Arc::clone(&frozen);
            async move {
                let body = TokenBody::plain(tokens().to_string().as_bytes());
                received(&id, &frozen, &body).await;
            }
        }
    });
    fixture
        .answer([after(sibling, refusal(400, "invalid_grant"))])
        .await;

    let row = replayed(fixture.refresh(Some(1)).await);

    assert_eq!((row.state, row.generation), (ConnectionState::Active, 2));
}

#[tokio::test]
async fn what_dead_processes_left_is_replayed_without_a_caller() {
    let fixture = Fixture::answering([]).await;
    let dead = fixture.journal(&fixture.journals);
    leased(&fixture, &dead).await;
    written(&fixture, &dead).await;
    let refresher = fixture.refresher();
    assert_eq!(
        refresher.replay_once().await.unwrap(),
        0,
        "its process lives"
    );
    drop(dead);

    assert_eq!(refresher.replay_once().await.unwrap(), 1);

    let row = fixture.row().await;
    assert_eq!((row.generation, row.lease_owner.as_deref()), (2, None));
    assert_eq!(row.expires_at, at(3600));
    assert_eq!(refresher.replay_once().await.unwrap(), 0);
    assert_eq!(fixture.calls().await, 0);
}

#[tokio::test]
async fn a_late_answer_revives_a_refused_connection_in_doubt() {
    let fixture = Fixture::answering([]).await;
    let dead = fixture.journal(&fixture.journals);
    leased(&fixture, &dead).await;
    let frozen = format!("{}/0", dead.process());
    assert!(
        fixture
            .store
            .lease_take_over(&fixture.id, &frozen, "heir/1")
            .await
            .unwrap()
    );
    written(&fixture, &dead).await;
    drop(dead);
    fixture
        .store
        .connection_reauth_required(&fixture.id, 1, true, None, at(0))
        .await
        .unwrap();

    assert_eq!(fixture.refresher().replay_once().await.unwrap(), 1);

    let row = fixture.row().await;
    assert_eq!((row.state, row.generation), (ConnectionState::Active, 2));
    assert!(row.in_doubt, "its token may have been spent since");
}

#[tokio::test]
async fn an_answer_for_a_connection_that_ended_is_revoked() {
    let fixture = Fixture::answering([]).await;
    let dead = fixture.journal(&fixture.journals);
    written(&fixture, &dead).await;
    drop(dead);
    let pending = Revocation::Pending;
    fixture
        .store
        .connection_revoke(&fixture.id, 1, "disconnected", pending, at(0))
        .await
        .unwrap();
    let refresher = fixture.refresher();

    assert_eq!(refresher.replay_once().await.unwrap(), 0);
    assert_eq!(refresher.sweep_once().await.unwrap().revoked, 1);

    let revocations = fixture.requests("/revoke").await;
    assert!(
        revocations
            .iter()
            .any(|sent| sent.body.starts_with(b"token=refresh-2&"))
    );
    let row = fixture.row().await;
    assert_eq!(
        (row.state, row.refresh_token),
        (ConnectionState::Revoked, Sealed::default())
    );
    assert_eq!(refresher.replay_once().await.unwrap(), 0);
}

#[tokio::test]
async fn an_answer_that_a_reconnect_overtook_is_dropped() {
    let fixture = Fixture::answering([]).await;
    let dead = fixture.journal(&fixture.journals);
    written(&fixture, &dead).await;
    drop(dead);
    let again = fixture.consent(&fixture.id, "jane", "access-9", "refresh-9");
    fixture
        .store
        .connection_reconnect(&fixture.id, 1, &again, at(0))
        .await
        .unwrap();
    let before = fixture.row().await;

    assert_eq!(fixture.refresher().replay_once().await.unwrap(), 0);

    assert_eq!(fixture.row().await, before);
    assert_eq!(fixture.requests("/revoke").await.len(), 0);
}

/// A connection that ended since keeps the token that is yet to be revoked.
#[tokio::test]
async fn an_answer_of_long_ago_is_dropped_although_its_connection_ended() {
    let fixture = Fixture::answering([]).await;
    let dead = fixture.journal(&fixture.journals);
    written(&fixture, &dead).await;
    drop(dead);
    reconnected_and_ended(&fixture.vault, &fixture.store, &fixture.id).await;
    let refresher = fixture.refresher();

    assert_eq!(refresher.replay_once().await.unwrap(), 0);

    assert_eq!(refresher.sweep_once().await.unwrap().revoked, 1);
    let [revocation] = &fixture.requests("/revoke").await[..] else {
        panic!("one revocation")
    };
    assert!(revocation.body.starts_with(b"token=refresh-9&"));
}

/// A database that went back in time, and was given a new consent since, may be at the same generation with another token.
#[tokio::test]
async fn the_answer_to_another_token_is_dropped() {
    let fixture = Fixture::answering([]).await;
    let dead = fixture.journal(&fixture.journals);
    let body = TokenBody::plain(tokens().to_string().as_bytes());
    let spent = Secret::from("refresh-0");
    let recorded = dead.record(&fixture.id, 1, &spent, at(0), &body);
    recorded.await.unwrap();
    drop(dead);
    let before = fixture.row().await;
    let refresher = fixture.refresher();

    assert_eq!(refresher.replay_once().await.unwrap(), 0);

    assert_eq!(fixture.row().await, before);
    assert_eq!(refresher.replay_once().await.unwrap(), 0);
}

/// Another slot's segment, made by `make`.
fn segment(fixture: &Fixture, number: u32, make: impl FnOnce(&Path)) {
    let slot = fixture.journals.path().join("0".repeat(20));
    std::fs::create_dir_all(&slot).unwrap();
    make(&slot.join(format!("{number:08}-{}.jsonl", "1".repeat(20))));
}

#[tokio::test]
async fn what_a_dead_holder_may_have_spent_waits_until_every_journal_can_be_read() {
    let fixture = Fixture::answering([granted()]).await;
    let dead = fixture.journal(&fixture.journals);
    leased(&fixture, &dead).await;
    drop(dead);
    segment(&fixture, 1, |path| std::fs::create_dir(path).unwrap());

    fixture.refresh(Some(1)).await.unwrap_err();

    let row = fixture.row().await;
    assert_eq!(row.last_error.as_deref(), Some("journal_unreadable"));
    assert_eq!((row.in_doubt, row.lease_owner), (true, None));
    assert_eq!(fixture.calls().await, 0);

    segment(&fixture, 1, |path| std::fs::remove_dir(path).unwrap());
    fixture.clock.advance(Duration::from_secs(3));
    assert_eq!(refreshed(fixture.refresh(Some(1)).await).generation, 2);
}

#[tokio::test]
async fn in_doubt_no_token_leaves_long_after_the_last_look_for_its_answer() {
    let fixture = Fixture::answering([granted(), granted()]).await;
    let sql = "UPDATE connections SET in_doubt = 1";
    fixture.database.lines(sql).unwrap();
    // Read one after the other; each read waits until somebody opens the other end.
    let mut ends = Vec::new();
    for number in [1, 2] {
        segment(&fixture, number, |path| {
            let made = std::process::Command::new("mkfifo").arg(path).status();
            assert!(made.unwrap().success());
            ends.push(path.to_owned());
        });
    }
    let look = std::thread::spawn({
        let clock = Arc::clone(&fixture.clock);
        move || {
            drop(File::options().write(true).open(&ends[0]).unwrap());
            clock.advance(Duration::from_millis(2001));
            drop(File::options().write(true).open(&ends[1]).unwrap());
            for end in ends {
                std::fs::remove_file(end).unwrap();
            }
        }
    });

    let end = fixture.refresh(Some(1)).await;

    assert!(matches!(end, Err(RefreshError::NotSent { .. })), "{end:?}");
    assert_eq!(fixture.calls().await, 0);
    look.join().unwrap();
}

#[tokio::test]
async fn a_database_that_went_back_in_time_heals() {
    let answer = |turn: usize| {
        let mut body = tokens();
        body["access_token"] = json!(format!("access-{turn}"));
        body["refresh_token"] = json!(format!("refresh-{turn}"));
        plain(ResponseTemplate::new(200).set_body_json(body))
    };
    let fixture = Fixture::answering((2..5).map(answer)).await;
    fixture
        .database
        .lines("CREATE TABLE backup AS SELECT * FROM connections")
        .unwrap();
    let refresher = fixture.refresher();
    for generation in 1..4 {
        refreshed(refresh(&refresher, &fixture.id, Some(generation)).await);
        fixture.clock.advance(Duration::from_mins(1));
    }
    // What is logged of them is written after they have ended.
    fixture.tasks.idle().await;
    for sql in [
        "DELETE FROM connections",
        "INSERT INTO connections SELECT * FROM backup",
    ] {
        fixture.database.lines(sql).unwrap();
    }

    // One that has not seen anything newer.
    let row = replayed(fixture.refresh(Some(1)).await);

    assert_eq!((row.generation, fixture.calls().await), (4, 3));
    assert_eq!(
        fixture.vault.access_token(&row).unwrap().expose(),
        "access-4"
    );
}

#[tokio::test]
async fn a_success_that_is_no_token_response_is_no_answer() {
    let garbage = || plain(ResponseTemplate::new(200).set_body_string("<html>"));
    let fixture = Fixture::answering([garbage(), garbage(), granted()]).await;
    let refresher = fixture.refresher();
    refresh(&refresher, &fixture.id, Some(1)).await.unwrap_err();
    fixture.clock.advance(Duration::from_mins(1));

    assert_eq!(
        refreshed(refresh(&refresher, &fixture.id, Some(1)).await).generation,
        2
    );
    assert_eq!(refresher.journal.depth(), 0);
}

/// A process whose disk forgets what was not synced.
fn on(disk: &FaultyDisk, fixture: &Fixture) -> Journal {
    let clock = Arc::<ManualClock>::clone(&fixture.clock);
    let patience = Duration::from_mins(1);
    let disk = Arc::new(disk.clone());
    let vault = fixture.vault.clone();
    Journal::open_on(disk, patience, fixture.journals.path(), DAY, vault, clock).unwrap()
}

/// Were the commit first, a database that loses its last moments (or takes them back) would leave no one with the answer.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_committed_before_its_answer_is_synced() {
    let fixture = Fixture::answering([granted()]).await;
    let disk = FaultyDisk::default();
    let refresher = fixture.door_of(&[], on(&disk, &fixture));
    disk.hold_syncs();
    let caller = {
        let (refresher, id) = (Arc::clone(&refresher), fixture.id.clone());
        fixture
            .tasks
            .spawn(async move { refresh(&refresher, &id, Some(1)).await })
    };
    let held = disk.clone();
    tokio::task::spawn_blocking(move || held.wait_for_a_held_sync())
        .await
        .unwrap();

    assert_eq!(fixture.calls().await, 1, "the provider has answered");
    assert_eq!(fixture.row().await.generation, 1);

    disk.let_syncs_go();
    assert_eq!(refreshed(caller.await.unwrap()).generation, 2);
}

/// What was synced outlives the power; the database had not heard of it yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_synced_answer_outlives_a_power_cut_before_its_commit() {
    let fixture = Fixture::answering([]).await;
    let disk = FaultyDisk::default();
    let journal = on(&disk, &fixture);
    leased(&fixture, &journal).await;
    written(&fixture, &journal).await;
    disk.crash();
    journal.die();
    drop(journal);

    let row = replayed(fixture.refresh(Some(1)).await);

    assert_eq!((row.generation, fixture.calls().await), (2, 0));
}

#[tokio::test]
async fn with_a_disk_that_takes_nothing_the_answer_goes_straight_to_the_database() {
    for trouble in [DiskFault::ReadOnly, DiskFault::Full(10)] {
        let fixture = Fixture::answering([granted(), granted()]).await;
        let disk = FaultyDisk::default();
        let refresher = fixture.door_of(&[], on(&disk, &fixture));
        disk.trouble(trouble);

        assert_eq!(
            refreshed(refresh(&refresher, &fixture.id, Some(1)).await).generation,
            2
        );
        assert_eq!(refresher.degraded_reasons(), ["journal: can't be written"]);

        disk.mend();
        fixture.clock.advance(Duration::from_mins(1));
        assert_eq!(
            refreshed(refresh(&refresher, &fixture.id, Some(2)).await).generation,
            3
        );
        assert_eq!(refresher.degraded_reasons(), [""; 0]);
    }
}
