//! Questions to all nodes: events that their recipients acknowledge, and requests whose completion every node reports.
//!
//! Every node that receives a question reports how many of its sockets were asked, then the answer of each.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{self, BoxFuture, FutureExt as _};
use shared::limits::{ACK_BYTES_MAX, ACKS_BYTES_MAX, NODE_QUESTIONS_MAX, PENDING_ACKS_MAX};
use shared::sio::Answer;

use crate::collector::{Answers, Asker, Bounds, Collector, Expected};
use crate::error::FanoutError;
use crate::events::{Answerable, OF_CLIENT, is_of_client};

/// Open questions of this node. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Questions {
    collector: Arc<Collector>,
    /// This node.
    node: Arc<str>,
}

/// An open question. Dropping it forgets it.
pub(crate) struct Question {
    question: crate::collector::Question,
    /// Its id on all nodes.
    pub(crate) id: String,
}

impl Questions {
    /// The questions of the node with this id.
    pub(crate) fn new(node: &str) -> Self {
        let of_sockets = Bounds {
            questions: PENDING_ACKS_MAX,
            sockets: 0,
            bytes_of_one: ACK_BYTES_MAX,
            bytes_of_all: ACKS_BYTES_MAX,
        };
        let bounds = [
            of_sockets,
            Bounds { bytes_of_all: usize::MAX, ..of_sockets },
            Bounds { questions: NODE_QUESTIONS_MAX, ..Bounds::NONE },
        ];
        Self { collector: Arc::new(Collector::new(bounds)), node: node.into() }
    }

    /// Opens a question.
    ///
    /// # Errors
    /// [`FanoutError::TooManyQuestions`].
    pub(crate) fn open(&self, asker: Asker, expected: Expected) -> Result<Question, FanoutError> {
        let question = self.collector.open(asker, expected).ok_or(FanoutError::TooManyQuestions)?;
        let (node, number) = (&self.node, question.number());
        let is_of_client = asker == Asker::Client;
        let id = if is_of_client { format!("{node}{OF_CLIENT}{number}") } else { format!("{node}{number}") };
        Ok(Question { question, id })
    }

    /// The number of a question of this node.
    fn number(&self, id: &str) -> Option<u64> {
        let rest = id.strip_prefix(&*self.node)?;
        if is_of_client(id) { rest.strip_prefix(OF_CLIENT)? } else { rest }.parse().ok()
    }

    /// Adds a node's report of how many of its sockets it asked.
    pub(crate) fn add_count(&self, id: &str, sockets: usize) {
        if let Some(number) = self.number(id) {
            self.collector.report(number, sockets);
        }
    }

    /// Adds a socket's answer.
    pub(crate) fn add_answer(&self, id: &str, answer: Answer) {
        if let Some(number) = self.number(id) {
            self.collector.answer(number, None, answer);
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

impl Question {
    /// Waits until all have answered, or for `at_most`.
    pub(crate) async fn answers(self, at_most: Duration) -> Answers {
        self.question.all(at_most).await
    }

    /// Waits until all nodes have reported their sockets, or for `at_most`. Returns the sum if all have.
    pub(crate) async fn counted(self, at_most: Duration) -> Option<usize> {
        self.question.count(at_most).await
    }

    /// Waits until all nodes have reported completion, or for `at_most`.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`]: some have not.
    pub(crate) async fn done_by_all(self, at_most: Duration) -> Result<(), FanoutError> {
        self.question.count(at_most).await.map(drop).ok_or(FanoutError::Unavailable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "node";

    fn json(json: &str) -> Answer {
        Answer { json: json.to_owned(), attachments: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_is_found_by_its_id() {
        let questions = Questions::new(NODE);
        for asker in [Asker::Client, Asker::Backend] {
            let question = questions.open(asker, Expected::Sockets { nodes: 2 }).unwrap();
            let id = question.id.clone();
            assert_eq!(is_of_client(&id), asker == Asker::Client);
            questions.add_count(&id, 1);
            questions.add_count(&id, 0);
            for other in ["", "other", &format!("othe{}", &id[NODE.len()..]), &format!("{id}1")] {
                questions.add_answer(other, json("9"));
            }
            questions.add_answer(&id, json("1"));
            let answers = question.answers(Duration::from_hours(1)).await;
            assert_eq!(answers, Answers { receivers: 1, answers: vec![json("1")], are_counted: true });
        }
        let question = questions.open(Asker::Node, Expected::Reports { nodes: 1 }).unwrap();
        questions.add_count(&question.id, 0);
        assert_eq!(question.done_by_all(Duration::from_hours(1)).await, Ok(()));
        let question = questions.open(Asker::Node, Expected::Reports { nodes: 1 }).unwrap();
        assert_eq!(question.done_by_all(Duration::from_secs(1)).await, Err(FanoutError::Unavailable));
    }

    #[test]
    fn ids_of_other_servers_belong_to_no_client() {
        for other in ["", "node", "nodec", "nodecx", "abcdefghi", "éééc1"] {
            assert!(!is_of_client(other), "{other}");
        }
    }

    #[tokio::test]
    async fn open_questions_and_their_answers_are_bounded() {
        let questions = Questions::new(NODE);
        let open = || questions.open(Asker::Backend, Expected::Sockets { nodes: 1 });
        let many: Vec<_> = (0..PENDING_ACKS_MAX).map(|_| open()).collect();
        assert!(many.iter().all(Result::is_ok));
        assert_eq!(open().err(), Some(FanoutError::TooManyQuestions));
        drop(many);
        let question = open().unwrap();
        questions.add_count(&question.id, 2);
        let long = format!("\"{}\"", "x".repeat(ACK_BYTES_MAX - 4));
        questions.add_answer(&question.id, json(&long));
        questions.add_answer(&question.id, json("\"more\""));
        let answers = question.answers(Duration::from_mins(1)).await;
        assert_eq!(answers.answers, [json(&long), Answer::null()]);
    }
}
