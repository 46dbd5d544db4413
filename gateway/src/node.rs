//! A node: starts, connects and stops all parts. Only this file knows all of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanout::{ClusterOptions, Events, Fanout, FanoutOptions, SendQueueLimits};
use shared::config::{ClusterConfig, Config, RedisAddress, TokenKeys};
use shared::ids::NodeId;
use shared::limits::{
    DRAIN_LAST_GETS_MS, INTERNAL_CONNECTIONS, LAST_WORDS_MS, PENDING_AUTO_MAX, PENDING_AUTO_MIN,
    RESERVED_FILES, STRANGERS_MAX_BYTES, STRANGERS_UNFINISHED_MAX_BYTES,
};
use shared::names::Namespace;
use tokio_util::sync::CancellationToken;

use crate::acks::Acks;
use crate::apps::{self, Mount};
use crate::auth::{Tokens, TokensError};
use crate::close::CloseReason;
use crate::context::Context;
use crate::control::{self, AppRunner};
use crate::http::guard::Guard;
use crate::http::health::becomes_ready;
use crate::http::listener::{self, Door};
use crate::http::login::{Login, LoginError};
use crate::http::{Site, internal_router, public_router};
use crate::jobs::{self, Jobs};
use crate::memory::{self, Keeper};
use crate::metrics;
use crate::namespace::{Collision, Namespaces};
use crate::push::Pusher;
use crate::records::{OpenError, Records};
use crate::session::{Bounds, Engine, Inputs, Session, SessionTable};
use crate::tasks::Tasks;
use crate::transport::{Gate, Peers, PlaceLimits, Places, Transports, Tunnels};

/// How long tasks and connections may take to end after all sessions are closed.
const LAST_WORDS: Duration = Duration::from_millis(LAST_WORDS_MS);

/// The longest pause between two closed connections, so that a small node drains fast.
const DRAIN_GAP: Duration = Duration::from_secs(1);

/// How often a node whose database or Redis does not answer yet retries to find out whether another node shares its
/// records.
const SHARING_RETRY: Duration = Duration::from_millis(200);

/// A running node.
pub(crate) struct Node {
    pub(crate) public: SocketAddr,
    pub(crate) internal: SocketAddr,
    pub(crate) id: NodeId,
    context: Context,
    transports: Arc<Transports>,
    stopping: CancellationToken,
    drain_window: Duration,
    /// How many files the process may open.
    pub(crate) files: u64,
    /// Maximum number of open sessions; 0 means no limit.
    pub(crate) max_connections: usize,
    /// For the task that logs when the node is ready; the task drops its copy then.
    site: Site,
}

