//! One service, from its configuration to its last answered request.

use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_cors::Cors;
use actix_web::dev::ServerHandle;
use actix_web::middleware::{Condition, from_fn};
use actix_web::web::{self, Data};
use actix_web::{App, HttpResponse, HttpServer};
use anyhow::{Context as _, bail};
use futures_util::future::{join_all, select_all};
use pipekeeper_core::clock::{SharedClock, SystemClock};
use pipekeeper_core::config::{Loader, Problems, Sources};
use pipekeeper_core::store::{Backend, Schema, Store, StoreOptions};
use pipekeeper_core::vault::Vault;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_actix_web::AppExt as _;
use utoipa_actix_web::service_config::ServiceConfig;

use crate::config::{Common, Http};
use crate::health::{Degraded, SchemaTooNew, await_schema, healthz, lacks, readyz};
use crate::known_paths::KnownPaths;
use crate::listener::{bind, stop_accepting};
use crate::middleware::{no_route, observe};
use crate::observer::{Observer, Ready};
use pipekeeper_core::tasks::Tasks;

/// How long an idle connection is kept.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// What makes a service: its name, its configuration, its routes.
pub trait Service: Send + Sync + Sized + 'static {
    const NAME: &'static str;
    const ABOUT: &'static str;
    /// `config.default.toml`: every key, commented.
    const DEFAULTS: &'static str;
    /// Other paths of some routes: `(alias, route)`.
    const ALIASES: &'static [(&'static str, &'static str)];

    type Config: Clone + fmt::Debug + Send;

    /// What its command line does beside serving.
    type Command: clap::Subcommand + fmt::Debug + Clone + Send;

    /// Reads the service's own sections; what is returned beside a problem is not used.
    fn configure(loader: &mut Loader) -> Self::Config;

    fn build(config: Self::Config, context: Context) -> anyhow::Result<Self>;

    /// Every URL on one screen.
    fn routes(routes: &mut ServiceConfig<'_>);

    /// What the handlers of one HTTP worker find in `Data`, beside the service itself.
    fn worker_data(&self, _routes: &mut web::ServiceConfig) {}

    /// What its tokens are sealed with.
    fn vault(&self) -> &Vault;

    /// What works, but not as it should: for people who look at `/readyz`.
    fn degraded(&self) -> Vec<String> {
        Vec::new()
    }

    /// Carries out one of its own commands; what it returns is printed.
    fn command(
        command: Self::Command,
        config: Loaded<Self>,
    ) -> impl Future<Output = anyhow::Result<String>>;
}

/// No commands of its own.
#[derive(Debug, Clone, Copy, clap::Subcommand)]
pub enum NoCommand {}

/// What a service is given to work with.
#[derive(Debug, Clone)]
pub struct Context {
    pub store: Store,
    pub clock: SharedClock,
    pub tasks: Tasks,
}

impl Context {
    /// Does some housekeeping now and then, until the process stops. A failure waits for the next time.
    pub fn every<F, W, E>(&self, period: Duration, housekeeping: F)
    where
        F: Fn(Self) -> W + Send + 'static,
        W: Future<Output = Result<(), E>> + Send,
        E: Into<anyhow::Error> + Send,
    {
        let context = self.clone();
        let stop = self.tasks.stopping().clone();
        self.tasks.spawn(async move {
            while !stop.is_cancelled() {
                if let Err(error) = housekeeping(context.clone()).await {
                    tracing::debug!("housekeeping put off: {:#}", error.into());
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(period) => {}
                }
            }
        });
    }
}

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Loaded<S: Service> {
    pub common: Common,
    pub own: S::Config,
    /// TOML lines, secrets redacted.
    pub effective: String,
    /// What is most likely a mistake.
    pub warnings: Vec<String>,
}

