//! The task that stores messages and broadcasts them.
//!
//! Each node has one such task. Messages that arrive while a transaction commits share the next transaction, which
//! shares the cost of durability and keeps broadcasts in the stored order. If a broadcast fails, a job repeats it
//! ([`super::catch_up`]); without it, members on other nodes would receive the message only with the next one.

use std::sync::Arc;

use fanout::Posted;
use shared::names::{Namespace, Room};
use tokio::sync::{mpsc, oneshot};

use super::catch_up::{self, Behind};
use super::events::Message;
use super::limits::{CHAT_BATCH_MAX, CHAT_QUEUE_MAX};
use super::store::{self, Draft};
use crate::context::Context;
use crate::error::AppError;

/// Sends messages to the task.
#[derive(Debug)]
pub(super) struct Ledger {
    queue: mpsc::Sender<Entry>,
}

/// A stored message.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) message: Message,
    /// Whether it was also broadcast.
    pub(super) realtime: bool,
}

struct Entry {
    namespace: Namespace,
    draft: Draft,
    stored: oneshot::Sender<Result<Stored, AppError>>,
}

impl Ledger {
    /// Starts the task. `behind` collects the rooms whose last message could not be broadcast.
    pub(super) fn start(context: Context, behind: Arc<Behind>) -> Self {
        let (queue, entries) = mpsc::channel(CHAT_QUEUE_MAX);
        let tasks = context.tasks.clone();
        // The task ends with its last sender, not with the node's stop, so that every accepted message is stored.
        drop(tasks.spawn(run(context, behind, entries)));
        Self { queue }
    }

    /// Stores a message and broadcasts it. Returns when both are done.
    ///
    /// # Errors
    /// [`AppError::Limited`] when too many messages wait, [`AppError::Unavailable`] when the message could not be
    /// stored. In neither case is it broadcast.
    pub(super) async fn append(&self, namespace: &Namespace, draft: Draft) -> Result<Stored, AppError> {
        let (stored, answer) = oneshot::channel();
        let entry = Entry { namespace: namespace.clone(), draft, stored };
        if self.queue.try_send(entry).is_err() {
            return Err(AppError::Limited("Too many messages, try again".into(), 1));
        }
        answer.await.map_err(|error| AppError::internal(&error))?
    }
}

async fn run(context: Context, behind: Arc<Behind>, mut entries: mpsc::Receiver<Entry>) {
    let mut batch = Vec::with_capacity(CHAT_BATCH_MAX);
    while entries.recv_many(&mut batch, CHAT_BATCH_MAX).await > 0 {
        let mut drafts = Vec::with_capacity(batch.len());
        let mut waiting = Vec::with_capacity(batch.len());
        for Entry { namespace, draft, stored } in batch.drain(..) {
            drafts.push(draft);
            waiting.push((namespace, stored));
        }
        let stored = store_all(&context, &drafts).await;
        // Every message gets its place in the order before the first broadcast is awaited.
        let posted: Vec<_> = stored
            .into_iter()
            .zip(&drafts)
            .zip(waiting)
            .map(|((stored, draft), (namespace, sender))| {
                let stored = stored.map(|message| {
                    let posted = catch_up::post(&context, &namespace, (draft.room.room(), &message));
                    (message, posted)
                });
                (stored, draft, namespace, sender)
            })
            .collect();
        for (stored, draft, namespace, sender) in posted {
            let answer = match stored {
                Err(error) => Err(error),
                Ok((message, posted)) => {
                    let realtime = is_broadcast(posted, draft.room.room()).await;
                    if !realtime {
                        behind.add(&context, &namespace, &draft.room);
                    }
                    Ok(Stored { message, realtime })
                }
            };
            // The sender may have disconnected.
            let _ = sender.send(answer);
        }
    }
}

/// Stores messages in one transaction. If the database refuses them, retries each one alone, so that one bad
/// message does not fail the others.
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

async fn is_broadcast(posted: Posted, room: &Room) -> bool {
    let outcome = posted.outcome().await;
    if let Err(error) = &outcome {
        tracing::debug!(%error, room = %room, "a stored message was not broadcast");
    }
    outcome.is_ok()
}
