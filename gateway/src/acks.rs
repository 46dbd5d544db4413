//! Acks that this node awaits from its clients: one event to many sockets, one ack from each.
//!
//! All recipients of an event get the same ack id, so the node encodes it once, like any broadcast. Only the first ack
//! of a recipient counts; unknown ids are ignored, as in the reference implementation.

use std::collections::HashSet;
use std::sync::Arc;

use fanout::{Asker, Bounds, Collector, Expected, Question};
use shared::ids::SocketId;
use shared::limits::{
    ACK_BYTES_MAX, ACKS_BYTES_MAX, ACKS_HELD_BYTES_MAX, AWAITED_ACKS_MAX, MEMBERS_MAX, PENDING_ACKS_MAX,
};
use shared::sio::Answer;

/// Events that still await acks. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Acks {
    collector: Arc<Collector>,
}

impl Default for Acks {
    fn default() -> Self {
        let of_client = Bounds {
            questions: PENDING_ACKS_MAX,
            sockets: AWAITED_ACKS_MAX,
            bytes_of_one: ACK_BYTES_MAX,
            bytes_of_all: ACKS_BYTES_MAX,
        };
        // A backend receives everything that clients may send, as fast as the node can forward it.
        let of_backend = Bounds { bytes_of_one: usize::MAX, bytes_of_all: ACKS_HELD_BYTES_MAX, ..of_client };
        Self { collector: Arc::new(Collector::new([of_client, of_backend, Bounds::NONE])) }
    }
}

impl Acks {
    /// Prepares to receive the acks of `asked` for a client (`of_client`) or a backend; `None` if clients, or backends,
    /// have too many open questions or await too many sockets.
    pub(crate) fn ask(&self, of_client: bool, asked: HashSet<SocketId>) -> Option<Question> {
        if of_client && asked.len() > MEMBERS_MAX {
            return None;
        }
        let asker = if of_client { Asker::Client } else { Asker::Backend };
        self.collector.open(asker, Expected::Named(asked))
    }

    /// Records a socket's ack of `id`; false if it was not asked, or has answered before.
    pub(crate) fn answer(&self, id: u64, socket: SocketId, answer: Answer) -> bool {
        self.collector.answer(id, Some(socket), answer)
    }
}

#[cfg(test)]
mod tests {
    use shared::ids::NodeId;

    use super::*;

    fn json(json: &str) -> Answer {
        Answer { json: json.to_owned(), attachments: Vec::new() }
    }

    fn socket(n: u8) -> SocketId {
        SocketId::new(NodeId::from_random([0; 4]), [n; 16])
    }

    #[tokio::test]
    async fn an_answer_counts_once_and_only_from_a_recipient() {
        let acks = Acks::default();
        let mut question = acks.ask(false, HashSet::from([socket(1), socket(2)])).unwrap();
        assert!(acks.answer(question.number(), socket(1), json("1")));
        assert!(!acks.answer(question.number(), socket(1), json("2")));
        assert!(!acks.answer(question.number(), socket(3), json("3")));
        assert!(!acks.answer(question.number() + 1, socket(2), json("4")));
        assert_eq!(question.next().await, Some(json("1")));
        acks.answer(question.number(), socket(2), json("5"));
        assert_eq!(question.next().await, Some(json("5")));
        assert_eq!(question.next().await, None);
        assert_eq!(acks.ask(false, HashSet::new()).unwrap().next().await, None);
    }

    #[tokio::test]
    async fn open_questions_and_their_answers_are_bounded() {
        let acks = Acks::default();
        let questions: Vec<_> =
            (0..PENDING_ACKS_MAX).map(|_| acks.ask(false, HashSet::from([socket(1)]))).collect();
        assert!(questions.iter().all(Option::is_some));
        assert!(acks.ask(false, HashSet::from([socket(1)])).is_none());
        assert!(acks.ask(true, HashSet::from([socket(1)])).is_some(), "clients have slots of their own");
        drop(questions);
        let long = format!("\"{}\"", "x".repeat(ACK_BYTES_MAX - 4));
        for (of_client, second) in [(true, Answer::null()), (false, json("\"more\""))] {
            let mut question = acks.ask(of_client, HashSet::from([socket(1), socket(2)])).unwrap();
            acks.answer(question.number(), socket(1), json(&long));
            acks.answer(question.number(), socket(2), json("\"more\""));
            assert_eq!(question.next().await, Some(json(&long)));
            assert_eq!(question.next().await, Some(second));
        }
    }

    #[test]
    fn the_sockets_that_clients_ask_are_bounded_together() {
        let acks = Acks::default();
        let node = NodeId::from_random([0; 4]);
        let all_sockets = || {
            (0..MEMBERS_MAX)
                .map(|n| {
                    let mut random = [0; 16];
                    for (place, byte) in random.iter_mut().enumerate() {
                        *byte = u8::try_from(n >> (6 * place.min(4)) & 63).unwrap_or_default();
                    }
                    SocketId::new(node, random)
                })
                .collect::<HashSet<_>>()
        };
        let one = all_sockets();
        assert_eq!(one.len(), MEMBERS_MAX);
        let questions: Vec<_> = (0..AWAITED_ACKS_MAX).map_while(|_| acks.ask(true, one.clone())).collect();
        assert_eq!(questions.len(), AWAITED_ACKS_MAX / MEMBERS_MAX);
        assert!(acks.ask(false, one.clone()).is_some(), "backends have slots of their own");
        drop(questions);
        assert!(acks.ask(true, one).is_some());
    }
}
