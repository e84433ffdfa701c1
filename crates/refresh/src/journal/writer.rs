//! The one thread that writes: it takes all that is waiting, writes it, syncs once, and notifies all callers.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use pipekeeper_core::clock::Timestamp;
use tokio::sync::oneshot;

use super::JournalError;
use super::disk::{Disk, SegmentFile};
use super::entry::Key;
use super::index::Index;
use super::segment::{SEGMENT_BYTES, SegmentName, names};
use super::slot::Slot;

/// How much is written at once at most.
const BATCH_BYTES: usize = 1024 * 1024;
/// How long the end of a journal waits for its last marks to be written.
const SHUTDOWN_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Writer {
    requests: Option<Sender<Request>>,
    ended: Mutex<Receiver<()>>,
}

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The provider.
    Received,
    /// A segment that is about to go.
    Carried,
}

#[derive(Debug)]
enum Request {
    JournaledResponse(AnswerRequest),
    Mark { line: Vec<u8>, at: Timestamp },
    Tidy { since: Timestamp, reply: Reply },
}

#[derive(Debug)]
struct AnswerRequest {
    line: Vec<u8>,
    key: Key,
    /// Received, or carried.
    at: Timestamp,
    origin: Origin,
    reply: Reply,
}

type Reply = oneshot::Sender<Result<(), JournalError>>;

impl Writer {
    /// With the first segment made: a writer exists only on a disk that takes something.
    pub(super) fn start(
        disk: Arc<dyn Disk>,
        slot: Arc<Slot>,
        index: Arc<Mutex<Index>>,
        healthy: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let last = names(slot.directory())?.pop();
        let mut thread = Thread {
            disk,
            slot,
            index,
            healthy,
            number: last.map_or(0, |name| name.number),
            current: None,
        };
        thread.begin_segment()?;
        let (requests, waiting) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || {
                thread.run(&waiting);
                // The slot is unlocked before any caller is notified.
                drop(thread);
                drop(end);
            })?;
        Ok(Self {
            requests: Some(requests),
            ended: Mutex::new(ended),
        })
    }

    /// `Ok` when it is durable.
    pub(super) async fn answer(
        &self,
        line: Vec<u8>,
        key: Key,
        at: Timestamp,
        origin: Origin,
    ) -> Result<(), JournalError> {
        self.ask(|reply| {
            Request::JournaledResponse(AnswerRequest {
                line,
                key,
                at,
                origin,
                reply,
            })
        })
        .await
    }

    pub(super) fn mark(&self, line: Vec<u8>, at: Timestamp) {
        // A mark that gets lost costs one more search.
        drop(self.send(Request::Mark { line, at }));
    }

    /// When all that was asked for before is written: begins another segment where this one is older, or where the last
    /// write has failed. An error says that the disk still takes nothing.
    pub(super) async fn rotate(&self, since: Timestamp) -> Result<(), JournalError> {
        self.ask(|reply| Request::Tidy { since, reply }).await
    }

    async fn ask(&self, request: impl FnOnce(Reply) -> Request) -> Result<(), JournalError> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply))?;
        answer.await.map_err(|_gone| JournalError::Stopped)?
    }

    fn send(&self, request: Request) -> Result<(), JournalError> {
        let requests = self.requests.as_ref().ok_or(JournalError::Stopped)?;
        requests
            .send(request)
            .map_err(|_gone| JournalError::Stopped)
    }
}

impl Drop for Writer {
    /// What was handed over is written, unless the disk hangs.
    fn drop(&mut self) {
        self.requests = None;
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent: it is the other end's going that is waited for.
        let _ended = ended.recv_timeout(SHUTDOWN_FLUSH_TIMEOUT);
    }
}

#[derive(Debug)]
struct Thread {
    disk: Arc<dyn Disk>,
    slot: Arc<Slot>,
    index: Arc<Mutex<Index>>,
    healthy: Arc<AtomicBool>,
    /// The last segment's.
    number: u64,
    current: Option<Current>,
}

/// The segment that is written to.
#[derive(Debug)]
struct Current {
    file: Box<dyn SegmentFile>,
    name: SegmentName,
    path: PathBuf,
    bytes: u64,
}

impl Thread {
    fn run(&mut self, requests: &Receiver<Request>) {
        while let Ok(first) = requests.recv() {
            let mut bytes = 0;
            let mut batch = Vec::new();
            let mut rotate = None;
            for request in std::iter::once(first).chain(requests.try_iter()) {
                if let Request::Tidy { since, reply } = request {
                    rotate = Some((since, reply));
                    break;
                }
                bytes += request.line().len();
                batch.push(request);
                if bytes >= BATCH_BYTES {
                    break;
                }
            }
            if !batch.is_empty() {
                self.write(batch);
            }
            if let Some((since, reply)) = rotate {
                let result = self.rotate(since);
                let result = result.map_err(|error| JournalError::Write(Arc::new(error)));
                drop(reply.send(result));
            }
        }
    }

