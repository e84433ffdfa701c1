//! The database of a run, and how it is taken away.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use pipekeeper_core::secret::Secret;
use pipekeeper_core::store::{Backend, Store};
use pipekeeper_testing::{Gate, TestDatabase, WriteLock};
use tokio::sync::{Mutex, MutexGuard};

use super::event_log::{Event, EventLog};
use super::schedule::Outage;

/// What the event log calls the database's outages.
pub(super) const DATABASE: &str = "database";

#[derive(Debug)]
pub struct Database {
    at: TestDatabase,
    /// The way by which the services come to a server.
    gate: Option<Gate>,
    /// Held by the task that has taken it away.
    turn: Mutex<()>,
}

/// Lasts until it is dropped.
#[derive(Debug)]
pub struct Away<'a> {
    how: Option<How<'a>>,
    event_log: &'a EventLog,
    _turn: MutexGuard<'a, ()>,
}

#[derive(Debug)]
enum How<'a> {
    Locked { _by: WriteLock },
    Gated(&'a Gate),
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        if let Some(How::Gated(gate)) = self.how.take() {
            gate.open();
        }
        let of = DATABASE.to_owned();
        self.event_log.add(Event::Back { of });
    }
}

impl Database {
    pub async fn make(backend: Backend) -> Self {
        let at = TestDatabase::migrated(backend).await;
        Self {
            gate: (backend != Backend::Sqlite).then(|| at.gate()),
            at,
            turn: Mutex::default(),
        }
    }

    /// As the services are told.
    pub fn url(&self) -> Secret {
        self.gate.as_ref().map_or_else(|| self.at.url(), Gate::url)
    }

    /// Past the gate.
    pub fn store(&self) -> Store {
        self.at.store()
    }

    /// The file of a `SQLite` database.
    fn file(&self) -> PathBuf {
        PathBuf::from(self.at.url().expose().trim_start_matches("sqlite:"))
    }

    /// Copies what is left of a `SQLite` database.
    pub fn keep(&self, to: &Path) -> anyhow::Result<()> {
        if self.gate.is_none() {
            if to.exists() {
                fs::remove_file(to)?;
            }
            self.sql(&format!("VACUUM INTO '{}'", to.display()))?;
        }
        Ok(())
    }

    /// Takes it away when it is there.
    pub async fn take_away<'a>(
        &'a self,
        outage: Outage,
        event_log: &'a EventLog,
    ) -> anyhow::Result<Away<'a>> {
        let turn = self.turn.lock().await;
        self.away(outage, event_log, turn)
    }

    /// Takes it away if it is there.
    pub fn try_take_away<'a>(
        &'a self,
        outage: Outage,
        event_log: &'a EventLog,
    ) -> anyhow::Result<Option<Away<'a>>> {
        match self.turn.try_lock() {
            Ok(turn) => Ok(Some(self.away(outage, event_log, turn)?)),
            Err(_taken) => Ok(None),
        }
    }

    fn away<'a>(
        &'a self,
        outage: Outage,
        event_log: &'a EventLog,
        turn: MutexGuard<'a, ()>,
    ) -> anyhow::Result<Away<'a>> {
        let of = DATABASE.to_owned();
        event_log.add(Event::Outage { of });
        let mut away = Away {
            how: None,
            event_log,
            _turn: turn,
        };
        away.how = Some(match (&self.gate, outage) {
            (None, _) => {
                let lock = tokio::task::block_in_place(|| WriteLock::take(&self.file()));
                How::Locked {
                    _by: lock.map_err(|error| anyhow!(error))?,
                }
            }
            (Some(gate), Outage::Cut) => {
                gate.cut();
                How::Gated(gate)
            }
            (Some(gate), Outage::Stalled) => {
                gate.stall();
                How::Gated(gate)
            }
        });
        Ok(away)
    }

    /// Keeps what the database holds, for [`Self::go_back`].
    pub fn keep_snapshot(&self) -> anyhow::Result<()> {
        if self.gate.is_none() {
            return self.keep(&self.snapshot_file());
        }
        self.sql("DROP TABLE IF EXISTS chaos_snapshot")?;
        self.sql("CREATE TABLE chaos_snapshot AS SELECT * FROM connections")?;
        Ok(())
    }

    /// Holds what it held at the last snapshot again. It has to be away: nothing else may write.
    pub fn go_back(&self) -> anyhow::Result<()> {
        let (schema, quote) = match self.at.backend() {
            Backend::Sqlite => {
                let file = self.file();
                // Before the file is replaced: to its connections a log by this name would be the new file's.
                for log in ["db-wal", "db-shm"] {
                    match fs::remove_file(file.with_extension(log)) {
                        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                            return Err(error.into());
                        }
                        _ => {}
                    }
                }
                return Ok(fs::rename(self.snapshot_file(), file)?);
            }
            Backend::Postgres => ("current_schema()", '"'),
            Backend::Mysql => ("DATABASE()", '`'),
        };
        let columns = self.sql(&format!(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'connections' AND table_schema = {schema}"
        ))?;
        let assigned = |to: &str| {
            let pairs: Vec<String> = columns
                .iter()
                .map(|name| format!("{to}{quote}{name}{quote} = s.{quote}{name}{quote}"))
                .collect();
            pairs.join(", ")
        };
        self.sql(&match self.at.backend() {
            Backend::Mysql => format!(
                "UPDATE connections c JOIN chaos_snapshot s ON s.id = c.id SET {}",
                assigned("c.")
            ),
            Backend::Postgres | Backend::Sqlite => format!(
                "UPDATE connections AS c SET {} FROM chaos_snapshot AS s WHERE s.id = c.id",
                assigned("")
            ),
        })?;
        Ok(())
    }

    fn snapshot_file(&self) -> PathBuf {
        self.file().with_extension("snapshot")
    }

    fn sql(&self, query: &str) -> anyhow::Result<Vec<String>> {
        self.at.lines(query).map_err(|error| anyhow!(error))
    }
}
