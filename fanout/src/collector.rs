//! Collects the answers to open questions: from sockets, and from nodes that report how many sockets they asked.
//!
//! A question is complete when all nodes have reported and all sockets have answered. Its answers are taken one by one as they
//! arrive ([`Question::next`]), or together ([`Question::all`]). The open questions and the bytes of their answers are bounded
//! for each kind of asker: a client's questions cannot keep a backend from asking, nor a node from moving a user's sockets
//! into a room.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use shared::ids::SocketId;
use shared::sio::Answer;
use tokio::sync::Notify;

/// The kind of asker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A client; its gateway limits the questions of one user.
    Client,
    /// A backend.
    Backend,
    /// The node itself, to complete something that a user or a backend was promised.
    Node,
}

/// What all open questions of one kind of asker may use.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Open questions.
    pub questions: usize,
    /// Sockets awaited by their ids.
    pub sockets: usize,
    /// Bytes of the answers to one question. An answer beyond them counts as `null`.
    pub bytes_of_one: usize,
    /// Bytes of all answers that have not been taken yet. An answer beyond them counts as `null`.
    pub bytes_of_all: usize,
}

impl Bounds {
    /// Allows no question.
    pub const NONE: Self = Self { questions: 0, sockets: 0, bytes_of_one: 0, bytes_of_all: 0 };
}

/// The answers that a question waits for.
#[derive(Debug)]
pub enum Expected {
    /// This many nodes report how many sockets they asked, and each of these sockets answers.
    Sockets {
        /// Nodes.
        nodes: usize,
    },
    /// This many nodes report a number of sockets; no socket answers.
    Reports {
        /// Nodes.
        nodes: usize,
    },
    /// Each of these sockets answers once.
    Named(HashSet<SocketId>),
}

/// The answers to a question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// Sockets that were asked; at least as many as have answered.
    pub receivers: usize,
    /// The first argument of each answer, in the order they came.
    pub answers: Vec<Answer>,
    /// Every server has reported how many of its sockets were asked.
    pub are_counted: bool,
}

impl Answers {
    /// How many sockets have not answered; `None` where a server has not reported how many it asked.
    #[must_use]
    pub fn missing(&self) -> Option<usize> {
        self.are_counted.then(|| self.receivers.saturating_sub(self.answers.len()))
    }
}

/// The open questions of this node.
#[derive(Debug)]
pub struct Collector {
    next: AtomicU64,
    open: DashMap<u64, Open>,
    accounts: [Account; 3],
}

/// The open questions of one kind of asker.
#[derive(Debug)]
struct Account {
    bounds: Bounds,
    questions: AtomicUsize,
    sockets: AtomicUsize,
    bytes: AtomicUsize,
}

#[derive(Debug)]
struct Open {
    asker: Asker,
    /// Nodes that have not reported yet.
    silent: usize,
    /// Sockets that have been asked, as far as nodes have reported.
    receivers: usize,
    /// Sockets that have answered.
    answered: usize,
    /// The sockets that may still answer; `None` where their ids are unknown.
    named: Option<HashSet<SocketId>>,
    /// Whether sockets answer.
    awaits_sockets: bool,
    /// Bytes of all answers so far.
    bytes: usize,
    /// Answers that have not been taken, and their bytes.
    answers: VecDeque<Answer>,
    held: usize,
    changed: Arc<Notify>,
}

/// An open question. Dropping it forgets it.
#[derive(Debug)]
pub struct Question {
    collector: Arc<Collector>,
    asker: Asker,
    number: u64,
    /// Sockets awaited by their ids.
    sockets: usize,
    changed: Arc<Notify>,
}

impl Collector {
    /// A collector with these bounds for clients, backends and the node itself.
    #[must_use]
    pub fn new(bounds: [Bounds; 3]) -> Self {
        let account = |bounds| Account {
            bounds,
            questions: AtomicUsize::new(0),
            sockets: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        };
        Self { next: AtomicU64::new(0), open: DashMap::new(), accounts: bounds.map(account) }
    }

