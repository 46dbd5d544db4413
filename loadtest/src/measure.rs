//! Measures a run: the difference between two readings, and samples over time.

use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::client::Swarm;
use crate::figures::short;
use crate::latency::Latencies;
use crate::procfs::{self, Machine, Server, Switches};
use crate::sys;

/// From this share of a core on, the tester may limit the results.
const TOO_BUSY_PERCENT: f64 = 90.0;
/// From this share of a core on, other processes disturb the results.
const DISTURBED_PERCENT: f64 = 12.0;
/// Samples of a run unless the command line sets an interval.
const SAMPLES: u32 = 60;
/// The shortest interval of samples.
const SHORTEST_SAMPLE: Duration = Duration::from_millis(100);

/// All clocks and counters at one instant.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    at_ns: u64,
    server_cpu_ns: u64,
    own_cpu_ns: u64,
    switches: Switches,
    machine: Machine,
    frames: u64,
    /// The scenario's count: deliveries, answers, cycles or connections.
    done: u64,
}

impl Reading {
    /// Reads them now, for a tester with a swarm.
    pub(crate) fn read(server: &Server, swarm: &Swarm, done: u64) -> Result<Self> {
        Self::now(server, swarm.tally().frames, done)
    }

    /// Reads them now; the tester has received `frames` frames.
    pub(crate) fn now(server: &Server, frames: u64, done: u64) -> Result<Self> {
        Ok(Self {
            switches: server.switches()?,
            machine: procfs::machine()?,
            frames,
            done,
            own_cpu_ns: sys::own_cpu_ns()?,
            server_cpu_ns: server.cpu_ns()?,
            at_ns: sys::now_ns(),
        })
    }
}

/// What happened between two instants.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Span {
    pub(crate) seconds: f64,
    pub(crate) done: u64,
    pub(crate) frames: u64,
    /// The server's CPU time; `None` without `--server-pid`, as the next three.
    pub(crate) server_cpu_us: Option<f64>,
    pub(crate) server_core_percent: Option<f64>,
    pub(crate) switches_voluntary: Option<u64>,
    pub(crate) switches_involuntary: Option<u64>,
    pub(crate) own_cpu_us: f64,
    pub(crate) own_core_percent: f64,
    /// CPU time of processes other than the server and this one, in percent of one core. Without
    /// `--server-pid` the server is among the others.
    pub(crate) others_core_percent: f64,
    pub(crate) steal_percent: f64,
}

