//! A way to a server that can be cut and opened again: an outage that harms no other test.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use url::Url;

use super::with;
use pipekeeper_core::secret::Secret;

/// What happens to those who come through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    Open,
    /// Connections are closed, new ones at once.
    Cut,
    /// Connections stay and nothing moves.
    Stalled,
    /// Open until a COMMIT: the server gets it, and the client no response.
    LosesCommit,
    /// The listener ends.
    Gone,
}

/// A TCP proxy on a port of its own that it keeps throughout. Threads, not tasks: it outlives any runtime.
#[derive(Debug)]
pub struct Gate {
    url: String,
    address: SocketAddr,
    inner: Arc<Inner>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

#[derive(Debug)]
struct Inner {
    server: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    passage: Passage,
    streams: Vec<TcpStream>,
}

impl Gate {
    /// Before the server of a URL with a host.
    pub fn before(url: &str) -> Self {
        let target = Url::parse(url).expect("a URL");
        let host = target.host_str().expect("a URL with a host");
        let default_port = if target.scheme() == "mysql" {
            3306
        } else {
            5432
        };
        let server = (host, target.port().unwrap_or(default_port))
            .to_socket_addrs()
            .expect("a host that is known")
            .next()
            .expect("a host with an address");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let inner = Arc::new(Inner {
            server,
            state: Mutex::new(State {
                passage: Passage::Open,
                streams: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        let gate = Self {
            url: with(url, |url| {
                url.set_host(Some("127.0.0.1"))
                    .expect("a URL that has a host");
                url.set_port(Some(address.port()))
                    .expect("a URL that has a host");
            }),
            address,
            inner: Arc::clone(&inner),
        };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if inner.passage() == Passage::Gone {
                    break;
                }
                // A client that is dropped here sees its connection closed.
                drop(inner.admit(&client));
            }
        });
        gate
    }

    /// The database's URL by way of this gate.
    pub fn url(&self) -> Secret {
        Secret::new(self.url.clone())
    }

    /// Closes every connection, and each new one, until [`Gate::open`].
    pub fn cut(&self) {
        self.inner.turn(Passage::Cut);
    }

    /// Lets nothing through and closes nothing, as a network does that swallows packets, until [`Gate::open`].
    pub fn stall(&self) {
        self.inner.turn(Passage::Stalled);
    }

    /// Lets everything through but the response to the next COMMIT: then it is as after [`Gate::cut`].
    pub fn lose_commit(&self) {
        self.inner.turn(Passage::LosesCommit);
    }

    pub fn open(&self) {
        self.inner.turn(Passage::Open);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.inner.turn(Passage::Gone);
        // Wakes the listener, which then ends.
        drop(TcpStream::connect(self.address));
    }
}

impl Inner {
    fn passage(&self) -> Passage {
        self.state.lock().expect("no holder panics").passage
    }

    fn turn(&self, passage: Passage) {
        let mut state = self.state.lock().expect("no holder panics");
        state.passage = passage;
        if matches!(passage, Passage::Cut | Passage::Gone) {
            for stream in state.streams.drain(..) {
                drop(stream.shutdown(Shutdown::Both));
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    fn admit(self: &Arc<Self>, client: &TcpStream) -> io::Result<()> {
        let server = TcpStream::connect(self.server)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let mut state = self.state.lock().expect("no holder panics");
        if state.passage == Passage::Cut {
            return client.shutdown(Shutdown::Both);
        }
        state.streams.push(client.try_clone()?);
        state.streams.push(server.try_clone()?);
        drop(state);
        let commits = Arc::new(AtomicBool::new(false));
        let (up, down) = (server.try_clone()?, client.try_clone()?);
        self.carry(Direction::ToServer, &commits, client.try_clone()?, up);
        self.carry(Direction::ToClient, &commits, server, down);
        Ok(())
    }

    fn carry(
        self: &Arc<Self>,
        direction: Direction,
        commits: &Arc<AtomicBool>,
        mut from: TcpStream,
        mut to: TcpStream,
    ) {
        let (inner, commits) = (Arc::clone(self), Arc::clone(commits));
        thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                let mut state = inner.state.lock().expect("no holder panics");
                while state.passage == Passage::Stalled {
                    state = inner.changed.wait(state).expect("no holder panics");
                }
                let Some(bytes) = buffer.get(..read) else {
                    break;
                };
                match (state.passage, direction) {
                    (Passage::LosesCommit, Direction::ToServer)
                        if bytes.windows(6).any(|word| word == b"COMMIT") =>
                    {
                        commits.store(true, Ordering::SeqCst);
                    }
                    (Passage::LosesCommit, Direction::ToClient)
                        if commits.load(Ordering::SeqCst) =>
                    {
                        drop(state);
                        inner.turn(Passage::Cut);
                        break;
                    }
                    _ => {}
                }
                drop(state);
                if to.write_all(bytes).is_err() {
                    break;
                }
            }
            drop(from.shutdown(Shutdown::Both));
            drop(to.shutdown(Shutdown::Both));
        });
    }
}
