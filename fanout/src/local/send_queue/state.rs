//! The queue of one session, and the sink that it is written to.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;

use bytes::Bytes;
use shared::eio::without_binary;
use shared::limits::{OUTBOX_FREE_BYTES, USER_OUTBOXES_FACTOR};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::time::Instant;

use super::Quota;
use super::held::Held;
use crate::stats::Stats;

/// Slices of one vectored write; further slices wait for the next iteration.
const SLICES_MAX: usize = 64;

/// Whole packets in one buffer.
pub(super) struct Queued {
    pub(super) wire: Bytes,
    pub(super) packets: u32,
}

/// How binary data leaves through a WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    /// In binary frames.
    Frames,
    /// As text: the client accepts no binary frames.
    Texts,
}

/// Where packets are written.
pub(super) enum Sink {
    /// Long-polling: bytes wait until a GET takes them.
    Poll,
    /// A WebSocket's write half; dropping it closes our direction.
    Stream(OwnedWriteHalf),
    /// Nothing can be written any more.
    Closed,
}

/// The state of a send queue. Everything happens under the send queue's lock.
pub(super) struct State {
    pub(super) sink: Sink,
    /// The socket is full; the session's task waits until it takes more.
    pub(super) blocked: bool,
    pub(super) overflowed: bool,
    /// Close our direction once everything is written.
    pub(super) finishing: bool,
    pub(super) binary: Binary,
    /// Bytes of the first item that are already written.
    pub(super) written: usize,
    pub(super) bytes: usize,
    pub(super) packets: usize,
    /// Inline, so that a send queue that never holds two items needs no allocation.
    pub(super) first: Option<Queued>,
    pub(super) rest: VecDeque<Queued>,
    /// Packets that wait behind an answer that is not ready yet. They count neither in `bytes` nor in `packets`.
    pub(super) held: Option<Box<Held>>,
    pub(super) task: Option<Waker>,
    pub(super) blocked_since: Option<Instant>,
    /// The bytes that the user's send queues hold together.
    pub(super) quota: Option<Arc<Quota>>,
    /// This queue's part of them.
    charged: usize,
}

impl Drop for State {
    fn drop(&mut self) {
        self.bytes = 0;
        self.charge();
    }
}

impl State {
    /// An empty queue for polling.
    pub(super) fn new() -> Self {
        Self {
            sink: Sink::Poll,
            blocked: false,
            overflowed: false,
            finishing: false,
            binary: Binary::Frames,
            written: 0,
            bytes: 0,
            packets: 0,
            first: None,
            rest: VecDeque::new(),
            held: None,
            task: None,
            blocked_since: None,
            quota: None,
            charged: 0,
        }
    }

    /// Updates the user's quota with the bytes beyond `OUTBOX_FREE_BYTES`. Call it after `bytes` has grown beyond that,
    /// and after it has shrunk.
    pub(super) fn charge(&mut self) {
        let Some(quota) = &self.quota else { return };
        let due = self.bytes.saturating_sub(OUTBOX_FREE_BYTES);
        if due > self.charged {
            quota.bytes.fetch_add(due - self.charged, Ordering::Relaxed);
        } else if due < self.charged {
            quota.bytes.fetch_sub(self.charged - due, Ordering::Relaxed);
        }
        self.charged = due;
    }

    /// Whether the user's send queues hold more than they may, given that one may hold `per_outbox`.
    pub(super) fn is_quota_used_up(&self, per_outbox: usize) -> bool {
        let max = per_outbox.saturating_mul(USER_OUTBOXES_FACTOR);
        self.quota.as_ref().is_some_and(|quota| quota.bytes.load(Ordering::Relaxed) > max)
    }

    /// As [`Self::charge`], where `bytes` can only have shrunk.
    fn discharge(&mut self) {
        if self.charged != 0 {
            self.charge();
        }
    }

    /// Whether the first item must stay first: the client has a part of it, or it is the answer that opens the WebSocket.
    fn has_begun(&self) -> bool {
        self.written != 0 || self.first.as_ref().is_some_and(|first| first.packets == 0)
    }

    pub(super) fn insert_first(&mut self, item: Queued) {
        let has_begun = self.has_begun();
        match self.first.take() {
            None => self.first = Some(item),
            Some(first) if has_begun => {
                self.first = Some(first);
                self.rest.push_front(item);
            }
            Some(first) => {
                self.first = Some(item);
                self.rest.push_front(first);
            }
        }
    }

    /// Puts the answer that opens the WebSocket in front of everything. Returns whether it was queued.
    pub(super) fn insert_answer(&mut self, answer: &Bytes) -> bool {
        if !matches!(self.sink, Sink::Poll) {
            return false;
        }
        if !answer.is_empty() {
            self.bytes += answer.len();
            self.insert_first(Queued { wire: answer.clone(), packets: 0 });
        }
        true
    }

    pub(super) fn insert_last(&mut self, item: Queued) {
        if self.first.is_none() {
            self.first = Some(item);
        } else {
            self.rest.push_back(item);
        }
    }

