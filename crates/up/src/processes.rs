//! The stack as real processes, on fixed ports: what `scripts/up` starts, and what tests stop and kill.

mod command;
mod configuration;
mod data;
mod plan;
mod ports;

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use crate::client::Client;

pub use command::sibling;
pub use configuration::{stand_in, variable};
pub use plan::{Plan, Registration, SERVICES, SIMULATOR};
pub use ports::free_base_port;

/// How long a process may take to become ready, and to end.
const PATIENCE: Duration = Duration::from_mins(2);

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
                        self.plan.last_lines(process)
                    );
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        match tokio::time::timeout(PATIENCE, polling).await {
            Ok(ready) => ready,
            Err(_) => bail!(
                "{process} is not ready after {PATIENCE:?}:\n{}",
                self.plan.last_lines(process)
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
