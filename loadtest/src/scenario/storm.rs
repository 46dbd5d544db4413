//! `storm`: all clients lose their connection and return at once.
//!
//! Other clients stay, in their own rooms at a steady rate: the report shows their latencies during the storm
//! beside those before it. When all clients have returned, each room gets a message that all members must
//! receive.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use crate::args::{TargetArgs, parse_duration, parse_rate};
use crate::client::Swarm;
use crate::figures::{megabytes_or_dash, short_or_dash};
use crate::latency::{Percentiles, in_words_or_dash};
use crate::load::{Load, LoadArgs, Work, drain, warn_of_skipped};
use crate::measure::{Reading, Recorder, Sample, Span, nanos};
use crate::output;
use crate::procfs::Server;
use crate::report::{Found, Report};
use crate::scenario::restless::Restless;
use crate::scenario::{found, random, swarm_with_traffic};
use crate::sys;

/// How long the staying clients are observed after the last client has returned.
const AFTER: Duration = Duration::from_millis(500);

/// The flags of `loadtest storm`.
#[derive(Args, Debug)]
pub(crate) struct StormArgs {
    /// Clients that lose their connection and return.
    #[arg(long, default_value_t = 2000)]
    connections: usize,

    /// Clients that stay connected and receive messages meanwhile.
    #[arg(long, default_value_t = 100)]
    stay: usize,

    /// Connections in each room; the last room may have fewer.
    #[arg(long, default_value_t = 50)]
    room_size: usize,

    /// Broadcasts a second to the staying clients, their rooms in turn.
    #[arg(long, default_value = "50/s", value_parser = parse_rate)]
    rate: u64,

    /// How long the staying clients are observed before the storm.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    before: Duration,

    /// How long it may take until all clients have returned.
    #[arg(long, default_value = "60s", value_parser = parse_duration)]
    within: Duration,

    /// How long nothing may arrive at the end before missing messages count as lost.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    patience: Duration,

    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Serialize)]
struct StormReport {
    scenario: &'static str,
    connections: usize,
    stay: usize,
    rate: u64,
    /// From the first cut to the last confirmed join; `None` if some never returned.
    seconds_to_all_back: Option<f64>,
    /// The server's CPU time during the storm, divided by the returning clients.
    server_cpu_us_per_connect: Option<f64>,
    /// Failed attempts; each client tries again after a second.
    refused: u64,
    never_back: usize,
    /// From a client's cut to its confirmed join.
    latency_ms: Option<Percentiles>,
    /// Deliveries to the staying clients, before and during the storm.
    stay_before_ms: Option<Percentiles>,
    stay_meanwhile_ms: Option<Percentiles>,
    /// How far behind its schedule a broadcast to them was written; part of the latencies.
    lateness_ms: Option<Percentiles>,
    /// The server's resident bytes before, and the maximum during the storm.
    rss_before: Option<u64>,
    rss_peak: Option<u64>,
    #[serde(flatten)]
    found: Found,
}

impl Report for StormReport {
    fn title(&self) -> String {
        let Self { connections, stay, rate, .. } = self;
        format!("storm: {connections} come back at once, {stay} stay at {rate} broadcasts a second")
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        vec![
            (
                "all back after",
                self.seconds_to_all_back.map_or_else(|| "never".to_owned(), |s| format!("{s:.2} s")),
            ),
            ("back p50/90/99/99.9/max", in_words_or_dash(self.latency_ms.as_ref())),
            ("tries refused", self.refused.to_string()),
            ("never back", self.never_back.to_string()),
            ("server CPU µs/connect", short_or_dash(self.server_cpu_us_per_connect)),
            (
                "RSS before / peak MB",
                format!("{} / {}", megabytes_or_dash(self.rss_before), megabytes_or_dash(self.rss_peak)),
            ),
            ("who stays: before", in_words_or_dash(self.stay_before_ms.as_ref())),
            ("who stays: meanwhile", in_words_or_dash(self.stay_meanwhile_ms.as_ref())),
            ("written late by", in_words_or_dash(self.lateness_ms.as_ref())),
        ]
    }

    fn found(&self) -> &Found {
        &self.found
    }
}

