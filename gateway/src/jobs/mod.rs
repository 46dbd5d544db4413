//! The transactional outbox: work that follows from a change of a record is stored as [`Job`]s in the transaction that
//! changes it, and done after the commit.
//!
//! ```text
//!   begin ── change the record ── enqueue(jobs) ── commit ── Batch::run ── rows deleted with the next transaction
//!                                                   │
//!                                     crash here: another node, or the next start, finds the jobs and runs them
//! ```
//!
//! The node that stores a job runs it at once, or when it is due: it keeps its jobs and their due times in memory, so
//! it queries the database only when a job is due. A job that fails is retried, after a longer pause each time.
//!
//! Jobs of one subject run in the order of their commits. On one node they wait for each other ([`lanes`]). If several
//! nodes change one entity, each runs its own jobs, and first repeats jobs about the entity that other nodes have
//! stored and may not have done: [`enqueue`] finds their rows, because it is called while the entity is locked. Redis
//! drops the second copy of an event, so every event is published once, after those of earlier commits. Jobs of apps
//! are repeated if [`Runner::repeats`] allows it.
//!
//! Running a job and deleting its row cannot be one atomic step, so a crash between the two repeats it. In a cluster
//! Redis remembers each event's id (`IDEMPOTENCY_S`) and drops the repetition. A single node bounds how many events are
//! in that state ([`finished`]), and each event carries its id ([`WithId`]), by which clients can drop repetitions.
//!
//! Every row names the node that runs it. When that node dies, another takes its jobs over ([`look`]): the node that
//! cleans up after it in Redis does so at once, and every node checks about once a minute.

mod drive;
mod finished;
mod job;
mod lanes;
mod look;
mod store;
#[cfg(test)]
mod tests;
mod timers;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fanout::Fanout;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use shared::expiring::ExpiringMap;
use shared::limits::{
    JOBS_DELETE_WAIT_MS, JOBS_DOUBT_MS, JOBS_FINISHED_MAX, JOBS_LATE_MS, JOBS_REPEATED_MAX,
    JOBS_RETRY_MAX_MS, JOBS_UNSTORED_MAX, RECORDS_RETRY_MS,
};
use tokio::sync::Notify;

use crate::error::AppError;
use crate::records::{Connection, Records};
use crate::tasks::Tasks;
use drive::pause;
use finished::{Claim, Finished};
pub(crate) use job::{Audience, EventJob, Identified, Job, Ran, WithId};
pub(crate) use lanes::Outcome;
use lanes::{Lanes, Step, Waiter};
use look::Looks;
pub(crate) use look::{keep_looking, watch_departures};
use timers::Timers;

/// Runs the jobs of apps.
pub(crate) trait Runner: Send + Sync {
    /// Runs a job of the app called `app`; `None` if no such app is mounted.
    fn run<'a>(&'a self, app: &'a str, job: &'a Job) -> BoxFuture<'a, Option<Ran>>;

    /// Whether this node may run a job that another node runs, perhaps at the same time.
    fn repeats(&self, job: &Job) -> bool;

    /// Lets apps do what one node must do after another node has died.
    fn on_departure(&self);

    /// Lets apps convert the pending work of a node of an older version into jobs.
    fn adopt_older(&self) -> BoxFuture<'_, ()>;
}

/// The jobs of this node.
pub(crate) struct Jobs {
    fanout: Fanout,
    records: Records,
    tasks: Tasks,
    finished: Arc<Finished>,
    lanes: Mutex<Lanes>,
    timers: Timers,
    looks: Looks,
    /// Notified when a service may be available again: failed jobs are retried.
    retry_now: Notify,
    /// Jobs that could not be stored yet.
    unstored: AtomicUsize,
    runner: OnceLock<Box<dyn Runner>>,
    /// Whether other nodes may run jobs of the same subjects; then Redis drops repetitions.
    has_peers: bool,
    /// Jobs of other nodes that this node repeated recently.
    repeated: Mutex<ExpiringMap<String, ()>>,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

/// The jobs that one transaction enqueues.
#[derive(Debug)]
pub(crate) struct Batch {
    jobs: Arc<Jobs>,
    /// Jobs that are due at once.
    due: Vec<Arc<Job>>,
    /// Jobs that are due later.
    timed: Vec<Arc<Job>>,
    /// Jobs of other nodes that come first.
    earlier: Mutex<Vec<Arc<Job>>>,
    /// Rows of finished jobs that the transaction deletes.
    claim: Claim,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// A transaction contains its rows.
    Enqueued {
        /// Its jobs have places in their lanes.
        has_places: bool,
    },
    Committed,
}

/// Stores jobs within a transaction, which also deletes the rows of finished jobs. The caller must have locked
/// everything that other transactions may change at the same time; after `Ok` only the commit may follow.
///
/// # Errors
/// The database's error.
pub(crate) async fn enqueue(transaction: &mut Connection, batch: &Batch) -> Result<(), sqlx::Error> {
    if batch.due.is_empty() && batch.timed.is_empty() {
        return Ok(());
    }
    batch.enter(batch.find_earlier(transaction).await?);
    let owner = batch.jobs.fanout.node();
    store::insert(transaction, owner.as_str(), &batch.due).await?;
    store::insert(transaction, owner.as_str(), &batch.timed).await?;
    // Not earlier: on SQLite this transaction is the only writer, so all jobs that finished before are known now.
    let deleted = store::delete_finished(transaction, &batch.claim.take()).await?;
    batch.claim.keep_to(&deleted);
    Ok(())
}

/// Withdraws a job that is no longer needed: a job that has not run yet never runs.
///
/// # Errors
/// The database's error.
pub(crate) async fn take_back(transaction: &mut Connection, id: &str) -> Result<(), sqlx::Error> {
    store::delete(transaction, id).await
}

impl Batch {
    /// Finds jobs about the same subjects that other nodes have stored and may not have done.
    async fn find_earlier(&self, transaction: &mut Connection) -> Result<Vec<Arc<Job>>, sqlx::Error> {
        let ordered = self.due.iter().filter(|job| !job.is_apart);
        let mut subjects: Vec<String> = ordered.map(|job| job.subject.clone()).collect();
        subjects.sort_unstable();
        subjects.dedup();
        if !self.jobs.has_peers || subjects.is_empty() {
            return Ok(Vec::new());
        }
        let own = self.jobs.fanout.node();
        let earlier = store::earlier(transaction, own.as_str(), &subjects).await?;
        let repeats = |job: &Job| {
            job.event().is_some() || self.jobs.runner.get().is_some_and(|runner| runner.repeats(job))
        };
        Ok(earlier.into_iter().flatten().filter(repeats).map(Arc::new).collect())
    }

