//! Counts that the node's metrics are made of.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use metrics::Histogram;

/// Counters of this node's fan-out, only ever increased. Added to once for each batch or write, never
/// for each member.
#[derive(Debug)]
pub struct Stats {
    pub(crate) distributions: Distributions,
    pub(crate) broadcasts: AtomicU64,
    pub(crate) deliveries: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) volatile_dropped: AtomicU64,
    pub(crate) overflows: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) packets_sent: AtomicU64,
    pub(crate) writes: AtomicU64,
}

/// What is observed once for each batch of a room.
#[derive(Debug, Clone)]
pub struct Distributions {
    /// Seconds from a batch's first broadcast to its being in every member's outbox.
    pub delivery_lag: Histogram,
    /// Members that a batch went to.
    pub fanout_size: Histogram,
}

impl Distributions {
    /// For tests and tools that look at neither.
    #[must_use]
    pub fn ignored() -> Self {
        Self { delivery_lag: Histogram::noop(), fanout_size: Histogram::noop() }
    }
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Broadcasts made.
    pub broadcasts: u64,
    /// Packets put into outboxes by broadcasts.
    pub deliveries: u64,
    /// Times a room's waiting broadcasts were delivered together.
    pub batches: u64,
    /// Volatile packets that met a client who could not take them.
    pub volatile_dropped: u64,
    /// Outboxes that passed their bounds.
    pub overflows: u64,
    /// Bytes given to transports.
    pub bytes_sent: u64,
    /// Packets given to transports.
    pub packets_sent: u64,
    /// Writes to WebSockets.
    pub writes: u64,
}

impl Stats {
    pub(crate) fn new(distributions: Distributions) -> Self {
        Self {
            distributions,
            broadcasts: AtomicU64::default(),
            deliveries: AtomicU64::default(),
            batches: AtomicU64::default(),
            volatile_dropped: AtomicU64::default(),
            overflows: AtomicU64::default(),
            bytes_sent: AtomicU64::default(),
            packets_sent: AtomicU64::default(),
            writes: AtomicU64::default(),
        }
    }

    pub(crate) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Relaxed);
    }

    /// Reads the counters.
    #[must_use]
    pub fn snapshot(&self) -> StatsSnapshot {
        StatsSnapshot {
            broadcasts: self.broadcasts.load(Relaxed),
            deliveries: self.deliveries.load(Relaxed),
            batches: self.batches.load(Relaxed),
            volatile_dropped: self.volatile_dropped.load(Relaxed),
            overflows: self.overflows.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            packets_sent: self.packets_sent.load(Relaxed),
            writes: self.writes.load(Relaxed),
        }
    }
}
