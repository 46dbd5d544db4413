//! The transactional outbox: what must follow from a change of a record is stored as [`Job`]s in the transaction that changes
//! it, and done after the commit.
//!
//! ```text
//!   begin ── change the record ── enqueue(jobs) ── commit ── Batch::run ── rows deleted with the next transaction
//!                                                   │
//!                                     crash here: another node, or the next start, finds the jobs and runs them
//! ```
//!
//! The node that stores a job runs it at once, or when it is due: it knows its jobs and their times in memory, so nothing is
//! asked of the database while nothing is due. What fails is tried again, after a longer pause each time. Jobs of one subject
//! are run in the order of their commits (on one node; several nodes that change one entity run their jobs at once).
//!
//! Running a job and deleting its row cannot be one step, so a crash between the two repeats it. In a cluster Redis remembers
//! each event's id (`IDEMPOTENCY_S`) and drops the repetition. A node alone bounds how many events are in that state
//! ([`finished`]), and each event carries its id ([`WithId`]) for clients to drop repetitions by.
//!
//! Every row names the node that runs it. When that node is gone, another takes its jobs over ([`look`]): the one that
//! settles what it left in Redis does so at once, and every node looks about once a minute.

mod finished;
mod job;
mod lanes;
mod look;
mod store;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fanout::{Fanout, FanoutError};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::Value;
use shared::limits::{
    JOBS_DELETE_WAIT_MS, JOBS_DOUBT_MS, JOBS_FINISHED_MAX, JOBS_LATE_MS, JOBS_REPEATED_MAX,
    JOBS_RETRY_MAX_MS, JOBS_RETRY_MIN_MS, JOBS_UNSTORED_MAX, RECORDS_RETRY_MS,
};
use shared::sio::Event;
use tokio::sync::Notify;

use crate::error::AppError;
use crate::records::{Connection, Records};
use crate::tasks::Tasks;
use finished::{Claim, Finished};
pub(crate) use job::{Audience, EventJob, Identified, Job, Ran, WithId};
pub(crate) use lanes::Outcome;
use lanes::{Lanes, Step, Tried, Waiter};
use look::Looks;
pub(crate) use look::{keep_looking, watch_departures};
use timers::Timers;

/// Runs the jobs of apps.
pub(crate) trait Runner: Send + Sync {
    /// Runs a job of the app called `app`; `None` where no such app is mounted.
    fn run<'a>(&'a self, app: &'a str, job: &'a Job) -> BoxFuture<'a, Option<Ran>>;

    /// Has apps do what must be done when another node is gone, by one node.
    fn on_departure(&self);

    /// Has apps turn what a node of an older version has left to be done into jobs.
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
    /// Whatever was away may be back: what has failed is tried now.
    retry_now: Notify,
    /// Jobs that could not be stored yet.
    unstored: AtomicUsize,
    runner: OnceLock<Box<dyn Runner>>,
}

impl std::fmt::Debug for Jobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jobs").field("lanes", &self.lanes).finish_non_exhaustive()
    }
}

/// Jobs that one transaction enqueues.
#[derive(Debug)]
pub(crate) struct Batch {
    jobs: Arc<Jobs>,
    /// Those that are due at once.
    due: Vec<Arc<Job>>,
    /// Those that are due later.
    timed: Vec<Arc<Job>>,
    /// Rows of finished jobs that the transaction deletes.
    claim: Claim,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// Its rows are in a transaction.
    Enqueued {
        /// Its jobs have places in their lanes.
        has_places: bool,
    },
    Committed,
}

/// Stores jobs within a transaction, which also deletes the rows of finished ones. To be called when everything that
/// other transactions may change at the same time is locked, and after `Ok` nothing but the commit may follow.
///
/// # Errors
/// The database's.
pub(crate) async fn enqueue(transaction: &mut Connection, batch: &Batch) -> Result<(), sqlx::Error> {
    if batch.due.is_empty() && batch.timed.is_empty() {
        return Ok(());
    }
    batch.enter();
    let owner = batch.jobs.fanout.node();
    store::insert(transaction, owner.as_str(), &batch.due).await?;
    store::insert(transaction, owner.as_str(), &batch.timed).await?;
    // Only now: on SQLite this transaction is the only one that writes, so all that finished before is known.
    store::delete(transaction, &batch.claim.take()).await
}

