//! Questions to clients wherever they are: an event whose receivers acknowledge it.
//!
//! Every node that receives a question reports how many of its sockets got it, then what each of them answers. The asker
//! is done when all nodes have reported and all their sockets have answered, or when time is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use futures_util::future::{self, BoxFuture, FutureExt as _};
use shared::limits::{ACK_BYTES_MAX, ACKS_BYTES_MAX, NODE_QUESTIONS_MAX, PENDING_ACKS_MAX};
use shared::sio::Answer;
use tokio::sync::Notify;

use crate::events::{Answerable, OF_CLIENT};

/// The answers to a question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// Sockets that were asked; no fewer than have answered.
    pub receivers: usize,
    /// The first argument of each answer, in the order they came.
    pub answers: Vec<Answer>,
    /// Every server has reported how many of its sockets were asked.
    pub are_counted: bool,
}

impl Answers {
    /// How many sockets were asked and have not answered; `None` where a server has not reported how many it has.
    #[must_use]
    pub fn missing(&self) -> Option<usize> {
        self.are_counted.then(|| self.receivers.saturating_sub(self.answers.len()))
    }
}

/// Who asks. Each has places of its own, so that none takes another's: a client's questions cannot keep a backend from
/// asking, nor a node from bringing a user's sockets into a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asker {
    /// A client; its gateway bounds what one user asks.
    Client,
    /// A backend.
    Backend,
    /// The node itself, to do what a user or a backend has been promised.
    Node,
}

impl Asker {
    fn max(self) -> usize {
        match self {
            Self::Client | Self::Backend => PENDING_ACKS_MAX,
            Self::Node => NODE_QUESTIONS_MAX,
        }
    }
}

/// Open questions of this node.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    next: AtomicU64,
    open: DashMap<String, Open>,
    /// How many of each [`Asker`] are open.
    places: [AtomicUsize; 3],
    /// Bytes of the answers to clients' open questions.
    bytes: AtomicUsize,
}

#[derive(Debug)]
struct Open {
    nodes: usize,
    is_of_client: bool,
    /// No socket is asked.
    counts: bool,
    /// Nodes that have reported how many of their sockets were asked.
    reported: usize,
    bytes: usize,
    answers: Answers,
    done: Arc<Notify>,
}

/// A question that has been put. Dropped, it is forgotten.
pub(crate) struct Question<'a> {
    questions: &'a Questions,
    asker: Asker,
    pub(crate) id: String,
    done: Arc<Notify>,
}

impl Questions {
    /// Opens a question to `nodes` nodes; `None` when too many are open.
    pub(crate) fn open(&self, asker: Asker, node: &str, nodes: usize) -> Option<Question<'_>> {
        self.open_for(asker, node, nodes, false)
    }

    /// As [`Self::open`], for a question that nodes answer and no socket.
    pub(crate) fn open_count(&self, asker: Asker, node: &str, nodes: usize) -> Option<Question<'_>> {
        self.open_for(asker, node, nodes, true)
    }

    fn open_for(&self, asker: Asker, node: &str, nodes: usize, counts: bool) -> Option<Question<'_>> {
        let places = self.places(asker);
        if places.fetch_add(1, Ordering::AcqRel) >= asker.max() {
            places.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        let (number, is_of_client) = (self.next.fetch_add(1, Ordering::Relaxed), asker == Asker::Client);
        let id = if is_of_client { format!("{node}{OF_CLIENT}{number}") } else { format!("{node}{number}") };
        let done = Arc::new(Notify::new());
        let answers = Answers::default();
        let open =
            Open { nodes, is_of_client, counts, reported: 0, bytes: 0, answers, done: Arc::clone(&done) };
        self.open.insert(id.clone(), open);
        Some(Question { questions: self, asker, id, done })
    }

    fn places(&self, asker: Asker) -> &AtomicUsize {
        let [clients, backends, node] = &self.places;
        match asker {
            Asker::Client => clients,
            Asker::Backend => backends,
            Asker::Node => node,
        }
    }

    /// Forgets a question; answers what there was of it.
    fn close(&self, id: &str) -> Option<Answers> {
        let (_, open) = self.open.remove(id)?;
        if open.is_of_client {
            self.bytes.fetch_sub(open.bytes, Ordering::AcqRel);
        }
        let Open { mut answers, nodes, reported, .. } = open;
        answers.receivers = answers.receivers.max(answers.answers.len());
        answers.are_counted = reported >= nodes;
        Some(answers)
    }

    /// A node reports how many of its sockets were asked.
    pub(crate) fn add_count(&self, id: &str, sockets: usize) {
        if let Some(mut open) = self.open.get_mut(id) {
            open.reported += 1;
            open.answers.receivers = open.answers.receivers.saturating_add(sockets);
            open.finish_if_all();
        }
    }

    /// A socket has answered.
    pub(crate) fn add_answer(&self, id: &str, answer: Answer) {
        if let Some(mut open) = self.open.get_mut(id) {
            let fits_all = !open.is_of_client || self.bytes.load(Ordering::Acquire) <= ACKS_BYTES_MAX;
            let fits = fits_all && open.bytes + answer.len() <= ACK_BYTES_MAX;
            let answer = if fits { answer } else { Answer::null() };
            open.bytes += answer.len();
            if open.is_of_client {
                self.bytes.fetch_add(answer.len(), Ordering::AcqRel);
            }
            open.answers.answers.push(answer);
            open.finish_if_all();
        }
    }
}

