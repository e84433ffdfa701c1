//! Senders that begin and don't go on.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// Half a request's header, or a header and a third of a body that has just the size that is taken.
fn beginning(number: usize) -> Vec<u8> {
    let head = "POST /webhook/pipedrive/person HTTP/1.1\r\nhost: x\r\n";
    if number.is_multiple_of(8) {
        return head.into();
    }
    let mut begun = format!("{head}content-length: 65000\r\n\r\n").into_bytes();
    begun.resize(begun.len() + 20_000, b' ');
    begun
}

/// All of them at once, until each has been turned away. Says how many there were.
pub(super) async fn senders(address: &str, count: usize) -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    let mut senders = JoinSet::new();
    for number in 0..count {
        let address = address.to_owned();
        senders.spawn(async move {
            let mut stream = TcpStream::connect(address).await.ok()?;
            stream.write_all(&beginning(number)).await.ok()?;
            let mut answer = Vec::new();
            // Closed, with or without an answer.
            let _reset = stream.read_to_end(&mut answer).await;
            Some(())
        });
    }
    senders.join_all().await.into_iter().flatten().count()
}