impl<S: Service> Loaded<S> {
    /// # Errors
    /// Every problem at once.
    pub fn from(sources: &Sources) -> Result<Self, Problems> {
        let mut loader = Loader::new(sources)?;
        let common = Common::load(&mut loader);
        let own = S::configure(&mut loader);
        let effective = loader.effective();
        let warnings = loader.warnings().to_vec();
        loader.finish()?;
        Ok(Self {
            common,
            own,
            effective,
            warnings,
        })
    }

    /// # Errors
    /// A URL that names no database of ours.
    pub fn open_store(&self) -> anyhow::Result<Store> {
        let database = &self.common.database;
        let options = StoreOptions {
            max_connections: database.max_connections,
            ..StoreOptions::default()
        };
        Store::open(&database.url, &options).context("can't open the database")
    }

    /// For a command that reads and writes rows: migrated where it is `SQLite`.
    ///
    /// # Errors
    /// Also a schema that is not this binary's.
    pub async fn open_current_store(&self) -> anyhow::Result<Store> {
        let store = self.open_store()?;
        if store.backend() == Backend::Sqlite {
            store.migrate().await?;
        }
        match store.schema_status().await? {
            Schema::Current => Ok(store),
            Schema::Behind { missing } => bail!(lacks(S::NAME, &missing)),
            Schema::Newer { unknown } => bail!(SchemaTooNew(unknown.join(", "))),
        }
    }
}

/// A bound and serving process.
#[derive(Debug)]
pub struct Server {
    addr: SocketAddr,
    metrics_addr: SocketAddr,
    /// Beside the HTTP server's own handle of it.
    listener: TcpListener,
    handles: Vec<ServerHandle>,
    serving: Vec<JoinHandle<std::io::Result<()>>>,
    tasks: Tasks,
    schema: JoinHandle<anyhow::Result<()>>,
    grace: Duration,
}