impl Answerable for Questions {
    fn asked(&self, id: &str, sockets: usize) {
        self.add_count(id, sockets);
    }

    fn answered<'a>(&'a self, id: &'a str, answer: Answer) -> BoxFuture<'a, ()> {
        self.add_answer(id, answer);
        future::ready(()).boxed()
    }
}

impl Open {
    fn finish_if_all(&self) {
        let have_all_reported = self.reported >= self.nodes;
        if have_all_reported && (self.counts || self.answers.answers.len() >= self.answers.receivers) {
            self.done.notify_one();
        }
    }
}

impl Question<'_> {
    /// Waits until all have answered, or for `at_most`.
    pub(crate) async fn answers(self, at_most: Duration) -> Answers {
        // Either way the answers are those that have come.
        let _ = tokio::time::timeout(at_most, self.done.notified()).await;
        self.questions.close(&self.id).unwrap_or_default()
    }

    /// Waits until all nodes have reported how many sockets they have, or for `at_most`; answers the sum if all have.
    pub(crate) async fn counted(self, at_most: Duration) -> Option<usize> {
        tokio::time::timeout(at_most, self.done.notified()).await.ok()?;
        self.questions.open.get(&self.id).map(|open| open.answers.receivers)
    }

    /// Waits until all nodes have reported that they did what was asked, or for `at_most`; answers whether all have.
    pub(crate) async fn all_done(self, at_most: Duration) -> bool {
        tokio::time::timeout(at_most, self.done.notified()).await.is_ok()
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.questions.close(&self.id);
        self.questions.places(self.asker).fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::is_of_client;

    fn json(json: &str) -> Answer {
        Answer { json: json.to_owned(), attachments: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_ends_when_all_nodes_and_sockets_have_spoken() {
        let questions = Questions::default();
        let question = questions.open(Asker::Backend, "n", 2).unwrap();
        let id = question.id.clone();
        questions.add_count(&id, 1);
        questions.add_answer(&id, json("1"));
        questions.add_count(&id, 1);
        questions.add_answer("other", json("9"));
        questions.add_answer(&id, json("2"));
        let answers = question.answers(Duration::from_hours(1)).await;
        assert_eq!(answers, Answers { receivers: 2, answers: vec![json("1"), json("2")], are_counted: true });
        assert!(questions.open.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn sockets_are_counted_when_all_nodes_have_reported() {
        let questions = Questions::default();
        let question = questions.open_count(Asker::Backend, "n", 2).unwrap();
        questions.add_count(&question.id.clone(), 3);
        questions.add_count(&question.id.clone(), 4);
        assert_eq!(question.counted(Duration::from_hours(1)).await, Some(7));
        let question = questions.open_count(Asker::Backend, "n", 2).unwrap();
        questions.add_count(&question.id.clone(), 3);
        assert_eq!(question.counted(Duration::from_secs(1)).await, None);
        assert!(questions.open.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_not_waited_for_longer() {
        let questions = Questions::default();
        let question = questions.open(Asker::Backend, "n", 1).unwrap();
        questions.add_count(&question.id.clone(), 2);
        let answers = question.answers(Duration::from_secs(5)).await;
        assert_eq!(answers, Answers { receivers: 2, answers: Vec::new(), are_counted: true });
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_not_told_how_many_there_are_is_not_said_to_miss_nobody() {
        let questions = Questions::default();
        let question = questions.open(Asker::Client, "n", 2).unwrap();
        let id = question.id.clone();
        questions.add_count(&id, 1);
        questions.add_answer(&id, json("1"));
        // Of the server that reports nothing.
        questions.add_answer(&id, json("2"));
        let answers = question.answers(Duration::from_secs(5)).await;
        assert_eq!((answers.receivers, answers.answers.len(), answers.missing()), (2, 2, None));
        let question = questions.open(Asker::Client, "n", 1).unwrap();
        questions.add_count(&question.id.clone(), 3);
        assert_eq!(question.answers(Duration::from_secs(5)).await.missing(), Some(3));
    }

    #[test]
    fn nobody_takes_the_places_of_another_asker() {
        let questions = Questions::default();
        let ask =
            |asker, count| (0..count).map_while(|_| questions.open(asker, "node", 1)).collect::<Vec<_>>();
        let of_clients = ask(Asker::Client, PENDING_ACKS_MAX + 1);
        assert_eq!(of_clients.len(), PENDING_ACKS_MAX);
        let of_backends = ask(Asker::Backend, PENDING_ACKS_MAX + 1);
        assert_eq!(of_backends.len(), PENDING_ACKS_MAX);
        let own = questions.open(Asker::Node, "node", 1).unwrap();
        assert!(is_of_client(&of_clients[7].id));
        assert!(!is_of_client(&of_backends[7].id) && !is_of_client(&own.id));
        for other in ["", "node", "nodec", "nodecx", "abcdefghi", "éééc1"] {
            assert!(!is_of_client(other), "{other}");
        }
        drop(of_clients);
        assert!(questions.open(Asker::Client, "node", 1).is_some());
    }

    #[test]
    fn the_answers_to_all_clients_are_bounded_together() {
        let questions = Questions::default();
        let answer = "x".repeat(ACK_BYTES_MAX / 2);
        let open: Vec<_> = (0..1_000).filter_map(|_| questions.open(Asker::Client, "node", 1)).collect();
        open.iter().for_each(|question| questions.add_answer(&question.id, json(&answer)));
        let held = questions.bytes.load(Ordering::Relaxed);
        assert!((ACKS_BYTES_MAX..ACKS_BYTES_MAX + ACK_BYTES_MAX).contains(&held), "{held}");
        let of_backend = questions.open(Asker::Backend, "node", 1).unwrap();
        questions.add_answer(&of_backend.id, json(&answer));
        assert_eq!(questions.close(&of_backend.id).unwrap().answers, [json(&answer)]);
        drop(open);
        assert_eq!(questions.bytes.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn open_questions_and_their_answers_are_bounded() {
        let questions = Questions::default();
        let open: Vec<_> = (0..PENDING_ACKS_MAX).map(|_| questions.open(Asker::Backend, "n", 1)).collect();
        assert!(open.iter().all(Option::is_some));
        assert!(questions.open(Asker::Backend, "n", 1).is_none());
        drop(open);
        let question = questions.open(Asker::Backend, "n", 1).unwrap();
        let id = question.id.clone();
        questions.add_count(&id, 2);
        let long = format!("\"{}\"", "x".repeat(ACK_BYTES_MAX - 4));
        questions.add_answer(&id, json(&long));
        questions.add_answer(&id, json("\"more\""));
        let answers = question.answers(Duration::from_secs(60)).await;
        assert_eq!(answers.answers, [json(&long), Answer::null()]);
    }
}
