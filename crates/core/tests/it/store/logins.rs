use pipekeeper_core::store::{Backend, Login, NewLogin};
use pipekeeper_core::test_util::TestDatabase;
use tokio::task::JoinSet;

use super::{app, at, name, sealed};

fn login(state_hash: &str) -> NewLogin {
    NewLogin {
        state_hash: state_hash.to_owned(),
        app: app(),
        account_id: Some(name("acme")),
        owner: None,
        verifier: Some(sealed("verifier")),
        binding_hash: "b1nd1ng".to_owned(),
        forward_url: Some("https://app.example/done?s=1".to_owned()),
        expires_at: at(600),
    }
}

pub(crate) async fn login_is_consumed_once(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let new = login("5tate");
    database.store().login_insert(&new, at(0)).await.unwrap();

    let mut racers = JoinSet::new();
    for _ in 0..16 {
        let store = database.store();
        racers.spawn(async move { store.login_consume("5tate", at(1)).await.unwrap() });
    }
    let won: Vec<Login> = racers.join_all().await.into_iter().flatten().collect();

    let expected = Login {
        state_hash: new.state_hash,
        platform: new.app.platform,
        app_id: new.app.app_id,
        account_id: new.account_id,
        owner: None,
        verifier: new.verifier,
        binding_hash: new.binding_hash,
        forward_url: new.forward_url,
        expires_at: at(600),
        consumed_at: Some(at(1)),
        created_at: at(0),
    };
    assert_eq!(won, [expected]);
    assert_eq!(
        database
            .store()
            .login_consume("5tate", at(2))
            .await
            .unwrap(),
        None
    );
    for shown in [format!("{won:?}"), format!("{:?}", login("5tate"))] {
        for hidden in ["5tate", "b1nd1ng", "s=1", "118, 101"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }
}

pub(crate) async fn expired_login_is_not_consumed(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    store.login_insert(&login("s"), at(0)).await.unwrap();

    assert_eq!(store.login_consume("s", at(600)).await.unwrap(), None);
    assert_eq!(store.login_consume("S", at(1)).await.unwrap(), None);
    assert!(store.login_consume("s", at(599)).await.unwrap().is_some());
}

pub(crate) async fn old_logins_are_pruned(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    store.login_insert(&login("s"), at(0)).await.unwrap();

    assert_eq!(store.logins_prune(at(600)).await.unwrap(), 0);
    assert_eq!(store.logins_prune(at(601)).await.unwrap(), 1);
}