    fn enter(&self, earlier: Vec<Arc<Job>>) {
        for job in self.due.iter().chain(&self.timed) {
            self.jobs.finished.hold(&job.id);
        }
        let has_places = self.jobs.lanes.lock().enter(&earlier, &self.due);
        *self.earlier.lock() = earlier;
        *self.state.lock() = State::Enqueued { has_places };
    }

    /// The jobs that have places in lanes.
    fn entered(&self) -> Vec<Arc<Job>> {
        [self.earlier.lock().as_slice(), &self.due].concat()
    }

    /// Runs the committed jobs. Returns when all jobs that are due are done, or one of them cannot be done now.
    pub(crate) async fn run(self) -> Outcome {
        match self.start() {
            Some(outcome) => outcome.await.unwrap_or_default(),
            None => Outcome { is_done: true, value: Value::Null },
        }
    }

    /// Like [`Self::run`], for callers that do not wait.
    pub(crate) fn run_later(self) {
        drop(self.start());
    }

    fn start(self) -> Option<tokio::sync::oneshot::Receiver<Outcome>> {
        let state = std::mem::replace(&mut *self.state.lock(), State::Committed);
        let State::Enqueued { has_places } = state else { return None };
        self.claim.confirm();
        for job in &self.timed {
            self.jobs.timers.set(Arc::clone(job), job.delay, 0);
        }
        let count = self.due.iter().filter(|job| !job.is_apart).count();
        let (waiter, outcome) = Waiter::new(count);
        if !has_places {
            // A look at the records finds them when there is room.
            self.due.iter().for_each(|job| self.jobs.finished.let_go(&job.id));
            self.jobs.looks.doubt(Duration::from_millis(JOBS_RETRY_MAX_MS));
            return Some(outcome);
        }
        let subjects = self.jobs.lanes.lock().commit(&self.entered(), &waiter);
        self.jobs.drive_all(subjects);
        (count > 0).then_some(outcome)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let State::Enqueued { has_places } = *self.state.get_mut() else { return };
        // Rolled back, or unknown: then the rows may exist.
        for job in self.due.iter().chain(&self.timed) {
            self.jobs.finished.let_go(&job.id);
        }
        if has_places {
            let subjects = self.jobs.lanes.lock().withdraw(&self.entered());
            self.jobs.drive_all(subjects);
        }
        self.jobs.looks.doubt(Duration::from_millis(JOBS_DOUBT_MS));
    }
}

impl Jobs {
    /// Creates the jobs of a node. The caller must call [`Self::set_runner`] and run [`delete_finished`],
    /// [`run_timed`], [`keep_looking`] and [`watch_departures`].
    pub(crate) fn new(fanout: Fanout, records: Records, tasks: Tasks) -> Arc<Self> {
        let has_peers = fanout.has_peers();
        Self::build(fanout, records, tasks, has_peers)
    }

    fn build(fanout: Fanout, records: Records, tasks: Tasks, has_peers: bool) -> Arc<Self> {
        // In a cluster Redis drops repetitions, so events need not wait for the database.
        let limit = if has_peers { JOBS_FINISHED_MAX } else { JOBS_REPEATED_MAX };
        Arc::new(Self {
            fanout,
            records,
            tasks,
            finished: Finished::new(limit),
            lanes: Mutex::default(),
            timers: Timers::default(),
            looks: Looks::default(),
            retry_now: Notify::new(),
            unstored: AtomicUsize::new(0),
            runner: OnceLock::new(),
            has_peers,
            repeated: Mutex::new(ExpiringMap::new(JOBS_FINISHED_MAX)),
        })
    }

