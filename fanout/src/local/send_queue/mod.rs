//! What waits to be written to one session, and the end that it is written to.
//!
//! The send queue holds whole WebSocket frames whatever the transport, so that what was queued for polling
//! leaves in order through the WebSocket after an upgrade. It owns the write half of the socket: a flusher
//! drains everything that waits into one vectored write, without waking the session's task. The task is
//! woken only when the socket would not take more, or when a parked poll has something to take.
//!
//! Bounded in bytes and packets ([`SendQueueLimits`]); over a bound that writing does not help with, the session is
//! reported once on the overflow channel, what waited is dropped, and nothing is queued any more.

mod state;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Waker;

use bytes::Bytes;
use parking_lot::Mutex;
use shared::eio::without_binary;
use shared::ids::SessionId;
use shared::limits::{OUTBOX_FREE_BYTES, STRANGER_OUTBOX_BYTES, STRANGER_OUTBOX_PACKETS};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::state::{Binary, Queued, Sink, State};
use crate::local::work_list::WorkList;
use crate::stats::Stats;

/// Bounds of every send queue of a node; 0 means none.
#[derive(Debug, Clone, Copy)]
pub struct SendQueueLimits {
    /// Bytes that may wait.
    pub bytes: usize,
    /// Packets that may wait.
    pub packets: usize,
}

/// Bounds of a send queue whose client has not proved who it is.
const NARROW: SendQueueLimits =
    SendQueueLimits { bytes: STRANGER_OUTBOX_BYTES, packets: STRANGER_OUTBOX_PACKETS };

/// What the send queues of one user hold together, beyond what each may hold without asking.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    bytes: AtomicUsize,
}

/// A bounded queue towards one session.
pub struct SendQueue {
    state: Mutex<State>,
    /// In its flusher's list already.
    scheduled: AtomicBool,
    /// The client has not proved who it is: little may wait for it.
    narrow: AtomicBool,
    shared: Arc<Shared>,
    flusher: Arc<WorkList<Arc<Self>>>,
    session: SessionId,
}

/// What all send queues of a node share.
pub(crate) struct Shared {
    pub(crate) limits: SendQueueLimits,
    pub(crate) overflowed: mpsc::Sender<SessionId>,
    pub(crate) stats: Arc<Stats>,
}

/// What the task of a session has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing.
    Open,
    /// The socket would not take everything: when it takes more, call [`SendQueue::resume`].
    Blocked,
    /// The same, and nothing comes after what waits: a client that does not take it is not worth long.
    BlockedAtEnd,
    /// Nothing can be written any more.
    Closed,
}

/// What a GET of a polling session finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled {
    /// Packets, as frames in order.
    Packets(Vec<Bytes>),
    /// Nothing yet; the waker is called when there is.
    Nothing,
    /// The send queue has ended.
    Ended,
}

impl fmt::Debug for SendQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendQueue").field("session", &self.session).finish_non_exhaustive()
    }
}

impl SendQueue {
    pub(crate) fn new(session: SessionId, shared: Arc<Shared>, flusher: Arc<WorkList<Arc<Self>>>) -> Self {
        let (scheduled, narrow) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { state: Mutex::new(State::new()), scheduled, narrow, shared, flusher, session }
    }

    /// The session it belongs to.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// What waits here counts for a user from now on. The first of a session's users stays.
    pub(crate) fn counts_for(&self, quota: &Arc<Quota>) {
        self.state.lock().quota.get_or_insert_with(|| Arc::clone(quota));
    }

    /// Whether only a little may wait ([`STRANGER_OUTBOX_BYTES`], [`STRANGER_OUTBOX_PACKETS`]): until the client has
    /// proved who it is.
    pub fn set_narrow(&self, narrow: bool) {
        self.narrow.store(narrow, Ordering::Relaxed);
    }

    /// From now on binary leaves as text, also what waits already: the client takes no binary frames on its WebSocket.
    pub fn leave_out_binary(&self) {
        self.state.lock().leave_out_binary();
    }

    /// Queues whole packets and sees to it that they are written soon. Never waits.
    pub fn send(self: &Arc<Self>, wire: Bytes, packets: u32) {
        if self.push(wire, packets) {
            self.schedule();
        }
    }

