//! Broadcasts to rooms whose order an app keeps, on their way to that app.
//!
//! They pass through one queue, in the order in which this node received them. Once an app keeps a room's order, the room's
//! other broadcasts pass through the queue as well, so that none overtakes another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shared::ids::SocketId;
use shared::names::{Namespace, UserId};
use shared::sio::Encoded;
use tokio::sync::{mpsc, oneshot};

/// A broadcast to a room whose order an app keeps: the app delivers it ([`crate::Fanout::deliver_sequenced`]).
#[derive(Debug, Clone)]
pub struct Sequenced {
    /// The namespace.
    pub namespace: Namespace,
    /// The room.
    pub room: String,
    /// The place that the app has given it; without one it follows what arrived before it.
    pub sequence: Option<i64>,
    /// The packet to deliver.
    pub packet: Encoded,
    /// Members who do not receive it.
    pub(crate) except: Except,
    /// Dropped for clients that cannot take it now.
    pub(crate) volatile: bool,
}

/// Members of the room who do not receive a broadcast.
#[derive(Debug, Clone, Default)]
pub(crate) struct Except {
    pub(crate) socket: Option<SocketId>,
    pub(crate) user: Option<UserId>,
    /// Members of any of these rooms.
    pub(crate) rooms: Vec<String>,
}

enum InOrder {
    Broadcast(Box<Sequenced>),
    /// Dropped when everything before it has been passed to its app.
    Fence(oneshot::Sender<()>),
}

/// The sending half of the queue.
#[derive(Debug)]
pub(crate) struct SequencedSender {
    queue: mpsc::Sender<InOrder>,
    /// Broadcasts that have not been passed to their apps.
    waiting: Arc<AtomicUsize>,
}

/// The receiving half: broadcasts for apps, in the order in which they arrived.
#[derive(Debug)]
pub struct SequencedReceiver {
    queue: mpsc::Receiver<InOrder>,
    waiting: Arc<AtomicUsize>,
    /// The last broadcast may still be on its way to its app.
    has_given: bool,
}

impl std::fmt::Debug for InOrder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Broadcast(_) => "Broadcast",
            Self::Fence(_) => "Fence",
        })
    }
}

/// A queue of at most `max` broadcasts.
pub(crate) fn queue(max: usize) -> (SequencedSender, SequencedReceiver) {
    let (sender, receiver) = mpsc::channel(max);
    let waiting = Arc::<AtomicUsize>::default();
    let sender = SequencedSender { queue: sender, waiting: Arc::clone(&waiting) };
    (sender, SequencedReceiver { queue: receiver, waiting, has_given: false })
}

impl SequencedSender {
    /// Queues a broadcast; returns it where the queue is full.
    pub(crate) fn try_send(&self, broadcast: Box<Sequenced>) -> Result<(), Box<Sequenced>> {
        let Ok(place) = self.queue.try_reserve() else { return Err(broadcast) };
        self.waiting.fetch_add(1, Ordering::AcqRel);
        place.send(InOrder::Broadcast(broadcast));
        Ok(())
    }

    /// As [`Self::try_send`], waiting until there is space.
    ///
    /// # Errors
    /// The node is stopping.
    pub(crate) async fn send(&self, broadcast: Box<Sequenced>) -> Result<(), ()> {
        let place = self.queue.reserve().await.map_err(|_| ())?;
        self.waiting.fetch_add(1, Ordering::AcqRel);
        place.send(InOrder::Broadcast(broadcast));
        Ok(())
    }

    /// Whether broadcasts have not been passed to their apps yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Waits until everything queued before has been passed to its app.
    pub(crate) async fn all_given(&self) {
        if !self.is_waiting() {
            return;
        }
        let (fence, passed) = oneshot::channel();
        if self.queue.send(InOrder::Fence(fence)).await.is_ok() {
            // A dropped fence has passed: without a receiver the node is stopping.
            let _ = passed.await;
        }
    }
}

impl SequencedReceiver {
    /// The next broadcast; `None` after the last one. The caller has passed the previous one to its app. Cancel safe.
    pub async fn recv(&mut self) -> Option<Sequenced> {
        if std::mem::take(&mut self.has_given) {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        loop {
            match self.queue.recv().await? {
                InOrder::Broadcast(broadcast) => {
                    self.has_given = true;
                    return Some(*broadcast);
                }
                InOrder::Fence(fence) => drop(fence),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use shared::sio::Event;

    use super::*;

    fn broadcast(sequence: i64) -> Box<Sequenced> {
        let event = Event { namespace: "/", name: "e", args: &[], ack: None, attachments: &[] };
        Box::new(Sequenced {
            namespace: Namespace::parse("/").unwrap(),
            room: "r".into(),
            sequence: Some(sequence),
            packet: event.encode(),
            except: Except::default(),
            volatile: false,
        })
    }

    #[tokio::test]
    async fn a_fence_passes_when_the_apps_have_the_broadcasts_before_it() {
        let (sender, mut receiver) = queue(10);
        assert_eq!(sender.all_given().now_or_never(), Some(()));
        for sequence in [1, 2] {
            sender.try_send(broadcast(sequence)).unwrap();
        }
        let mut given = Box::pin(sender.all_given());
        assert!(given.as_mut().now_or_never().is_none());
        for sequence in [1, 2] {
            assert_eq!(receiver.recv().await.unwrap().sequence, Some(sequence));
            assert!(given.as_mut().now_or_never().is_none(), "its app has only just got it");
        }
        assert!(receiver.recv().now_or_never().is_none());
        assert_eq!(given.now_or_never(), Some(()));
        assert_eq!(sender.all_given().now_or_never(), Some(()));
    }

    #[tokio::test]
    async fn a_full_queue_returns_the_broadcast() {
        let (sender, mut receiver) = queue(1);
        sender.try_send(broadcast(1)).unwrap();
        assert_eq!(sender.try_send(broadcast(2)).unwrap_err().sequence, Some(2));
        assert_eq!(receiver.recv().await.unwrap().sequence, Some(1));
        drop(receiver);
        assert_eq!(sender.all_given().now_or_never(), Some(()));
    }
}
