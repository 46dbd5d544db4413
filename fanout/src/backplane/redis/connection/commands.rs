//! The connection for commands: multiplexed, with a deadline for each command. Commands fail at once while
//! Redis is away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, ServerErrorKind, Value};
use shared::limits::{REDIS_COMMAND_MS, REDIS_CONNECT_MS, REDIS_IN_FLIGHT_MAX};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;

use super::link::{Connection, Link, Pool, retry};
use super::process;
use super::trouble::{Brief, Trouble};
use crate::error::FanoutError;
use crate::stats::Stats;

const COMMAND: Duration = Duration::from_millis(REDIS_COMMAND_MS);
const CONNECT: Duration = Duration::from_millis(REDIS_CONNECT_MS);
/// How much earlier a pooled command's deadline ends than the pipeline's.
const MARGIN: Duration = Duration::from_millis(50);

/// Consecutive missed deadlines after which the connection counts as lost.
const MISSES_MAX: u32 = 3;

/// The connection to Redis for everything but subscriptions.
pub(crate) struct Commands {
    link: Link,
    /// Its purpose, for the log.
    purpose: &'static str,
    /// The key of the process' name, for a user who may not read the `run_id`.
    mark: String,
    pool: Option<Pool>,
    state: Mutex<State>,
    misses: AtomicU32,
    lost: Notify,
    generation: watch::Sender<u64>,
    in_flight: Semaphore,
    stats: Arc<Stats>,
}

struct State {
    connection: Option<Connection>,
    /// The process of the server behind the connection (see [`process`]); empty on a cluster.
    run: Arc<str>,
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Commands").field("link", &self.link).finish_non_exhaustive()
    }
}

impl Commands {
    /// `purpose` is for the log; `key_prefix` is how keys begin.
    pub(crate) fn new(link: Link, purpose: &'static str, key_prefix: &str, stats: Arc<Stats>) -> Self {
        let pool = link.pool().inspect_err(|error| tracing::error!(%error, "no pool for Redis")).ok();
        Self {
            link,
            purpose,
            mark: format!("{key_prefix}process"),
            pool,
            state: Mutex::new(State { connection: None, run: "".into() }),
            misses: AtomicU32::new(0),
            lost: Notify::new(),
            generation: watch::Sender::new(0),
            in_flight: Semaphore::new(REDIS_IN_FLIGHT_MAX),
            stats,
        }
    }

    /// Whether there is a connection.
    pub(crate) fn is_up(&self) -> bool {
        self.state.lock().connection.is_some()
    }

    /// Whether the server is a Redis Cluster, where all keys of a command must be on one server.
    pub(crate) fn is_cluster(&self) -> bool {
        self.link.is_cluster()
    }

    /// The server's process; the epoch of rooms is bound to it.
    pub(crate) fn run_id(&self) -> Arc<str> {
        Arc::clone(&self.state.lock().run)
    }

    /// Grows with every new connection.
    pub(crate) fn generation(&self) -> u64 {
        *self.generation.borrow()
    }

    /// The counters.
    pub(super) fn stats(&self) -> &Stats {
        &self.stats
    }

    /// Changes with every new connection.
    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// Keeps a connection until the task is dropped.
    pub(crate) async fn run(&self) {
        let mut backoff = retry();
        let mut reported = false;
        loop {
            match self.connect().await {
                Ok((connection, run)) => {
                    tracing::info!(connection = self.purpose, "connected to Redis");
                    backoff.reset();
                    reported = false;
                    self.misses.store(0, Ordering::Relaxed);
                    *self.state.lock() = State { connection: Some(connection), run };
                    self.generation.send_modify(|generation| *generation += 1);
                    self.lost.notified().await;
                    self.forget();
                    Stats::add(&self.stats.redis_reconnects, 1);
                    tracing::warn!(
                        connection = self.purpose,
                        server = %self.link.address(),
                        "the connection to Redis is lost"
                    );
                }
                Err(error) => {
                    Stats::add(&self.stats.redis_reconnects, 1);
                    if !std::mem::replace(&mut reported, true) {
                        tracing::warn!(
                            connection = self.purpose,
                            server = %self.link.address(),
                            error = %Trouble { error: &error, tls: self.link.address().tls },
                            "cannot connect to Redis; retrying"
                        );
                    }
                    tokio::time::sleep(backoff.pause(rand::random())).await;
                }
            }
        }
    }

    fn forget(&self) {
        self.state.lock().connection = None;
    }

    async fn connect(&self) -> Result<(Connection, Arc<str>), RedisError> {
        let late = |_| RedisError::from((ErrorKind::Io, "timed out"));
        let mut connection = timeout(CONNECT * 3, self.link.connect()).await.map_err(late)??;
        if self.link.is_cluster() {
            // Each primary has its own; the scripts ask for it.
            return Ok((connection, "".into()));
        }
        let run = process::name(&mut connection, &self.mark).await?;
        Ok((connection, run.into()))
    }

    /// Sends a command and reads its reply.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`]: at once while Redis is away or too many commands are under way, otherwise
    /// after the deadline. The command may have run all the same.
    pub(crate) async fn query<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, FanoutError> {
        match self.ask(cmd).await? {
            Ok(value) => self.read(value),
            Err(error) => Err(self.refused(&error)),
        }
    }

