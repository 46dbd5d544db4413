//! Packets that wait behind an answer that is not ready yet
//! ([`SendQueue::hold`](super::SendQueue::hold)).

use std::collections::VecDeque;

use shared::limits::{HELD_PACKETS_MAX, OUTBOX_FREE_BYTES};

use super::state::Queued;

/// Packets that were queued since a hold began, and the answer that goes before them.
#[derive(Default)]
pub(super) struct Held {
    /// The answer's packets, in order.
    answers: VecDeque<Queued>,
    /// Packets that follow the answer, in order.
    events: VecDeque<Queued>,
    bytes: usize,
    packets: usize,
}

impl Held {
    /// Whether this many more bytes and packets may wait.
    pub(super) fn has_room_for(&self, (bytes, packets): (usize, usize)) -> bool {
        self.bytes + bytes <= OUTBOX_FREE_BYTES && self.packets + packets <= HELD_PACKETS_MAX
    }

    /// Adds a packet that waits for the answer.
    pub(super) fn push(&mut self, item: Queued) {
        self.bytes += item.wire.len();
        self.packets += item.packets as usize;
        self.events.push_back(item);
    }

    /// Adds a part of the answer.
    pub(super) fn push_answer(&mut self, item: Queued) {
        self.answers.push_back(item);
    }

    /// All packets, in the order in which they leave.
    pub(super) fn into_items(self) -> impl Iterator<Item = Queued> {
        self.answers.into_iter().chain(self.events)
    }
}
