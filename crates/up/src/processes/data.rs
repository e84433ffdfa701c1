//! The directory of a plan: its secrets and its logs.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use pipekeeper_core::crypto::Keyring;
use pipekeeper_core::random;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::vault::Vault;

use super::plan::Plan;

pub(super) const CLIENT_SECRET: &str = "client.secret";
pub(super) const DATABASE_URL: &str = "database.url";

impl Plan {
    /// Makes what is not there yet: directories that only their owner enters, secrets that only their owner reads.
    pub(super) fn make_data(&self) -> anyhow::Result<()> {
        let mut private = fs::DirBuilder::new();
        private.recursive(true).mode(0o700);
        for directory in ["secrets", "logs"] {
            let path = self.data.join(directory);
            private
                .create(&path)
                .with_context(|| format!("create {}", path.display()))?;
        }
        let password = || Secret::new(random::token());
        write_once(&self.secret_file("encryption.keys"), || {
            Keyring::generate("up")
        })?;
        write_once(&self.secret_file("webhook.password"), password)?;
        write_once(&self.secret_file("refresher.password"), password)?;
        write_once(&self.secret_file("operator.password"), password)?;
        write(
            &self.secret_file(CLIENT_SECRET),
            &self.registration().client_secret,
        )?;
        match &self.database_url {
            Some(url) => write(&self.secret_file(DATABASE_URL), url),
            None => Ok(()),
        }
    }

    pub(super) fn secret_file(&self, name: &str) -> PathBuf {
        self.data.join("secrets").join(name)
    }

    /// A secret as it was made.
    pub(super) fn secret(&self, name: &str) -> anyhow::Result<Secret> {
        let path = self.secret_file(name);
        Secret::read(&path).with_context(|| format!("read {}", path.display()))
    }

    /// What the rows of this plan are sealed with.
    pub fn vault(&self) -> anyhow::Result<Vault> {
        let keyring = Keyring::parse(&self.secret("encryption.keys")?)?;
        Ok(Vault::new(keyring))
    }

    /// The operator of auth-capture: user name and password.
    pub fn operator(&self) -> anyhow::Result<(String, Secret)> {
        Ok(("operator".to_owned(), self.secret("operator.password")?))
    }

    pub(super) fn log_file(&self, process: &str) -> PathBuf {
        self.data.join("logs").join(format!("{process}.log"))
    }

    /// The end of a process's log.
    pub(super) fn last_lines(&self, process: &str) -> String {
        let text = fs::read_to_string(self.log_file(process)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        let last = lines.iter().skip(lines.len().saturating_sub(15));
        last.copied().flat_map(|line| ["  ", line, "\n"]).collect()
    }
}

/// What is given rather than made, and may be another one than the last time.
fn write(path: &Path, secret: &Secret) -> anyhow::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options
        .open(path)
        .with_context(|| format!("create {}", path.display()))?;
    writeln!(file, "{}", secret.expose()).context("write a secret")
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