/// The node cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error("{setting}: cannot listen on {address}: {source}")]
    Listen { setting: &'static str, address: SocketAddr, source: std::io::Error },
    #[error(transparent)]
    Tokens(#[from] TokensError),
    #[error(transparent)]
    Records(#[from] OpenError),
    #[error(transparent)]
    Collision(#[from] Collision),
    #[error("cannot set metrics up: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    #[error("cannot set the client for push notifications up: {0}")]
    Push(#[from] reqwest::Error),
    #[error("cannot start the thread that keeps the lease: {0}")]
    Thread(std::io::Error),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error("cannot use REDIS_CA_CERT: {path}: {cause}")]
    RedisAuthorities { path: String, cause: String },
}

impl Node {
    /// Starts every part. A node without a configured secret uses `secret`.
    ///
    /// # Errors
    /// [`StartError`], for the operator. Nothing keeps running.
    pub(crate) async fn start(config: Config, secret: &str) -> Result<Self, StartError> {
        let metrics = Arc::new(metrics::install(&apps::names())?);
        let tokens = Arc::new(Tokens::new(&config.auth, || secret.to_owned())?);
        let (public_listener, public) = listen("LISTEN", config.listen)?;
        let (internal_listener, internal) = listen("INTERNAL_LISTEN", config.internal_listen)?;
        let records = Records::start(&config.database_url.0).await?;
        let id = NodeId::from_random(rand::random());
        let (fanout, events) = Fanout::new(fanout_options(&config, id, internal)?);
        let tasks = Tasks::default();
        start_sharing(&config, &records, &fanout, &tasks).await;
        let jobs = Jobs::new(fanout.clone(), records.clone(), tasks.clone());
        let pusher = Pusher::start(&config.apps, &tasks)?;
        let context = Context {
            fanout,
            records,
            tokens,
            tasks,
            acks: Acks::default(),
            access: Arc::default(),
            jobs,
            pusher,
            settings: Arc::new(config.apps.clone()),
            internal_token: config.auth.internal_token.as_ref().map(|token| token.0.as_str().into()),
        };
        let internal_token = &context.internal_token;
        let places = by_files(RESERVED_FILES / 2);
        let transports = Arc::new(transports(&config, &context, places)?);
        let login = Login::new(context.clone())?;
        let site = Site::new(context.clone(), Arc::clone(&transports), login, metrics);
        let stopping = CancellationToken::new();
        let advertised = config.cluster.as_ref().and_then(|cluster| cluster.advertise_url.as_deref());
        let guard = Guard::new(internal, advertised, internal_token.is_some());
        let door = |router, is_public| Door {
            router,
            internal_token: internal_token.clone(),
            transports: Arc::clone(&transports),
            is_public,
            guard: guard.clone(),
            tasks: context.tasks.clone(),
            stopping: stopping.clone(),
        };
        run_parts(&context, &transports, events);
        let apart = context.fanout.clone();
        let keep_lease = async move { apart.run_apart().await };
        if context.fanout.has_peers() {
            context.tasks.spawn_thread_until_stop("lease", keep_lease).map_err(StartError::Thread)?;
        }
        let (files, max_connections) = (file_limit(), max_sessions(&config));
        let public_door = door(public_router(&site), true);
        let public_places = Arc::clone(&transports.places);
        drop(context.tasks.spawn(listener::run(public_listener, public_door, public_places)));
        let internal_door = door(internal_router(&site), false);
        // In a cluster the internal listener also accepts clients that other nodes forward.
        let connections = if config.cluster.is_some() { places } else { INTERNAL_CONNECTIONS };
        let internal_places = Places::new(PlaceLimits { connections, strangers: 0, stranger_bytes: 0 });
        drop(context.tasks.spawn(listener::run(internal_listener, internal_door, internal_places)));
        let drain_window = config.drain;
        Ok(Self {
            public,
            internal,
            id,
            context,
            transports,
            stopping,
            drain_window,
            files,
            max_connections,
            site,
        })
    }

    /// Starts a task that logs when the node is ready for clients, by the same conditions as `/ready`.
    pub(crate) fn log_when_ready(&self) {
        let (site, public, internal) = (self.site.clone(), self.public, self.internal);
        self.context.tasks.spawn_until_stop(async move {
            becomes_ready(&site).await;
            tracing::info!(
                node = site.context.fanout.node().as_str(),
                %public,
                %internal,
                version = env!("CARGO_PKG_VERSION"),
                "ready"
            );
        });
    }

    /// Closes all connections over the drain window and stops the node. `hurry` skips the wait.
    pub(crate) async fn drain(self, hurry: impl Future<Output = ()>) {
        self.transports.gate.drain();
        tokio::select! {
            () = self.close_connections() => {}
            () = hurry => {
                tracing::warn!("stopping at once");
                return;
            }
        }
        // A surviving node delivers the departures that this one could not.
        if tokio::time::timeout(LAST_WORDS, self.context.fanout.close()).await.is_err() {
            tracing::warn!("the lease could not be given up in time");
        }
        self.stopping.cancel();
        // The apps' queues end when their last sender is dropped.
        let Self { context, transports, site, .. } = self;
        drop((transports, site));
        let is_alone = !context.fanout.has_peers();
        let (tasks, records) = (context.tasks.clone(), context.records.clone());
        let jobs = Arc::clone(&context.jobs);
        drop(context);
        tasks.stop(LAST_WORDS).await;
        if tokio::time::timeout(LAST_WORDS, jobs.close()).await.is_err() {
            tracing::warn!("the rows of finished jobs were not deleted in time; they may be run again");
        }
        if is_alone && tokio::time::timeout(LAST_WORDS, records.leave_sharers()).await.is_err() {
            tracing::warn!(
                "could not sign off from the database in time; the next start takes longer to be ready"
            );
        }
        if tokio::time::timeout(LAST_WORDS, records.close()).await.is_err() {
            tracing::warn!("the database did not close in time");
        }
    }

    /// Closes transports, never sockets: the stock client reconnects after a transport close, but not after a
    /// disconnect packet. The closes are spread evenly, with jitter, so that the remaining nodes are not flooded.
    async fn close_connections(&self) {
        let Transports { engine, tunnels, .. } = &*self.transports;
        let (sessions, carried) = (engine.sessions.all(), tunnels.count());
        let count = sessions.len() + carried;
        let window =
            self.drain_window.min(DRAIN_GAP.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)));
        tracing::info!(
            sessions = sessions.len(),
            tunnels = carried,
            window_ms = window.as_millis(),
            "draining"
        );
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::get().drain_remaining.set(count as f64);
        tokio::join!(close_over(window, sessions), tunnels.drain(window));
        metrics::get().drain_remaining.set(0);
        let sessions = &engine.sessions;
        // Sessions whose handshake was under way.
        sessions.all().iter().for_each(|session| session.close(CloseReason::Shutdown));
        // A polling client learns of the close with its next GET, if it sends one soon.
        let last_gets = Duration::from_millis(DRAIN_LAST_GETS_MS);
        if tokio::time::timeout(last_gets, sessions.emptied()).await.is_err() {
            sessions.all().iter().for_each(|session| session.forget());
        }
    }
}

/// Closes the sessions in any order, at different times within the window.
async fn close_over(window: Duration, sessions: Vec<Arc<Session>>) {
    let mut turns: Vec<(f64, Arc<Session>)> = sessions.into_iter().map(|s| (rand::random(), s)).collect();
    turns.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let start = tokio::time::Instant::now();
    for (at, session) in turns {
        tokio::time::sleep_until(start + window.mul_f64(at)).await;
        session.close(CloseReason::Shutdown);
        metrics::get().drain_remaining.decrement(1);
    }
}

/// Binds the address of a setting; returns the actual address, because port 0 picks a free one.
fn listen(
    setting: &'static str,
    address: SocketAddr,
) -> Result<(tokio::net::TcpListener, SocketAddr), StartError> {
    let bound =
        listener::bind(address).and_then(|listener| listener.local_addr().map(|local| (listener, local)));
    bound.map_err(|source| StartError::Listen { setting, address, source })
}

fn transports(config: &Config, context: &Context, connections: usize) -> Result<Transports, Collision> {
    Ok(Transports {
        engine: Arc::new(engine(config, context)?),
        gate: Gate::new(
            config.cors_origins.clone(),
            makes_secret(config),
            config.trusted_proxies.clone(),
            config.limits.handshakes_per_address,
        ),
        peers: Peers { context: context.clone(), token: context.internal_token.clone() },
        tunnels: Arc::new(Tunnels::default()),
        places: Places::new(PlaceLimits {
            connections,
            strangers: max_pending(config),
            stranger_bytes: STRANGERS_MAX_BYTES,
        }),
    })
}

fn fanout_options(config: &Config, node: NodeId, internal: SocketAddr) -> Result<FanoutOptions, StartError> {
    let mut namespaces: Vec<Namespace> =
        config.mounts.iter().map(|(_, namespace)| namespace.clone()).collect();
    namespaces.sort();
    namespaces.dedup();
    let cluster = config.cluster.as_ref().map(|cluster| -> Result<_, StartError> {
        Ok(ClusterOptions {
            redis: RedisAddress { authorities: redis_authorities(cluster)?, ..cluster.redis.clone() },
            key_prefix: cluster.key_prefix.clone(),
            channel_prefix: cluster.channel_prefix.clone(),
            lease: cluster.lease,
            advertise: cluster.advertise_url.clone().unwrap_or_else(|| format!("http://{internal}")),
            max_payload: config.limits.max_payload,
            mounts: config.mounts_text(),
        })
    });
    Ok(FanoutOptions {
        node,
        namespaces,
        flushers: tokio::runtime::Handle::current().metrics().num_workers(),
        send_queue: SendQueueLimits {
            bytes: config.limits.outbox_bytes,
            packets: config.limits.outbox_packets,
        },
        rooms_per_socket: config.limits.rooms_per_socket,
        sockets_per_user: config.limits.sockets_per_user,
        holdback: config.leave_holdback,
        cluster: cluster.transpose()?,
        distributions: metrics::distributions(),
    })
}

/// The PEM texts of the certificate authorities that may sign Redis' certificate.
fn redis_authorities(cluster: &ClusterConfig) -> Result<Option<Arc<[u8]>>, StartError> {
    let Some(path) = &cluster.redis_ca_cert else { return Ok(None) };
    let read = std::fs::read(path).map_err(|error| error.to_string());
    let checked = read.and_then(|pem| {
        let pem: Arc<[u8]> = pem.into();
        fanout::check_authorities(&pem).map(|()| pem)
    });
    let refused = |cause| StartError::RedisAuthorities { path: path.display().to_string(), cause };
    checked.map(Some).map_err(refused)
}

fn engine(config: &Config, context: &Context) -> Result<Engine, Collision> {
    let apps = config
        .mounts
        .iter()
        .filter_map(|(app, namespace)| {
            let shares = config.mounts.iter().filter(|(_, other)| other == namespace);
            let neighbours: Vec<_> = shares.filter_map(|(other, _)| apps::find(other.name)).collect();
            let (context, namespace) = (context.clone(), namespace.clone());
            let mount = Mount { context, namespace: namespace.clone(), neighbours: &neighbours };
            Some(((apps::find(app.name)?.start)(mount), namespace))
        })
        .collect();
    let limits = config.limits;
    let namespaces = Namespaces::new(context.clone(), apps, &config.auth, limits.events_per_second)?;
    let sessions = SessionTable::new(Bounds {
        sessions: max_sessions(config),
        pending: max_pending(config),
        per_address: limits.connections_per_address,
    });
    let inputs = Inputs::new(STRANGERS_UNFINISHED_MAX_BYTES, limits.unfinished_bytes);
    Ok(Engine::new(config.times, limits.max_payload, sessions, inputs, namespaces))
}

/// Maximum number of open sessions; 0 means no limit.
fn max_sessions(config: &Config) -> usize {
    config.limits.max_connections.unwrap_or_else(|| by_files(RESERVED_FILES))
}

/// Maximum number of sessions in no namespace and of connections without a session; 0 means no limit.
fn max_pending(config: &Config) -> usize {
    config.limits.max_pending.unwrap_or_else(|| {
        let sessions = match max_sessions(config) {
            0 => by_files(RESERVED_FILES),
            limited => limited,
        };
        (sessions / 4).clamp(PENDING_AUTO_MIN, PENDING_AUTO_MAX)
    })
}

/// How many connections the file limit allows when `reserved` files are kept for other uses.
fn by_files(reserved: u64) -> usize {
    usize::try_from(file_limit().saturating_sub(reserved)).unwrap_or(usize::MAX).max(64)
}

/// Finds out whether this node, or its cluster, is the only user of the records, and keeps checking. If a node without
/// a cluster has a database that answers, the result is known when this returns.
async fn start_sharing(config: &Config, records: &Records, fanout: &Fanout, tasks: &Tasks) {
    if !config.keeps_records() || !records.can_be_shared() {
        records.set_unshared();
        return;
    }
    if records.has_come_up()
        && let Ok(name) = records.name().await
    {
        fanout.set_records(&name);
        if !fanout.has_peers() {
            records.look_at_sharers(fanout.node().as_str()).await;
        }
    }
    let (records, fanout) = (records.clone(), fanout.clone());
    tasks.spawn_until_stop(async move {
        let name = loop {
            match records.name().await {
                Ok(name) if records.has_come_up() => break name,
                _ => tokio::time::sleep(SHARING_RETRY).await,
            }
        };
        fanout.set_records(&name);
        let sharer = loop {
            match fanout.agreement().cluster {
                Some(cluster) => break cluster.to_string(),
                None if !fanout.has_peers() => break fanout.node().as_str().to_owned(),
                None => tokio::time::sleep(SHARING_RETRY).await,
            }
        };
        records.watch_sharers(sharer).await;
    });
}

/// Starts the tasks that run until the node stops.
fn run_parts(context: &Context, transports: &Arc<Transports>, events: Events) {
    let Events { mut overflowed, control, moved } = events;
    let engine = Arc::downgrade(&transports.engine);
    context.fanout.take_sequenced(move |broadcast| {
        // Without an engine the node has stopped.
        if let Some(engine) = engine.upgrade() {
            control::pass_sequenced(&engine, broadcast);
        }
    });
    let fanout = context.fanout.clone();
    context.tasks.spawn_until_stop(async move { Box::pin(fanout.run()).await });
    context.tasks.spawn_until_stop(control::run(Arc::clone(&transports.engine), control));
    context.tasks.spawn_until_stop(control::run_moved(Arc::clone(&transports.engine), moved));
    context.tasks.spawn_until_stop(control::catch_up(Arc::clone(&transports.engine)));
    context.tasks.spawn_until_stop(control::review_later(Arc::clone(&transports.engine)));
    for flusher in context.fanout.flushers() {
        let flusher = Arc::clone(flusher);
        context.tasks.spawn_until_stop(async move { flusher.run().await });
    }
    let engine = Arc::clone(&transports.engine);
    context.tasks.spawn_until_stop(async move {
        while let Some(session) = overflowed.recv().await {
            engine.close(session, CloseReason::SlowConsumer);
        }
    });
    let engine = Arc::clone(&transports.engine);
    context.tasks.spawn_until_stop(async move {
        loop {
            engine.deadlines.wait().await;
            engine.tick(Instant::now()).await;
        }
    });
    context.tasks.spawn_until_stop(give_memory_back(Arc::clone(transports)));
    run_jobs(context, &transports.engine);
    let tokens = Arc::clone(&context.tokens);
    context.tasks.spawn_until_stop(async move { tokens.run().await });
    let records = context.records.clone();
    context.tasks.spawn_until_stop(async move { records.come_up().await });
}

/// Starts the tasks that run jobs.
fn run_jobs(context: &Context, engine: &Arc<Engine>) {
    let (jobs, tasks) = (&context.jobs, &context.tasks);
    jobs.set_runner(Box::new(AppRunner(Arc::downgrade(engine))));
    tasks.spawn_until_stop(jobs::delete_finished(Arc::clone(jobs)));
    tasks.spawn_until_stop(jobs::run_timed(Arc::clone(jobs)));
    tasks.spawn_until_stop(jobs::keep_looking(Arc::clone(jobs)));
    tasks.spawn_until_stop(jobs::watch_departures(Arc::clone(jobs)));
}

/// Returns memory that a burst of connections left free to the operating system.
async fn give_memory_back(transports: Arc<Transports>) {
    let mut keeper = Keeper::new();
    let mut looks = tokio::time::interval(memory::LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let (before, held) = (memory::resident(), transports.held());
        if keeper.is_due(before, held) {
            transports.engine.sessions.shrink();
            // Blocking a worker for milliseconds would stall its connections.
            if tokio::task::spawn_blocking(memory::give_back).await.is_ok() {
                keeper.tried(before, memory::resident(), held);
            }
        }
    }
}

/// How many files the process may open.
fn file_limit() -> u64 {
    rlimit::Resource::NOFILE.get_soft().unwrap_or(1_024)
}

/// Whether the node generates its own secret.
pub(crate) fn makes_secret(config: &Config) -> bool {
    config.auth.keys == TokenKeys::Random
}
