//! Each query on the sweep's and the webhook's path goes by its index, however many rows there are.
//!
//! The store logs what it sends, and that very text is explained: there is no second copy of a query that could differ.

use pipekeeper_core::connection::ConnectionState::{Active, ReauthRequired};
use pipekeeper_core::connection::{AppKey, ConnectionId};
use pipekeeper_core::store::{
    Backend, DueFor, Listing, RefreshLogEntry, Revocation, Selector, SpendFailure, Store,
};
use pipekeeper_testing::{QueryLog, TestDatabase};

use self::plan::Plan;
use super::{app, at, commit, name, other_app};

mod plan;

/// Of each of two apps: enough for every planner to prefer an index to the table.
const ROWS: u32 = 10_000;

const BY_STATE: &[&str] = &[
    "connections_by_account",
    "connections_by_consent",
    "connections_by_state_since",
];

struct Explained {
    database: TestDatabase,
    store: Store,
    log: QueryLog,
}

impl Explained {
    async fn with_rows(backend: Backend) -> Self {
        let database = TestDatabase::migrated(backend).await;
        database.seed(0..ROWS, &app(), at(0));
        database.seed(ROWS..2 * ROWS, &other_app(), at(0));
        let defaults = "INSERT INTO default_connections \
             SELECT platform, app_id, account_id, id, company_id, user_id, 'login', authorized_at FROM connections \
             WHERE app_id = '57db0bab2932f657' UNION ALL \
             SELECT platform, app_id, '', id, company_id, user_id, 'login', authorized_at FROM connections \
             WHERE app_id = '57db0bab2932f657' AND account_id = 'account-777'";
        database.lines(defaults).unwrap();
        let (store, log) = database.logged_store();
        let attempts: Vec<_> = (0..3000).map(attempt).collect();
        store.refresh_log_insert(&attempts).await.unwrap();
        Self {
            database,
            store,
            log,
        }
    }

    /// Row `n` of the seed.
    async fn row(&self, n: u32) -> ConnectionId {
        let account = name(&format!("account-{n}"));
        let found = self
            .store
            .connection_find_by_owner(&app(), &account, &name("jane"))
            .await;
        let id = found.unwrap().unwrap().id;
        self.log.take();
        id
    }

    /// The plans of what was sent since the last time.
    #[track_caller]
    fn plans(&self) -> Vec<Plan> {
        let queries = self.log.take();
        assert!(!queries.is_empty());
        queries
            .iter()
            // Not what begins or ends a transaction.
            .filter(|query| query.contains(" -- binds: [") && !query.starts_with("INSERT"))
            .map(|query| Plan::of(&self.database, query))
            .collect()
    }

    /// Everything that was sent goes by one of these indexes.
    #[track_caller]
    fn goes_by(&self, indexes: &[&str]) {
        for plan in self.plans() {
            plan.goes_by(indexes);
        }
    }

    /// As [`Self::goes_by`], and reads no row.
    #[track_caller]
    fn is_in(&self, indexes: &[&str], bound: &str) {
        for plan in self.plans() {
            plan.goes_by(indexes);
            plan.is_bounded_by(bound);
            plan.reads_no_row();
        }
    }
}

fn attempt(n: i64) -> RefreshLogEntry {
    RefreshLogEntry {
        connection_id: format!("connection-{}", n % 100).parse().unwrap(),
        started_at: at(n),
        trigger: "sweep".to_owned(),
        outcome: "refreshed".to_owned(),
        generation_before: n,
        generation_after: Some(n + 1),
        duration_ms: 100,
        error: None,
    }
}

pub(crate) async fn every_hot_query_goes_by_its_index(backend: Backend) {
    let explained = Explained::with_rows(backend).await;
    if backend == Backend::Sqlite {
        // It has no statistics in operation.
        all_go_by_their_index(&explained).await;
    }

    explained.database.analyze();

    all_go_by_their_index(&explained).await;
}

async fn all_go_by_their_index(explained: &Explained) {
    lookups(explained).await;
    selections(explained).await;
    pages(explained).await;
    listings(explained).await;
    figures(explained).await;
    log(explained).await;
    writes(explained).await;
}

async fn lookups(explained: &Explained) {
    let id = explained.row(777).await;

    let found = explained.store.connection_find(&id).await.unwrap();
    explained.goes_by(&["PRIMARY"]);

    let row = found.unwrap();
    let found = explained
        .store
        .connection_find_by_grant(&app(), &row.company_id, &row.user_id)
        .await;
    assert!(found.unwrap().is_some());
    explained.goes_by(&["connections_grant"]);
}

async fn selections(explained: &Explained) {
    let select = async |app, selector| {
        let selected = explained.store.connection_select(&app, &selector).await;
        selected.unwrap();
    };
    let account_and_owner = Selector::Owner {
        account_id: name("account-777"),
        owner: name("jane"),
    };
    select(app(), account_and_owner).await;
    explained.goes_by(&["connections_keeper"]);

    // The first app has a default, and so have its accounts.
    select(app(), Selector::App).await;
    explained.goes_by(&["PRIMARY"]);
    select(app(), Selector::Account(name("account-777"))).await;
    explained.goes_by(&["PRIMARY"]);

    // active; revoked
    for account in ["account-10777", "account-10002"] {
        let account = Selector::Account(name(account));
        select(other_app(), account).await;
        // At most one row has the account_and_owner's account: its unique key is as good.
        explained.goes_by(&["PRIMARY", "connections_by_account", "connections_keeper"]);
    }
    let unknown = AppKey {
        app_id: "unknown".to_owned(),
        ..app()
    };
    for app in [other_app(), unknown] {
        select(app, Selector::App).await;
        explained.goes_by(&["PRIMARY", "connections_by_account"]);
    }
}

