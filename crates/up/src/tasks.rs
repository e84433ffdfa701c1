//! Tasks without a shutdown that waits for them.

use tokio::task::JoinHandle;

/// A task that its starter aborts, or that ends with the runtime.
#[expect(
    clippy::disallowed_methods,
    reason = "tools and tests have no shutdown that waits for their tasks"
)]
pub fn in_background<F>(task: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    tokio::task::spawn(task)
}
