//! Starting and stopping: a simulator runs on threads of its own, so it works inside any runtime.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::rt::System;
use actix_web::{HttpServer, web};
use tokio::sync::oneshot;
use url::Url;

use crate::app::App;
use crate::outside;
use crate::routes;
use crate::settings::Settings;
use crate::world::Shared;

/// Longer than the idle time of the usual connection pools, so that a client never writes into a closing connection.
const KEEP_ALIVE: Duration = Duration::from_mins(2);

#[derive(Debug, Clone)]
pub struct Options {
    /// Port 0 takes a free one.
    pub listen: SocketAddr,
    pub apps: Vec<App>,
    pub workers: usize,
    /// The same seed gives the same codes and tokens.
    pub seed: Option<u64>,
    /// What the settings are at the start and after a reset.
    pub settings: Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            apps: vec![App::default()],
            workers: 1,
            seed: None,
            settings: Settings::default(),
        }
    }
}

/// A running simulator. Dropping it stops it too.
#[derive(Debug)]
pub struct Simulator {
    addr: SocketAddr,
    server: ServerHandle,
    thread: Option<thread::JoinHandle<io::Result<()>>>,
}

impl Simulator {
    /// Listens when it returns.
    pub async fn start(options: Options) -> io::Result<Self> {
        for app in &options.apps {
            Url::parse(&app.redirect_url)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        }
        let (started, start) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("pipedrive-sim".to_owned())
            .spawn(move || System::new().block_on(serve(options, started)))?;
        match start.await {
            Ok((addr, server)) => Ok(Self {
                addr,
                server,
                thread: Some(thread),
            }),
            // the thread ended before it listened; it says why
            Err(_) => Err(join(thread).err().unwrap_or_else(stopped_early)),
        }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Cuts every connection; returns when the port is free.
    pub async fn stop(mut self) {
        self.server.stop(false).await;
        if let Some(thread) = self.thread.take() {
            // the thread has nothing left to do but to return
            join(thread).ok();
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // the command is sent by the call; the future only waits for the end
        drop(self.server.stop(false));
    }
}

async fn serve(
    options: Options,
    started: oneshot::Sender<(SocketAddr, ServerHandle)>,
) -> io::Result<()> {
    let shared = web::Data::new(Shared::new(options.apps, options.settings, options.seed));
    let server = HttpServer::new(move || routes::app(&shared))
        .workers(options.workers)
        .tcp_nodelay(true)
        .keep_alive(KEEP_ALIVE)
        // A machine that stood still for a while has not lost its callers: 408 is no answer of Pipedrive's.
        .client_request_timeout(KEEP_ALIVE)
        // As many as the system allows: a crowd's first connections all come at once.
        .backlog(65_535)
        .disable_signals()
        .bind(options.listen)?;
    let addr = server.addrs().first().copied().ok_or_else(stopped_early)?;
    let server = server.run();
    if started.send((addr, server.handle())).is_err() {
        // the process that started us is gone
        return Ok(());
    }
    server.await
}

fn join(thread: thread::JoinHandle<io::Result<()>>) -> io::Result<()> {
    thread
        .join()
        .unwrap_or_else(|_panic| Err(io::Error::other("the simulator's thread panicked")))
}

fn stopped_early() -> io::Error {
    io::Error::other("the simulator stopped before it listened")
}

/// Whether a simulator listens there and is alive.
pub async fn healthy(listen: SocketAddr) -> bool {
    let Ok(client) = outside::http_client() else {
        return false;
    };
    // an unspecified address is one to listen on, not one to call
    let host = match listen.ip() {
        ip if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        ip => ip,
    };
    let url = format!(
        "http://{}/_sim/healthz",
        SocketAddr::new(host, listen.port())
    );
    client
        .get(url)
        .send()
        .await
        .is_ok_and(|answer| answer.status().is_success())
}