    /// Sets the runner of the apps' jobs. They wait until it is set.
    pub(crate) fn set_runner(&self, runner: Box<dyn Runner>) {
        // Set once, after the apps are created.
        drop(self.runner.set(runner));
    }

    /// Creates a batch of jobs for one transaction.
    pub(crate) fn batch(self: &Arc<Self>, jobs: impl IntoIterator<Item = Job>) -> Batch {
        let (due, timed) = jobs.into_iter().map(Arc::new).partition(|job: &Arc<Job>| job.delay.is_zero());
        let claim = self.finished.no_claim();
        let (earlier, state) = (Mutex::default(), Mutex::new(State::New));
        Batch { jobs: Arc::clone(self), due, timed, earlier, claim, state }
    }

    /// Stores jobs in a separate transaction and runs them; for work that follows from no change of a record. If the
    /// database is unavailable, a background task retries until it is back, as long as the process lives.
    pub(crate) fn store_and_run(self: &Arc<Self>, jobs: Vec<Job>) {
        if self.unstored.fetch_add(1, Ordering::AcqRel) >= JOBS_UNSTORED_MAX {
            self.unstored.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!("too many jobs wait for the database; dropping some");
            return;
        }
        let this = Arc::clone(self);
        drop(self.tasks.spawn(async move {
            let mut failures = 0;
            while !this.try_to_store(&jobs).await {
                tokio::select! {
                    () = tokio::time::sleep(pause(failures)) => {}
                    () = this.tasks.stopped() => break,
                }
                failures += 1;
            }
            this.unstored.fetch_sub(1, Ordering::AcqRel);
        }));
    }

    async fn try_to_store(self: &Arc<Self>, jobs: &[Job]) -> bool {
        let batch = self.batch(jobs.iter().cloned());
        let stored = async {
            let mut transaction = self.records.pool().begin().await?;
            enqueue(&mut transaction, &batch).await?;
            transaction.commit().await
        };
        let is_stored = self.records.run(stored).await.is_ok();
        if is_stored {
            batch.run_later();
        }
        is_stored
    }

    /// Whether a job is still pending, or was done only recently.
    ///
    /// # Errors
    /// [`AppError::Unavailable`].
    pub(crate) async fn is_pending(&self, id: &str) -> Result<bool, AppError> {
        self.records.run(store::exists(self.records.pool(), id)).await
    }

    /// Retries failed jobs, because the service that they need may be available again.
    pub(crate) fn retry_now(&self) {
        self.retry_now.notify_waiters();
        self.timers.hurry();
        // Only now can the node find out which nodes are dead.
        self.looks.want(Duration::from_secs(1));
    }

    /// How many jobs have been due for longer than `JOBS_LATE_MS`.
    pub(crate) fn count_late(&self) -> usize {
        self.lanes.lock().count_late(Duration::from_millis(JOBS_LATE_MS)) + self.timers.count_failed()
    }

    /// Deletes the rows of finished jobs. Returns false if the database did not answer.
    async fn delete_some(&self) -> bool {
        let claim = self.finished.claim();
        let ids = claim.take();
        let deleted = async {
            let mut connection = self.records.pool().acquire().await?;
            let mut deleted = store::delete_finished(&mut connection, &ids).await?;
            connection.done().await?;
            let mut left = ids;
            left.retain(|id| !deleted.contains(id));
            if !left.is_empty() {
                // Rows that no longer exist count as deleted.
                let existing = store::existing(self.records.pool(), &left).await?;
                deleted.extend(left.into_iter().filter(|id| !existing.contains(id)));
            }
            Ok(deleted)
        };
        let Ok(deleted) = self.records.run(deleted).await else { return false };
        claim.keep_to(&deleted);
        claim.confirm();
        true
    }

    /// Deletes the rows of finished jobs before the node stops, so that the next start does not repeat them, and leaves
    /// the other jobs to any node.
    pub(crate) async fn close(&self) {
        self.delete_some().await;
        if self.finished.count_held() > 0 {
            let owner = self.fanout.node();
            // If this fails, a surviving node detects that this node is dead.
            drop(self.records.run(store::take_over(self.records.pool(), "", owner.as_str())).await);
        }
    }
}

/// Deletes the rows of finished jobs if no transaction of an app does so in time. Runs until the node stops.
pub(crate) async fn delete_finished(jobs: Arc<Jobs>) {
    loop {
        jobs.finished.until_due(Duration::from_millis(JOBS_DELETE_WAIT_MS)).await;
        if !jobs.delete_some().await {
            tokio::time::sleep(Duration::from_millis(RECORDS_RETRY_MS)).await;
        }
    }
}

/// Runs jobs when they are due, until the node stops.
pub(crate) async fn run_timed(jobs: Arc<Jobs>) {
    loop {
        let (job, failures) = jobs.timers.due().await;
        let (jobs, step) = (Arc::clone(&jobs), Step { job, must_claim: true, is_repeat: false });
        drop(jobs.tasks.clone().spawn(async move { jobs.run_app_job(&step, failures).await }));
    }
}
