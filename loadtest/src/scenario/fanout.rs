//! `fanout`: one publisher per room, and every delivery checked. `cross`: the same over several nodes.
//!
//! Closed loop (`--in-flight`): each publisher keeps so many broadcasts outstanding; this finds the
//! highest rate, and its latencies are those of a saturated server. Open loop (`--rate`): broadcasts
//! are due on a schedule and latency counts from when a broadcast was due, whether or not the tester
//! or the server were behind by then, so that a stall shows in full.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use hdrhistogram::Histogram;
use serde::Serialize;

use crate::check::Faults;
use crate::cli::{TargetArgs, parse_duration, parse_rate};
use crate::client::Swarm;
use crate::procfs::Server;
use crate::report::{self, Report, short, short_or_dash};
use crate::scenario::{Reading, Span, drain, nanos, prepare, warn_of_others};
use crate::sys;
use crate::traffic::Traffic;

const NS_PER_S: u64 = 1_000_000_000;

/// The flags of `loadtest fanout` and `loadtest cross`.
#[derive(Args, Debug)]
pub(crate) struct FanoutArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,

    /// How many rooms.
    #[arg(long, default_value_t = 1)]
    rooms: usize,

    /// Members of each room, its publisher included.
    #[arg(long, default_value_t = 1000)]
    members: usize,

    /// Broadcasts each publisher keeps outstanding.
    #[arg(long, default_value_t = 1, conflicts_with = "rate")]
    in_flight: usize,

    /// Broadcasts a second on a schedule, all rooms together, instead of a number in flight.
    #[arg(long, value_parser = parse_rate)]
    rate: Option<u64>,

    /// Time before the measured window.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    warmup: Duration,

    /// The measured window.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    duration: Duration,

    /// How long nothing may arrive at the end before what is missing counts as lost.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    patience: Duration,
}

/// Percentiles in milliseconds.
#[derive(Debug, Serialize)]
struct Percentiles {
    p50: f64,
    p90: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

impl Percentiles {
    fn of(latency: &Histogram<u64>) -> Self {
        let at = |quantile| latency.value_at_quantile(quantile) as f64 / 1e6;
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: at(1.0) }
    }

    fn in_words(&self) -> String {
        let Self { p50, p90, p99, p999, max } = self;
        format!("{p50:.2} / {p90:.2} / {p99:.2} / {p999:.2} / {max:.2} ms")
    }
}

#[derive(Debug, Serialize)]
struct FanoutReport {
    scenario: &'static str,
    rooms: usize,
    members: usize,
    nodes: usize,
    payload: usize,
    /// `None` at a fixed rate.
    in_flight: Option<usize>,
    rate: Option<u64>,
    connects_per_s: f64,
    /// Over the whole run, warm-up included, as the faults are.
    broadcasts_sent: u64,
    broadcasts_per_s: f64,
    deliveries_per_s: f64,
    server_cpu_us_per_delivery: Option<f64>,
    own_cpu_us_per_frame: f64,
    /// On the publisher's node.
    latency_ms: Percentiles,
    /// On the other nodes; `None` where there is one.
    crossing_ms: Option<Percentiles>,
    /// How far behind its schedule a broadcast was written; part of the latencies. Fixed rate only.
    lateness_ms: Option<Percentiles>,
    other_events: u64,
    faults: Faults,
    #[serde(flatten)]
    span: Span,
    #[serde(skip)]
    warnings: Vec<String>,
}