/// Deletes a job whose reason is gone: where it has not been run, it is not.
///
/// # Errors
/// The database's.
pub(crate) async fn take_back(transaction: &mut Connection, id: &str) -> Result<(), sqlx::Error> {
    store::delete(transaction, &[id.to_owned()]).await
}

impl Batch {
    fn enter(&self) {
        for job in self.due.iter().chain(&self.timed) {
            self.jobs.finished.hold(&job.id);
        }
        let has_places = self.jobs.lanes.lock().enter(&self.due);
        *self.state.lock() = State::Enqueued { has_places };
    }

    /// Runs what has been committed. Ends when all jobs that are due are done, or one of them cannot be done now.
    pub(crate) async fn run(self) -> Outcome {
        match self.start() {
            Some(outcome) => outcome.await.unwrap_or_default(),
            None => Outcome { is_done: true, value: Value::Null },
        }
    }

    /// As [`Self::run`], for a caller that waits for nothing.
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
            // They are found in the records when there is room.
            self.due.iter().for_each(|job| self.jobs.finished.let_go(&job.id));
            self.jobs.looks.doubt(Duration::from_millis(JOBS_RETRY_MAX_MS));
            return Some(outcome);
        }
        let subjects = self.jobs.lanes.lock().commit(&self.due, &waiter);
        self.jobs.drive_all(subjects);
        (count > 0).then_some(outcome)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let State::Enqueued { has_places } = *self.state.get_mut() else { return };
        // Rolled back, or nobody knows: then the rows are there.
        for job in self.due.iter().chain(&self.timed) {
            self.jobs.finished.let_go(&job.id);
        }
        if has_places {
            let subjects = self.jobs.lanes.lock().withdraw(&self.due);
            self.jobs.drive_all(subjects);
        }
        self.jobs.looks.doubt(Duration::from_millis(JOBS_DOUBT_MS));
    }
}

