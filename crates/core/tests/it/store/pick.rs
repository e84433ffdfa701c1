use pipekeeper_core::connection::{ConnectionId, ConnectionState};
use pipekeeper_core::store::{
    AppKey, Backend, Consent, NewConnection, Pick, Revocation, Selection, Selector, Store,
};
use pipekeeper_core::test_util::TestDatabase;

use super::{app, at, consent, insert, name};

/// Account, owner, when it was consented to.
type Row = (&'static str, &'static str, i64);

const LOGIN: Row = ("acme", "jane", 10);
const LOGIN_TOO: Row = ("acme", "joe", 20);
/// Its account sorts after all that begin with `~`.
const FAR_LOGIN: Row = ("\u{e9}cole", "jane", 30);
const INSTALL: Row = ("~pipedrive:1", "~pipedrive:11", 40);
const LATER_INSTALL: Row = ("~pipedrive:1", "~pipedrive:12", 60);
const OTHER_INSTALL: Row = ("~pipedrive:2", "~pipedrive:21", 50);

async fn picked(store: &Store, app: &AppKey, selector: &Selector, selection: Selection) -> String {
    match store
        .connections_pick(app, selector, selection)
        .await
        .unwrap()
    {
        Pick::None => "none".to_owned(),
        Pick::One(row) => format!("{} {}", row.account_id, row.owner),
        Pick::Ambiguous => "ambiguous".to_owned(),
    }
}

pub(crate) async fn pick_follows_its_rules(backend: Backend) {
    use Selection::{Latest, Strict};
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let account = |text| Selector::Account(name(text));
    let keeper = |account, owner| Selector::Keeper {
        account_id: name(account),
        owner: name(owner),
    };
    let installs = [INSTALL, LATER_INSTALL, OTHER_INSTALL];
    let cases = [
        (&[][..], Selector::App, Latest, "none"),
        (&[LOGIN], Selector::App, Strict, "acme jane"),
        (
            &[INSTALL],
            Selector::App,
            Strict,
            "~pipedrive:1 ~pipedrive:11",
        ),
        (&[LOGIN, LOGIN_TOO], Selector::App, Latest, "ambiguous"),
        (&[LOGIN, INSTALL], Selector::App, Latest, "ambiguous"),
        (&[FAR_LOGIN, INSTALL], Selector::App, Latest, "ambiguous"),
        (
            &installs,
            Selector::App,
            Latest,
            "~pipedrive:1 ~pipedrive:12",
        ),
        (&installs, Selector::App, Strict, "ambiguous"),
        (&[LOGIN, INSTALL], account("acme"), Strict, "acme jane"),
        (&[LOGIN, LOGIN_TOO], account("acme"), Latest, "ambiguous"),
        (&[LOGIN], account("acm"), Latest, "none"),
        (
            &installs,
            account("~pipedrive:1"),
            Latest,
            "~pipedrive:1 ~pipedrive:12",
        ),
        (&installs, account("~pipedrive:1"), Strict, "ambiguous"),
        (
            &installs,
            account("~pipedrive:2"),
            Strict,
            "~pipedrive:2 ~pipedrive:21",
        ),
        (
            &[LOGIN, LOGIN_TOO],
            keeper("acme", "joe"),
            Strict,
            "acme joe",
        ),
        (&[LOGIN, LOGIN_TOO], keeper("acme", "jo"), Strict, "none"),
    ];
    for (case, (rows, selector, selection, expected)) in cases.into_iter().enumerate() {
        let app = AppKey {
            app_id: format!("app {case}"),
            ..app()
        };
        for (account, owner, authorized) in rows {
            let new = NewConnection {
                id: ConnectionId::generate(),
                app: app.clone(),
                consent: Consent {
                    authorized_at: at(*authorized),
                    ..consent(account, owner)
                },
            };
            store.connection_insert(&new, at(0)).await.unwrap();
        }
        let got = picked(&store, &app, &selector, selection).await;
        assert_eq!(got, expected, "{rows:?} {selector:?} {selection:?}");
    }
}

pub(crate) async fn pick_says_why_nothing_is_active(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let mut ids = Vec::new();
    for (owner, authorized) in [("jane", 30), ("joe", 20), ("jim", 10)] {
        let given = Consent {
            authorized_at: at(authorized),
            ..consent("acme", owner)
        };
        ids.push(insert(&store, given).await);
    }
    let pick = async || match store
        .connections_pick(&app(), &Selector::App, Selection::Strict)
        .await
    {
        Ok(Pick::One(row)) => (row.owner.to_string(), row.state),
        other => unreachable!("{other:?}"),
    };

    store
        .connection_revoke(&ids[0], 1, "gone", Revocation::Known, at(99))
        .await
        .unwrap();
    store
        .connection_reauth_required(&ids[1], 1, false, None, at(99))
        .await
        .unwrap();
    assert_eq!(pick().await, ("jim".to_owned(), ConnectionState::Active));

    store
        .connection_reauth_required(&ids[2], 1, false, None, at(99))
        .await
        .unwrap();
    assert_eq!(pick().await, ("jane".to_owned(), ConnectionState::Revoked));

    let by_keeper = Selector::Keeper {
        account_id: name("acme"),
        owner: name("joe"),
    };
    let found = store
        .connections_pick(&app(), &by_keeper, Selection::Latest)
        .await
        .unwrap();
    assert!(matches!(found, Pick::One(row) if row.state == ConnectionState::ReauthRequired));
}