impl Report for FanoutReport {
    fn title(&self) -> String {
        let Self { scenario, rooms, members, payload, .. } = self;
        let load = match (self.rate, self.in_flight) {
            (Some(rate), _) => format!("{rate} broadcasts/s"),
            (None, in_flight) => format!("{} in flight per room", in_flight.unwrap_or_default()),
        };
        let nodes = if self.nodes > 1 { format!(" on {} nodes", self.nodes) } else { String::new() };
        format!("{scenario}: {rooms} rooms x {members} members{nodes}, {payload} bytes, {load}")
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let span = &self.span;
        let count = |value: Option<u64>| value.map_or_else(|| "–".to_owned(), |n| n.to_string());
        let mut rows = vec![
            ("broadcasts/s", short(self.broadcasts_per_s)),
            ("deliveries/s", short(self.deliveries_per_s)),
            ("measured", format!("{} deliveries in {:.2} s", span.deliveries, span.seconds)),
            ("server CPU µs/delivery", short_or_dash(self.server_cpu_us_per_delivery)),
            ("server core %", short_or_dash(span.server_core_percent)),
            (
                "server switches vol/invol",
                format!("{} / {}", count(span.switches_voluntary), count(span.switches_involuntary)),
            ),
            ("latency p50/90/99/99.9/max", self.latency_ms.in_words()),
        ];
        if let Some(crossing) = &self.crossing_ms {
            rows.push(("latency on other nodes", crossing.in_words()));
        }
        if let Some(lateness) = &self.lateness_ms {
            rows.push(("written late by", lateness.in_words()));
        }
        rows.extend([
            ("own CPU µs/frame", short(self.own_cpu_us_per_frame)),
            ("own core %", short(span.own_core_percent)),
            ("others / steal core %", format!("{:.1} / {:.1}", span.others_core_percent, span.steal_percent)),
            ("connects/s", short(self.connects_per_s)),
            ("broadcasts in all", self.broadcasts_sent.to_string()),
        ]);
        rows
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn faults(&self) -> &Faults {
        &self.faults
    }
}

/// Runs the scenario; whether the server delivered everything as it must.
pub(crate) fn run(args: &FanoutArgs) -> Result<bool> {
    measure("fanout", args)
}

/// Runs it over several nodes, each of which must have members of every room.
pub(crate) fn run_across(args: &FanoutArgs) -> Result<bool> {
    let nodes = args.target.url.len();
    if nodes < 2 || args.members < nodes {
        bail!("cross needs two nodes or more (repeat --url), and a member of each room on each of them");
    }
    measure("cross", args)
}

fn measure(scenario: &'static str, args: &FanoutArgs) -> Result<bool> {
    if args.rooms == 0 || args.members == 0 || args.in_flight == 0 || args.rate == Some(0) {
        bail!("--rooms, --members, --in-flight and --rate must be at least 1");
    }
    let connections = args.rooms * args.members;
    let (mut swarm, mut traffic) = prepare(&args.target, connections, args.members)?;
    let server = Server::new(&args.target.server_pid);
    // Asked for once before all the work, so that a wrong pid is told at once.
    server.cpu_ns()?;
    let connecting = swarm.connect(connections, args.target.ramp)?;

    let start = sys::now_ns();
    let open = start + nanos(args.warmup);
    let close = open + nanos(args.duration);
    traffic.window = open..close;
    let mut load = Load::new(args, start)?;
    load.run(&mut swarm, &mut traffic, open)?;
    let before = Reading::read(&server, &swarm, &traffic)?;
    load.run(&mut swarm, &mut traffic, close)?;
    let after = Reading::read(&server, &swarm, &traffic)?;
    traffic.refill = false;
    drain(&mut swarm, &mut traffic, args.patience)?;

    let span = Span::between(&before, &after, &server);
    let mut warnings = span.warnings(&server);
    warn_of_others(&traffic, &mut warnings);
    let tally = swarm.tally();
    warnings.extend(tally.first_disconnect.iter().map(|reason| format!("disconnected: {reason}")));
    let report = FanoutReport {
        scenario,
        rooms: args.rooms,
        members: args.members,
        nodes: args.target.url.len(),
        payload: args.target.payload,
        in_flight: args.rate.is_none().then_some(args.in_flight),
        rate: args.rate,
        connects_per_s: connections as f64 / connecting.as_secs_f64(),
        broadcasts_sent: traffic.sent(),
        broadcasts_per_s: (after.broadcasts - before.broadcasts) as f64 / span.seconds,
        deliveries_per_s: span.deliveries as f64 / span.seconds,
        server_cpu_us_per_delivery: span.server_cpu_us.map(|cpu| cpu / span.deliveries.max(1) as f64),
        own_cpu_us_per_frame: span.own_cpu_us / span.frames.max(1) as f64,
        latency_ms: Percentiles::of(&traffic.latency),
        crossing_ms: (args.target.url.len() > 1).then(|| Percentiles::of(&traffic.crossing)),
        lateness_ms: load.lateness().map(Percentiles::of),
        other_events: traffic.other,
        faults: traffic.faults(tally.disconnected),
        span,
        warnings,
    };
    report::show(&report, args.target.json)
}

/// What makes the publishers publish.
enum Load {
    /// So many broadcasts outstanding in every room; `started` once they are.
    InFlight { count: usize, started: bool },
    /// Broadcast number `next` is due at `start_ns + next / rate`; the rooms take turns.
    Rate { rate: u64, start_ns: u64, next: u64, room: usize, lateness: Histogram<u64> },
}

impl Load {
    fn new(args: &FanoutArgs, start_ns: u64) -> Result<Self> {
        Ok(match args.rate {
            None => Self::InFlight { count: args.in_flight, started: false },
            Some(rate) => Self::Rate {
                rate,
                start_ns,
                next: 0,
                room: 0,
                lateness: Histogram::new_with_bounds(1_000, 60 * NS_PER_S, 3)?,
            },
        })
    }

