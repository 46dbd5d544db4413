//! `publish-http`: a backend emits events by `POST /internal/emit`, over kept connections.
//!
//! The rooms may be empty: the scenario measures the cost of publishing on the nodes and Redis.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;

use crate::args::{OutputArgs, parse_duration};
use crate::check::Faults;
use crate::figures::{short, short_or_dash};
use crate::http::{self, Response};
use crate::latency::{Latencies, Percentiles, in_words_or_dash};
use crate::measure::{Reading, Recorder, Span, nanos};
use crate::output;
use crate::procfs::Server;
use crate::redis_info::{RedisInfo, RedisSpan};
use crate::report::{Found, Report};
use crate::sys;
use crate::url::Url;

/// How long one wait for answers may take while nothing arrives.
const LOOK: Duration = Duration::from_millis(20);

/// How long a node may take until it is ready.
const READY: Duration = Duration::from_secs(10);

/// How long no event may be refused before the warm-up begins.
const SETTLED: Duration = Duration::from_millis(100);

/// Bytes that are read at once.
const READ: usize = 16 * 1024;

/// The flags of `loadtest publish-http`.
#[derive(Args, Debug)]
pub(crate) struct PublishHttpArgs {
    /// Internal listener of a node, http://host:port. Repeat it for several: connections are dealt out to them in turn.
    #[arg(long, default_value = "http://127.0.0.1:9090")]
    url: Vec<Url>,

    /// Connections, each with one request under way.
    #[arg(long, default_value_t = 32)]
    connections: usize,

    /// Rooms that events go to in turn: `PREFIX0`, `PREFIX1`, …
    #[arg(long, default_value_t = 1)]
    rooms: usize,

    /// Prefix of the rooms' names.
    #[arg(long, default_value = "r", value_name = "PREFIX")]
    room_prefix: String,

    /// Namespace of the rooms.
    #[arg(long, default_value = "/relay")]
    namespace: String,

    /// Bytes of content in each event.
    #[arg(long, default_value_t = 128)]
    payload: usize,

    /// Ask for the number of sockets that each event reaches.
    #[arg(long)]
    receipt: bool,

    /// The bearer token of the internal API, if it is set.
    #[arg(long, env = "INTERNAL_TOKEN", hide_env_values = true)]
    internal_token: Option<String>,

    /// Redis of the nodes, host:port: reports its work for each event.
    #[arg(long, value_name = "ADDRESS")]
    redis: Option<SocketAddr>,

    /// Time before the measured window.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    warmup: Duration,

    /// The measured window.
    #[arg(long, default_value = "3s", value_parser = parse_duration)]
    duration: Duration,

    /// Process to measure; repeat it for several nodes.
    #[arg(long, value_name = "PID")]
    server_pid: Vec<u32>,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Serialize)]
struct PublishHttpReport {
    scenario: &'static str,
    connections: usize,
    rooms: usize,
    nodes: usize,
    payload: usize,
    receipt: bool,
    publishes_per_s: f64,
    server_cpu_us_per_publish: Option<f64>,
    /// Redis' work; `None` without `--redis`.
    #[serde(flatten)]
    redis: Option<RedisSpan>,
    latency_ms: Option<Percentiles>,
    #[serde(flatten)]
    found: Found,
}

impl Report for PublishHttpReport {
    fn title(&self) -> String {
        let Self { connections, rooms, nodes, payload, .. } = self;
        format!("publish-http: {connections} connections, {rooms} rooms, {nodes} nodes, {payload} bytes")
    }

    fn rows(&self) -> Vec<(&'static str, String)> {
        let span = &self.found.span;
        let mut rows = vec![
            ("events/s", short(self.publishes_per_s)),
            ("measured", format!("{} events in {:.2} s", span.done, span.seconds)),
            ("server CPU µs/event", short_or_dash(self.server_cpu_us_per_publish)),
            ("latency p50/90/99/99.9/max", in_words_or_dash(self.latency_ms.as_ref())),
        ];
        if let Some(redis) = &self.redis {
            rows.extend([
                ("Redis CPU µs/event", short(redis.redis_cpu_us_per_publish)),
                ("Redis messages/event", short(redis.redis_messages_per_publish)),
                ("Redis scripts/event", short(redis.redis_scripts_per_publish)),
            ]);
        }
        rows
    }

    fn found(&self) -> &Found {
        &self.found
    }
}

/// Runs the scenario. Returns whether every event was accepted.
pub(crate) fn run(args: &PublishHttpArgs) -> Result<bool> {
    if args.connections == 0 || args.rooms == 0 {
        bail!("--connections and --rooms must be at least 1");
    }
    let server = Server::new(&args.server_pid);
    server.cpu_ns()?;
    let mut redis = args.redis.map(RedisInfo::connect).transpose()?;
    let mut publishers = Publishers::connect(args)?;
    publishers.settle()?;
    publishers.publish(args.warmup, None)?;
    let before = redis.as_mut().map(RedisInfo::read).transpose()?;
    publishers.latencies = Latencies::new()?;
    let start = Reading::now(&server, publishers.done, publishers.done)?;
    let mut recorder = Recorder::new(&server, args.duration, None, publishers.done)?;
    publishers.publish(args.duration, Some((&mut recorder, &server)))?;
    let end = Reading::now(&server, publishers.done, publishers.done)?;
    let after = redis.as_mut().map(RedisInfo::read).transpose()?;

    let span = Span::between(&start, &end, &server);
    let samples = recorder.finish(&server, publishers.done, &mut publishers.latencies)?;
    let warnings = span.warnings(&server);
    let curves = vec![("latency", publishers.latencies.curve())];
    let found = Found { faults: publishers.faults, span, samples, counted: "events", curves, warnings };
    let report = PublishHttpReport {
        scenario: "publish-http",
        connections: args.connections,
        rooms: args.rooms,
        nodes: args.url.len(),
        payload: args.payload,
        receipt: args.receipt,
        publishes_per_s: span.done_per_s(),
        server_cpu_us_per_publish: span.server_cpu_us_each(),
        redis: before.zip(after).map(|(before, after)| RedisSpan::between(&before, &after, span.done)),
        latency_ms: publishers.latencies.percentiles(),
        found,
    };
    output::show(&report, &args.output)
}

