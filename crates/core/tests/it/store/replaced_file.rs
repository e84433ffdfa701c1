//! A `SQLite` file that is replaced, or taken away, while the store is open.

use std::fs;
use std::path::{Path, PathBuf};

use pipekeeper_core::connection::ConnectionId;
use pipekeeper_core::store::{Backend, Beat, Diagnosis, Store};
use pipekeeper_testing::{TestDatabase, WriteLock};

use super::{at, consent, get, insert};

/// A database with a row, a backup of it, and a further row that the backup lacks.
struct Replaced {
    database: TestDatabase,
    store: Store,
    path: PathBuf,
    first: ConnectionId,
    second: ConnectionId,
}

impl Replaced {
    async fn new() -> Self {
        let database = TestDatabase::migrated(Backend::Sqlite).await;
        let store = database.store();
        let first = insert(&store, consent("acme", "jane")).await;
        let url = database.url();
        let path = Path::new(url.expose().trim_start_matches("sqlite:")).to_owned();
        let backup = format!("VACUUM INTO '{}'", path.with_extension("backup").display());
        database.lines(&backup).unwrap();
        let second = insert(&store, consent("acme", "joe")).await;
        Self {
            database,
            store,
            path,
            first,
            second,
        }
    }

    /// What the file holds when it is opened now.
    fn rows(&self) -> Vec<String> {
        self.database
            .lines("SELECT id AS line FROM connections ORDER BY id")
            .unwrap()
    }

    /// Write-ahead logs of replaced files, none of them empty.
    fn logs_put_aside(&self) -> usize {
        let directory = fs::read_dir(self.path.parent().unwrap()).unwrap();
        let files = directory.map(Result::unwrap).filter(|file| {
            let name = file.file_name().into_string().unwrap();
            name.contains("-wal.replaced")
        });
        files
            .inspect(|file| assert!(file.metadata().unwrap().len() > 0))
            .count()
    }

    /// As a person does it; the old file stays under another name.
    fn put_backup_back(&self) {
        fs::hard_link(&self.path, self.path.with_extension("old")).unwrap();
        fs::rename(self.path.with_extension("backup"), &self.path).unwrap();
    }
}

#[tokio::test]
async fn a_replaced_file_is_opened_and_the_old_one_is_left_alone() {
    let replaced = Replaced::new().await;
    let Replaced {
        store,
        path,
        first,
        second,
        ..
    } = &replaced;
    // Several connections, so that the log of the old file is in use when the new one is opened.
    let (one, two) = tokio::join!(store.ping(), store.ping());
    one.and(two).unwrap();
    replaced.put_backup_back();
    let before = fs::read(path.with_extension("old")).unwrap();

    assert_eq!(store.connection_find(second).await.unwrap(), None);
    store.connection_touch(first, at(1), at(1)).await.unwrap();
    let third = insert(store, consent("acme", "jack")).await;

    assert_eq!(get(store, first).await.last_used_at, Some(at(1)));
    let mut expected = vec![first.to_string(), third.to_string()];
    expected.sort();
    assert_eq!(replaced.rows(), expected);
    let sound = "SELECT integrity_check AS line FROM pragma_integrity_check";
    assert_eq!(replaced.database.lines(sound).unwrap(), ["ok"]);
    assert!(before == fs::read(path.with_extension("old")).unwrap());
    // Nothing that was written before is destroyed.
    assert_eq!(replaced.logs_put_aside(), 1);

    // Nor by the next replacement: the name of a file that was put aside is not taken by another.
    let again = format!("VACUUM INTO '{}'", path.with_extension("again").display());
    replaced.database.lines(&again).unwrap();
    store.connection_touch(first, at(2), at(2)).await.unwrap();
    fs::rename(path.with_extension("again"), path).unwrap();
    store.connection_touch(first, at(3), at(3)).await.unwrap();
    assert_eq!(replaced.logs_put_aside(), 2);
    assert_eq!(replaced.database.lines(sound).unwrap(), ["ok"]);
}

#[tokio::test]
async fn a_replaced_file_is_another_database_to_the_heartbeat() {
    let replaced = Replaced::new().await;
    let mut heartbeat = replaced.store.heartbeat();
    for _ in 0..2 {
        assert_eq!(heartbeat.beat().await.unwrap(), Beat::Steady);
    }

    replaced.put_backup_back();

    assert_eq!(heartbeat.beat().await.unwrap(), Beat::Reconnected);
    assert_eq!(heartbeat.beat().await.unwrap(), Beat::Steady);
}

#[tokio::test]
async fn a_write_that_went_to_the_old_file_is_not_told_to_have_taken_effect() {
    let replaced = Replaced::new().await;
    let lock = WriteLock::take(&replaced.path).unwrap();
    let writing = replaced
        .store
        .connection_touch(&replaced.first, at(1), at(1));
    let replacing = async {
        // The write waits for the lock by now, or meets the new file from the start: either way it must not be lost silently.
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        replaced.put_backup_back();
        drop(lock);
    };

    let (written, ()) = tokio::join!(writing, replacing);

    let used = get(&replaced.store, &replaced.first).await.last_used_at;
    match written {
        Ok(()) => assert_eq!(used, Some(at(1))),
        Err(error) => assert!(error.is_unavailable() && used.is_none(), "{error:?}"),
    }
}

#[tokio::test]
async fn a_file_that_is_gone_is_missed_and_no_empty_one_takes_its_place() {
    let replaced = Replaced::new().await;
    let Replaced {
        store, path, first, ..
    } = &replaced;
    let elsewhere = path.with_extension("elsewhere");
    fs::rename(path, &elsewhere).unwrap();

    let error = store.connection_find(first).await.unwrap_err();

    assert!(error.is_unavailable());
    assert_eq!(error.diagnosis(), Some(Diagnosis::FileGone), "{error:?}");
    assert!(!path.exists());
    fs::rename(&elsewhere, path).unwrap();
    assert_eq!(get(store, first).await.id, *first);
    assert_eq!(get(store, &replaced.second).await.id, replaced.second);
}
