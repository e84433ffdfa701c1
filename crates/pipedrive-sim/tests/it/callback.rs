//! The other side of a callback: a listener that keeps what it was sent.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

pub(crate) struct Callback {
    pub(crate) url: String,
    requests: Receiver<String>,
}

impl Callback {
    /// Answers every request with 202 and "noted".
    pub(crate) fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!(
            "http://{}/callback",
            listener.local_addr().expect("an address")
        );
        let (seen, requests) = mpsc::channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                seen.send(read_request(&mut stream)).ok();
                let answer =
                    b"HTTP/1.1 202 Accepted\r\ncontent-length: 5\r\nconnection: close\r\n\r\nnoted";
                stream.write_all(answer).ok();
            }
        });
        Self { url, requests }
    }

    /// The next request, as it came over the wire.
    #[track_caller]
    pub(crate) fn request(&self) -> String {
        self.requests
            .recv_timeout(Duration::from_mins(2))
            .expect("a request")
    }

    pub(crate) fn silent(&self) -> bool {
        self.requests.try_recv().is_err()
    }
}

fn read_request(stream: &mut std::net::TcpStream) -> String {
    let mut request = String::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read(&mut buffer).expect("bytes");
        request.push_str(&String::from_utf8_lossy(&buffer[..read]));
        if let Some((head, body)) = request.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_lowercase()
                        .strip_prefix("content-length:")?
                        .trim()
                        .parse()
                        .ok()
                })
                .unwrap_or(0);
            if body.len() >= length {
                return request;
            }
        }
        assert_ne!(read, 0, "the request broke off");
    }
}