    /// Like [`Self::query`], for replies that may be long, on a separate connection.
    pub(crate) async fn query_long<T: FromRedisValue>(&self, cmd: &Cmd) -> Result<T, FanoutError> {
        let Some(pool) = self.pool.as_ref().filter(|_| self.is_up()) else {
            return Err(FanoutError::Unavailable);
        };
        let asked = async {
            let mut connection = Box::pin(pool.get()).await.map_err(|error| Brief(&error).to_string())?;
            cmd.query_async(&mut *connection).await.map_err(|error: RedisError| Brief(&error).to_string())
        };
        match timeout(COMMAND, asked).await {
            Ok(Ok(value)) => self.read(value),
            Ok(Err(error)) => {
                Stats::add(&self.stats.redis_errors, 1);
                tracing::debug!(error, "a pooled command failed");
                Err(FanoutError::Unavailable)
            }
            Err(_) => {
                Stats::add(&self.stats.redis_errors, 1);
                Err(FanoutError::Unavailable)
            }
        }
    }

    /// Sends a command. The caller gets an error reply of the server as is.
    pub(crate) async fn ask(&self, cmd: &Cmd) -> Result<Result<Value, RedisError>, FanoutError> {
        let Ok(_place) = self.in_flight.try_acquire() else {
            Stats::add(&self.stats.redis_errors, 1);
            return Err(FanoutError::Unavailable);
        };
        let connection = self.state.lock().connection.clone();
        let Some(mut connection) = connection else { return Err(FanoutError::Unavailable) };
        let generation = *self.generation.borrow();
        match timeout(COMMAND, cmd.query_async::<Value>(&mut connection)).await {
            Ok(Ok(value)) => {
                self.misses.store(0, Ordering::Relaxed);
                Ok(Ok(value))
            }
            Ok(Err(error)) if is_lost(&error) => {
                tracing::debug!(error = %Brief(&error), "a command failed with its connection");
                self.lose(generation);
                Err(FanoutError::Unavailable)
            }
            Ok(Err(error)) if error.is_timeout() => {
                self.miss(generation);
                Err(FanoutError::Unavailable)
            }
            Ok(Err(error)) => Ok(Err(error)),
            Err(_) => {
                self.miss(generation);
                Err(FanoutError::Unavailable)
            }
        }
    }

    /// Sends commands in one pipeline, in their order. The answers are the server's replies, with an error for
    /// each command that it refused. On a cluster each command goes to the server of its keys, in order for
    /// each server.
    pub(crate) async fn ask_all(
        &self,
        pipeline: &Pipeline,
    ) -> Result<Vec<Result<Value, RedisError>>, FanoutError> {
        let connection = self.state.lock().connection.clone();
        let generation = *self.generation.borrow();
        let asked = async {
            match connection {
                None => Err(RedisError::from((ErrorKind::Io, "not connected"))),
                Some(Connection::One(mut one)) => {
                    let answers = one.send_packed_commands(pipeline, 0, pipeline.len()).await?;
                    Ok(answers.into_iter().map(Value::extract_error).collect())
                }
                Some(Connection::Cluster(cluster)) => {
                    // One of the servers may be away: the replies of the others count.
                    let each = pipeline.cmd_iter().map(|cmd| {
                        let mut cluster = cluster.clone();
                        async move {
                            let late = |_| RedisError::from((ErrorKind::Io, "timed out"));
                            timeout(COMMAND - MARGIN, cmd.query_async::<Value>(&mut cluster))
                                .await
                                .map_err(late)?
                        }
                    });
                    Ok(futures_util::future::join_all(each).await)
                }
            }
        };
        match timeout(COMMAND, asked).await {
            Ok(Ok(answers)) => {
                self.misses.store(0, Ordering::Relaxed);
                // In a cluster the library replaces the connection to one lost server.
                let mut lost = answers.iter().map(|answer| answer.as_ref().is_err_and(is_lost));
                let is_lost =
                    if self.link.is_cluster() { lost.all(|lost| lost) } else { lost.any(|lost| lost) };
                if is_lost {
                    self.lose(generation);
                }
                Ok(answers)
            }
            Ok(Err(error)) if !error.is_timeout() => {
                tracing::debug!(error = %Brief(&error), "a pipeline failed with its connection");
                self.lose(generation);
                Err(FanoutError::Unavailable)
            }
            Ok(Err(_)) | Err(_) => {
                self.miss(generation);
                Err(FanoutError::Unavailable)
            }
        }
    }

    fn miss(&self, generation: u64) {
        Stats::add(&self.stats.redis_errors, 1);
        if self.misses.fetch_add(1, Ordering::Relaxed) + 1 >= MISSES_MAX {
            self.lose(generation);
        }
    }

    fn lose(&self, generation: u64) {
        Stats::add(&self.stats.redis_errors, 1);
        // A failure of an older connection does not affect this one.
        if *self.generation.borrow() == generation && self.is_up() {
            self.forget();
            self.lost.notify_one();
        }
    }

    pub(crate) fn read<T: FromRedisValue>(&self, value: Value) -> Result<T, FanoutError> {
        T::from_redis_value(value).map_err(|error| {
            Stats::add(&self.stats.redis_errors, 1);
            tracing::warn!(%error, "unexpected reply from Redis");
            FanoutError::Unavailable
        })
    }

    /// Logs a refused command; the error text stays in the log.
    pub(crate) fn refused(&self, error: &RedisError) -> FanoutError {
        Stats::add(&self.stats.redis_errors, 1);
        tracing::warn!(error = %Brief(error), "Redis refused a command");
        FanoutError::Unavailable
    }
}

/// Whether an error calls for a new connection: the old one is broken, or leads to a server that takes no
/// writes.
fn is_lost(error: &RedisError) -> bool {
    let by_state = matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading
        )
    );
    by_state || (error.is_unrecoverable_error() && !error.is_timeout()) || error.is_connection_dropped()
}
