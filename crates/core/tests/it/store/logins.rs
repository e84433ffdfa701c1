use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::store::{
    Backend, Claim, Login, NewCallback, NewLogin, PlacedConsent, PlacedRow, Store,
};
use pipekeeper_testing::TestDatabase;
use tokio::task::JoinSet;

use super::{app, at, consent, name, sealed};

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

pub(crate) async fn login_is_kept_until_it_is_pruned(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let new = login("5tate");
    store.login_insert(&new, at(0)).await.unwrap();

    let found = store.login_find("5tate").await.unwrap().unwrap();

    for shown in [format!("{found:?}"), format!("{new:?}")] {
        for hidden in ["5tate", "b1nd1ng", "s=1", "118, 101"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
    }
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
        created_at: at(0),
    };
    assert_eq!(found, expected);
    assert_eq!(store.login_find("5TATE").await.unwrap(), None);
    assert_eq!(store.logins_prune(at(600)).await.unwrap(), 0);
    assert_eq!(store.logins_prune(at(601)).await.unwrap(), 1);
    assert_eq!(store.login_find("5tate").await.unwrap(), None);
}

fn claim(code: &str, state: Option<&str>, claimer: &str) -> NewCallback {
    NewCallback {
        id: code.to_owned(),
        state_hash: state.map(str::to_owned),
        claimer: claimer.to_owned(),
    }
}

async fn claimed(store: &Store, new: &NewCallback) -> &'static str {
    match store.callback_claim(new, at(0)).await.unwrap() {
        Claim::PlainGrant => "granted",
        Claim::Taken(_) => "taken",
        Claim::StateUsed => "state used",
    }
}

pub(crate) async fn code_is_claimed_once_and_so_is_a_state(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let mut racers = JoinSet::new();
    for racer in 0..16 {
        let store = database.store();
        let claim = claim("c0de", Some("5tate"), &format!("claimer-{racer}"));
        racers.spawn(async move { claimed(&store, &claim).await });
    }
    let mut won = racers.join_all().await;
    won.sort_unstable();
    assert_eq!(won.iter().filter(|said| **said == "granted").count(), 1);
    assert_eq!(won.iter().filter(|said| **said == "taken").count(), 15);

    let store = database.store();
    for (code, state, claimer, expected) in [
        ("other", Some("5tate"), "b", "state used"),
        ("c0de", Some("other"), "b", "taken"),
        ("c0de", None, "b", "taken"),
        // Any number of codes come without a state of ours.
        ("c0de 2", None, "b", "granted"),
        ("c0de 3", None, "c", "granted"),
        // Its answer was lost: it is asked again.
        ("c0de 3", None, "c", "granted"),
    ] {
        let claim = claim(code, state, claimer);
        assert_eq!(claimed(&store, &claim).await, expected, "{code} {state:?}");
    }
}

pub(crate) async fn claim_is_finished_by_its_claimer_once(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let (own, other) = (claim("c0de", None, "a"), claim("c0de", None, "b"));
    assert_eq!(claimed(&store, &own).await, "granted");
    let find = async || store.callback_find("c0de").await.unwrap().unwrap();

    assert!(store.callback_heartbeat(&own).await.unwrap());
    assert!(!store.callback_heartbeat(&other).await.unwrap());
    assert_eq!(
        (find().await.heartbeats, find().await.finished_at),
        (1, None)
    );
    let finish = async |claim, result, secs| {
        let result = sealed(result);
        let finished = store.callback_finish(claim, &result, at(secs));
        finished.await.unwrap()
    };
    assert!(!finish(&other, "other", 1).await);
    assert!(finish(&own, "result", 2).await);
    assert!(!finish(&own, "again", 3).await);
    assert!(!store.callback_heartbeat(&own).await.unwrap());

    let found = find().await;
    assert_eq!((found.tokens_stored, found.heartbeats), (false, 1));
    assert_eq!(found.result, Some(sealed("result")));
    assert_eq!((found.claimed_at, found.finished_at), (at(0), Some(at(2))));
    let shown = format!("{found:?} {own:?}");
    assert!(!shown.contains("c0de"), "{shown}");
}

/// Whatever the browser was told: a code whose tokens are stored must not be exchanged again.
pub(crate) async fn callbacks_whose_tokens_are_not_stored_are_pruned_first(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    for (code, is_stored, is_finished) in [
        ("connected", true, true),
        ("killed after the commit", true, false),
        ("failed", false, true),
        ("died", false, false),
    ] {
        let claim = claim(code, None, "a");
        assert_eq!(claimed(&store, &claim).await, "granted");
        if is_stored {
            let placed = PlacedConsent {
                id: &ConnectionId::generate(),
                row: PlacedRow::New(&app()),
                consent: &consent(code, "jane"),
                removes: None,
                defaults: &[],
                callback: Some(code),
            };
            assert!(store.consent_place(&placed, at(1)).await.unwrap());
        }
        if is_finished {
            let result = sealed("result");
            let finished = store.callback_finish(&claim, &result, at(1));
            assert!(finished.await.unwrap());
        }
    }
    let long_ago = at(-86_400);

    assert_eq!(store.callbacks_prune(at(0), long_ago).await.unwrap(), 0);
    assert_eq!(store.callbacks_prune(at(1), long_ago).await.unwrap(), 2);
    for code in ["connected", "killed after the commit"] {
        let kept = store.callback_find(code).await.unwrap().unwrap();
        assert_eq!((kept.tokens_stored, kept.result), (true, None), "{code}");
    }
    assert_eq!(store.callbacks_prune(at(1), at(1)).await.unwrap(), 2);
}
