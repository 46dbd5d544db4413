//! Jobs of this node that are due later.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::job::Job;

/// See [`Timers::hurry`].
const HURRY: Duration = Duration::from_millis(500);

/// Jobs that wait for their due time, each once.
#[derive(Debug, Default)]
pub(super) struct Timers {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    by_time: BTreeMap<(Instant, u64), Timer>,
    by_id: HashMap<String, (Instant, u64)>,
    next: u64,
}

#[derive(Debug)]
struct Timer {
    job: Arc<Job>,
    /// How many times in a row it has failed.
    failures: u32,
}

impl Timers {
    /// Makes a job due after `delay`, replacing any earlier due time.
    pub(super) fn set(&self, job: Arc<Job>, delay: Duration, failures: u32) {
        let mut waiting = self.waiting.lock();
        waiting.next += 1;
        let at = (Instant::now() + delay, waiting.next);
        if let Some(before) = waiting.by_id.insert(job.id.clone(), at) {
            waiting.by_time.remove(&before);
        }
        waiting.by_time.insert(at, Timer { job, failures });
        drop(waiting);
        self.changed.notify_one();
    }

    /// Makes failed jobs due soon, spread over [`HURRY`], because the service that they need may be available again.
    pub(super) fn hurry(&self) {
        let mut waiting = self.waiting.lock();
        let now = Instant::now();
        let failed =
            waiting.by_time.iter().filter(|((at, _), timer)| timer.failures > 0 && *at > now + HURRY);
        let failed: Vec<_> = failed.map(|(at, _)| *at).collect();
        for before in failed {
            if let Some(timer) = waiting.by_time.remove(&before) {
                let at = (now + HURRY.mul_f64(rand::random()), before.1);
                waiting.by_id.insert(timer.job.id.clone(), at);
                waiting.by_time.insert(at, timer);
            }
        }
        drop(waiting);
        self.changed.notify_one();
    }

    /// How many jobs wait because they failed.
    pub(super) fn count_failed(&self) -> usize {
        self.waiting.lock().by_time.values().filter(|timer| timer.failures > 1).count()
    }

    /// Waits until a job is due. Returns it, and how many times it has failed.
    pub(super) async fn due(&self) -> (Arc<Job>, u32) {
        loop {
            let next = self.waiting.lock().by_time.keys().next().map(|(at, _)| *at);
            match next {
                None => self.changed.notified().await,
                Some(at) if at > Instant::now() => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = self.changed.notified() => {}
                },
                Some(_) => {
                    let mut waiting = self.waiting.lock();
                    if let Some((_, Timer { job, failures })) = waiting.by_time.pop_first() {
                        waiting.by_id.remove(&job.id);
                        return (job, failures);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_job_that_is_set_again_is_due_once() {
        let timers = Timers::default();
        let job = |id: &str| Arc::new(Job::of_app("app", "kind", "s", &()).known_as(id.to_owned()));
        let start = Instant::now();
        timers.set(job("a"), Duration::from_secs(1), 0);
        timers.set(job("b"), Duration::from_secs(3), 0);
        timers.set(job("a"), Duration::from_secs(5), 1);
        assert_eq!(timers.due().await.0.id, "b");
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        let (last, failures) = timers.due().await;
        assert_eq!((last.id.as_str(), failures, start.elapsed()), ("a", 1, Duration::from_secs(5)));
        assert!(tokio::time::timeout(Duration::from_secs(60), timers.due()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn failed_jobs_are_due_soon_once_their_dependency_is_back() {
        let timers = Timers::default();
        let job = |id: &str| Arc::new(Job::of_app("app", "kind", "s", &()).known_as(id.to_owned()));
        let start = Instant::now();
        timers.set(job("timed"), Duration::from_secs(5), 0);
        timers.set(job("failed"), Duration::from_secs(60), 3);
        timers.hurry();
        assert_eq!((timers.due().await.0.id.as_str(), start.elapsed() <= HURRY), ("failed", true));
        assert_eq!((timers.due().await.0.id.as_str(), start.elapsed()), ("timed", Duration::from_secs(5)));
    }
}
