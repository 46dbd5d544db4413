//! The jobs of this node that are due, by their subject: those of one subject are run one after the other, in the order in
//! which their transactions enqueued them, which is the order of the commits where the transactions lock the subject's row.
//!
//! A job has its place in its lane from the moment it is enqueued. Until its transaction has ended, it holds up those behind it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;
use shared::limits::JOBS_HELD_MAX;
use tokio::sync::oneshot;

use super::job::Job;

/// What became of a batch's jobs, for the caller that waits for them.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// All of them are done. The others are run later.
    pub(crate) is_done: bool,
    /// What the last job that is done has returned.
    pub(crate) value: Value,
}

/// Waits for the jobs of a batch.
#[derive(Debug)]
pub(super) struct Waiter(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    left: usize,
    value: Value,
    sender: Option<oneshot::Sender<Outcome>>,
}

impl Waiter {
    /// A waiter for `count` jobs.
    pub(super) fn new(count: usize) -> (Arc<Self>, oneshot::Receiver<Outcome>) {
        let (sender, receiver) = oneshot::channel();
        let waiting = Waiting { left: count, value: Value::Null, sender: Some(sender) };
        (Arc::new(Self(Mutex::new(waiting))), receiver)
    }

    fn done(&self, value: Value) {
        let mut waiting = self.0.lock();
        waiting.left = waiting.left.saturating_sub(1);
        if !value.is_null() {
            waiting.value = value;
        }
        if waiting.left == 0 {
            let value = std::mem::take(&mut waiting.value);
            waiting.send(Outcome { is_done: true, value });
        }
    }

    fn late(&self) {
        let mut waiting = self.0.lock();
        let value = std::mem::take(&mut waiting.value);
        waiting.send(Outcome { is_done: false, value });
    }
}

impl Waiting {
    fn send(&mut self, outcome: Outcome) {
        if let Some(sender) = self.sender.take() {
            // The caller may have ended.
            let _ = sender.send(outcome);
        }
    }
}

/// What became of one try.
#[derive(Debug)]
pub(super) enum Tried {
    Done(Value),
    /// It keeps its place, and those behind it wait.
    Failed,
    /// It is run at another time, and those behind it do not wait.
    Postponed,
}

/// A job to be run now.
#[derive(Debug, Clone)]
pub(super) struct Step {
    pub(super) job: Arc<Job>,
    /// It was tried before, or found in the records: another node may have taken it since, or a transaction deleted it.
    pub(super) must_claim: bool,
    /// It is another node's, and was stored before what follows it here: see [`super`].
    pub(super) is_repeat: bool,
}

#[derive(Debug)]
struct Entry {
    step: Step,
    is_committed: bool,
    waiter: Option<Arc<Waiter>>,
    since: Instant,
}

#[derive(Debug, Default)]
struct Lane {
    entries: VecDeque<Entry>,
    /// A task runs its jobs.
    is_driven: bool,
    /// The ids of committed jobs of other nodes in it.
    repeats: HashSet<String>,
}

/// All lanes with jobs.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    by_subject: HashMap<String, Lane>,
    count: usize,
}

impl Lanes {
    /// Gives jobs their places, each at the end of its lane, those of other nodes before this node's. A job of another node that
    /// has a place already keeps it: each transaction finds it again until it is done. Returns false, and gives no places, where
    /// there are too many already.
    pub(super) fn enter(&mut self, earlier: &[Arc<Job>], jobs: &[Arc<Job>]) -> bool {
        let has_place =
            |job: &Job| self.by_subject.get(&job.subject).is_some_and(|lane| lane.repeats.contains(&job.id));
        let earlier: Vec<_> = earlier.iter().filter(|job| !has_place(job)).collect();
        if self.count + earlier.len() + jobs.len() > JOBS_HELD_MAX {
            return false;
        }
        let repeats = earlier.into_iter().map(|job| (job, true));
        for (job, is_repeat) in repeats.chain(jobs.iter().map(|job| (job, false))) {
            let step = Step { job: Arc::clone(job), must_claim: false, is_repeat };
            self.push(Entry { step, is_committed: false, waiter: None, since: Instant::now() });
        }
        true
    }

