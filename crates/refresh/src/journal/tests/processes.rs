use super::*;

#[tokio::test]
async fn processes_that_share_a_directory_read_each_others_answers() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.journal(), fixture.journal());
    assert_ne!(slot_of(&one), slot_of(&two));
    for generation in 1..4 {
        let token = format!("token-{generation}");
        assert_eq!(fixture.find(&two, generation, &token).await, None);
        fixture
            .record(&one, generation, &token, b"body")
            .await
            .unwrap();
        assert_eq!(
            fixture.find(&two, generation, &token).await.unwrap(),
            b"body"
        );
    }
}

#[tokio::test]
async fn the_segments_that_follow_a_rotation_are_read_too() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.journal(), fixture.journal());
    for generation in 1..6 {
        let token = format!("token-{generation}");
        fixture
            .record(&one, generation, &token, b"body")
            .await
            .unwrap();
        if generation % 2 == 0 {
            assert!(fixture.find(&two, generation, &token).await.is_some());
        }
        // Older than the next moment: another one is begun.
        fixture.clock.advance(Duration::from_secs(1));
        let now = fixture.clock.now();
        one.0.writer.rotate(now).await.unwrap();
    }
    assert_eq!(fixture.segments().len(), 5);
    for generation in 1..6 {
        let token = format!("token-{generation}");
        assert!(fixture.find(&two, generation, &token).await.is_some());
    }
}

#[tokio::test]
async fn an_answer_that_was_half_written_when_it_was_looked_for_is_found_when_it_is_whole() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.journal(), fixture.journal());
    fixture.record(&one, 7, "token-1", b"one").await.unwrap();
    let path = fixture.segments().pop().unwrap();
    let whole = fs::read(&path).unwrap();
    for length in [1, 100, whole.len() - 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        // All but the newline is all that matters.
        let found = fixture.find(&two, 7, "token-1").await;
        assert_eq!(found.is_some(), length == whole.len() - 1);
    }
    fs::write(&path, &whole).unwrap();
    assert_eq!(fixture.find(&two, 7, "token-1").await.unwrap(), b"one");
    fixture.record(&one, 8, "token-2", b"two").await.unwrap();
    assert_eq!(fixture.find(&two, 8, "token-2").await.unwrap(), b"two");
    assert!(fixture.quarantine().is_empty());
}

#[tokio::test]
async fn a_slot_that_was_deleted_is_forgotten() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.journal(), fixture.journal());
    fixture.record(&one, 7, "token-1", b"one").await.unwrap();
    assert!(fixture.find(&two, 7, "token-1").await.is_some());
    let slot = slot_of(&one).to_owned();
    drop(one);
    fs::remove_dir_all(fixture.root().join(slot)).unwrap();

    assert!(two.orphaned().await.unwrap().is_empty());
    assert_eq!(fixture.find(&two, 7, "token-1").await, None);
    two.compact().await.unwrap();
}

#[tokio::test]
async fn a_holder_is_running_while_it_has_its_slot_and_gone_after() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.journal(), fixture.journal());
    let lease = lease_of(&one);
    assert_eq!(one.holder(&lease).await, Holder::Running);
    assert_eq!(two.holder(&lease).await, Holder::Running);

    drop(one);

    assert_eq!(two.holder(&lease).await, Holder::Gone);
    // Anyone who asked has not taken the slot.
    assert_eq!(two.holder(&lease).await, Holder::Gone);
}

#[tokio::test]
async fn a_holder_whose_slot_another_has_taken_since_is_gone() {
    let fixture = Fixture::new();
    let first = fixture.journal();
    let (lease, slot) = (lease_of(&first), slot_of(&first).to_owned());
    drop(first);
    let second = fixture.journal();
    assert_eq!(slot_of(&second), slot);

    assert_eq!(second.holder(&lease).await, Holder::Gone);
    assert_eq!(fixture.journal().holder(&lease).await, Holder::Gone);
    assert_eq!(second.holder(&lease_of(&second)).await, Holder::Running);
}

#[tokio::test]
async fn a_holder_with_a_journal_elsewhere_is_out_of_reach() {
    let (fixture, elsewhere) = (Fixture::new(), Fixture::new());
    let journal = fixture.journal();
    for lease in [
        lease_of(&elsewhere.journal()).as_str(),
        "",
        "/",
        "x",
        "a-process/with/more",
        "../../etc/passwd",
        "8f2ce1fd-81c2-4f8f-8f7e-4bb1b4c1d1b2/0123456789abcdefghijkl",
    ] {
        assert_eq!(journal.holder(lease).await, Holder::OutOfReach, "{lease}");
    }
}

