//! The tasks that flush batches from rooms to send queues and from send queues to sockets.
//!
//! A broadcast only appends to its room's batch. The room's flusher runs after the tasks that were ready
//! before it, so everything that arrived in one round of the scheduler leaves in one write for each
//! connection. There is one flusher for each worker. A room and a send queue each belong to one of them, so
//! two flushers never write to the same connection.

use std::sync::Arc;

use shared::limits::DELIVERIES_PER_TURN;
use tokio::sync::Notify;

use crate::local::room::Room;
use crate::local::send_queue::SendQueue;
use crate::local::work_list::WorkList;

/// Writes before the flusher yields to the worker's other tasks: a big room must not delay reads and
/// heartbeats. At about 2 µs a write this is a quarter of a millisecond.
const WRITES_PER_TURN: usize = 128;

/// The rooms and send queues to flush, and the task that does it.
#[derive(Debug)]
pub struct Flusher {
    rooms: Arc<WorkList<Arc<Room>>>,
    queues: Arc<WorkList<Arc<SendQueue>>>,
    work: Arc<Notify>,
}

impl Default for Flusher {
    fn default() -> Self {
        let work = Arc::<Notify>::default();
        let rooms = Arc::new(WorkList::new(Arc::clone(&work)));
        let queues = Arc::new(WorkList::new(Arc::clone(&work)));
        Self { rooms, queues, work }
    }
}

impl Flusher {
    /// The list of rooms with a batch.
    pub(crate) fn rooms(&self) -> &Arc<WorkList<Arc<Room>>> {
        &self.rooms
    }

    /// The list of send queues to write.
    pub(crate) fn queues(&self) -> &Arc<WorkList<Arc<SendQueue>>> {
        &self.queues
    }

    /// Flushes until the task is dropped. A drop loses only what is dropped with the node.
    pub async fn run(&self) {
        let mut rooms: Vec<Arc<Room>> = Vec::new();
        let mut queues = Vec::new();
        loop {
            self.work.notified().await;
            loop {
                self.rooms.take(&mut rooms);
                let mut delivered = 0;
                for room in rooms.drain(..) {
                    delivered += room.flush();
                    if delivered >= DELIVERIES_PER_TURN {
                        delivered = 0;
                        tokio::task::yield_now().await;
                    }
                }
                self.queues.take(&mut queues);
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