impl Jobs {
    /// The jobs of a node. [`Self::set_runner`] must be called, and [`delete_finished`], [`run_timed`], [`keep_looking`] and
    /// [`watch_departures`] be run.
    pub(crate) fn new(fanout: Fanout, records: Records, tasks: Tasks) -> Arc<Self> {
        // In a cluster Redis drops repetitions, and there is no need to wait for the records.
        let limit = if fanout.has_peers() { JOBS_FINISHED_MAX } else { JOBS_REPEATED_MAX };
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
        })
    }

    /// Who runs jobs of apps. Until it is known they wait.
    pub(crate) fn set_runner(&self, runner: Box<dyn Runner>) {
        // It is set once, when the apps are there.
        drop(self.runner.set(runner));
    }

    /// Jobs for one transaction.
    pub(crate) fn batch(self: &Arc<Self>, jobs: impl IntoIterator<Item = Job>) -> Batch {
        let (due, timed) = jobs.into_iter().map(Arc::new).partition(|job: &Arc<Job>| job.delay.is_zero());
        let claim = self.finished.no_claim();
        Batch { jobs: Arc::clone(self), due, timed, claim, state: Mutex::new(State::New) }
    }

    /// Stores jobs in a transaction of their own and runs them, for what follows from no change of a record. Where the records
    /// are away that is tried until they are back, so long as the process lives; nobody waits for it.
    pub(crate) fn store_and_run(self: &Arc<Self>, jobs: Vec<Job>) {
        if self.unstored.fetch_add(1, Ordering::AcqRel) >= JOBS_UNSTORED_MAX {
            self.unstored.fetch_sub(1, Ordering::AcqRel);
            tracing::warn!("too many jobs wait for the records; some are dropped");
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

    /// Whether a job is still to be done, or was done a moment ago.
    ///
    /// # Errors
    /// [`AppError::Unavailable`].
    pub(crate) async fn is_pending(&self, id: &str) -> Result<bool, AppError> {
        self.records.run(store::exists(self.records.pool(), id)).await
    }

    /// What was away may be back: what has failed is tried now.
    pub(crate) fn retry_now(&self) {
        self.retry_now.notify_waiters();
        self.timers.hurry();
        // Only now can be known which nodes are gone.
        self.looks.want(Duration::from_secs(1));
    }

    /// How many jobs have been due for longer than `JOBS_LATE_MS`.
    pub(crate) fn count_late(&self) -> usize {
        self.lanes.lock().count_late(Duration::from_millis(JOBS_LATE_MS)) + self.timers.count_failed()
    }

    fn drive_all(self: &Arc<Self>, subjects: Vec<String>) {
        for subject in subjects {
            // It is spawned by whoever gives the lane its first job, and ends with the last.
            drop(self.tasks.spawn(Arc::clone(self).drive(subject)));
        }
    }

    /// Runs the jobs of a lane until it is empty or waits for a transaction.
    async fn drive(self: Arc<Self>, subject: String) {
        let mut failures = 0;
        loop {
            let next = self.lanes.lock().next(&subject, self.finished.limit());
            let Some(steps) = next else { return };
            let tried = match steps.first().filter(|step| step.job.event().is_none()) {
                Some(step) if step.job.is_apart => {
                    let (jobs, step) = (Arc::clone(&self), step.clone());
                    drop(self.tasks.spawn(async move { jobs.run_app_job(&step, 0).await }));
                    vec![Tried::Done(Value::Null)]
                }
                Some(step) => vec![self.run_app_job(step, 0).await],
                None => self.deliver(&steps).await,
            };
            let has_failed = tried.iter().any(|tried| matches!(tried, Tried::Failed));
            self.lanes.lock().settle(&subject, tried);
            if !has_failed {
                failures = 0;
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep(pause(failures)) => {}
                () = self.retry_now.notified() => {}
                // The jobs are in the records.
                () = self.tasks.stopped() => return,
            }
            failures += 1;
        }
    }

    /// Tries to deliver events; all have their places in the order before the first is waited for.
    async fn deliver(&self, steps: &[Step]) -> Vec<Tried> {
        let all_failed = || steps.iter().map(|_| Tried::Failed).collect();
        let doubtful: Vec<String> =
            steps.iter().filter(|step| step.must_claim).map(|step| step.job.id.clone()).collect();
        if !doubtful.is_empty() && !self.fanout.is_ready() {
            return all_failed();
        }
        let Ok(claimed) = self.claim(&doubtful).await else { return all_failed() };
        let is_ours = |step: &Step| !step.must_claim || claimed.contains(&step.job.id);
        let count = steps.iter().filter(|step| is_ours(step)).count();
        if !self.finished.reserve(count).await {
            tracing::warn!("events wait for the records");
            return all_failed();
        }
        let posted: Vec<_> =
            steps.iter().map(|step| is_ours(step).then(|| self.post(&step.job)).flatten()).collect();
        let mut tried = Vec::with_capacity(steps.len());
        for (step, posted) in steps.iter().zip(posted) {
            let Some(posted) = posted else {
                self.finished.let_go(&step.job.id);
                tried.push(Tried::Done(Value::Null));
                continue;
            };
            match posted.outcome().await {
                Err(FanoutError::Unavailable) => {
                    self.finished.release();
                    tried.push(Tried::Failed);
                    continue;
                }
                Ok(_) => {}
                // It never can be, and the others must not wait for it.
                Err(error) => tracing::error!(%error, job = step.job.id, "an event cannot be delivered"),
            }
            self.finished.finish(&step.job.id, true);
            tried.push(Tried::Done(Value::Null));
        }
        tried
    }

    fn post(&self, job: &Job) -> Option<fanout::Posted> {
        let stored = job.event()?;
        let target = stored.target();
        // A cluster delivers once what comes twice under one id, whichever node sends it. A node alone would remember that no
        // longer than it remembers which jobs are done.
        let target = if self.fanout.has_peers() { target.once(&job.id) } else { target };
        let event = Event {
            namespace: stored.namespace.as_str(),
            name: &stored.name,
            args: &[&stored.body],
            ack: None,
            attachments: &[],
        };
        let packet = self.fanout.packet(&target, &event);
        Some(self.fanout.post(target, packet))
    }

    /// Tries an app's job, which has failed `failures` times before. What is not done waits among the timers.
    async fn run_app_job(&self, step: &Step, failures: u32) -> Tried {
        let job = &step.job;
        let again = |failures: u32| {
            self.timers.set(Arc::clone(job), pause(failures), failures + 1);
            Tried::Postponed
        };
        if failures > 0 && !self.fanout.is_ready() {
            // It fails as it did before; to try it would only cost the database.
            return again(failures);
        }
        if step.must_claim {
            match self.claim(std::slice::from_ref(&job.id)).await {
                Ok(claimed) if claimed.is_empty() => {
                    self.finished.let_go(&job.id);
                    return Tried::Done(Value::Null);
                }
                Ok(_) => {}
                Err(_) => return again(failures),
            }
        }
        let Some(runner) = self.runner.get() else { return again(failures) };
        // A panic must not end the lane, with all jobs of its subject behind it.
        let ran = AssertUnwindSafe(runner.run(&job.app, job)).catch_unwind().await;
        let ran = ran.unwrap_or_else(|_| {
            tracing::error!(app = job.app, kind = job.kind, job = job.id, "a job has panicked");
            Some(Ran::Failed)
        });
        match ran {
            Some(Ran::Done(value)) => {
                self.finished.finish(&job.id, false);
                Tried::Done(value)
            }
            Some(Ran::Later(delay)) => {
                self.timers.set(Arc::clone(job), delay, 0);
                Tried::Postponed
            }
            Some(Ran::Failed) => again(failures),
            None => {
                // It waits in the records for a node that has the app.
                tracing::debug!(app = job.app, "a job is of an app that is not mounted");
                self.finished.let_go(&job.id);
                Tried::Postponed
            }
        }
    }

    async fn claim(&self, ids: &[String]) -> Result<HashSet<String>, AppError> {
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        let owner = self.fanout.node();
        self.records.run(store::claim(self.records.pool(), owner.as_str(), ids)).await
    }

    /// Deletes the rows of finished jobs. Returns false where the records could not be asked.
    async fn delete_some(&self) -> bool {
        let claim = self.finished.claim();
        let ids = claim.take();
        let deleted = async {
            let mut connection = self.records.pool().acquire().await?;
            store::delete(&mut connection, &ids).await?;
            connection.done().await
        };
        let is_deleted = self.records.run(deleted).await.is_ok();
        if is_deleted {
            claim.confirm();
        }
        is_deleted
    }

    /// Deletes the rows of finished jobs before the node stops, so that they are not repeated by the next start, and leaves the
    /// others to any node.
    pub(crate) async fn close(&self) {
        self.delete_some().await;
        if self.finished.count_held() > 0 {
            let owner = self.fanout.node();
            // A survivor finds that this node is gone where this fails.
            drop(self.records.run(store::take_over(self.records.pool(), "", owner.as_str())).await);
        }
    }
}

/// The pause after `failures` failures in a row and one more.
fn pause(failures: u32) -> Duration {
    let doubled = JOBS_RETRY_MIN_MS.saturating_mul(1 << failures.min(16));
    Duration::from_millis(doubled.min(JOBS_RETRY_MAX_MS)).mul_f64(rand::random_range(0.5..1.0))
}

/// Deletes the rows of finished jobs, where no transaction of an app does it in time. Runs until the node stops.
pub(crate) async fn delete_finished(jobs: Arc<Jobs>) {
    loop {
        jobs.finished.until_due(Duration::from_millis(JOBS_DELETE_WAIT_MS)).await;
        if !jobs.delete_some().await {
            tokio::time::sleep(Duration::from_millis(RECORDS_RETRY_MS)).await;
        }
    }
}

/// Runs jobs when their time has come, until the node stops.
pub(crate) async fn run_timed(jobs: Arc<Jobs>) {
    loop {
        let (job, failures) = jobs.timers.due().await;
        let (jobs, step) = (Arc::clone(&jobs), Step { job, must_claim: true });
        drop(jobs.tasks.clone().spawn(async move { jobs.run_app_job(&step, failures).await }));
    }
}
