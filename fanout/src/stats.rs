//! Counters behind the node's metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use metrics::Histogram;

/// Counters of this node's fan-out, which only increase. Updated once for each join, batch or write, never for each
/// member of a broadcast.
#[derive(Debug)]
pub struct Stats {
    pub(crate) distributions: Distributions,
    pub(crate) joins: AtomicU64,
    pub(crate) broadcasts: AtomicU64,
    pub(crate) deliveries: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) volatile_dropped: AtomicU64,
    pub(crate) overflows: AtomicU64,
    pub(crate) bytes_sent: AtomicU64,
    pub(crate) packets_sent: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) published: AtomicU64,
    pub(crate) heard: AtomicU64,
    pub(crate) redis_errors: AtomicU64,
    pub(crate) redis_reconnects: AtomicU64,
    pub(crate) redis_malformed: AtomicU64,
    pub(crate) lease_losses: AtomicU64,
    pub(crate) resyncs: AtomicU64,
    pub(crate) canary_lag_us: AtomicU64,
    /// When the oldest canary under way was sent; 0: none is.
    pub(crate) canary_waits_us: AtomicU64,
}

/// Observed once for each batch of a room.
#[derive(Debug, Clone)]
pub struct Distributions {
    /// Seconds from a batch's first broadcast until every member's send queue has it.
    pub delivery_lag: Histogram,
    /// Members that received a batch.
    pub fanout_size: Histogram,
}

impl Distributions {
    /// For tests and tools that read neither.
    #[must_use]
    pub fn ignored() -> Self {
        Self { delivery_lag: Histogram::noop(), fanout_size: Histogram::noop() }
    }
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Sockets that entered a room, without those that only watch it.
    pub joins: u64,
    /// Broadcasts made.
    pub broadcasts: u64,
    /// Packets put into send queues by broadcasts.
    pub deliveries: u64,
    /// Times a room's waiting broadcasts were delivered together.
    pub batches: u64,
    /// Volatile packets dropped for clients that could not take them.
    pub volatile_dropped: u64,
    /// Send queues that exceeded their bounds.
    pub overflows: u64,
    /// Bytes given to transports.
    pub bytes_sent: u64,
    /// Packets given to transports.
    pub packets_sent: u64,
    /// Writes to WebSockets.
    pub writes: u64,
    /// Messages published on Redis.
    pub published: u64,
    /// Messages received from Redis, including the canary.
    pub heard: u64,
    /// Commands that Redis refused, failed or did not answer in time.
    pub redis_errors: u64,
    /// Connections to Redis that were lost or could not be made.
    pub redis_reconnects: u64,
    /// Messages from Redis that could not be read or delivered.
    pub redis_malformed: u64,
    /// Leases found lost.
    pub lease_losses: u64,
    /// Times that `muster:resync` was sent to a room, or to all sockets of a namespace.
    pub resyncs: u64,
    /// Microseconds that the last canary took through Redis and back, or the age of one that has not come back.
    pub canary_lag_us: u64,
    /// The node is in a cluster.
    pub clustered: bool,
    /// Commands and subscriptions work, and the lease is held.
    pub redis_up: bool,
    /// Channels subscribed.
    pub channels: usize,
}

impl Stats {
    pub(crate) fn new(distributions: Distributions) -> Self {
        Self {
            distributions,
            joins: AtomicU64::default(),
            broadcasts: AtomicU64::default(),
            deliveries: AtomicU64::default(),
            batches: AtomicU64::default(),
            volatile_dropped: AtomicU64::default(),
            overflows: AtomicU64::default(),
            bytes_sent: AtomicU64::default(),
            packets_sent: AtomicU64::default(),
            writes: AtomicU64::default(),
            published: AtomicU64::default(),
            heard: AtomicU64::default(),
            redis_errors: AtomicU64::default(),
            redis_reconnects: AtomicU64::default(),
            redis_malformed: AtomicU64::default(),
            lease_losses: AtomicU64::default(),
            resyncs: AtomicU64::default(),
            canary_lag_us: AtomicU64::default(),
            canary_waits_us: AtomicU64::default(),
        }
    }

    pub(crate) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Relaxed);
    }

    /// Reads the counters.
    #[must_use]
    pub fn snapshot(&self) -> StatsSnapshot {
        StatsSnapshot {
            joins: self.joins.load(Relaxed),
            broadcasts: self.broadcasts.load(Relaxed),
            deliveries: self.deliveries.load(Relaxed),
            batches: self.batches.load(Relaxed),
            volatile_dropped: self.volatile_dropped.load(Relaxed),
            overflows: self.overflows.load(Relaxed),
            bytes_sent: self.bytes_sent.load(Relaxed),
            packets_sent: self.packets_sent.load(Relaxed),
            writes: self.writes.load(Relaxed),
            published: self.published.load(Relaxed),
            heard: self.heard.load(Relaxed),
            redis_errors: self.redis_errors.load(Relaxed),
            redis_reconnects: self.redis_reconnects.load(Relaxed),
            redis_malformed: self.redis_malformed.load(Relaxed),
            lease_losses: self.lease_losses.load(Relaxed),
            resyncs: self.resyncs.load(Relaxed),
            ..StatsSnapshot::default()
        }
    }
}
