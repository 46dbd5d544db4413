//! `echo`: requests that the server answers with an ack, on many connections.
//!
//! The stock client may get its acks in any order, so order is no fault here. Each request must be
//! answered once, on its own connection, with the content that was sent.

use std::ops::Range;

use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use crate::args::TargetArgs;
use crate::check::{Faults, Sequence, Verdict};
use crate::client::script::{LEAVE_ACK, Rooms};
use crate::client::{Driver, Outgoing};
use crate::content::Content;
use crate::figures::{short, short_or_dash};
use crate::latency::{Latencies, Percentiles, in_words_or_dash};
use crate::load::{self, LoadArgs, Work, warn_of_skipped};
use crate::output;
use crate::procfs::Server;
use crate::report::{Found, Report};
use crate::scenario::{found, run_id, swarm};
use crate::stamp::Stamp;
use crate::text::Namespace;
use crate::traffic::Others;

/// The ack id of a connection's first request.
const FIRST_ACK: u32 = LEAVE_ACK + 1;

/// The flags of `loadtest echo`.
#[derive(Args, Debug)]
pub(crate) struct EchoArgs {
    /// How many connections.
    #[arg(long, default_value_t = 200)]
    connections: usize,

    /// Event that the server acknowledges with {content} in the ack.
    #[arg(long, default_value = "echo", value_name = "EVENT")]
    echo_event: String,

    /// Arguments of that event; {room}, {user} and {content} are filled in, the last within a string.
    #[arg(long, default_value = r#"{"content":"{content}"}"#, value_name = "PAYLOAD")]
    echo_payload: String,

    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Debug, Serialize)]
struct EchoReport {
    scenario: &'static str,
    connections: usize,
    payload: usize,
    in_flight: Option<usize>,
    rate: Option<u64>,
    ops_per_s: f64,
    server_cpu_us_per_op: Option<f64>,
    latency_ms: Option<Percentiles>,
    lateness_ms: Option<Percentiles>,
    #[serde(flatten)]
    found: Found,
    #[serde(skip)]
    load: String,
}

impl Report for EchoReport {
    fn title(&self) -> String {
        let Self { connections, payload, load, .. } = self;
        format!("echo: {connections} connections, {payload} bytes, {load}")
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let span = &self.found.span;
        let mut rows = vec![
            ("answers/s", short(self.ops_per_s)),
            ("measured", format!("{} answers in {:.2} s", span.done, span.seconds)),
            ("server CPU µs/answer", short_or_dash(self.server_cpu_us_per_op)),
            ("latency p50/90/99/99.9/max", in_words_or_dash(self.latency_ms.as_ref())),
        ];
        rows.extend(self.lateness_ms.iter().map(|ms| ("written late by", ms.in_words())));
        rows
    }

    fn found(&self) -> &Found {
        &self.found
    }
}

/// Runs the scenario. Returns whether every request was answered correctly.
pub(crate) fn run(args: &EchoArgs) -> Result<bool> {
    let EchoArgs { connections, load, target, .. } = args;
    load.check()?;
    if *connections == 0 {
        bail!("--connections must be at least 1");
    }
    // One room each, so that no client receives another client's messages.
    let mut swarm = swarm(target, 1)?;
    let mut echoes = Echoes::new(args, run_id()?)?;
    let server = Server::new(&target.server_pid);
    server.cpu_ns()?;
    swarm.connect(*connections, target.ramp)?;
    let outcome = load::drive(&mut swarm, &mut echoes, &server, load)?;

    let span = outcome.span;
    let faults = echoes.faults(swarm.tally().disconnected);
    let mut found = found(&server, &swarm, faults, span);
    found.warnings.extend(echoes.others.warning());
    warn_of_skipped(outcome.skipped, &mut found.warnings);
    (found.counted, found.samples) = ("answers", outcome.samples);
    found.curves = vec![("latency", echoes.latencies.curve())];
    let report = EchoReport {
        scenario: "echo",
        connections: *connections,
        payload: target.payload,
        in_flight: load.rate.is_none().then_some(load.in_flight),
        rate: load.rate,
        ops_per_s: span.done_per_s(),
        server_cpu_us_per_op: span.server_cpu_us_each(),
        latency_ms: echoes.latencies.percentiles(),
        lateness_ms: outcome.lateness,
        load: load.in_words("connection"),
        found,
    };
    output::show(&report, &target.output)
}