    /// A job that is due now, from the records or by its time. Returns its subject where a task must be started for its lane.
    pub(super) fn add(&mut self, job: Arc<Job>) -> Option<String> {
        let subject = job.subject.clone();
        let step = Step { job, must_claim: true, is_repeat: false };
        self.push(Entry { step, is_committed: true, waiter: None, since: Instant::now() });
        self.start(subject)
    }

    fn push(&mut self, entry: Entry) {
        self.count += 1;
        self.by_subject.entry(entry.step.job.subject.clone()).or_default().entries.push_back(entry);
    }

    /// The transaction that enqueued these is committed. Returns the subjects whose lanes need a task.
    pub(super) fn commit(&mut self, jobs: &[Arc<Job>], waiter: &Arc<Waiter>) -> Vec<String> {
        let entered = pointers(jobs);
        for subject in subjects(jobs) {
            let Some(lane) = self.by_subject.get_mut(subject) else { continue };
            for entry in &mut lane.entries {
                let Step { job, is_repeat, .. } = &entry.step;
                if !entry.is_committed && entered.contains(&Arc::as_ptr(job)) {
                    if *is_repeat {
                        lane.repeats.insert(job.id.clone());
                    }
                    entry.is_committed = true;
                    entry.since = Instant::now();
                    entry.waiter = (!is_repeat && !job.is_apart).then(|| Arc::clone(waiter));
                }
            }
        }
        self.start_all(jobs)
    }

    /// The transaction that was to enqueue these has ended without a commit. As [`Self::commit`].
    pub(super) fn withdraw(&mut self, jobs: &[Arc<Job>]) -> Vec<String> {
        let entered = pointers(jobs);
        for subject in subjects(jobs) {
            let Some(lane) = self.by_subject.get_mut(subject) else { continue };
            let before = lane.entries.len();
            lane.entries
                .retain(|entry| entry.is_committed || !entered.contains(&Arc::as_ptr(&entry.step.job)));
            self.count -= before - lane.entries.len();
        }
        self.start_all(jobs)
    }

    fn start_all(&mut self, jobs: &[Arc<Job>]) -> Vec<String> {
        subjects(jobs).into_iter().filter_map(|subject| self.start(subject.to_owned())).collect()
    }

    fn start(&mut self, subject: String) -> Option<String> {
        let lane = self.by_subject.get_mut(&subject)?;
        (!std::mem::replace(&mut lane.is_driven, true)).then_some(subject)
    }

    /// What a lane's task is to run now: one job of an app, or as many events, or repeated jobs of apps, as follow each other,
    /// `most` at the most. `None` ends the task.
    pub(super) fn next(&mut self, subject: &str, most: usize) -> Option<Vec<Step>> {
        let lane = self.by_subject.get_mut(subject)?;
        let ready = |entry: &&Entry| entry.is_committed;
        let steps: Vec<Step> = match lane.entries.front().filter(ready).map(|first| &first.step) {
            None => Vec::new(),
            Some(first) if first.job.event().is_none() && !first.is_repeat => vec![first.clone()],
            Some(first) => {
                let is_event = first.job.event().is_some();
                let follows = |step: &Step| match step.job.event() {
                    Some(_) => is_event,
                    None => !is_event && step.is_repeat,
                };
                let entries = lane.entries.iter().take_while(ready).map(|entry| &entry.step);
                // What two transactions have entered is run once: the second finds that it was repeated.
                let mut repeats = HashSet::new();
                let new = entries
                    .take_while(|step| follows(step))
                    .take_while(|step| !step.is_repeat || repeats.insert(&step.job.id));
                new.take(most).cloned().collect()
            }
        };
        if !steps.is_empty() {
            return Some(steps);
        }
        if lane.entries.is_empty() {
            self.by_subject.remove(subject);
        } else {
            // The end of the transaction starts another task.
            lane.is_driven = false;
        }
        None
    }

