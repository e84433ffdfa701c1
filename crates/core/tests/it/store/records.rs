use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::store::{Backend, PageMark, RefreshLogEntry};
use pipekeeper_testing::TestDatabase;

use super::at;

pub(crate) async fn refresh_log_is_read_newest_first_and_trimmed_by_age(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = ConnectionId::generate();
    let entry = |secs| RefreshLogEntry {
        connection_id: id.clone(),
        started_at: at(secs),
        trigger: "webhook".to_owned(),
        outcome: "refreshed".to_owned(),
        generation_before: secs,
        generation_after: (secs > 1).then_some(secs + 1),
        duration_ms: 120,
        error: (secs == 1).then(|| "timeout".to_owned()),
    };
    let last = [2, 1, 3].map(entry);
    store.refresh_log_insert(&last).await.unwrap();

    let last = store.refresh_log_for(&id, 2).await.unwrap();
    assert_eq!(last, [entry(3), entry(2)]);

    assert_eq!(store.refresh_log_trim(at(3)).await.unwrap(), 2);
    assert_eq!(store.refresh_log_for(&id, 9).await.unwrap(), [entry(3)]);
}

/// Of one instant, and more than fit into one statement.
pub(crate) async fn refresh_log_keeps_the_order_it_was_given(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = ConnectionId::generate();
    let entries: Vec<RefreshLogEntry> = (0..2500)
        .map(|generation| RefreshLogEntry {
            connection_id: id.clone(),
            started_at: at(0),
            trigger: "sweep".to_owned(),
            outcome: "unknown".to_owned(),
            generation_before: generation,
            generation_after: None,
            duration_ms: 100,
            error: Some("timeout".to_owned()),
        })
        .collect();

    store.refresh_log_insert(&[]).await.unwrap();
    store.refresh_log_insert(&entries).await.unwrap();

    let mut read = store.refresh_log_for(&id, 9999).await.unwrap();
    read.reverse();
    assert_eq!(read, entries);
}

fn mark(id: &ConnectionId, start: i64, last_id: i64) -> PageMark {
    PageMark {
        connection_id: id.clone(),
        listing: "deals/0123".to_owned(),
        start,
        cursor: format!("cursor-{last_id}"),
        last_id,
        expires_at: at(100),
    }
}

pub(crate) async fn of_two_page_marks_the_earlier_record_stays(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = ConnectionId::generate();

    for (start, last_id) in [(100, 7), (100, 5), (100, 9), (200, 20)] {
        store
            .page_mark_put(&mark(&id, start, last_id), at(0))
            .await
            .unwrap();
    }

    let nearest = async |start| {
        let found = store
            .page_mark_nearest(&id, "deals/0123", start, at(1))
            .await;
        found.unwrap()
    };
    assert_eq!(nearest(199).await, Some(mark(&id, 100, 5)));
    assert_eq!(nearest(200).await, Some(mark(&id, 200, 20)));
    assert_eq!(nearest(99).await, None);
}

pub(crate) async fn ended_page_marks_are_as_good_as_gone(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let id = ConnectionId::generate();
    store
        .page_mark_put(&mark(&id, 100, 5), at(0))
        .await
        .unwrap();

    let found = store
        .page_mark_nearest(&id, "deals/0123", 100, at(100))
        .await;
    assert_eq!(found.unwrap(), None);
    let later = PageMark {
        expires_at: at(300),
        ..mark(&id, 100, 9)
    };
    store.page_mark_put(&later, at(100)).await.unwrap();
    let found = store
        .page_mark_nearest(&id, "deals/0123", 100, at(101))
        .await;
    assert_eq!(found.unwrap(), Some(later));

    assert_eq!(store.page_marks_prune(at(300)).await.unwrap(), 0);
    assert_eq!(store.page_marks_prune(at(301)).await.unwrap(), 1);
}
