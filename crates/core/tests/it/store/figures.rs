use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::granted::Consent;
use pipekeeper_core::store::{Backend, IdleDeadlines, NewConnection, Revocation, Store};
use pipekeeper_testing::TestDatabase;

use super::{app, at, commit, consent, insert, other_app};

const DAY: i64 = 86_400;

async fn refuse(store: &Store, id: &ConnectionId, in_doubt: bool, secs: i64) {
    let refused = store.connection_reauth_required(id, 1, in_doubt, None, at(secs));
    assert!(refused.await.unwrap());
}

/// Revived, revoked and other apps' rows are none of them.
pub(crate) async fn rejections_are_counted_per_app_and_time(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let mut ids = Vec::new();
    for owner in ["a", "b", "c", "d", "e", "f"] {
        ids.push(insert(&store, consent("acme", owner)).await);
    }
    let elsewhere = NewConnection {
        id: ConnectionId::generate(),
        app: other_app(),
        consent: consent("acme", "a"),
    };
    store.connection_insert(&elsewhere, at(0)).await.unwrap();
    refuse(&store, &elsewhere.id, false, 30).await;
    refuse(&store, &ids[0], false, 9).await;
    refuse(&store, &ids[1], false, 10).await;
    refuse(&store, &ids[2], true, 20).await;
    refuse(&store, &ids[3], false, 20).await;
    refuse(&store, &ids[4], false, 20).await;
    let revived = store.connection_commit(&ids[3], 1, &commit(), at(21)).await;
    assert!(revived.unwrap());
    let ended = store.connection_revoke(&ids[4], 1, "uninstalled", Revocation::Known, at(21));
    assert!(ended.await.unwrap());

    let since = async |secs, reason| {
        let counted = store.rejections_since(&app(), reason, at(secs)).await;
        counted.unwrap()
    };
    assert_eq!(since(0, "rejected").await, 2);
    assert_eq!(since(10, "rejected").await, 1);
    assert_eq!(since(11, "rejected").await, 0);
    assert_eq!(since(20, "answer_lost").await, 1);
    assert_eq!(since(21, "answer_lost").await, 0);
    assert_eq!(store.connections_active(&app()).await.unwrap(), 2);
    assert_eq!(store.connections_active(&other_app()).await.unwrap(), 0);
}

pub(crate) async fn deadlines_are_counted_by_day_week_and_month(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let none = IdleDeadlines {
        within_day: 0,
        within_week: 0,
        within_month: 0,
        oldest_refresh: None,
    };
    assert_eq!(store.idle_deadlines(at(0)).await.unwrap(), none);
    let mut ids = Vec::new();
    for (index, deadline) in [
        None,
        Some(-1),
        Some(DAY),
        Some(DAY + 1),
        Some(7 * DAY),
        Some(30 * DAY),
        Some(30 * DAY + 1),
    ]
    .into_iter()
    .enumerate()
    {
        let given = Consent {
            idle_deadline: deadline.map(at),
            authorized_at: at(-i64::try_from(index).unwrap()),
            ..consent("acme", &format!("u{index}"))
        };
        ids.push(insert(&store, given).await);
    }

    let figures = IdleDeadlines {
        within_day: 2,
        within_week: 4,
        within_month: 5,
        oldest_refresh: Some(at(-1)),
    };
    assert_eq!(store.idle_deadlines(at(0)).await.unwrap(), figures);

    refuse(&store, &ids[1], false, 1).await;
    let refreshed = store
        .connection_commit(
            &ids[2],
            1,
            &super::Commit {
                idle_deadline: Some(at(1)),
                ..commit()
            },
            at(60),
        )
        .await;
    assert!(refreshed.unwrap());
    let figures = IdleDeadlines {
        within_day: 1,
        within_week: 3,
        within_month: 4,
        oldest_refresh: Some(at(60)),
    };
    assert_eq!(store.idle_deadlines(at(0)).await.unwrap(), figures);
}
