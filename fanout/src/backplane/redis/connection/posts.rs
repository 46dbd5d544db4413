//! What is published, in one order: a task takes all that has been posted meanwhile and sends it as one pipeline,
//! so that a post costs its share of a system call and waits for no other's answer.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::{Cmd, Pipeline, RedisError, Value};
use shared::limits::{
    REDIS_COMMAND_MS, REDIS_PIPELINE_BYTES, REDIS_PIPELINE_MAX, REDIS_POSTS_BYTES, REDIS_POSTS_MAX,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::{Commands, Script};
use crate::error::FanoutError;
use crate::stats::Stats;

/// What a server answered: a value, or why it refused.
type Answered = Result<Value, RedisError>;

/// A command that has its place in the order.
struct Post {
    cmd: Cmd,
    bytes: usize,
    /// The connection that was there; what was written for it is not for another server.
    generation: u64,
    /// After it the caller has got an error, and it is not sent any more.
    deadline: Instant,
    answer: oneshot::Sender<Answered>,
}

/// The queue of posts, and the script that some of them run.
pub(crate) struct Posts {
    sender: mpsc::Sender<Post>,
    receiver: parking_lot::Mutex<Option<mpsc::Receiver<Post>>>,
    /// Bytes of what waits and of what is being sent.
    bytes: AtomicUsize,
    script: Script,
}

impl Posts {
    /// `script` is what [`Script::posted`] commands of it run.
    pub(crate) fn new(script: Script) -> Self {
        let (sender, receiver) = mpsc::channel(REDIS_POSTS_MAX);
        let receiver = parking_lot::Mutex::new(Some(receiver));
        Self { sender, receiver, bytes: AtomicUsize::new(0), script }
    }

    pub(crate) fn script(&self) -> &Script {
        &self.script
    }

    /// Gives a command its place at once; what is answered comes later.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`]: at once while Redis is away or too much waits, later when no answer came in
    /// time; then it may have been carried out all the same.
    pub(crate) fn post(
        &self,
        commands: &Commands,
        cmd: Cmd,
    ) -> Result<impl Future<Output = Result<Answered, FanoutError>> + Send + use<>, FanoutError> {
        if !commands.is_up() {
            return Err(FanoutError::Unavailable);
        }
        let deadline = Instant::now() + Duration::from_millis(REDIS_COMMAND_MS);
        let (answer, answered) = oneshot::channel();
        let bytes = cmd.args_iter().map(size_of_arg).sum::<usize>();
        let post = Post { cmd, bytes, generation: commands.generation(), deadline, answer };
        let waiting = self.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        if waiting > REDIS_POSTS_BYTES || self.sender.try_send(post).is_err() {
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

    /// Sends what is posted, until the task is dropped. To be run once.
    pub(crate) async fn run(&self, commands: &Commands) {
        let Some(mut posts) = self.receiver.lock().take() else { return };
        while let Some(first) = posts.recv().await {
            let (mut pipeline, mut waiting) = (Pipeline::new(), Vec::new());
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(post) = next {
                bytes += post.bytes;
                if post.deadline > Instant::now() && post.generation == commands.generation() {
                    pipeline.add_command(post.cmd);
                    waiting.push((post.deadline, post.answer));
                }
                let is_full = pipeline.len() >= REDIS_PIPELINE_MAX || bytes >= REDIS_PIPELINE_BYTES;
                next = if is_full { None } else { posts.try_recv().ok() };
            }
            if !pipeline.is_empty() {
                let deadlines: Vec<Instant> = waiting.iter().map(|(deadline, _)| *deadline).collect();
                // Without answers, the callers get an error: it is unknown what became of the posts.
                let answers = self.send(commands, &pipeline, &deadlines).await.unwrap_or_default();
                for ((_, waiting), answer) in waiting.into_iter().zip(answers) {
                    // The caller may have given up.
                    let _ = waiting.send(answer);
                }
            }
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        }
    }

    /// Sends commands, and those that run a script which the server does not know once more, if there is time.
    async fn send(
        &self,
        commands: &Commands,
        pipeline: &Pipeline,
        deadlines: &[Instant],
    ) -> Result<Vec<Answered>, FanoutError> {
        let mut answers = commands.ask_all(pipeline).await?;
        let unknown =
            |answer: &Answered| answer.as_ref().is_err_and(|error| error.code() == Some("NOSCRIPT"));
        if !answers.iter().any(unknown) {
            return Ok(answers);
        }
        let now = Instant::now();
        let mut again = Pipeline::new();
        let mut places = Vec::new();
        for (place, (cmd, deadline)) in pipeline.cmd_iter().zip(deadlines).enumerate() {
            if *deadline > now && answers.get(place).is_some_and(unknown) {
                again.add_command(self.script.whole(cmd));
                places.push(place);
            }
        }
        if again.is_empty() {
            return Ok(answers);
        }
        let later = commands.ask_all(&again).await.unwrap_or_default();
        for (place, answer) in places.into_iter().zip(later) {
            answers[place] = answer;
        }
        Ok(answers)
    }
}

fn size_of_arg(arg: redis::Arg<&[u8]>) -> usize {
    match arg {
        redis::Arg::Simple(bytes) => bytes.len(),
        _ => 0,
    }
}
