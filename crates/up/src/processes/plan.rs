//! The plan of a stack: what is started, and what its callers know of it.

use std::path::PathBuf;

use pipedrive_sim::{DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET};
use pipekeeper_core::secret::Secret;

use crate::client::Client;

pub const SIMULATOR: &str = "pipedrive-sim";

/// The services, in the order in which their processes start.
pub const SERVICES: [&str; 3] = ["token-refresher", "data-api", "auth-capture"];

/// What is started, and where.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Holds the database, the generated secrets and the logs.
    pub data: PathBuf,
    /// auth-capture listens here, data-api and token-refresher on the next two, the simulator ten further on; each
    /// service's metrics are a thousand further on.
    pub base_port: u16,
    /// The database; by default a `SQLite` file in `data`.
    pub database_url: Option<Secret>,
    /// A registration with the real Pipedrive: no simulator is started.
    pub registration: Option<Registration>,
    pub without: Vec<String>,
    /// Second, third and fourth processes of token-refresher and data-api: `data-api-2`. A data-api asks the token-refresher
    /// of its own number, if there is one.
    pub more: Vec<String>,
    /// The program that is started as token-refresher.
    pub refresher: String,
    /// `SERVICE.SECTION.KEY` and its value, or `PROCESS.SECTION.KEY` for one of several.
    pub set: Vec<(String, String)>,
}

/// Client id, secret and callback URL, as Pipedrive's Developer Hub shows them.
#[derive(Debug, Clone)]
pub struct Registration {
    pub client_id: String,
    pub client_secret: Secret,
    pub redirect_url: String,
}

impl Plan {
    pub fn new(data: PathBuf, base_port: u16) -> Self {
        Self {
            data,
            base_port,
            database_url: None,
            registration: None,
            without: Vec::new(),
            more: Vec::new(),
            refresher: "token-refresher".to_owned(),
            set: Vec::new(),
        }
    }

    /// Every process that this plan starts, in order.
    pub fn processes(&self) -> Vec<String> {
        let more = |service: &'static str| {
            let of_service = move |process: &&String| service_of(process) == service;
            self.more.iter().filter(of_service).cloned()
        };
        let services = SERVICES
            .into_iter()
            .flat_map(|service| std::iter::once(service.to_owned()).chain(more(service)));
        std::iter::once(SIMULATOR.to_owned())
            .chain(services)
            .filter(|process| self.starts(process))
            .collect()
    }

    fn starts(&self, process: &str) -> bool {
        (process != SIMULATOR || self.registration.is_none())
            && !self.without.iter().any(|left_out| left_out == process)
    }

    pub(super) fn registration(&self) -> Registration {
        self.registration.clone().unwrap_or_else(|| Registration {
            client_id: DEFAULT_CLIENT_ID.to_owned(),
            client_secret: Secret::from(DEFAULT_CLIENT_SECRET),
            redirect_url: format!("{}/webhook/pipedrive/callback", self.url("auth-capture")),
        })
    }

    /// Makes what the processes need, and looks whether their ports are free.
    pub fn prepare(&self) -> anyhow::Result<()> {
        self.make_data()?;
        self.check_ports()
    }

    /// What answers 200 once the process is ready.
    pub fn ready_url(&self, process: &str) -> String {
        let path = if process == SIMULATOR {
            "/_sim/healthz"
        } else {
            "/readyz"
        };
        format!("{}{path}", self.url(process))
    }

    /// What a caller of this stack knows.
    pub fn client(&self) -> anyhow::Result<Client> {
        let registration = self.registration();
        Ok(Client {
            http: Client::http()?,
            auth_capture: self.url("auth-capture"),
            data_api: self.url("data-api"),
            token_refresher: self.url("token-refresher"),
            simulator: self.url(SIMULATOR),
            refresher_metrics: format!(
                "http://127.0.0.1:{}/metrics",
                self.metrics_port("token-refresher")
            ),
            client_id: registration.client_id,
            redirect_url: registration.redirect_url,
            webhook: ("n8n".to_owned(), self.secret("webhook.password")?),
            refresher: ("pipekeeper".to_owned(), self.secret("refresher.password")?),
        })
    }
}

/// `data-api` of `data-api-2`.
pub(super) fn service_of(process: &str) -> &str {
    match process.rsplit_once('-') {
        Some((service, number)) if number.parse::<u16>().is_ok() => service,
        _ => process,
    }
}

/// 2 of `data-api-2`, 1 of `data-api`.
pub(super) fn number_of(process: &str) -> u16 {
    let number = process.rsplit('-').next().unwrap_or_default();
    number.parse().unwrap_or(1)
}