    fn account(&self, asker: Asker) -> &Account {
        let [client, backend, node] = &self.accounts;
        match asker {
            Asker::Client => client,
            Asker::Backend => backend,
            Asker::Node => node,
        }
    }

    /// Opens a question; `None` where it would exceed the asker's [`Bounds`].
    #[must_use]
    pub fn open(self: &Arc<Self>, asker: Asker, expected: Expected) -> Option<Question> {
        let (silent, awaits_sockets, named) = match expected {
            Expected::Sockets { nodes } => (nodes, true, None),
            Expected::Reports { nodes } => (nodes, false, None),
            Expected::Named(sockets) => (0, true, Some(sockets)),
        };
        let sockets = named.as_ref().map_or(0, HashSet::len);
        if !self.account(asker).open(sockets) {
            return None;
        }
        // Far below JavaScript's largest exact integer for as long as a node runs.
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let changed = Arc::new(Notify::new());
        let open = Open {
            asker,
            silent,
            receivers: sockets,
            answered: 0,
            named,
            awaits_sockets,
            bytes: 0,
            answers: VecDeque::new(),
            held: 0,
            changed: Arc::clone(&changed),
        };
        self.open.insert(number, open);
        Some(Question { collector: Arc::clone(self), asker, number, sockets, changed })
    }

    /// Adds a node's report of how many of its sockets it asked.
    pub fn report(&self, number: u64, sockets: usize) {
        if let Some(mut open) = self.open.get_mut(&number) {
            open.silent = open.silent.saturating_sub(1);
            open.receivers = open.receivers.saturating_add(sockets);
            open.changed.notify_one();
        }
    }

    /// Adds a socket's answer. Returns whether it counts: where the sockets are known, a socket that was not asked does not
    /// count, nor does a second answer.
    pub fn answer(&self, number: u64, from: Option<SocketId>, answer: Answer) -> bool {
        let Some(mut open) = self.open.get_mut(&number) else { return false };
        let open = &mut *open;
        if let Some(named) = &mut open.named
            && !from.is_some_and(|socket| named.remove(&socket))
        {
            return false;
        }
        let account = self.account(open.asker);
        let answer = if account.fits(open.bytes, answer.len()) { answer } else { Answer::null() };
        account.bytes.fetch_add(answer.len(), Ordering::AcqRel);
        open.bytes += answer.len();
        open.held += answer.len();
        open.answered += 1;
        open.answers.push_back(answer);
        open.changed.notify_one();
        true
    }

    /// Whether no question is open.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.accounts.iter().all(Account::is_empty)
    }
}

impl Account {
    /// Counts a question that awaits this many sockets by their ids. Returns false where the bounds do not allow it.
    fn open(&self, sockets: usize) -> bool {
        let questions = self.questions.fetch_add(1, Ordering::AcqRel);
        let awaited = self.sockets.fetch_add(sockets, Ordering::AcqRel);
        let fits = questions < self.bounds.questions && awaited + sockets <= self.bounds.sockets;
        if !fits {
            self.close(sockets, 0);
        }
        fits
    }

