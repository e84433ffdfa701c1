use super::*;

#[tokio::test]
async fn a_recorded_answer_survives_a_power_cut() {
    let fixture = Fixture::new();
    let disk = FaultyDisk::default();
    let journal = fixture.journal_on(Arc::new(disk.clone()));
    fixture
        .record(&journal, 7, "token-1", b"one")
        .await
        .unwrap();
    disk.crash();
    drop(journal);
    assert_eq!(
        fixture
            .find(&fixture.journal(), 7, "token-1")
            .await
            .unwrap(),
        b"one"
    );
}

/// What the order fsync → commit rests on: a database that was told earlier would know of an answer that the journal has
/// forgotten.
#[tokio::test]
async fn nobody_is_told_of_an_answer_before_it_would_survive_a_power_cut() {
    let fixture = Fixture::new();
    let disk = FaultyDisk::default();
    let journal = fixture.journal_on(Arc::new(disk.clone()));
    disk.hold_syncs();
    let mut recording = Box::pin(fixture.record(&journal, 7, "token-1", b"one"));
    assert!(step(&mut recording).await.is_pending());

    // It is written, and not synced: everybody can read it, and a power cut takes it away.
    disk.wait_for_a_held_sync();
    let other = fixture.journal();
    assert_eq!(fixture.find(&other, 7, "token-1").await.unwrap(), b"one");
    assert!(step(&mut recording).await.is_pending());
    disk.crash();

    assert!(matches!(recording.await, Err(JournalError::Write(_))));
    drop((journal, other));
    assert_eq!(fixture.find(&fixture.journal(), 7, "token-1").await, None);
}

#[tokio::test]
async fn whatever_waits_for_the_disk_shares_its_next_sync() {
    let fixture = Fixture::new();
    let disk = FaultyDisk::default();
    let journal = fixture.journal_on(Arc::new(disk.clone()));
    disk.hold_syncs();
    let tokens: Vec<String> = (0..50).map(|number| format!("token-{number}")).collect();
    let mut recordings = Vec::new();
    for token in &tokens {
        let mut recording = Box::pin(fixture.record(&journal, 7, token, token.as_bytes()));
        assert!(step(&mut recording).await.is_pending());
        disk.wait_for_a_held_sync();
        recordings.push(recording);
    }

    disk.let_syncs_go();

    for recording in recordings {
        recording.await.unwrap();
    }
    assert_eq!(disk.syncs(), 2);
    disk.crash();
    drop(journal);
    let journal = fixture.journal();
    for token in &tokens {
        let found = fixture.find(&journal, 7, token).await.unwrap();
        assert_eq!(found, token.as_bytes());
    }
}

#[tokio::test]
async fn a_slow_disk_is_an_error_after_a_while_and_may_still_take_it() {
    let fixture = Fixture::new();
    let disk = FaultyDisk::default();
    let patience = Duration::from_millis(20);
    let journal = fixture.journal_of(Arc::new(disk.clone()), patience, fixture.vault.clone());
    disk.hold_syncs();

    let recorded = fixture.record(&journal, 7, "token-1", b"one").await;

    assert!(matches!(recorded, Err(JournalError::Slow(_))));
    assert!(!journal.healthy());
    // It was committed all the same.
    fixture.settle(&journal, 7, "token-1");
    disk.let_syncs_go();
    journal.compact().await.unwrap();
    assert!(journal.healthy());
    assert_eq!(journal.depth(), 0);
    assert_eq!(fixture.find(&journal, 7, "token-1").await.unwrap(), b"one");
}

