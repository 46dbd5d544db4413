//! Connects to Redis: a server, the primary that Sentinels name, or a cluster.

use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::{self, Metrics, PoolConfig, RecycleResult};
use futures_util::future::BoxFuture;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{Sentinel, SentinelClientBuilder, SentinelNodeConnectionInfo, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _,
    Pipeline, ProtocolVersion, RedisConnectionInfo, RedisError, RedisFuture, RedisResult, TlsCertificates,
    TlsMode, Value,
};
use shared::backoff::Backoff;
use shared::config::{RedisAddress, Server, Topology};
use shared::limits::{
    REDIS_COMMAND_MS, REDIS_CONNECT_MS, REDIS_POOL, REDIS_RETRY_MAX_MS, REDIS_RETRY_MIN_MS,
};

/// A connection that commands can be sent on. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// The address of Redis and how to connect to it.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    address: RedisAddress,
}

/// Connections for long replies.
pub(crate) type Pool = managed::Pool<Link>;

const CONNECT: Duration = Duration::from_millis(REDIS_CONNECT_MS);
const COMMAND: Duration = Duration::from_millis(REDIS_COMMAND_MS);

const PEM_BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// How long the kernel keeps retrying delivery to a peer that does not acknowledge.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

/// The pauses between attempts to connect.
pub(super) fn retry() -> Backoff {
    Backoff::new(Duration::from_millis(REDIS_RETRY_MIN_MS), Duration::from_millis(REDIS_RETRY_MAX_MS))
}

impl Link {
    pub(crate) fn new(address: RedisAddress) -> Self {
        Self { address }
    }

