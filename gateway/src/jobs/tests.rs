use std::sync::atomic::{AtomicU32, Ordering};

use shared::ids::NodeId;
use tokio::time::{sleep, timeout};

use super::*;

/// Records the payloads of the jobs that it runs; the first `failing` runs fail. Jobs of the kind `own` are not
/// repeated.
#[derive(Default)]
struct Notes {
    ran: Arc<Mutex<Vec<String>>>,
    failing: AtomicU32,
}

impl Runner for Notes {
    fn run<'a>(&'a self, _app: &'a str, job: &'a Job) -> BoxFuture<'a, Option<Ran>> {
        let fails = self
            .failing
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |left| left.checked_sub(1))
            .is_ok();
        self.ran.lock().push(job.payload().unwrap_or_default());
        Box::pin(std::future::ready(Some(if fails { Ran::Failed } else { Ran::Done(Value::from(1)) })))
    }

    fn repeats(&self, job: &Job) -> bool {
        job.kind() != "own"
    }

    fn on_departure(&self) {}

    fn adopt_older(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

async fn jobs(failing: u32) -> (Arc<Jobs>, Arc<Mutex<Vec<String>>>) {
    let records = Records::open("sqlite::memory:").await.unwrap();
    node(0, records, failing, false)
}

/// A node, with or without a cluster, and the payloads of the jobs that it runs.
fn node(number: u8, records: Records, failing: u32, has_peers: bool) -> (Arc<Jobs>, Arc<Mutex<Vec<String>>>) {
    let (fanout, _events) = Fanout::new(fanout::FanoutOptions {
        node: NodeId::from_random([number; 4]),
        namespaces: Vec::new(),
        flushers: 1,
        send_queue: fanout::SendQueueLimits { bytes: 0, packets: 0 },
        rooms_per_socket: 0,
        sockets_per_user: 0,
        holdback: Duration::ZERO,
        cluster: None,
        distributions: crate::metrics::distributions(),
    });
    let jobs = Jobs::build(fanout, records, Tasks::default(), has_peers);
    let notes = Notes { failing: AtomicU32::new(failing), ..Notes::default() };
    let ran = Arc::clone(&notes.ran);
    jobs.set_runner(Box::new(notes));
    (jobs, ran)
}

fn job(what: &str) -> Job {
    Job::of_app("app", "kind", "subject", &what)
}

/// Enqueues jobs, and commits the transaction or not.
async fn stored(jobs: &Arc<Jobs>, what: &[&str], commits: bool) -> Batch {
    let batch = jobs.batch(what.iter().map(|what| job(what)));
    let mut transaction = jobs.records.pool().begin().await.unwrap();
    enqueue(&mut transaction, &batch).await.unwrap();
    if commits {
        transaction.commit().await.unwrap();
    }
    batch
}

async fn count(jobs: &Jobs) -> i64 {
    store::owners(jobs.records.pool()).await.unwrap().iter().map(|(_, count)| count).sum()
}

async fn becomes(ran: &Mutex<Vec<String>>, expected: &[&str]) {
    let same = async {
        while *ran.lock() != expected {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(Duration::from_secs(10), same).await.is_ok(), "{:?}", ran.lock());
}

#[tokio::test]
async fn jobs_are_run_after_the_commit_in_their_order_and_their_rows_deleted() {
    let (jobs, ran) = jobs(0).await;
    let batch = stored(&jobs, &["a", "b", "c"], true).await;
    assert!(ran.lock().is_empty(), "the node does not know of the commit yet");
    let outcome = batch.run().await;
    assert!(outcome.is_done && outcome.value == 1);
    assert_eq!(*ran.lock(), ["a", "b", "c"]);
    assert_eq!(count(&jobs).await, 3, "the next transaction deletes their rows");
    stored(&jobs, &["d"], true).await.run().await;
    assert_eq!(count(&jobs).await, 1);
    assert!(jobs.delete_some().await);
    assert_eq!((count(&jobs).await, jobs.finished.count_held()), (0, 0));
}

#[tokio::test]
async fn nothing_is_run_that_was_not_committed() {
    let (jobs, ran) = jobs(0).await;
    drop(stored(&jobs, &["a"], false).await);
    stored(&jobs, &["b"], true).await.run().await;
    assert_eq!(*ran.lock(), ["b"]);
    assert_eq!(jobs.finished.count_held(), 1);
}

#[tokio::test]
async fn a_job_that_fails_is_tried_again_and_its_caller_does_not_wait() {
    let (jobs, ran) = jobs(2).await;
    let timed = jobs.tasks.spawn(run_timed(Arc::clone(&jobs)));
    let outcome = stored(&jobs, &["a"], true).await.run().await;
    assert!(!outcome.is_done);
    becomes(&ran, &["a", "a", "a"]).await;
    timed.abort();
}

#[tokio::test]
async fn another_node_runs_the_jobs_of_a_dead_node() {
    let (jobs, ran) = jobs(0).await;
    let pool = jobs.records.pool();
    drop(stored(&jobs, &["a", "b"], true).await);
    store::take_over(pool, "gone", jobs.fanout.node().as_str()).await.unwrap();
    jobs.look().await.unwrap();
    becomes(&ran, &["a", "b"]).await;
    jobs.look().await.unwrap();
    assert_eq!(*ran.lock(), ["a", "b"], "the other node holds them");
}

#[tokio::test]
async fn a_job_whose_commit_is_not_known_is_found_in_the_records() {
    let (jobs, ran) = jobs(0).await;
    drop(stored(&jobs, &["a"], true).await);
    jobs.look().await.unwrap();
    becomes(&ran, &["a"]).await;
}

#[tokio::test]
async fn a_withdrawn_job_is_not_run() {
    let (jobs, ran) = jobs(0).await;
    let late = jobs.batch([job("late").known_as("late".into()).after(Duration::from_millis(50))]);
    let mut transaction = jobs.records.pool().begin().await.unwrap();
    enqueue(&mut transaction, &late).await.unwrap();
    transaction.commit().await.unwrap();
    late.run_later();
    let mut transaction = jobs.records.pool().begin().await.unwrap();
    take_back(&mut transaction, "late").await.unwrap();
    transaction.commit().await.unwrap();
    let timed = jobs.tasks.spawn(run_timed(Arc::clone(&jobs)));
    sleep(Duration::from_millis(200)).await;
    assert!(ran.lock().is_empty());
    timed.abort();
}

/// Two nodes of one cluster, and the payloads of the jobs that each runs.
async fn two_nodes() -> [(Arc<Jobs>, Arc<Mutex<Vec<String>>>); 2] {
    let records = Records::open("sqlite::memory:").await.unwrap();
    [node(1, records.clone(), 0, true), node(2, records, 0, true)]
}

#[tokio::test]
async fn jobs_that_another_node_committed_earlier_run_earlier() {
    let [(first, of_first), (second, of_second)] = two_nodes().await;
    // Committed, but its node never runs it.
    let slow = stored(&first, &["a", "b"], true).await;
    stored(&second, &["c"], true).await.run().await;
    assert_eq!(*of_second.lock(), ["a", "b", "c"]);
    slow.run().await;
    assert_eq!(*of_first.lock(), ["a", "b"], "the node that stored a job runs it all the same");
    stored(&first, &["d"], true).await.run().await;
    assert_eq!(*of_first.lock(), ["a", "b", "c", "d"]);
    stored(&second, &["e"], true).await.run().await;
    assert_eq!(*of_second.lock(), ["a", "b", "c", "d", "e"], "nothing is repeated twice");
}

#[tokio::test]
async fn a_job_whose_row_is_deleted_is_not_repeated() {
    let [(first, _), (second, of_second)] = two_nodes().await;
    stored(&first, &["a"], true).await.run().await;
    assert!(first.delete_some().await);
    stored(&second, &["b"], true).await.run().await;
    assert_eq!(*of_second.lock(), ["b"]);
}

#[tokio::test]
async fn jobs_of_other_subjects_and_those_that_must_not_be_run_twice_are_not_repeated() {
    let [(first, _), (second, of_second)] = two_nodes().await;
    let jobs =
        [Job::of_app("app", "kind", "another subject", &"a"), Job::of_app("app", "own", "subject", &"b")];
    let batch = first.batch(jobs);
    let mut transaction = first.records.pool().begin().await.unwrap();
    enqueue(&mut transaction, &batch).await.unwrap();
    transaction.commit().await.unwrap();
    stored(&second, &["c"], true).await.run().await;
    assert_eq!(*of_second.lock(), ["c"]);
}

#[tokio::test]
async fn a_transaction_that_is_not_committed_repeats_nothing() {
    let [(first, _), (second, of_second)] = two_nodes().await;
    drop(stored(&first, &["a"], true).await);
    drop(stored(&second, &["b"], false).await);
    stored(&second, &["c"], true).await.run().await;
    assert_eq!(*of_second.lock(), ["a", "c"]);
}

#[tokio::test]
async fn jobs_of_a_subject_keep_their_order_where_the_clocks_of_nodes_differ() {
    let [(first, _), (second, _)] = two_nodes().await;
    drop(stored(&first, &["a"], true).await);
    let ahead = "UPDATE jobs SET position = position + 60000000";
    sqlx::query(ahead).execute(first.records.pool()).await.unwrap();
    drop(stored(&second, &["b"], true).await);
    let pool = first.records.pool();
    let (own, other) = (first.fanout.node(), second.fanout.node());
    store::take_over(pool, own.as_str(), other.as_str()).await.unwrap();
    let (page, _) = store::page(pool, own.as_str(), &(i64::MIN, String::new())).await.unwrap();
    let payloads: Vec<String> = page.into_iter().filter_map(|job| job?.payload()).collect();
    assert_eq!(payloads, ["a", "b"]);
}