    /// Queues whole packets; the caller flushes ([`Self::flush`]) or schedules. Returns whether that is
    /// needed.
    pub fn push(&self, wire: Bytes, packets: u32) -> bool {
        let mut state = self.state.lock();
        self.push_locked(&mut state, wire, packets)
    }

    /// Queues a packet that may be dropped: it is when the client cannot take it now.
    pub(crate) fn push_volatile(&self, wire: Bytes, packets: u32) -> bool {
        let mut state = self.state.lock();
        let takes = match state.sink {
            Sink::Stream(_) => !state.blocked,
            // Between two GETs a client could take nothing; one volatile packet may wait for the next.
            Sink::Poll => state.task.is_some() || state.first.is_none(),
            Sink::Closed => false,
        };
        if !takes {
            Stats::add(&self.shared.stats.volatile_dropped, packets as usize);
            return false;
        }
        self.push_locked(&mut state, wire, packets)
    }

    /// Queues a control frame ahead of everything that is not partly written, so that a ping is not
    /// stuck behind a backlog.
    pub fn send_first(self: &Arc<Self>, wire: Bytes) {
        let needed = {
            let mut state = self.state.lock();
            if matches!(state.sink, Sink::Closed) || state.overflowed || state.finishing {
                false
            } else {
                state.bytes += wire.len();
                state.packets += 1;
                state.insert_first(Queued { wire, packets: 1 });
                !state.blocked
            }
        };
        if needed {
            self.schedule();
        }
    }

    fn push_locked(&self, state: &mut State, mut wire: Bytes, packets: u32) -> bool {
        if matches!(state.sink, Sink::Closed) || state.overflowed || state.finishing {
            return false;
        }
        if state.binary == Binary::Texts {
            wire = without_binary(&wire).map_or(wire, Bytes::from);
        }
        let added = (wire.len(), packets as usize);
        // A single item is as large as its maker allows; only what piles up is the client's fault.
        if state.first.is_some() && self.is_over(state, added) {
            if matches!(state.sink, Sink::Stream(_)) && !state.blocked {
                // Much has come in one turn of the node: the client is slow only if it does not take that now.
                state.write_out(&self.shared.stats);
            }
            if state.first.is_some() && self.is_over(state, added) {
                return self.overflow(state);
            }
        }
        state.bytes += added.0;
        state.packets += added.1;
        state.insert_last(Queued { wire, packets });
        if state.bytes > OUTBOX_FREE_BYTES && self.is_over_quota(state) {
            return self.overflow(state);
        }
        !state.blocked
    }

    /// Ends the queue and reports the session; nothing is to be written.
    fn overflow(&self, state: &mut State) -> bool {
        state.overflow();
        Stats::add(&self.shared.stats.overflows, 1);
        // When the channel is full the session is found by its next deadline.
        let _ = self.shared.overflowed.try_send(self.session);
        false
    }

    /// Whether all send queues of the user together hold too much, and this one is among those that do.
    fn is_over_quota(&self, state: &mut State) -> bool {
        let per_outbox = self.shared.limits.bytes;
        state.charge();
        if per_outbox == 0 || !state.is_quota_used_up(per_outbox) {
            return false;
        }
        if matches!(state.sink, Sink::Stream(_)) && !state.blocked {
            // As above: who takes it is not slow.
            state.write_out(&self.shared.stats);
        }
        state.bytes > OUTBOX_FREE_BYTES && state.is_quota_used_up(per_outbox)
    }

    /// Whether so many bytes and packets more are too many.
    fn is_over(&self, state: &State, (bytes, packets): (usize, usize)) -> bool {
        let limits = if self.narrow.load(Ordering::Relaxed) { NARROW } else { self.shared.limits };
        (limits.bytes != 0 && state.bytes + bytes > limits.bytes)
            || (limits.packets != 0 && state.packets + packets > limits.packets)
    }

