//! The task that stores messages and broadcasts what it has stored.
//!
//! One task for the node: messages that wait while a transaction commits go into the next one together, so
//! the cost of making them durable is shared, and what is stored in order is broadcast in order. What could
//! not be broadcast is broadcast by a job ([`super::catch_up`]): the rooms' members on other nodes would
//! otherwise receive it with the next message only.

use std::sync::Arc;

use fanout::Posted;
use shared::limits::{CHAT_BATCH_MAX, CHAT_QUEUE_MAX};
use shared::names::{Namespace, Room};
use tokio::sync::{mpsc, oneshot};

use super::catch_up::{self, Behind};
use super::events::Message;
use super::store::{self, Draft};
use crate::context::Context;
use crate::error::AppError;

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

impl Ledger {
    /// `behind` gets the rooms whose last message could not be broadcast.
    pub(super) fn start(context: Context, behind: Arc<Behind>) -> Self {
        let (queue, entries) = mpsc::channel(CHAT_QUEUE_MAX);
        let tasks = context.tasks.clone();
        // Not ended by the node's stop but by its last sender: what was accepted is stored.
        drop(tasks.spawn(run(context, behind, entries)));
        Self { queue }
    }

    /// Stores a message and broadcasts it; answers when both are done.
    ///
    /// # Errors
    /// [`AppError::Limited`] when too many wait, [`AppError::Unavailable`] when it could not be stored; then
    /// it is not broadcast either.
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
        // All have their places before the first is waited for.
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

async fn is_broadcast(posted: Posted, room: &Room) -> bool {
    let outcome = posted.outcome().await;
    if let Err(error) = &outcome {
        tracing::debug!(%error, room = %room, "a stored message was not broadcast");
    }
    outcome.is_ok()
}
