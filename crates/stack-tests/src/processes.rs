//! The stack as real processes, on fixed ports: what `scripts/up` starts, and what tests stop and kill.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use pipedrive_sim::{DEFAULT_CLIENT_ID, DEFAULT_CLIENT_SECRET};
use pipekeeper_core::crypto::Keyring;
use pipekeeper_core::random;
use pipekeeper_core::secret::Secret;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::client::Client;
use crate::stack::{stand_in, variable};

pub const SIMULATOR: &str = "pipedrive-sim";

/// The services, in the order in which their processes start.
pub const SERVICES: [&str; 3] = ["token-refresher", "data-api", "auth-capture"];

/// How long a process may take to become ready, and to end.
const PATIENCE: Duration = Duration::from_secs(30);

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

    pub fn port(&self, process: &str) -> u16 {
        // 2, 3 and 4 lie between those of the first ones and the simulator's.
        let later = 2 * (number_of(process) - 1);
        self.base_port
            + match service_of(process) {
                "auth-capture" => 0,
                "data-api" => 1 + later,
                "token-refresher" => 2 + later,
                _ => 10,
            }
    }

    pub fn url(&self, process: &str) -> String {
        format!("http://127.0.0.1:{}", self.port(process))
    }

    fn starts(&self, process: &str) -> bool {
        (process != SIMULATOR || self.registration.is_none())
            && !self.without.iter().any(|left_out| left_out == process)
    }

    fn registration(&self) -> Registration {
        self.registration.clone().unwrap_or_else(|| Registration {
            client_id: DEFAULT_CLIENT_ID.to_owned(),
            client_secret: Secret::from(DEFAULT_CLIENT_SECRET),
            redirect_url: format!("{}/webhook/pipedrive/callback", self.url("auth-capture")),
        })
    }

    fn secret_file(&self, name: &str) -> PathBuf {
        self.data.join("secrets").join(name)
    }

    /// Makes what the processes need, and looks whether their ports are free.
    pub fn prepare(&self) -> anyhow::Result<()> {
        prepare(self)?;
        check_ports(self)
    }

    /// How a process is started.
    pub fn command(&self, process: &str) -> anyhow::Result<Command> {
        let binary = sibling(service_of(process))?;
        let log = self.data.join("logs").join(format!("{process}.log"));
        let log = File::options().create(true).append(true).open(log)?;
        let mut command = Command::new(binary);
        command
            // Of its own: a terminal's Ctrl-C is for whoever started this, who then asks each process to stop, once.
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if process == SIMULATOR {
            let app = self.registration();
            command
                .arg("--listen")
                .arg(format!("127.0.0.1:{}", self.port(process)))
                .arg("--app")
                .arg(format!(
                    "{}:{}:{}",
                    app.client_id,
                    app.client_secret.expose(),
                    app.redirect_url
                ));
        } else {
            // Only what is set here counts: a shell's PIPEKEEPER__… belongs to another deployment.
            command.env_clear().envs(environment(self, process));
        }
        Ok(command)
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
        let password = |name: &str| {
            let path = self.secret_file(name);
            let text =
                fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            Ok::<_, anyhow::Error>(Secret::new(text.trim_end().to_owned()))
        };
        let registration = self.registration();
        Ok(Client {
            http: Client::http()?,
            auth_capture: self.url("auth-capture"),
            data_api: self.url("data-api"),
            token_refresher: self.url("token-refresher"),
            simulator: self.url(SIMULATOR),
            refresher_metrics: format!(
                "http://127.0.0.1:{}/metrics",
                self.port("token-refresher") + 1000
            ),
            client_id: registration.client_id,
            redirect_url: registration.redirect_url,
            webhook: ("n8n".to_owned(), password("webhook.password")?),
            refresher: ("pipekeeper".to_owned(), password("refresher.password")?),
        })
    }
}

/// Running processes; killed when dropped.
#[derive(Debug)]
pub struct Processes {
    pub plan: Plan,
    children: BTreeMap<String, Child>,
}

impl Processes {
    /// Starts everything and waits until all of it is ready.
    pub async fn start(plan: Plan) -> anyhow::Result<Self> {
        let mut processes = Self::prepare(plan)?;
        processes.start_all().await?;
        Ok(processes)
    }

    /// Everything that comes before the first process.
    ///
    /// # Errors
    /// Also a port that is taken.
    pub fn prepare(plan: Plan) -> anyhow::Result<Self> {
        plan.prepare()?;
        Ok(Self {
            plan,
            children: BTreeMap::new(),
        })
    }