#[tokio::test]
async fn a_full_or_read_only_disk_is_an_error_at_once_until_it_takes_something_again() {
    for trouble in [
        DiskFault::Full(0),
        DiskFault::Full(100),
        DiskFault::ReadOnly,
    ] {
        let fixture = Fixture::new();
        let disk = FaultyDisk::default();
        let journal = fixture.journal_on(Arc::new(disk.clone()));
        fixture
            .record(&journal, 1, "token-1", b"one")
            .await
            .unwrap();
        disk.trouble(trouble);

        for _again in 0..3 {
            let recorded = fixture.record(&journal, 2, "token-2", b"two").await;
            assert!(matches!(recorded, Err(JournalError::Write(_))));
            assert!(!journal.healthy());
            assert!(journal.compact().await.is_err());
        }
        assert_eq!(fixture.find(&journal, 1, "token-1").await.unwrap(), b"one");
        disk.mend();
        journal.compact().await.unwrap();
        assert!(journal.healthy());
        fixture
            .record(&journal, 3, "token-3", b"three")
            .await
            .unwrap();

        // The torn line before it does not reach what follows.
        disk.crash();
        drop(journal);
        let journal = fixture.journal();
        assert_eq!(fixture.find(&journal, 1, "token-1").await.unwrap(), b"one");
        assert_eq!(
            fixture.find(&journal, 3, "token-3").await.unwrap(),
            b"three"
        );
        assert!(fixture.quarantine().is_empty());
    }
}

/// After a failed fsync the kernel calls pages clean that never reached the disk: the next one succeeds and proves nothing.
#[tokio::test]
async fn a_sync_that_failed_is_not_asked_again_of_the_same_file() {
    let fixture = Fixture::new();
    let disk = FaultyDisk::default();
    let journal = fixture.journal_on(Arc::new(disk.clone()));
    fixture
        .record(&journal, 1, "token-1", b"one")
        .await
        .unwrap();
    disk.trouble(DiskFault::SyncFails);

    fixture
        .record(&journal, 2, "token-2", b"two")
        .await
        .unwrap();

    disk.crash();
    drop(journal);
    let journal = fixture.journal();
    assert_eq!(fixture.find(&journal, 1, "token-1").await.unwrap(), b"one");
    assert_eq!(fixture.find(&journal, 2, "token-2").await.unwrap(), b"two");
}

#[tokio::test]
async fn a_slot_deleted_under_its_process_is_made_anew() {
    let fixture = Fixture::new();
    let journal = fixture.journal();
    fixture
        .record(&journal, 1, "token-1", b"one")
        .await
        .unwrap();
    fs::remove_dir_all(fixture.root().join(slot_of(&journal))).unwrap();

    fixture
        .record(&journal, 2, "token-2", b"two")
        .await
        .unwrap();

    let other = fixture.journal();
    assert_eq!(fixture.find(&other, 2, "token-2").await.unwrap(), b"two");
    assert_eq!(other.holder(&lease_of(&journal)).await, Holder::Running);
}

#[tokio::test]
async fn a_directory_that_vanishes_is_an_error_until_it_is_back() {
    let fixture = Fixture::new();
    let journal = fixture.journal();
    let away = fixture.directory.path().join("away");
    fixture
        .record(&journal, 1, "token-1", b"one")
        .await
        .unwrap();
    fs::rename(fixture.root(), &away).unwrap();
    fs::remove_dir_all(&away).unwrap();

    let recorded = fixture.record(&journal, 2, "token-2", b"two").await;

    assert!(matches!(recorded, Err(JournalError::Write(_))));
    assert!(!journal.healthy());
    let spent = Secret::from("token-2");
    assert!(matches!(
        journal.find(&fixture.id, 2, &spent, Some).await,
        Err(JournalError::Read { .. })
    ));
    fs::create_dir(fixture.root()).unwrap();
    journal.compact().await.unwrap();
    assert!(journal.healthy());
    fixture
        .record(&journal, 2, "token-2", b"two")
        .await
        .unwrap();
    assert_eq!(fixture.find(&journal, 2, "token-2").await.unwrap(), b"two");
}

#[test]
fn a_directory_that_is_none_says_what_to_do() {
    let fixture = Fixture::new();
    fs::write(fixture.root(), "a file").unwrap();
    let clock: SharedClock = Arc::<ManualClock>::clone(&fixture.clock);
    let opened = Journal::open(
        Arc::new(MachineDisk),
        &fixture.root(),
        DAY,
        fixture.vault.clone(),
        clock,
    );
    let error = opened.unwrap_err().to_string();
    assert!(error.starts_with("journal.directory `"), "{error}");
    assert!(error.ends_with("that this process may write to"), "{error}");
}
