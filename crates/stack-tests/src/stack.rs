//! The stack in this process: a simulator, any number of each service, and a database of their own.

use std::ops::Deref;

use auth_capture::AuthCapture;
use data_api::DataApi;
use pipedrive_sim::{App, Options, Simulator};
use pipekeeper_core::config::Sources;
use pipekeeper_core::crypto::Keyring;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, Store};
use pipekeeper_service::{Loaded, Server, Service};
use pipekeeper_testing::{Gate, TestDatabase, TestDirectory};
use token_refresher::TokenRefresher;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use up::client::Client;
use up::processes::{stand_in, variable};
use up::tasks::in_background;

/// Nothing listens there: tests take the callback's query from the simulator's redirect themselves.
pub const REDIRECT_URL: &str = "http://127.0.0.1:1/webhook/pipedrive/callback";

/// A second registration with the same provider, which no service of the stack has.
pub const OTHER_APP: &str = "another-client-id";

/// What a test wants otherwise.
#[derive(Debug, Clone, Copy, Default)]
pub struct Setup<'a> {
    /// More of them than one.
    pub more_refreshers: usize,
    pub more_data_apis: usize,
    /// `SERVICE.SECTION.KEY` and its value; the service may be `*`.
    pub set: &'a [(&'a str, &'a str)],
    /// Puts something between the services and the database that can be cut. Not for `SQLite`.
    pub gated: bool,
}

/// One running stack; stopped when dropped.
#[derive(Debug)]
pub struct Stack {
    /// Talks to the first of each service.
    pub client: Client,
    /// The addresses of all data-apis, the first one's included.
    pub data_apis: Vec<String>,
    /// The addresses of all token-refreshers, the first one's included.
    pub refreshers: Vec<String>,
    pub gate: Option<Gate>,
    refresher_stops: Vec<(CancellationToken, JoinHandle<()>)>,
    stop: CancellationToken,
    plan: Plan,
    store: Store,
    simulator: Simulator,
    database: TestDatabase,
    _journal: TestDirectory,
}

impl Deref for Stack {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Stack {
    pub async fn start(backend: Backend) -> Self {
        Self::with(backend, Setup::default()).await
    }

    #[track_caller]
    #[expect(clippy::manual_async_fn, reason = "an async fn can't be track_caller")]
    pub fn with(backend: Backend, setup: Setup<'_>) -> impl Future<Output = Self> {
        async move {
            Self::try_with(backend, setup)
                .await
                .expect("the stack comes up")
        }
    }

    async fn try_with(backend: Backend, setup: Setup<'_>) -> anyhow::Result<Self> {
        let database = TestDatabase::migrated(backend).await;
        let gate = setup.gated.then(|| database.gate());
        let database_url = gate.as_ref().map_or_else(|| database.url(), Gate::url);
        let [app, other] = two_apps();
        let options = Options {
            apps: vec![app.clone(), other],
            ..Options::default()
        };
        let simulator = Simulator::start(options).await?;
        let journal = TestDirectory::create();
        let stop = CancellationToken::new();
        let plan = Plan {
            database_url,
            keys: Keyring::generate("test"),
            simulator: simulator.url(),
            app: app.clone(),
            journal: journal.path().display().to_string(),
            set: owned(setup.set),
        };

        let (mut refreshers, mut refresher_stops) = (Vec::new(), Vec::new());
        let mut refresher_metrics = String::new();
        for _ in 0..=setup.more_refreshers {
            let own_stop = stop.child_token();
            let running = plan.serve::<TokenRefresher>("", &own_stop).await?;
            refreshers.push(running.url);
            refresher_metrics = running.metrics;
            refresher_stops.push((own_stop, running.task));
        }
        let refresher_url = refreshers.first().cloned().unwrap_or_default();
        let mut data_apis = Vec::new();
        for index in 0..=setup.more_data_apis {
            // Each asks a refresher of its own, as far as there are enough.
            let refresher = refreshers.get(index).unwrap_or(&refresher_url);
            data_apis.push(plan.serve::<DataApi>(refresher, &stop).await?.url);
        }
        let auth_capture = plan.serve::<AuthCapture>(&refresher_url, &stop).await?.url;

        let client = Client {
            http: Client::http()?,
            auth_capture,
            data_api: data_apis.first().cloned().unwrap_or_default(),
            token_refresher: refresher_url,
            simulator: simulator.url(),
            refresher_metrics,
            client_id: app.client_id,
            redirect_url: app.redirect_url,
            webhook: ("n8n".to_owned(), Secret::from(WEBHOOK_PASSWORD)),
            refresher: ("pipekeeper".to_owned(), Secret::from(REFRESHER_PASSWORD)),
        };
        Ok(Self {
            client,
            data_apis,
            refreshers,
            gate,
            refresher_stops,
            stop,
            plan,
            store: database.store(),
            simulator,
            database,
            _journal: journal,
        })
    }

