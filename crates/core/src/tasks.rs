//! Work that outlives the request that began it, and that shutdown waits for.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns on the process's own runtime: an HTTP worker's would take its tasks along when it stops.
#[derive(Debug, Clone)]
pub struct Tasks {
    tracker: TaskTracker,
    runtime: Handle,
    stopping: CancellationToken,
}

impl Tasks {
    /// Has to be called on the runtime that the tasks are to run on.
    pub fn here() -> Self {
        Self {
            tracker: TaskTracker::new(),
            runtime: Handle::current(),
            stopping: CancellationToken::new(),
        }
    }

    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tracker.spawn_on(task, &self.runtime)
    }

    /// Cancelled when the process begins to stop: loops end, work under way goes on.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stopping
    }

    /// Waits until nothing is under way.
    pub async fn idle(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        self.tracker.reopen();
    }

    /// Waits for what is under way, `grace` at most; says whether all of it ended.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    #[tokio::test]
    async fn what_is_under_way_is_waited_for_and_told_that_it_ends() {
        let tasks = Tasks::here();
        let stopping = tasks.stopping().clone();
        let task = tasks.spawn(async move { stopping.cancelled().await });

        assert!(tasks.drain(Duration::from_mins(2)).await);
        assert!(task.is_finished());
    }

    #[tokio::test]
    async fn what_does_not_end_is_waited_for_no_longer_than_the_grace() {
        let tasks = Tasks::here();
        tasks.spawn(std::future::pending::<()>());

        assert!(!tasks.drain(SOON).await);
    }

    #[tokio::test]
    async fn a_task_that_panics_does_not_hold_up_the_end() {
        let tasks = Tasks::here();
        let task = tasks.spawn(async { panic!("on purpose") });

        assert!(tasks.drain(Duration::from_mins(2)).await);
        assert!(task.await.unwrap_err().is_panic());
    }
}