    /// The address without user and password.
    pub(crate) fn address(&self) -> &RedisAddress {
        &self.address
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.address.topology, Topology::Cluster(_))
    }

    fn tcp() -> TcpSettings {
        TcpSettings::default().set_nodelay(true).set_user_timeout(USER_TIMEOUT)
    }

    fn settings(&self) -> RedisConnectionInfo {
        // The library's name is not needed, and sending it needs a right that Redis 7.0 does not know.
        let mut settings = RedisConnectionInfo::default()
            .set_db(self.address.database)
            .set_protocol(ProtocolVersion::RESP3)
            .set_skip_set_lib_name();
        if let Some(user) = &self.address.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &self.address.password {
            settings = settings.set_password(&password.0);
        }
        settings
    }

    fn info(&self, server: &Server, settings: RedisConnectionInfo) -> RedisResult<ConnectionInfo> {
        let (host, port) = (server.host.clone(), server.port);
        let address = if self.address.tls {
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let info = address.into_connection_info()?;
        let info = match self.certificates() {
            Some(certificates) => Client::build_with_tls(info, certificates)?.get_connection_info().clone(),
            None => info,
        };
        Ok(info.set_tcp_settings(Self::tcp()).set_redis_settings(settings))
    }

    /// The trusted authorities, instead of the system's.
    fn certificates(&self) -> Option<TlsCertificates> {
        let authorities = self.address.authorities.as_ref().filter(|_| self.address.tls)?;
        Some(TlsCertificates { client_tls: None, root_cert: Some(authorities.to_vec()) })
    }

    fn infos(&self, servers: &[Server], settings: &RedisConnectionInfo) -> RedisResult<Vec<ConnectionInfo>> {
        servers.iter().map(|server| self.info(server, settings.clone())).collect()
    }

    fn node_info(&self) -> SentinelNodeConnectionInfo {
        let info = SentinelNodeConnectionInfo::default()
            .set_redis_connection_info(self.settings())
            .set_tcp_settings(Self::tcp());
        if self.address.tls { info.set_tls_mode(TlsMode::Secure) } else { info }
    }

    /// A client of one server that takes writes (in a cluster, for subscriptions: any server).
    async fn client(&self, turn: usize) -> RedisResult<Client> {
        match &self.address.topology {
            Topology::Single(server) => Client::open(self.info(server, self.settings())?),
            Topology::Cluster(servers) => {
                Client::open(self.info(&servers[turn % servers.len()], self.settings())?)
            }
            Topology::Sentinel { sentinels, primary } => self.primary(sentinels, primary).await,
        }
    }

    /// A client of the primary that Sentinels name.
    async fn primary(&self, sentinels: &[Server], name: &str) -> RedisResult<Client> {
        let infos = self.infos(sentinels, &RedisConnectionInfo::default())?;
        let Some(certificates) = self.certificates() else {
            return Sentinel::build(infos)?.async_master_for(name, Some(&self.node_info())).await;
        };
        // Only the builder accepts authorities, and it does not accept all settings.
        let addresses = infos.iter().map(|info| info.addr().clone());
        let settings = self.settings();
        let mut builder = SentinelClientBuilder::new(addresses, name, SentinelServerType::Master)?
            .set_client_to_redis_protocol(ProtocolVersion::RESP3)
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_tcp_settings(Self::tcp())
            .set_client_to_redis_certificates(certificates);
        if let Some(user) = settings.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = settings.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        let client = builder.build()?.async_get_client().await?;
        Client::open(client.get_connection_info().clone().set_redis_settings(settings))
    }

    /// Connects for commands.
    pub(crate) async fn connect(&self) -> RedisResult<Connection> {
        if let Topology::Cluster(servers) = &self.address.topology {
            let mut builder = ClusterClientBuilder::new(self.infos(servers, &self.settings())?)
                .connection_timeout(CONNECT)
                .response_timeout(COMMAND)
                .retries(2)
                .tcp_settings(Self::tcp());
            if self.address.tls {
                builder = builder.tls(TlsMode::Secure);
            }
            if let Some(certificates) = self.certificates() {
                builder = builder.certs(certificates);
            }
            return builder.build()?.get_async_connection().await.map(Connection::Cluster);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(COMMAND));
        let client = self.client(0).await?;
        client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::One)
    }

    /// Connects for subscriptions. The task that reads passes messages to `push`. `turn` chooses one of
    /// a cluster's servers; each of them receives everything that is published.
    pub(crate) async fn subscribe(
        &self,
        turn: usize,
        push: impl redis::aio::AsyncPushSender,
    ) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(USER_TIMEOUT))
            .set_push_sender(push);
        self.client(turn).await?.get_multiplexed_async_connection_with_config(&config).await
    }

    /// A pool; it connects later.
    pub(crate) fn pool(&self) -> Result<Pool, managed::BuildError> {
        let mut config = PoolConfig::new(REDIS_POOL);
        config.timeouts.wait = Some(COMMAND);
        config.timeouts.create = Some(CONNECT);
        config.timeouts.recycle = Some(COMMAND);
        Pool::builder(self.clone()).config(config).runtime(deadpool::Runtime::Tokio1).build()
    }
}

impl managed::Manager for Link {
    type Type = Connection;
    type Error = RedisError;

    async fn create(&self) -> RedisResult<Connection> {
        // Boxed, so that callers of a long query do not carry its type.
        let connecting: BoxFuture<'_, RedisResult<Connection>> = Box::pin(self.connect());
        connecting.await
    }

    async fn recycle(&self, connection: &mut Connection, _: &Metrics) -> RecycleResult<RedisError> {
        Ok(redis::cmd("PING").query_async(connection).await?)
    }
}

/// Whether certificates of authorities can be read from PEM texts.
///
/// # Errors
/// Why not, as a message for people.
pub fn check_authorities(pem: &Arc<[u8]>) -> Result<(), String> {
    if !pem.windows(PEM_BEGIN.len()).any(|text| text == PEM_BEGIN) {
        return Err("it has no certificate (-----BEGIN CERTIFICATE-----)".to_owned());
    }
    let address = RedisAddress {
        tls: true,
        authorities: Some(Arc::clone(pem)),
        ..RedisAddress::plain("localhost", 6379)
    };
    let server = Server { host: "localhost".to_owned(), port: 6379 };
    let read = Link::new(address).info(&server, RedisConnectionInfo::default());
    read.map(drop).map_err(|error: RedisError| match error.kind() {
        ErrorKind::Io => error.to_string(),
        kind => format!("{kind:?}"),
    })
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(cmd, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::One(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}
