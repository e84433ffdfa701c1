//! A token endpoint that gives every caller new tokens, as fast as it goes or after a while: what is results is ours alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use pipekeeper_core::random;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use up::tasks::in_background;

pub(super) struct Provider {
    pub(super) url: String,
    pub(super) calls: Arc<AtomicUsize>,
}

impl Provider {
    /// The access tokens that it gives live so long.
    pub(super) async fn start(delay: Duration, expires_in: Duration) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/oauth/token", listener.local_addr()?);
        let calls = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&calls);
        in_background(async move {
            while let Ok((socket, _)) = listener.accept().await {
                in_background(serve(socket, delay, expires_in, Arc::clone(&counted)));
            }
        });
        Ok(Self { url, calls })
    }
}

/// Answers one connection's requests; whatever is wrong with one ends it.
async fn serve(
    mut socket: TcpStream,
    delay: Duration,
    expires_in: Duration,
    calls: Arc<AtomicUsize>,
) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let mut came = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = socket.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        came.extend_from_slice(buffer.get(..read).context("within the buffer")?);
        if !is_whole(&came) {
            continue;
        }
        came.clear();
        // A sleep of no time takes a millisecond.
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let body = format!(
            r#"{{"access_token":"{}","refresh_token":"{}","token_type":"Bearer","expires_in":{}}}"#,
            random::token(),
            random::token(),
            expires_in.as_secs(),
        );
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        socket.write_all(answer.as_bytes()).await?;
        calls.fetch_add(1, Ordering::Relaxed);
    }
}

/// Head and body of a request with a Content-Length.
fn is_whole(came: &[u8]) -> bool {
    let Some(end) = came.windows(4).position(|four| four == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(came.get(..end).unwrap_or_default()).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .and_then(|length| length.trim().parse::<usize>().ok());
    length.is_some_and(|length| came.len() >= end + 4 + length)
}
