//! The task that stores messages and broadcasts what it has stored.
//!
//! One task for the node: messages that wait while a transaction commits go into the next one together, so
//! the cost of making them durable is shared, and what is stored in order is broadcast in order.

use std::sync::Arc;

use fanout::Target;
use shared::limits::{CHAT_BATCH_MAX, CHAT_QUEUE_MAX};
use shared::names::Namespace;
use tokio::sync::{mpsc, oneshot};

use super::events::Message;
use super::order::Orders;
use super::store::{self, Draft};
use crate::context::Context;
use crate::error::AppError;
use crate::socket;

/// The way to the task.
#[derive(Debug)]
pub(super) struct Ledger {
    queue: mpsc::Sender<Entry>,
}

struct Entry {
    namespace: Namespace,
    draft: Draft,
    stored: oneshot::Sender<Result<Message, AppError>>,
}

impl Ledger {
    pub(super) fn start(context: Context, orders: Arc<Orders>) -> Self {
        let (queue, entries) = mpsc::channel(CHAT_QUEUE_MAX);
        let tasks = context.tasks.clone();
        // Not ended by the node's stop but by its last sender: what was accepted is stored.
        drop(tasks.spawn(run(context, orders, entries)));
        Self { queue }
    }

    /// Stores a message and broadcasts it; answers when both are done.
    ///
    /// # Errors
    /// [`AppError::Limited`] when too many wait, [`AppError::Unavailable`] when it could not be stored; then
    /// nobody was told of it.
    pub(super) async fn append(&self, namespace: &Namespace, draft: Draft) -> Result<Message, AppError> {
        let (stored, answer) = oneshot::channel();
        let entry = Entry { namespace: namespace.clone(), draft, stored };
        if self.queue.try_send(entry).is_err() {
            return Err(AppError::Limited("Too many messages, try again".into(), 1));
        }
        answer.await.map_err(|error| AppError::internal(&error))?
    }
}

async fn run(context: Context, orders: Arc<Orders>, mut entries: mpsc::Receiver<Entry>) {
    let mut batch = Vec::with_capacity(CHAT_BATCH_MAX);
    while entries.recv_many(&mut batch, CHAT_BATCH_MAX).await > 0 {
        let mut drafts = Vec::with_capacity(batch.len());
        let mut waiting = Vec::with_capacity(batch.len());
        for Entry { namespace, draft, stored } in batch.drain(..) {
            drafts.push(draft);
            waiting.push((namespace, stored));
        }
        let stored = context.records.run(store::append(context.records.pool(), &drafts)).await;
        match stored {
            Err(error) => {
                for (_, sender) in waiting {
                    // A sender that has gone needs no answer.
                    let _ = sender.send(Err(error.clone()));
                }
            }
            Ok(messages) => {
                for ((message, draft), (namespace, sender)) in messages.into_iter().zip(&drafts).zip(waiting)
                {
                    broadcast(&context, &orders, &namespace, (draft, &message)).await;
                    let _ = sender.send(Ok(message));
                }
            }
        }
    }
}

async fn broadcast(
    context: &Context,
    orders: &Orders,
    namespace: &Namespace,
    (draft, message): (&Draft, &Message),
) {
    let room = draft.room.room();
    // Held also where nobody is in the room: whoever enters now must find what is being broadcast.
    let hold = orders.hold(room);
    let mut order = hold.order.lock().await;
    if let Some(last) = order.last {
        if message.seq <= last {
            // The first joiner found it in the records before it could be broadcast.
            return;
        }
        order.last = Some(message.seq);
    }
    let packet = socket::encode(namespace, "new_message", message);
    let target = Target::room(namespace, room.as_str());
    if let Err(error) = context.fanout.broadcast(target, packet).await {
        tracing::warn!(%error, room = %room, "a stored message was not broadcast");
    }
}