    /// Puts the send queue on its flusher's list.
    pub(crate) fn schedule(self: &Arc<Self>) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            self.flusher.add(Arc::clone(self));
        }
    }

    /// Like [`Self::schedule`] for many: adds to `list` what is to be put on this flusher's list.
    pub(crate) fn schedule_into(self: &Arc<Self>, list: &mut Vec<Arc<Self>>) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            list.push(Arc::clone(self));
        }
    }

    /// The list of the flusher that writes it.
    pub(crate) fn flusher(&self) -> &Arc<WorkList<Arc<Self>>> {
        &self.flusher
    }

    /// Writes what waits, as far as the socket takes it, or wakes the parked poll. Never waits.
    pub fn flush(&self) {
        // Cleared first: what is pushed from here on schedules again.
        self.scheduled.store(false, Ordering::Release);
        let mut state = self.state.lock();
        if !state.blocked {
            state.write_out(&self.shared.stats);
        }
    }

    /// For the session's task, when the socket takes more again.
    pub fn resume(&self) {
        let mut state = self.state.lock();
        state.blocked = false;
        state.write_out(&self.shared.stats);
    }

    /// What the session's task has to wait for.
    #[must_use]
    pub fn status(&self) -> Status {
        let state = self.state.lock();
        match state.sink {
            Sink::Closed => Status::Closed,
            _ if state.blocked && state.finishing => Status::BlockedAtEnd,
            _ if state.blocked => Status::Blocked,
            _ => Status::Open,
        }
    }

    /// Since when the client has taken nothing of what waits for it.
    #[must_use]
    pub fn blocked_since(&self) -> Option<Instant> {
        self.state.lock().blocked_since
    }

    /// Whether it passed its bounds.
    #[must_use]
    pub fn has_overflowed(&self) -> bool {
        self.state.lock().overflowed
    }

    /// Queues bytes that are no packet ahead of everything, before [`Self::attach_stream`]: the answer that opened the
    /// WebSocket, so that it leaves in one write with the first packets.
    pub fn begin_with(&self, bytes: Bytes) {
        let mut state = self.state.lock();
        if !bytes.is_empty() && !matches!(state.sink, Sink::Closed) {
            state.bytes += bytes.len();
            state.insert_first(Queued { wire: bytes, packets: 0 });
        }
    }

    /// Everything from now on goes to this socket, what waits first.
    pub fn attach_stream(&self, stream: OwnedWriteHalf, task: Waker) {
        let mut state = self.state.lock();
        if matches!(state.sink, Sink::Poll) {
            // A poll that is still parked finds that this is no polling session any more.
            state.wake();
            state.sink = Sink::Stream(stream);
            state.task = Some(task);
            state.write_out(&self.shared.stats);
        }
    }

    /// Takes everything for a polling body; with nothing there, `task` is woken when there is.
    pub fn poll_packets(&self, task: &Waker) -> Polled {
        let mut state = self.state.lock();
        if !matches!(state.sink, Sink::Poll) {
            return Polled::Ended;
        }
        if state.first.is_none() {
            if state.finishing || state.overflowed {
                state.sink = Sink::Closed;
                return Polled::Ended;
            }
            state.task = Some(task.clone());
            return Polled::Nothing;
        }
        state.task = None;
        Stats::add(&self.shared.stats.bytes_sent, state.bytes);
        Stats::add(&self.shared.stats.packets_sent, state.packets);
        Polled::Packets(state.take_all())
    }

    /// Queues `last` behind what waits and ends the send queue when it is written. Nothing is queued after it.
    pub fn finish(self: &Arc<Self>, last: Option<Bytes>) {
        let needed = {
            let mut state = self.state.lock();
            if let Some(wire) = last
                && !matches!(state.sink, Sink::Closed)
            {
                state.bytes += wire.len();
                state.packets += 1;
                state.insert_last(Queued { wire, packets: 1 });
            }
            state.finishing = true;
            if state.blocked {
                // The task sees to it that the wait has an end.
                state.wake();
            }
            !state.blocked
        };
        if needed {
            self.schedule();
        }
    }

    /// Ends the send queue now; what waits is dropped.
    pub fn abort(&self) {
        let mut state = self.state.lock();
        state.close();
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    fn queue(bytes: usize, packets: usize) -> (Arc<SendQueue>, mpsc::Receiver<SessionId>, Arc<Stats>) {
        let (overflowed, receiver) = mpsc::channel(4);
        let stats = Arc::new(Stats::new(crate::stats::Distributions::ignored()));
        let shared =
            Shared { limits: SendQueueLimits { bytes, packets }, overflowed, stats: Arc::clone(&stats) };
        let node = shared::ids::NodeId::from_random([0; 4]);
        let session = SessionId::new(node, [0; 16]);
        let queue = SendQueue::new(session, Arc::new(shared), Arc::new(WorkList::new(Arc::default())));
        (Arc::new(queue), receiver, stats)
    }

    fn polled(queue: &SendQueue) -> Polled {
        queue.poll_packets(Waker::noop())
    }

    #[test]
    fn packets_leave_in_the_order_they_were_pushed() {
        let (queue, _overflowed, _) = queue(0, 0);
        for text in ["a", "b", "c"] {
            queue.push(Bytes::from_static(text.as_bytes()), 1);
        }
        assert_eq!(polled(&queue), Polled::Packets(vec!["a".into(), "b".into(), "c".into()]));
        assert_eq!(polled(&queue), Polled::Nothing);
    }

    #[test]
    fn a_bound_in_packets_ends_the_session_once() {
        let (queue, mut overflowed, stats) = queue(0, 2);
        for _ in 0..5 {
            queue.push(Bytes::from_static(b"x"), 1);
        }
        assert!(queue.has_overflowed());
        assert_eq!(overflowed.try_recv(), Ok(queue.session()));
        assert!(overflowed.try_recv().is_err());
        assert_eq!(stats.snapshot().overflows, 1);
        assert_eq!(polled(&queue), Polled::Ended);
    }

    #[tokio::test]
    async fn more_at_once_than_may_wait_is_written_to_a_client_who_takes_it() {
        use tokio::io::AsyncReadExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) =
            tokio::join!(tokio::net::TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut client, (_, write)) = (client.unwrap(), server.unwrap().0.into_split());
        let (queue, mut overflowed, _) = queue(0, 2);
        queue.attach_stream(write, Waker::noop().clone());
        for _ in 0..100 {
            queue.push(Bytes::from_static(b"x"), 1);
        }
        queue.flush();
        assert!(overflowed.try_recv().is_err());
        let mut received = [0; 100];
        client.read_exact(&mut received).await.unwrap();
        // One who takes nothing is found out all the same.
        let much = Bytes::from(vec![b'x'; 1 << 20]);
        for _ in 0..100 {
            queue.push(much.clone(), 1);
        }
        assert_eq!(overflowed.try_recv(), Ok(queue.session()));
    }

    #[test]
    fn an_overflow_that_cannot_be_reported_is_still_found() {
        let (overflowed, _receiver) = mpsc::channel(shared::limits::OVERFLOWS_QUEUED);
        let stats = Arc::new(Stats::new(crate::stats::Distributions::ignored()));
        let limits = SendQueueLimits { bytes: 0, packets: 1 };
        let shared = Arc::new(Shared { limits, overflowed, stats: Arc::clone(&stats) });
        let node = shared::ids::NodeId::from_random([0; 4]);
        let count = shared::limits::OVERFLOWS_QUEUED + 1;
        for at in 0..count {
            let mut entropy = [0; 16];
            entropy[..8].copy_from_slice(&at.to_le_bytes());
            let session = SessionId::new(node, entropy);
            let queue = SendQueue::new(session, Arc::clone(&shared), Arc::new(WorkList::new(Arc::default())));
            queue.push(Bytes::from_static(b"x"), 1);
            queue.push(Bytes::from_static(b"x"), 1);
            assert!(queue.has_overflowed(), "{at}");
        }
        assert_eq!(shared.overflowed.capacity(), 0);
        assert_eq!(stats.snapshot().overflows, count as u64);
    }

    #[test]
    fn a_bound_in_bytes_does_not_refuse_a_single_item() {
        let (queue, _overflowed, _) = queue(4, 0);
        queue.push(Bytes::from_static(b"123456"), 1);
        assert!(!queue.has_overflowed());
        queue.push(Bytes::from_static(b"7"), 1);
        assert!(queue.has_overflowed());
    }

    #[test]
    fn the_outboxes_of_one_user_are_bounded_together() {
        let (limits, packet) =
            (SendQueueLimits { bytes: 1 << 20, packets: 0 }, Bytes::from(vec![b'x'; 1 << 19]));
        let (overflowed, mut receiver) = mpsc::channel(64);
        let stats = Arc::new(Stats::new(crate::stats::Distributions::ignored()));
        let shared = Arc::new(Shared { limits, overflowed, stats });
        let node = shared::ids::NodeId::from_random([0; 4]);
        let quota = Arc::<Quota>::default();
        let queue = |at: u8| {
            let session = SessionId::new(node, [at; 16]);
            let queue = SendQueue::new(session, Arc::clone(&shared), Arc::new(WorkList::new(Arc::default())));
            queue.counts_for(&quota);
            queue
        };
        let queues: Vec<_> = (0..40).map(queue).collect();
        for queue in &queues {
            queue.push(packet.clone(), 1);
        }
        let (kept, ended): (Vec<_>, Vec<_>) = queues.iter().partition(|queue| !queue.has_overflowed());
        assert_eq!(quota.bytes.load(Ordering::Relaxed), kept.len() * (packet.len() - OUTBOX_FREE_BYTES));
        assert!(quota.bytes.load(Ordering::Relaxed) <= shared::limits::USER_OUTBOXES_FACTOR << 20);
        assert!(kept.len() >= 16 && ended.len() >= 16, "{} kept", kept.len());
        assert_eq!(receiver.try_recv(), Ok(ended[0].session()));
        // What is taken makes room, and what is small always has it.
        assert!(matches!(kept[0].poll_packets(Waker::noop()), Polled::Packets(_)));
        let next = queue(99);
        next.push(packet, 1);
        queues.iter().filter(|queue| !queue.has_overflowed()).for_each(|queue| {
            queue.push(Bytes::from_static(b"small"), 1);
        });
        assert!(!next.has_overflowed());
        drop((queues, next));
        assert_eq!(quota.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn little_may_wait_for_a_stranger() {
        let (queue, mut overflowed, _) = queue(0, 0);
        queue.set_narrow(true);
        for _ in 0..STRANGER_OUTBOX_PACKETS {
            queue.push(Bytes::from_static(b"x"), 1);
        }
        queue.set_narrow(false);
        queue.push(Bytes::from_static(b"x"), 1);
        assert!(!queue.has_overflowed());
        queue.set_narrow(true);
        queue.push(Bytes::from_static(b"x"), 1);
        assert_eq!(overflowed.try_recv(), Ok(queue.session()));
    }

    #[test]
    fn volatile_packets_are_dropped_when_something_waits_and_no_poll_is_parked() {
        let (queue, _overflowed, stats) = queue(0, 0);
        queue.push_volatile(Bytes::from_static(b"a"), 1);
        queue.push_volatile(Bytes::from_static(b"b"), 1);
        assert_eq!(stats.snapshot().volatile_dropped, 1);
        assert_eq!(polled(&queue), Polled::Packets(vec!["a".into()]));
        assert_eq!(polled(&queue), Polled::Nothing);
        queue.push_volatile(Bytes::from_static(b"c"), 1);
        queue.push_volatile(Bytes::from_static(b"d"), 1);
        assert_eq!(polled(&queue), Polled::Packets(vec!["c".into(), "d".into()]));
    }

    #[test]
    fn binary_leaves_as_text_where_binary_frames_are_not_taken() {
        let (queue, _overflowed, _) = queue(0, 0);
        let (mut binary, mut text) = (Vec::new(), Vec::new());
        shared::ws::push_frame(&mut binary, shared::ws::OP_BINARY, &[1, 2, 3]);
        shared::ws::push_frame(&mut text, shared::ws::OP_TEXT, b"bAQID");
        let (binary, text) = (Bytes::from(binary), Bytes::from(text));
        queue.push(binary.clone(), 1);
        queue.leave_out_binary();
        queue.push(binary, 1);
        assert_eq!(polled(&queue), Polled::Packets(vec![text.clone(), text]));
        assert_eq!(queue.state.lock().bytes, 0);
    }

    #[test]
    fn a_ping_overtakes_a_backlog() {
        let (queue, _overflowed, _) = queue(0, 0);
        queue.push(Bytes::from_static(b"a"), 1);
        queue.push(Bytes::from_static(b"b"), 1);
        queue.send_first(Bytes::from_static(b"ping"));
        assert_eq!(polled(&queue), Polled::Packets(vec!["ping".into(), "a".into(), "b".into()]));
    }

    #[test]
    fn what_waited_is_taken_before_the_end() {
        let (queue, _overflowed, _) = queue(0, 0);
        queue.push(Bytes::from_static(b"a"), 1);
        queue.finish(Some(Bytes::from_static(b"end")));
        queue.push(Bytes::from_static(b"late"), 1);
        assert_eq!(polled(&queue), Polled::Packets(vec!["a".into(), "end".into()]));
        assert_eq!(polled(&queue), Polled::Ended);
    }
}