impl Span {
    /// The difference of two readings of the same server.
    pub(crate) fn between(start: &Reading, end: &Reading, server: &Server) -> Self {
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
            done: end.done - start.done,
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

    /// A span in which nothing happened.
    #[cfg(test)]
    pub(crate) fn nothing() -> Self {
        let server = Server::new(&[]);
        let at = Reading {
            at_ns: 0,
            server_cpu_ns: 0,
            own_cpu_ns: 0,
            switches: Switches::default(),
            machine: Machine::default(),
            frames: 0,
            done: 0,
        };
        Self::between(&at, &at, &server)
    }

    /// The count for each second.
    pub(crate) fn done_per_s(&self) -> f64 {
        self.done as f64 / self.seconds
    }

    /// The server's CPU time per counted item, in microseconds.
    pub(crate) fn server_cpu_us_each(&self) -> Option<f64> {
        self.server_cpu_us.map(|cpu| cpu / self.done.max(1) as f64)
    }

    /// The tester's own CPU time per received frame, in microseconds.
    pub(crate) fn own_cpu_us_per_frame(&self) -> f64 {
        self.own_cpu_us / self.frames.max(1) as f64
    }

    /// Voluntary and involuntary context switches of the server.
    pub(crate) fn switches_in_words(&self) -> String {
        let count = |value: Option<u64>| value.map_or_else(|| "–".to_owned(), |n| n.to_string());
        format!("{} / {}", count(self.switches_voluntary), count(self.switches_involuntary))
    }

    /// Warnings about the results.
    pub(crate) fn warnings(&self, server: &Server) -> Vec<String> {
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

/// One interval of a run.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Sample {
    /// When it ended, in seconds after the run's begin.
    pub(crate) at_s: f64,
    pub(crate) per_s: f64,
    /// Milliseconds; `None` if nothing was timed in it.
    pub(crate) p50: Option<f64>,
    pub(crate) p99: Option<f64>,
    pub(crate) max: Option<f64>,
    /// Resident bytes at its end; `None` without `--server-pid`, as the server's share of a core.
    pub(crate) server_rss: Option<u64>,
    pub(crate) server_core_percent: Option<f64>,
    pub(crate) own_core_percent: f64,
}

/// Takes a [`Sample`] at intervals, and shows the last one on a terminal.
#[derive(Debug)]
pub(crate) struct Recorder {
    every_ns: u64,
    start_ns: u64,
    due_ns: u64,
    last_ns: u64,
    last_done: u64,
    last_server_cpu_ns: u64,
    last_own_cpu_ns: u64,
    samples: Vec<Sample>,
    bar: ProgressBar,
}

impl Recorder {
    /// For a run of `length` that begins now; `every` or a sixtieth of it is the interval.
    pub(crate) fn new(server: &Server, length: Duration, every: Option<Duration>, done: u64) -> Result<Self> {
        let every = every.unwrap_or(length / SAMPLES).max(SHORTEST_SAMPLE);
        let now = sys::now_ns();
        let style = ProgressStyle::with_template("{elapsed} {bar:40} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        Ok(Self {
            every_ns: nanos(every),
            start_ns: now,
            due_ns: now + nanos(every),
            last_ns: now,
            last_done: done,
            last_server_cpu_ns: server.cpu_ns()?,
            last_own_cpu_ns: sys::own_cpu_ns()?,
            samples: Vec::new(),
            bar: ProgressBar::new(u64::try_from(length.as_millis())?).with_style(style),
        })
    }

    /// When [`Self::sample`] is due next.
    pub(crate) fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// Takes a sample if one is due.
    pub(crate) fn sample(&mut self, server: &Server, done: u64, latencies: &mut Latencies) -> Result<()> {
        let now = sys::now_ns();
        if now < self.due_ns {
            return Ok(());
        }
        self.take(now, server, done, latencies)
    }

    fn take(&mut self, now: u64, server: &Server, done: u64, latencies: &mut Latencies) -> Result<()> {
        let (server_cpu, own_cpu) = (server.cpu_ns()?, sys::own_cpu_ns()?);
        let wall = (now - self.last_ns).max(1) as f64;
        let share = |cpu: u64, last: u64| 100.0 * cpu.saturating_sub(last) as f64 / wall;
        let percentiles = latencies.end_interval();
        let sample = Sample {
            at_s: (now - self.start_ns) as f64 / 1e9,
            per_s: (done - self.last_done) as f64 / wall * 1e9,
            p50: percentiles.map(|p| p.p50),
            p99: percentiles.map(|p| p.p99),
            max: percentiles.map(|p| p.max),
            server_rss: server.is_known().then(|| server.rss()).transpose()?,
            server_core_percent: server.is_known().then(|| share(server_cpu, self.last_server_cpu_ns)),
            own_core_percent: share(own_cpu, self.last_own_cpu_ns),
        };
        self.bar.set_position((now - self.start_ns) / 1_000_000);
        let p99 = percentiles.map_or_else(|| "–".to_owned(), |p| format!("{:.2} ms", p.p99));
        self.bar.set_message(format!("{}/s, p99 {p99}", short(sample.per_s)));
        self.samples.push(sample);
        (self.last_ns, self.last_done) = (now, done);
        (self.last_server_cpu_ns, self.last_own_cpu_ns) = (server_cpu, own_cpu);
        // Time slept through becomes one long interval, not many empty ones.
        self.due_ns = now + self.every_ns;
        Ok(())
    }

    /// Ends the run with a last sample, if it is long enough.
    pub(crate) fn finish(
        mut self,
        server: &Server,
        done: u64,
        latencies: &mut Latencies,
    ) -> Result<Vec<Sample>> {
        let now = sys::now_ns();
        if now - self.last_ns >= nanos(SHORTEST_SAMPLE) || self.samples.is_empty() {
            self.take(now, server, done, latencies)?;
        }
        self.bar.finish_and_clear();
        Ok(self.samples)
    }
}

/// A duration from the command line as clock ticks; the longest there are for more than 500 years.
pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 4)
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
            done: 5 * at_s,
        }
    }

    #[test]
    fn a_span_is_the_difference_and_leaves_the_rest_to_others() {
        let server = Server::new(&[1]);
        let span = Span::between(&instant(10, 1, 1, 10), &instant(20, 6, 4, 20), &server);
        assert!((span.seconds - 10.0).abs() < 1e-9);
        assert_eq!((span.frames, span.done), (100, 50));
        assert_eq!(span.server_cpu_us, Some(5e6));
        assert_eq!(span.server_cpu_us_each(), Some(1e5));
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
        assert_eq!(span.switches_in_words(), "– / –");
        let warnings = span.warnings(&server);
        assert!(warnings.len() == 1 && warnings[0].contains("100 %"));
    }

    #[test]
    fn a_sample_is_taken_when_it_is_due_and_not_before() {
        let server = Server::new(&[std::process::id()]);
        let mut latencies = Latencies::new().unwrap();
        let hour = Duration::from_secs(3600);
        let mut recorder = Recorder::new(&server, hour, None, 7).unwrap();
        recorder.sample(&server, 9, &mut latencies).unwrap();
        recorder.due_ns = 0;
        recorder.sample(&server, 9, &mut latencies).unwrap();
        assert!(recorder.due_ns() > sys::now_ns());
        let samples = recorder.finish(&server, 9, &mut latencies).unwrap();
        assert_eq!(samples.len(), 1);
        assert!(samples[0].per_s > 0.0 && samples[0].p50.is_none());
        assert!(samples[0].server_rss.is_some_and(|rss| rss > 0));
    }
}
