//! Where the simulator's `call` fault calls in the middle of a token call: it goes on when it is answered.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use url::Url;

use super::event_log::Life;

/// A token call that waits until this is dropped.
#[derive(Debug)]
pub struct Hit {
    /// The number of the step that was aimed at it.
    pub step: u64,
    pub process: String,
    pub life: Life,
    _held: oneshot::Sender<()>,
}

/// An HTTP server of one route; ends when dropped.
#[derive(Debug)]
pub struct Trigger {
    port: u16,
    _serving: JoinSet<()>,
}

impl Trigger {
    /// The server, and where its calls arrive.
    pub async fn start() -> std::io::Result<(Self, mpsc::UnboundedReceiver<Hit>)> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (hits, arriving) = mpsc::unbounded_channel();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut calls = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                calls.spawn(answer(stream, hits.clone()));
                while calls.try_join_next().is_some() {}
            }
        });
        let trigger = Self {
            port,
            _serving: serving,
        };
        Ok((trigger, arriving))
    }

    /// What the fault is to call; `{query}` is the simulator's to fill in with the query of the token call.
    pub fn url(&self, step: u64) -> String {
        format!("http://127.0.0.1:{}/?step={step}&{{query}}", self.port)
    }
}

async fn answer(mut stream: TcpStream, hits: mpsc::UnboundedSender<Hit>) {
    let mut head = vec![0; 4096];
    let mut filled = 0;
    while !head
        .get(..filled)
        .is_some_and(|head| head.ends_with(b"\r\n\r\n"))
    {
        let Some(free) = head.get_mut(filled..) else {
            return;
        };
        match stream.read(free).await {
            Ok(read @ 1..) => filled += read,
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(head.get(..filled).unwrap_or_default()).into_owned();
    if let Some((hit, held)) = hit_of(head.split(' ').nth(1).unwrap_or_default())
        && hits.send(hit).is_ok()
    {
        // Nothing is ever sent: it is the hit's end that is waited for.
        let _dropped = held.await;
    }
    let done = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    drop(stream.write_all(done).await);
}

fn hit_of(target: &str) -> Option<(Hit, oneshot::Receiver<()>)> {
    let url = Url::parse(&format!("http://trigger{target}")).ok()?;
    let field = |name: &str| {
        let mut pairs = url.query_pairs();
        Some(pairs.find(|(key, _)| key == name)?.1.into_owned())
    };
    let (held, dropped) = oneshot::channel();
    let hit = Hit {
        step: field("step")?.parse().ok()?,
        process: field("from")?,
        life: field("life")?.parse().ok()?,
        _held: held,
    };
    Some((hit, dropped))
}
