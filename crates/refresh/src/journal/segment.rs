//! A segment: a file of lines that one process has written from its first to its last.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::disk::new_file;
use super::entry::{self, Entry, HEAD};
use super::slot;

/// At which size a segment is closed and the next begun. One is read whole: it has to fit into memory.
pub(super) const SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// No line of ours is longer.
const LINE_BYTES: usize = 4 * 1024 * 1024;
const SUFFIX: &str = ".jsonl";

/// `<number>-<incarnation>.jsonl`. Numbers grow within a slot; with the incarnation no name is ever used again, so that
/// a reader may go on from where it has read a segment to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentName {
    pub(super) number: u64,
    pub(super) incarnation: String,
}

impl SegmentName {
    pub(super) fn file(&self) -> String {
        format!("{:08}-{}{SUFFIX}", self.number, self.incarnation)
    }

    fn parse(file: &str) -> Option<Self> {
        let (number, incarnation) = file.strip_suffix(SUFFIX)?.split_once('-')?;
        slot::is_name(incarnation).then_some(())?;
        Some(Self {
            number: number.parse().ok()?,
            incarnation: incarnation.to_owned(),
        })
    }
}

/// A slot's segments, in the order they were begun.
pub(super) fn names(slot: &Path) -> io::Result<Vec<SegmentName>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(slot)? {
        let file = entry?.file_name();
        names.extend(file.to_str().and_then(SegmentName::parse));
    }
    names.sort();
    Ok(names)
}

/// What was read of a segment.
#[derive(Debug, Default)]
pub(super) struct Read<'a> {
    /// Whole entries, and where in the bytes they begin.
    pub(super) entries: Vec<(usize, Entry<'a>)>,
    /// What lies between whole entries and is none.
    pub(super) corrupt: Vec<Range<usize>>,
    /// The end of the last whole entry. What lies behind is torn, or not wholly written yet.
    pub(super) end: usize,
}

/// Takes lines apart. A line that does not read may still hold whole entries: the newline between two of them may be what
/// has rotted.
pub(super) fn read(bytes: &[u8]) -> Read<'_> {
    let mut read = Read::default();
    let mut corrupt_from = None;
    let mut at = 0;
    for line in bytes.split_inclusive(|&byte| byte == b'\n') {
        for piece in pieces(line) {
            match whole(piece) {
                Some((entry, length)) => {
                    if let Some(from) = corrupt_from.take() {
                        read.corrupt.push(from..at);
                    }
                    read.entries.push((at, entry));
                    read.end = at + length;
                    if length < piece.len() {
                        corrupt_from = Some(at + length);
                    }
                }
                None if piece == b"\n" => {}
                None => corrupt_from = corrupt_from.or(Some(at)),
            }
            at += piece.len();
        }
    }
    read
}

/// Cuts before everything that looks like the beginning of an entry.
fn pieces(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = line;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let next = rest
            .windows(HEAD.len())
            .skip(1)
            .position(|window| window == HEAD)
            .map_or(rest.len(), |before| before + 1);
        let (piece, after) = rest.split_at_checked(next)?;
        rest = after;
        Some(piece)
    })
}

/// The entry and its length with the newline, if the piece is one; or one and a byte that was a newline.
fn whole(piece: &[u8]) -> Option<(Entry<'_>, usize)> {
    let (last, before) = piece.split_last()?;
    if let Ok(entry) = entry::decode(before) {
        let newline = usize::from(*last == b'\n');
        return Some((entry, before.len() + newline));
    }
    let entry = entry::decode(piece).ok()?;
    Some((entry, piece.len()))
}

/// All that was written after `from`.
pub(super) fn bytes_from(path: &Path, from: u64) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    if length > from {
        let mut file = file;
        io::Seek::seek(&mut file, io::SeekFrom::Start(from))?;
        file.read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// The line that begins there, without its newline.
pub(super) fn line_at(path: &Path, offset: u32) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    let mut line = Vec::new();
    let mut chunk = vec![0; 4096];
    while line.len() < LINE_BYTES {
        let at = u64::from(offset).saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX));
        let count = file.read_at(&mut chunk, at)?;
        let read = chunk.get(..count).unwrap_or_default();
        if let Some(end) = read.iter().position(|&byte| byte == b'\n') {
            line.extend(read.iter().take(end));
            break;
        }
        if read.is_empty() {
            break;
        }
        line.extend(read);
    }
    Ok(line)
}

/// Copies what can't be read to a file of its own, once for all processes and starts, and tells.
pub(super) fn quarantine(slot: &Path, segment: &SegmentName, offset: u32, bytes: &[u8]) {
    let name = format!(
        "corrupt-{:08}-{}-{offset}",
        segment.number, segment.incarnation
    );
    let path = slot.join(name);
    let kept = match new_file(&path) {
        Ok(mut file) => file.write_all(bytes),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return,
        Err(error) => Err(error),
    };
    metrics::counter!("pipekeeper_journal_corrupt_total").increment(1);
    let copy = path.display();
    match kept {
        Ok(()) => tracing::error!(
            "an entry of the journal can't be read: the disk has changed it. What is left of it is in `{copy}`"
        ),
        Err(error) => tracing::error!(
            "an entry of the journal can't be read: the disk has changed it. No copy in `{copy}`: {error}"
        ),
    }
}
