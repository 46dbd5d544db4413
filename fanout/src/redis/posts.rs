//! What is published, in one order: a task takes all that has been posted meanwhile and sends it as one pipeline,
//! so that a post costs its share of a system call and waits for no other's answer.

use std::future::Future;
use std::time::Duration;

use redis::{Cmd, Pipeline, RedisError, Value};
use shared::limits::{REDIS_COMMAND_MS, REDIS_PIPELINE_MAX, REDIS_POSTS_MAX};
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
    /// After it whoever posted has been told that it failed, and it is not sent any more.
    deadline: Instant,
    answer: oneshot::Sender<Answered>,
}

/// The queue of posts, and the script that some of them run.
pub(crate) struct Posts {
    sender: mpsc::Sender<Post>,
    receiver: parking_lot::Mutex<Option<mpsc::Receiver<Post>>>,
    script: Script,
}

impl Posts {
    /// `script` is what [`Script::posted`] commands of it run.
    pub(crate) fn new(script: Script) -> Self {
        let (sender, receiver) = mpsc::channel(REDIS_POSTS_MAX);
        Self { sender, receiver: parking_lot::Mutex::new(Some(receiver)), script }
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
        if self.sender.try_send(Post { cmd, deadline, answer }).is_err() {
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
        let mut batch = Vec::new();
        while posts.recv_many(&mut batch, REDIS_PIPELINE_MAX).await > 0 {
            let (now, mut pipeline) = (Instant::now(), Pipeline::with_capacity(batch.len()));
            let mut waiting = Vec::with_capacity(batch.len());
            for post in batch.drain(..).filter(|post| post.deadline > now) {
                pipeline.add_command(post.cmd);
                waiting.push(post.answer);
            }
            if pipeline.is_empty() {
                continue;
            }
            // Without answers, whoever waits is told that it is unknown what became of the post.
            let answers = self.send(commands, &pipeline).await.unwrap_or_default();
            for (waiting, answer) in waiting.into_iter().zip(answers) {
                // Whoever posted may have gone.
                let _ = waiting.send(answer);
            }
        }
    }

    /// Sends commands, and those that run a script which the server does not know once more.
    async fn send(&self, commands: &Commands, pipeline: &Pipeline) -> Result<Vec<Answered>, FanoutError> {
        let mut answers = commands.ask_all(pipeline).await?;
        let unknown =
            |answer: &Answered| answer.as_ref().is_err_and(|error| error.code() == Some("NOSCRIPT"));
        if !answers.iter().any(unknown) {
            return Ok(answers);
        }
        self.script.load(commands).await?;
        let mut again = Pipeline::new();
        for (cmd, _) in pipeline.cmd_iter().zip(&answers).filter(|(_, answer)| unknown(answer)) {
            again.add_command(cmd.clone());
        }
        let mut later = commands.ask_all(&again).await?.into_iter();
        for answer in answers.iter_mut().filter(|answer| unknown(answer)) {
            if let Some(told) = later.next() {
                *answer = told;
            }
        }
        Ok(answers)
    }
}
