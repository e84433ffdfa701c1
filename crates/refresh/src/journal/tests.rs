use std::collections::BTreeSet;
use std::fs;
use std::pin::Pin;
use std::task::Poll;

use pipekeeper_core::clock::Clock as _;
use pipekeeper_core::crypto::Keyring;
use pipekeeper_testing::{ManualClock, TestDirectory};

use super::disk::faulty::DiskFault;
use super::*;

mod answers;
mod damage;
mod disks;
mod keeping;
mod processes;

const DAY: Duration = Duration::from_hours(24);
const NOW: i64 = 1_800_000_000_000_000;
/// Longer than any test takes.
const LONG: Duration = Duration::from_mins(5);

/// A directory, a clock, and one connection whose refresh token is spent.
struct Fixture {
    directory: TestDirectory,
    clock: Arc<ManualClock>,
    vault: Vault,
    id: ConnectionId,
}

impl Fixture {
    fn new() -> Self {
        Self {
            directory: TestDirectory::create(),
            clock: ManualClock::at(Timestamp::from_unix_micros(NOW).unwrap()),
            vault: Vault::new(Keyring::parse(&Keyring::generate("k1")).unwrap()),
            id: ConnectionId::generate(),
        }
    }

    fn root(&self) -> PathBuf {
        self.directory.path().join("journal")
    }

    /// A process of its own.
    fn journal(&self) -> Journal {
        self.journal_on(Arc::new(MachineDisk))
    }

    fn journal_on(&self, disk: Arc<dyn Disk>) -> Journal {
        self.journal_of(disk, LONG, self.vault.clone())
    }

    fn journal_of(&self, disk: Arc<dyn Disk>, patience: Duration, vault: Vault) -> Journal {
        let clock: SharedClock = Arc::<ManualClock>::clone(&self.clock);
        Journal::open_on(disk, patience, &self.root(), DAY, vault, clock).unwrap()
    }

    async fn record(
        &self,
        journal: &Journal,
        generation: i64,
        token: &str,
        body: &[u8],
    ) -> Result<(), JournalError> {
        let spent = Secret::from(token);
        let now = self.clock.now();
        let body = TokenBody::plain(body);
        journal
            .record(&self.id, generation, &spent, now, &body)
            .await
    }

    async fn find(&self, journal: &Journal, generation: i64, token: &str) -> Option<Vec<u8>> {
        let spent = Secret::from(token);
        let answer = journal.find(&self.id, generation, &spent, Some).await;
        answer.unwrap().map(|answer| answer.body.bytes.to_vec())
    }

    fn settle(&self, journal: &Journal, generation: i64, token: &str) {
        journal.settle(&self.id, generation, &Secret::from(token));
    }

    /// All files of the slots but their locks and those locks' identities.
    fn files(&self) -> Vec<PathBuf> {
        let slots = fs::read_dir(self.root()).unwrap();
        let files = slots.flat_map(|slot| fs::read_dir(slot.unwrap().path()).unwrap());
        let mut files: Vec<PathBuf> = files
            .map(|file| file.unwrap().path())
            .filter(|path| !path.ends_with("lock") && !path.ends_with("identity"))
            .collect();
        files.sort();
        files
    }

    /// The segments that something stands in.
    fn segments(&self) -> Vec<PathBuf> {
        let mut files = self.files();
        files.retain(|path| {
            path.extension().is_some_and(|end| end == "jsonl")
                && fs::metadata(path).unwrap().len() > 1
        });
        files
    }

    fn quarantine(&self) -> Vec<PathBuf> {
        let mut files = self.files();
        files.retain(|path| name(path).starts_with("corrupt-"));
        files
    }
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn slot_of(journal: &Journal) -> &str {
    journal.process().split('/').next().unwrap()
}

/// A lease owner as the refresher writes it.
fn lease_of(journal: &Journal) -> String {
    format!("{}/0123456789abcdefghijkl", journal.process())
}

/// Lets it run as far as it gets by itself.
async fn step<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
