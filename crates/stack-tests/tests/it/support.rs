//! What several files of promises need.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, Once};
use std::time::Duration;

use pipekeeper_core::connection::{Connection, ConnectionId};
use pipekeeper_core::store::{Backend, RefreshLogEntry};
use serde_json::{Value, json};
use stack_tests::{Client, Reply, Stack};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use up::tasks::in_background;

pub(crate) const EMAIL: &str = "jane@example.com";
pub(crate) const NAME: &str = "Jane Doe";

/// Of this repository.
pub(crate) fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().unwrap()
}

/// A stack with one Marketplace install: user 1 of company 1.
pub(crate) async fn connected(backend: Backend) -> (Stack, Value) {
    let stack = Stack::start(backend).await;
    let connection = stack.connect(1, 1).await.unwrap();
    (stack, connection)
}

/// The id of a connection as an answer shows it.
#[track_caller]
pub(crate) fn id_of(connection: &Value) -> ConnectionId {
    let id = connection["id"].as_str().expect("a connection has an id");
    id.parse().expect("an id that we gave")
}

/// The row behind a connection.
pub(crate) async fn row(stack: &Stack, connection: &Value) -> Connection {
    let found = stack.store().connection_find(&id_of(connection)).await;
    found.unwrap().expect("the row is there")
}

/// All access tokens die, and no one is told.
pub(crate) async fn expire(client: &Client) {
    client.sim("expire", &json!({})).await.unwrap();
}

pub(crate) async fn settings(client: &Client, settings: Value) {
    client.sim("settings", &settings).await.unwrap();
}

pub(crate) async fn fault(client: &Client, fault: Value) {
    client.sim("faults", &fault).await.unwrap();
}

pub(crate) async fn clear_faults(client: &Client) {
    let url = format!("{}/_sim/faults", client.simulator);
    let answer = client.http.delete(url).send().await.unwrap();
    assert!(answer.status().is_success());
}

/// Refresh calls so far, whatever came of them.
pub(crate) async fn refreshes(client: &Client) -> u64 {
    client.token_calls("refresh_token").await.unwrap()
}

/// What the simulator knows of one grant.
pub(crate) async fn books(client: &Client, company: u64, user: u64) -> Value {
    let stats = client.stats().await.unwrap();
    let entries = stats["books"].as_array().unwrap();
    let of_user = |entry: &&Value| entry["company_id"] == company && entry["user_id"] == user;
    entries.iter().find(of_user).cloned().unwrap_or_default()
}

/// What all of these callers, coming at once, are told.
pub(crate) async fn crowd(callers: impl IntoIterator<Item = Client>, email: &str) -> Vec<Reply> {
    let mut crowd = JoinSet::new();
    for caller in callers {
        let email = email.to_owned();
        crowd.spawn(async move { caller.person(&email).await.unwrap() });
    }
    crowd.join_all().await
}

/// A token request that the simulator holds before it takes effect: however slow the machine is, what a test does meanwhile
/// happens meanwhile.
#[derive(Debug)]
pub(crate) struct Held {
    reached: watch::Receiver<bool>,
    release: watch::Sender<bool>,
}

/// Has the simulator hold the next refresh before it takes effect.
pub(crate) async fn hold_refresh(client: &Client) -> Held {
    hold_refresh_at(client, "before_commit").await
}

/// Has the simulator hold the next refresh: `before_commit`, `after_commit`.
pub(crate) async fn hold_refresh_at(client: &Client, when: &str) -> Held {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (tell, reached) = watch::channel(false);
    let (release, mut released) = watch::channel(false);
    in_background(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _head = stream.read(&mut request).await.unwrap();
        tell.send_replace(true);
        // A test that is over lets go, too.
        drop(released.wait_for(|released| *released).await);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let _gone = stream.write_all(answer).await;
    });
    let call = json!({
        "on": "token", "grant": "refresh_token", "fault": "call", "url": url, "when": when,
    });
    fault(client, call).await;
    Held { reached, release }
}

impl Held {
    /// The instant at which the refresh token is at the provider.
    pub(crate) async fn reached(&mut self) {
        let reached = self.reached.wait_for(|reached| *reached);
        let reached = tokio::time::timeout(HANGS, reached).await;
        reached.expect("the refresh comes").unwrap();
    }

    pub(crate) fn release(&self) {
        self.release.send_replace(true);
    }
}

/// Nothing on a slow machine takes so long that does not hang.
pub(crate) const HANGS: Duration = Duration::from_mins(2);

/// Asks again and again, a while apart, until something holds.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, holds: impl Fn() -> F) {
    let asking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let asked = tokio::time::timeout(HANGS, asking).await;
    assert!(asked.is_ok(), "{what}: not within {HANGS:?}");
}

/// Anyone who has to wait after a failed refresh waits for as long as the access token lives: no next call is late enough.
pub(crate) fn wait_longer(stack: &Stack) {
    stack.sql("UPDATE connections SET retry_at = expires_at WHERE retry_at IS NOT NULL");
}

/// A connection's lines of `refresh_log`, once there are so many: they are written after everybody has been answered.
pub(crate) async fn refresh_log(
    stack: &Stack,
    id: &ConnectionId,
    lines: usize,
) -> Vec<RefreshLogEntry> {
    let log = async || stack.store().refresh_log_for(id, 100).await.unwrap();
    until("the lines are written", || async {
        log().await.len() >= lines
    })
    .await;
    log().await
}

/// Panics so far outside of the tests themselves: a service's, which its HTTP server would hide. Counted from the first call.
pub(crate) fn panics_in_services() -> u64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let at = panic.location().map_or("", |at| at.file());
            // `Result::unwrap` and its like name the test that called them.
            COUNT.fetch_add(u64::from(!at.contains("stack-tests")), Ordering::Relaxed);
            hook(panic);
        }));
    });
    COUNT.load(Ordering::Relaxed)
}

/// The same until it is answered with 200; if it never is, the last answer says why.
pub(crate) async fn until_ok<F: Future<Output = Reply>>(what: &str, ask: impl Fn() -> F) {
    let last = Mutex::new(None);
    let asking = async {
        loop {
            let answer = ask().await;
            if answer.status == 200 {
                return;
            }
            *last.lock().unwrap() = Some(answer);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let asked = tokio::time::timeout(HANGS, asking).await;
    assert!(asked.is_ok(), "{what}: not within {HANGS:?}: {last:?}");
}
