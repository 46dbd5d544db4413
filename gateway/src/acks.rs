//! Acks that this node awaits from its clients: one event to many sockets, one answer from each.
//!
//! All receivers of an event get the same ack id, so it is encoded once like any broadcast. An answer
//! counts once, and only from a socket that was asked; unknown ids are ignored, as the reference does.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use shared::ids::SocketId;
use shared::limits::{ACK_BYTES_MAX, ACKS_HELD_BYTES_MAX, AWAITED_ACKS_MAX, MEMBERS_MAX, PENDING_ACKS_MAX};
use shared::sio::Answer;
use tokio::sync::mpsc;

/// What was asked and not answered in full. Cheap to share.
#[derive(Debug, Default)]
pub(crate) struct Acks {
    next: AtomicU64,
    pending: DashMap<u64, Pending>,
    /// Of clients, and of backends: neither takes the other's places.
    open: [Places; 2],
    /// Bytes of answers that are not passed on yet.
    held: AtomicUsize,
}

/// Open questions, and how many sockets they were put to.
#[derive(Debug, Default)]
struct Places {
    questions: AtomicUsize,
    asked: AtomicUsize,
}

#[derive(Debug)]
struct Pending {
    of_client: bool,
    asked: HashSet<SocketId>,
    bytes: usize,
    answers: mpsc::Sender<Answer>,
}

/// A question that has been put. Dropped, it is forgotten.
#[derive(Debug)]
pub(crate) struct Question {
    acks: Arc<Acks>,
    of_client: bool,
    asked: usize,
    id: u64,
    answers: mpsc::Receiver<Answer>,
}

impl Acks {
    /// Prepares to hear from `asked` what a client (`of_client`) or a backend wants to know; `None` when too many of their
    /// questions are open, or too many are asked.
    pub(crate) fn ask(self: &Arc<Self>, of_client: bool, asked: HashSet<SocketId>) -> Option<Question> {
        if of_client && asked.len() > MEMBERS_MAX {
            return None;
        }
        let (places, count) = (self.places(of_client), asked.len());
        let questions = places.questions.fetch_add(1, Ordering::AcqRel);
        let awaited = places.asked.fetch_add(count, Ordering::AcqRel);
        if questions >= PENDING_ACKS_MAX || awaited + count > AWAITED_ACKS_MAX {
            places.give_back(count);
            return None;
        }
        // Far below what JavaScript keeps exact for as long as a node runs.
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        // Room for all, so that no answer is ever dropped.
        let (sender, answers) = mpsc::channel(asked.len().max(1));
        if !asked.is_empty() {
            self.pending.insert(id, Pending { of_client, asked, bytes: 0, answers: sender });
        }
        Some(Question { acks: Arc::clone(self), of_client, asked: count, id, answers })
    }

    fn places(&self, of_client: bool) -> &Places {
        let [clients, backends] = &self.open;
        if of_client { clients } else { backends }
    }

    /// A socket has answered `id`; false when it was not asked, or has answered before.
    pub(crate) fn answer(&self, id: u64, socket: SocketId, answer: Answer) -> bool {
        let Some(mut pending) = self.pending.get_mut(&id) else { return false };
        if !pending.asked.remove(&socket) {
            return false;
        }
        // A backend gets all that clients may send, as fast as it is passed on.
        let fits = if pending.of_client {
            pending.bytes + answer.len() <= ACK_BYTES_MAX
        } else {
            self.held.load(Ordering::Acquire) + answer.len() <= ACKS_HELD_BYTES_MAX
        };
        let answer = if fits { answer } else { Answer::null() };
        pending.bytes += answer.len();
        self.held.fetch_add(answer.len(), Ordering::AcqRel);
        // Who asked may be gone.
        if let Err(refused) = pending.answers.try_send(answer) {
            self.held.fetch_sub(refused.into_inner().len(), Ordering::AcqRel);
        }
        let all = pending.asked.is_empty();
        drop(pending);
        if all {
            self.pending.remove(&id);
        }
        true
    }
}

impl Places {
    fn give_back(&self, asked: usize) {
        self.questions.fetch_sub(1, Ordering::AcqRel);
        self.asked.fetch_sub(asked, Ordering::AcqRel);
    }
}

impl Question {
    /// The ack id to send.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The next answer; `None` when all have answered.
    pub(crate) async fn next(&mut self) -> Option<Answer> {
        let answer = self.answers.recv().await?;
        self.acks.held.fetch_sub(answer.len(), Ordering::AcqRel);
        Some(answer)
    }
}

impl Drop for Question {
    fn drop(&mut self) {
        self.acks.pending.remove(&self.id);
        self.answers.close();
        while let Ok(answer) = self.answers.try_recv() {
            self.acks.held.fetch_sub(answer.len(), Ordering::AcqRel);
        }
        self.acks.places(self.of_client).give_back(self.asked);
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
    async fn an_answer_counts_once_and_only_from_who_was_asked() {
        let acks = Arc::new(Acks::default());
        let mut question = acks.ask(false, HashSet::from([socket(1), socket(2)])).unwrap();
        assert!(acks.answer(question.id(), socket(1), json("1")));
        assert!(!acks.answer(question.id(), socket(1), json("2")));
        assert!(!acks.answer(question.id(), socket(3), json("3")));
        assert!(!acks.answer(question.id() + 1, socket(2), json("4")));
        assert_eq!(question.next().await, Some(json("1")));
        acks.answer(question.id(), socket(2), json("5"));
        assert_eq!(question.next().await, Some(json("5")));
        assert_eq!(question.next().await, None);
        assert!(acks.pending.is_empty());
        assert_eq!(acks.ask(false, HashSet::new()).unwrap().next().await, None);
    }

    #[tokio::test]
    async fn open_questions_and_their_answers_are_bounded() {
        let acks = Arc::new(Acks::default());
        let questions: Vec<_> =
            (0..PENDING_ACKS_MAX).map(|_| acks.ask(false, HashSet::from([socket(1)]))).collect();
        assert!(questions.iter().all(Option::is_some));
        assert!(acks.ask(false, HashSet::from([socket(1)])).is_none());
        assert!(acks.ask(true, HashSet::from([socket(1)])).is_some(), "a client has other places");
        drop(questions);
        let long = format!("\"{}\"", "x".repeat(ACK_BYTES_MAX - 4));
        for (of_client, second) in [(true, Answer::null()), (false, json("\"more\""))] {
            let mut question = acks.ask(of_client, HashSet::from([socket(1), socket(2)])).unwrap();
            acks.answer(question.id(), socket(1), json(&long));
            acks.answer(question.id(), socket(2), json("\"more\""));
            assert_eq!(question.next().await, Some(json(&long)));
            assert_eq!(question.next().await, Some(second));
        }
    }

    #[test]
    fn the_sockets_that_clients_ask_are_bounded_together() {
        let acks = Arc::new(Acks::default());
        let node = NodeId::from_random([0; 4]);
        let everybody = || {
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
        let one = everybody();
        assert_eq!(one.len(), MEMBERS_MAX);
        let questions: Vec<_> = (0..AWAITED_ACKS_MAX).map_while(|_| acks.ask(true, one.clone())).collect();
        assert_eq!(questions.len(), AWAITED_ACKS_MAX / MEMBERS_MAX);
        assert!(acks.ask(false, one.clone()).is_some(), "a backend has other places");
        drop(questions);
        assert!(acks.ask(true, one).is_some());
    }
}