    fn close(&self, sockets: usize, bytes: usize) {
        self.questions.fetch_sub(1, Ordering::AcqRel);
        self.sockets.fetch_sub(sockets, Ordering::AcqRel);
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// Whether another answer fits the bounds of a question that has `before` bytes already.
    fn fits(&self, before: usize, more: usize) -> bool {
        before + more <= self.bounds.bytes_of_one
            && self.bytes.load(Ordering::Acquire) + more <= self.bounds.bytes_of_all
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        [&self.questions, &self.sockets, &self.bytes].iter().all(|count| count.load(Ordering::Acquire) == 0)
    }
}

impl Open {
    fn is_complete(&self) -> bool {
        self.silent == 0 && (!self.awaits_sockets || self.answered >= self.receivers)
    }
}

impl Question {
    /// The number that answers are reported under.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next answer; `None` after the last one.
    pub async fn next(&mut self) -> Option<Answer> {
        loop {
            {
                let mut open = self.collector.open.get_mut(&self.number)?;
                if let Some(answer) = open.answers.pop_front() {
                    open.held -= answer.len();
                    self.collector.account(self.asker).bytes.fetch_sub(answer.len(), Ordering::AcqRel);
                    return Some(answer);
                }
                if open.is_complete() {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    /// Waits until the question is complete, or for `at_most`. Returns whether it is complete.
    async fn wait(&self, at_most: Duration) -> bool {
        let is_complete = || self.collector.open.get(&self.number).is_none_or(|open| open.is_complete());
        let complete = async {
            while !is_complete() {
                self.changed.notified().await;
            }
        };
        tokio::time::timeout(at_most, complete).await.is_ok()
    }

    /// Waits until the question is complete, or for `at_most`. Returns the answers so far.
    pub async fn all(self, at_most: Duration) -> Answers {
        // Complete or not, the answers so far are returned.
        let _ = self.wait(at_most).await;
        let Some(mut open) = self.collector.open.get_mut(&self.number) else { return Answers::default() };
        Answers {
            receivers: open.receivers.max(open.answered),
            answers: std::mem::take(&mut open.answers).into(),
            are_counted: open.silent == 0,
        }
    }

    /// Waits until the question is complete, or for `at_most`. Returns the sum of the reported sockets if all nodes have
    /// reported.
    pub async fn count(self, at_most: Duration) -> Option<usize> {
        if !self.wait(at_most).await {
            return None;
        }
        self.collector.open.get(&self.number).map(|open| open.receivers)
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        let held = self.collector.open.remove(&self.number).map_or(0, |(_, open)| open.held);
        self.collector.account(self.asker).close(self.sockets, held);
    }
}

#[cfg(test)]
mod tests {
    use shared::ids::NodeId;

    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    fn json(json: &str) -> Answer {
        Answer { json: json.to_owned(), attachments: Vec::new() }
    }

    fn socket(number: u8) -> SocketId {
        SocketId::new(NodeId::from_random([0; 4]), [number; 16])
    }

    /// A collector of three questions of each asker, four named sockets, 10 bytes of a question and 15 in all.
    fn collector() -> Arc<Collector> {
        let bounds = Bounds { questions: 3, sockets: 4, bytes_of_one: 10, bytes_of_all: 15 };
        Arc::new(Collector::new([bounds; 3]))
    }

    fn named(numbers: &[u8]) -> Expected {
        Expected::Named(numbers.iter().copied().map(socket).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_ends_when_all_nodes_and_sockets_have_answered() {
        let collector = collector();
        let question = collector.open(Asker::Backend, Expected::Sockets { nodes: 2 }).unwrap();
        let number = question.number();
        collector.report(number, 1);
        assert!(collector.answer(number, None, json("1")));
        collector.report(number, 1);
        assert!(!collector.answer(number + 1, None, json("9")));
        assert!(collector.answer(number, None, json("2")));
        let answers = question.all(LONG).await;
        assert_eq!(answers, Answers { receivers: 2, answers: vec![json("1"), json("2")], are_counted: true });
        assert!(collector.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn sockets_are_counted_when_all_nodes_have_reported() {
        let collector = collector();
        let question = collector.open(Asker::Backend, Expected::Reports { nodes: 2 }).unwrap();
        collector.report(question.number(), 3);
        collector.report(question.number(), 4);
        assert_eq!(question.count(LONG).await, Some(7));
        let question = collector.open(Asker::Backend, Expected::Reports { nodes: 2 }).unwrap();
        collector.report(question.number(), 3);
        assert_eq!(question.count(Duration::from_secs(1)).await, None);
        assert!(collector.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_without_the_missing_answers() {
        let collector = collector();
        let question = collector.open(Asker::Client, Expected::Sockets { nodes: 2 }).unwrap();
        collector.report(question.number(), 1);
        for text in ["1", "2"] {
            // The second answer is of the server that reports nothing.
            collector.answer(question.number(), None, json(text));
        }
        let answers = question.all(Duration::from_secs(5)).await;
        assert_eq!((answers.receivers, answers.answers.len(), answers.missing()), (2, 2, None));
        let question = collector.open(Asker::Client, Expected::Sockets { nodes: 1 }).unwrap();
        collector.report(question.number(), 3);
        assert_eq!(question.all(Duration::from_secs(5)).await.missing(), Some(3));
    }

    #[tokio::test(start_paused = true)]
    async fn only_named_sockets_answer_and_each_once() {
        let collector = collector();
        let mut question = collector.open(Asker::Backend, named(&[1, 2])).unwrap();
        let number = question.number();
        assert!(collector.answer(number, Some(socket(1)), json("1")));
        assert!(!collector.answer(number, Some(socket(1)), json("2")));
        assert!(!collector.answer(number, Some(socket(3)), json("3")));
        assert!(!collector.answer(number, None, json("4")));
        assert_eq!(question.next().await, Some(json("1")));
        let (next, _) = tokio::join!(question.next(), async {
            tokio::task::yield_now().await;
            collector.answer(number, Some(socket(2)), json("5"))
        });
        assert_eq!((next, question.next().await), (Some(json("5")), None));
        drop(question);
        assert!(collector.is_empty());
        assert_eq!(collector.open(Asker::Backend, named(&[])).unwrap().next().await, None);
    }

    #[test]
    fn questions_are_bounded_for_each_kind_of_asker() {
        let (collector, mut held) = (collector(), Vec::new());
        for asker in [Asker::Client, Asker::Backend, Asker::Node] {
            let open = |expected| collector.open(asker, expected);
            let questions: Vec<_> = (0..4).map(|_| open(Expected::Sockets { nodes: 1 })).collect();
            assert_eq!(questions.iter().flatten().count(), 3);
            drop(questions);
            let three = open(named(&[1, 2, 3])).unwrap();
            assert!(open(named(&[1, 2])).is_none() && open(named(&[4])).is_some());
            drop(three);
            held.extend([open(named(&[1, 2, 3, 4])), open(named(&[])), open(named(&[]))].map(Option::unwrap));
            assert!(open(named(&[])).is_none());
        }
        drop(held);
        assert!(collector.is_empty());
        let none = Arc::new(Collector::new([Bounds::NONE; 3]));
        assert!(none.open(Asker::Node, Expected::Reports { nodes: 1 }).is_none());
    }

    #[tokio::test]
    async fn an_answer_that_does_not_fit_is_null() {
        let collector = collector();
        let open = |asker| collector.open(asker, Expected::Sockets { nodes: 1 }).unwrap();
        let (mut first, second, of_backend) =
            (open(Asker::Client), open(Asker::Client), open(Asker::Backend));
        let long = json("\"12345\"");
        for question in [&first, &second, &of_backend] {
            collector.answer(question.number(), None, long.clone());
        }
        // Exceeds the bytes of one question.
        collector.answer(first.number(), None, long.clone());
        assert_eq!((first.next().await, first.next().await), (Some(long.clone()), Some(Answer::null())));
        collector.answer(second.number(), None, json("1"));
        collector.answer(second.number(), None, json("123"));
        let answers = second.all(Duration::ZERO).await.answers;
        assert_eq!(answers, [long.clone(), json("1"), Answer::null()]);
        // Exceeds the bytes of all questions.
        let (third, fourth) = (open(Asker::Client), open(Asker::Client));
        collector.answer(third.number(), None, json("\"1234567\""));
        collector.answer(fourth.number(), None, long.clone());
        assert_eq!(fourth.all(Duration::ZERO).await.answers, [Answer::null()]);
        assert_eq!(of_backend.all(Duration::ZERO).await.answers, [long]);
        drop((first, third));
        assert!(collector.is_empty());
    }
}
