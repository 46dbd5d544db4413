//! Every metric: its name, its help, and its handle, made once.
//!
//! No label is ever made from what a stranger sends: labels are the closed enums of this file. What the
//! fan-out counts for itself is read when `/metrics` is asked ([`Metrics::refresh`]), and so is what the kernel
//! counts of the process ([`process`]).
#![expect(clippy::disallowed_macros, reason = "the one file that makes handles")]

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

/// A limit that was met.
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

/// What had to go because a share was used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evicted {
    /// A session in no namespace.
    Session,
    /// A connection whose client is not known.
    Connection,
    /// Unfinished input.
    Input,
}

impl Evicted {
    const ALL: [(Self, &'static str); 3] =
        [(Self::Session, "session"), (Self::Connection, "connection"), (Self::Input, "input")];
}

/// A share of the node: how much of it is used, and how much may be. 0: no limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    /// The value of the label `share`.
    pub(crate) name: &'static str,
    pub(crate) used: usize,
    pub(crate) max: usize,
}

/// What became of a request for push notifications, or of one try.
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

/// Input that follows no rule, by where it was found.
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

/// The node's metrics. Before [`install`] (in unit tests) they count into nothing.
pub(crate) fn get() -> &'static Metrics {
    METRICS.get_or_init(|| Metrics::new(&[]))
}

/// Sets the recorder up; `/metrics` is rendered from the handle. Events are counted for these apps, each by its number
/// among them.
///
/// # Errors
/// When a recorder is installed already.
pub(crate) fn install(apps: &[&'static str]) -> Result<PrometheusHandle, BuildError> {
    // A process has one recorder, also where it has several nodes, as tests do.
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
    // Every handle is made now, so that every metric is there from the first scrape on.
    METRICS.get_or_init(|| Metrics::new(apps));
    gauge!("muster_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        gauge!("muster_workers").set(runtime.metrics().num_workers() as f64);
    }
    *installed = Some(handle.clone());
    Ok(handle)
}

fn describe() {
    describe_gauge!("muster_build_info", "Version of the node; always 1.");
    describe_gauge!("muster_workers", "Worker threads: the cores that the node may keep busy.");
    describe_gauge!("muster_connections", "Open sessions by transport.");
    describe_gauge!("muster_tunnels", "WebSockets carried to the nodes of their sessions.");
    describe_counter!("muster_sessions_opened_total", "Engine.IO sessions opened.");
    describe_counter!("muster_sessions_closed_total", "Engine.IO sessions closed, by reason.");
    describe_counter!("muster_packets_received_total", "Engine.IO packets received.");
    describe_counter!("muster_packets_sent_total", "Packets given to transports.");
    describe_counter!("muster_bytes_received_total", "Bytes received in frames and polling bodies.");
    describe_counter!("muster_bytes_sent_total", "Bytes given to transports.");
    describe_counter!("muster_events_total", "Events of clients, by app and outcome.");
    describe_counter!("muster_joins_total", "Sockets that entered a room on this node.");
    describe_counter!("muster_broadcasts_total", "Broadcasts made to rooms with members on this node.");
    describe_counter!("muster_deliveries_total", "Packets put into send queues by broadcasts.");
    describe_counter!("muster_batches_total", "Times a room's broadcasts were delivered together.");
    describe_counter!("muster_writes_total", "Writes to WebSockets.");
    describe_counter!("muster_bad_input_total", "Input that follows no rule, by where it was found.");
    describe_counter!("muster_handshakes_refused_total", "Refused requests to /socket.io/, by reason.");
    describe_counter!(
        "muster_rate_limited_total",
        "Requests, events and connections over a limit, by limit."
    );
    describe_counter!(
        "muster_tokens_refused_total",
        "Tokens refused on CONNECT, refresh and REST, by reason."
    );
    describe_gauge!("muster_logins_waiting", "Logins that wait until their password can be hashed.");
    describe_counter!("muster_log_lines_dropped_total", "Log lines dropped because nobody read them.");
    describe_counter!("muster_outbox_overflows_total", "Sessions whose send queue passed its bounds.");
    describe_counter!(
        "muster_volatile_dropped_total",
        "Volatile packets dropped for clients who could not take them."
    );
    describe_counter!("muster_records_errors_total", "Database errors.");
    describe_histogram!("muster_records_seconds", "Time of one database transaction.");
    describe_gauge!(
        "muster_jobs_due",
        "What must follow from records and has been due for more than 5 s, such as events that cannot be delivered."
    );
    describe_histogram!(
        "muster_delivery_lag_seconds",
        "Time from a batch's first broadcast to its being in every member's send queue."
    );
    describe_histogram!("muster_fanout_size", "Members of this node that a batch of broadcasts went to.");
    describe_redis();
    describe_counter!(
        "muster_push_requests_total",
        "Requests for push notifications that were sent, given up or dropped, and tries that failed."
    );
    describe_counter!(
        "muster_evicted_total",
        "Sessions, connections and unfinished input that had to go because a share was used up."
    );
    describe_gauge!("muster_share_used", "How much of a share of the node is used: places or bytes.");
    describe_gauge!("muster_share_max", "How much of a share of the node may be used; 0: no limit.");
    describe_gauge!("muster_drain_remaining", "Sessions and tunnels that a drain has still to close.");
}

fn describe_redis() {
    describe_counter!("muster_redis_published_total", "Broadcasts published on Redis.");
    describe_counter!("muster_redis_heard_total", "Messages heard from Redis.");
    describe_counter!(
        "muster_redis_errors_total",
        "Commands that Redis refused, failed or did not answer in time."
    );
    describe_counter!(
        "muster_redis_reconnects_total",
        "Connections to Redis that were lost or could not be made."
    );
    describe_counter!("muster_redis_malformed_total", "Messages from Redis that could not be used.");
    describe_counter!("muster_lease_losses_total", "Times this node found its lease lost.");
    describe_counter!(
        "muster_resyncs_total",
        "Times a room, or all sockets of a namespace, were told that they may have missed something."
    );
    describe_gauge!(
        "muster_canary_lag_seconds",
        "Time the last canary took through Redis and back, or for which one has not come back."
    );
    describe_gauge!("muster_redis_up", "1 when Redis can be used and the lease is held; also without Redis.");
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

    /// Counts an event of the app with this number.
    pub(crate) fn event(&self, app: usize, outcome: Outcome) {
        let outcome = Outcome::ALL.iter().position(|(other, _)| *other == outcome);
        add_at(&self.events, outcome.map(|outcome| app * Outcome::ALL.len() + outcome));
    }

    /// Counts input that follows no rule.
    pub(crate) fn bad_input(&self, kind: BadInput) {
        add_at(&self.bad_input, BadInput::ALL.iter().position(|(other, _)| *other == kind));
    }

    /// Counts something over a limit.
    pub(crate) fn rate_limited(&self, limit: Limit) {
        add_at(&self.limits, Limit::ALL.iter().position(|(other, _)| *other == limit));
    }

    /// Counts what became of a push request.
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

    /// Counts what had to go for a share.
    pub(crate) fn evicted(&self, what: Evicted) {
        add_at(&self.evicted, Evicted::ALL.iter().position(|(other, _)| *other == what));
    }

    /// Takes over what the fan-out counted.
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

const REFUSALS: [HandshakeError; 8] = [
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
    #[expect(clippy::cast_precision_loss, reason = "gauges")]
    for Share { name, used, max } in shares {
        gauge!("muster_share_used", "share" => *name).set(*used as f64);
        gauge!("muster_share_max", "share" => *name).set(*max as f64);
    }
    handle.run_upkeep();
    handle.render() + &process::render()
}
