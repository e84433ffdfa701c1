use super::super::segment::read;
use super::*;

/// A segment of three answers, and where each begins.
async fn three(fixture: &Fixture) -> (PathBuf, Vec<u8>, Vec<usize>) {
    let journal = fixture.journal();
    for (generation, token) in [(1, "token-1"), (2, "token-2"), (3, "token-3")] {
        let body = token.as_bytes();
        fixture
            .record(&journal, generation, token, body)
            .await
            .unwrap();
    }
    drop(journal);
    let path = fixture.segments().pop().unwrap();
    let bytes = fs::read(&path).unwrap();
    let starts = read(&bytes).entries.iter().map(|(at, _)| *at).collect();
    (path, bytes, starts)
}

#[tokio::test]
async fn an_entry_torn_at_any_byte_costs_itself_alone_and_alarms_nobody() {
    let fixture = Fixture::new();
    let (_, bytes, starts) = three(&fixture).await;
    let last = starts[2];
    for length in last..=bytes.len() {
        let read = read(&bytes[..length]);
        // Without its newline it is whole already.
        let whole = length + 1 >= bytes.len();
        assert_eq!(read.entries.len(), if whole { 3 } else { 2 }, "{length}");
        assert!(read.corrupt.is_empty(), "{length}");
        assert_eq!(read.end, if whole { length } else { last });
    }
}

#[tokio::test]
async fn a_torn_entry_is_left_behind_by_the_next_process() {
    let fixture = Fixture::new();
    let (path, bytes, starts) = three(&fixture).await;
    fs::write(&path, &bytes[..starts[2] + 100]).unwrap();

    let journal = fixture.journal();
    fixture.record(&journal, 4, "token-4", b"4").await.unwrap();
    drop(journal);
    let journal = fixture.journal();

    assert_eq!(
        fixture.find(&journal, 2, "token-2").await.unwrap(),
        b"token-2"
    );
    assert_eq!(fixture.find(&journal, 3, "token-3").await, None);
    assert_eq!(fixture.find(&journal, 4, "token-4").await.unwrap(), b"4");
    assert!(fixture.quarantine().is_empty());
}

#[tokio::test]
async fn any_flipped_bit_is_noticed_and_costs_one_entry_at_most() {
    let fixture = Fixture::new();
    let (_, bytes, starts) = three(&fixture).await;
    let whole = read(&bytes);
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[index] ^= 1 << bit;
            let read = read(&flipped);
            let of = starts.iter().rposition(|&start| start <= index).unwrap();
            let survivors = whole.entries.iter().enumerate();
            for (_, survivor) in survivors.filter(|(number, _)| *number != of) {
                assert!(read.entries.contains(survivor), "byte {index} bit {bit}");
            }
            for entry in &read.entries {
                assert!(whole.entries.contains(entry), "byte {index} bit {bit}");
            }
            // At the very end it can't be told from a torn one.
            assert_eq!(read.corrupt.is_empty(), of == 2, "byte {index} bit {bit}");
        }
    }
}

#[tokio::test]
async fn a_corrupt_entry_is_set_aside_once_and_the_others_stay_in_use() {
    let fixture = Fixture::new();
    let (path, mut bytes, starts) = three(&fixture).await;
    bytes[starts[1] + 120] ^= 4;
    fs::write(&path, &bytes).unwrap();

    for _start in 0..2 {
        let (one, two) = (fixture.journal(), fixture.journal());
        for journal in [one, two] {
            assert_eq!(
                fixture.find(&journal, 1, "token-1").await.unwrap(),
                b"token-1"
            );
            assert_eq!(fixture.find(&journal, 2, "token-2").await, None);
            assert_eq!(
                fixture.find(&journal, 3, "token-3").await.unwrap(),
                b"token-3"
            );
        }
    }

    let copies = fixture.quarantine();
    assert_eq!(copies.len(), 1);
    assert_eq!(fs::read(&copies[0]).unwrap(), bytes[starts[1]..starts[2]]);
}

#[tokio::test]
async fn an_entry_that_rots_after_it_was_read_is_set_aside_when_it_is_wanted() {
    let fixture = Fixture::new();
    let (path, mut bytes, starts) = three(&fixture).await;
    let journal = fixture.journal();
    assert!(fixture.find(&journal, 1, "token-1").await.is_some());
    bytes[starts[1] + 120] ^= 4;
    fs::write(&path, &bytes).unwrap();

    assert_eq!(fixture.find(&journal, 2, "token-2").await, None);
    assert_eq!(fixture.quarantine().len(), 1);
}

#[tokio::test]
async fn what_is_no_segment_of_ours_is_left_alone() {
    let fixture = Fixture::new();
    let (path, bytes, _) = three(&fixture).await;
    let slot = path.parent().unwrap();
    fs::write(slot.join("notes.txt"), "hello").unwrap();
    fs::write(slot.join("00000001-short.jsonl"), "hello").unwrap();
    fs::write(fixture.root().join("lost+found"), "hello").unwrap();
    fs::create_dir(fixture.root().join("backup")).unwrap();
    fs::write(fixture.root().join("backup").join(name(&path)), &bytes).unwrap();

    let journal = fixture.journal();

    assert!(fixture.find(&journal, 3, "token-3").await.is_some());
    assert_eq!(fixture.find(&journal, 4, "token-4").await, None);
    journal.compact().await.unwrap();
    assert!(slot.join("notes.txt").exists());
}
