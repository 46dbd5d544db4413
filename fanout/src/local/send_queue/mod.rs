//! Packets that wait for one session, and the sink that they are written to.
//!
//! The send queue holds whole WebSocket frames for any transport, so that packets queued for polling leave in order through the
//! WebSocket after an upgrade. It owns the write half of the socket: a flusher drains the queue into one vectored write without
//! waking the session's task. The task wakes only when the socket takes no more, or when a parked poll has packets to take.
//!
//! The queue is bounded in bytes and packets ([`SendQueueLimits`]). Over a bound that writing does not relieve, the session is
//! reported once on the overflow channel, waiting packets are dropped, and nothing is queued any more.

mod held;
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

/// Bounds of every send queue of a node; 0: no limit.
#[derive(Debug, Clone, Copy)]
pub struct SendQueueLimits {
    /// Bytes that may wait.
    pub bytes: usize,
    /// Packets that may wait.
    pub packets: usize,
}

/// Bounds of a send queue whose client has not authenticated yet.
const NARROW: SendQueueLimits =
    SendQueueLimits { bytes: STRANGER_OUTBOX_BYTES, packets: STRANGER_OUTBOX_PACKETS };

/// The bytes that the send queues of one user hold together, beyond what each may hold on its own.
#[derive(Debug, Default)]
pub(crate) struct Quota {
    bytes: AtomicUsize,
}

/// A bounded queue towards one session.
pub struct SendQueue {
    state: Mutex<State>,
    /// It is in its flusher's list already.
    scheduled: AtomicBool,
    /// The client has not authenticated: only a little may wait for it.
    narrow: AtomicBool,
    shared: Arc<Shared>,
    flusher: Arc<WorkList<Arc<Self>>>,
    session: SessionId,
}

/// Shared by all send queues of a node.
pub(crate) struct Shared {
    pub(crate) limits: SendQueueLimits,
    pub(crate) overflowed: mpsc::Sender<SessionId>,
    pub(crate) stats: Arc<Stats>,
}

/// What a session's task has to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing.
    Open,
    /// The socket is full: call [`SendQueue::resume`] when it takes more.
    Blocked,
    /// The same, and nothing follows the waiting packets: a client that does not take them is not worth a long wait.
    BlockedAtEnd,
    /// Nothing can be written any more.
    Closed,
}

