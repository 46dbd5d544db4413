//! Publishes in one order: a task takes everything that has been posted meanwhile and sends it as one pipeline, so that a
//! post costs its share of a system call and does not wait for another post's reply.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use shared::limits::{
    REDIS_COMMAND_MS, REDIS_PIPELINE_BYTES, REDIS_PIPELINE_MAX, REDIS_POSTS_BYTES, REDIS_POSTS_MAX,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::Commands;
use super::calls::{Answered, Calls, Post, TrackedScript};
use crate::error::FanoutError;
use crate::stats::Stats;

/// A post with its place in the order.
struct Queued {
    post: Post,
    bytes: usize,
    /// The connection at the time of the post; its message is not valid for another server.
    generation: u64,
    /// After this the caller has got an error, and the post is not sent any more.
    deadline: Instant,
    answer: oneshot::Sender<Answered>,
}

/// The queue of posts.
pub(crate) struct Posts {
    sender: mpsc::Sender<Queued>,
    receiver: parking_lot::Mutex<Option<mpsc::Receiver<Queued>>>,
    /// Bytes of the posts that wait or are being sent.
    bytes: AtomicUsize,
    script: TrackedScript,
}

impl Default for Posts {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(REDIS_POSTS_MAX);
        let receiver = parking_lot::Mutex::new(Some(receiver));
        Self { sender, receiver, bytes: AtomicUsize::new(0), script: TrackedScript::default() }
    }
}

impl Posts {
    /// Queues a post; the answer comes later. For a tracked post it has three values: whether it had been published before
    /// under its key, its place, and how many servers received it.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`]: at once while Redis is away or the queue is full, later when no answer came in time; it
    /// may have been carried out all the same.
    pub(crate) fn post(
        &self,
        commands: &Commands,
        post: Post,
    ) -> Result<impl Future<Output = Result<Answered, FanoutError>> + Send + use<>, FanoutError> {
        self.post_at(commands, commands.generation(), post)
    }

    /// As [`Self::post`], unless the node has another connection by now.
    pub(crate) fn post_at(
        &self,
        commands: &Commands,
        generation: u64,
        post: Post,
    ) -> Result<impl Future<Output = Result<Answered, FanoutError>> + Send + use<>, FanoutError> {
        if !commands.is_up() {
            return Err(FanoutError::Unavailable);
        }
        let deadline = Instant::now() + Duration::from_millis(REDIS_COMMAND_MS);
        let (answer, answered) = oneshot::channel();
        let bytes = post.bytes();
        let queued = Queued { post, bytes, generation, deadline, answer };
        let waiting = self.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if waiting > REDIS_POSTS_BYTES || self.sender.try_send(queued).is_err() {
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
            Stats::add(&commands.stats().redis_errors, 1);
            return Err(FanoutError::Unavailable);
        }
        Ok(async move {
            match timeout_at(deadline, answered).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(_)) | Err(_) => Err(FanoutError::Unavailable),
            }
        })
    }

    /// Sends posts until the task is dropped. Run it once.
    pub(crate) async fn run(&self, commands: &Commands) {
        let Some(mut queue) = self.receiver.lock().take() else { return };
        while let Some(first) = queue.recv().await {
            let (mut posts, mut waiting, mut deadline) = (Vec::new(), Vec::new(), first.deadline);
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(queued) = next {
                bytes += queued.bytes;
                if queued.deadline > Instant::now() && queued.generation == commands.generation() {
                    deadline = queued.deadline;
                    posts.push(queued.post);
                    waiting.push(queued.answer);
                }
                let is_full = posts.len() >= REDIS_PIPELINE_MAX || bytes >= REDIS_PIPELINE_BYTES;
                next = if is_full { None } else { queue.try_recv().ok() };
            }
            if !posts.is_empty() {
                let calls = self.script.calls(posts, &commands.run_id(), commands.is_cluster());
                // Without answers the callers get an error: whether the posts were published is unknown.
                let answers = self.send(commands, calls, deadline).await.unwrap_or_default();
                for (waiting, answer) in waiting.into_iter().zip(answers) {
                    // The caller may have given up.
                    let _ = waiting.send(answer);
                }
            }
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        }
    }

    /// Sends calls, and repeats those whose script the server does not know, unless it is too late. Returns an answer for
    /// each post.
    async fn send(
        &self,
        commands: &Commands,
        calls: Calls,
        deadline: Instant,
    ) -> Result<Vec<Answered>, FanoutError> {
        let mut answers = commands.ask_all(&calls.pipeline).await?;
        if let Some((again, places)) = self.script.unknown(&calls, &answers)
            && deadline > Instant::now()
        {
            let later = commands.ask_all(&again).await.unwrap_or_default();
            for (place, answer) in places.into_iter().zip(later) {
                answers[place] = answer;
            }
        }
        Ok(calls.answers(answers))
    }
}