impl Server {
    /// Binds and serves. Until the database has been seen with a current schema every answer is 503.
    pub async fn start<S: Service>(config: Loaded<S>) -> anyhow::Result<Self> {
        let Http {
            listen,
            metrics_listen,
            workers,
            ref allowed_origins,
            shutdown_grace,
        } = config.common.http;
        let listener = bind(listen, "http.listen")?;
        let metrics_listener = bind(metrics_listen, "http.metrics_listen")?;
        let (addr, metrics_addr) = (listener.local_addr()?, metrics_listener.local_addr()?);
        let listener_too = listener.try_clone()?;

        let store = config.open_store()?;
        if store.backend() == Backend::Sqlite {
            store
                .migrate()
                .await
                .context("can't migrate the SQLite database")?;
        }
        let clock = SystemClock::shared();
        let tasks = Tasks::here();
        let ready = Arc::new(Ready::default());
        let schema = tasks.spawn({
            let (store, ready, stop) =
                (store.clone(), Arc::clone(&ready), tasks.stopping().clone());
            async move { Ok(await_schema(S::NAME, &store, &ready, &stop).await?) }
        });

        let context = Context {
            store: store.clone(),
            clock: SharedClock::clone(&clock),
            tasks: tasks.clone(),
        };
        let service = Data::new(S::build(config.own, context)?);
        let observer = Data::new(Observer {
            service: S::NAME,
            aliases: S::ALIASES,
            ready,
            clock,
        });
        let openapi = Data::new(openapi::<S>());
        let known = Data::new(KnownPaths::of(&openapi));
        let store = Data::new(store);
        let degraded = Data::new(Degraded::of(service.vault().clone(), {
            let service = Data::clone(&service);
            move || service.degraded()
        }));
        let origins = allowed_origins.clone();
        // Worker threads idle at little cost, but each has its own memory: one per core is enough.
        let workers = match workers {
            0 => std::thread::available_parallelism().map_or(2, usize::from),
            some => some,
        };
        let server = HttpServer::new(move || {
            let (app, _openapi) = App::new()
                .into_utoipa_app()
                .app_data(Data::clone(&service))
                .app_data(Data::clone(&observer))
                .app_data(Data::clone(&openapi))
                .app_data(Data::clone(&known))
                .app_data(Data::clone(&store))
                .app_data(Data::clone(&degraded))
                .configure(routes::<S>)
                .split_for_parts();
            app.configure(|routes| service.worker_data(routes))
                .route("/openapi.json", web::get().to(openapi_json))
                .default_service(web::to(no_route))
                .wrap(Condition::new(!origins.is_empty(), cors(&origins)))
                .wrap(from_fn(observe))
        })
        .workers(workers)
        // actix-web leaves Nagle on: a chunked answer would stall for a delayed ACK.
        .tcp_nodelay(true)
        // Longer than our own clients keep an idle connection (and most others): who sends on one that is just being closed
        // gets no answer.
        .keep_alive(KEEP_ALIVE)
        // A caller that is gone cancels what it asked for.
        .h1_allow_half_closed(false)
        .shutdown_timeout(shutdown_grace.as_secs())
        .disable_signals()
        .listen(listener)?
        .run();
        let metrics_server = crate::metrics::server(metrics_listener, shutdown_grace)?;
        let handles = vec![server.handle(), metrics_server.handle()];
        let serving = vec![tasks.spawn(server), tasks.spawn(metrics_server)];
        Ok(Self {
            addr,
            metrics_addr,
            listener: listener_too,
            handles,
            serving,
            tasks,
            schema,
            grace: shutdown_grace,
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn metrics_addr(&self) -> SocketAddr {
        self.metrics_addr
    }

    /// Serves until told to stop, then finishes what is under way within the grace period.
    ///
    /// # Errors
    /// A schema that this binary does not know; an HTTP server that ended by itself.
    pub async fn run_until(self, stop: CancellationToken) -> anyhow::Result<()> {
        let schema = async {
            match self.schema.await {
                Ok(Ok(())) => std::future::pending().await,
                Ok(newer) => newer,
                Err(panicked) => Err(panicked).context("the wait for the schema failed"),
            }
        };
        let verdict = tokio::select! {
            () = stop.cancelled() => Ok(()),
            newer = schema => newer,
            (ended, ..) = select_all(self.serving) => {
                Err(anyhow::anyhow!("an HTTP server ended by itself: {ended:?}"))
            }
        };
        stop_accepting(self.listener).await;
        let until = tokio::time::Instant::now() + self.grace;
        self.tasks.stopping().cancel();
        join_all(self.handles.iter().map(|handle| handle.stop(true))).await;
        let left = until.saturating_duration_since(tokio::time::Instant::now());
        if !self.tasks.drain(left).await {
            tracing::warn!("stopped with work under way: http.shutdown_grace_secs was too short");
        }
        verdict
    }
}

fn cors(origins: &[String]) -> Cors {
    let cors = Cors::default()
        .allowed_methods(["GET", "POST", "DELETE"])
        .expose_headers(["retry-after", "x-request-id"])
        .allow_any_header()
        .max_age(300);
    origins
        .iter()
        .fold(cors, |cors, origin| cors.allowed_origin(origin))
}

fn routes<S: Service>(routes: &mut ServiceConfig<'_>) {
    routes.service(healthz).service(readyz);
    S::routes(routes);
}

async fn openapi_json(openapi: Data<OpenApi>) -> HttpResponse {
    HttpResponse::Ok().json(openapi.get_ref())
}

/// What the routes themselves say of the API.
pub(crate) fn openapi<S: Service>() -> OpenApi {
    let info = InfoBuilder::new()
        .title(format!("Pipekeeper {}", S::NAME))
        .description(Some(S::ABOUT))
        .version(env!("CARGO_PKG_VERSION"))
        .build();
    let (_app, openapi) = App::new()
        .into_utoipa_app()
        .openapi(OpenApiBuilder::new().info(info).build())
        .configure(routes::<S>)
        .split_for_parts();
    openapi
}
