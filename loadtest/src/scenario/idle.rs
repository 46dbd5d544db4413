//! `idle`: the cost of a connection that does nothing.
//!
//! Memory is read before the first connection, when all are members of their rooms (*fresh*), and
//! after each has received one message (*warmed*: by then a server has grown its write buffers).

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use crate::args::{TargetArgs, parse_duration};
use crate::client::Swarm;
use crate::figures::{short, short_or_dash};
use crate::load::{Work, drain, pass};
use crate::measure::{Reading, Recorder, Sample, Span, nanos};
use crate::output;
use crate::procfs::{Memory, Server};
use crate::report::{Found, Report};
use crate::scenario::{found, swarm_with_traffic};
use crate::sys;
use crate::traffic::Traffic;

/// The flags of `loadtest idle`.
#[derive(Args, Debug)]
pub(crate) struct IdleArgs {
    /// How many connections.
    #[arg(long, default_value_t = 15_000)]
    connections: usize,

    /// Connections in each room; the last room may have fewer.
    #[arg(long, default_value_t = 50)]
    room_size: usize,

    /// Time before each reading of the memory, for the server to settle.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    settle: Duration,

    /// How long to hold the connections at the end, answering pings.
    #[arg(long, default_value = "0s", value_parser = parse_duration)]
    hold: Duration,

    /// How long nothing may arrive before missing messages count as lost.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    patience: Duration,

    #[command(flatten)]
    target: TargetArgs,
}

/// What holding the connections cost.
#[derive(Debug, Serialize)]
struct Held {
    seconds: f64,
    pings: u64,
    server_core_percent: Option<f64>,
    memory: Option<Memory>,
}

#[derive(Debug, Serialize)]
struct IdleReport {
    scenario: &'static str,
    connections: usize,
    room_size: usize,
    connects_per_s: f64,
    /// Upgrade, namespace and room.
    server_cpu_us_per_connect: Option<f64>,
    memory_before: Option<Memory>,
    memory_fresh: Option<Memory>,
    memory_warmed: Option<Memory>,
    bytes_per_connection_fresh: Option<f64>,
    bytes_per_connection_warmed: Option<f64>,
    pss_per_connection_fresh: Option<f64>,
    pss_per_connection_warmed: Option<f64>,
    held: Option<Held>,
    other_events: u64,
    #[serde(flatten)]
    found: Found,
}

impl Report for IdleReport {
    fn title(&self) -> String {
        format!("idle: {} connections in rooms of {}", self.connections, self.room_size)
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let megabytes = |memory: &Option<Memory>| {
            memory.map_or_else(
                || "–".to_owned(),
                |memory| {
                    let (rss, pss) = (memory.rss as f64 / 1e6, memory.pss as f64 / 1e6);
                    format!("{rss:.1} / {pss:.1} MB")
                },
            )
        };
        let pair = |rss: Option<f64>, pss: Option<f64>| match (rss, pss) {
            (Some(rss), Some(pss)) => format!("{rss:.0} / {pss:.0}"),
            _ => "–".to_owned(),
        };
        let mut rows = vec![
            ("connects/s", short(self.connects_per_s)),
            ("server CPU µs/connect", short_or_dash(self.server_cpu_us_per_connect)),
            ("RSS / PSS before", megabytes(&self.memory_before)),
            ("RSS / PSS fresh", megabytes(&self.memory_fresh)),
            ("RSS / PSS warmed", megabytes(&self.memory_warmed)),
            ("bytes/connection fresh", pair(self.bytes_per_connection_fresh, self.pss_per_connection_fresh)),
            (
                "bytes/connection warmed",
                pair(self.bytes_per_connection_warmed, self.pss_per_connection_warmed),
            ),
        ];
        if let Some(held) = &self.held {
            rows.extend([
                ("held", format!("{:.1} s, {} pings answered", held.seconds, held.pings)),
                ("server core % held", short_or_dash(held.server_core_percent)),
                ("RSS / PSS held", megabytes(&held.memory)),
            ]);
        }
        rows
    }

