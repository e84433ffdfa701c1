//! What happens without being asked.

use pipekeeper_core::store::never;

use super::*;

/// Asked for just now.
async fn used(world: &World, id: &ConnectionId) {
    let due_at = at(3300);
    world
        .store
        .connection_touch(id, world.clock.now(), due_at)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_token_in_use_is_renewed_ahead_of_its_end() {
    let world = World::answering([granted()]).await;
    used(&world, &world.id).await;
    let refresher = world.refresher();
    world.clock.advance(Duration::from_mins(50));
    assert_eq!(
        refresher.sweep_once().await.unwrap(),
        Swept::default(),
        "it is not due"
    );

    world.clock.advance(Duration::from_mins(5));
    assert_eq!(refresher.sweep_once().await.unwrap().refreshed, 1);

    let row = world.row().await;
    assert_eq!((row.generation, row.early_renewals), (2, 0));
    let due = at(3300 + 3150)..=at(3300 + 3300);
    assert!(due.contains(&row.due_at), "{}", row.due_at);
    world.tasks.idle().await;
    let log = world.store.refresh_log_for(&world.id, 9).await.unwrap();
    assert_eq!(log[0].trigger, "sweep");
    assert_eq!(refresher.sweep_once().await.unwrap(), Swept::default());
}

#[tokio::test]
async fn a_token_that_nobody_asks_for_waits_for_its_keep_alive() {
    let world = World::answering([granted()]).await;
    let refresher = world.refresher();
    world.clock.advance(Duration::from_mins(55));

    assert_eq!(refresher.sweep_once().await.unwrap().postponed, 1);
    let due = world.row().await.due_at;
    assert!((at(0).saturating_add(DAY * 27)..=at(0).saturating_add(DAY * 30)).contains(&due));
    assert_eq!(refresher.sweep_once().await.unwrap(), Swept::default());

    world.clock.advance(due.saturating_since(at(3300)));
    assert_eq!(refresher.sweep_once().await.unwrap().refreshed, 1);
    world.tasks.idle().await;
    let log = world.store.refresh_log_for(&world.id, 9).await.unwrap();
    assert_eq!(log[0].trigger, "keep_alive");
    let row = world.row().await;
    assert_eq!(row.idle_deadline, Some(due.saturating_add(DAY * 60)));
}

#[tokio::test]
async fn under_on_401_nothing_is_renewed_ahead() {
    let world = World::answering([]).await;
    used(&world, &world.id).await;
    let settings = [("APPS__PIPEDRIVE__REFRESH_POLICY", "on_401")];
    let refresher = world.door_with(&settings, &world.journals);
    world.clock.advance(Duration::from_hours(1));

    assert_eq!(refresher.sweep_once().await.unwrap().postponed, 1);
    assert_eq!(world.calls().await, 0);
}

#[tokio::test]
async fn replicas_share_a_sweep_without_a_call_too_many() {
    let late = ResponseTemplate::new(200)
        .set_body_json(tokens())
        .set_delay(Duration::from_millis(20));
    let world = World::answering((0..60).map(|_| plain(late.clone()))).await;
    let mut ids = vec![world.id.clone()];
    for user in 0..29 {
        ids.push(world.connect(&format!("user-{user}")).await);
    }
    for id in &ids {
        used(&world, id).await;
    }
    world.clock.advance(Duration::from_mins(55));
    let (one, two, three) = (world.refresher(), world.refresher(), world.refresher());

    let swept = tokio::join!(one.sweep_once(), two.sweep_once(), three.sweep_once());

    for swept in [swept.0, swept.1, swept.2] {
        swept.unwrap();
    }
    assert_eq!(world.calls().await, 30);
    for id in &ids {
        assert_eq!(world.row_of(id).await.generation, 2);
    }
}

#[tokio::test]
async fn sweeps_heal_a_lease_whose_journal_is_out_of_reach() {
    let world = World::answering([granted()]).await;
    used(&world, &world.id).await;
    world.leased_by("elsewhere/1/1").await;
    let refresher = world.refresher();
    world.clock.advance(Duration::from_mins(55));

    for _ in 0..9 {
        assert_eq!(
            refresher.sweep_once().await.unwrap().failed,
            1,
            "somebody is at it"
        );
        world.clock.advance(Duration::from_secs(10));
    }
    world.clock.advance(Duration::from_secs(1));

    assert_eq!(refresher.sweep_once().await.unwrap().refreshed, 1);
    assert_eq!((world.row().await.generation, world.calls().await), (2, 1));
}

#[tokio::test]
async fn a_sweep_waits_neither_for_another_process_nor_for_a_caller_who_does() {
    let world = World::answering([granted()]).await;
    world.leased_by("other/1").await;
    let refresher = world.refresher();
    let swept = async || {
        let patience = Duration::from_mins(2);
        let end = refresher.refresh(&world.id, Some(1), Trigger::Sweep, patience);
        tokio::time::timeout(patience / 4, end).await.unwrap()
    };

    let alone = swept().await;
    assert!(matches!(alone, Err(RefreshError::Busy)), "{alone:?}");

    let others = async {
        let beside_a_caller = swept().await;
        let released = world.store.lease_release(&world.id, "other/1").await;
        assert!(released.unwrap());
        beside_a_caller
    };
    let (end, beside_a_caller) = tokio::join!(refresh(&refresher, &world.id, Some(1)), others);

    assert_eq!(refreshed(end).generation, 2);
    let busy = matches!(beside_a_caller, Err(RefreshError::Busy));
    assert!(busy, "{beside_a_caller:?}");
}

#[tokio::test]
async fn a_caller_who_waits_is_not_answered_by_a_sweep_that_does_not() {
    let world = World::answering([granted()]).await;
    used(&world, &world.id).await;
    world.leased_by("other/1").await;
    let refresher = world.refresher();
    world.clock.advance(Duration::from_mins(55));
    let others = async {
        for _ in 0..20 {
            refresher.sweep_once().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(
            world
                .store
                .lease_release(&world.id, "other/1")
                .await
                .unwrap()
        );
    };

    let (end, ()) = tokio::join!(refresh(&refresher, &world.id, Some(1)), others);

    assert_eq!(refreshed(end).generation, 2);
}

#[tokio::test]
async fn a_disconnect_is_told_to_the_provider_until_it_hears_it() {
    let world = World::answering([]).await;
    world.provider.reset().await;
    let answers = Script {
        answers: vec![status(500), refusal(401, "invalid_client"), status(200)],
        calls: AtomicUsize::new(0),
    };
    Mock::given(path("/revoke"))
        .respond_with(answers)
        .mount(&world.provider)
        .await;
    let pending = Revocation::Pending;
    world
        .store
        .connection_revoke(&world.id, 1, "disconnected", pending, at(0))
        .await
        .unwrap();
    let refresher = world.refresher();

    for _ in 0..2 {
        assert_eq!(refresher.sweep_once().await.unwrap().postponed, 1);
        assert!(world.row().await.revoke_pending);
        assert_eq!(
            refresher.sweep_once().await.unwrap(),
            Swept::default(),
            "not at once"
        );
        world.clock.advance(Duration::from_mins(5));
    }
    assert_eq!(refresher.sweep_once().await.unwrap().revoked, 1);

    let row = world.row().await;
    assert_eq!((row.revoke_pending, row.due_at), (false, never()));
    let sent = world.requests("/revoke").await;
    assert!(
        sent.iter()
            .all(|sent| sent.body.starts_with(b"token=refresh-1&"))
    );
    assert_eq!(refresher.sweep_once().await.unwrap(), Swept::default());
}

#[tokio::test]
async fn what_cannot_be_helped_now_does_not_stand_in_the_way() {
    let world = World::answering([refusal(401, "invalid_client")]).await;
    let foreign = world.connect("joe").await;
    for id in [&world.id, &foreign] {
        used(&world, id).await;
    }
    world
        .database
        .lines("UPDATE connections SET app_id = 'another' WHERE owner = 'joe'")
        .unwrap();
    let refresher = world.refresher();
    world.clock.advance(Duration::from_mins(55));

    assert_eq!(refresher.sweep_once().await.unwrap().postponed, 2);
    assert_eq!(refresher.sweep_once().await.unwrap(), Swept::default());

    assert_eq!(world.calls().await, 1);
    let row = world.row().await;
    assert!((at(3360)..=at(3600)).contains(&row.due_at));
    assert_eq!((row.state, row.failures), (ConnectionState::Active, 0));
    let row = world.row_of(&foreign).await;
    assert!(row.due_at <= at(3300), "due for those who have its app");
}

/// A process that lacks a key must not have those wait that have it.
#[tokio::test]
async fn what_one_process_cannot_open_stays_due_for_the_others() {
    let world = World::answering([granted()]).await;
    used(&world, &world.id).await;
    let keyless = Vault::new(Keyring::parse(&Keyring::generate("k2")).unwrap());
    let keyless = World {
        vault: keyless,
        database: TestDatabase::migrated(Backend::Sqlite).await,
        journals: TestDirectory::create(),
        provider: MockServer::start().await,
        store: world.store.clone(),
        clock: Arc::clone(&world.clock),
        tasks: world.tasks.clone(),
        id: world.id.clone(),
    };
    let refresher = keyless.refresher();
    world.clock.advance(Duration::from_mins(55));
    let before = world.row().await;

    assert_eq!(refresher.sweep_once().await.unwrap().postponed, 1);
    assert_eq!(refresher.sweep_once().await.unwrap(), Swept::default());

    assert_eq!(world.row().await, before);
    assert_eq!(world.refresher().sweep_once().await.unwrap().refreshed, 1);
}

#[tokio::test]
async fn more_rows_than_a_page_are_all_swept() {
    let world = World::answering((0..450).map(|_| granted())).await;
    for user in 0..449 {
        let id = world.connect(&format!("user-{user}")).await;
        used(&world, &id).await;
    }
    used(&world, &world.id).await;
    world.clock.advance(Duration::from_mins(55));

    assert_eq!(world.refresher().sweep_once().await.unwrap().refreshed, 450);
    assert_eq!(world.calls().await, 450);
}

/// Nobody else looks at an unused connection's lease: the looks must add up, however far apart they are.
#[tokio::test]
async fn seldom_sweeps_heal_it_too() {
    let world = World::answering([granted()]).await;
    used(&world, &world.id).await;
    world.leased_by("elsewhere/1/1").await;
    let hourly = Timing {
        sweep_every: Duration::from_hours(1),
        ..timing()
    };
    let refresher = world.door_timed(hourly);
    world.clock.advance(Duration::from_mins(55));

    assert_eq!(refresher.sweep_once().await.unwrap().failed, 1);
    world.clock.advance(Duration::from_hours(1));

    assert_eq!(refresher.sweep_once().await.unwrap().refreshed, 1);
}

/// A page of rows is worked off for a while: a new consent may have come since it was read.
#[tokio::test]
async fn a_new_consent_is_not_revoked_with_the_old_one() {
    let world = World::answering([]).await;
    let pending = Revocation::Pending;
    let store = &world.store;
    assert!(
        store
            .connection_revoke(&world.id, 1, "disconnected", pending, at(0))
            .await
            .unwrap()
    );
    let read = world.row().await.generation;
    let again = world.consent(&world.id, "jane", "access-9", "refresh-9");
    assert!(
        store
            .connection_reconnect(&world.id, read, &again, at(1))
            .await
            .unwrap()
    );

    let patience = Duration::from_mins(2);
    let refresher = world.refresher();
    let end = refresher
        .refresh(&world.id, Some(read), Trigger::Revocation, patience)
        .await;

    assert!(matches!(end, Ok(Outcome::Adopted(_))), "{end:?}");
    assert_eq!(world.requests("/revoke").await.len(), 0);
}
