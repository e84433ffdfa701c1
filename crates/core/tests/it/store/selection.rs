use pipekeeper_core::connection::{AppKey, ConnectionId, ConnectionState};
use pipekeeper_core::granted::Consent;
use pipekeeper_core::placement::DefaultReason;
use pipekeeper_core::store::{
    Backend, NewConnection, NewDefault, PlacedConsent, PlacedRow, RemovedRow, Revocation,
    Selection, Selector, Store, StoreError,
};
use pipekeeper_testing::TestDatabase;

use super::{app, at, consent, get, insert, name, sealed};

/// Account, owner.
type Row = (&'static str, &'static str);

const LOGIN: Row = ("acme", "jane");
const LOGIN_TOO: Row = ("acme", "joe");
/// Its account sorts after all that begin with `~`.
const FAR_LOGIN: Row = ("\u{e9}cole", "jane");
const INSTALL: Row = ("~pipedrive:1", "~pipedrive:11");
const COLLEAGUE: Row = ("~pipedrive:1", "~pipedrive:12");
const STRANGER: Row = ("~pipedrive:666", "~pipedrive:1");

fn account(text: &str) -> Selector {
    Selector::Account(name(text))
}

fn said(selection: Selection) -> String {
    match selection {
        Selection::None => "none".to_owned(),
        Selection::One(row) => match row.state {
            ConnectionState::Active => format!("{} {}", row.account_id, row.owner),
            ended => format!("{} {} {}", row.account_id, row.owner, ended.as_str()),
        },
        Selection::Ambiguous => "ambiguous".to_owned(),
        Selection::DefaultGone => "default gone".to_owned(),
    }
}

async fn selected(store: &Store, app: &AppKey, selector: &Selector) -> String {
    said(store.connection_select(app, selector).await.unwrap())
}

fn default_of(app: &AppKey, account: Option<&str>) -> NewDefault {
    NewDefault {
        app: app.clone(),
        account: account.map(name),
        reason: DefaultReason::Operator,
    }
}

/// Which of the rows is the default of the app, and of its own account.
#[derive(Debug, Clone, Copy)]
enum Default {
    None,
    OfBoth(usize),
}

pub(crate) async fn who_names_no_account_gets_the_default_connection(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let account_and_owner = |account, owner| Selector::Owner {
        account_id: name(account),
        owner: name(owner),
    };
    let (none, first, second) = (Default::None, Default::OfBoth(0), Default::OfBoth(1));
    let cases: [(&[Row], Default, Selector, &str); 18] = [
        (&[], none, Selector::App, "none"),
        (
            &[INSTALL, STRANGER],
            first,
            Selector::App,
            "~pipedrive:1 ~pipedrive:11",
        ),
        (
            &[STRANGER, INSTALL],
            second,
            Selector::App,
            "~pipedrive:1 ~pipedrive:11",
        ),
        (
            &[LOGIN, LOGIN_TOO, FAR_LOGIN],
            second,
            Selector::App,
            "acme joe",
        ),
        (&[LOGIN, STRANGER], first, Selector::App, "acme jane"),
        (
            &[INSTALL, COLLEAGUE],
            first,
            account("~pipedrive:1"),
            "~pipedrive:1 ~pipedrive:11",
        ),
        (&[LOGIN, LOGIN_TOO], second, account("acme"), "acme joe"),
        // Without one it is the only one; installs without an authenticated caller neither count nor are served.
        (&[LOGIN], none, Selector::App, "acme jane"),
        (&[LOGIN, STRANGER], none, Selector::App, "acme jane"),
        (
            &[FAR_LOGIN, STRANGER],
            none,
            Selector::App,
            "\u{e9}cole jane",
        ),
        (&[STRANGER], none, Selector::App, "none"),
        (&[LOGIN, LOGIN_TOO], none, Selector::App, "ambiguous"),
        (&[LOGIN, FAR_LOGIN], none, Selector::App, "ambiguous"),
        (&[LOGIN, FAR_LOGIN], none, account("acme"), "acme jane"),
        (&[LOGIN, LOGIN_TOO], none, account("acme"), "ambiguous"),
        (&[LOGIN], none, account("acm"), "none"),
        (
            &[LOGIN, LOGIN_TOO],
            none,
            account_and_owner("acme", "joe"),
            "acme joe",
        ),
        (
            &[LOGIN, LOGIN_TOO],
            first,
            account_and_owner("acme", "jo"),
            "none",
        ),
    ];
    for (case, (rows, default, selector, expected)) in cases.into_iter().enumerate() {
        let app = AppKey {
            app_id: format!("app {case}"),
            ..app()
        };
        for (place, (account, owner)) in rows.iter().enumerate() {
            let new = NewConnection {
                id: ConnectionId::generate(),
                app: app.clone(),
                consent: consent(account, owner),
            };
            store.connection_insert(&new, at(0)).await.unwrap();
            if matches!(default, Default::OfBoth(row) if row == place) {
                let row = get(&store, &new.id).await;
                for of in [None, Some(*account)] {
                    let new = default_of(&app, of);
                    store
                        .default_connection_set(&row, &new, at(0))
                        .await
                        .unwrap();
                }
            }
        }
        let got = selected(&store, &app, &selector).await;
        assert_eq!(got, expected, "{rows:?} {default:?} {selector:?}");
    }
}

