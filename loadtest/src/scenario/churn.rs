//! `churn`: connects, joins, leaves and disconnects repeatedly.
//!
//! Each slot has a client that begins its next cycle when the server has closed the last one.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use crate::args::{TargetArgs, parse_duration};
use crate::check::Faults;
use crate::client::script::LEAVE_ACK;
use crate::client::{Driver, Outgoing, Swarm};
use crate::figures::{short, short_or_dash};
use crate::latency::{Latencies, Percentiles, in_words_or_dash};
use crate::measure::{Reading, Recorder, Span, nanos};
use crate::output;
use crate::procfs::Server;
use crate::report::{Found, Report};
use crate::scenario::{found, swarm};
use crate::sys;
use crate::text::{self, Namespace};

/// The flags of `loadtest churn`.
#[derive(Args, Debug)]
pub(crate) struct ChurnArgs {
    /// Clients that connect and disconnect at the same time.
    #[arg(long, default_value_t = 100)]
    slots: usize,

    /// Slots that share a room.
    #[arg(long, default_value_t = 1)]
    room_size: usize,

    /// Time before the measured window.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    warmup: Duration,

    /// The measured window.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    duration: Duration,

    /// How long the last cycles may take before they count as lost.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    patience: Duration,

    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Serialize)]
struct ChurnReport {
    scenario: &'static str,
    slots: usize,
    room_size: usize,
    cycles_per_s: f64,
    server_cpu_us_per_cycle: Option<f64>,
    /// From dialling to the server's close.
    latency_ms: Option<Percentiles>,
    /// From dialling to the confirmed join.
    join_ms: Option<Percentiles>,
    #[serde(flatten)]
    found: Found,
}

impl Report for ChurnReport {
    fn title(&self) -> String {
        format!("churn: {} slots, rooms of {}", self.slots, self.room_size)
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let span = &self.found.span;
        vec![
            ("cycles/s", short(self.cycles_per_s)),
            ("measured", format!("{} cycles in {:.2} s", span.done, span.seconds)),
            ("server CPU µs/cycle", short_or_dash(self.server_cpu_us_per_cycle)),
            ("cycle p50/90/99/99.9/max", in_words_or_dash(self.latency_ms.as_ref())),
            ("until joined", in_words_or_dash(self.join_ms.as_ref())),
        ]
    }

    fn found(&self) -> &Found {
        &self.found
    }
}

/// Runs the scenario. Returns whether every cycle completed.
pub(crate) fn run(args: &ChurnArgs) -> Result<bool> {
    let ChurnArgs { slots, room_size, target, .. } = args;
    if *slots == 0 || *room_size == 0 {
        bail!("--slots and --room-size must be at least 1");
    }
    let mut swarm = swarm(target, *room_size)?;
    let mut churn = Churn::new(target, &swarm, *slots)?;
    swarm.forgive();
    let server = Server::new(&target.server_pid);
    server.cpu_ns()?;
    sys::raise_file_limit()?;

    let open = sys::now_ns() + nanos(args.warmup);
    let close = open + nanos(args.duration);
    churn.window = open..close;
    churn.idle.extend(0..*slots);
    while sys::now_ns() < open {
        churn.turn(&mut swarm, open)?;
    }
    let before = Reading::read(&server, &swarm, churn.done)?;
    let mut recorder = Recorder::new(&server, args.duration, None, churn.done)?;
    while sys::now_ns() < close {
        churn.turn(&mut swarm, close.min(recorder.due_ns()))?;
        recorder.sample(&server, churn.done, &mut churn.cycles)?;
    }
    let after = Reading::read(&server, &swarm, churn.done)?;
    let samples = recorder.finish(&server, churn.done, &mut churn.cycles)?;
    let stuck = churn.finish(&mut swarm, close + nanos(args.patience))?;

    let span = Span::between(&before, &after, &server);
    let tally = swarm.tally();
    let (disconnected, refused) = (tally.disconnected, tally.refused);
    let faults = Faults { lost: stuck, disconnected, refused, ..Faults::default() };
    let mut found = found(&server, &swarm, faults, span);
    (found.counted, found.samples) = ("cycles", samples);
    found.curves = vec![("cycle", churn.cycles.curve()), ("until joined", churn.joins.curve())];
    if stuck > 0 {
        let step = swarm.first_open();
        found.warnings.push(format!(
            "{stuck} cycles did not end: {step}. Joining: no ack of the join (--joined-on?); Ready: none of the leave \
             (--leave-event ''?); Leaving: the server does not close"
        ));
    }
    let report = ChurnReport {
        scenario: "churn",
        slots: *slots,
        room_size: *room_size,
        cycles_per_s: span.done_per_s(),
        server_cpu_us_per_cycle: span.server_cpu_us_each(),
        latency_ms: churn.cycles.percentiles(),
        join_ms: churn.joins.percentiles(),
        found,
    };
    output::show(&report, &target.output)
}