#[test]
fn an_owner_fits_into_its_column() {
    let fixture = Fixture::new();
    let lease = lease_of(&fixture.journal());
    assert_eq!(lease.len(), 64);
    assert!(lease.bytes().all(|b| b.is_ascii_graphic()));
}

#[tokio::test]
async fn processes_that_start_at_once_get_slots_of_their_own_and_their_successors_the_same() {
    let fixture = Fixture::new();
    for _start in 0..3 {
        let journals: Vec<Journal> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8).map(|_| scope.spawn(|| fixture.journal())).collect();
            let journals = starts.into_iter().map(|start| start.join().unwrap());
            journals.collect()
        });
        let slots: BTreeSet<&str> = journals.iter().map(slot_of).collect();
        assert_eq!(slots.len(), 8);
    }
    // Others' new slots may be snatched while they are made, and replaced: no more than that.
    let slots = fs::read_dir(fixture.root()).unwrap().count();
    assert!((8..=16).contains(&slots), "{slots}");
}

#[tokio::test]
async fn what_a_killed_process_left_unsettled_is_orphaned_for_its_successor_and_for_others() {
    let fixture = Fixture::new();
    let (killed, other) = (fixture.journal(), fixture.journal());
    fixture.record(&killed, 7, "token-1", b"one").await.unwrap();
    fixture.record(&killed, 8, "token-2", b"two").await.unwrap();
    fixture.settle(&killed, 8, "token-2");
    assert!(other.orphaned().await.unwrap().is_empty());
    assert!(killed.orphaned().await.unwrap().is_empty());
    drop(killed);

    let seen_by_other = other.orphaned().await.unwrap();
    let successor = fixture.journal();
    let seen_by_successor = successor.orphaned().await.unwrap();

    assert_eq!(successor.depth(), 1);
    for (journal, orphaned) in [(&other, seen_by_other), (&successor, seen_by_successor)] {
        let [unsettled] = &*orphaned else {
            panic!("one is orphaned");
        };
        assert_eq!(unsettled.connection, fixture.id);
        assert_eq!(unsettled.generation, 7);
        assert!(journal.is_of(unsettled, &Secret::from("token-1")));
        assert!(!journal.is_of(unsettled, &Secret::from("token-2")));
        assert_eq!(*journal.read(unsettled).unwrap()[0].body.bytes, b"one");
    }
}

#[tokio::test]
async fn an_orphan_that_one_has_settled_is_settled_for_all_and_can_still_be_found() {
    let fixture = Fixture::new();
    let killed = fixture.journal();
    fixture.record(&killed, 7, "token-1", b"one").await.unwrap();
    drop(killed);
    let (one, two) = (fixture.journal(), fixture.journal());
    let [unsettled] = &*one.orphaned().await.unwrap() else {
        panic!("one is orphaned");
    };

    one.settle_orphan(unsettled);

    assert!(one.orphaned().await.unwrap().is_empty());
    drop(one);
    assert!(two.orphaned().await.unwrap().is_empty());
    let successor = fixture.journal();
    assert!(successor.orphaned().await.unwrap().is_empty());
    assert_eq!(
        fixture.find(&successor, 7, "token-1").await.unwrap(),
        b"one"
    );
}