    /// Starts everything and waits until all of it is ready.
    pub async fn start_all(&mut self) -> anyhow::Result<()> {
        for process in self.plan.processes() {
            self.start_one(&process).await?;
        }
        Ok(())
    }

    /// Starts one process, or starts it again, and waits until it is ready.
    pub async fn start_one(&mut self, process: &str) -> anyhow::Result<()> {
        let child = self
            .plan
            .command(process)?
            .spawn()
            .with_context(|| format!("start {process}"))?;
        self.children.insert(process.to_owned(), child);
        self.await_ready(process).await
    }

    async fn await_ready(&mut self, process: &str) -> anyhow::Result<()> {
        let url = self.plan.ready_url(process);
        let http = Client::http()?;
        let polling = async {
            loop {
                if http
                    .get(&url)
                    .send()
                    .await
                    .is_ok_and(|response| response.status().is_success())
                {
                    return Ok(());
                }
                let child = self.children.get_mut(process).context("was started")?;
                if let Some(status) = child.try_wait()? {
                    bail!(
                        "{process} ended with {status}:\n{}",
                        last_lines(&self.plan, process)
                    );
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, polling).await {
            Ok(ready) => ready,
            Err(_) => bail!(
                "{process} is not ready after {PATIENCE:?}:\n{}",
                last_lines(&self.plan, process)
            ),
        }
    }

    /// The first process that ends by itself.
    pub async fn first_to_end(&mut self) -> anyhow::Result<(String, ExitStatus)> {
        loop {
            for (name, child) in &mut self.children {
                if let Some(status) = child.try_wait()? {
                    return Ok((name.clone(), status));
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// `VmRSS` of a process, in KiB.
    pub fn resident_kib(&self, process: &str) -> anyhow::Result<u32> {
        let child = self.children.get(process).context("not started")?;
        let id = child.id().context("has ended")?;
        let status = fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(line
            .context("no VmRSS")?
            .trim()
            .trim_end_matches(" kB")
            .parse()?)
    }

    pub fn signal(&self, process: &str, signal: Signal) -> anyhow::Result<()> {
        let child = self.children.get(process).context("not started")?;
        let id = child.id().context("has ended")?;
        let pid = Pid::from_raw(i32::try_from(id)?).context("no pid")?;
        kill_process(pid, signal).with_context(|| format!("signal {process}"))
    }

    /// Asks one process to stop and waits for its end.
    pub async fn stop_one(&mut self, process: &str) -> anyhow::Result<ExitStatus> {
        self.signal(process, Signal::TERM)?;
        let mut child = self.children.remove(process).context("not started")?;
        Ok(tokio::time::timeout(PATIENCE, child.wait())
            .await
            .with_context(|| format!("{process} does not stop"))??)
    }

    /// Stops everything, callers first.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for process in self.plan.processes().into_iter().rev() {
            let ended = self.children.get_mut(&process).map(Child::try_wait);
            if let Some(Ok(None)) = ended {
                self.stop_one(&process).await?;
            }
        }
        Ok(())
    }
}

/// `data-api` of `data-api-2`.
pub fn service_of(process: &str) -> &str {
    match process.rsplit_once('-') {
        Some((service, number)) if number.parse::<u16>().is_ok() => service,
        _ => process,
    }
}

/// 2 of `data-api-2`, 1 of `data-api`.
fn number_of(process: &str) -> u16 {
    let number = process.rsplit('-').next().unwrap_or_default();
    number.parse().unwrap_or(1)
}

/// The environment of a process: its whole configuration.
fn environment(plan: &Plan, process: &str) -> Vec<(String, String)> {
    let service = service_of(process);
    let secret = |name: &str| plan.secret_file(name).display().to_string();
    let registration = plan.registration();
    let mut keys = vec![
        ("encryption.keys_file", secret("encryption.keys")),
        ("http.listen", format!("127.0.0.1:{}", plan.port(process))),
        (
            "http.metrics_listen",
            format!("127.0.0.1:{}", plan.port(process) + 1000),
        ),
        ("apps.pipedrive.client_id", registration.client_id),
        (
            "database.url",
            match &plan.database_url {
                Some(url) => url.expose().to_owned(),
                None => format!("sqlite:{}", plan.data.join("pipekeeper.db").display()),
            },
        ),
    ];
    if plan.registration.is_none() {
        keys.extend(stand_in(&plan.url(SIMULATOR)));
    }
    if service != "data-api" {
        keys.push((
            "apps.pipedrive.client_secret",
            registration.client_secret.expose().to_owned(),
        ));
    }
    if service == "token-refresher" {
        keys.push(("webhook.password_file", secret("refresher.password")));
        keys.push((
            "journal.directory",
            plan.data.join("journal").display().to_string(),
        ));
    } else {
        let own = format!("token-refresher-{}", number_of(process));
        let refresher = if plan.more.contains(&own) {
            plan.url(&own)
        } else {
            plan.url("token-refresher")
        };
        keys.push((
            "refresher.url",
            format!("{refresher}/webhook/pipedrive/refresh"),
        ));
        keys.push(("refresher.password_file", secret("refresher.password")));
    }
    match service {
        "data-api" => keys.push(("webhook.password_file", secret("webhook.password"))),
        "auth-capture" => {
            keys.push(("apps.pipedrive.redirect_url", registration.redirect_url));
            keys.push(("login.operator_password_file", secret("operator.password")));
        }
        _ => {}
    }
    let mut env: BTreeMap<_, _> = keys
        .into_iter()
        .map(|(key, value)| (variable(key), value))
        .collect();
    for (path, value) in &plan.set {
        let fits = path
            .split_once('.')
            .filter(|(to, _)| *to == service || *to == process);
        if let Some((_, key)) = fits {
            // A key and its file exclude each other; the one that was set here is meant.
            env.remove(&variable(&format!("{key}_file")));
            env.insert(variable(key), value.clone());
        }
    }
    env.into_iter().collect()
}

/// Makes what is not there yet: directories that only their owner enters, secrets that only their owner reads.
fn prepare(plan: &Plan) -> anyhow::Result<()> {
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700);
    for directory in ["secrets", "logs"] {
        let path = plan.data.join(directory);
        private
            .create(&path)
            .with_context(|| format!("create {}", path.display()))?;
    }
    let password = || Secret::new(random::token());
    write_once(&plan.secret_file("encryption.keys"), || {
        Keyring::generate("up")
    })?;
    write_once(&plan.secret_file("webhook.password"), password)?;
    write_once(&plan.secret_file("refresher.password"), password)?;
    write_once(&plan.secret_file("operator.password"), password)
}

fn write_once(path: &Path, secret: impl FnOnce() -> Secret) -> anyhow::Result<()> {
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(mut file) => writeln!(file, "{}", secret().expose()).context("write a secret"),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(|| format!("create {}", path.display())),
    }
}

fn check_ports(plan: &Plan) -> anyhow::Result<()> {
    let mut taken = Vec::new();
    for process in plan.processes() {
        let metrics = (process != SIMULATOR).then(|| plan.port(&process) + 1000);
        for port in std::iter::once(plan.port(&process)).chain(metrics) {
            if TcpListener::bind(("127.0.0.1", port)).is_err() {
                taken.push(format!("{port} ({process})"));
            }
        }
    }
    ensure!(
        taken.is_empty(),
        "another process listens on port {}: stop it, or choose other ports with --base-port",
        taken.join(", ")
    );
    Ok(())
}

/// The first of ports that are all free: those of a plan, and its metrics' a thousand further on.
pub fn free_base_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Below the ports that the system hands out, and away from another run's.
    let offset = u16::try_from(std::process::id() % 300).unwrap_or_default() * 40;
    loop {
        let base = 16_000 + (offset + NEXT.fetch_add(20, Ordering::Relaxed)) % 14_000;
        let ports = (base..base + 11).chain(base + 1000..base + 1011);
        if ports
            .into_iter()
            .all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        {
            return base;
        }
    }
}

/// The end of a process's log.
fn last_lines(plan: &Plan, process: &str) -> String {
    let log = plan.data.join("logs").join(format!("{process}.log"));
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    let last = lines.iter().skip(lines.len().saturating_sub(15));
    last.copied().flat_map(|line| ["  ", line, "\n"]).collect()
}

/// A binary of this workspace: cargo puts all of them beside each other.
pub fn sibling(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let directory = own.parent().context("no directory")?;
    // Test binaries are one level further down.
    let directory = if directory.ends_with("deps") {
        directory.parent().context("no directory")?
    } else {
        directory
    };
    let path = directory.join(name);
    ensure!(
        path.exists(),
        "{} is not built: run `cargo build --workspace --bins`",
        path.display()
    );
    Ok(path)
}
