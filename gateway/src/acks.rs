//! Acks that the gateway awaits from clients: one event to many sockets, one answer from each.
//!
//! All receivers of an event get the same ack id, so it is encoded once like any broadcast. An answer
//! counts once, and only from a socket that was asked; unknown ids are ignored, as the reference does.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use shared::ids::SocketId;
use shared::limits::{ACK_BYTES_MAX, PENDING_ACKS_MAX};
use tokio::sync::oneshot;

/// What was asked and not answered in full. Cheap to share.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    next: AtomicU64,
    pending: DashMap<u64, Pending>,
}

#[derive(Debug)]
struct Pending {
    asked: HashSet<SocketId>,
    answers: Vec<String>,
    bytes: usize,
    done: Option<oneshot::Sender<()>>,
}

/// The answers to one event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answers {
    /// Raw JSON of each answer's first argument, in the order they came.
    pub(crate) answers: Vec<String>,
    /// Sockets that did not answer in time.
    pub(crate) missing: usize,
}

/// A question that has been put. Dropped, it is forgotten.
#[derive(Debug)]
pub(crate) struct Question {
    acks: Arc<Acks>,
    id: u64,
    done: oneshot::Receiver<()>,
}

impl Acks {
    /// Prepares to hear from `asked`; `None` when too many questions are open.
    pub(crate) fn ask(self: &Arc<Self>, asked: HashSet<SocketId>) -> Option<Question> {
        if self.pending.len() >= PENDING_ACKS_MAX {
            return None;
        }
        // Far below what JavaScript keeps exact for as long as a node runs.
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, done) = oneshot::channel();
        let mut pending = Pending { asked, answers: Vec::new(), bytes: 0, done: Some(sender) };
        pending.finish_if_all();
        self.pending.insert(id, pending);
        Some(Question { acks: Arc::clone(self), id, done })
    }

    /// A socket has answered `id`.
    pub(crate) fn answer(&self, id: u64, socket: SocketId, answer: &str) {
        if let Some(mut pending) = self.pending.get_mut(&id)
            && pending.asked.remove(&socket)
        {
            let fits = pending.bytes + answer.len() <= ACK_BYTES_MAX;
            let answer = if fits { answer } else { "null" };
            pending.bytes += answer.len();
            pending.answers.push(answer.to_owned());
            pending.finish_if_all();
        }
    }
}

impl Pending {
    fn finish_if_all(&mut self) {
        if self.asked.is_empty()
            && let Some(done) = self.done.take()
        {
            // Who asked may be gone.
            let _ = done.send(());
        }
    }
}

impl Question {
    /// The ack id to send.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Waits until all have answered, or for `at_most`.
    pub(crate) async fn answers(mut self, at_most: Duration) -> Answers {
        // Either way the answers are those that have come.
        let _ = tokio::time::timeout(at_most, &mut self.done).await;
        let taken = self.acks.pending.remove(&self.id);
        taken.map_or(Answers { answers: Vec::new(), missing: 0 }, |(_, pending)| Answers {
            answers: pending.answers,
            missing: pending.asked.len(),
        })
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.acks.pending.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use shared::ids::NodeId;

    use super::*;

    fn socket(n: u8) -> SocketId {
        SocketId::new(NodeId::from_random([0; 4]), [n; 16])
    }

    #[tokio::test]
    async fn an_answer_counts_once_and_only_from_who_was_asked() {
        let acks = Arc::new(Acks::default());
        let question = acks.ask(HashSet::from([socket(1), socket(2)])).unwrap();
        acks.answer(question.id(), socket(1), "1");
        acks.answer(question.id(), socket(1), "2");
        acks.answer(question.id(), socket(3), "3");
        acks.answer(question.id() + 1, socket(2), "4");
        acks.answer(question.id(), socket(2), "5");
        let answers = question.answers(Duration::from_secs(60)).await;
        assert_eq!(answers, Answers { answers: vec!["1".into(), "5".into()], missing: 0 });
        assert!(acks.pending.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_not_waited_for_longer() {
        let acks = Arc::new(Acks::default());
        let question = acks.ask(HashSet::from([socket(1), socket(2)])).unwrap();
        acks.answer(question.id(), socket(2), "{}");
        let answers = question.answers(Duration::from_secs(5)).await;
        assert_eq!(answers, Answers { answers: vec!["{}".into()], missing: 1 });
    }

    #[tokio::test]
    async fn open_questions_and_their_answers_are_bounded() {
        let acks = Arc::new(Acks::default());
        let questions: Vec<_> = (0..PENDING_ACKS_MAX).map(|_| acks.ask(HashSet::from([socket(1)]))).collect();
        assert!(questions.iter().all(Option::is_some));
        assert!(acks.ask(HashSet::from([socket(1)])).is_none());
        drop(questions);
        let question = acks.ask(HashSet::from([socket(1), socket(2)])).unwrap();
        let long = format!("\"{}\"", "x".repeat(ACK_BYTES_MAX - 4));
        acks.answer(question.id(), socket(1), &long);
        acks.answer(question.id(), socket(2), "\"more\"");
        let answers = question.answers(Duration::from_secs(60)).await;
        assert_eq!(answers.answers, [long, "null".to_owned()]);
    }
}
