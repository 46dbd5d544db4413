//! Keeps a load on the server: a number of requests in flight, or a rate.
//!
//! Closed loop (`--in-flight`): each lane keeps a number of requests outstanding; this finds the highest rate,
//! and its latencies are those of a saturated server. Open loop (`--rate`): requests are due on a schedule, and
//! latency counts from the time a request was due even if the tester or the server was behind, so that a stall
//! shows in full.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;

use crate::args::{parse_duration, parse_rate};
use crate::client::{Driver, Outgoing, Swarm};
use crate::latency::{Latencies, Percentiles};
use crate::measure::{Reading, Recorder, Sample, Span, nanos};
use crate::procfs::Server;
use crate::sys;

const NS_PER_S: u64 = 1_000_000_000;

/// How much load, and for how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct LoadArgs {
    /// Requests that each publisher (each connection in `echo`) keeps outstanding.
    #[arg(long, default_value_t = 1, conflicts_with = "rate")]
    pub(crate) in_flight: usize,

    /// Requests a second on a schedule, all publishers together, instead of a number in flight.
    #[arg(long, value_parser = parse_rate)]
    pub(crate) rate: Option<u64>,

    /// Time before the measured window.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub(crate) warmup: Duration,

    /// The measured window.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub(crate) duration: Duration,

    /// How long nothing may arrive at the end before missing messages count as lost.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    pub(crate) patience: Duration,

    /// How often a sample is taken for the plots; a sixtieth of the duration if not given.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) sample: Option<Duration>,
}

impl LoadArgs {
    /// A second of warm-up and then `duration` at a rate.
    pub(crate) fn at_rate(rate: u64, duration: Duration, patience: Duration) -> Self {
        let warmup = Duration::from_secs(1);
        Self { in_flight: 1, rate: Some(rate), warmup, duration, patience, sample: None }
    }

    /// Returns an `Err` for a load of nothing.
    pub(crate) fn check(&self) -> Result<()> {
        if self.in_flight == 0 || self.rate == Some(0) {
            bail!("--in-flight and --rate must be at least 1");
        }
        Ok(())
    }

    /// `20 a second` or `32 in flight for each room`.
    pub(crate) fn in_words(&self, lane: &str) -> String {
        match self.rate {
            Some(rate) => format!("{rate} a second"),
            None => format!("{} in flight for each {lane}", self.in_flight),
        }
    }
}

/// Requests over lanes, and the count of their results.
pub(crate) trait Work: Driver {
    /// How many lanes there are; each keeps its own number in flight, and at a rate they take turns.
    fn lanes(&self) -> usize;
    /// The connection that a lane's requests are written to.
    fn conn(&self, lane: usize) -> usize;
    /// Sends a lane's next request, stamped as sent at `sent_ns`.
    fn issue(&mut self, lane: usize, sent_ns: u64, out: &mut Outgoing);
    /// Whether a completed request triggers the next one.
    fn refill(&mut self, refill: bool);
    /// Latencies count for requests sent, or due, in this span of the monotonic clock.
    fn set_window(&mut self, window: Range<u64>);
    /// Requests so far.
    fn issued(&self) -> u64;
    /// Results so far.
    fn done(&self) -> u64;
    /// Results still missing.
    fn missing(&self) -> u64;
    /// The latencies of samples.
    fn latencies(&mut self) -> &mut Latencies;
    /// Does other work that is due; returns when to call again.
    fn chores(&mut self, _swarm: &mut Swarm, _now_ns: u64) -> Result<u64> {
        Ok(u64::MAX)
    }
}

/// The results of a load in its measured window.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) span: Span,
    /// Requests for each second of the window.
    pub(crate) issued_per_s: f64,
    /// How far behind its schedule a request was written; part of the latencies. At a rate only.
    pub(crate) lateness: Option<Percentiles>,
    /// Scheduled requests that were not sent because their connection was gone.
    pub(crate) skipped: u64,
    pub(crate) samples: Vec<Sample>,
}

/// Warms up, measures, and waits for messages still on their way.
pub(crate) fn drive(
    swarm: &mut Swarm,
    work: &mut impl Work,
    server: &Server,
    args: &LoadArgs,
) -> Result<Outcome> {
    let start = sys::now_ns();
    let open = start + nanos(args.warmup);
    let close = open + nanos(args.duration);
    work.set_window(open..close);
    let mut load = Load::new(args, start, open)?;
    load.run(swarm, work, open, None)?;
    let (before, issued) = (Reading::read(server, swarm, work.done())?, work.issued());
    let mut recorder = Recorder::new(server, args.duration, args.sample, work.done())?;
    load.run(swarm, work, close, Some((&mut recorder, server)))?;
    let (after, issued) = (Reading::read(server, swarm, work.done())?, work.issued() - issued);
    let samples = recorder.finish(server, work.done(), work.latencies())?;
    work.refill(false);
    drain(swarm, work, args.patience)?;
    let span = Span::between(&before, &after, server);
    let issued_per_s = issued as f64 / span.seconds;
    Ok(Outcome { span, issued_per_s, lateness: load.lateness(), skipped: load.skipped(), samples })
}

