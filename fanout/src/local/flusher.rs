//! The tasks that carry batches from rooms to send queues and from send queues to sockets.
//!
//! A broadcast only appends to its room's batch. The flusher of that room runs when the tasks that were
//! ready before it have had their turn, so everything that arrived in one round of the scheduler leaves in
//! one write for each connection. There is one flusher for each worker; a room and a send queue each belong to
//! one of them, so no write of a connection is ever attempted by two.

use std::sync::Arc;

use parking_lot::Mutex;
use shared::limits::DELIVERIES_PER_TURN;
use tokio::sync::Notify;

use crate::local::room::Room;
use crate::local::send_queue::SendQueue;

/// Writes between two looks at what else the worker has to do: a big room must not hold up reads and
/// heartbeats. At some 2 µs a write this is a quarter of a millisecond.
const WRITES_PER_TURN: usize = 128;

/// What is to be carried, and the task that carries it.
#[derive(Debug, Default)]
pub struct Flusher {
    rooms: Mutex<Vec<Arc<Room>>>,
    queues: Mutex<Vec<Arc<SendQueue>>>,
    work: Notify,
}

impl Flusher {
    pub(crate) fn add_room(&self, room: Arc<Room>) {
        let first = {
            let mut rooms = self.rooms.lock();
            rooms.push(room);
            rooms.len() == 1
        };
        if first {
            self.work.notify_one();
        }
    }

    pub(crate) fn add_queue(&self, queue: Arc<SendQueue>) {
        let first = {
            let mut queues = self.queues.lock();
            queues.push(queue);
            queues.len() == 1
        };
        if first {
            self.work.notify_one();
        }
    }

    pub(crate) fn add_queues(&self, added: &mut Vec<Arc<SendQueue>>) {
        if added.is_empty() {
            return;
        }
        self.queues.lock().append(added);
        self.work.notify_one();
    }

    /// Carries until the task is dropped. Dropping it loses nothing that is not dropped with the node.
    pub async fn run(&self) {
        let mut rooms: Vec<Arc<Room>> = Vec::new();
        let mut queues = Vec::new();
        loop {
            self.work.notified().await;
            loop {
                std::mem::swap(&mut *self.rooms.lock(), &mut rooms);
                let mut delivered = 0;
                for room in rooms.drain(..) {
                    delivered += room.flush();
                    if delivered >= DELIVERIES_PER_TURN {
                        delivered = 0;
                        tokio::task::yield_now().await;
                    }
                }
                std::mem::swap(&mut *self.queues.lock(), &mut queues);
                if queues.is_empty() {
                    break;
                }
                for turn in queues.chunks(WRITES_PER_TURN) {
                    for queue in turn {
                        queue.flush();
                    }
                    tokio::task::yield_now().await;
                }
                queues.clear();
            }
        }
    }
}