/// Runs the scenario. Returns whether all clients returned and received everything correctly.
pub(crate) fn run(args: &StormArgs) -> Result<bool> {
    let StormArgs { connections, stay, room_size, target, .. } = args;
    if *connections == 0 || *stay == 0 || *room_size == 0 || args.rate == 0 {
        bail!("--connections, --stay, --room-size and --rate must be at least 1");
    }
    // The staying clients have their own rooms: the first ones, filled up.
    let staying = stay.div_ceil(*room_size) * room_size;
    let all = staying + connections;
    let (mut swarm, traffic) = swarm_with_traffic(target, all, *room_size)?;
    let mut restless = Restless::new(traffic, all, staying / room_size, 0, random())?;
    let server = Server::new(&target.server_pid);
    server.cpu_ns()?;
    swarm.connect(all, target.ramp)?;
    swarm.forgive();

    let load = LoadArgs::at_rate(args.rate, args.before, args.patience);
    let start = sys::now_ns();
    let open = start + nanos(load.warmup);
    let cut = open + nanos(args.before);
    restless.set_window(open..u64::MAX);
    let mut load = Load::new(&load, start, open)?;
    load.run(&mut swarm, &mut restless, cut, None)?;
    // Messages still on their way were sent before the storm.
    load.run(&mut swarm, &mut restless, sys::now_ns() + nanos(AFTER), None)?;
    let stay_before_ms = restless.latencies().take_percentiles();

    let rss_before = server.is_known().then(|| server.rss()).transpose()?;
    let storm = storm(args, &server, &mut swarm, &mut restless, &mut load, staying)?;
    let stay_meanwhile_ms = restless.latencies().percentiles();
    let curve = restless.latencies().curve();
    for room in restless.published..restless.traffic.lanes() {
        let publisher = restless.traffic.conn(room);
        if swarm.is_ready(publisher) {
            swarm.send(publisher, |out| restless.traffic.issue(room, sys::now_ns(), out));
        }
    }
    drain(&mut swarm, &mut restless, args.patience)?;

    let rss_peak = storm.samples.iter().filter_map(|sample| sample.server_rss).max();
    let faults = restless.faults(&swarm);
    let mut found = found(&server, &swarm, faults, storm.span);
    found.warnings.extend(restless.traffic.others.warning());
    (found.counted, found.samples) = ("deliveries", storm.samples);
    found.curves = vec![("back", restless.back.curve()), ("who stays, meanwhile", curve)];
    warn_of_skipped(load.skipped(), &mut found.warnings);
    let report = StormReport {
        scenario: "storm",
        connections: *connections,
        stay: staying,
        rate: args.rate,
        seconds_to_all_back: storm.seconds,
        server_cpu_us_per_connect: storm.span.server_cpu_us.map(|cpu| cpu / *connections as f64),
        refused: swarm.tally().refused,
        never_back: restless.away,
        latency_ms: restless.back.percentiles(),
        stay_before_ms,
        stay_meanwhile_ms,
        lateness_ms: load.lateness(),
        rss_before,
        rss_peak,
        found,
    };
    output::show(&report, &target.output)
}

/// Results of the storm itself.
struct Storm {
    seconds: Option<f64>,
    span: Span,
    samples: Vec<Sample>,
}

/// Cuts off every client that does not stay, and keeps the load on until all have returned.
fn storm(
    args: &StormArgs,
    server: &Server,
    swarm: &mut Swarm,
    restless: &mut Restless,
    load: &mut Load,
    staying: usize,
) -> Result<Storm> {
    const STEP_NS: u64 = 20_000_000;
    const DIALS_IN_A_ROW: usize = 32;
    let before = Reading::read(server, swarm, restless.done())?;
    let mut recorder = Recorder::new(server, args.within, Some(Duration::ZERO), restless.done())?;
    let start = sys::now_ns();
    for conn in staying..staying + args.connections {
        restless.cut(swarm, conn);
    }
    for conn in staying..staying + args.connections {
        restless.dial(swarm, conn);
        if conn % DIALS_IN_A_ROW == 0 {
            // Meanwhile reads the staying clients.
            swarm.turn(restless, 0)?;
            load.run(swarm, restless, sys::now_ns(), None)?;
        }
    }
    let end = start + nanos(args.within);
    while restless.away > 0 && sys::now_ns() < end {
        load.run(swarm, restless, sys::now_ns() + STEP_NS, Some((&mut recorder, server)))?;
    }
    let seconds = (restless.away == 0).then(|| restless.last_back_ns.saturating_sub(start) as f64 / 1e9);
    let after = Reading::read(server, swarm, restless.done())?;
    load.run(swarm, restless, sys::now_ns() + nanos(AFTER), Some((&mut recorder, server)))?;
    let samples = recorder.finish(server, restless.done(), restless.latencies())?;
    Ok(Storm { seconds, span: Span::between(&before, &after, server), samples })
}
