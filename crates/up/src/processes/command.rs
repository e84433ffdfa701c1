//! How a process of a plan is started: its binary, its log, and its whole configuration.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tokio::process::Command;

use super::configuration::{stand_in, variable};
use super::data::{CLIENT_SECRET, DATABASE_URL};
use super::plan::{Plan, SIMULATOR, number_of, service_of};

impl Plan {
    /// How a process is started.
    pub fn command(&self, process: &str) -> anyhow::Result<Command> {
        let binary = sibling(match service_of(process) {
            "token-refresher" => &self.refresher,
            service => service,
        })?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log_file(process))?;
        let mut command = Command::new(binary);
        command
            // Of its own: a terminal's Ctrl-C is for the parent process, which then asks each process to stop, once.
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // Only what is set here counts: a shell's PIPEKEEPER__… belongs to another deployment.
        command.env_clear();
        if process == SIMULATOR {
            command
                .arg("--listen")
                .arg(format!("127.0.0.1:{}", self.port(process)))
                .arg("--redirect-url")
                .arg(self.registration().redirect_url);
        } else {
            command.envs(self.environment(process));
        }
        Ok(command)
    }

    /// The environment of a process: its whole configuration, with the names of files in place of secrets.
    fn environment(&self, process: &str) -> Vec<(String, String)> {
        let service = service_of(process);
        let secret = |name: &str| self.secret_file(name).display().to_string();
        let registration = self.registration();
        let mut keys = vec![
            ("encryption.keys_file", secret("encryption.keys")),
            ("http.listen", format!("127.0.0.1:{}", self.port(process))),
            (
                "http.metrics_listen",
                format!("127.0.0.1:{}", self.metrics_port(process)),
            ),
            ("apps.pipedrive.client_id", registration.client_id),
            if self.database_url.is_some() {
                ("database.url_file", secret(DATABASE_URL))
            } else {
                let file = self.data.join("pipekeeper.db");
                ("database.url", format!("sqlite:{}", file.display()))
            },
        ];
        if self.registration.is_none() {
            keys.extend(stand_in(&self.url(SIMULATOR)));
        }
        if service != "data-api" {
            keys.push(("apps.pipedrive.client_secret_file", secret(CLIENT_SECRET)));
        }
        if service == "token-refresher" {
            keys.push(("webhook.password_file", secret("refresher.password")));
            keys.push((
                "journal.directory",
                self.data.join("journal").display().to_string(),
            ));
        } else {
            let own = format!("token-refresher-{}", number_of(process));
            let refresher = if self.more.contains(&own) {
                self.url(&own)
            } else {
                self.url("token-refresher")
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
                if self.registration.is_none() {
                    // All of a test's callers have one address.
                    keys.push(("login.installs_per_minute", "60000".to_owned()));
                }
            }
            _ => {}
        }
        let mut env: BTreeMap<_, _> = keys
            .into_iter()
            .map(|(key, value)| (variable(key), value))
            .collect();
        for (path, value) in &self.set {
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