    /// Keeps the load on until `until_ns`.
    fn run(&mut self, swarm: &mut Swarm, traffic: &mut Traffic, until_ns: u64) -> Result<()> {
        loop {
            let now = sys::now_ns();
            let due = self.publish(swarm, traffic, now, until_ns);
            if now >= until_ns {
                return Ok(());
            }
            swarm.turn(traffic, due.min(until_ns))?;
        }
    }

    /// Publishes what is due before `until_ns` and by `now`; returns when to look again.
    fn publish(&mut self, swarm: &mut Swarm, traffic: &mut Traffic, now: u64, until_ns: u64) -> u64 {
        match self {
            Self::InFlight { started: true, .. } => u64::MAX,
            Self::InFlight { count, started } => {
                *started = true;
                traffic.refill = true;
                for room in 0..traffic.rooms() {
                    swarm.send(traffic.publisher(room), |out| {
                        for _ in 0..*count {
                            traffic.publish(room, sys::now_ns(), out);
                        }
                    });
                }
                u64::MAX
            }
            Self::Rate { rate, start_ns, next, room, lateness } => loop {
                let due = *start_ns + due_after(*next, *rate);
                if due > now || due >= until_ns {
                    return due;
                }
                if traffic.window.contains(&due) {
                    lateness.saturating_record(sys::now_ns() - due);
                }
                swarm.send(traffic.publisher(*room), |out| traffic.publish(*room, due, out));
                *next += 1;
                *room = (*room + 1) % traffic.rooms();
            },
        }
    }

    fn lateness(&self) -> Option<&Histogram<u64>> {
        match self {
            Self::InFlight { .. } => None,
            Self::Rate { lateness, .. } => Some(lateness),
        }
    }
}

/// When broadcast number `n` is due after the start. From the number and not by adding intervals, so
/// that rounding does not add up.
fn due_after(n: u64, rate: u64) -> u64 {
    let ns = u128::from(n) * u128::from(NS_PER_S) / u128::from(rate);
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_does_not_drift() {
        assert_eq!(due_after(0, 3), 0);
        assert_eq!(due_after(1, 3), 333_333_333);
        assert_eq!(due_after(3, 3), NS_PER_S);
        assert_eq!(due_after(3_000_000, 3), 1_000_000 * NS_PER_S);
    }
}
