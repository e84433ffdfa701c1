use std::collections::BTreeSet;

use pipekeeper_core::connection::{AppKey, ConnectionId, ConnectionState};
use pipekeeper_core::granted::Consent;
use pipekeeper_core::store::{Backend, Listing, NewConnection, Overview, Revocation, Store};
use pipekeeper_testing::TestDatabase;

use super::migrations::overview_columns;
use super::{app, at, consent, insert, name, other_app};

/// Of the one app: who they are, and when they consented.
const ROWS: [(&str, &str, i64); 7] = [
    ("acme", "joe", 40),
    ("acme", "Joe", 10),
    ("zenith", "jane", 20),
    ("acme", "\u{e9}mile", 20),
    ("~pipedrive:1", "~pipedrive:11", 20),
    ("acm", "jane", 50),
    ("acme", "jane", 30),
];

struct Listed {
    database: TestDatabase,
    store: Store,
    ids: Vec<ConnectionId>,
}

impl Listed {
    async fn with_rows(backend: Backend) -> Self {
        let database = TestDatabase::migrated(backend).await;
        let store = database.store();
        let mut ids = Vec::new();
        for (account, owner, authorized) in ROWS {
            let given = Consent {
                authorized_at: at(authorized),
                ..consent(account, owner)
            };
            ids.push(insert(&store, given).await);
        }
        let new = NewConnection {
            id: ConnectionId::generate(),
            app: other_app(),
            consent: consent("acme", "jane"),
        };
        store.connection_insert(&new, at(0)).await.unwrap();
        store
            .connection_reauth_required(&ids[0], 1, false, None, at(99))
            .await
            .unwrap();
        Self {
            database,
            store,
            ids,
        }
    }

    /// Page by page, of at most so many each.
    async fn pages(&self, listing: &Listing, limit: u16) -> Vec<Overview> {
        let mut seen: Vec<Overview> = Vec::new();
        loop {
            let page = self
                .store
                .connections_page(listing, seen.last(), limit)
                .await
                .unwrap();
            assert!(page.rows.len() <= usize::from(limit));
            assert!(!page.more || !page.rows.is_empty());
            seen.extend(page.rows);
            if !page.more {
                return seen;
            }
        }
    }
}

fn of(account: Option<&str>, state: Option<ConnectionState>) -> Listing {
    Listing::Of {
        app: app(),
        account_id: account.map(name),
        state,
    }
}

fn keepers(rows: &[Overview]) -> Vec<String> {
    let account_and_owner = |row: &Overview| format!("{} {}", row.account_id, row.owner);
    rows.iter().map(account_and_owner).collect()
}

pub(crate) async fn every_row_is_listed_once_in_the_order_of_its_listing(backend: Backend) {
    use ConnectionState::{Active, ReauthRequired, Revoked};
    let listed = Listed::with_rows(backend).await;

    let all = listed.pages(&Listing::All, 3).await;
    assert_eq!(all.len(), ROWS.len() + 1);
    assert!(all.is_sorted_by_key(|row| row.id.clone()));

    let expected = [
        (
            of(None, None),
            &[
                "acm jane",
                "acme Joe",
                "acme jane",
                "acme joe",
                "acme \u{e9}mile",
                "zenith jane",
                "~pipedrive:1 ~pipedrive:11",
            ][..],
        ),
        (
            of(Some("acme"), None),
            &["acme Joe", "acme jane", "acme joe", "acme \u{e9}mile"],
        ),
        (
            of(None, Some(Active)),
            &[
                "acm jane",
                "acme jane",
                // Of one instant: the younger row first.
                "~pipedrive:1 ~pipedrive:11",
                "acme \u{e9}mile",
                "zenith jane",
                "acme Joe",
            ],
        ),
        (
            of(Some("acme"), Some(Active)),
            &["acme jane", "acme \u{e9}mile", "acme Joe"],
        ),
        (of(None, Some(ReauthRequired)), &["acme joe"]),
        (of(None, Some(Revoked)), &[]),
        (of(Some("stranger"), None), &[]),
    ];
    for (listing, expected) in expected {
        for limit in [1, 2, 100] {
            let rows = listed.pages(&listing, limit).await;
            assert_eq!(keepers(&rows), expected, "{listing:?} by {limit}");
        }
    }
    let unknown = Listing::Of {
        app: AppKey {
            app_id: "unknown".to_owned(),
            ..app()
        },
        account_id: None,
        state: None,
    };
    assert!(listed.pages(&unknown, 100).await.is_empty());
}

pub(crate) async fn listings_neither_skip_nor_repeat_what_stays_where_it_is(backend: Backend) {
    let listed = Listed::with_rows(backend).await;
    let store = &listed.store;
    for listing in [
        Listing::All,
        of(None, None),
        of(None, Some(ConnectionState::Active)),
    ] {
        let whole = listed.pages(&listing, 100).await;
        let first = store.connections_page(&listing, None, 3).await.unwrap();
        let last = first.rows.last().unwrap();

        // The last one that was seen ends, which takes it out of its state's list but not out of its place.
        store
            .connection_revoke(&last.id, 1, "gone", Revocation::Pending, at(100))
            .await
            .unwrap();
        let last_now = store.connection_overview(&last.id).await.unwrap().unwrap();
        let page = store.connections_page(&listing, Some(&last_now), 100).await;

        let rest = page.unwrap().rows;
        assert_eq!(keepers(&rest), keepers(&whole[3..]), "{listing:?}");
    }
}

/// In what is printed for programs, too.
pub(crate) async fn an_overview_has_the_columns_of_the_view(backend: Backend) {
    let listed = Listed::with_rows(backend).await;
    let columns: BTreeSet<String> = overview_columns(&listed.database).into_iter().collect();

    let found = listed.store.connection_overview(&listed.ids[0]).await;

    let row = found.unwrap().unwrap();
    let serde_json::Value::Object(fields) = serde_json::to_value(&row).unwrap() else {
        unreachable!("a struct is an object")
    };
    let fields: BTreeSet<String> = fields.keys().cloned().collect();
    assert_eq!(fields, columns);
    assert_eq!(row.state, ConnectionState::ReauthRequired);
    assert_eq!(row.account_id, name("acme"));
    let unknown = ConnectionId::generate();
    let found = listed.store.connection_overview(&unknown).await.unwrap();
    assert_eq!(found, None);
}
