//! What happens without being asked.

use super::*;

/// Asked for just now.
async fn used(fixture: &Fixture, id: &ConnectionId) {
    let due_at = at(3300);
    fixture
        .store
        .connection_touch(id, fixture.clock.now(), due_at)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_token_in_use_is_renewed_ahead_of_its_end() {
    let fixture = Fixture::answering([granted()]).await;
    used(&fixture, &fixture.id).await;
    let refresher = fixture.refresher();
    fixture.clock.advance(Duration::from_mins(50));
    assert_eq!(
        refresher.sweep_once().await.unwrap(),
        Swept::default(),
        "it is not due"
    );

    fixture.clock.advance(Duration::from_mins(5));
    assert_eq!(refresher.sweep_once().await.unwrap().refreshed, 1);

    let row = fixture.row().await;
    assert_eq!((row.generation, row.early_renewals), (2, 0));
    let due = at(3300 + 3150)..=at(3300 + 3300);
    assert!(due.contains(&row.due_at), "{}", row.due_at);
    fixture.tasks.idle().await;
    let log = fixture.store.refresh_log_for(&fixture.id, 9).await.unwrap();
    assert_eq!(log[0].trigger, "sweep");
    assert_eq!(refresher.sweep_once().await.unwrap(), Swept::default());
}

#[tokio::test]
async fn a_token_that_nobody_asks_for_waits_for_its_keep_alive() {
    let fixture = Fixture::answering([granted()]).await;
    let refresher = fixture.refresher();
    fixture.clock.advance(Duration::from_mins(55));

    assert_eq!(refresher.sweep_once().await.unwrap().postponed, 1);
    let due = fixture.row().await.due_at;
    assert!((at(0).saturating_add(DAY * 27)..=at(0).saturating_add(DAY * 30)).contains(&due));
    assert_eq!(refresher.sweep_once().await.unwrap(), Swept::default());

    fixture.clock.advance(due.saturating_since(at(3300)));
    assert_eq!(refresher.sweep_once().await.unwrap().refreshed, 1);
    fixture.tasks.idle().await;
    let log = fixture.store.refresh_log_for(&fixture.id, 9).await.unwrap();
    assert_eq!(log[0].trigger, "keep_alive");
    let row = fixture.row().await;
    assert_eq!(row.idle_deadline, Some(due.saturating_add(DAY * 60)));
}

#[tokio::test]
async fn under_on_401_nothing_is_renewed_ahead() {
    let fixture = Fixture::answering([]).await;
    used(&fixture, &fixture.id).await;
    let settings = [("APPS__PIPEDRIVE__REFRESH_POLICY", "on_401")];
    let refresher = fixture.door_with(&settings, &fixture.journals);
    fixture.clock.advance(Duration::from_hours(1));

    assert_eq!(refresher.sweep_once().await.unwrap().postponed, 1);
    assert_eq!(fixture.calls().await, 0);
}

#[tokio::test]
async fn replicas_share_a_sweep_without_a_call_too_many() {
    let late = ResponseTemplate::new(200)
        .set_body_json(tokens())
        .set_delay(Duration::from_millis(20));
    let fixture = Fixture::answering((0..60).map(|_| plain(late.clone()))).await;
    let mut ids = vec![fixture.id.clone()];
    for user in 0..29 {
        ids.push(fixture.connect(&format!("user-{user}")).await);
    }
    for id in &ids {
        used(&fixture, id).await;
    }
    fixture.clock.advance(Duration::from_mins(55));
    let (one, two, three) = (
        fixture.refresher(),
        fixture.refresher(),
        fixture.refresher(),
    );

    let swept = tokio::join!(one.sweep_once(), two.sweep_once(), three.sweep_once());

    for swept in [swept.0, swept.1, swept.2] {
        swept.unwrap();
    }
    assert_eq!(fixture.calls().await, 30);
    for id in &ids {
        assert_eq!(fixture.row_of(id).await.generation, 2);
    }
}

#[tokio::test]
async fn sweeps_heal_a_lease_whose_journal_is_out_of_reach() {
    let fixture = Fixture::answering([granted()]).await;
    used(&fixture, &fixture.id).await;
    fixture.leased_by("elsewhere/1/1").await;
    let refresher = fixture.refresher();
    fixture.clock.advance(Duration::from_mins(55));

    for _ in 0..9 {
        assert_eq!(
            refresher.sweep_once().await.unwrap().failed,
            1,
            "somebody is at it"
        );
        fixture.clock.advance(Duration::from_secs(10));
    }
    fixture.clock.advance(Duration::from_secs(1));

    assert_eq!(refresher.sweep_once().await.unwrap().refreshed, 1);
    assert_eq!(
        (fixture.row().await.generation, fixture.calls().await),
        (2, 1)
    );
}

#[tokio::test]
async fn a_sweep_waits_neither_for_another_process_nor_for_a_caller_who_does() {
    let fixture = Fixture::answering([granted()]).await;
    fixture.leased_by("other/1").await;
    let refresher = fixture.refresher();
    let swept = async || {
        let patience = Duration::from_mins(2);
        let end = refresher.refresh(&fixture.id, Some(1), Trigger::Sweep, patience);
        tokio::time::timeout(patience / 4, end).await.unwrap()
    };

    let alone = swept().await;
    assert!(matches!(alone, Err(RefreshError::Busy)), "{alone:?}");

    let others = async {
        let beside_a_caller = swept().await;
        let released = fixture.store.lease_release(&fixture.id, "other/1").await;
        assert!(released.unwrap());
        beside_a_caller
    };
    let (end, beside_a_caller) = tokio::join!(refresh(&refresher, &fixture.id, Some(1)), others);

    assert_eq!(refreshed(end).generation, 2);
    let busy = matches!(beside_a_caller, Err(RefreshError::Busy));
    assert!(busy, "{beside_a_caller:?}");
}

#[tokio::test]
async fn a_caller_who_waits_is_not_answered_by_a_sweep_that_does_not() {
    let fixture = Fixture::answering([granted()]).await;
    used(&fixture, &fixture.id).await;
    fixture.leased_by("other/1").await;
    let refresher = fixture.refresher();
    fixture.clock.advance(Duration::from_mins(55));
    let others = async {
        for _ in 0..20 {
            refresher.sweep_once().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(
            fixture
                .store
                .lease_release(&fixture.id, "other/1")
                .await
                .unwrap()
        );
    };

    let (end, ()) = tokio::join!(refresh(&refresher, &fixture.id, Some(1)), others);

    assert_eq!(refreshed(end).generation, 2);
}

#[tokio::test]
async fn a_disconnect_is_told_to_the_provider_until_it_hears_it() {
    let fixture = Fixture::answering([]).await;
    fixture.provider.reset().await;
    let answers = Script {
        answers: vec![status(500), refusal(401, "invalid_client"), status(200)],
        calls: AtomicUsize::new(0),
    };
    Mock::given(path("/revoke"))
        .respond_with(answers)
        .mount(&fixture.provider)
        .await;
    let pending = Revocation::Pending;
    fixture
        .store
        .connection_revoke(&fixture.id, 1, "disconnected", pending, at(0))
        .await
        .unwrap();
    let refresher = fixture.refresher();

    for _ in 0..2 {
        assert_eq!(refresher.sweep_once().await.unwrap().postponed, 1);
        assert!(fixture.row().await.revoke_pending);
        assert_eq!(
            refresher.sweep_once().await.unwrap(),
            Swept::default(),
            "not at once"
        );
        fixture.clock.advance(Duration::from_mins(5));
    }
    assert_eq!(refresher.sweep_once().await.unwrap().revoked, 1);

    let row = fixture.row().await;
    assert_eq!(
        (row.revoke_pending, row.due_at),
        (false, Timestamp::far_future())
    );
    let sent = fixture.requests("/revoke").await;
    assert!(
        sent.iter()
            .all(|sent| sent.body.starts_with(b"token=refresh-1&"))
    );
    assert_eq!(refresher.sweep_once().await.unwrap(), Swept::default());
}

#[tokio::test]
async fn what_cannot_be_helped_now_does_not_stand_in_the_way() {
    let fixture = Fixture::answering([refusal(401, "invalid_client")]).await;
    let foreign = fixture.connect("joe").await;
    for id in [&fixture.id, &foreign] {
        used(&fixture, id).await;
    }
    fixture
        .database
        .lines("UPDATE connections SET app_id = 'another' WHERE owner = 'joe'")
        .unwrap();
    let refresher = fixture.refresher();
    fixture.clock.advance(Duration::from_mins(55));

    assert_eq!(refresher.sweep_once().await.unwrap().postponed, 2);
    assert_eq!(refresher.sweep_once().await.unwrap(), Swept::default());

    assert_eq!(fixture.calls().await, 1);
    let row = fixture.row().await;
    assert!((at(3360)..=at(3600)).contains(&row.due_at));
    assert_eq!((row.state, row.failures), (ConnectionState::Active, 0));
    let row = fixture.row_of(&foreign).await;
    assert!(row.due_at <= at(3300), "due for those who have its app");
}

/// A process that lacks a key must not have those wait that have it.
#[tokio::test]
async fn what_one_process_cannot_open_stays_due_for_the_others() {
    let fixture = Fixture::answering([granted()]).await;
    used(&fixture, &fixture.id).await;
    let keyless = Vault::new(Keyring::parse(&Keyring::generate("k2")).unwrap());
    let keyless = Fixture {
        vault: keyless,
        database: TestDatabase::migrated(Backend::Sqlite).await,
        journals: TestDirectory::create(),
        provider: MockServer::start().await,
        store: fixture.store.clone(),
        clock: Arc::clone(&fixture.clock),
        tasks: fixture.tasks.clone(),
        id: fixture.id.clone(),
    };
    let refresher = keyless.refresher();
    fixture.clock.advance(Duration::from_mins(55));
    let before = fixture.row().await;

    assert_eq!(refresher.sweep_once().await.unwrap().postponed, 1);
    assert_eq!(refresher.sweep_once().await.unwrap(), Swept::default());

    assert_eq!(fixture.row().await, before);
    assert_eq!(fixture.refresher().sweep_once().await.unwrap().refreshed, 1);
}

#[tokio::test]
async fn more_rows_than_a_page_are_all_swept() {
    let fixture = Fixture::answering((0..450).map(|_| granted())).await;
    for user in 0..449 {
        let id = fixture.connect(&format!("user-{user}")).await;
        used(&fixture, &id).await;
    }
    used(&fixture, &fixture.id).await;
    fixture.clock.advance(Duration::from_mins(55));

    assert_eq!(
        fixture.refresher().sweep_once().await.unwrap().refreshed,
        450
    );
    assert_eq!(fixture.calls().await, 450);
}

/// No one else looks at an unused connection's lease: the looks must add up, however far apart they are.
#[tokio::test]
async fn seldom_sweeps_heal_it_too() {
    let fixture = Fixture::answering([granted()]).await;
    used(&fixture, &fixture.id).await;
    fixture.leased_by("elsewhere/1/1").await;
    let hourly = Timing {
        sweep_every: Duration::from_hours(1),
        ..timing()
    };
    let refresher = fixture.door_timed(hourly);
    fixture.clock.advance(Duration::from_mins(55));

    assert_eq!(refresher.sweep_once().await.unwrap().failed, 1);
    fixture.clock.advance(Duration::from_hours(1));

    assert_eq!(refresher.sweep_once().await.unwrap().refreshed, 1);
}

/// A page of rows is worked off for a while: a new consent may have come since it was read.
#[tokio::test]
async fn a_new_consent_is_not_revoked_with_the_old_one() {
    let fixture = Fixture::answering([]).await;
    let pending = Revocation::Pending;
    let store = &fixture.store;
    assert!(
        store
            .connection_revoke(&fixture.id, 1, "disconnected", pending, at(0))
            .await
            .unwrap()
    );
    let read = fixture.row().await.generation;
    let again = fixture.consent(&fixture.id, "jane", "access-9", "refresh-9");
    assert!(
        store
            .connection_reconnect(&fixture.id, read, &again, at(1))
            .await
            .unwrap()
    );

    let patience = Duration::from_mins(2);
    let refresher = fixture.refresher();
    let end = refresher
        .refresh(&fixture.id, Some(read), Trigger::Revocation, patience)
        .await;

    assert!(matches!(end, Ok(Outcome::Adopted(_))), "{end:?}");
    assert_eq!(fixture.requests("/revoke").await.len(), 0);
}