async fn pages(explained: &Explained) {
    for due_for in [DueFor::Refresh, DueFor::Recheck, DueFor::Revocation] {
        let page = async |after| {
            let page = explained
                .store
                .connections_due(due_for, at(0), after, 20)
                .await;
            let plan = explained.plans().remove(0);
            plan.goes_by(&["connections_due"]);
            plan.is_bounded_by("due_at");
            (page.unwrap(), plan)
        };
        let (first, _) = page(None).await;
        if let Some(last) = first.last() {
            let (_, plan) = page(Some((last.due_at, &last.id))).await;
            match explained.database.backend() {
                Backend::Sqlite => plan.is_bounded_by("due_at>"),
                Backend::Postgres => plan.is_bounded_by("due_at >="),
                // Doesn't say at which end.
                Backend::Mysql => {}
            }
        }
    }

    let late = explained.store.due_since(at(0)).await.unwrap();
    assert!(late.is_some());
    explained.is_in(&["connections_due"], "due_at");
}

async fn listings(explained: &Explained) {
    let of = |account_id, state| Listing::Of {
        app: app(),
        account_id,
        state,
    };
    let account = || Some(name("account-777"));
    for (listing, indexes, bound) in [
        (Listing::All, &["PRIMARY"][..], "id"),
        (of(None, None), &["connections_keeper"], "account_id"),
        (of(account(), None), &["connections_keeper"], "account_id"),
        (
            of(None, Some(Active)),
            &["connections_by_consent"],
            "authorized_at",
        ),
        (
            of(account(), Some(Active)),
            &["connections_by_account", "connections_keeper"],
            "account_id",
        ),
    ] {
        let page = async |after| {
            let store = &explained.store;
            store.connections_page(&listing, after, 20).await.unwrap()
        };

        let first = page(None).await;
        let from_the_start = explained.plans().remove(0);
        page(first.rows.last()).await;
        let from_there = explained.plans().remove(0);

        from_the_start.goes_by(indexes);
        from_there.goes_by(indexes);
        from_there.is_bounded_by(bound);
    }
}

async fn figures(explained: &Explained) {
    let Explained { store, .. } = explained;

    assert!(
        store
            .rejections_since(&app(), "rejected", at(-3600))
            .await
            .unwrap()
            > 0
    );
    // Of the few rows of a few minutes the reason is read.
    let plan = explained.plans().pop().unwrap();
    plan.goes_by(&["connections_by_state_since"]);
    plan.is_bounded_by("state_since");

    assert!(store.connections_active(&app()).await.unwrap() > 0);
    explained.is_in(BY_STATE, "state");

    assert!(store.idle_deadlines(at(0)).await.unwrap().within_day > 0);
    let mut plans = explained.plans();
    plans.pop().unwrap().goes_by(&["connections_idle"]);
    for plan in plans {
        plan.goes_by(&["connections_idle"]);
        plan.is_bounded_by("idle_deadline");
        plan.reads_no_row();
    }
}

async fn log(explained: &Explained) {
    let id = "connection-7".parse().unwrap();

    let last = explained.store.refresh_log_for(&id, 5).await.unwrap();
    assert_eq!(last.len(), 5);
    explained.goes_by(&["refresh_log_by_connection"]);

    explained.store.refresh_log_trim(at(20)).await.unwrap();
    explained.goes_by(&["refresh_log_started_at"]);
}

async fn writes(explained: &Explained) {
    let id = explained.row(778).await;
    let store = &explained.store;
    let generation = store
        .connection_find(&id)
        .await
        .unwrap()
        .unwrap()
        .generation;
    let failure = SpendFailure {
        retry_at: at(30),
        last_error: "timeout".to_owned(),
        in_doubt: false,
        due_at: at(31),
    };
    let took_effect = [
        store.lease_acquire(&id, generation, Active, "a").await,
        store.lease_take_over(&id, "a", "b").await,
        store
            .connection_spend_failed(&id, "b", &failure, at(1))
            .await,
        store.lease_acquire(&id, generation, Active, "c").await,
        store.lease_release(&id, "c").await,
        store.connection_postpone(&id, generation, at(40)).await,
        store
            .connection_reauth_required(&id, generation, false, None, at(2))
            .await,
        store
            .lease_acquire(&id, generation, ReauthRequired, "d")
            .await,
        store.connection_still_refused(&id, "d", at(3)).await,
        store
            .connection_commit(&id, generation, &commit(), at(4))
            .await,
        store
            .connection_revoke(&id, generation + 1, "gone", Revocation::Pending, at(5))
            .await,
        store
            .connection_revocation_told(&id, generation + 2, None, at(6))
            .await,
        store
            .connection_reconnect(
                &id,
                generation + 2,
                &super::consent("account-778", "jane"),
                at(7),
            )
            .await,
    ];
    for took_effect in took_effect {
        assert!(took_effect.unwrap());
    }
    store.connection_touch(&id, at(8), at(41)).await.unwrap();
    explained.goes_by(&["PRIMARY"]);

    assert!(store.connections_recheck(&app(), at(9)).await.unwrap() > 0);
    explained.goes_by(BY_STATE);
}
