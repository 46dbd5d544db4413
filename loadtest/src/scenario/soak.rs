//! `soak`: rooms at a steady rate for hours, while members lose their connection and return.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use crate::args::{TargetArgs, parse_duration, parse_rate};
use crate::figures::{megabytes_or_dash, short, short_or_dash};
use crate::latency::{Percentiles, in_words_or_dash};
use crate::load::{self, LoadArgs, Work, warn_of_skipped};
use crate::measure::Sample;
use crate::output;
use crate::procfs::Server;
use crate::report::{Found, Report};
use crate::scenario::restless::Restless;
use crate::scenario::{found, random, swarm_with_traffic};

/// The flags of `loadtest soak`.
#[derive(Args, Debug)]
pub(crate) struct SoakArgs {
    /// How many rooms.
    #[arg(long, default_value_t = 20)]
    rooms: usize,

    /// Members of each room, its publisher included.
    #[arg(long, default_value_t = 50)]
    members: usize,

    /// Broadcasts a second, all rooms together.
    #[arg(long, default_value = "100/s", value_parser = parse_rate)]
    rate: u64,

    /// Members a second that lose their connection and return; never a publisher.
    #[arg(long, default_value = "5/s", value_parser = parse_rate)]
    reconnects: u64,

    /// How long to run.
    #[arg(long, default_value = "10m", value_parser = parse_duration)]
    duration: Duration,

    /// How often a sample is taken for the plots; a sixtieth of the duration if not given.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    sample: Option<Duration>,

    /// How long nothing may arrive at the end before missing messages count as lost.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    patience: Duration,

    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Serialize)]
struct SoakReport {
    scenario: &'static str,
    rooms: usize,
    members: usize,
    rate: u64,
    reconnects: u64,
    deliveries_per_s: f64,
    server_cpu_us_per_delivery: Option<f64>,
    latency_ms: Option<Percentiles>,
    lateness_ms: Option<Percentiles>,
    /// Of the sample with the highest p99.
    worst_p99_ms: Option<f64>,
    /// From a member's cut to its confirmed join.
    back_ms: Option<Percentiles>,
    came_back: u64,
    refused: u64,
    rss_first: Option<u64>,
    rss_last: Option<u64>,
    other_events: u64,
    #[serde(flatten)]
    found: Found,
}

impl Report for SoakReport {
    fn title(&self) -> String {
        let Self { rooms, members, rate, reconnects, .. } = self;
        format!(
            "soak: {rooms} rooms x {members} members, {rate} broadcasts and {reconnects} reconnects a second"
        )
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let span = &self.found.span;
        let worst = self.worst_p99_ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.2} ms"));
        vec![
            ("deliveries/s", short(self.deliveries_per_s)),
            ("measured", format!("{} deliveries in {:.0} s", span.done, span.seconds)),
            ("latency p50/90/99/99.9/max", in_words_or_dash(self.latency_ms.as_ref())),
            ("highest p99 of a sample", worst),
            ("written late by", in_words_or_dash(self.lateness_ms.as_ref())),
            ("came back", format!("{} times, {} tries refused", self.came_back, self.refused)),
            ("back p50/90/99/99.9/max", in_words_or_dash(self.back_ms.as_ref())),
            ("server CPU µs/delivery", short_or_dash(self.server_cpu_us_per_delivery)),
            (
                "RSS first / last MB",
                format!("{} / {}", megabytes_or_dash(self.rss_first), megabytes_or_dash(self.rss_last)),
            ),
        ]
    }

    fn found(&self) -> &Found {
        &self.found
    }
}

/// Runs the scenario. Returns whether the server delivered everything correctly.
pub(crate) fn run(args: &SoakArgs) -> Result<bool> {
    let SoakArgs { rooms, members, target, .. } = args;
    if *rooms == 0 || *members < 2 || args.rate == 0 {
        bail!("--rooms and --rate must be at least 1, --members at least 2");
    }
    let connections = rooms * members;
    let (mut swarm, traffic) = swarm_with_traffic(target, connections, *members)?;
    let server = Server::new(&target.server_pid);
    server.cpu_ns()?;
    swarm.connect(connections, target.ramp)?;
    swarm.forgive();
    let mut restless = Restless::new(traffic, connections, *rooms, args.reconnects, random())?;
    let mut load = LoadArgs::at_rate(args.rate, args.duration, args.patience);
    load.sample = args.sample;
    let outcome = load::drive(&mut swarm, &mut restless, &server, &load)?;

    let span = outcome.span;
    let rss = |sample: Option<&Sample>| sample.and_then(|sample| sample.server_rss);
    let (first, last) = (rss(outcome.samples.first()), rss(outcome.samples.last()));
    let worst = outcome.samples.iter().filter_map(|sample| sample.p99).max_by(f64::total_cmp);
    let faults = restless.faults(&swarm);
    let mut found = found(&server, &swarm, faults, span);
    found.warnings.extend(restless.traffic.others.warning());
    (found.counted, found.samples) = ("deliveries", outcome.samples);
    found.curves = vec![("latency", restless.latencies().curve()), ("back", restless.back.curve())];
    warn_of_skipped(outcome.skipped, &mut found.warnings);
    let report = SoakReport {
        scenario: "soak",
        rooms: *rooms,
        members: *members,
        rate: args.rate,
        reconnects: args.reconnects,
        deliveries_per_s: span.done_per_s(),
        server_cpu_us_per_delivery: span.server_cpu_us_each(),
        latency_ms: restless.latencies().percentiles(),
        lateness_ms: outcome.lateness,
        worst_p99_ms: worst,
        back_ms: restless.back.percentiles(),
        came_back: restless.back.count(),
        refused: swarm.tally().refused,
        rss_first: first,
        rss_last: last,
        other_events: restless.traffic.others.count,
        found,
    };
    output::show(&report, &target.output)
}
