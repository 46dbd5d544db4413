//! Every metric: its name, its help, and its handle, which is created once.
//!
//! Labels come only from the closed enums of this file, never from client input. [`Metrics::refresh`] copies the
//! fan-out's counters when `/metrics` is requested; [`process`] reads the kernel's counters of the process.
#![expect(clippy::disallowed_macros, reason = "the one file that creates handles")]

mod catalogue;
mod process;

use std::sync::{Arc, OnceLock};

use fanout::Distributions;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use parking_lot::Mutex;
use shared::auth::AuthError;
use shared::eio::{HandshakeError, TransportName};

use crate::close::CloseReason;

pub(crate) use catalogue::{Entry, catalogue};

/// How an event ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Ok,
    BadInput,
    Refused,
    Limited,
    Failed,
    Panicked,
}

impl Outcome {
    const ALL: [(Self, &'static str); 6] = [
        (Self::Ok, "ok"),
        (Self::BadInput, "bad_input"),
        (Self::Refused, "refused"),
        (Self::Limited, "limited"),
        (Self::Failed, "failed"),
        (Self::Panicked, "panicked"),
    ];
}

/// A limit that was exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    EventsPerSecond,
    EventsOfUser,
    ControlFrames,
    IgnoredPackets,
    Connects,
    UnaskedAcks,
    Fragments,
    PartialReads,
    RoomsPerSocket,
    SocketsPerUser,
    ConnectionsPerAddress,
    HandshakesPerAddress,
    MaxConnections,
    Logins,
    PasswordHashes,
    Questions,
    UserRate,
    WatchedPerUser,
}

/// What was evicted because a share was used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evicted {
    /// A session in no namespace.
    Session,
    /// A connection without an authenticated client.
    Connection,
    /// Unfinished input.
    Input,
}

impl Evicted {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Session, "session"), (Self::Connection, "connection"), (Self::Input, "input")];
}

/// A share of the node's capacity: how much of it is used, and the maximum; 0 means no limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    /// The value of the label `share`.
    pub(crate) name: &'static str,
    pub(crate) used: usize,
    pub(crate) max: usize,
}

/// The outcome of a push request, or of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Push {
    Sent,
    Retried,
    Failed,
    Dropped,
}

