//! Questions to clients wherever they are: an event whose receivers acknowledge it.
//!
//! Every node that hears a question tells how many of its sockets got it, then what each answers; the asker
//! is done when as many nodes as there are have told and all their sockets have answered, or when time is
//! over.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use shared::limits::{ACK_BYTES_MAX, PENDING_ACKS_MAX};
use tokio::sync::Notify;

/// The answers to a question.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answers {
    /// Sockets that were asked.
    pub receivers: usize,
    /// Raw JSON of the first argument of each answer, in the order they came.
    pub answers: Vec<String>,
}

/// Open questions of this node.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    next: AtomicU64,
    open: DashMap<String, Open>,
}

#[derive(Debug)]
struct Open {
    nodes: usize,
    /// No socket is asked.
    counts: bool,
    told: usize,
    bytes: usize,
    answers: Answers,
    done: Arc<Notify>,
}

/// A question that has been put. Dropped, it is forgotten.
pub(crate) struct Question<'a> {
    questions: &'a Questions,
    pub(crate) id: String,
    done: Arc<Notify>,
}

impl Questions {
    /// Opens a question to `nodes` nodes; `None` when too many are open.
    pub(crate) fn open(&self, node: &str, nodes: usize) -> Option<Question<'_>> {
        self.open_for(node, nodes, false)
    }

    /// As [`Self::open`], for a question that nodes answer and no socket.
    pub(crate) fn open_count(&self, node: &str, nodes: usize) -> Option<Question<'_>> {
        self.open_for(node, nodes, true)
    }

    fn open_for(&self, node: &str, nodes: usize, counts: bool) -> Option<Question<'_>> {
        if self.open.len() >= PENDING_ACKS_MAX {
            return None;
        }
        let id = format!("{node}{}", self.next.fetch_add(1, Ordering::Relaxed));
        let done = Arc::new(Notify::new());
        let answers = Answers::default();
        let open = Open { nodes, counts, told: 0, bytes: 0, answers, done: Arc::clone(&done) };
        self.open.insert(id.clone(), open);
        Some(Question { questions: self, id, done })
    }

    /// A node tells how many of its sockets were asked.
    pub(crate) fn told(&self, id: &str, sockets: usize) {
        if let Some(mut open) = self.open.get_mut(id) {
            open.told += 1;
            open.answers.receivers = open.answers.receivers.saturating_add(sockets);
            open.finish_if_all();
        }
    }

    /// A socket has answered.
    pub(crate) fn answered(&self, id: &str, json: &str) {
        if let Some(mut open) = self.open.get_mut(id) {
            let fits = open.bytes + json.len() <= ACK_BYTES_MAX;
            let json = if fits { json } else { "null" };
            open.bytes += json.len();
            open.answers.answers.push(json.to_owned());
            open.finish_if_all();
        }
    }
}

impl Open {
    fn finish_if_all(&self) {
        let all_told = self.told >= self.nodes;
        if all_told && (self.counts || self.answers.answers.len() >= self.answers.receivers) {
            self.done.notify_one();
        }
    }
}

impl Question<'_> {
    /// Waits until all have answered, or for `at_most`.
    pub(crate) async fn answers(self, at_most: Duration) -> Answers {
        // Either way the answers are those that have come.
        let _ = tokio::time::timeout(at_most, self.done.notified()).await;
        let taken = self.questions.open.remove(&self.id);
        taken.map(|(_, open)| open.answers).unwrap_or_default()
    }
}

impl Question<'_> {
    /// Waits until all nodes have told how many sockets they have, or for `at_most`; answers the sum if all have.
    pub(crate) async fn counted(self, at_most: Duration) -> Option<usize> {
        tokio::time::timeout(at_most, self.done.notified()).await.ok()?;
        self.questions.open.get(&self.id).map(|open| open.answers.receivers)
    }

    /// Waits until all nodes have told that they did what was asked, or for `at_most`; answers whether all have.
    pub(crate) async fn all_done(self, at_most: Duration) -> bool {
        tokio::time::timeout(at_most, self.done.notified()).await.is_ok()
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.questions.open.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_question_ends_when_all_nodes_and_sockets_have_spoken() {
        let questions = Questions::default();
        let question = questions.open("n", 2).unwrap();
        let id = question.id.clone();
        questions.told(&id, 1);
        questions.answered(&id, "1");
        questions.told(&id, 1);
        questions.answered("other", "9");
        questions.answered(&id, "2");
        let answers = question.answers(Duration::from_hours(1)).await;
        assert_eq!(answers, Answers { receivers: 2, answers: vec!["1".into(), "2".into()] });
        assert!(questions.open.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn sockets_are_counted_when_all_nodes_have_told() {
        let questions = Questions::default();
        let question = questions.open_count("n", 2).unwrap();
        questions.told(&question.id.clone(), 3);
        questions.told(&question.id.clone(), 4);
        assert_eq!(question.counted(Duration::from_hours(1)).await, Some(7));
        let question = questions.open_count("n", 2).unwrap();
        questions.told(&question.id.clone(), 3);
        assert_eq!(question.counted(Duration::from_secs(1)).await, None);
        assert!(questions.open.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_answer_is_not_waited_for_longer() {
        let questions = Questions::default();
        let question = questions.open("n", 1).unwrap();
        questions.told(&question.id.clone(), 2);
        let answers = question.answers(Duration::from_secs(5)).await;
        assert_eq!(answers, Answers { receivers: 2, answers: Vec::new() });
    }

    #[tokio::test]
    async fn open_questions_and_their_answers_are_bounded() {
        let questions = Questions::default();
        let open: Vec<_> = (0..PENDING_ACKS_MAX).map(|_| questions.open("n", 1)).collect();
        assert!(open.iter().all(Option::is_some));
        assert!(questions.open("n", 1).is_none());
        drop(open);
        let question = questions.open("n", 1).unwrap();
        let id = question.id.clone();
        questions.told(&id, 2);
        let long = format!("\"{}\"", "x".repeat(ACK_BYTES_MAX - 4));
        questions.answered(&id, &long);
        questions.answered(&id, "\"more\"");
        let answers = question.answers(Duration::from_secs(60)).await;
        assert_eq!(answers.answers, [long, "null".to_owned()]);
    }
}