/// The result of a polling session's GET.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled {
    /// Packets, as frames in order.
    Packets(Vec<Bytes>),
    /// Nothing yet; the waker is called later.
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

    /// Counts the waiting packets for a user from now on. The first of a session's users stays.
    pub(crate) fn counts_for(&self, quota: &Arc<Quota>) {
        self.state.lock().quota.get_or_insert_with(|| Arc::clone(quota));
    }

    /// Sets whether only a little may wait ([`STRANGER_OUTBOX_BYTES`], [`STRANGER_OUTBOX_PACKETS`]), until the client has
    /// authenticated.
    pub fn set_narrow(&self, narrow: bool) {
        self.narrow.store(narrow, Ordering::Relaxed);
    }

    /// From now on binary leaves as text, including waiting packets: the client accepts no binary frames on its WebSocket.
    pub fn leave_out_binary(&self) {
        self.state.lock().leave_out_binary();
    }

    /// Queues whole packets and schedules the write. Never waits.
    pub fn send(self: &Arc<Self>, wire: Bytes, packets: u32) {
        if self.push(wire, packets) {
            self.schedule();
        }
    }

    /// Queues whole packets; the caller flushes ([`Self::flush`]) or schedules. Returns whether that is needed.
    pub fn push(&self, wire: Bytes, packets: u32) -> bool {
        let mut state = self.state.lock();
        self.push_locked(&mut state, wire, packets)
    }

    /// Queues a packet, unless the client cannot take it now.
    pub(crate) fn push_volatile(&self, wire: Bytes, packets: u32) -> bool {
        let mut state = self.state.lock();
        let takes = match state.sink {
            Sink::Stream(_) => !state.blocked,
            // Between two GETs a client takes nothing; one volatile packet may wait for the next GET.
            Sink::Poll => state.task.is_some() || state.first.is_none(),
            Sink::Closed => false,
        };
        if !takes {
            Stats::add(&self.shared.stats.volatile_dropped, packets as usize);
            return false;
        }
        self.push_locked(&mut state, wire, packets)
    }

    /// Queues a control frame ahead of everything that is not partly written, so that a ping does not wait behind a backlog.
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
        if let Some(held) = &mut state.held {
            if held.has_room_for(added) {
                held.push(Queued { wire, packets });
                return false;
            }
            // A late answer must not cost the client its connection.
            state.end_hold();
        }
        // A single item may be as large as its maker allows; only a backlog is the client's fault.
        if state.first.is_some() && self.is_over(state, added) {
            if matches!(state.sink, Sink::Stream(_)) && !state.blocked {
                // Much has arrived in one turn of the node: the client is slow only if it does not take that now.
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

    /// Ends the queue and reports the session. There is nothing to write.
    fn overflow(&self, state: &mut State) -> bool {
        state.overflow();
        Stats::add(&self.shared.stats.overflows, 1);
        // If the channel is full, the session's next deadline finds it.
        let _ = self.shared.overflowed.try_send(self.session);
        false
    }

    /// Whether all send queues of the user together hold too much, and this one contributes to it.
    fn is_over_quota(&self, state: &mut State) -> bool {
        let per_outbox = self.shared.limits.bytes;
        state.charge();
        if per_outbox == 0 || !state.is_quota_used_up(per_outbox) {
            return false;
        }
        if matches!(state.sink, Sink::Stream(_)) && !state.blocked {
            // As above: a client that takes it is not slow.
            state.write_out(&self.shared.stats);
        }
        state.bytes > OUTBOX_FREE_BYTES && state.is_quota_used_up(per_outbox)
    }

    /// Whether this many more bytes and packets exceed the bounds.
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

    /// Like [`Self::schedule`] for many: adds the queue to `list` instead of its flusher's list.
    pub(crate) fn schedule_into(self: &Arc<Self>, list: &mut Vec<Arc<Self>>) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            list.push(Arc::clone(self));
        }
    }

    /// The list of its flusher.
    pub(crate) fn flusher(&self) -> &Arc<WorkList<Arc<Self>>> {
        &self.flusher
    }

    /// Writes as much as the socket takes, or wakes the parked poll. Never waits.
    pub fn flush(&self) {
        // Cleared first: a later push schedules again.
        self.scheduled.store(false, Ordering::Release);
        let mut state = self.state.lock();
        if !state.blocked {
            state.write_out(&self.shared.stats);
        }
    }

    /// Called by the session's task when the socket takes more again.
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

    /// Since when the client has taken none of the waiting packets.
    #[must_use]
    pub fn blocked_since(&self) -> Option<Instant> {
        self.state.lock().blocked_since
    }

    /// Whether it exceeded its bounds.
    #[must_use]
    pub fn has_overflowed(&self) -> bool {
        self.state.lock().overflowed
    }

    /// Queues the HTTP answer that opens the WebSocket ahead of everything, before [`Self::attach_stream`], so that it leaves in
    /// one write with the first packets. Returns whether it is queued; false when nothing can be written any more.
    pub fn begin_with(&self, answer: &Bytes) -> bool {
        self.state.lock().insert_answer(answer)
    }

    /// Sends everything from now on to this socket, waiting packets first.
    pub fn attach_stream(&self, stream: OwnedWriteHalf) {
        let mut state = self.state.lock();
        if matches!(state.sink, Sink::Poll) {
            // A parked poll finds that this session no longer polls.
            state.wake();
            state.sink = Sink::Stream(stream);
            state.write_out(&self.shared.stats);
        }
    }

    /// Wakes the socket's task from now on whenever [`Self::status`] changes. The task looks at the status after this call,
    /// so it misses no earlier change.
    pub fn attach_task(&self, task: Waker) {
        let mut state = self.state.lock();
        if !matches!(state.sink, Sink::Poll) {
            state.task = Some(task);
        }
    }

    /// Takes everything for a polling body; if there is nothing, `task` is woken later.
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

    /// Makes everything that is queued from now on wait behind the answer to the client's last request, until the hold is
    /// dropped or [`Self::end_hold`] is called; only control frames go ahead. The waiting packets are bounded; over the bound
    /// ([`OUTBOX_FREE_BYTES`], `HELD_PACKETS_MAX`) the hold ends. A session has one hold at a time.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Hold {
        let mut state = self.state.lock();
        if !matches!(state.sink, Sink::Closed) && !state.overflowed && !state.finishing {
            state.held.get_or_insert_default();
        }
        drop(state);
        Hold { queue: Arc::clone(self) }
    }

    /// Ends a hold early: waiting packets leave without the answer. Safe to call without a hold.
    pub fn end_hold(self: &Arc<Self>) {
        let needed = {
            let mut state = self.state.lock();
            let has_held = state.held.is_some();
            state.end_hold();
            has_held && !state.blocked
        };
        if needed {
            self.schedule();
        }
    }

    /// Queues a packet of the answer that a hold waits for: behind the previous packets of the answer, ahead of everything else
    /// that was queued since the hold began. Without a hold, or if it has ended early, the packet leaves behind everything
    /// queued before.
    pub fn answer(self: &Arc<Self>, mut wire: Bytes) {
        {
            let mut state = self.state.lock();
            if state.binary == Binary::Texts {
                wire = without_binary(&wire).map_or(wire, Bytes::from);
            }
            if let Some(held) = &mut state.held {
                return held.push_answer(Queued { wire, packets: 1 });
            }
        }
        self.send(wire, 1);
    }

    /// Queues `last` behind the waiting packets, and ends the send queue when it is written. Nothing is queued after it.
    pub fn finish(self: &Arc<Self>, last: Option<Bytes>) {
        let needed = {
            let mut state = self.state.lock();
            state.end_hold();
            if let Some(wire) = last
                && !matches!(state.sink, Sink::Closed)
            {
                state.bytes += wire.len();
                state.packets += 1;
                state.insert_last(Queued { wire, packets: 1 });
            }
            state.finishing = true;
            if state.blocked {
                // The task limits the wait.
                state.wake();
            }
            !state.blocked
        };
        if needed {
            self.schedule();
        }
    }

    /// Ends the send queue now; waiting packets are dropped.
    pub fn abort(&self) {
        let mut state = self.state.lock();
        state.close();
    }
}

/// Queued packets wait behind an answer while this lives ([`SendQueue::hold`]).
#[derive(Debug)]
pub struct Hold {
    queue: Arc<SendQueue>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.queue.end_hold();
    }
}

#[cfg(test)]
mod tests;
