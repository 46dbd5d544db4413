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
    /// Starts a task that ends by itself, such as a connection, a request's work, or a socket's leave.
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

    /// Starts a thread that runs only `future` until the node stops, so that no other task can delay it.
    ///
    /// # Errors
    /// The system's error, if it provides no thread or no files for the thread's runtime.
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

    /// Returns when the node stops. For tasks that end by themselves and sleep in between.
    pub(crate) async fn stopped(&self) {
        self.stopping.cancelled().await;
    }

    /// Ends the tasks that run until the node stops, and waits `at_most` so long for all tasks.
    pub(crate) async fn stop(&self, at_most: Duration) {
        self.tracker.close();
        self.stopping.cancel();
        if tokio::time::timeout(at_most, self.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.tracker.len(), "tasks did not end in time");
        }
    }
}
