//! Log lines on their way to standard output. Logging never waits for the reader and never fails with it: a line that
//! finds no room, or can't be written, is dropped, and the number of those is the first line once there is room again.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that wait for the reader: a few megabytes at most.
const WAITING: usize = 4096;

/// For the last lines of a process to be written.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The one of this process that writes to standard output.
static STDOUT: OnceLock<Lines> = OnceLock::new();

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

/// The way to a thread that writes.
#[derive(Debug, Clone)]
pub(super) struct Lines {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
}

impl Lines {
    pub(super) fn to_stdout() -> Self {
        STDOUT
            .get_or_init(|| {
                // Without the buffer of `Stdout`, which keeps what it could not write, and adds to it.
                let stdout = io::stdout().as_fd().try_clone_to_owned().map(File::from);
                Self::to(stdout)
            })
            .clone()
    }

    /// Where there is nothing to write to, every line is dropped.
    fn to(out: io::Result<impl Write + Send + 'static>) -> Self {
        let (queue, waiting) = sync_channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        if let Ok(out) = out {
            let thread = thread::Builder::new().name("log".to_owned());
            let dropped = Arc::clone(&dropped);
            // Where there are no more threads, there is no log.
            let _not_started = thread.spawn(move || write_all(&waiting, out, &dropped));
        }
        Self { queue, dropped }
    }
}

/// Waits until what was logged so far is written, or dropped; a moment at most.
pub(super) fn flush() {
    let Some(lines) = STDOUT.get() else {
        return;
    };
    let (written, is_written) = sync_channel(1);
    // A full queue has a reader that does not read.
    if lines.queue.try_send(Message::Flush(written)).is_ok() {
        let _gave_up = is_written.recv_timeout(FLUSH_LIMIT);
    }
}

fn write_all(waiting: &Receiver<Message>, mut out: impl Write, dropped: &AtomicU64) {
    // Part of a line may have been written when the disk was full.
    let mut is_torn = false;
    for message in waiting {
        let line = match message {
            Message::Line(line) => line,
            Message::Flush(written) => {
                let _gave_up = written.send(());
                continue;
            }
        };
        let lost = dropped.swap(0, Ordering::Relaxed);
        let mut text = Vec::with_capacity(line.len());
        if is_torn {
            text.push(b'\n');
        }
        if lost > 0 {
            text.extend(told(lost, &line));
        }
        text.extend(line);
        match out.write_all(&text) {
            Ok(()) => is_torn = false,
            Err(_nobody_to_tell) => {
                is_torn = true;
                dropped.fetch_add(lost + 1, Ordering::Relaxed);
            }
        }
    }
}

/// How many lines were dropped, in the form of the one that follows.
fn told(lost: u64, next: &[u8]) -> Vec<u8> {
    let text = format!("{lost} log lines were dropped: they could not be written");
    if next.starts_with(b"{") {
        let line = serde_json::json!({"level": "WARN", "message": text, "dropped": lost});
        format!("{line}\n").into_bytes()
    } else {
        format!("WARN {text}\n").into_bytes()
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Line<'a> {
        Line {
            lines: self,
            text: Vec::new(),
        }
    }
}

/// One line, sent when it is complete.
pub(super) struct Line<'a> {
    lines: &'a Lines,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        let text = std::mem::take(&mut self.text);
        if text.is_empty() {
            return;
        }
        match self.lines.queue.try_send(Message::Line(text)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.lines.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Takes one text per permit; without an open channel of permits, nothing.
    struct Reader {
        permits: Receiver<io::Result<()>>,
        texts: SyncSender<String>,
    }

    impl Write for Reader {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.permits.recv().expect("the test goes on")?;
            let read = String::from_utf8_lossy(text).into_owned();
            self.texts.send(read).expect("the test goes on");
            Ok(text.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn log(lines: &Lines, text: &str) {
        lines.make_writer().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn nobody_waits_for_a_reader_that_stalls_and_it_is_told_what_it_missed() {
        let (go_on, permits) = channel();
        let (texts, read) = sync_channel(2 * WAITING);
        let lines = Lines::to(Ok(Reader { permits, texts }));

        // The writer holds one at most, the queue the others; these calls return although nothing is read.
        for number in 0..WAITING + 101 {
            log(&lines, &format!("{{\"number\":{number}}}\n"));
        }

        let dropped = lines.dropped.load(Ordering::Relaxed);
        assert!((100..=101).contains(&dropped), "{dropped}");
        for _ in 0..=WAITING {
            go_on.send(Ok(())).unwrap();
        }
        let first = read.recv().unwrap();
        let note =
            format!("\"message\":\"{dropped} log lines were dropped: they could not be written\"");
        let told_at_once = first.contains(&note);
        let second = read.recv().unwrap();
        assert!(told_at_once || second.contains(&note), "{first} {second}");
        assert_eq!(lines.dropped.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_until_one_can() {
        let (go_on, permits) = channel();
        let (texts, read) = sync_channel(8);
        let lines = Lines::to(Ok(Reader { permits, texts }));
        for _ in 0..3 {
            go_on.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        }
        go_on.send(Ok(())).unwrap();

        for text in ["one\n", "two\n", "three\n", "four\n"] {
            log(&lines, text);
        }

        let text = read.recv().unwrap();
        let note = "3 log lines were dropped: they could not be written";
        assert_eq!(text, format!("\nWARN {note}\nfour\n"));
    }

    #[test]
    fn without_an_output_lines_are_dropped() {
        let nowhere: io::Result<io::Sink> = Err(io::ErrorKind::NotFound.into());
        let lines = Lines::to(nowhere);
        log(&lines, "one\n");
        assert_eq!(lines.dropped.load(Ordering::Relaxed), 1);
    }
}