    /// Takes note of what became of the first jobs of a lane.
    pub(super) fn settle(&mut self, subject: &str, tried: Vec<Tried>) {
        let Some(lane) = self.by_subject.get_mut(subject) else { return };
        let mut kept = Vec::new();
        for tried in tried {
            let Some(mut entry) = lane.entries.pop_front() else { break };
            match (tried, entry.waiter.take()) {
                (Tried::Failed, waiter) => {
                    entry.step.must_claim = true;
                    entry.waiter = waiter;
                    kept.push(entry);
                    continue;
                }
                (Tried::Done(value), Some(waiter)) => waiter.done(value),
                (Tried::Postponed, Some(waiter)) => waiter.late(),
                (Tried::Done(_) | Tried::Postponed, None) => {}
            }
            if entry.step.is_repeat {
                lane.repeats.remove(&entry.step.job.id);
            }
            self.count -= 1;
        }
        if kept.is_empty() {
            return;
        }
        for entry in kept.into_iter().rev() {
            lane.entries.push_front(entry);
        }
        // None of them is done soon.
        for waiter in lane.entries.iter_mut().filter_map(|entry| entry.waiter.take()) {
            waiter.late();
        }
    }

    /// How many jobs have been due for longer than `age`.
    pub(super) fn count_late(&self, age: Duration) -> usize {
        let entries = self.by_subject.values().flat_map(|lane| &lane.entries);
        entries.filter(|entry| entry.is_committed && entry.since.elapsed() > age).count()
    }
}

/// Distinguishes jobs in lanes: two transactions may each have entered the same job of another node.
fn pointers(jobs: &[Arc<Job>]) -> HashSet<*const Job> {
    jobs.iter().map(Arc::as_ptr).collect()
}

