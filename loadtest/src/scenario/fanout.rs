//! `fanout` and `rooms`: one publisher per room, and every delivery checked. `cross`: the same over several nodes.

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use crate::args::TargetArgs;
use crate::figures::{short, short_or_dash};
use crate::latency::{Percentiles, in_words_or_dash};
use crate::load::{self, LoadArgs, Work, warn_of_skipped};
use crate::output;
use crate::procfs::Server;
use crate::report::{Found, Report};
use crate::scenario::{found, swarm_with_traffic};

/// The flags of `loadtest fanout` and `loadtest cross`.
#[derive(Args, Debug)]
pub(crate) struct FanoutArgs {
    /// How many rooms.
    #[arg(long, default_value_t = 1)]
    rooms: usize,

    /// Members of each room, its publisher included.
    #[arg(long, default_value_t = 1000)]
    members: usize,

    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

/// The flags of `loadtest rooms`.
#[derive(Args, Debug)]
pub(crate) struct RoomsArgs {
    /// How many rooms.
    #[arg(long, default_value_t = 100)]
    rooms: usize,

    /// Members of each room, its publisher included.
    #[arg(long, default_value_t = 50)]
    members: usize,

    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    target: TargetArgs,
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
    deliveries: u64,
    deliveries_per_s: f64,
    server_cpu_us_per_delivery: Option<f64>,
    /// On the publisher's node.
    latency_ms: Option<Percentiles>,
    /// On the other nodes; `None` where there is one.
    crossing_ms: Option<Percentiles>,
    /// How far behind its schedule a broadcast was written; part of the latencies. Fixed rate only.
    lateness_ms: Option<Percentiles>,
    other_events: u64,
    #[serde(flatten)]
    found: Found,
    #[serde(skip)]
    load: String,
}

impl Report for FanoutReport {
    fn title(&self) -> String {
        let Self { scenario, rooms, members, payload, load, .. } = self;
        let nodes = if self.nodes > 1 { format!(" on {} nodes", self.nodes) } else { String::new() };
        format!("{scenario}: {rooms} rooms x {members} members{nodes}, {payload} bytes, {load}")
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let span = &self.found.span;
        let mut rows = vec![
            ("broadcasts/s", short(self.broadcasts_per_s)),
            ("deliveries/s", short(self.deliveries_per_s)),
            ("measured", format!("{} deliveries in {:.2} s", span.done, span.seconds)),
            ("server CPU µs/delivery", short_or_dash(self.server_cpu_us_per_delivery)),
            ("latency p50/90/99/99.9/max", in_words_or_dash(self.latency_ms.as_ref())),
        ];
        rows.extend(self.crossing_ms.iter().map(|ms| ("latency on other nodes", ms.in_words())));
        rows.extend(self.lateness_ms.iter().map(|ms| ("written late by", ms.in_words())));
        rows.extend([
            ("connects/s", short(self.connects_per_s)),
            ("broadcasts in all", self.broadcasts_sent.to_string()),
        ]);
        rows
    }

    fn found(&self) -> &Found {
        &self.found
    }
}

/// Runs `fanout`. Returns whether the server delivered everything correctly.
pub(crate) fn run(args: &FanoutArgs) -> Result<bool> {
    measure("fanout", &args.target, &args.load, (args.rooms, args.members))
}

/// Runs `rooms`.
pub(crate) fn run_rooms(args: &RoomsArgs) -> Result<bool> {
    measure("rooms", &args.target, &args.load, (args.rooms, args.members))
}

/// Runs `cross` over several nodes, each of which must have members of every room.
pub(crate) fn run_across(args: &FanoutArgs) -> Result<bool> {
    let nodes = args.target.url.len();
    if nodes < 2 || args.members < nodes {
        bail!("cross needs two nodes or more (repeat --url), and a member of each room on each of them");
    }
    measure("cross", &args.target, &args.load, (args.rooms, args.members))
}

fn measure(
    scenario: &'static str,
    target: &TargetArgs,
    load: &LoadArgs,
    (rooms, members): (usize, usize),
) -> Result<bool> {
    load.check()?;
    if rooms == 0 || members == 0 {
        bail!("--rooms and --members must be at least 1");
    }
    let connections = rooms * members;
    let (mut swarm, mut traffic) = swarm_with_traffic(target, connections, members)?;
    let server = Server::new(&target.server_pid);
    // Read once before the work, so that a wrong pid is reported at once.
    server.cpu_ns()?;
    let connecting = swarm.connect(connections, target.ramp)?;
    let outcome = load::drive(&mut swarm, &mut traffic, &server, load)?;

    let span = outcome.span;
    let several = target.url.len() > 1;
    let faults = traffic.faults(swarm.tally().disconnected);
    let mut found = found(&server, &swarm, faults, span);
    found.warnings.extend(traffic.others.warning());
    warn_of_skipped(outcome.skipped, &mut found.warnings);
    (found.counted, found.samples) = ("deliveries", outcome.samples);
    found.curves.push(("latency", traffic.latency.curve()));
    if several {
        found.curves.push(("on other nodes", traffic.crossing.curve()));
    }
    let report = FanoutReport {
        scenario,
        rooms,
        members,
        nodes: target.url.len(),
        payload: target.payload,
        in_flight: load.rate.is_none().then_some(load.in_flight),
        rate: load.rate,
        connects_per_s: connections as f64 / connecting.as_secs_f64(),
        broadcasts_sent: traffic.issued(),
        broadcasts_per_s: outcome.issued_per_s,
        deliveries: span.done,
        deliveries_per_s: span.done_per_s(),
        server_cpu_us_per_delivery: span.server_cpu_us_each(),
        latency_ms: traffic.latency.percentiles(),
        crossing_ms: if several { traffic.crossing.percentiles() } else { None },
        lateness_ms: outcome.lateness,
        other_events: traffic.others.count,
        load: load.in_words("room"),
        found,
    };
    output::show(&report, &target.output)
}
