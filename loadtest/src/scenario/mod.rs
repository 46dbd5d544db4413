//! The scenarios, one file each, and what they share: a prepared swarm and a stopwatch.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use crate::cli::TargetArgs;
use crate::client::Swarm;
use crate::client::script::{Rooms, Script};
use crate::procfs::{self, Machine, Server, Switches};
use crate::sys;
use crate::traffic::Traffic;

pub(crate) mod fanout;
pub(crate) mod idle;

/// From this share of a core on, the tester may be what is measured.
const TOO_BUSY_PERCENT: f64 = 90.0;
/// From this share of a core on, what others do on the machine disturbs the figures.
const DISTURBED_PERCENT: f64 = 12.0;

/// A swarm without connections and the traffic for it.
fn prepare(target: &TargetArgs, connections: usize, room_size: usize) -> Result<(Swarm, Traffic)> {
    let rooms = Rooms::new(&target.room_prefix, room_size);
    let seed = random();
    let mut key = [0; 16];
    key[..8].copy_from_slice(&seed.to_ne_bytes());
    key[8..].copy_from_slice(&random().to_ne_bytes());
    let run = u32::try_from(random() >> 32)?;
    let traffic = Traffic::new(target, &rooms, connections, run)?;
    let script = Script::new(target, rooms, key)?;
    let addresses = target.url.iter().map(|url| url.address).collect();
    let swarm = Swarm::new(addresses, script, seed)?;
    Ok((swarm, traffic))
}

/// A different number every time: the standard library seeds its hash maps with one.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// Waits, with publishing at an end, until every message has arrived, or nothing more has for `patience`; then a moment
/// longer, for what should not arrive at all.
fn drain(swarm: &mut Swarm, traffic: &mut Traffic, patience: Duration) -> Result<()> {
    const LINGER_NS: u64 = 200_000_000;
    let expected = traffic.expected();
    let mut seen = traffic.received;
    let mut deadline = sys::now_ns() + nanos(patience);
    while traffic.delivered < expected && sys::now_ns() < deadline {
        swarm.turn(traffic, deadline)?;
        if traffic.received != seen {
            seen = traffic.received;
            deadline = sys::now_ns() + nanos(patience);
        }
    }
    pass(swarm, traffic, Duration::from_nanos(LINGER_NS))
}

/// Serves the connections for a while.
fn pass(swarm: &mut Swarm, traffic: &mut Traffic, time: Duration) -> Result<()> {
    let end = sys::now_ns() + nanos(time);
    while sys::now_ns() < end {
        swarm.turn(traffic, end)?;
    }
    Ok(())
}

/// A duration from the command line as clock ticks; the longest there are for more than 500 years.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// All clocks and counters at one instant.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at_ns: u64,
    server_cpu_ns: u64,
    own_cpu_ns: u64,
    switches: Switches,
    machine: Machine,
    frames: u64,
    received: u64,
    /// Messages published so far.
    broadcasts: u64,
}

impl Reading {
    fn read(server: &Server, swarm: &Swarm, traffic: &Traffic) -> Result<Self> {
        Ok(Self {
            switches: server.switches()?,
            machine: procfs::machine()?,
            frames: swarm.tally().frames,
            received: traffic.received,
            broadcasts: traffic.sent(),
            own_cpu_ns: sys::own_cpu_ns()?,
            server_cpu_ns: server.cpu_ns()?,
            at_ns: sys::now_ns(),
        })
    }
}

/// What happened between two instants.
#[derive(Clone, Copy, Debug, Serialize)]
struct Span {
    seconds: f64,
    deliveries: u64,
    frames: u64,
    /// The server's CPU time; `None` without `--server-pid`, as the next three.
    server_cpu_us: Option<f64>,
    server_core_percent: Option<f64>,
    switches_voluntary: Option<u64>,
    switches_involuntary: Option<u64>,
    own_cpu_us: f64,
    own_core_percent: f64,
    /// CPU time of processes other than the server and this one, in percent of one core. Without
    /// `--server-pid` the server is among the others.
    others_core_percent: f64,
    steal_percent: f64,
}

