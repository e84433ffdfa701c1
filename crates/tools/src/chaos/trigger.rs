//! Where the simulator's `call` fault calls: the refresher whose token call was hit dies before the answer is given.

use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use url::Url;

use super::crew::Crew;
use super::schedule::Point;

/// An HTTP server of one route; ends when dropped.
#[derive(Debug)]
pub struct Trigger {
    port: u16,
    _serving: JoinSet<()>,
}

impl Trigger {
    pub async fn start(crew: Arc<Crew>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut calls = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                calls.spawn(answer(stream, Arc::clone(&crew)));
                while calls.try_join_next().is_some() {}
            }
        });
        Ok(Self {
            port,
            _serving: serving,
        })
    }

    /// What the fault is to call; `{query}` is the simulator's to fill in with the query of the token call.
    pub fn url(&self, point: Point, down_ms: u64) -> String {
        format!(
            "http://127.0.0.1:{}/?why={}&down_ms={down_ms}&{{query}}",
            self.port,
            point.name()
        )
    }
}

async fn answer(mut stream: TcpStream, crew: Arc<Crew>) {
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
    kill(head.split(' ').nth(1).unwrap_or_default(), &crew).await;
    let done = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
    drop(stream.write_all(done).await);
}

async fn kill(target: &str, crew: &Crew) {
    let Ok(url) = Url::parse(&format!("http://trigger{target}")) else {
        return;
    };
    let field = |name: &str| {
        let found = url.query_pairs().find(|(key, _)| key == name);
        found
            .map(|(_, value)| value.into_owned())
            .unwrap_or_default()
    };
    if let Ok(member) = crew.member(&field("from")) {
        let down_ms = field("down_ms").parse().unwrap_or_default();
        member.kill(&field("why"), down_ms).await;
    }
}