/// One connection's requests.
#[derive(Debug)]
struct Asker {
    sent: u32,
    answered: Sequence,
    /// The arguments, and where the stamp lies in them.
    payload: String,
    stamp_at: usize,
}

/// The requests of all connections; each is a lane.
struct Echoes {
    run: u32,
    namespace: Namespace,
    event: String,
    askers: Vec<Asker>,
    content: Content,
    refill: bool,
    window: Range<u64>,
    latencies: Latencies,
    done: u64,
    others: Others,
    faults: Faults,
}

impl Echoes {
    fn new(args: &EchoArgs, run: u32) -> Result<Self> {
        let content = Content::new(args.target.payload)?;
        let rooms = Rooms::new(&args.target.room_prefix, 1);
        let asker = |conn: usize| -> Result<Asker> {
            let (payload, stamp_at) =
                content.fill("--echo-payload", &args.echo_payload, &rooms.name(conn), conn)?;
            Ok(Asker { sent: 0, answered: Sequence::default(), payload, stamp_at })
        };
        Ok(Self {
            run,
            namespace: Namespace::new(&args.target.namespace)?,
            event: args.echo_event.clone(),
            askers: (0..args.connections).map(asker).collect::<Result<_>>()?,
            content,
            refill: false,
            window: 0..u64::MAX,
            latencies: Latencies::new()?,
            done: 0,
            others: Others::default(),
            faults: Faults::default(),
        })
    }

    fn faults(&self, disconnected: u64) -> Faults {
        Faults { lost: self.missing(), disconnected, ..self.faults }
    }

    /// The stamp of an answer with the content that this connection sent as request `seq`.
    fn stamp(&self, conn: usize, seq: u32, array: &[u8]) -> Option<Stamp> {
        let at = Stamp::find(array)?;
        let stamp = Stamp::read(array, at)?;
        let whole = self.content.is_whole(array, at);
        let ours = stamp.run == self.run && stamp.room as usize == conn && stamp.seq == seq;
        (whole && ours).then_some(stamp)
    }
}

impl Driver for Echoes {
    fn event(&mut self, _conn: usize, array: &[u8], _at_ns: u64, _out: &mut Outgoing) {
        self.others.note(array);
    }

    fn ack(&mut self, conn: usize, id: u32, array: &[u8], at_ns: u64, out: &mut Outgoing) {
        self.done += 1;
        let seq = id.wrapping_sub(FIRST_ACK);
        if seq >= self.askers[conn].sent {
            self.faults.misrouted += 1;
            return;
        }
        let Some(stamp) = self.stamp(conn, seq, array) else {
            self.faults.corrupt += 1;
            return;
        };
        if self.askers[conn].answered.see(seq) == Verdict::Duplicate {
            self.faults.duplicated += 1;
            return;
        }
        if self.window.contains(&stamp.sent_ns) {
            self.latencies.record(at_ns.saturating_sub(stamp.sent_ns));
        }
        if self.refill {
            self.issue(conn, at_ns, out);
        }
    }
}

impl Work for Echoes {
    fn lanes(&self) -> usize {
        self.askers.len()
    }

    fn conn(&self, lane: usize) -> usize {
        lane
    }

    fn issue(&mut self, lane: usize, sent_ns: u64, out: &mut Outgoing) {
        let asker = &mut self.askers[lane];
        let seq = asker.sent;
        asker.sent += 1;
        let room = u32::try_from(lane).unwrap_or(u32::MAX);
        let packet = self.namespace.event(Some(FIRST_ACK + seq), &self.event, &asker.payload);
        let mut packet = packet.into_bytes();
        // The arguments end where the packet's last bracket begins.
        let at = packet.len() - 1 - asker.payload.len() + asker.stamp_at;
        Stamp { run: self.run, room, seq, sent_ns }.write(&mut packet[at..]);
        out.text(&packet);
    }

    fn refill(&mut self, refill: bool) {
        self.refill = refill;
    }

    fn set_window(&mut self, window: Range<u64>) {
        self.window = window;
    }

    fn issued(&self) -> u64 {
        self.askers.iter().map(|asker| u64::from(asker.sent)).sum()
    }

    fn done(&self) -> u64 {
        self.done
    }

    fn missing(&self) -> u64 {
        self.askers.iter().map(|asker| asker.answered.lost(asker.sent)).sum()
    }

    fn latencies(&mut self) -> &mut Latencies {
        &mut self.latencies
    }
}