pub(crate) async fn no_connection_takes_the_place_of_a_default_that_has_ended(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let first = insert(&store, consent(LOGIN.0, LOGIN.1)).await;
    insert(&store, consent(LOGIN_TOO.0, LOGIN_TOO.1)).await;
    let row = get(&store, &first).await;
    for account in [None, Some("acme")] {
        let new = default_of(&app(), account);
        store
            .default_connection_set(&row, &new, at(0))
            .await
            .unwrap();
    }
    let both = async || {
        [
            selected(&store, &app(), &Selector::App).await,
            selected(&store, &app(), &account("acme")).await,
        ]
    };

    let refused = store.connection_reauth_required(&first, 1, false, None, at(1));
    assert!(refused.await.unwrap());
    assert_eq!(both().await, ["acme jane reauth_required"; 2]);
    let known = Revocation::Known;
    let ended = store.connection_revoke(&first, 1, "uninstalled", known, at(2));
    assert!(ended.await.unwrap());
    assert_eq!(both().await, ["acme jane revoked"; 2]);

    // The same person's new consent, which is another account's by now.
    let moved = Consent {
        account_id: name("other"),
        company_id: row.company_id.clone(),
        ..consent("other", "jane")
    };
    assert!(
        store
            .connection_reconnect(&first, 2, &moved, at(3))
            .await
            .unwrap()
    );
    assert_eq!(both().await, ["other jane", "default gone"]);

    // Its account was connected to another company.
    let elsewhere = consent("acme", "jane");
    assert!(
        store
            .connection_reconnect(&first, 3, &elsewhere, at(4))
            .await
            .unwrap()
    );
    assert_eq!(both().await, ["default gone"; 2]);

    let ended = store.connection_revoke(&first, 4, "uninstalled", known, at(5));
    assert!(ended.await.unwrap());
    assert!(store.connection_forget(&first, 5).await.unwrap());
    assert_eq!(both().await, ["default gone"; 2]);
}

pub(crate) async fn without_a_default_the_only_one_says_why_nothing_is_active(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let (jane, joe) = (
        insert(&store, consent("acme", "jane")).await,
        insert(&store, consent("acme", "joe")).await,
    );
    insert(&store, consent(STRANGER.0, STRANGER.1)).await;
    let selected = async || selected(&store, &app(), &Selector::App).await;

    let known = Revocation::Known;
    let ended = store.connection_revoke(&jane, 1, "gone", known, at(1));
    assert!(ended.await.unwrap());
    assert_eq!(selected().await, "acme joe");
    let refused = store.connection_reauth_required(&joe, 1, false, None, at(2));
    assert!(refused.await.unwrap());
    assert_eq!(selected().await, "acme joe reauth_required");
    let ended = store.connection_revoke(&joe, 1, "gone", known, at(3));
    assert!(ended.await.unwrap());
    assert_eq!(selected().await, "ambiguous");
}

/// A consent's row and its defaults.
async fn place(
    store: &Store,
    id: &ConnectionId,
    row: PlacedRow<'_>,
    consent: &Consent,
    defaults: &[NewDefault],
) -> Result<bool, StoreError> {
    let placed = PlacedConsent {
        id,
        row,
        consent,
        removes: None,
        defaults,
        callback: None,
    };
    store.consent_place(&placed, at(0)).await
}