/// The subjects of jobs, each once where those of one subject follow each other.
fn subjects(jobs: &[Arc<Job>]) -> Vec<&str> {
    let mut subjects: Vec<&str> = jobs.iter().map(|job| job.subject.as_str()).collect();
    subjects.dedup();
    subjects
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str, subject: &str) -> Arc<Job> {
        Arc::new(Job::of_app("app", "kind", subject, &()).known_as(id.to_owned()))
    }

    fn ids(steps: Option<Vec<Step>>) -> Vec<String> {
        steps.unwrap_or_default().iter().map(|step| step.job.id.clone()).collect()
    }

    #[tokio::test]
    async fn jobs_of_a_subject_wait_for_the_transactions_before_theirs() {
        let mut lanes = Lanes::default();
        let (first, second) = ([job("a", "s")], [job("b", "s")]);
        assert!(lanes.enter(&[], &first) && lanes.enter(&[], &second));
        let (waiter, outcome) = Waiter::new(1);
        assert_eq!(lanes.commit(&second, &waiter), ["s"]);
        assert!(lanes.next("s", 9).is_none(), "the first transaction has not ended");
        let (other, _) = Waiter::new(1);
        assert_eq!(lanes.commit(&first, &other), ["s"], "its end starts the task again");
        assert_eq!(ids(lanes.next("s", 9)), ["a"]);
        lanes.settle("s", vec![Tried::Done(Value::Null)]);
        assert_eq!(ids(lanes.next("s", 9)), ["b"]);
        lanes.settle("s", vec![Tried::Done(Value::from(7))]);
        let outcome = outcome.await.unwrap();
        assert!(outcome.is_done && outcome.value == 7);
        assert!(lanes.next("s", 9).is_none() && lanes.by_subject.is_empty() && lanes.count == 0);
    }

    #[tokio::test]
    async fn a_transaction_that_failed_holds_up_no_others() {
        let mut lanes = Lanes::default();
        let (first, second) = ([job("a", "s")], [job("b", "s")]);
        assert!(lanes.enter(&[], &first) && lanes.enter(&[], &second));
        let (waiter, _) = Waiter::new(1);
        assert_eq!(lanes.commit(&second, &waiter), ["s"]);
        assert!(lanes.next("s", 9).is_none());
        assert_eq!(lanes.withdraw(&first), ["s"]);
        assert_eq!(ids(lanes.next("s", 9)), ["b"]);
    }

    #[tokio::test]
    async fn a_job_of_another_node_has_its_place_with_each_transaction_that_found_it() {
        let mut lanes = Lanes::default();
        let found = || vec![job("other", "s")];
        let (first, second) = ((found(), [job("a", "s")]), (found(), [job("b", "s")]));
        assert!(lanes.enter(&first.0, &first.1) && lanes.enter(&second.0, &second.1));
        let all = |(earlier, jobs): &(Vec<Arc<Job>>, [Arc<Job>; 1])| [earlier.as_slice(), jobs].concat();
        assert_eq!(lanes.withdraw(&all(&first)), ["s"]);
        assert!(lanes.next("s", 9).is_none(), "the second transaction has not ended");
        let (waiter, outcome) = Waiter::new(1);
        assert_eq!(lanes.commit(&all(&second), &waiter), ["s"]);
        let steps = lanes.next("s", 9);
        assert!(steps.as_ref().is_some_and(|steps| steps[0].is_repeat));
        assert_eq!(ids(steps), ["other"]);
        lanes.settle("s", vec![Tried::Done(Value::from(1))]);
        assert_eq!(ids(lanes.next("s", 9)), ["b"]);
        lanes.settle("s", vec![Tried::Done(Value::from(2))]);
        assert_eq!(outcome.await.unwrap().value, 2, "the caller waits for its own job");
    }

    #[tokio::test]
    async fn a_job_of_another_node_takes_one_place_however_many_transactions_find_it() {
        let mut lanes = Lanes::default();
        let entered = |lanes: &mut Lanes, id: &str| {
            let (found, own) = ([job("other", "s")], [job(id, "s")]);
            assert!(lanes.enter(&found, &own));
            [found, own].concat()
        };
        let (waiter, _) = Waiter::new(9);
        // Two at once, and others after them.
        let both = [entered(&mut lanes, "a"), entered(&mut lanes, "b")];
        for jobs in &both {
            lanes.commit(jobs, &waiter);
        }
        for id in ["c", "d"] {
            let jobs = entered(&mut lanes, id);
            lanes.commit(&jobs, &waiter);
        }
        assert_eq!(lanes.count, 6, "the first two have one place each");
        let mut run = Vec::new();
        while let Some(steps) = lanes.next("s", 9) {
            lanes.settle("s", steps.iter().map(|_| Tried::Done(Value::Null)).collect());
            run.extend(ids(Some(steps)));
        }
        assert_eq!(run, ["other", "a", "other", "b", "c", "d"]);
        assert_eq!(lanes.count, 0);
    }

    #[tokio::test]
    async fn a_job_that_failed_keeps_its_place_and_its_caller_does_not_wait() {
        let mut lanes = Lanes::default();
        let jobs = [job("a", "s"), job("b", "s")];
        assert!(lanes.enter(&[], &jobs));
        let (waiter, outcome) = Waiter::new(2);
        lanes.commit(&jobs, &waiter);
        lanes.settle("s", vec![Tried::Failed]);
        assert!(!outcome.await.unwrap().is_done);
        let again = lanes.next("s", 9).unwrap();
        assert!(again[0].must_claim && again[0].job.id == "a");
        lanes.settle("s", vec![Tried::Postponed]);
        assert_eq!(ids(lanes.next("s", 9)), ["b"], "what is postponed does not hold up the next");
    }
}