    fn found(&self) -> &Found {
        &self.found
    }
}

/// Runs the scenario. Returns whether every connection stayed and received its one message.
pub(crate) fn run(args: &IdleArgs) -> Result<bool> {
    if args.connections == 0 || args.room_size == 0 {
        bail!("--connections and --room-size must be at least 1");
    }
    let (mut swarm, mut traffic) = swarm_with_traffic(&args.target, args.connections, args.room_size)?;
    let server = Server::new(&args.target.server_pid);
    let memory = || server.is_known().then(|| server.memory()).transpose();

    let memory_before = memory()?;
    let start = Reading::read(&server, &swarm, traffic.received)?;
    let connecting = swarm.connect(args.connections, args.target.ramp)?;
    let connected = Reading::read(&server, &swarm, traffic.received)?;
    pass(&mut swarm, &mut traffic, args.settle)?;
    let memory_fresh = memory()?;

    for room in 0..traffic.lanes() {
        swarm.send(traffic.conn(room), |out| {
            traffic.issue(room, sys::now_ns(), out);
        });
    }
    drain(&mut swarm, &mut traffic, args.patience)?;
    pass(&mut swarm, &mut traffic, args.settle)?;
    let memory_warmed = memory()?;

    let (held, samples) = hold(args, &server, &mut swarm, &mut traffic)?;

    let span = Span::between(&start, &connected, &server);
    let faults = traffic.faults(swarm.tally().disconnected);
    let mut found = found(&server, &swarm, faults, span);
    found.warnings.extend(traffic.others.warning());
    (found.counted, found.samples) = ("deliveries", samples);
    let connections = args.connections as f64;
    let growth = |now: Option<Memory>, of: fn(Memory) -> u64| {
        Some((of(now?) as f64 - of(memory_before?) as f64) / connections)
    };
    let report = IdleReport {
        scenario: "idle",
        connections: args.connections,
        room_size: args.room_size,
        connects_per_s: connections / connecting.as_secs_f64(),
        server_cpu_us_per_connect: span.server_cpu_us.map(|cpu| cpu / connections),
        memory_before,
        memory_fresh,
        memory_warmed,
        bytes_per_connection_fresh: growth(memory_fresh, |memory| memory.rss),
        bytes_per_connection_warmed: growth(memory_warmed, |memory| memory.rss),
        pss_per_connection_fresh: growth(memory_fresh, |memory| memory.pss),
        pss_per_connection_warmed: growth(memory_warmed, |memory| memory.pss),
        held,
        other_events: traffic.others.count,
        found,
    };
    output::show(&report, &args.target.output)
}

/// Keeps the connections for the requested time.
fn hold(
    args: &IdleArgs,
    server: &Server,
    swarm: &mut Swarm,
    traffic: &mut Traffic,
) -> Result<(Option<Held>, Vec<Sample>)> {
    if args.hold.is_zero() {
        return Ok((None, Vec::new()));
    }
    let pings = swarm.tally().pings;
    let before = Reading::read(server, swarm, traffic.received)?;
    let mut recorder = Recorder::new(server, args.hold, None, traffic.received)?;
    let end = sys::now_ns() + nanos(args.hold);
    while sys::now_ns() < end {
        swarm.turn(traffic, end.min(recorder.due_ns()))?;
        recorder.sample(server, traffic.received, &mut traffic.latency)?;
    }
    let samples = recorder.finish(server, traffic.received, &mut traffic.latency)?;
    let after = Reading::read(server, swarm, traffic.received)?;
    let span = Span::between(&before, &after, server);
    let held = Held {
        seconds: span.seconds,
        pings: swarm.tally().pings - pings,
        server_core_percent: span.server_core_percent,
        memory: server.is_known().then(|| server.memory()).transpose()?,
    };
    Ok((Some(held), samples))
}