pub(crate) async fn consent_and_its_defaults_are_written_together_or_not_at_all(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let key = app();
    let (first, second) = (ConnectionId::generate(), ConnectionId::generate());
    let defaults = [default_of(&key, None), default_of(&key, Some("acme"))];
    let new = PlacedRow::New(&key);

    let placed = place(&store, &first, new, &consent("acme", "jane"), &defaults).await;
    assert!(placed.unwrap());
    let (default, row) = store.default_connection(&key, None).await.unwrap().unwrap();
    assert_eq!((&default.connection_id, default.set_at), (&first, at(0)));
    assert_eq!(row, Some(get(&store, &first).await));

    // Another process has set one since: the consent looks again.
    let lost = place(&store, &second, new, &consent("acme", "joe"), &defaults).await;
    assert!(matches!(lost, Err(StoreError::Duplicate)), "{lost:?}");
    assert_eq!(store.connection_find(&second).await.unwrap(), None);
    let stale = PlacedRow::Existing { generation: 7 };
    let lost = place(&store, &first, stale, &consent("acme", "jane"), &[]).await;
    assert!(!lost.unwrap());
    assert_eq!(get(&store, &first).await.generation, 1);

    // The operator's choice replaces it.
    assert!(
        place(&store, &second, new, &consent("acme", "joe"), &[])
            .await
            .unwrap()
    );
    let row = get(&store, &second).await;
    let chosen = &defaults[0];
    assert!(
        !store
            .default_connection_set_if_absent(&row, chosen, at(1))
            .await
            .unwrap()
    );
    store
        .default_connection_set(&row, chosen, at(2))
        .await
        .unwrap();
    assert_eq!(selected(&store, &key, &Selector::App).await, "acme joe");
    assert_eq!(selected(&store, &key, &account("acme")).await, "acme jane");
    let of: Vec<_> = store
        .defaults_of(&[&first, &second])
        .await
        .unwrap()
        .into_iter()
        .map(|default| (default.account_id, default.connection_id, default.reason))
        .collect();
    assert_eq!(
        of,
        [
            (String::new(), second, "operator".to_owned()),
            ("acme".to_owned(), first, "operator".to_owned()),
        ]
    );
}

pub(crate) async fn default_follows_the_person_whose_row_makes_room(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let key = app();
    let held = insert(&store, consent("other", "jane")).await;
    let held = get(&store, &held).await;
    let default = default_of(&key, None);
    store
        .default_connection_set(&held, &default, at(0))
        .await
        .unwrap();
    let known = Revocation::Known;
    let ended = store.connection_revoke(&held.id, held.generation, "uninstalled", known, at(1));
    assert!(ended.await.unwrap());
    let held = get(&store, &held.id).await;
    let own = insert(&store, consent("acme", "jane")).await;
    let again = Consent {
        company_id: held.company_id.clone(),
        refresh_token: sealed("refresh-9"),
        ..consent("acme", "jane")
    };
    let placed = |generation, removed_generation, default_follows| {
        let placed = PlacedConsent {
            id: &own,
            row: PlacedRow::Existing { generation },
            consent: &again,
            removes: Some(RemovedRow {
                id: &held.id,
                generation: removed_generation,
                default_follows,
            }),
            defaults: &[],
            callback: None,
        };
        let store = &store;
        async move { store.consent_place(&placed, at(2)).await.unwrap() }
    };

    // Either row has moved on: neither changes.
    assert!(!placed(7, held.generation, true).await);
    assert!(!placed(1, 7, true).await);
    assert_eq!(get(&store, &held.id).await, held);
    assert_eq!(
        selected(&store, &key, &Selector::App).await,
        "other jane revoked"
    );

    assert!(placed(1, held.generation, true).await);

    assert_eq!(store.connection_find(&held.id).await.unwrap(), None);
    assert_eq!(selected(&store, &key, &Selector::App).await, "acme jane");
    assert_eq!(get(&store, &own).await.refresh_token, sealed("refresh-9"));
}