    fn rotate(&mut self, since: Timestamp) -> io::Result<()> {
        let last = self.index().last(self.slot.name());
        let oldest = last.and_then(|(_, oldest)| oldest);
        if self.healthy.load(Ordering::Relaxed) && oldest.is_none_or(|oldest| oldest >= since) {
            return Ok(());
        }
        // An empty line: a full disk may still make files.
        let begun = self.begin_segment().and_then(|()| self.put(b"\n", true));
        self.tell(begun.is_ok());
        begun.map(drop)
    }

    fn write(&mut self, batch: Vec<Request>) {
        let bytes = batch.iter().map(Request::line).collect::<Vec<_>>().concat();
        let durable = batch
            .iter()
            .any(|request| matches!(request, Request::JournaledResponse(_)));
        // What went wrong may be the file's own trouble. It is not written to again in any case: a line may be torn, and
        // a sync that has failed once proves nothing when it succeeds.
        let written = self.put(&bytes, durable).or_else(|_first| {
            self.current = None;
            self.put(&bytes, durable)
        });
        match written {
            Ok(offset) => {
                let replies = self.index_batch(batch, offset);
                self.tell(true);
                for reply in replies {
                    // The caller may have timed out.
                    drop(reply.send(Ok(())));
                }
            }
            Err(error) => {
                self.current = None;
                self.tell(false);
                let error = Arc::new(error);
                for request in batch {
                    if let Request::JournaledResponse(answer) = request {
                        let error = JournalError::Write(Arc::clone(&error));
                        drop(answer.reply.send(Err(error)));
                    }
                }
            }
        }
    }

    /// Where in the current segment the bytes begin.
    fn put(&mut self, bytes: &[u8], durable: bool) -> io::Result<u64> {
        if self
            .current
            .as_ref()
            .is_none_or(|current| current.bytes >= SEGMENT_BYTES)
        {
            self.begin_segment()?;
        }
        let current = self
            .current
            .as_mut()
            .ok_or_else(|| io::Error::other("no segment"))?;
        let result = current
            .file
            .write(bytes)
            .and_then(|()| if durable { current.file.sync() } else { Ok(()) });
        match result {
            Ok(()) => {
                let offset = current.bytes;
                current.bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                Ok(offset)
            }
            Err(error) => {
                if current.bytes == 0 {
                    // Nothing was ever promised of it: a full disk isn't littered with beginnings.
                    drop(fs::remove_file(&current.path));
                }
                Err(error)
            }
        }
    }

    fn begin_segment(&mut self) -> io::Result<()> {
        self.current = None;
        self.number += 1;
        let name = SegmentName {
            number: self.number,
            incarnation: self.slot.incarnation().to_owned(),
        };
        let path = self.slot.directory().join(name.file());
        let file = match self.disk.create(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.slot.restore()?;
                self.disk.create(&path)?
            }
            other => other?,
        };
        self.index().segment(self.slot.name(), &name);
        self.current = Some(Current {
            file,
            name,
            path,
            bytes: 0,
        });
        Ok(())
    }

    /// Before callers are notified, because they may search for it at once. Returns whom to notify.
    fn index_batch(&self, batch: Vec<Request>, mut offset: u64) -> Vec<Reply> {
        let mut replies = Vec::new();
        let Some(current) = &self.current else {
            return replies;
        };
        let mut index = self.index();
        for request in batch {
            let begin = u32::try_from(offset).unwrap_or(u32::MAX);
            offset += u64::try_from(request.line().len()).unwrap_or(u64::MAX);
            let (slot, name) = (self.slot.name(), &current.name);
            match request {
                Request::JournaledResponse(answer) => {
                    match answer.origin {
                        Origin::Received => {
                            index.answer(slot, name, begin, &answer.key, answer.at, false);
                        }
                        Origin::Carried => {
                            index.carried(slot, name, begin, &answer.key, answer.at);
                        }
                    }
                    replies.push(answer.reply);
                }
                Request::Mark { at, .. } => index.marked(slot, name, at),
                Request::Tidy { .. } => {}
            }
        }
        replies
    }

    fn tell(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Request {
    fn line(&self) -> &[u8] {
        match self {
            Self::JournaledResponse(answer) => &answer.line,
            Self::Mark { line, .. } => line,
            Self::Tidy { .. } => &[],
        }
    }
}