/// A mark is in its writer's slot, which may be read before the slot of the answer that it is of.
#[tokio::test]
async fn a_mark_counts_whichever_slot_is_read_first() {
    let fixture = Fixture::new();
    let (one, two) = (fixture.journal(), fixture.journal());
    fixture.record(&one, 7, "token-1", b"one").await.unwrap();
    fixture.record(&two, 8, "token-2", b"two").await.unwrap();
    for (journal, generation, token) in [(&two, 7, "token-1"), (&one, 8, "token-2")] {
        assert!(fixture.find(journal, generation, token).await.is_some());
        fixture.settle(journal, generation, token);
    }
    drop((one, two));
    assert!(fixture.journal().orphaned().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_mark_says_nothing_of_an_answer_that_came_after_it() {
    for first_is_read_first in [true, false] {
        let fixture = Fixture::new();
        let (one, two) = (fixture.journal(), fixture.journal());
        let is_in_order = slot_of(&one) < slot_of(&two);
        let (first, second) = if is_in_order == first_is_read_first {
            (one, two)
        } else {
            (two, one)
        };
        fixture
            .record(&first, 7, "token-1", b"nonsense")
            .await
            .unwrap();
        fixture.settle(&first, 7, "token-1");
        fixture.clock.advance(Duration::from_secs(1));
        fixture
            .record(&second, 7, "token-1", b"tokens")
            .await
            .unwrap();
        drop((first, second));

        let heir = fixture.journal();
        let orphaned = heir.orphaned().await.unwrap();

        assert_eq!(
            orphaned.len(),
            1,
            "first is read first: {first_is_read_first}"
        );
        let answers = heir.read(&orphaned[0]).unwrap();
        assert!(
            answers
                .iter()
                .any(|answer| *answer.body.bytes == b"tokens"[..])
        );
        heir.settle_orphan(&orphaned[0]);
        assert!(heir.orphaned().await.unwrap().is_empty());
    }
}

/// As `cp -r` of the directory, a restored backup or an image of the machine would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_slot_that_was_copied_before_the_start_is_read_and_never_taken() {
    let fixture = Fixture::new();
    let elsewhere = Fixture {
        directory: TestDirectory::create(),
        vault: fixture.vault.clone(),
        clock: Arc::clone(&fixture.clock),
        id: fixture.id.clone(),
    };
    let one = fixture.journal();
    fixture.record(&one, 7, "token-1", b"body").await.unwrap();
    copy(&fixture.root(), &elsewhere.root());

    let two = elsewhere.journal();

    assert_ne!(slot_of(&two), slot_of(&one));
    assert_eq!(two.holder(&lease_of(&one)).await, Holder::OutOfReach);
    let found = fixture.find(&two, 7, "token-1").await;
    assert_eq!(found.unwrap(), b"body");
    // Not even when the holder is dead: nothing here shows it.
    let lease = lease_of(&one);
    drop(one);
    assert_eq!(two.holder(&lease).await, Holder::OutOfReach);
    // On its own machine it is seen at once, and its slot is taken again.
    let restarted = fixture.journal();
    assert_eq!(restarted.holder(&lease).await, Holder::Gone);
    assert_eq!(Some(slot_of(&restarted)), lease.split('/').next());
}

#[tokio::test]
async fn a_slot_that_is_copied_while_its_holder_runs_does_not_make_the_holder_look_dead() {
    let (fixture, elsewhere) = (Fixture::new(), Fixture::new());
    let (one, two) = (fixture.journal(), elsewhere.journal());

    copy(&fixture.root(), &elsewhere.root());

    assert_eq!(two.holder(&lease_of(&one)).await, Holder::OutOfReach);
    let three = elsewhere.journal();
    assert_ne!(slot_of(&three), slot_of(&one));
    assert_eq!(one.holder(&lease_of(&one)).await, Holder::Running);
}

/// The disk of a machine that was restarted looks like that of its clone: what the older boot's slots say of their holders
/// counts for neither.
#[tokio::test]
async fn a_slot_of_another_boot_is_read_and_never_taken() {
    let fixture = Fixture::new();
    let one = fixture.journal();
    fixture.record(&one, 7, "token-1", b"body").await.unwrap();
    let lease = lease_of(&one);
    let identity = fixture.root().join(slot_of(&one)).join("identity");
    drop(one);
    let recorded = fs::read_to_string(&identity).unwrap();
    let (_, of_the_file) = recorded.split_once(' ').unwrap();
    let other_boot = "00000000-0000-4000-8000-000000000000";
    fs::write(&identity, format!("{other_boot} {of_the_file}")).unwrap();

    let two = fixture.journal();

    assert_ne!(Some(slot_of(&two)), lease.split('/').next());
    assert_eq!(two.holder(&lease).await, Holder::OutOfReach);
    assert_eq!(fixture.find(&two, 7, "token-1").await.unwrap(), b"body");
    let orphaned = two.orphaned().await.unwrap();
    assert_eq!(orphaned.len(), 1, "what it left is committed all the same");
    // In time nothing is left of it.
    two.settle_orphan(&orphaned[0]);
    fixture.clock.advance(DAY * 2);
    two.compact().await.unwrap();
    assert!(!identity.parent().unwrap().exists());
}
