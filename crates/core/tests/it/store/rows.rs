use pipekeeper_core::clock::Timestamp;
use pipekeeper_core::connection::{AppKey, Connection, ConnectionId, ConnectionState};
use pipekeeper_core::granted::Consent;
use pipekeeper_core::sealed::Sealed;
use pipekeeper_core::store::{Backend, NewConnection, StoreError};
use pipekeeper_testing::TestDatabase;

use super::{app, at, consent, get, insert, name};

pub(crate) async fn every_column_survives(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let given = consent("acme", "jane");

    let id = insert(&store, given.clone()).await;

    let expected = Connection {
        id: id.clone(),
        platform: app().platform,
        app_id: app().app_id,
        account_id: given.account_id,
        owner: given.owner,
        company_id: given.company_id,
        company_domain: given.company_domain,
        company_name: given.company_name,
        user_id: given.user_id,
        user_name: given.user_name,
        api_domain: given.api_domain,
        scope: given.scope,
        access_token: given.access_token,
        refresh_token: given.refresh_token,
        expires_at: given.expires_at,
        refreshed_at: None,
        authorized_at: given.authorized_at,
        idle_deadline: given.idle_deadline,
        last_used_at: None,
        generation: 1,
        state: ConnectionState::Active,
        state_reason: None,
        state_since: at(0),
        in_doubt: false,
        lease_owner: None,
        due_at: given.due_at,
        early_renewals: 0,
        failures: 0,
        retry_at: None,
        last_error: None,
        revoke_pending: false,
        created_at: at(0),
        updated_at: at(0),
    };
    assert_eq!(store.connection_find(&id).await.unwrap(), Some(expected));
    let stranger = ConnectionId::generate();
    assert_eq!(store.connection_find(&stranger).await.unwrap(), None);
}

pub(crate) async fn tokens_of_any_bytes_survive(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let every_byte: Vec<u8> = (0..=255).cycle().take(4096).collect();
    let large: Vec<u8> = (0..=255).rev().cycle().take(64 * 1024).collect();

    let id = insert(
        &store,
        Consent {
            access_token: Sealed::from(every_byte.clone()),
            refresh_token: Sealed::from(large.clone()),
            ..consent("acme", "jane")
        },
    )
    .await;

    let row = get(&store, &id).await;
    assert_eq!(row.access_token.as_bytes(), every_byte);
    assert_eq!(row.refresh_token.as_bytes(), large);
    let shown = format!("{row:?}");
    assert!(shown.contains("access_token: [sealed]"), "{shown}");
    assert!(!shown.contains("254, 255"), "{shown}");
}

pub(crate) async fn instants_survive_to_the_microsecond(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    for micros in [0, 1, 1_800_000_000_999_999, 4_102_444_799_000_001] {
        let instant = Timestamp::from_unix_micros(micros).unwrap();
        let given = Consent {
            expires_at: instant,
            ..consent("acme", &format!("u{micros}"))
        };
        let id = insert(&store, given).await;
        assert_eq!(get(&store, &id).await.expires_at, instant);
    }
}

pub(crate) async fn keepers_that_look_alike_are_different(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let names = [
        "jane",
        "Jane",
        "JANE",
        "jäne",
        "ja\u{308}ne",
        "jane\u{2019}s",
        "straße",
        "strasse",
    ];

    let mut ids = Vec::new();
    for name_of_row in names {
        ids.push(insert(&store, consent(name_of_row, "x")).await);
        ids.push(insert(&store, consent("acme", name_of_row)).await);
    }

    for (index, name_of_row) in names.iter().enumerate() {
        let found = store
            .connection_find_by_owner(&app(), &name(name_of_row), &name("x"))
            .await;
        assert_eq!(found.unwrap().unwrap().id, ids[2 * index]);
        let found = store
            .connection_find_by_owner(&app(), &name("acme"), &name(name_of_row))
            .await;
        assert_eq!(found.unwrap().unwrap().id, ids[2 * index + 1]);
    }
    for stranger in ["jané", "jan", "jane\u{200b}x", "%", "jan_"] {
        let found = store
            .connection_find_by_owner(&app(), &name("acme"), &name(stranger))
            .await;
        assert_eq!(found.unwrap(), None, "{stranger}");
    }
    let upper = ids[0].as_str().to_uppercase().parse().unwrap();
    assert_eq!(store.connection_find(&upper).await.unwrap(), None);
}

pub(crate) async fn two_rows_cannot_hold_one_grant_or_one_keeper(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let first = consent("acme", "jane");
    insert(&store, first.clone()).await;
    let same_keeper = consent("acme", "jane");
    let same_grant = Consent {
        company_id: first.company_id.clone(),
        ..consent("other", "joe")
    };

    for consent in [same_keeper, same_grant] {
        let new = NewConnection {
            id: ConnectionId::generate(),
            app: app(),
            consent,
        };
        let refused = store.connection_insert(&new, at(0)).await;
        assert!(matches!(refused, Err(StoreError::Duplicate)), "{refused:?}");
        let elsewhere = NewConnection {
            app: AppKey {
                app_id: new.consent.owner.to_string(),
                ..app()
            },
            ..new
        };
        store.connection_insert(&elsewhere, at(0)).await.unwrap();
    }
}

pub(crate) async fn reconnect_cannot_take_what_another_row_holds(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    insert(&store, consent("acme", "jane")).await;
    let id = insert(&store, consent("acme", "joe")).await;
    let before = get(&store, &id).await;

    let refused = store
        .connection_reconnect(&id, 1, &consent("acme", "jane"), at(1))
        .await;

    assert!(matches!(refused, Err(StoreError::Duplicate)), "{refused:?}");
    assert_eq!(get(&store, &id).await, before);
}

pub(crate) async fn rows_are_found_by_keeper_and_by_grant(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let given = consent("acme", "jane");
    let id = insert(&store, given.clone()).await;

    let by_keeper = store
        .connection_find_by_owner(&app(), &given.account_id, &given.owner)
        .await;
    assert_eq!(by_keeper.unwrap().unwrap().id, id);
    let by_grant = store
        .connection_find_by_grant(&app(), &given.company_id, &given.user_id)
        .await;
    assert_eq!(by_grant.unwrap().unwrap().id, id);
    let other_user = store
        .connection_find_by_grant(&app(), &given.company_id, "12")
        .await;
    assert_eq!(other_user.unwrap(), None);
    let other_app = AppKey {
        platform: "Pipedrive".to_owned(),
        app_id: "ä".to_owned(),
    };
    let elsewhere = store
        .connection_find_by_owner(&other_app, &given.account_id, &given.owner)
        .await;
    assert_eq!(elsewhere.unwrap(), None);
}

pub(crate) async fn use_is_noted(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;

    store.connection_touch(&id, at(77), at(4000)).await.unwrap();

    let row = get(&store, &id).await;
    assert_eq!((row.last_used_at, row.generation), (Some(at(77)), 1));
}

pub(crate) async fn use_makes_an_active_row_due_sooner_never_later(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    let touch = async |secs, due_at| {
        store.connection_touch(&id, at(secs), due_at).await.unwrap();
        let row = get(&store, &id).await;
        assert_eq!(row.last_used_at, Some(at(secs)));
        row.due_at
    };

    assert_eq!(touch(1, at(2999)).await, at(2999));
    assert_eq!(touch(2, at(3001)).await, at(2999));

    let refused = store.connection_reauth_required(&id, 1, false, None, at(3));
    assert!(refused.await.unwrap());
    assert_eq!(touch(4, at(5)).await, Timestamp::far_future());
}
