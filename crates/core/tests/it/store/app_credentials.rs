use pipekeeper_core::store::Backend;
use pipekeeper_testing::TestDatabase;
use tokio::task::JoinSet;

use super::{app, at, other_app};

pub(crate) async fn a_change_of_credentials_is_told_once(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    let store = database.store();
    let changed = async |app, fingerprint, secs| {
        let changed = store.app_credentials_note(&app, fingerprint, at(secs));
        changed.await.unwrap()
    };

    assert_eq!(store.app_credentials(&app()).await.unwrap(), None);
    assert!(!changed(app(), "one", 1).await, "first seen");
    let noted = store.app_credentials(&app()).await.unwrap();
    assert_eq!(noted.as_deref(), Some("one"));
    assert!(!changed(app(), "one", 2).await);
    assert!(!changed(other_app(), "two", 2).await, "another app");
    assert!(changed(app(), "two", 3).await);
    assert!(!changed(app(), "two", 4).await);
    assert!(!changed(other_app(), "two", 4).await);
    assert!(changed(app(), "one", 5).await, "and back");
}

/// As when several processes start at once, with the table empty or with other credentials than before.
pub(crate) async fn of_several_processes_one_hears_of_new_credentials(backend: Backend) {
    let database = TestDatabase::migrated(backend).await;
    for (fingerprint, hear) in [("one", 0), ("two", 1)] {
        let mut processes = JoinSet::new();
        for _ in 0..8 {
            let store = database.store();
            processes.spawn(async move {
                let app = app();
                let changed = store.app_credentials_note(&app, fingerprint, at(1));
                changed.await.unwrap()
            });
        }
        let heard = processes.join_all().await;
        assert_eq!(heard.iter().filter(|heard| **heard).count(), hear);
    }
}