/// One connection and its request under way.
struct Publisher {
    stream: TcpStream,
    /// One request for each room, used in turn.
    requests: Vec<Vec<u8>>,
    next: usize,
    written: usize,
    sent_ns: u64,
    input: Vec<u8>,
}

/// All connections.
struct Publishers {
    poll: Poll,
    each: Vec<Option<Publisher>>,
    latencies: Latencies,
    done: u64,
    faults: Faults,
}

impl Publishers {
    fn connect(args: &PublishHttpArgs) -> Result<Self> {
        let poll = Poll::new()?;
        let mut each = Vec::with_capacity(args.connections);
        for (at, url) in args.url.iter().cycle().take(args.connections).enumerate() {
            let stream =
                std::net::TcpStream::connect(url.address).with_context(|| format!("{}", url.address))?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            poll.registry().register(&mut stream, Token(at), Interest::READABLE | Interest::WRITABLE)?;
            let requests = (0..args.rooms).map(|room| request(args, url, room)).collect();
            let next = at % args.rooms;
            each.push(Some(Publisher { stream, requests, next, written: 0, sent_ns: 0, input: Vec::new() }));
        }
        Ok(Self { poll, each, latencies: Latencies::new()?, done: 0, faults: Faults::default() })
    }

    /// Publishes until no event is refused: a node that has just started is not ready yet.
    fn settle(&mut self) -> Result<()> {
        let until_ns = sys::now_ns() + nanos(READY);
        loop {
            self.faults.refused = 0;
            self.publish(SETTLED, None)?;
            if self.faults.refused == 0 {
                return Ok(());
            }
            if sys::now_ns() >= until_ns {
                bail!("the server refuses events");
            }
        }
    }

    /// Keeps a request under way on each connection for this time. At the end each has its answer.
    fn publish(&mut self, time: Duration, mut recorded: Option<(&mut Recorder, &Server)>) -> Result<()> {
        let until_ns = sys::now_ns() + nanos(time);
        let mut under_way = 0;
        for at in 0..self.each.len() {
            under_way += usize::from(self.begin(at)?);
        }
        let mut events = Events::with_capacity(1_024);
        while under_way > 0 {
            self.poll.poll(&mut events, Some(LOOK))?;
            for event in &events {
                let Token(at) = event.token();
                if event.is_writable() {
                    self.write(at)?;
                }
                if event.is_readable() {
                    under_way -= self.read(at, until_ns)?;
                }
            }
            if let Some((recorder, server)) = &mut recorded {
                recorder.sample(server, self.done, &mut self.latencies)?;
            }
        }
        if self.each.iter().all(Option::is_none) {
            bail!("the server has closed all connections");
        }
        Ok(())
    }

    /// Sends a connection's next request; false without a connection.
    fn begin(&mut self, at: usize) -> Result<bool> {
        let Some(publisher) = &mut self.each[at] else { return Ok(false) };
        publisher.next = (publisher.next + 1) % publisher.requests.len();
        (publisher.written, publisher.sent_ns) = (0, sys::now_ns());
        self.write(at)?;
        Ok(true)
    }

    fn write(&mut self, at: usize) -> Result<()> {
        let Some(publisher) = &mut self.each[at] else { return Ok(()) };
        let request = &publisher.requests[publisher.next];
        while publisher.written < request.len() {
            match publisher.stream.write(&request[publisher.written..]) {
                Ok(written) => publisher.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Reading detects the end of the connection.
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Reads the available bytes of a connection, and sends its next request before `until_ns`. Returns 1 when nothing is
    /// under way on it any more.
    fn read(&mut self, at: usize, until_ns: u64) -> Result<usize> {
        let mut buffer = [0; READ];
        loop {
            let Some(publisher) = &mut self.each[at] else { return Ok(0) };
            match publisher.stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => publisher.input.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
                Err(_) => break,
            }
            let Some(Response { status, bytes }) = http::response(&publisher.input)? else { continue };
            publisher.input.drain(..bytes);
            let now = sys::now_ns();
            self.latencies.record(now.saturating_sub(publisher.sent_ns));
            self.done += 1;
            self.faults.refused += u64::from(status != 200);
            if now >= until_ns {
                return Ok(1);
            }
            self.begin(at)?;
        }
        self.each[at] = None;
        self.faults.disconnected += 1;
        Ok(1)
    }
}

/// A whole request for one event.
fn request(args: &PublishHttpArgs, url: &Url, room: usize) -> Vec<u8> {
    let mut body = serde_json::json!({
        "namespace": args.namespace,
        "to": {"room": format!("{}{room}", args.room_prefix)},
        "event": "new_message",
        "data": {"content": "x".repeat(args.payload)},
    });
    if args.receipt {
        body["receipt"] = true.into();
    }
    let headers = args.internal_token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
    http::post("/internal/emit", &url.host, headers.as_deref().unwrap_or_default(), &body.to_string())
}
