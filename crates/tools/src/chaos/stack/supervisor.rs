//! Processes that are started again whenever they end.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use pipekeeper_core::clock::{SharedClock, SystemClock};
use rustix::process::{Pid, PidfdFlags, Signal as UnixSignal, pidfd_open, pidfd_send_signal};
use tokio::process::Child;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::chaos::event_log::{Event, EventLog, Life, Signal};
use up::client::Client;
use up::processes::Plan;

const PATIENCE: Duration = Duration::from_secs(30);

/// A process that can't be started is tried again.
const RETRIED_AFTER_MS: u64 = 200;

/// A process is sent no signal before it has been ready for so long.
const READY_FOR: Duration = Duration::from_secs(1);

/// All processes of a run; killed when dropped.
#[derive(Debug)]
pub struct Supervisor {
    processes: BTreeMap<String, Arc<Process>>,
    /// One for each process; they end with this.
    tasks: JoinSet<()>,
}

/// One process, in whichever of its lives.
#[derive(Debug)]
pub struct Process {
    name: String,
    status: watch::Sender<Status>,
    /// Refers to the process itself: a signal never hits another one that has got its number.
    pidfd: Mutex<Option<OwnedFd>>,
    down_ms: AtomicU64,
    /// Set before each signal that ends the process.
    asked_to_end: AtomicBool,
    /// Held by whichever step sends it signals.
    turn: tokio::sync::Mutex<()>,
    /// Monotonic.
    clock: SharedClock,
    event_log: Arc<EventLog>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Status {
    life: Life,
    ended: u64,
    /// Since when it is ready.
    ready: Option<Duration>,
}

impl Supervisor {
    /// Starts everything, one after the other, and waits until each is ready.
    pub async fn start(plan: &Plan, event_log: &Arc<EventLog>) -> anyhow::Result<Self> {
        plan.prepare()?;
        let mut supervisor = Self {
            processes: BTreeMap::new(),
            tasks: JoinSet::new(),
        };
        for name in plan.processes() {
            let process = Arc::new(Process {
                name: name.clone(),
                status: watch::Sender::new(Status::default()),
                pidfd: Mutex::default(),
                down_ms: AtomicU64::new(0),
                asked_to_end: AtomicBool::new(false),
                turn: tokio::sync::Mutex::default(),
                clock: SystemClock::shared(),
                event_log: Arc::clone(event_log),
            });
            supervisor
                .tasks
                .spawn(Arc::clone(&process).keep_running(plan.clone()));
            supervisor.processes.insert(name, Arc::clone(&process));
            process.ready().await?;
        }
        Ok(supervisor)
    }

    pub fn process(&self, name: &str) -> anyhow::Result<&Arc<Process>> {
        self.processes
            .get(name)
            .with_context(|| format!("no process {name}"))
    }

    /// Waits until all of them are there.
    pub async fn all_ready(&self) -> anyhow::Result<()> {
        for process in self.processes.values() {
            process.ready().await?;
        }
        Ok(())
    }

    /// Waits until each process has been ready for a second, and keeps others from sending signals.
    pub async fn claim_all(&self) -> anyhow::Result<Vec<Claim<'_>>> {
        let mut claims = Vec::new();
        for process in self.processes.values() {
            claims.push(process.claim().await?);
        }
        Ok(claims)
    }
}

impl Process {
    async fn keep_running(self: Arc<Self>, plan: Plan) {
        for life in 1.. {
            if let Err(error) = self.run_once(&plan, life).await {
                self.event_log.add(Event::Failed {
                    what: format!("keep {} running: {error:#}", self.name),
                });
            }
            let down = self.down_ms.swap(0, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(down)).await;
        }
    }

    async fn run_once(&self, plan: &Plan, life: Life) -> anyhow::Result<()> {
        let mut command = plan.command(&self.name)?;
        command.envs(super::life_settings(plan, &self.name, life));
        let mut child = command.spawn()?;
        let id = child.id().context("has ended")?;
        let pid = Pid::from_raw(i32::try_from(id)?).context("no pid")?;
        self.event_log.add(Event::Started {
            process: self.name.clone(),
            life,
        });
        self.status.send_modify(|status| status.life = life);
        *self.pidfd() = Some(pidfd_open(pid, PidfdFlags::empty())?);
        let ready_url = plan.ready_url(&self.name);
        let status = tokio::select! {
            status = child.wait() => status?,
            () = answers(&ready_url) => self.run_ready(&mut child, life).await?,
        };
        self.pidfd().take();
        let unasked = !self.asked_to_end.swap(false, Ordering::Relaxed);
        self.event_log.add(Event::Ended {
            process: self.name.clone(),
            life,
            status: status.to_string(),
            unasked,
        });
        if unasked {
            self.down_ms.store(RETRIED_AFTER_MS, Ordering::Relaxed);
        }
        self.status.send_modify(|status| {
            status.ended += 1;
            status.ready = None;
        });
        Ok(())
    }