    /// A store on the stack's database, past any gate.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The stack's database, past any gate.
    pub fn database_url(&self) -> Secret {
        self.database.url()
    }

    /// The stack's database itself.
    pub fn database(&self) -> &TestDatabase {
        &self.database
    }

    /// What the services seal with.
    pub fn encryption_keys(&self) -> &Secret {
        &self.plan.keys
    }

    /// Runs SQL of the test's own on the stack's database.
    #[track_caller]
    pub fn sql(&self, query: &str) -> Vec<String> {
        self.database.lines(query).expect("the database takes it")
    }

    /// The simulator's own address, past whatever the services are told.
    pub fn simulator_url(&self) -> String {
        self.simulator.url()
    }

    /// One more data-api, configured otherwise, on the same database; the same client, talking to it.
    #[track_caller]
    pub fn add_data_api(&self, set: &[(&str, &str)]) -> impl Future<Output = Client> {
        let plan = self.plan.with(set);
        async move {
            let refresher = self.client.token_refresher.as_str();
            let running = plan.serve::<DataApi>(refresher, &self.stop).await;
            Client {
                data_api: running.expect("one more data-api comes up").url,
                ..self.client.clone()
            }
        }
    }

    /// One more token-refresher, configured otherwise, on the same database; the same client, talking to it.
    #[track_caller]
    pub fn add_refresher(&self, set: &[(&str, &str)]) -> impl Future<Output = Client> {
        let plan = self.plan.with(set);
        async move {
            let running = plan.serve::<TokenRefresher>("", &self.stop).await;
            Client {
                token_refresher: running.expect("one more token-refresher comes up").url,
                ..self.client.clone()
            }
        }
    }

    /// One more auth-capture, configured otherwise, on the same database; the same client, talking to it.
    #[track_caller]
    pub fn add_auth_capture(&self, set: &[(&str, &str)]) -> impl Future<Output = Client> {
        let plan = self.plan.with(set);
        async move {
            let refresher = self.client.token_refresher.as_str();
            let running = plan.serve::<AuthCapture>(refresher, &self.stop).await;
            Client {
                auth_capture: running.expect("one more auth-capture comes up").url,
                ..self.client.clone()
            }
        }
    }

    /// The same client, talking to another data-api.
    pub fn through(&self, data_api: usize) -> Client {
        let mut client = self.client.clone();
        if let Some(url) = self.data_apis.get(data_api) {
            client.data_api.clone_from(url);
        }
        client
    }

    /// Stops all token-refreshers and waits for their end.
    pub async fn stop_refreshers(&mut self) {
        for (stop, task) in self.refresher_stops.drain(..) {
            stop.cancel();
            task.await.expect("token-refresher stops without a panic");
        }
    }
}

const WEBHOOK_PASSWORD: &str = "webhook-password";
const REFRESHER_PASSWORD: &str = "refresher-password";

struct Running {
    url: String,
    metrics: String,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone)]
struct Plan {
    database_url: Secret,
    keys: Secret,
    simulator: String,
    app: App,
    journal: String,
    set: Vec<(String, String)>,
}