impl Push {
    const ALL: [(Self, &'static str); 4] = [
        (Self::Sent, "sent"),
        (Self::Retried, "retried"),
        (Self::Failed, "failed"),
        (Self::Dropped, "dropped"),
    ];
}

impl Limit {
    const ALL: [(Self, &'static str); 18] = [
        (Self::EventsPerSecond, "events_per_second"),
        (Self::EventsOfUser, "events_of_user"),
        (Self::ControlFrames, "control_frames"),
        (Self::IgnoredPackets, "ignored_packets"),
        (Self::Connects, "connects"),
        (Self::UnaskedAcks, "unasked_acks"),
        (Self::Fragments, "fragments"),
        (Self::PartialReads, "partial_reads"),
        (Self::RoomsPerSocket, "rooms_per_socket"),
        (Self::SocketsPerUser, "sockets_per_user"),
        (Self::ConnectionsPerAddress, "connections_per_address"),
        (Self::HandshakesPerAddress, "handshakes_per_address"),
        (Self::MaxConnections, "max_connections"),
        (Self::Logins, "logins"),
        (Self::PasswordHashes, "password_hashes"),
        (Self::Questions, "questions"),
        (Self::UserRate, "user_rate"),
        (Self::WatchedPerUser, "watched_per_user"),
    ];
}

/// Invalid input, by where it was detected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadInput {
    WebSocketFrame,
    EnginePacket,
    SocketPacket,
    Payload,
    Handshake,
    Internal,
    InternalPage,
}

impl BadInput {
    const ALL: [(Self, &'static str); 7] = [
        (Self::WebSocketFrame, "websocket_frame"),
        (Self::EnginePacket, "engine_packet"),
        (Self::SocketPacket, "socket_packet"),
        (Self::Payload, "payload"),
        (Self::Handshake, "handshake"),
        (Self::Internal, "internal_on_public"),
        (Self::InternalPage, "page_on_internal"),
    ];
}

/// The handles.
pub(crate) struct Metrics {
    pub(crate) sessions_opened: Counter,
    pub(crate) packets_received: Counter,
    pub(crate) bytes_received: Counter,
    pub(crate) records_errors: Counter,
    pub(crate) records_seconds: Histogram,
    pub(crate) jobs_due: Gauge,
    pub(crate) tunnels: Gauge,
    pub(crate) drain_remaining: Gauge,
    pub(crate) logins_waiting: Gauge,
    log_lines_dropped: Counter,
    connections: [Gauge; 2],
    closed: Vec<Counter>,
    events: Vec<Counter>,
    bad_input: Vec<Counter>,
    limits: Vec<Counter>,
    push: Vec<Counter>,
    handshakes_refused: Vec<Counter>,
    evicted: Vec<Counter>,
    tokens_refused: Vec<Counter>,
    fanout: FanoutMetrics,
}

struct FanoutMetrics {
    joins: Counter,
    broadcasts: Counter,
    deliveries: Counter,
    batches: Counter,
    volatile_dropped: Counter,
    overflows: Counter,
    bytes_sent: Counter,
    packets_sent: Counter,
    writes: Counter,
    published: Counter,
    heard: Counter,
    redis_errors: Counter,
    redis_reconnects: Counter,
    redis_malformed: Counter,
    lease_losses: Counter,
    resyncs: Counter,
    canary_lag: Gauge,
    redis_up: Gauge,
    channels: Gauge,
}

static METRICS: OnceLock<Metrics> = OnceLock::new();

/// The node's metrics. Before [`install`] (in unit tests) they are discarded.
pub(crate) fn get() -> &'static Metrics {
    METRICS.get_or_init(|| Metrics::new(&[]))
}

/// Installs the recorder; the returned handle renders `/metrics`. Each app counts events under its index in `apps`.
///
/// # Errors
/// If another recorder is installed.
pub(crate) fn install(apps: &[&'static str]) -> Result<PrometheusHandle, BuildError> {
    // A process has one recorder, even if it runs several nodes, as tests do.
    static INSTALLED: Mutex<Option<PrometheusHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock();
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let sizes = [1.0, 2.0, 5.0, 10.0, 50.0, 100.0, 500.0, 1_000.0, 5_000.0, 10_000.0, 50_000.0];
    let latency =
        [0.00005, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &latency)?
        .set_buckets_for_metric(Matcher::Full("muster_fanout_size".to_owned()), &sizes)?
        .install_recorder()?;
    describe();
    // Creates all handles now, so that every metric exists from the first scrape.
    METRICS.get_or_init(|| Metrics::new(apps));
    register_build();
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        gauge!("muster_workers").set(runtime.metrics().num_workers() as f64);
    }
    *installed = Some(handle.clone());
    Ok(handle)
}

fn register_build() {
    gauge!("muster_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// The names of the shares in `/metrics`.
pub(crate) const SHARES: [&str; 8] = [
    "sessions",
    "sessions_in_namespaces",
    "sessions_pending",
    "connections",
    "connections_unknown",
    "connections_unknown_bytes",
    "unfinished_pending_bytes",
    "unfinished_bytes",
];

#[expect(clippy::cast_precision_loss, reason = "gauges")]
fn register_shares(shares: &[Share]) {
    for Share { name, used, max } in shares {
        gauge!("muster_share_used", "share" => *name).set(*used as f64);
        gauge!("muster_share_max", "share" => *name).set(*max as f64);
    }
}

fn describe() {
    describe_gauge!("muster_build_info", "Version of the node; always 1.");
    describe_gauge!("muster_workers", "Worker threads, that is, how many cores the node can use.");
    describe_gauge!("muster_connections", "Open sessions, by transport.");
    describe_gauge!("muster_tunnels", "WebSockets that this node tunnels to the nodes of their sessions.");
    describe_counter!("muster_sessions_opened_total", "Engine.IO sessions opened.");
    describe_counter!("muster_sessions_closed_total", "Engine.IO sessions closed, by reason.");
    describe_counter!("muster_packets_received_total", "Engine.IO packets received.");
    describe_counter!("muster_packets_sent_total", "Packets passed to transports.");
    describe_counter!("muster_bytes_received_total", "Bytes received in frames and polling bodies.");
    describe_counter!("muster_bytes_sent_total", "Bytes passed to transports.");
    describe_counter!("muster_events_total", "Events received from clients, by app and outcome.");
    describe_counter!("muster_joins_total", "Room joins of this node's sockets.");
    describe_counter!("muster_broadcasts_total", "Broadcasts to rooms with members on this node.");
    describe_counter!("muster_deliveries_total", "Packets that broadcasts added to send queues.");
    describe_counter!(
        "muster_batches_total",
        "Batches of broadcasts that were delivered to a room together."
    );
    describe_counter!("muster_writes_total", "Writes to WebSockets.");
    describe_counter!("muster_bad_input_total", "Invalid input, by where it was detected.");
    describe_counter!("muster_handshakes_refused_total", "Refused requests to /socket.io/, by reason.");
    describe_counter!(
        "muster_rate_limited_total",
        "Requests, events and connections over a limit, by limit."
    );
    describe_counter!(
        "muster_tokens_refused_total",
        "Tokens refused on CONNECT, refresh and REST, by reason."
    );
    describe_gauge!("muster_logins_waiting", "Logins that wait for their password to be hashed.");
    describe_counter!(
        "muster_log_lines_dropped_total",
        "Log lines dropped because the output was read too slowly."
    );
    describe_counter!("muster_outbox_overflows_total", "Sessions whose send queue exceeded its bounds.");
    describe_counter!(
        "muster_volatile_dropped_total",
        "Volatile packets dropped because the client could not receive them at once."
    );
    describe_counter!("muster_records_errors_total", "Database errors.");
    describe_histogram!("muster_records_seconds", "Duration of a database transaction.");
    describe_gauge!(
        "muster_jobs_due",
        "Jobs of the transactional outbox that have been due for more than 5 s, such as events that cannot be delivered."
    );
    describe_histogram!(
        "muster_delivery_lag_seconds",
        "Time from a batch's first broadcast until it is in every member's send queue."
    );
    describe_histogram!("muster_fanout_size", "Members on this node that received a batch of broadcasts.");
    describe_redis();
    describe_counter!(
        "muster_push_requests_total",
        "Push requests that were sent, failed finally or were dropped, and attempts that were retried."
    );
    describe_counter!(
        "muster_evicted_total",
        "Sessions, connections and unfinished input evicted because a share was used up."
    );
    describe_gauge!("muster_share_used", "How much of a share of the node is used, in slots or bytes.");
    describe_gauge!(
        "muster_share_max",
        "Maximum of a share of the node, in slots or bytes; 0 means no limit."
    );
    describe_gauge!("muster_drain_remaining", "Sessions and tunnels that the drain still has to close.");
}

fn describe_redis() {
    describe_counter!("muster_redis_published_total", "Broadcasts published on Redis.");
    describe_counter!("muster_redis_heard_total", "Messages received from Redis.");
    describe_counter!(
        "muster_redis_errors_total",
        "Commands that Redis refused, failed or did not answer in time."
    );
    describe_counter!(
        "muster_redis_reconnects_total",
        "Connections to Redis that were lost or could not be established."
    );
    describe_counter!("muster_redis_malformed_total", "Malformed messages from Redis.");
    describe_counter!("muster_lease_losses_total", "How often this node lost its lease.");
    describe_counter!(
        "muster_resyncs_total",
        "How often a room, or all sockets of a namespace, were notified that they may have missed events."
    );
    describe_gauge!(
        "muster_canary_lag_seconds",
        "Round-trip time of the last canary through Redis, or how long one has been missing."
    );
    describe_gauge!(
        "muster_redis_up",
        "1 if Redis works and the node holds its lease, or if the node uses no Redis."
    );
    describe_gauge!("muster_redis_channels", "Channels subscribed.");
}

impl Metrics {
    fn new(apps: &[&'static str]) -> Self {
        let labelled = |name: &'static str, key: &'static str, values: &[&'static str]| {
            values.iter().map(|value| counter!(name, key => *value)).collect::<Vec<_>>()
        };
        let names = |pairs: &[(Limit, &'static str)]| pairs.iter().map(|pair| pair.1).collect::<Vec<_>>();
        let kinds: Vec<_> = BadInput::ALL.iter().map(|pair| pair.1).collect();
        let reasons: Vec<_> = CloseReason::ALL.iter().map(|reason| reason.as_str()).collect();
        let refusals: Vec<_> = REFUSALS.iter().map(|refusal| refusal.kind()).collect();
        let events = apps
            .iter()
            .flat_map(|app| Outcome::ALL.iter().map(move |(_, outcome)| (*app, *outcome)))
            .map(|(app, outcome)| counter!("muster_events_total", "app" => app, "outcome" => outcome))
            .collect();
        let connections = [TransportName::Polling, TransportName::WebSocket]
            .map(|transport| gauge!("muster_connections", "transport" => transport.as_str()));
        Self {
            sessions_opened: counter!("muster_sessions_opened_total"),
            packets_received: counter!("muster_packets_received_total"),
            bytes_received: counter!("muster_bytes_received_total"),
            records_errors: counter!("muster_records_errors_total"),
            records_seconds: histogram!("muster_records_seconds"),
            jobs_due: gauge!("muster_jobs_due"),
            tunnels: gauge!("muster_tunnels"),
            drain_remaining: gauge!("muster_drain_remaining"),
            logins_waiting: gauge!("muster_logins_waiting"),
            log_lines_dropped: counter!("muster_log_lines_dropped_total"),
            connections,
            closed: labelled("muster_sessions_closed_total", "reason", &reasons),
            events,
            bad_input: labelled("muster_bad_input_total", "kind", &kinds),
            limits: labelled("muster_rate_limited_total", "limit", &names(&Limit::ALL)),
            push: labelled("muster_push_requests_total", "outcome", &Push::ALL.map(|(_, outcome)| outcome)),
            handshakes_refused: labelled("muster_handshakes_refused_total", "reason", &refusals),
            tokens_refused: labelled("muster_tokens_refused_total", "reason", &AuthError::REASONS),
            evicted: labelled("muster_evicted_total", "what", &Evicted::ALL.map(|(_, what)| what)),
            fanout: FanoutMetrics {
                joins: counter!("muster_joins_total"),
                broadcasts: counter!("muster_broadcasts_total"),
                deliveries: counter!("muster_deliveries_total"),
                batches: counter!("muster_batches_total"),
                volatile_dropped: counter!("muster_volatile_dropped_total"),
                overflows: counter!("muster_outbox_overflows_total"),
                bytes_sent: counter!("muster_bytes_sent_total"),
                packets_sent: counter!("muster_packets_sent_total"),
                writes: counter!("muster_writes_total"),
                published: counter!("muster_redis_published_total"),
                heard: counter!("muster_redis_heard_total"),
                redis_errors: counter!("muster_redis_errors_total"),
                redis_reconnects: counter!("muster_redis_reconnects_total"),
                redis_malformed: counter!("muster_redis_malformed_total"),
                lease_losses: counter!("muster_lease_losses_total"),
                resyncs: counter!("muster_resyncs_total"),
                canary_lag: gauge!("muster_canary_lag_seconds"),
                redis_up: gauge!("muster_redis_up"),
                channels: gauge!("muster_redis_channels"),
            },
        }
    }

    /// The gauge of open sessions on a transport.
    pub(crate) fn connections(&self, transport: TransportName) -> &Gauge {
        match transport {
            TransportName::Polling => &self.connections[0],
            TransportName::WebSocket => &self.connections[1],
        }
    }

    /// Counts a closed session.
    pub(crate) fn closed(&self, reason: CloseReason) {
        add_at(&self.closed, CloseReason::ALL.iter().position(|other| *other == reason));
    }

    /// Counts an event of the app with this index.
    pub(crate) fn event(&self, app: usize, outcome: Outcome) {
        let outcome = Outcome::ALL.iter().position(|(other, _)| *other == outcome);
        add_at(&self.events, outcome.map(|outcome| app * Outcome::ALL.len() + outcome));
    }

    /// Counts invalid input.
    pub(crate) fn bad_input(&self, kind: BadInput) {
        add_at(&self.bad_input, BadInput::ALL.iter().position(|(other, _)| *other == kind));
    }

    /// Counts an exceeded limit.
    pub(crate) fn rate_limited(&self, limit: Limit) {
        add_at(&self.limits, Limit::ALL.iter().position(|(other, _)| *other == limit));
    }

    /// Counts the outcome of a push request.
    pub(crate) fn push(&self, push: Push) {
        add_at(&self.push, Push::ALL.iter().position(|(other, _)| *other == push));
    }

    /// Counts a refused request to the engine.
    pub(crate) fn handshake_refused(&self, refusal: HandshakeError) {
        add_at(&self.handshakes_refused, REFUSALS.iter().position(|other| *other == refusal));
    }

    /// Counts a refused token.
    pub(crate) fn token_refused(&self, error: &AuthError) {
        let reason = error.reason();
        add_at(&self.tokens_refused, AuthError::REASONS.iter().position(|other| *other == reason));
    }

    /// Counts an eviction.
    pub(crate) fn evicted(&self, what: Evicted) {
        add_at(&self.evicted, Evicted::ALL.iter().position(|(other, _)| *other == what));
    }

    /// Copies the fan-out's counters.
    pub(crate) fn refresh(&self, stats: fanout::StatsSnapshot) {
        self.log_lines_dropped.absolute(crate::telemetry::dropped_lines());
        self.fanout.joins.absolute(stats.joins);
        self.fanout.broadcasts.absolute(stats.broadcasts);
        self.fanout.deliveries.absolute(stats.deliveries);
        self.fanout.batches.absolute(stats.batches);
        self.fanout.volatile_dropped.absolute(stats.volatile_dropped);
        self.fanout.overflows.absolute(stats.overflows);
        self.fanout.bytes_sent.absolute(stats.bytes_sent);
        self.fanout.packets_sent.absolute(stats.packets_sent);
        self.fanout.writes.absolute(stats.writes);
        self.fanout.published.absolute(stats.published);
        self.fanout.heard.absolute(stats.heard);
        self.fanout.redis_errors.absolute(stats.redis_errors);
        self.fanout.redis_reconnects.absolute(stats.redis_reconnects);
        self.fanout.redis_malformed.absolute(stats.redis_malformed);
        self.fanout.lease_losses.absolute(stats.lease_losses);
        self.fanout.resyncs.absolute(stats.resyncs);
        self.fanout.redis_up.set(if stats.redis_up || !stats.clustered { 1.0 } else { 0.0 });
        #[expect(clippy::cast_precision_loss, reason = "gauges")]
        {
            self.fanout.canary_lag.set(stats.canary_lag_us as f64 / 1e6);
            self.fanout.channels.set(stats.channels as f64);
        }
    }
}

/// Every refusal of the engine, once.
pub(crate) const REFUSALS: [HandshakeError; 8] = [
    HandshakeError::UnknownTransport,
    HandshakeError::UnknownSession,
    HandshakeError::BadMethod,
    HandshakeError::BadRequest,
    HandshakeError::Forbidden,
    HandshakeError::UnsupportedVersion,
    HandshakeError::AtCapacity,
    HandshakeError::TooManyRequests,
];

fn add_at(counters: &[Counter], at: Option<usize>) {
    if let Some(counter) = at.and_then(|at| counters.get(at)) {
        counter.increment(1);
    }
}

/// Where the fan-out observes deliveries.
pub(crate) fn distributions() -> Distributions {
    Distributions {
        delivery_lag: histogram!("muster_delivery_lag_seconds"),
        fanout_size: histogram!("muster_fanout_size"),
    }
}

/// Renders `/metrics`.
pub(crate) fn render(
    handle: &Arc<PrometheusHandle>,
    stats: fanout::StatsSnapshot,
    shares: &[Share],
) -> String {
    get().refresh(stats);
    register_shares(shares);
    handle.run_upkeep();
    handle.render() + &process::render()
}