impl Span {
    fn between(start: &Reading, end: &Reading, server: &Server) -> Self {
        let wall = (end.at_ns - start.at_ns).max(1) as f64;
        let server_cpu = end.server_cpu_ns.saturating_sub(start.server_cpu_ns) as f64;
        let own_cpu = (end.own_cpu_ns - start.own_cpu_ns) as f64;
        let machine = end.machine.busy_ns.saturating_sub(start.machine.busy_ns) as f64;
        let steal = end.machine.steal_ns.saturating_sub(start.machine.steal_ns) as f64;
        let if_known = |value: f64| server.is_known().then_some(value);
        let switches = |of: fn(&Switches) -> u64| {
            let count = of(&end.switches).saturating_sub(of(&start.switches));
            server.is_known().then_some(count)
        };
        Self {
            seconds: wall / 1e9,
            deliveries: end.received - start.received,
            frames: end.frames - start.frames,
            server_cpu_us: if_known(server_cpu / 1e3),
            server_core_percent: if_known(100.0 * server_cpu / wall),
            switches_voluntary: switches(|switches| switches.voluntary),
            switches_involuntary: switches(|switches| switches.involuntary),
            own_cpu_us: own_cpu / 1e3,
            own_core_percent: 100.0 * own_cpu / wall,
            others_core_percent: 100.0 * (machine - server_cpu - own_cpu).max(0.0) / wall,
            steal_percent: 100.0 * steal / wall,
        }
    }

    fn warnings(&self, server: &Server) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.own_core_percent > TOO_BUSY_PERCENT {
            warnings.push(format!(
                "the tester used {:.0} % of its core: the rate may be its own and not the server's",
                self.own_core_percent
            ));
        }
        if server.is_known() && self.others_core_percent + self.steal_percent > DISTURBED_PERCENT {
            warnings.push(format!(
                "others used {:.0} % of a core ({:.1} % stolen): the figures are disturbed",
                self.others_core_percent + self.steal_percent,
                self.steal_percent
            ));
        }
        warnings
    }
}

/// What belongs to every warning about events that the tester did not cause.
fn warn_of_others(traffic: &Traffic, warnings: &mut Vec<String>) {
    if let Some(first) = &traffic.first_other {
        warnings.push(format!("{} events that no publish explains, the first: {first}", traffic.other));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instant(at_s: u64, server_s: u64, own_s: u64, busy_s: u64) -> Reading {
        const NS: u64 = 1_000_000_000;
        Reading {
            at_ns: at_s * NS,
            server_cpu_ns: server_s * NS,
            own_cpu_ns: own_s * NS,
            switches: Switches::default(),
            machine: Machine { busy_ns: busy_s * NS, steal_ns: 0 },
            frames: 10 * at_s,
            received: 5 * at_s,
            broadcasts: at_s,
        }
    }

    #[test]
    fn a_span_is_the_difference_and_leaves_the_rest_to_others() {
        let server = Server::new(&[1]);
        let span = Span::between(&instant(10, 1, 1, 10), &instant(20, 6, 4, 20), &server);
        assert!((span.seconds - 10.0).abs() < 1e-9);
        assert_eq!((span.frames, span.deliveries), (100, 50));
        assert_eq!(span.server_cpu_us, Some(5e6));
        assert_eq!(span.server_core_percent, Some(50.0));
        assert!((span.own_core_percent - 30.0).abs() < 1e-9);
        assert!((span.others_core_percent - 20.0).abs() < 1e-9);
        assert_eq!(span.warnings(&server).len(), 1);
    }

    #[test]
    fn without_a_pid_the_server_is_not_measured() {
        let server = Server::new(&[]);
        let span = Span::between(&instant(0, 0, 0, 0), &instant(1, 0, 1, 1), &server);
        assert_eq!(span.server_cpu_us, None);
        assert_eq!(span.switches_voluntary, None);
        let warnings = span.warnings(&server);
        assert!(warnings.len() == 1 && warnings[0].contains("100 %"));
    }

    #[test]
    fn random_numbers_differ() {
        assert_ne!(random(), random());
    }
}
