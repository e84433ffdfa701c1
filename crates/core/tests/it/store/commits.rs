use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::connection::ConnectionState::Active;
use pipekeeper_core::crypto::Keyring;
use pipekeeper_core::granted::PlainGrant;
use pipekeeper_core::oauth::{ID_MAX_BYTES, Identity};
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, NewConnection, Revocation};
use pipekeeper_core::vault::Vault;
use pipekeeper_testing::TestDatabase;

use super::{at, commit, consent, failure, get, insert, sealed};

pub(crate) async fn stale_generation_cannot_commit(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;

    assert!(
        store
            .connection_commit(&id, 1, &commit(), at(60))
            .await
            .unwrap()
    );
    let stale = super::Commit {
        access_token: sealed("stale"),
        ..commit()
    };
    assert!(
        !store
            .connection_commit(&id, 1, &stale, at(61))
            .await
            .unwrap()
    );

    let row = get(&store, &id).await;
    assert_eq!(row.generation, 2);
    assert_eq!(row.access_token, sealed("access-2"));
}

pub(crate) async fn commit_clears_what_went_before(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, Active, "a").await.unwrap());
    assert!(
        store
            .connection_spend_failed(&id, "a", &failure(true), at(1))
            .await
            .unwrap()
    );
    assert!(
        store
            .connection_reauth_required(&id, 1, true, Some("x"), at(2))
            .await
            .unwrap()
    );
    assert_eq!(get(&store, &id).await.state_since, at(2));

    assert!(
        store
            .connection_commit(&id, 1, &commit(), at(60))
            .await
            .unwrap()
    );

    let row = get(&store, &id).await;
    assert_eq!(row.state, Active);
    assert_eq!(row.state_since, at(60));
    assert_eq!(
        (row.state_reason, row.last_error, row.retry_at),
        (None, None, None)
    );
    assert_eq!((row.failures, row.early_renewals), (0, 2));
    assert_eq!((row.refreshed_at, row.due_at), (Some(at(60)), at(6000)));

    assert!(
        store
            .connection_commit(&id, 2, &commit(), at(90))
            .await
            .unwrap()
    );
    assert_eq!(
        get(&store, &id).await.state_since,
        at(60),
        "it was active before"
    );
}

pub(crate) async fn commit_never_revives_a_revoked_row(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, Active, "a").await.unwrap());
    let pending = Revocation::Pending;
    assert!(
        store
            .connection_revoke(&id, 1, "disconnected", pending, at(1))
            .await
            .unwrap()
    );
    let revoked = get(&store, &id).await;
    assert_eq!(
        (revoked.generation, revoked.lease_owner.as_deref()),
        (2, Some("a"))
    );

    assert!(
        !store
            .connection_commit(&id, 1, &commit(), at(60))
            .await
            .unwrap()
    );
    assert!(
        !store
            .connection_commit(&id, 2, &commit(), at(60))
            .await
            .unwrap()
    );

    assert_eq!(get(&store, &id).await, revoked);
    assert!(
        !store
            .connection_revoke(&id, 1, "again", pending, at(2))
            .await
            .unwrap()
    );
}

/// `PostgreSQL` has no U+0000, `MySQL`'s TEXT 65 535 bytes.
pub(crate) async fn text_that_a_database_does_not_hold_is_refused_for_good(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    let before = get(&store, &id).await;
    let odd = super::Commit {
        scope: Some(format!("base\0{}", "x".repeat(70_000))),
        ..commit()
    };

    let refused = store.connection_commit(&id, 1, &odd, at(60)).await;

    if backend == Backend::Sqlite {
        assert!(refused.unwrap());
        return;
    }
    let error = refused.unwrap_err();
    assert!(!error.is_unavailable(), "{error:?}");
    assert_eq!(get(&store, &id).await, before);
    let without = super::Commit {
        scope: None,
        api_domain: None,
        ..commit()
    };
    let committed = store.connection_commit(&id, 1, &without, at(60)).await;
    assert!(committed.unwrap());
    let row = get(&store, &id).await;
    assert_eq!((row.generation, row.scope), (2, before.scope));
    assert_eq!(row.api_domain, before.api_domain);
}

/// A provider's text for people must not cost the consent.
pub(crate) async fn texts_of_a_provider_are_made_to_fit(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let long = format!("a\0b\u{85}\nc{}", "🌞".repeat(70_000));
    let longest_id = "7".repeat(ID_MAX_BYTES);
    let identity = Identity {
        company_id: longest_id.clone(),
        company_domain: long.clone(),
        company_name: long.clone(),
        user_id: longest_id.clone(),
        user_name: long.clone(),
    };
    let app = crate::oauth::app(&[]);
    let token = Secret::from("token");
    let granted = PlainGrant {
        identity: &identity,
        access_token: &token,
        refresh_token: &token,
        api_domain: &app.provider.api_domain("https://127.0.0.1").unwrap(),
        scope: &long,
        expires_at: at(3600),
        authorized_at: at(0),
        last_used_at: None,
    };
    let vault = Vault::new(Keyring::parse(&Keyring::generate("k1")).unwrap());
    let id = ConnectionId::generate();
    let account_and_owner = ("acme".parse().unwrap(), "jane".parse().unwrap());
    let new = NewConnection {
        app: app.app_key(),
        consent: granted.sealed(&vault, &app, &id, account_and_owner),
        id: id.clone(),
    };

    store.connection_insert(&new, at(0)).await.unwrap();

    let row = get(&store, &id).await;
    for text in [
        &row.company_name,
        &row.company_domain,
        &row.user_name,
        &row.scope,
    ] {
        assert!(text.starts_with("ab c🌞"), "{text:.20}");
        assert_eq!(text.chars().count(), 16_383);
    }
    assert_eq!((&row.company_id, &row.user_id), (&longest_id, &longest_id));
}

pub(crate) async fn held_row_keeps_everybody_waiting_and_its_lease(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = insert(&store, consent("acme", "jane")).await;
    assert!(store.lease_acquire(&id, 1, Active, "a").await.unwrap());

    for (generation, held) in [(2, false), (1, true)] {
        let hold = failure(true);
        let done = store.connection_hold(&id, generation, &hold, at(1)).await;
        assert_eq!(done.unwrap(), held);
    }

    let row = get(&store, &id).await;
    assert_eq!((row.retry_at, row.due_at), (Some(at(30)), at(31)));
    assert_eq!((row.in_doubt, row.failures), (true, 0));
    assert_eq!(row.lease_owner.as_deref(), Some("a"));
    let known = Revocation::Known;
    let ended = store.connection_revoke(&id, 1, "uninstalled", known, at(2));
    assert!(ended.await.unwrap());
    let held = store.connection_hold(&id, 2, &failure(true), at(3)).await;
    assert!(!held.unwrap());
}