/// Warns of requests that were not sent.
pub(crate) fn warn_of_skipped(skipped: u64, warnings: &mut Vec<String>) {
    if skipped > 0 {
        warnings.push(format!("{skipped} requests were not sent: their connections were gone"));
    }
}

/// What triggers requests.
#[derive(Debug)]
pub(crate) enum Load {
    /// This many requests outstanding in every lane; `started` once they are.
    InFlight { count: usize, started: bool },
    /// Request number `next` is due at `start_ns + next / rate`; the lanes take turns.
    /// Lateness counts from `measured_ns` on.
    Rate {
        rate: u64,
        start_ns: u64,
        measured_ns: u64,
        next: u64,
        lane: usize,
        lateness: Box<Latencies>,
        skipped: u64,
    },
}

impl Load {
    /// A load that begins at `start_ns` and is measured from `measured_ns` on.
    pub(crate) fn new(args: &LoadArgs, start_ns: u64, measured_ns: u64) -> Result<Self> {
        Ok(match args.rate {
            None => Self::InFlight { count: args.in_flight, started: false },
            Some(rate) => {
                let lateness = Box::new(Latencies::new()?);
                Self::Rate { rate, start_ns, measured_ns, next: 0, lane: 0, lateness, skipped: 0 }
            }
        })
    }

    /// Keeps the load on until `until_ns`, sampling on the way.
    pub(crate) fn run(
        &mut self,
        swarm: &mut Swarm,
        work: &mut impl Work,
        until_ns: u64,
        mut recorder: Option<(&mut Recorder, &Server)>,
    ) -> Result<()> {
        loop {
            let now = sys::now_ns();
            let due = self.issue(swarm, work, now, until_ns);
            let mut due = due.min(until_ns).min(work.chores(swarm, now)?);
            if let Some((recorder, server)) = &mut recorder {
                let done = work.done();
                recorder.sample(server, done, work.latencies())?;
                due = due.min(recorder.due_ns());
            }
            if now >= until_ns {
                return Ok(());
            }
            swarm.turn(work, due)?;
        }
    }

    /// Sends requests due before `until_ns` and by `now`; returns when to call again.
    fn issue(&mut self, swarm: &mut Swarm, work: &mut impl Work, now: u64, until_ns: u64) -> u64 {
        match self {
            Self::InFlight { started: true, .. } => u64::MAX,
            Self::InFlight { count, started } => {
                *started = true;
                work.refill(true);
                for lane in 0..work.lanes() {
                    swarm.send(work.conn(lane), |out| {
                        for _ in 0..*count {
                            work.issue(lane, sys::now_ns(), out);
                        }
                    });
                }
                u64::MAX
            }
            Self::Rate { rate, start_ns, measured_ns, next, lane, lateness, skipped } => loop {
                let due = *start_ns + due_after(*next, *rate);
                if due > now || due >= until_ns {
                    return due;
                }
                if due >= *measured_ns {
                    lateness.record(sys::now_ns() - due);
                }
                let conn = work.conn(*lane);
                if swarm.is_ready(conn) {
                    swarm.send(conn, |out| work.issue(*lane, due, out));
                } else {
                    *skipped += 1;
                }
                *next += 1;
                *lane = (*lane + 1) % work.lanes();
            },
        }
    }

    /// Scheduled requests that were not sent.
    pub(crate) fn skipped(&self) -> u64 {
        match self {
            Self::InFlight { .. } => 0,
            Self::Rate { skipped, .. } => *skipped,
        }
    }

    /// How late requests were written; `None` without a schedule.
    pub(crate) fn lateness(&mut self) -> Option<Percentiles> {
        match self {
            Self::InFlight { .. } => None,
            Self::Rate { lateness, .. } => lateness.percentiles(),
        }
    }
}

/// Stops sending, and waits until everything has arrived, or nothing has for `patience`; then a moment longer,
/// for messages that should not arrive at all.
pub(crate) fn drain(swarm: &mut Swarm, work: &mut impl Work, patience: Duration) -> Result<()> {
    const LINGER: Duration = Duration::from_millis(200);
    let mut seen = work.done();
    let mut deadline = sys::now_ns() + nanos(patience);
    while work.missing() > 0 && sys::now_ns() < deadline {
        let due = work.chores(swarm, sys::now_ns())?;
        swarm.turn(work, deadline.min(due))?;
        if work.done() != seen {
            seen = work.done();
            deadline = sys::now_ns() + nanos(patience);
        }
    }
    pass(swarm, work, LINGER)
}

/// Serves the connections for a while.
pub(crate) fn pass(swarm: &mut Swarm, driver: &mut impl Driver, time: Duration) -> Result<()> {
    let end = sys::now_ns() + nanos(time);
    while sys::now_ns() < end {
        swarm.turn(driver, end)?;
    }
    Ok(())
}

/// When request number `n` is due after the start. Computed from the number instead of by adding intervals, so
/// that rounding errors do not add up.
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
