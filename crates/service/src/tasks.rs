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
    pub(crate) fn here() -> Self {
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

    /// Waits for what is under way, `grace` at most; says whether all of it ended.
    pub(crate) async fn drain(&self, grace: Duration) -> bool {
        self.stopping.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait())
            .await
            .is_ok()
    }
}