/// The slots and their cycles.
struct Churn {
    namespace: Namespace,
    /// The leave packet of each slot; empty where no member leaves.
    leave: Vec<String>,
    started_ns: Vec<u64>,
    /// Slots without a connection.
    idle: Vec<usize>,
    window: Range<u64>,
    cycles: Latencies,
    joins: Latencies,
    done: u64,
    /// The first refused leave.
    refusal: Option<String>,
}

impl Churn {
    fn new(target: &TargetArgs, swarm: &Swarm, slots: usize) -> Result<Self> {
        let leave = if target.leave_event.is_empty() { 0 } else { slots };
        Ok(Self {
            namespace: Namespace::new(&target.namespace)?,
            leave: (0..leave).map(|slot| swarm.script().leave(slot)).collect(),
            started_ns: vec![0; slots],
            idle: Vec::new(),
            window: 0..0,
            cycles: Latencies::new()?,
            joins: Latencies::new()?,
            done: 0,
            refusal: None,
        })
    }

    /// Begins a cycle in every idle slot, and handles events until `until_ns`.
    fn turn(&mut self, swarm: &mut Swarm, until_ns: u64) -> Result<()> {
        for slot in std::mem::take(&mut self.idle) {
            self.started_ns[slot] = sys::now_ns();
            swarm.dial(slot)?;
        }
        swarm.turn(self, until_ns)?;
        match self.refusal.take() {
            Some(refusal) => bail!("leave refused: {refusal}"),
            None => Ok(()),
        }
    }

    /// Waits for the cycles under way. Returns how many have not ended by `until_ns`.
    fn finish(&mut self, swarm: &mut Swarm, until_ns: u64) -> Result<u64> {
        while self.idle.len() < self.started_ns.len() && sys::now_ns() < until_ns {
            swarm.turn(self, until_ns)?;
        }
        Ok((self.started_ns.len() - self.idle.len()) as u64)
    }
}

impl Driver for Churn {
    fn event(&mut self, _conn: usize, _array: &[u8], _at_ns: u64, _out: &mut Outgoing) {}

    fn ready(&mut self, conn: usize, at_ns: u64, out: &mut Outgoing) {
        if self.window.contains(&self.started_ns[conn]) {
            self.joins.record(at_ns.saturating_sub(self.started_ns[conn]));
        }
        match self.leave.get(conn) {
            Some(leave) => out.text(leave.as_bytes()),
            None => out.goodbye(&self.namespace),
        }
    }

    fn ack(&mut self, _conn: usize, id: u32, array: &[u8], _at_ns: u64, out: &mut Outgoing) {
        if id == LEAVE_ACK {
            if text::is_refusal(array) {
                self.refusal = Some(String::from_utf8_lossy(array).into_owned());
            }
            out.goodbye(&self.namespace);
        }
    }

    fn gone(&mut self, conn: usize, at_ns: u64, orderly: bool) {
        self.idle.push(conn);
        if !orderly {
            return;
        }
        self.done += 1;
        if self.window.contains(&self.started_ns[conn]) {
            self.cycles.record(at_ns.saturating_sub(self.started_ns[conn]));
        }
    }
}
