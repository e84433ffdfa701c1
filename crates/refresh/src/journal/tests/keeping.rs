use super::*;

const HOUR: Duration = Duration::from_hours(1);

#[tokio::test]
async fn a_settled_answer_is_kept_for_its_time_and_then_deleted() {
    let fixture = Fixture::new();
    let journal = fixture.journal();
    fixture
        .record(&journal, 7, "token-1", b"one")
        .await
        .unwrap();
    fixture.clock.advance(23 * HOUR);
    // Kept from when it was settled, not from when it was received.
    fixture.settle(&journal, 7, "token-1");
    fixture.clock.advance(23 * HOUR);

    journal.compact().await.unwrap();
    assert_eq!(fixture.find(&journal, 7, "token-1").await.unwrap(), b"one");

    fixture.clock.advance(2 * HOUR);
    journal.compact().await.unwrap();
    assert_eq!(fixture.find(&journal, 7, "token-1").await, None);
    assert!(fixture.segments().is_empty());
}

#[tokio::test]
async fn an_answer_is_kept_after_a_restart_as_long_as_without() {
    let fixture = Fixture::new();
    let journal = fixture.journal();
    fixture
        .record(&journal, 7, "token-1", b"one")
        .await
        .unwrap();
    fixture.clock.advance(23 * HOUR);
    fixture.settle(&journal, 7, "token-1");
    drop(journal);
    fixture.clock.advance(23 * HOUR);

    let journal = fixture.journal();
    journal.compact().await.unwrap();
    assert!(journal.orphaned().await.unwrap().is_empty());
    assert!(fixture.find(&journal, 7, "token-1").await.is_some());

    fixture.clock.advance(2 * HOUR);
    journal.compact().await.unwrap();
    assert!(fixture.segments().is_empty());
}

#[tokio::test]
async fn an_unsettled_answer_is_carried_on_for_as_long_as_it_is_one() {
    let fixture = Fixture::new();
    let mut journal = fixture.journal();
    fixture
        .record(&journal, 7, "token-1", b"one")
        .await
        .unwrap();
    fixture
        .record(&journal, 8, "token-2", b"two")
        .await
        .unwrap();
    fixture.settle(&journal, 8, "token-2");
    for _day in 0..3 {
        fixture.clock.advance(25 * HOUR);
        journal.compact().await.unwrap();
        assert_eq!(journal.depth(), 1);
        assert_eq!(fixture.find(&journal, 7, "token-1").await.unwrap(), b"one");
        assert_eq!(fixture.find(&journal, 8, "token-2").await, None);
        assert_eq!(fixture.segments().len(), 1);
        drop(journal);
        journal = fixture.journal();
        assert_eq!(fixture.find(&journal, 7, "token-1").await.unwrap(), b"one");
    }

    fixture.settle(&journal, 7, "token-1");
    assert_eq!(journal.depth(), 0);
    fixture.clock.advance(25 * HOUR);
    journal.compact().await.unwrap();
    assert!(fixture.segments().is_empty());
}

#[tokio::test]
async fn what_is_carried_is_an_orphan_still() {
    let fixture = Fixture::new();
    let journal = fixture.journal();
    fixture
        .record(&journal, 7, "token-1", b"one")
        .await
        .unwrap();
    drop(journal);
    fixture.clock.advance(25 * HOUR);

    let journal = fixture.journal();
    journal.compact().await.unwrap();

    let [unsettled] = &*journal.orphaned().await.unwrap() else {
        panic!("one is orphaned");
    };
    assert_eq!(*journal.read(unsettled).unwrap()[0].body.bytes, b"one");
}

#[tokio::test]
async fn what_is_carried_survives_a_power_cut_right_after() {
    let fixture = Fixture::new();
    let disk = FaultyDisk::default();
    let journal = fixture.journal_on(Arc::new(disk.clone()));
    fixture
        .record(&journal, 7, "token-1", b"one")
        .await
        .unwrap();
    fixture.clock.advance(25 * HOUR);
    journal.compact().await.unwrap();
    disk.crash();
    drop(journal);

    let journal = fixture.journal();

    assert_eq!(fixture.find(&journal, 7, "token-1").await.unwrap(), b"one");
}

#[tokio::test]
async fn nothing_is_deleted_that_could_not_be_carried() {
    let fixture = Fixture::new();
    let disk = FaultyDisk::default();
    let journal = fixture.journal_on(Arc::new(disk.clone()));
    fixture
        .record(&journal, 7, "token-1", b"one")
        .await
        .unwrap();
    fixture.clock.advance(25 * HOUR);
    disk.trouble(DiskFault::Full(1));

    assert!(journal.compact().await.is_err());

    disk.crash();
    drop(journal);
    let journal = fixture.journal();
    assert_eq!(fixture.find(&journal, 7, "token-1").await.unwrap(), b"one");
}

#[tokio::test]
async fn slots_that_nobody_has_are_tidied_by_whoever_is_there() {
    let fixture = Fixture::new();
    let (gone, running, journal) = (fixture.journal(), fixture.journal(), fixture.journal());
    for (journal, token) in [(&gone, "token-1"), (&running, "token-2")] {
        fixture.record(journal, 7, token, b"one").await.unwrap();
        fixture.settle(journal, 7, token);
    }
    fixture.record(&gone, 8, "token-3", b"three").await.unwrap();
    drop(gone);
    fixture.clock.advance(25 * HOUR);

    // One answer in it is unsettled: the segment stays.
    journal.compact().await.unwrap();
    assert_eq!(fixture.segments().len(), 2);

    let [unsettled] = &*journal.orphaned().await.unwrap() else {
        panic!("one is orphaned");
    };
    journal.settle_orphan(unsettled);
    fixture.clock.advance(25 * HOUR);
    journal.compact().await.unwrap();
    let left = fixture.segments();
    assert_eq!(left.len(), 1);
    assert!(left[0].starts_with(fixture.root().join(slot_of(&running))));
}

#[tokio::test]
async fn a_clock_set_back_deletes_nothing_and_one_set_ahead_nothing_unsettled() {
    let fixture = Fixture::new();
    let journal = fixture.journal();
    fixture
        .record(&journal, 7, "token-1", b"one")
        .await
        .unwrap();
    fixture
        .record(&journal, 8, "token-2", b"two")
        .await
        .unwrap();
    fixture.settle(&journal, 8, "token-2");
    let now = fixture.clock.now();
    fixture.clock.set_wall(now.saturating_sub(DAY));
    journal.compact().await.unwrap();
    assert!(fixture.find(&journal, 7, "token-1").await.is_some());
    assert!(fixture.find(&journal, 8, "token-2").await.is_some());

    fixture.clock.set_wall(now.saturating_add(DAY + HOUR));
    journal.compact().await.unwrap();
    assert!(fixture.find(&journal, 7, "token-1").await.is_some());
}
