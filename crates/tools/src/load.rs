//! A load generator: keep-alive connections that send one request over and over, as cheaply as it goes, because it shares
//! the machine with what it measures.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// What a run came to.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub per_second: f64,
    pub p50: Duration,
    pub p99: Duration,
}

impl Measured {
    /// # Errors
    /// Nothing was answered.
    pub fn of(mut took: Vec<Duration>, elapsed: Duration) -> anyhow::Result<Self> {
        ensure!(!took.is_empty(), "no request was answered");
        took.sort_unstable();
        let at = |hundredths: usize| {
            took.get((took.len() * hundredths / 100).min(took.len() - 1))
                .copied()
        };
        Ok(Self {
            per_second: f64::from(u32::try_from(took.len())?) / elapsed.as_secs_f64(),
            p50: at(50).context("no request was answered")?,
            p99: at(99).context("no request was answered")?,
        })
    }
}

/// When a run is over.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    Elapsed(Duration),
    Requests(usize),
}

/// Sends `request` (a whole HTTP/1.1 request) over `connections` connections; every answer has to be a 200.
pub async fn run(
    address: &str,
    request: &[u8],
    connections: usize,
    until: Until,
) -> anyhow::Result<Measured> {
    let started = now();
    let mut senders = JoinSet::new();
    for _ in 0..connections {
        let (address, request) = (address.to_owned(), request.to_vec());
        senders.spawn(async move {
            let mut stream = TcpStream::connect(&address).await.context("connect")?;
            stream.set_nodelay(true)?;
            let mut buffer = vec![0; 64 * 1024];
            let mut took = Vec::new();
            loop {
                let over = match until {
                    Until::Elapsed(limit) => started.elapsed() >= limit,
                    Until::Requests(limit) => took.len() >= limit.div_ceil(connections),
                };
                if over {
                    return Ok::<_, anyhow::Error>(took);
                }
                let sent = now();
                exchange(&mut stream, &request, &mut buffer).await?;
                took.push(sent.elapsed());
            }
        });
    }
    let mut all = Vec::new();
    while let Some(took) = senders.join_next().await {
        all.extend(took??);
    }
    Measured::of(all, started.elapsed())
}

/// Sends a request and reads its answer into the buffer: one with a Content-Length, and a success. Gives back its body.
pub async fn exchange<'a>(
    stream: &mut TcpStream,
    request: &[u8],
    buffer: &'a mut [u8],
) -> anyhow::Result<&'a [u8]> {
    stream.write_all(request).await?;
    let mut filled = 0;
    let (head, length) = loop {
        let free = buffer
            .get_mut(filled..)
            .context("an answer larger than expected")?;
        let read = stream.read(free).await?;
        ensure!(read > 0, "the connection was closed");
        filled += read;
        let so_far = buffer.get(..filled).unwrap_or_default();
        if let Some(end) = so_far.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = str::from_utf8(so_far.get(..end).unwrap_or_default())?;
            ensure!(
                head.starts_with("HTTP/1.1 200"),
                "{}",
                head.lines().next().unwrap_or_default()
            );
            let length = head
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .context("an answer without a length")?
                .1
                .trim()
                .parse::<usize>()?;
            break (end + 4, length);
        }
    };
    while filled < head + length {
        let free = buffer
            .get_mut(filled..)
            .context("an answer larger than expected")?;
        let read = stream.read(free).await?;
        ensure!(read > 0, "the answer was cut");
        filled += read;
    }
    buffer
        .get(head..head + length)
        .context("within what was read")
}

/// The bytes of a request.
pub fn request(method: &str, host: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a stopwatch for people, which no test turns"
)]
fn now() -> Instant {
    Instant::now()
}
