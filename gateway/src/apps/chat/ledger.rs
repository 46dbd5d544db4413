//! The task that stores messages and broadcasts what it has stored.
//!
//! One task for the node: messages that wait while a transaction commits go into the next one together, so
//! the cost of making them durable is shared, and what is stored in order is broadcast in order. What could
//! not be broadcast is tried again: the rooms' members on other nodes would else hear of it with the next
//! message only.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use fanout::{Posted, Target};
use shared::limits::{CHAT_BATCH_MAX, CHAT_QUEUE_MAX, CHAT_UNTOLD_MAX, CHAT_UNTOLD_RETRY_MS};
use shared::names::{Namespace, Room};
use tokio::sync::{mpsc, oneshot};

use super::events::Message;
use super::store::{self, Draft};
use crate::context::Context;
use crate::error::AppError;
use crate::socket;

/// The way to the task.
#[derive(Debug)]
pub(super) struct Ledger {
    queue: mpsc::Sender<Entry>,
}

/// A message that is stored.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) message: Message,
    /// It was broadcast as well.
    pub(super) realtime: bool,
}

struct Entry {
    namespace: Namespace,
    draft: Draft,
    stored: oneshot::Sender<Result<Stored, AppError>>,
}

/// The last message of a room that could not be broadcast: when it arrives, the members' nodes read those
/// before it from the records.
#[derive(Default)]
struct Untold {
    last: HashMap<Room, (Namespace, Message)>,
    order: VecDeque<Room>,
}

impl Ledger {
    pub(super) fn start(context: Context) -> Self {
        let (queue, entries) = mpsc::channel(CHAT_QUEUE_MAX);
        let tasks = context.tasks.clone();
        // Not ended by the node's stop but by its last sender: what was accepted is stored.
        drop(tasks.spawn(run(context, entries)));
        Self { queue }
    }

    /// Stores a message and broadcasts it; answers when both are done.
    ///
    /// # Errors
    /// [`AppError::Limited`] when too many wait, [`AppError::Unavailable`] when it could not be stored; then
    /// nobody was told of it.
    pub(super) async fn append(&self, namespace: &Namespace, draft: Draft) -> Result<Stored, AppError> {
        let (stored, answer) = oneshot::channel();
        let entry = Entry { namespace: namespace.clone(), draft, stored };
        if self.queue.try_send(entry).is_err() {
            return Err(AppError::Limited("Too many messages, try again".into(), 1));
        }
        answer.await.map_err(|error| AppError::internal(&error))?
    }
}

async fn run(context: Context, mut entries: mpsc::Receiver<Entry>) {
    let mut batch = Vec::with_capacity(CHAT_BATCH_MAX);
    let mut untold = Untold::default();
    loop {
        let retry = async {
            if untold.order.is_empty() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(Duration::from_millis(CHAT_UNTOLD_RETRY_MS)).await;
        };
        tokio::select! {
            count = entries.recv_many(&mut batch, CHAT_BATCH_MAX) => {
                if count == 0 {
                    return;
                }
            }
            () = retry => {
                untold.retry(&context).await;
                continue;
            }
        }
        let mut drafts = Vec::with_capacity(batch.len());
        let mut waiting = Vec::with_capacity(batch.len());
        for Entry { namespace, draft, stored } in batch.drain(..) {
            drafts.push(draft);
            waiting.push((namespace, stored));
        }
        let stored = store_all(&context, &drafts).await;
        // All have their places before the first is waited for.
        let posted: Vec<_> = stored
            .into_iter()
            .zip(&drafts)
            .zip(waiting)
            .map(|((stored, draft), (namespace, sender))| {
                let stored = stored.map(|message| {
                    let posted = post(&context, &namespace, (draft.room.room(), &message));
                    (message, posted)
                });
                (stored, draft, namespace, sender)
            })
            .collect();
        for (stored, draft, namespace, sender) in posted {
            let answer = match stored {
                Err(error) => Err(error),
                Ok((message, posted)) => {
                    let realtime = was_told(posted, draft.room.room()).await;
                    if !realtime {
                        untold.add(&namespace, draft.room.room(), &message);
                    }
                    Ok(Stored { message, realtime })
                }
            };
            // A sender that has gone needs no answer.
            let _ = sender.send(answer);
        }
    }
}

/// Stores messages in one transaction. When the database answers that it will not, each is tried alone: one
/// that it refuses must not fail the others.
async fn store_all(context: &Context, drafts: &[Draft]) -> Vec<Result<Message, AppError>> {
    let records = &context.records;
    let together = records.run(store::append(records.pool(), drafts)).await;
    let error = match together {
        Ok(messages) => return messages.into_iter().map(Ok).collect(),
        Err(error) => error,
    };
    if drafts.len() == 1 || !records.is_reachable() {
        return drafts.iter().map(|_| Err(error.clone())).collect();
    }
    let mut stored = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let alone = records.run(store::append(records.pool(), std::slice::from_ref(draft))).await;
        stored.push(alone.and_then(|mut messages| messages.pop().ok_or(AppError::Internal)));
    }
    stored
}

impl Untold {
    fn add(&mut self, namespace: &Namespace, room: &Room, message: &Message) {
        if self.last.insert(room.clone(), (namespace.clone(), message.clone())).is_none() {
            self.order.push_back(room.clone());
        }
        if self.order.len() > CHAT_UNTOLD_MAX
            && let Some(room) = self.order.pop_front()
        {
            self.last.remove(&room);
        }
    }

    /// Tells what it can, the longest waiting first.
    async fn retry(&mut self, context: &Context) {
        while let Some(room) = self.order.front() {
            if let Some((namespace, message)) = self.last.get(room)
                && !was_told(post(context, namespace, (room, message)), room).await
            {
                return;
            }
            self.last.remove(room);
            self.order.pop_front();
        }
    }
}

fn post(context: &Context, namespace: &Namespace, (room, message): (&Room, &Message)) -> Posted {
    let target = Target::room(namespace, room.as_str()).sequenced(message.seq);
    socket::post(context, target, "new_message", message)
}

async fn was_told(posted: Posted, room: &Room) -> bool {
    let outcome = posted.outcome().await;
    if let Err(error) = &outcome {
        tracing::debug!(%error, room = %room, "a stored message was not broadcast");
    }
    outcome.is_ok()
}
