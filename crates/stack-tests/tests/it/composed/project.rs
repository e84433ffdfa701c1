//! One project of Compose: brought up for a test, taken down with its volumes.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use pipedrive_sim::DEFAULT_CLIENT_ID;
use pipekeeper_core::secret::Secret;
use pipekeeper_testing::TestDirectory;
use serde_json::Value;
use stack_tests::Client;
use up::processes::free_base_port;

use crate::support::root;

/// Two cores carry one project at a time.
static ONE: Mutex<()> = Mutex::new(());

pub(super) struct Project {
    pub(super) http_port: u16,
    pub(super) simulator_port: u16,
    environment: Vec<(&'static str, String)>,
    profiles: Vec<&'static str>,
    directory: TestDirectory,
    _one: MutexGuard<'static, ()>,
}

impl Project {
    /// Nothing is started, and nothing is configured but the ports.
    pub(super) fn bare(profiles: &[&'static str]) -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = TestDirectory::create();
        fs::write(directory.path().join(".env"), "").unwrap();
        let port = free_base_port();
        let project = Self {
            http_port: port,
            simulator_port: port + 10,
            environment: vec![
                ("EDGE_HTTP_PORT", port.to_string()),
                ("EDGE_HTTPS_PORT", (port + 1).to_string()),
                ("SIMULATOR_PORT", (port + 10).to_string()),
            ],
            profiles: profiles.to_vec(),
            directory,
            _one: one,
        };
        // What a run left that was killed.
        project.down();
        project.build_once();
        project
    }

    /// With what `scripts/env` makes of these arguments.
    pub(super) fn with_env(arguments: &[&str], environment: &[(&'static str, &str)]) -> Self {
        let mut project = Self::bare(&[]);
        let given = environment
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()));
        project.environment.extend(given);
        let home = project.directory.path();
        fs::remove_file(project.env_file()).unwrap();
        super::env::copy_to(home);
        let mut command = Command::new(home.join("scripts/env"));
        command.args(arguments);
        project.said(&mut command);
        // Of the directory that the file lies in, which is another one than that of docker-compose.yml here.
        let secrets = format!(
            "SECRETS_DIRECTORY={}",
            home.join("secrets/compose").display()
        );
        let env = fs::read_to_string(project.env_file()).unwrap();
        let env = env.replace("SECRETS_DIRECTORY=./secrets/compose", &secrets);
        fs::write(project.env_file(), env).unwrap();
        // From here on only the file counts.
        project.environment.clear();
        project
    }

    pub(super) fn env_file(&self) -> PathBuf {
        self.directory.path().join(".env")
    }

    /// Compose with these arguments; what it says, once it has succeeded.
    #[track_caller]
    pub(super) fn compose(&self, arguments: &[&str]) -> String {
        let mut command = self.command(&self.profiles);
        self.said(command.args(arguments))
    }

    /// The same, however it ends.
    pub(super) fn try_compose(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(&self.profiles);
        self.run(command.args(arguments))
    }

    fn build_once(&self) {
        static BUILT: Once = Once::new();
        BUILT.call_once(|| {
            if variable("TEST_COMPOSE").is_none_or(|word| word != "built") {
                let mut command = self.command(&["sim"]);
                self.said(command.arg("build"));
            }
        });
    }

    fn down(&self) {
        let mut command = self.command(&["sim", "edge", "postgres", "mysql"]);
        self.said(command.args(["down", "--volumes", "--remove-orphans", "--timeout", "1"]));
    }

    fn command(&self, profiles: &[&str]) -> Command {
        let mut words = compose_command().into_iter();
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args(["--project-name", "pipekeeper-test"])
            .arg("--project-directory")
            .arg(root())
            .arg("--file")
            .arg(root().join("docker-compose.yml"))
            .arg("--env-file")
            .arg(self.env_file());
        for profile in profiles {
            command.args(["--profile", profile]);
        }
        command
    }

    #[track_caller]
    fn said(&self, command: &mut Command) -> String {
        let output = self.run(command);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {text}\n{errors}");
        text
    }

    fn run(&self, command: &mut Command) -> Output {
        let kept = [
            "PATH",
            "HOME",
            "DOCKER_HOST",
            "DOCKER_CONFIG",
            "CADDY_IMAGE",
            "DEBIAN_IMAGE",
            "MARIADB_IMAGE",
            "POSTGRES_IMAGE",
            "RUST_IMAGE",
        ];
        let kept = kept
            .iter()
            .filter_map(|name| Some((*name, variable(name)?)));
        let kept: Vec<_> = kept.collect();
        command
            .env_clear()
            .envs(kept)
            .envs(self.environment.iter().map(|(name, value)| (*name, value)))
            .output()
            .unwrap()
    }

    /// The containers of a service, or all of the project's.
    pub(super) fn containers(&self, service: Option<&str>) -> Vec<String> {
        let mut arguments = vec!["ps", "--all", "--quiet"];
        arguments.extend(service);
        self.compose(&arguments)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// What the engine knows of a container.
    pub(super) fn inspect(&self, container: &str) -> Value {
        let text = self.docker(&["inspect", container]);
        let mut list: Vec<Value> = serde_json::from_str(&text).unwrap();
        list.remove(0)
    }

    #[track_caller]
    pub(super) fn docker(&self, arguments: &[&str]) -> String {
        self.said(Command::new("docker").args(arguments))
    }

    /// Where the only (or first) container of a service is, for those on its network.
    pub(super) fn address(&self, service: &str) -> String {
        address_of(&self.inspect(&self.containers(Some(service))[0]))
    }

    /// kill -9 as the kernel does it when memory is short: the engine was not asked, so its restart policy applies. Comes back
    /// when the next process runs.
    pub(super) async fn crash(&self, service: &str) {
        let container = &self.containers(Some(service))[0];
        let pid = self.inspect(container)["State"]["Pid"].clone();
        let kill = format!("kill -9 {pid}");
        let image = "pipekeeper/auth-capture";
        let run = ["run", "--rm", "--pid", "host", "--user", "0"];
        self.docker(&[&run[..], &["--entrypoint", "sh", image, "-c", &kill]].concat());
        crate::support::until("the container is started again", || async {
            let state = &self.inspect(container)["State"];
            state["Running"] == true && state["Pid"] != pid
        })
        .await;
    }

    /// Until each container runs or has done its work, and is healthy if it has a health check.
    pub(super) async fn healthy(&self) {
        let format =
            "{{.State.Status}} {{.State.ExitCode}} {{with .State.Health}}{{.Status}}{{end}}";
        let containers = self.containers(None);
        let mut arguments = vec!["inspect", "--format", format];
        arguments.extend(containers.iter().map(String::as_str));
        crate::support::until("every container is healthy", || async {
            let states = self.docker(&arguments);
            let good = ["running 0 ", "running 0 healthy", "exited 0 "];
            states.lines().all(|state| good.contains(&state))
        })
        .await;
    }

    /// What a caller outside knows; token-refresher is asked from within.
    pub(super) fn client(&self) -> Client {
        let edge = format!("http://127.0.0.1:{}", self.http_port);
        let refresher = self.address("token-refresher");
        let password = |service: &str, name: &str| {
            let file = format!("/run/secrets/{name}.password");
            let text = self.compose(&["exec", "-T", service, "cat", &file]);
            Secret::new(text.trim_end().to_owned())
        };
        Client {
            http: Client::http().unwrap(),
            redirect_url: format!("{edge}/webhook/pipedrive/callback"),
            auth_capture: edge.clone(),
            data_api: edge,
            token_refresher: format!("http://{refresher}:8082"),
            simulator: format!("http://127.0.0.1:{}", self.simulator_port),
            refresher_metrics: format!("http://{refresher}:9082/metrics"),
            client_id: DEFAULT_CLIENT_ID.to_owned(),
            webhook: ("n8n".to_owned(), password("data-api", "webhook")),
            refresher: ("pipekeeper".to_owned(), password("data-api", "refresher")),
        }
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.try_compose(&["logs", "--no-color", "--tail", "30"]);
            eprintln!("{}", String::from_utf8_lossy(&logs.stdout));
        }
        self.down();
    }
}

pub(super) fn address_of(container: &Value) -> String {
    let networks = container["NetworkSettings"]["Networks"]
        .as_object()
        .unwrap();
    let network = networks.values().next().unwrap();
    network["IPAddress"].as_str().unwrap().to_owned()
}

/// `docker compose` where there is one, else `docker-compose`.
pub(super) fn compose_command() -> Vec<&'static str> {
    let plugin = Command::new("docker").args(["compose", "version"]).output();
    if plugin.is_ok_and(|output| output.status.success()) {
        vec!["docker", "compose"]
    } else {
        vec!["docker-compose"]
    }
}

#[expect(clippy::disallowed_methods, reason = "settings of the test run")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
