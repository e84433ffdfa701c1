//! Processes that are started again whenever they end.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::chronicle::{Blow, Chronicle, What};
use crate::client::Client;
use crate::processes::Plan;

const PATIENCE: Duration = Duration::from_secs(30);

/// One that can't be started is tried again.
const RETRIED_AFTER_MS: u64 = 200;

/// All processes of a run; killed when dropped.
#[derive(Debug)]
pub struct Crew {
    members: BTreeMap<String, Arc<Member>>,
    /// End with this.
    keepers: JoinSet<()>,
}

/// One process, whichever is its turn of life.
#[derive(Debug)]
pub struct Member {
    name: String,
    life: watch::Sender<Life>,
    /// Refers to the process itself: a signal never hits another one that has got its number.
    process: Mutex<Option<OwnedFd>>,
    down_ms: AtomicU64,
    /// Whoever strikes says so before.
    struck: AtomicBool,
    /// One life can be ended by `kill -9` but once.
    killed: AtomicBool,
    chronicle: Arc<Chronicle>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Life {
    ended: u64,
    ready: bool,
}

impl Crew {
    /// Starts everything, one after the other, and waits until each is ready.
    pub async fn start(plan: &Plan, chronicle: &Arc<Chronicle>) -> anyhow::Result<Self> {
        plan.prepare()?;
        let mut crew = Self {
            members: BTreeMap::new(),
            keepers: JoinSet::new(),
        };
        for name in plan.processes() {
            let member = Arc::new(Member {
                name: name.clone(),
                life: watch::Sender::new(Life::default()),
                process: Mutex::default(),
                down_ms: AtomicU64::new(0),
                struck: AtomicBool::new(false),
                killed: AtomicBool::new(false),
                chronicle: Arc::clone(chronicle),
            });
            let keeping = Arc::clone(&member).keep(plan.clone());
            crew.keepers.spawn(keeping);
            crew.members.insert(name, Arc::clone(&member));
            member.ready().await?;
        }
        Ok(crew)
    }

    pub fn member(&self, name: &str) -> anyhow::Result<&Arc<Member>> {
        self.members
            .get(name)
            .with_context(|| format!("no process {name}"))
    }

    /// Waits until all of them are there.
    pub async fn all_ready(&self) -> anyhow::Result<()> {
        for member in self.members.values() {
            member.ready().await?;
        }
        Ok(())
    }
}

impl Member {
    async fn keep(self: Arc<Self>, plan: Plan) {
        loop {
            if let Err(error) = self.live(&plan).await {
                self.failed(&error);
            }
            let down = self.down_ms.swap(0, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(down)).await;
        }
    }

    async fn live(&self, plan: &Plan) -> anyhow::Result<()> {
        let mut child = plan.command(&self.name)?.spawn()?;
        let id = child.id().context("has ended")?;
        let pid = Pid::from_raw(i32::try_from(id)?).context("no pid")?;
        *self.process() = Some(pidfd_open(pid, PidfdFlags::empty())?);
        let ready_url = plan.ready_url(&self.name);
        let status = tokio::select! {
            status = child.wait() => status?,
            () = answers(&ready_url) => self.serve(&mut child).await?,
        };
        self.process().take();
        self.killed.store(false, Ordering::Relaxed);
        let by_itself = !self.struck.swap(false, Ordering::Relaxed);
        self.chronicle.add(What::Ended {
            process: self.name.clone(),
            status: status.to_string(),
            by_itself,
        });
        if by_itself {
            self.down_ms.store(RETRIED_AFTER_MS, Ordering::Relaxed);
        }
        self.life.send_modify(|life| {
            life.ended += 1;
            life.ready = false;
        });
        Ok(())
    }

    async fn serve(&self, child: &mut Child) -> std::io::Result<std::process::ExitStatus> {
        self.chronicle.add(What::Ready {
            process: self.name.clone(),
        });
        self.life.send_modify(|life| life.ready = true);
        child.wait().await
    }

    fn failed(&self, error: &anyhow::Error) {
        self.chronicle.add(What::Failed {
            what: format!("keep {} running: {error:#}", self.name),
        });
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Option<OwnedFd>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if there is no process to strike just now.
    fn strike(&self, blow: Blow, why: &str) -> bool {
        let signal = match blow {
            Blow::Kill => Signal::KILL,
            Blow::Stop => Signal::STOP,
            Blow::Continue => Signal::CONT,
            Blow::Terminate => Signal::TERM,
        };
        let process = self.process();
        let Some(process) = process.as_ref() else {
            return false;
        };
        if blow == Blow::Kill && self.killed.swap(true, Ordering::Relaxed) {
            return true;
        }
        if matches!(blow, Blow::Kill | Blow::Terminate) {
            self.struck.store(true, Ordering::Relaxed);
        }
        // Before the signal: nothing that comes of it is to be older.
        self.chronicle.add(What::Struck {
            process: self.name.clone(),
            blow,
            why: why.to_owned(),
        });
        pidfd_send_signal(process, signal).is_ok()
    }

    /// `kill -9`; returns when the process is gone. It comes back after a while.
    pub async fn kill(&self, why: &str, down_ms: u64) -> bool {
        self.end(Blow::Kill, why, down_ms).await
    }

    /// Asks the process to stop; returns when it is gone. It comes back at once.
    pub async fn terminate(&self, why: &str) -> bool {
        self.end(Blow::Terminate, why, 0).await
    }

    async fn end(&self, blow: Blow, why: &str, down_ms: u64) -> bool {
        let mut life = self.life.subscribe();
        let before = life.borrow_and_update().ended;
        self.down_ms.store(down_ms, Ordering::Relaxed);
        let hit = self.strike(blow, why);
        if hit {
            let gone = life.wait_for(|life| life.ended > before);
            drop(tokio::time::timeout(PATIENCE, gone).await);
        }
        hit
    }

    /// SIGSTOP for a while.
    pub async fn stop(&self, why: &str, for_ms: u64) -> bool {
        let hit = self.strike(Blow::Stop, why);
        if hit {
            tokio::time::sleep(Duration::from_millis(for_ms)).await;
            self.strike(Blow::Continue, why);
        }
        hit
    }

    pub async fn ready(&self) -> anyhow::Result<()> {
        let mut life = self.life.subscribe();
        let ready = life.wait_for(|life| life.ready);
        match tokio::time::timeout(PATIENCE, ready).await {
            Ok(_) => Ok(()),
            Err(_) => bail!(
                "{} is not ready after {PATIENCE:?}; its log is in the run's directory",
                self.name
            ),
        }
    }
}

async fn answers(url: &str) {
    let Ok(http) = Client::http() else {
        return std::future::pending().await;
    };
    loop {
        let answer = http.get(url).send().await;
        if answer.is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
