//! Every task has an owner that waits for it.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tasks of a node. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    stopping: CancellationToken,
}

impl Tasks {
    /// Starts a task that ends by itself: a connection, a request's work, the leave of a socket.
    pub(crate) fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tracker.spawn(future)
    }

    /// Starts a task that runs until the node stops.
    pub(crate) fn spawn_until_stop(&self, future: impl Future<Output = ()> + Send + 'static) {
        let stopping = self.stopping.clone();
        self.tracker.spawn(async move {
            stopping.run_until_cancelled_owned(future).await;
        });
    }

    /// Starts a thread that runs `future` until the node stops, and nothing else: no other task can hold it up.
    ///
    /// # Errors
    /// The system's, when it gives no thread or no files for its runtime.
    pub(crate) fn spawn_thread_until_stop(
        &self,
        name: &str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stopping, running) = (self.stopping.clone(), self.tracker.token());
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(stopping.run_until_cancelled_owned(Box::pin(future)));
            drop(running);
        })?;
        Ok(())
    }

    /// Ends when the node stops, for a task that ends by itself and pauses meanwhile.
    pub(crate) async fn stopped(&self) {
        self.stopping.cancelled().await;
    }

    /// Ends the tasks that run until the node stops, and waits for all tasks, `at_most` so long.
    pub(crate) async fn stop(&self, at_most: Duration) {
        self.tracker.close();
        self.stopping.cancel();
        if tokio::time::timeout(at_most, self.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.tracker.len(), "tasks did not end in time");
        }
    }
}