    async fn run_ready(
        &self,
        child: &mut Child,
        life: Life,
    ) -> std::io::Result<std::process::ExitStatus> {
        self.event_log.add(Event::Ready {
            process: self.name.clone(),
            life,
        });
        let now = self.clock.monotonic();
        self.status.send_modify(|status| status.ready = Some(now));
        child.wait().await
    }

    fn pidfd(&self) -> MutexGuard<'_, Option<OwnedFd>> {
        self.pidfd.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if there is no process just now.
    fn send(&self, signal: Signal, why: &str) -> bool {
        let unix = match signal {
            Signal::Kill => UnixSignal::KILL,
            Signal::Stop => UnixSignal::STOP,
            Signal::Continue => UnixSignal::CONT,
            Signal::Terminate => UnixSignal::TERM,
        };
        let pidfd = self.pidfd();
        let Some(pidfd) = pidfd.as_ref() else {
            return false;
        };
        if matches!(signal, Signal::Kill | Signal::Terminate) {
            self.asked_to_end.store(true, Ordering::Relaxed);
        }
        // Before the signal: nothing that comes of it is to be older.
        self.event_log.add(Event::Signal {
            process: self.name.clone(),
            life: self.status.borrow().life,
            signal,
            why: why.to_owned(),
        });
        pidfd_send_signal(pidfd, unix).is_ok()
    }

    /// Waits until the process has been ready for a second and no other step is sending it signals.
    pub async fn claim(&self) -> anyhow::Result<Claim<'_>> {
        let turn = self.turn.lock().await;
        self.settled().await?;
        Ok(Claim {
            process: self,
            _turn: turn,
        })
    }

    /// The same without waiting.
    pub fn try_claim(&self) -> Option<Claim<'_>> {
        let turn = self.turn.try_lock().ok()?;
        self.is_settled().then_some(Claim {
            process: self,
            _turn: turn,
        })
    }

    fn is_settled(&self) -> bool {
        let ready = self.status.borrow().ready;
        ready.is_some_and(|since| self.clock.monotonic().saturating_sub(since) >= READY_FOR)
    }

    async fn settled(&self) -> anyhow::Result<()> {
        while !self.is_settled() {
            self.ready().await?;
            let since = self.status.borrow().ready;
            if let Some(since) = since {
                let age = self.clock.monotonic().saturating_sub(since);
                tokio::time::sleep(READY_FOR.saturating_sub(age)).await;
            }
        }
        Ok(())
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let mut status = self.status.subscribe();
        let ready = status.wait_for(|status| status.ready.is_some());
        match tokio::time::timeout(PATIENCE, ready).await {
            Ok(_) => Ok(()),
            Err(_) => bail!(
                "{} is not ready after {PATIENCE:?}; its log is in the run's directory",
                self.name
            ),
        }
    }
}

/// The right to send signals to a process that has been ready for a second.
#[derive(Debug)]
pub struct Claim<'a> {
    process: &'a Process,
    _turn: tokio::sync::MutexGuard<'a, ()>,
}

impl Claim<'_> {
    pub fn life(&self) -> Life {
        self.process.status.borrow().life
    }

    /// `kill -9`; returns when the process is gone. It comes back after a while.
    pub async fn kill(self, why: &str, down_ms: u64) {
        self.end(Signal::Kill, why, down_ms).await;
    }

    /// Asks the process to stop; returns when it is gone. It comes back at once.
    pub async fn terminate(self, why: &str) {
        self.end(Signal::Terminate, why, 0).await;
    }

    async fn end(&self, signal: Signal, why: &str, down_ms: u64) {
        let mut status = self.process.status.subscribe();
        let before = status.borrow_and_update().ended;
        self.process.down_ms.store(down_ms, Ordering::Relaxed);
        if self.process.send(signal, why) {
            let gone = status.wait_for(|status| status.ended > before);
            drop(tokio::time::timeout(PATIENCE, gone).await);
        }
    }

    /// SIGSTOP, and SIGCONT after a while.
    pub async fn stop(self, why: &str, stopped: Duration) {
        let ready = |since| {
            self.process
                .status
                .send_modify(|status| status.ready = since);
        };
        if self.process.send(Signal::Stop, why) {
            ready(None);
            tokio::time::sleep(stopped).await;
            self.process.send(Signal::Continue, why);
            ready(Some(self.process.clock.monotonic()));
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
