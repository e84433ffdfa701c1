use super::*;

#[tokio::test]
async fn an_answer_is_found_after_a_restart_as_it_was_received() {
    let fixture = Fixture::new();
    let journal = fixture.journal();
    let body = b"{\"access_token\":\"a\xff\x00\"}\n";
    fixture.record(&journal, 7, "token-1", body).await.unwrap();
    drop(journal);
    fixture.clock.advance(Duration::from_mins(1));

    let journal = fixture.journal();

    let spent = Secret::from("token-1");
    let answer = journal
        .find(&fixture.id, 7, &spent, Some)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(*answer.body.bytes, body);
    assert!(answer.body.coding.is_identity());
    assert_eq!(answer.received_at.unix_micros(), NOW);
}

#[tokio::test]
async fn an_answer_is_found_at_once_by_the_process_that_received_it() {
    let fixture = Fixture::new();
    let journal = fixture.journal();
    fixture
        .record(&journal, 7, "token-1", b"one")
        .await
        .unwrap();
    assert_eq!(fixture.find(&journal, 7, "token-1").await.unwrap(), b"one");
}

/// Pipedrive gives the same refresh token again and again.
#[tokio::test]
async fn the_answer_to_a_token_is_not_found_at_another_generation_or_connection() {
    let fixture = Fixture::new();
    let journal = fixture.journal();
    fixture
        .record(&journal, 7, "sticky", b"seven")
        .await
        .unwrap();
    fixture
        .record(&journal, 8, "sticky", b"eight")
        .await
        .unwrap();
    for journal in [journal.clone(), fixture.journal()] {
        assert_eq!(fixture.find(&journal, 7, "sticky").await.unwrap(), b"seven");
        assert_eq!(fixture.find(&journal, 8, "sticky").await.unwrap(), b"eight");
        assert_eq!(fixture.find(&journal, 9, "sticky").await, None);
        assert_eq!(fixture.find(&journal, 7, "other").await, None);
        let other = ConnectionId::generate();
        let spent = Secret::from("sticky");
        assert!(
            journal
                .find(&other, 7, &spent, Some)
                .await
                .unwrap()
                .is_none()
        );
    }
}

#[tokio::test]
async fn of_two_answers_to_one_spend_the_later_is_found() {
    let fixture = Fixture::new();
    let journal = fixture.journal();
    for body in [b"garbled", b"tokens!"] {
        fixture.record(&journal, 7, "token-1", body).await.unwrap();
    }
    assert_eq!(
        fixture.find(&journal, 7, "token-1").await.unwrap(),
        b"tokens!"
    );
    assert_eq!(journal.depth(), 1);
    drop(journal);
    let journal = fixture.journal();
    assert_eq!(
        fixture.find(&journal, 7, "token-1").await.unwrap(),
        b"tokens!"
    );
}

#[tokio::test]
async fn while_keys_are_rotated_each_finds_the_answers_of_the_other() {
    let fixture = Fixture::new();
    let (old, new) = (Keyring::generate("old"), Keyring::generate("new"));
    let ring = |first: &Secret, then: &Secret| {
        let keys = Secret::new(format!("{},{}", first.expose(), then.expose()));
        Vault::new(Keyring::parse(&keys).unwrap())
    };
    let behind = fixture.journal_of(Arc::new(MachineDisk), LONG, ring(&old, &new));
    let ahead = fixture.journal_of(Arc::new(MachineDisk), LONG, ring(&new, &old));

    fixture.record(&behind, 7, "token-1", b"one").await.unwrap();
    fixture.record(&ahead, 8, "token-2", b"two").await.unwrap();

    assert_eq!(fixture.find(&ahead, 7, "token-1").await.unwrap(), b"one");
    assert_eq!(fixture.find(&behind, 8, "token-2").await.unwrap(), b"two");
    // What another has received under its own first key is settled under it.
    fixture.settle(&ahead, 7, "token-1");
    behind.die();
    assert!(ahead.orphaned().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_answer_under_a_key_that_is_gone_says_so() {
    let fixture = Fixture::new();
    let journal = fixture.journal();
    fixture
        .record(&journal, 7, "token-1", b"one")
        .await
        .unwrap();
    drop(journal);
    let other = Vault::new(Keyring::parse(&Keyring::generate("k2")).unwrap());

    let journal = fixture.journal_of(Arc::new(MachineDisk), LONG, other);

    let [unsettled] = &*journal.orphaned().await.unwrap() else {
        panic!("one is orphaned");
    };
    assert!(!journal.is_of(unsettled, &Secret::from("token-1")));
    assert!(matches!(
        journal.read(unsettled),
        Err(JournalError::Sealed(OpenError::UnknownKey(_)))
    ));
}

#[tokio::test]
async fn nothing_secret_stands_in_the_files_and_nobody_else_may_read_them() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::new();
    let journal = fixture.journal();
    fixture
        .record(&journal, 7, "token-1", b"access-2 refresh-2")
        .await
        .unwrap();
    fixture.settle(&journal, 7, "token-1");
    let shown = format!("{journal:?}");
    drop(journal);

    for path in fixture.files() {
        let text = fs::read_to_string(&path).unwrap();
        for secret in ["token-1", "access-2", "refresh-2"] {
            assert!(!text.contains(secret) && !shown.contains(secret));
        }
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
        let slot = path.parent().unwrap();
        for directory in [slot, &fixture.root()] {
            let mode = fs::metadata(directory).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", directory.display());
        }
    }
}