    /// Ends a hold: queues its packets, the answer first.
    pub(super) fn end_hold(&mut self) {
        let Some(held) = self.held.take() else { return };
        for mut item in held.into_items() {
            if self.binary == Binary::Texts
                && let Some(wire) = without_binary(&item.wire)
            {
                item.wire = wire.into();
            }
            self.bytes += item.wire.len();
            self.packets += item.packets as usize;
            self.insert_last(item);
        }
        if self.bytes > OUTBOX_FREE_BYTES {
            self.charge();
        }
    }

    /// Makes binary leave as text from now on. Nothing is partly written, because the queue has no socket yet.
    pub(super) fn leave_out_binary(&mut self) {
        self.binary = Binary::Texts;
        for item in self.first.iter_mut().chain(&mut self.rest) {
            if let Some(wire) = without_binary(&item.wire) {
                self.bytes += wire.len() - item.wire.len();
                item.wire = wire.into();
            }
        }
    }

    pub(super) fn take_all(&mut self) -> Vec<Bytes> {
        self.bytes = 0;
        self.packets = 0;
        self.written = 0;
        self.discharge();
        let first = self.first.take();
        let rest = std::mem::take(&mut self.rest);
        first.into_iter().chain(rest).map(|item| item.wire).collect()
    }

    /// Drops waiting packets, except an item that the client has a part of: a close frame can only follow whole frames.
    pub(super) fn overflow(&mut self) {
        self.overflowed = true;
        (self.rest, self.held) = (VecDeque::new(), None);
        if !self.has_begun() {
            self.first = None;
        }
        self.bytes = self.first.as_ref().map_or(0, |first| first.wire.len() - self.written);
        self.packets = self.first.as_ref().map_or(0, |first| first.packets as usize);
        self.discharge();
        self.wake();
    }

    pub(super) fn close(&mut self) {
        self.sink = Sink::Closed;
        self.blocked = false;
        (self.blocked_since, self.held) = (None, None);
        drop(self.take_all());
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        match self.sink {
            // A parked poll is answered once.
            Sink::Poll => {
                if let Some(task) = self.task.take() {
                    task.wake();
                }
            }
            Sink::Stream(_) | Sink::Closed => {
                if let Some(task) = &self.task {
                    task.wake_by_ref();
                }
            }
        }
    }

    pub(super) fn write_out(&mut self, stats: &Stats) {
        if matches!(self.sink, Sink::Poll) {
            if self.first.is_some() || self.finishing {
                self.wake();
            }
            return;
        }
        while self.first.is_some() {
            match self.write_some() {
                Ok(count) => {
                    Stats::add(&stats.writes, 1);
                    Stats::add(&stats.bytes_sent, count);
                    self.blocked_since = None;
                    Stats::add(&stats.packets_sent, self.advance(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    self.blocked_since.get_or_insert_with(Instant::now);
                    self.wake();
                    return;
                }
                // The reader gets the same error from its own half.
                Err(_) => return self.close(),
            }
        }
        if self.finishing {
            self.close();
        }
    }

    fn write_some(&self) -> io::Result<usize> {
        let (Sink::Stream(stream), Some(first)) = (&self.sink, &self.first) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let head = first.wire.get(self.written..).unwrap_or_default();
        if self.rest.is_empty() {
            return write(stream, |socket| socket.send(head), || stream.try_write(head));
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let items = std::iter::once(head).chain(self.rest.iter().map(|item| &*item.wire));
        let mut used = 0;
        for (slot, bytes) in slices.iter_mut().zip(items) {
            *slot = IoSlice::new(bytes);
            used += 1;
        }
        let slices = slices.get(..used).unwrap_or_default();
        write(stream, |socket| socket.send_vectored(slices), || stream.try_write_vectored(slices))
    }

    /// Removes `count` written bytes from the queue. Returns how many packets they completed.
    fn advance(&mut self, count: usize) -> usize {
        self.bytes -= count;
        let mut left = self.written + count;
        let (mut packets, mut has_opened) = (0, false);
        while let Some(first) = &self.first {
            if left < first.wire.len() {
                break;
            }
            left -= first.wire.len();
            has_opened |= first.packets == 0;
            packets += first.packets as usize;
            self.first = self.rest.pop_front();
        }
        self.written = left;
        self.packets -= packets;
        self.discharge();
        if self.first.is_none() && (has_opened || self.rest.capacity() > SLICES_MAX) {
            // A backlog is written, or the answer that opened the WebSocket and what waited behind it. Few clients have
            // packets wait again, so the memory is freed.
            self.rest = VecDeque::new();
        }
        packets
    }
}

/// Writes to the socket directly, and through the runtime only if the socket is full, so that the runtime watches for
/// space. Asking the runtime first would touch its record of the socket for every delivery: two more cold cache lines (4
/// % of the server's CPU in a room of 1,000 at 20 broadcasts a second).
fn write(
    stream: &OwnedWriteHalf,
    directly: impl Fn(SockRef<'_>) -> io::Result<usize>,
    watched: impl FnOnce() -> io::Result<usize>,
) -> io::Result<usize> {
    let stream: &TcpStream = stream.as_ref();
    loop {
        match directly(SockRef::from(stream)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return watched(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}
