//! Flights and leases: who calls, and who waits.

use tokio::task::JoinSet;

use super::*;

fn late(answer: ResponseTemplate) -> Answer {
    plain(answer.set_delay(Duration::from_millis(150)))
}

fn late_tokens() -> Answer {
    late(ResponseTemplate::new(200).set_body_json(tokens()))
}

async fn crowd(refreshers: &[Arc<Refresher>], id: &ConnectionId) -> Vec<RefreshResult> {
    let mut callers = JoinSet::new();
    for caller in 0..100 {
        let (refresher, id) = (
            Arc::clone(&refreshers[caller % refreshers.len()]),
            id.clone(),
        );
        callers.spawn(async move { refresh(&refresher, &id, Some(1)).await });
    }
    callers.join_all().await
}

#[tokio::test]
async fn a_hundred_callers_are_one_call() {
    let fixture = Fixture::answering([late_tokens()]).await;

    let ends = crowd(&[fixture.refresher()], &fixture.id).await;

    for end in ends {
        assert_eq!(refreshed(end).generation, 2);
    }
    assert_eq!(fixture.calls().await, 1);
    assert_eq!(fixture.row().await.lease_owner, None);
}

#[tokio::test]
async fn a_hundred_callers_of_four_processes_are_one_call() {
    let fixture = Fixture::answering([late_tokens()]).await;
    let refreshers = [
        fixture.refresher(),
        fixture.refresher(),
        fixture.refresher(),
        fixture.refresher(),
    ];

    let ends = crowd(&refreshers, &fixture.id).await;

    for end in ends {
        match end {
            Ok(Outcome::Refreshed(row) | Outcome::AlreadyNewer(row) | Outcome::Adopted(row)) => {
                assert_eq!(row.generation, 2);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(fixture.calls().await, 1);
}

#[tokio::test]
async fn a_caller_of_another_generation_is_answered_by_the_row() {
    let fixture = Fixture::answering([late_tokens()]).await;
    let refresher = fixture.refresher();

    let (of_this, of_another, of_none) = tokio::join!(
        refresh(&refresher, &fixture.id, Some(1)),
        refresh(&refresher, &fixture.id, Some(0)),
        refresh(&refresher, &fixture.id, None),
    );

    assert_eq!(refreshed(of_this).generation, 2);
    assert_eq!(already_newer(of_another).generation, 2);
    assert_eq!(already_newer(of_none).generation, 2, "minted just now");
    assert_eq!(fixture.calls().await, 1);
}

#[tokio::test]
async fn a_dropped_caller_does_not_abort_the_flight() {
    let (answer, held) = Held::before(granted());
    let fixture = Fixture::answering([answer]).await;
    let refresher = fixture.refresher();

    let caller = refresh(&refresher, &fixture.id, Some(1));
    let dropped = tokio::time::timeout(Duration::from_millis(50), caller).await;

    assert!(dropped.is_err());
    held.release();
    refreshed(refresh(&refresher, &fixture.id, Some(1)).await);
    assert_eq!(
        (fixture.row().await.generation, fixture.calls().await),
        (2, 1)
    );
}

#[tokio::test]
async fn a_caller_without_patience_is_told_that_somebody_is_at_it() {
    let (answer, held) = Held::before(granted());
    let fixture = Fixture::answering([answer]).await;
    let refresher = fixture.refresher();
    let patience = Duration::from_millis(20);

    let busy = refresher
        .refresh(&fixture.id, Some(1), Trigger::Webhook, patience)
        .await;

    assert!(matches!(busy, Err(RefreshError::Busy)), "{busy:?}");
    held.release();
    refreshed(refresh(&refresher, &fixture.id, Some(1)).await);
}

#[tokio::test]
async fn an_ended_flight_leaves_the_board() {
    let fixture = Fixture::answering([granted()]).await;
    let refresher = fixture.refresher();
    refreshed(refresh(&refresher, &fixture.id, Some(1)).await);
    assert!(refresher.in_flight.lock().unwrap().is_empty());

    let nobody = ConnectionId::generate();
    refresh(&refresher, &nobody, None).await.unwrap_err();
    assert!(refresher.in_flight.lock().unwrap().is_empty());
}

#[tokio::test]
async fn who_finds_the_lease_taken_adopts_what_its_holder_brings() {
    let fixture = Fixture::answering([]).await;
    fixture.leased_by("other/1").await;
    let (refresher, row) = (fixture.refresher(), fixture.row().await);
    let holder = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let commit = sibling(&fixture.vault, &row);
        assert!(
            fixture
                .store
                .connection_commit(&row.id, 1, &commit, at(0))
                .await
                .unwrap()
        );
    };

    let (adopted, ()) = tokio::join!(refresh(&refresher, &fixture.id, Some(1)), holder);

    let adopted = already_newer(adopted);
    assert_eq!(adopted.generation, 2);
    let token = fixture.vault.access_token(&adopted).unwrap();
    assert_eq!(token.expose(), "access-sibling");
    assert_eq!(fixture.calls().await, 0);
}

#[tokio::test]
async fn who_finds_the_lease_taken_spends_once_its_holder_gave_up() {
    let fixture = Fixture::answering([granted()]).await;
    fixture.leased_by("other/1").await;
    let refresher = fixture.refresher();
    let holder = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(
            fixture
                .store
                .lease_release(&fixture.id, "other/1")
                .await
                .unwrap()
        );
    };

    let (end, ()) = tokio::join!(refresh(&refresher, &fixture.id, Some(1)), holder);

    assert_eq!((refreshed(end).generation, fixture.calls().await), (2, 1));
}

/// Waits until the refresher has observed the lease.
async fn seen(refresher: &Refresher) -> String {
    loop {
        if let Some(lease) = refresher.lease_observer.0.lock().unwrap().values().next() {
            return lease.owner.clone();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Lets time pass in steps; the refresher observes the lease after each.
async fn observe(refresher: &Refresher, clock: &ManualClock, mut left: Duration) {
    while !left.is_zero() {
        let step = left.min(Duration::from_secs(25));
        clock.advance(step);
        left -= step;
        loop {
            let now = Clock::monotonic(clock);
            if refresher
                .lease_observer
                .0
                .lock()
                .unwrap()
                .values()
                .all(|lease| lease.last == now)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A dead holder's lease, watched for as long as it takes.
async fn orphaned(fixture: &Fixture) -> RefreshResult {
    fixture.leased_by("dead/1").await;
    let refresher = fixture.refresher();
    let time = async {
        assert_eq!(seen(&refresher).await, "dead/1");
        observe(&refresher, &fixture.clock, Duration::from_secs(90)).await;
        assert_eq!(fixture.calls().await, 0, "not before its time");
        // Also what a day of the wall clock does not change.
        fixture.clock.set_wall(at(0).saturating_add(DAY));
        fixture.clock.set_wall(at(0));
        fixture.clock.advance(Duration::from_millis(1));
    };
    let (end, ()) = tokio::join!(refresh(&refresher, &fixture.id, Some(1)), time);
    end
}

#[tokio::test]
async fn a_lease_whose_holder_is_gone_is_taken_over() {
    let fixture = Fixture::answering([status(500), granted()]).await;

    let row = refreshed(orphaned(&fixture).await);

    assert_eq!((row.generation, row.in_doubt), (2, false));
    assert_eq!(row.lease_owner, None);
}

#[tokio::test]
async fn a_token_that_a_dead_holder_may_have_spent_dies_as_an_answer_lost() {
    let fixture = Fixture::answering([refusal(400, "invalid_grant")]).await;

    let end = orphaned(&fixture).await;

    let Err(RefreshError::Ended { state, reason, .. }) = end else {
        panic!("{end:?}")
    };
    assert_eq!(state, ConnectionState::ReauthRequired);
    assert_eq!(reason.as_deref(), Some("answer_lost"));
    let row = fixture.row().await;
    assert!(row.in_doubt);
    assert_eq!(row.lease_owner, None);
}

#[tokio::test]
async fn after_an_outage_the_holder_is_given_the_whole_time_again() {
    let fixture = Fixture::answering([granted()]).await;
    fixture.leased_by("one/1").await;
    let refresher = fixture.refresher();
    let time = async {
        seen(&refresher).await;
        fixture.clock.advance(Duration::from_secs(89));
        while refresher
            .lease_observer
            .0
            .lock()
            .unwrap()
            .values()
            .any(|lease| lease.last.is_zero())
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let first = refresher
            .lease_observer
            .0
            .lock()
            .unwrap()
            .values()
            .next()
            .unwrap()
            .first;
        assert_eq!(first, Duration::from_secs(89));
        observe(&refresher, &fixture.clock, Duration::from_secs(2)).await;
        assert_eq!(fixture.calls().await, 0);
        assert!(
            fixture
                .store
                .lease_release(&fixture.id, "one/1")
                .await
                .unwrap()
        );
    };

    let (end, ()) = tokio::join!(refresh(&refresher, &fixture.id, Some(1)), time);

    refreshed(end);
}

#[tokio::test]
async fn a_new_holder_is_given_its_own_time() {
    let fixture = Fixture::answering([granted()]).await;
    fixture.leased_by("one/1").await;
    let refresher = fixture.refresher();
    let time = async {
        seen(&refresher).await;
        observe(&refresher, &fixture.clock, Duration::from_secs(45)).await;
        assert!(
            fixture
                .store
                .lease_take_over(&fixture.id, "one/1", "two/1")
                .await
                .unwrap()
        );
        while seen(&refresher).await != "two/1" {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let first = refresher
            .lease_observer
            .0
            .lock()
            .unwrap()
            .values()
            .next()
            .unwrap()
            .first;
        assert_eq!(first, Duration::from_secs(45));
        observe(&refresher, &fixture.clock, Duration::from_secs(44)).await;
        assert_eq!(fixture.calls().await, 0);
        assert!(
            fixture
                .store
                .lease_release(&fixture.id, "two/1")
                .await
                .unwrap()
        );
    };

    let (end, ()) = tokio::join!(refresh(&refresher, &fixture.id, Some(1)), time);

    refreshed(end);
}

/// Two machines made from one image: each has a copy of the other's slot, with a free lock.
#[tokio::test]
async fn a_copy_of_the_holders_journal_does_not_make_it_look_dead() {
    let fixture = Fixture::answering([late_tokens()]).await;
    let (here, there) = (TestDirectory::create(), TestDirectory::create());
    let first = fixture.door_with(&[], &here);
    let slot = first
        .journal
        .process()
        .split('/')
        .next()
        .unwrap()
        .to_owned();
    let copy = there.path().join(&slot);
    std::fs::create_dir(&copy).unwrap();
    for file in std::fs::read_dir(here.path().join(&slot)).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    let second = fixture.door_with(&[], &there);
    let asked_while_the_first_calls = async {
        while fixture.calls().await == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        refresh(&second, &fixture.id, Some(1)).await
    };

    let (ours, theirs) = tokio::join!(
        refresh(&first, &fixture.id, Some(1)),
        asked_while_the_first_calls
    );

    assert_eq!(refreshed(ours).generation, 2);
    assert_eq!(already_newer(theirs).generation, 2);
    assert_eq!(fixture.calls().await, 1);
}

#[tokio::test]
async fn no_flight_waits_for_ever() {
    let fixture = Fixture::answering([]).await;
    fixture.leased_by("one/1").await;
    let refresher = fixture.refresher();
    let time = async {
        seen(&refresher).await;
        // Another holder each time: none of them is an orphan.
        assert!(
            fixture
                .store
                .lease_take_over(&fixture.id, "one/1", "two/1")
                .await
                .unwrap()
        );
        fixture.clock.advance(Duration::from_secs(95));
    };

    let (end, ()) = tokio::join!(refresh(&refresher, &fixture.id, Some(1)), time);

    assert!(matches!(end, Err(RefreshError::Busy)), "{end:?}");
    assert_eq!(fixture.row().await.lease_owner.as_deref(), Some("two/1"));
    assert_eq!(fixture.calls().await, 0);
}

#[tokio::test]
async fn a_lease_does_not_wait_for_a_place() {
    let fixture = Fixture::answering([granted()]).await;
    let refresher = fixture.refresher();
    let places = u32::try_from(timing().max_concurrent_calls).unwrap();
    let permits_there = &refresher.permits["pipedrive"];
    let all = permits_there.acquire_many(places).await.unwrap();
    let time = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(fixture.row().await.lease_owner, None);
        drop(all);
    };

    let (end, ()) = tokio::join!(refresh(&refresher, &fixture.id, Some(1)), time);

    refreshed(end);
    assert_eq!(
        permits_there.available_permits(),
        timing().max_concurrent_calls
    );
}

/// A call that the process might not be there to end is not begun.
#[tokio::test]
async fn a_stopping_process_begins_no_call() {
    let fixture = Fixture::answering([]).await;
    let refresher = fixture.refresher();
    let places = u32::try_from(timing().max_concurrent_calls).unwrap();
    let all = refresher.permits["pipedrive"]
        .acquire_many(places)
        .await
        .unwrap();
    let stop = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        fixture.tasks.stopping().cancel();
        drop(all);
    };

    let (end, ()) = tokio::join!(refresh(&refresher, &fixture.id, Some(1)), stop);

    assert!(matches!(end, Err(RefreshError::Busy)), "{end:?}");
    assert_eq!(
        (fixture.calls().await, fixture.row().await.lease_owner),
        (0, None)
    );
}