/// What callers got who named no account, before there was a table of defaults.
async fn served_before(store: &Store, rows: &[(Row, i64, ConnectionState)], app: &AppKey) {
    for ((account, owner), authorized, state) in rows {
        let id = ConnectionId::generate();
        let new = NewConnection {
            id: id.clone(),
            app: app.clone(),
            consent: Consent {
                authorized_at: at(*authorized),
                ..consent(account, owner)
            },
        };
        store.connection_insert(&new, at(0)).await.unwrap();
        let changed = match state {
            ConnectionState::Active => continue,
            ConnectionState::ReauthRequired => {
                store
                    .connection_reauth_required(&id, 1, false, None, at(1))
                    .await
            }
            ConnectionState::Revoked => {
                let known = Revocation::Known;
                store.connection_revoke(&id, 1, "gone", known, at(1)).await
            }
        };
        assert!(changed.unwrap());
    }
}

/// What an import has begun with.
const IMPORTING: Row = ("~import", "5ha256");

/// Rows as the older schema had them, and the defaults that they become.
type Migrated = (
    &'static [(Row, i64, ConnectionState)],
    &'static [(Option<&'static str>, &'static str)],
);

pub(crate) async fn migration_keeps_what_callers_got(backend: Backend) {
    use ConnectionState::{Active, ReauthRequired, Revoked};
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    database.revert_from("0009");
    let cases: [Migrated; 9] = [
        (
            &[(LOGIN, 1, Active)],
            &[(None, "acme jane"), (Some("acme"), "acme jane")],
        ),
        (
            &[
                (INSTALL, 1, Active),
                (COLLEAGUE, 3, Active),
                (STRANGER, 2, Active),
            ],
            &[
                (None, "~pipedrive:1 ~pipedrive:12"),
                (Some("~pipedrive:1"), "~pipedrive:1 ~pipedrive:12"),
                (Some("~pipedrive:666"), "~pipedrive:666 ~pipedrive:1"),
            ],
        ),
        // One that ended later does not take the place of one that lives.
        (
            &[(INSTALL, 1, Active), (COLLEAGUE, 3, Revoked)],
            &[
                (None, "~pipedrive:1 ~pipedrive:11"),
                (Some("~pipedrive:1"), "~pipedrive:1 ~pipedrive:11"),
            ],
        ),
        // These were ambiguous.
        (
            &[(LOGIN, 1, Active), (STRANGER, 2, Active)],
            &[
                (None, NOT_SET),
                (Some("acme"), "acme jane"),
                (Some("~pipedrive:666"), "~pipedrive:666 ~pipedrive:1"),
            ],
        ),
        (
            &[(LOGIN, 1, Active), (LOGIN_TOO, 2, Active)],
            &[(None, NOT_SET), (Some("acme"), NOT_SET)],
        ),
        (
            &[(FAR_LOGIN, 1, Active), (INSTALL, 2, Active)],
            &[(None, NOT_SET), (Some("\u{e9}cole"), "\u{e9}cole jane")],
        ),
        // Nothing lives: callers heard why from the last one.
        (
            &[(LOGIN, 1, ReauthRequired), (LOGIN_TOO, 2, Revoked)],
            &[
                (None, "acme joe revoked"),
                (Some("acme"), "acme joe revoked"),
            ],
        ),
        (
            &[(LOGIN, 2, ReauthRequired), (LOGIN_TOO, 1, Revoked)],
            &[
                (None, "acme jane reauth_required"),
                (Some("acme"), "acme jane reauth_required"),
            ],
        ),
        (
            &[(INSTALL, 1, Active), (IMPORTING, 2, Active)],
            &[
                (None, "~pipedrive:1 ~pipedrive:11"),
                (Some("~import"), NOT_SET),
            ],
        ),
    ];
    let app_of = |case: usize| AppKey {
        app_id: format!("app {case}"),
        ..app()
    };
    for (case, (rows, _)) in cases.iter().enumerate() {
        served_before(&store, rows, &app_of(case)).await;
    }

    store.migrate().await.unwrap();

    for (case, (rows, expected)) in cases.iter().enumerate() {
        for (account, expected) in *expected {
            let account = account.map(name);
            let found = store
                .default_connection(&app_of(case), account.as_ref())
                .await;
            let got = match found.unwrap() {
                None => NOT_SET.to_owned(),
                Some((default, row)) => {
                    let row = row.unwrap();
                    assert_eq!(
                        (&default.company_id, &default.user_id),
                        (&row.company_id, &row.user_id)
                    );
                    assert_eq!(default.reason, "migration");
                    said(Selection::One(Box::new(row)))
                }
            };
            assert_eq!(got, *expected, "{rows:?} {account:?}");
        }
    }
}

const NOT_SET: &str = "not set";
