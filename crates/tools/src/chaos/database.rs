//! The database of a run, and how it is taken away.

use std::path::Path;

use anyhow::anyhow;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, Store, StoreOptions};
use pipekeeper_core::test_util::{Gate, TestDatabase, WriteLock};

use super::schedule::Outage;

#[derive(Debug)]
pub enum Database {
    /// A file in the run's directory.
    File(Secret),
    /// On a server in a container; the services come through the gate.
    Server { database: TestDatabase, gate: Gate },
}

/// Lasts until it is dropped.
#[derive(Debug)]
pub enum Away<'a> {
    Locked { _by: WriteLock },
    Gated(&'a Gate),
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        if let Self::Gated(gate) = self {
            gate.open();
        }
    }
}

impl Database {
    pub async fn make(backend: Backend, file: &Path) -> Self {
        match backend {
            Backend::Sqlite => Self::File(Secret::new(format!("sqlite:{}", file.display()))),
            Backend::Postgres | Backend::Mysql => {
                let database = TestDatabase::migrated(backend).await;
                let gate = database.gate();
                Self::Server { database, gate }
            }
        }
    }

    /// As the services are told.
    pub fn url(&self) -> Secret {
        match self {
            Self::File(url) => url.clone(),
            Self::Server { gate, .. } => gate.url(),
        }
    }

    /// Past the gate.
    pub fn store(&self) -> anyhow::Result<Store> {
        let url = match self {
            Self::File(url) => url.clone(),
            Self::Server { database, .. } => database.url(),
        };
        Ok(Store::open(&url, &StoreOptions::default())?)
    }

    pub fn take_away(&self, outage: Outage) -> anyhow::Result<Away<'_>> {
        match (self, outage) {
            (Self::File(url), _) => {
                let path = url.expose().trim_start_matches("sqlite:");
                let lock = WriteLock::take(Path::new(path)).map_err(|error| anyhow!(error))?;
                Ok(Away::Locked { _by: lock })
            }
            (Self::Server { gate, .. }, Outage::Cut) => {
                gate.cut();
                Ok(Away::Gated(gate))
            }
            (Self::Server { gate, .. }, Outage::Stalled) => {
                gate.stall();
                Ok(Away::Gated(gate))
            }
        }
    }
}
