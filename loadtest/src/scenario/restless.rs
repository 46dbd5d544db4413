//! Traffic whose members lose their connection and return, as phones do.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use anyhow::Result;

use crate::check::Faults;
use crate::client::{Driver, Outgoing, Swarm};
use crate::latency::Latencies;
use crate::load::Work;
use crate::measure::nanos;
use crate::sys;
use crate::traffic::Traffic;
use crate::xorshift::Xorshift;

/// How long a refused client waits before the next attempt; the stock client's first pause.
const PAUSE: Duration = Duration::from_secs(1);

/// A message sent this long ago has arrived or is lost.
const SETTLES_IN: Duration = Duration::from_secs(1);

/// Traffic, and its absent members.
pub(super) struct Restless {
    pub(super) traffic: Traffic,
    /// How many rooms are published to, from the first on.
    pub(super) published: usize,
    /// Members cut off per second; 0: only those that are cut explicitly.
    per_s: u64,
    /// Since when, and how many were cut off.
    started_ns: u64,
    cut: u64,
    /// When each connection was cut off; 0 while it is connected.
    left_ns: Vec<u64>,
    /// Connections and the times of their next attempts, the earliest first.
    waiting: VecDeque<(u64, usize)>,
    /// How many have not returned yet.
    pub(super) away: usize,
    /// When the last one returned.
    pub(super) last_back_ns: u64,
    /// From being cut off to being a member again.
    pub(super) back: Latencies,
    /// When the traffic is checked next.
    look_ns: u64,
    random: Xorshift,
}

impl Restless {
    /// Publishes to the first `published` rooms, and cuts `per_s` members off each second from now
    /// on.
    pub(super) fn new(
        traffic: Traffic,
        connections: usize,
        published: usize,
        per_s: u64,
        seed: u64,
    ) -> Result<Self> {
        Ok(Self {
            traffic,
            published,
            per_s,
            started_ns: sys::now_ns(),
            cut: 0,
            left_ns: vec![0; connections],
            waiting: VecDeque::new(),
            away: 0,
            last_back_ns: 0,
            back: Latencies::new()?,
            look_ns: 0,
            random: Xorshift::new(seed),
        })
    }

    /// Cuts a member off.
    pub(super) fn cut(&mut self, swarm: &mut Swarm, conn: usize) {
        self.leave(conn, sys::now_ns());
        swarm.cut(conn);
    }

    /// Lets a member return that was cut off.
    pub(super) fn dial(&mut self, swarm: &mut Swarm, conn: usize) {
        if !swarm.dial_again(conn) {
            self.waiting.push_back((sys::now_ns() + nanos(PAUSE), conn));
        }
    }

    /// All faults, assuming that nothing more arrives.
    pub(super) fn faults(&self, swarm: &Swarm) -> Faults {
        let faults = self.traffic.faults(swarm.tally().disconnected);
        Faults { refused: self.away as u64, ..faults }
    }

    fn leave(&mut self, conn: usize, at_ns: u64) {
        self.traffic.leave(conn);
        if self.left_ns[conn] == 0 {
            self.left_ns[conn] = at_ns;
            self.away += 1;
        }
    }

    /// A random present member that does not publish; `None` if a few attempts find none.
    fn present_member(&mut self) -> Option<usize> {
        const TRIES: usize = 16;
        (0..TRIES).find_map(|_| {
            let conn = usize::try_from(self.random.next() >> 16).unwrap_or_default() % self.left_ns.len();
            (self.left_ns[conn] == 0 && !self.traffic.publishes(conn)).then_some(conn)
        })
    }
}

impl Driver for Restless {
    fn event(&mut self, conn: usize, array: &[u8], at_ns: u64, out: &mut Outgoing) {
        self.traffic.event(conn, array, at_ns, out);
    }

    fn ready(&mut self, conn: usize, at_ns: u64, _out: &mut Outgoing) {
        let left = std::mem::take(&mut self.left_ns[conn]);
        if left > 0 {
            self.away -= 1;
            self.last_back_ns = at_ns;
            self.back.record(at_ns - left);
            self.traffic.come_back(conn);
        }
    }

    /// A fault if the member was present; then it returns as the stock client would.
    fn gone(&mut self, conn: usize, at_ns: u64, _orderly: bool) {
        self.leave(conn, at_ns);
        self.waiting.push_back((at_ns + nanos(PAUSE), conn));
    }
}

impl Work for Restless {
    fn lanes(&self) -> usize {
        self.published
    }

    fn conn(&self, lane: usize) -> usize {
        self.traffic.conn(lane)
    }

    fn issue(&mut self, lane: usize, sent_ns: u64, out: &mut Outgoing) {
        self.traffic.issue(lane, sent_ns, out);
    }

    fn refill(&mut self, refill: bool) {
        self.traffic.refill(refill);
        if !refill {
            // The load ends: no more members leave, and absent ones return.
            self.per_s = 0;
        }
    }

    fn set_window(&mut self, window: Range<u64>) {
        self.traffic.set_window(window);
    }

    fn issued(&self) -> u64 {
        self.traffic.issued()
    }

    fn done(&self) -> u64 {
        self.traffic.done()
    }

    fn missing(&self) -> u64 {
        self.traffic.missing() + self.away as u64
    }

    fn latencies(&mut self) -> &mut Latencies {
        self.traffic.latencies()
    }

    fn chores(&mut self, swarm: &mut Swarm, now_ns: u64) -> Result<u64> {
        if now_ns >= self.look_ns {
            self.look_ns = now_ns + nanos(SETTLES_IN);
            self.traffic.look();
        }
        while let Some(&(due, conn)) = self.waiting.front()
            && due <= now_ns
        {
            self.waiting.pop_front();
            // It may have been cut off and dialled again since.
            if swarm.is_closed(conn) {
                self.dial(swarm, conn);
            }
        }
        let again = self.waiting.front().map_or(u64::MAX, |&(due, _)| due);
        if self.per_s == 0 {
            return Ok(again);
        }
        loop {
            let due = self.started_ns + self.cut * 1_000_000_000 / self.per_s;
            if due > now_ns {
                return Ok(again.min(due));
            }
            self.cut += 1;
            if let Some(conn) = self.present_member() {
                self.cut(swarm, conn);
                self.dial(swarm, conn);
            }
        }
    }
}