fn owned(set: &[(&str, &str)]) -> Vec<(String, String)> {
    set.iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

impl Plan {
    fn with(&self, set: &[(&str, &str)]) -> Self {
        let mut plan = self.clone();
        plan.set.extend(owned(set));
        plan
    }

    async fn serve<S: Service>(
        &self,
        refresher: &str,
        stop: &CancellationToken,
    ) -> anyhow::Result<Running> {
        let env = self.environment(S::NAME, refresher);
        let config = Loaded::<S>::from(&Sources {
            defaults: S::DEFAULTS,
            file: None,
            env,
        })?;
        config.common.telemetry.init();
        let server = Server::start(config).await?;
        let url = format!("http://{}", server.addr());
        let metrics = format!("http://{}/metrics", server.metrics_addr());
        let stop = stop.clone();
        let task = in_background(async move {
            server.run_until(stop).await.expect("the service ends well");
        });
        await_ready(&url).await?;
        Ok(Running { url, metrics, task })
    }

    fn environment(&self, service: &str, refresher: &str) -> Vec<(String, String)> {
        let mut keys = vec![
            ("database.url", self.database_url.expose().to_owned()),
            ("encryption.keys", self.keys.expose().to_owned()),
            ("http.listen", "127.0.0.1:0".to_owned()),
            ("http.metrics_listen", "127.0.0.1:0".to_owned()),
            ("http.workers", "2".to_owned()),
            ("http.shutdown_grace_secs", "75".to_owned()),
            ("telemetry.format", "pretty".to_owned()),
            ("telemetry.filter", test_log_filter()),
            ("apps.pipedrive.client_id", self.app.client_id.clone()),
        ];
        keys.extend(stand_in(&self.simulator));
        if service != "data-api" {
            keys.push((
                "apps.pipedrive.client_secret",
                self.app.client_secret.clone(),
            ));
        }
        if service == "token-refresher" {
            keys.push(("webhook.password", REFRESHER_PASSWORD.to_owned()));
            keys.push(("journal.directory", self.journal.clone()));
            // No slow machine reaches these.
            keys.push(("refresh.timeout_secs", "60".to_owned()));
            keys.push(("refresh.lease_secs", "130".to_owned()));
        } else {
            keys.push((
                "refresher.url",
                format!("{refresher}/webhook/pipedrive/refresh"),
            ));
            keys.push(("refresher.password", REFRESHER_PASSWORD.to_owned()));
        }
        match service {
            "data-api" => keys.push(("webhook.password", WEBHOOK_PASSWORD.to_owned())),
            "auth-capture" => {
                keys.push(("apps.pipedrive.redirect_url", self.app.redirect_url.clone()));
                keys.push(("login.operator_password", WEBHOOK_PASSWORD.to_owned()));
                keys.push(("login.store_patience_secs", "5".to_owned()));
                // All of a test's callers have one address.
                keys.push(("login.installs_per_minute", "60000".to_owned()));
            }
            _ => {}
        }
        let mut env: Vec<_> = keys
            .into_iter()
            .map(|(key, value)| (variable(key), value))
            .collect();
        for (path, value) in &self.set {
            let fits = path
                .split_once('.')
                .filter(|(to, _)| *to == "*" || *to == service);
            if let Some((_, key)) = fits {
                env.retain(|(name, _)| *name != variable(key));
                env.push((variable(key), value.clone()));
            }
        }
        env
    }
}

/// The simulator's own app and [`OTHER_APP`], with our callback.
pub fn two_apps() -> [App; 2] {
    let app = App {
        redirect_url: REDIRECT_URL.to_owned(),
        ..App::default()
    };
    let other = App {
        client_id: OTHER_APP.to_owned(),
        ..app.clone()
    };
    [app, other]
}

/// `TEST_LOG=debug` shows what the services say.
#[expect(clippy::disallowed_methods, reason = "a test's own switch")]
fn test_log_filter() -> String {
    std::env::var("TEST_LOG").unwrap_or_else(|_| "off".to_owned())
}

/// Until the schema is seen a service answers 503; from its first 200 here it takes every request.
async fn await_ready(url: &str) -> anyhow::Result<()> {
    let http = Client::http()?;
    tokio::time::timeout(std::time::Duration::from_mins(2), async {
        loop {
            let response = http.get(format!("{url}/readyz")).send().await;
            if response.is_ok_and(|response| response.status().is_success()) {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await?;
    let next = http.get(format!("{url}/openapi.json")).send().await?;
    next.error_for_status()?;
    Ok(())
}
