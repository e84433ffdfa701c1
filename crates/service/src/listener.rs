//! The listening socket: bound, and closed without losing a connection.

use std::net::{SocketAddr, TcpListener};
#[cfg(target_os = "linux")]
use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::Context as _;

/// How long connections that are being made have to be complete, and taken, on a machine that is busy too.
const LAST_ARRIVALS: Duration = Duration::from_millis(500);

pub(crate) fn bind(addr: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).with_context(|| {
        format!("can't listen on {addr}: is another process there? The address is {key}")
    })
}

/// Lets no one in any more, and waits until those who came were taken by who accepts. A listening socket that is merely
/// closed resets what still stands in its queue, where a request may have been sent already: a proxy in front could not tell
/// whether it may be sent again.
pub(crate) async fn stop_accepting(listener: TcpListener) {
    if let Err(error) = ignore_newcomers(&listener) {
        tracing::warn!("connections that are just being made may be reset: {error}");
        return;
    }
    tokio::time::sleep(LAST_ARRIVALS).await;
    drop(listener);
}

/// Bound to a network interface that is none, the socket takes no new connection: newcomers are refused. Needs no privilege.
#[cfg(target_os = "linux")]
fn ignore_newcomers(listener: &TcpListener) -> std::io::Result<()> {
    const NOWHERE: NonZeroU32 = NonZeroU32::new(i32::MAX.unsigned_abs()).expect("is not 0");
    socket2::SockRef::from(listener).bind_device_by_index_v4(Some(NOWHERE))
}

#[cfg(not(target_os = "linux"))]
fn ignore_newcomers(_listener: &TcpListener) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn who_came_in_time_is_taken_and_who_comes_late_is_refused() {
        let listener = bind("127.0.0.1:0".parse().unwrap(), "http.listen").unwrap();
        let addr = listener.local_addr().unwrap();
        let accepting = listener.try_clone().unwrap();
        let mut in_time = TcpStream::connect(addr).unwrap();
        in_time.write_all(b"a request").unwrap();

        stop_accepting(listener).await;

        // Though the other handle still holds the socket.
        let late = TcpStream::connect(addr);
        assert_eq!(late.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        let (mut taken, _) = accepting.accept().unwrap();
        let mut request = [0; 9];
        taken.read_exact(&mut request).unwrap();
        assert_eq!(&request, b"a request");
    }
}
