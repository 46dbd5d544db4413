//! Runs the jobs of lanes: one task per lane, as long as the lane has jobs that can run.

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout::FanoutError;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde_json::Value;
use shared::limits::{JOBS_DOUBT_MS, JOBS_RETRY_MAX_MS, JOBS_RETRY_MIN_MS};
use shared::sio::Event;

use super::lanes::{Step, Tried};
use super::{Job, Jobs, Ran, Runner, store};
use crate::error::AppError;

/// How long a node remembers that it repeated a job of another node. The row stays for `JOBS_DELETE_WAIT_MS` after the
/// job is done.
const REPEATED_KEPT: Duration = Duration::from_secs(10);

impl Jobs {
    /// Runs the lanes of these subjects.
    pub(super) fn drive_all(self: &Arc<Self>, subjects: Vec<String>) {
        for subject in subjects {
            // The caller that gives a lane its first job spawns the task, which ends with the lane's last job.
            drop(self.tasks.spawn(Arc::clone(self).drive(subject)));
        }
    }

    /// Runs the jobs of a lane until the lane is empty or waits for a transaction.
    async fn drive(self: Arc<Self>, subject: String) {
        let mut failures = 0;
        loop {
            let next = self.lanes.lock().next(&subject, self.finished.limit());
            let Some(steps) = next else { return };
            let tried = match steps.first().filter(|step| step.job.event().is_none()) {
                Some(step) if step.is_repeat => {
                    join_all(steps.iter().map(|step| self.repeat_app_job(&step.job))).await
                }
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
                // The jobs stay in the records.
                () = self.tasks.stopped() => return,
            }
            failures += 1;
        }
    }

    /// Tries to deliver events; all are posted in order before the first one is awaited.
    async fn deliver(&self, steps: &[Step]) -> Vec<Tried> {
        let all_failed = || steps.iter().map(|_| Tried::Failed).collect();
        if steps.iter().any(|step| step.must_claim) && !self.fanout.is_ready() {
            return all_failed();
        }
        let Ok(claimed) = self.claim_doubtful(steps).await else { return all_failed() };
        let is_due = |step: &Step| {
            (!step.must_claim || claimed.contains(&step.job.id))
                && !(step.is_repeat && self.has_repeated(&step.job.id))
        };
        let count = steps.iter().filter(|step| is_due(step) && !step.is_repeat).count();
        if !self.finished.reserve(count).await {
            tracing::warn!("events wait for the database");
            return all_failed();
        }
        let posted: Vec<_> =
            steps.iter().map(|step| is_due(step).then(|| self.post(&step.job)).flatten()).collect();
        let mut tried = Vec::with_capacity(steps.len());
        for (step, posted) in steps.iter().zip(posted) {
            let outcome = match posted {
                None => {
                    if !step.is_repeat {
                        self.finished.let_go(&step.job.id);
                    }
                    tried.push(Tried::Done(Value::Null));
                    continue;
                }
                Some(posted) => posted.outcome().await,
            };
            match outcome {
                Err(FanoutError::Unavailable) => {
                    if !step.is_repeat {
                        self.finished.release();
                    }
                    tried.push(Tried::Failed);
                    continue;
                }
                Ok(_) => {}
                // It can never be delivered, and must not block the others.
                Err(error) => tracing::error!(%error, job = step.job.id, "an event cannot be delivered"),
            }
            if step.is_repeat {
                self.note_repeated(&step.job.id);
            } else {
                self.finished.finish(&step.job.id, true);
            }
            tried.push(Tried::Done(Value::Null));
        }
        tried
    }

    /// Claims the steps that need it. Returns those still to be done: those that this node owns.
    async fn claim_doubtful(&self, steps: &[Step]) -> Result<HashSet<String>, AppError> {
        let doubtful = |is_repeat: bool| -> Vec<String> {
            let steps = steps.iter().filter(|step| step.must_claim && step.is_repeat == is_repeat);
            steps.map(|step| step.job.id.clone()).collect()
        };
        let (own, others) = (doubtful(false), doubtful(true));
        let mut claimed = self.claim(&own).await?;
        if !others.is_empty() {
            claimed.extend(self.records.run(store::existing(self.records.pool(), &others)).await?);
        }
        Ok(claimed)
    }

    fn post(&self, job: &Job) -> Option<fanout::Posted> {
        let stored = job.event()?;
        let target = stored.target();
        // A cluster delivers events with the same id once, whichever node sends them. A single node would not remember
        // the ids for longer than it remembers its finished jobs.
        let target = if self.has_peers { target.once(&job.id) } else { target };
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

    /// Runs an app's job that has failed `failures` times before. A job that is not done goes to the timers.
    pub(super) async fn run_app_job(&self, step: &Step, failures: u32) -> Tried {
        let job = &step.job;
        let again = |failures: u32| {
            self.timers.set(Arc::clone(job), pause(failures), failures + 1);
            Tried::Postponed
        };
        if failures > 0 && !self.fanout.is_ready() {
            // It would fail as before, and trying it would only load the database.
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
        match run(&**runner, job).await {
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
                tracing::debug!(app = job.app, "a job belongs to an app that is not mounted");
                self.finished.let_go(&job.id);
                Tried::Postponed
            }
        }
    }

    /// Runs an app's job that another node runs, too. That node retries it if it fails.
    async fn repeat_app_job(&self, job: &Job) -> Tried {
        if let Some(runner) = self.runner.get().filter(|_| !self.has_repeated(&job.id)) {
            run(&**runner, job).await;
            self.note_repeated(&job.id);
        }
        Tried::Done(Value::Null)
    }

    /// Whether this node ran a job of another node recently. Its row may still exist when the next transaction looks.
    fn has_repeated(&self, id: &str) -> bool {
        self.repeated.lock().get(id, Instant::now()).is_some()
    }

    fn note_repeated(&self, id: &str) {
        let now = Instant::now();
        // If there are too many, a job may run again, as after a crash.
        let _ = self.repeated.lock().insert(id.to_owned(), (), now + REPEATED_KEPT, now);
    }

    async fn claim(&self, ids: &[String]) -> Result<HashSet<String>, AppError> {
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        let owner = self.fanout.node();
        let claimed = self.records.run(store::claim(self.records.pool(), owner.as_str(), ids)).await?;
        if claimed.len() < ids.len() {
            // A transaction that was deleting or replacing one of them may still be rolled back.
            self.looks.doubt(Duration::from_millis(JOBS_DOUBT_MS));
        }
        Ok(claimed)
    }
}

/// Runs an app's job. A panic must not end the lane, which would block all jobs of its subject.
async fn run(runner: &dyn Runner, job: &Job) -> Option<Ran> {
    let ran = AssertUnwindSafe(runner.run(&job.app, job)).catch_unwind().await;
    ran.unwrap_or_else(|_| {
        tracing::error!(app = job.app, kind = job.kind, job = job.id, "a job panicked");
        Some(Ran::Failed)
    })
}

/// The pause before the next attempt after `failures` + 1 failures in a row.
pub(super) fn pause(failures: u32) -> Duration {
    let doubled = JOBS_RETRY_MIN_MS.saturating_mul(1 << failures.min(16));
    Duration::from_millis(doubled.min(JOBS_RETRY_MAX_MS)).mul_f64(rand::random_range(0.5..1.0))
}
