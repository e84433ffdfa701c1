//! HTTP/1.1 without a library in the way: whatever bytes, many requests under way on one connection.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::requests::Request;

/// Longer than the longest answer may take: token-refresher waits eight seconds for another's refresh.
const PATIENCE: Duration = Duration::from_mins(2);

/// One connection at a time, to one service at a time.
#[derive(Default)]
pub(super) struct Wire {
    open: Option<(String, TcpStream)>,
    unread: Vec<u8>,
}

#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// In lower case.
    pub(super) head: String,
    pub(super) body: String,
}

impl Reply {
    pub(super) fn has(&self, text: &str) -> bool {
        self.head.contains(text)
    }
}

impl Wire {
    /// The answers to all of these, in their order. A server may close the connection after an answer; what was not
    /// answered yet is then asked again. Only the first on a fresh connection must not go without one.
    pub(super) async fn ask(&mut self, service: &str, batch: &[Request]) -> Vec<Reply> {
        let mut replies: Vec<Reply> = Vec::with_capacity(batch.len());
        while replies.len() < batch.len() {
            let fresh = self.connect(service).await;
            let open = run(&batch[replies.len()..]);
            let before = replies.len();
            self.exchange(open, &mut replies).await;
            assert!(
                replies.len() > before || !fresh,
                "no answer on a fresh connection to {:?}",
                open[0]
            );
        }
        replies
    }

    async fn connect(&mut self, service: &str) -> bool {
        if self.open.as_ref().is_some_and(|(to, _)| to == service) {
            return false;
        }
        self.unread.clear();
        let address = service.trim_start_matches("http://");
        let stream = TcpStream::connect(address)
            .await
            .expect("the service accepts");
        stream.set_nodelay(true).unwrap();
        self.open = Some((service.to_owned(), stream));
        true
    }

    /// Sends all, and takes answers until the last one's or until the connection ends.
    async fn exchange(&mut self, batch: &[Request], replies: &mut Vec<Reply>) {
        let Some((_, stream)) = self.open.as_mut() else {
            return;
        };
        let unread = &mut self.unread;
        let (mut from, mut to) = stream.split();
        let bytes: Vec<u8> = batch
            .iter()
            .flat_map(|request| request.bytes.iter().copied())
            .collect();
        let sending = async {
            // A server that has answered and closed does not take the rest.
            drop(to.write_all(&bytes).await);
            std::future::pending::<()>().await;
        };
        let taking = async {
            let mut taken = Vec::new();
            let ended = loop {
                if let Some((reply, closes)) = take(unread) {
                    taken.push(reply);
                    if taken.len() == batch.len() || closes {
                        break closes;
                    }
                    continue;
                }
                let reading = tokio::time::timeout(PATIENCE, from.read_buf(unread)).await;
                let Ok(read) = reading else {
                    let lengths: Vec<_> = batch.iter().map(|request| request.bytes.len()).collect();
                    let (first, before) = (&batch[taken.len()], taken.len());
                    panic!("no answer in time to {first:?}, after {before} others of {lengths:?}");
                };
                if read.unwrap_or(0) == 0 {
                    break true;
                }
            };
            (taken, ended)
        };
        let (taken, ended) = tokio::select! {
            taken = taking => taken,
            () = sending => unreachable!("it waits for ever"),
        };
        replies.extend(taken);
        if ended {
            self.open = None;
        }
    }
}

/// As many as can go together. What is no HTTP ends its connection at once, with whatever else is under way on it.
fn run(batch: &[Request]) -> &[Request] {
    let broken = batch.iter().position(|request| request.is_broken);
    &batch[..broken.unwrap_or(batch.len()).max(1)]
}

/// The first whole answer, and whether the connection ends with it.
fn take(unread: &mut Vec<u8>) -> Option<(Reply, bool)> {
    let end = unread.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&unread[..end]).to_lowercase();
    let status: u16 = head
        .split(' ')
        .nth(1)
        .and_then(|word| word.parse().ok())
        .expect("a status line");
    if status < 200 {
        unread.drain(..end + 4);
        return take(unread);
    }
    let field = |name: &str| {
        head.lines()
            .find_map(|line| line.strip_prefix(name))
            .map(str::trim)
    };
    let length: usize = field("content-length:").map_or(0, |text| text.parse().expect("a length"));
    assert!(
        field("transfer-encoding:").is_none(),
        "no answer is streamed: {head}"
    );
    if unread.len() < end + 4 + length {
        return None;
    }
    let body = String::from_utf8_lossy(&unread[end + 4..end + 4 + length]).into_owned();
    let closes = field("connection:") == Some("close");
    unread.drain(..end + 4 + length);
    Some((Reply { status, head, body }, closes))
}
