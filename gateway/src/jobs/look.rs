//! Takes over jobs of other nodes: of dead ones, and of an older version.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use shared::limits::{JOBS_DOUBT_MS, JOBS_HELD_MAX, JOBS_LOOK_MS, JOBS_RETRY_MAX_MS, LAST_WORDS_MS};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::job::OlderEvent;
use super::{Job, Jobs, enqueue, store};
use crate::clock::ago_ms;
use crate::error::AppError;
use crate::records::Sharing;

/// The pause between two looks, if nothing requests one.
const LOOK: Duration = Duration::from_millis(JOBS_LOOK_MS);

/// How long after the death of a node its jobs are checked again: it may still have finished some.
const LAST_WORDS: Duration = Duration::from_millis(LAST_WORDS_MS);

/// How old work of an older version must be to count as abandoned.
const OLDER_AFTER_MS: u64 = 10_000;

/// Schedules the looks at the records.
#[derive(Debug, Default)]
pub(super) struct Looks {
    wanted: Mutex<Vec<Instant>>,
    added: Notify,
    /// The records may contain jobs of this node that it does not hold.
    is_doubtful: AtomicBool,
}

impl Looks {
    /// Requests a look after `delay`.
    pub(super) fn want(&self, delay: Duration) {
        let at = Instant::now() + delay;
        let mut wanted = self.wanted.lock();
        // One look serves all requests until then.
        if wanted.iter().any(|other| *other <= at && at - *other < Duration::from_millis(100)) {
            return;
        }
        wanted.push(at);
        drop(wanted);
        self.added.notify_one();
    }

    /// Requests a look after `delay` that loads jobs of this node that it does not hold.
    pub(super) fn doubt(&self, delay: Duration) {
        self.is_doubtful.store(true, Ordering::Release);
        self.want(delay);
    }

    async fn due(&self) {
        let slow = Instant::now() + LOOK.mul_f64(rand::random_range(0.75..1.25));
        loop {
            let next = self.wanted.lock().iter().min().copied().unwrap_or(slow).min(slow);
            if next <= Instant::now() {
                self.wanted.lock().retain(|at| *at > next);
                return;
            }
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.added.notified() => {}
            }
        }
    }
}

/// Looks for jobs of dead nodes until the node stops: shortly after the start, on request, and about once a minute.
pub(crate) async fn keep_looking(jobs: Arc<Jobs>) {
    // By then the clients of the previous process have reconnected, so that its events reach them.
    jobs.looks.want(Duration::from_millis(JOBS_DOUBT_MS));
    // By then, work that an older version abandoned before the start can be distinguished from work in progress.
    jobs.looks.want(Duration::from_millis(OLDER_AFTER_MS + 1_000));
    loop {
        jobs.looks.due().await;
        if jobs.look().await.is_err() {
            jobs.looks.doubt(Duration::from_secs(1).mul_f64(rand::random_range(0.5..1.5)));
        }
    }
}

/// Looks as soon as this node detects that another node is dead, until the node stops.
pub(crate) async fn watch_departures(jobs: Arc<Jobs>) {
    loop {
        jobs.fanout.lost_node().await;
        jobs.looks.want(Duration::ZERO);
        jobs.looks.want(LAST_WORDS);
        if let Some(runner) = jobs.runner.get() {
            runner.on_departure();
        }
    }
}

impl Jobs {
    pub(super) async fn look(self: &Arc<Self>) -> Result<(), AppError> {
        let (records, own) = (&self.records, self.fanout.node());
        let (mut is_behind, mut is_unsure) = (self.looks.is_doubtful.swap(false, Ordering::AcqRel), false);
        let is_foreign = self.is_foreign();
        for (owner, count) in records.run(store::owners(records.pool())).await? {
            if owner == own.as_str() {
                is_behind |= usize::try_from(count).unwrap_or_default() > self.finished.count_held();
                continue;
            }
            if is_foreign {
                is_unsure = true;
                continue;
            }
            // While Redis is unavailable, or has lost its data, the node cannot know which nodes are alive.
            let lives = if self.fanout.is_ready() { self.fanout.lives(&owner).await.ok() } else { None };
            is_unsure |= !owner.is_empty() && lives.is_none();
            if owner.is_empty() || lives == Some(false) {
                let taken = records.run(store::take_over(records.pool(), own.as_str(), &owner)).await?;
                if taken > 0 {
                    tracing::info!(jobs = taken, from = owner, "took over the jobs of a dead node");
                    is_behind = true;
                }
                // A transaction may have been changing the others.
                is_unsure |= taken < u64::try_from(count).unwrap_or_default();
            }
        }
        if is_unsure {
            self.looks.want(Duration::from_millis(JOBS_RETRY_MAX_MS));
        }
        if is_behind {
            self.load().await?;
        }
        if is_foreign {
            return Ok(());
        }
        self.adopt_older_events().await?;
        if let Some(runner) = self.runner.get() {
            runner.adopt_older().await;
        }
        Ok(())
    }

    /// Whether this node's settings differ from those of the nodes whose records it uses. Then it must not serve, and
    /// must not take over jobs.
    fn is_foreign(&self) -> bool {
        matches!(self.records.sharing(), Sharing::Taken { .. }) || self.fanout.agreement().conflict.is_some()
    }

    /// Loads this node's jobs that it does not hold.
    async fn load(self: &Arc<Self>) -> Result<(), AppError> {
        let (records, own) = (&self.records, self.fanout.node());
        let mut after = (i64::MIN, String::new());
        while self.finished.count_held() < JOBS_HELD_MAX {
            let (jobs, next) = records.run(store::page(records.pool(), own.as_str(), &after)).await?;
            for job in jobs {
                match job {
                    Some(job) => self.take_up(job),
                    // A node wrote it after validating it.
                    None => tracing::error!("cannot parse a job"),
                }
            }
            let Some(next) = next else { break };
            after = next;
        }
        Ok(())
    }

    fn take_up(self: &Arc<Self>, job: Job) {
        if self.finished.hold(&job.id) {
            let subject = self.lanes.lock().add(Arc::new(job));
            self.drive_all(subject.into_iter().collect());
        }
    }

    /// Adopts events that a node of the previous version stored and could not deliver: while both versions run, and
    /// after an upgrade.
    async fn adopt_older_events(self: &Arc<Self>) -> Result<(), AppError> {
        let records = &self.records;
        let before = ago_ms(OLDER_AFTER_MS);
        let found = records.run(store::older(records.pool(), before)).await?;
        if found.is_empty() {
            return Ok(());
        }
        for event in found {
            let id = event.id.clone();
            let job = OlderEvent::into_job(event);
            let batch = self.batch(job);
            let adopted = async {
                let mut transaction = records.pool().begin().await?;
                if store::delete_older(&mut transaction, &id).await? {
                    enqueue(&mut transaction, &batch).await?;
                }
                transaction.commit().await
            };
            records.run(adopted).await?;
            batch.run_later();
        }
        // There may be more.
        self.looks.want(Duration::ZERO);
        Ok(())
    }
}
