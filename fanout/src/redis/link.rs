//! How to connect: a server, the primary that Sentinels name, or a cluster.

use std::time::Duration;

use deadpool_redis::{PoolConfig, PoolError};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::sentinel::{Sentinel, SentinelNodeConnectionInfo};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, Pipeline,
    ProtocolVersion, RedisConnectionInfo, RedisFuture, RedisResult, TlsMode, Value,
};
use shared::config::{RedisAddress, Server, Topology};
use shared::limits::{REDIS_COMMAND_MS, REDIS_CONNECT_MS, REDIS_POOL};

/// A connection that commands can be sent on. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Where Redis is, and how to connect there.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    address: RedisAddress,
}

/// Connections for long answers.
#[derive(Clone)]
pub(crate) enum Pool {
    One(deadpool_redis::Pool),
    Cluster(deadpool_redis::cluster::Pool),
    Sentinel(deadpool_redis::sentinel::Pool),
}

const CONNECT: Duration = Duration::from_millis(REDIS_CONNECT_MS);
const COMMAND: Duration = Duration::from_millis(REDIS_COMMAND_MS);

/// How long the kernel keeps trying to deliver to a peer that does not acknowledge.
const USER_TIMEOUT: Duration = Duration::from_secs(5);

impl Link {
    pub(crate) fn new(address: RedisAddress) -> Self {
        Self { address }
    }

    /// Where Redis is.
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
        // The library's name is nobody's concern, and telling it needs a right that Redis 7.0 does not know.
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
        Ok(address.into_connection_info()?.set_tcp_settings(Self::tcp()).set_redis_settings(settings))
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

    /// A client of one server that takes writes (of a cluster: of any server, for subscriptions).
    async fn client(&self, turn: usize) -> RedisResult<Client> {
        match &self.address.topology {
            Topology::Single(server) => Client::open(self.info(server, self.settings())?),
            Topology::Cluster(servers) => {
                Client::open(self.info(&servers[turn % servers.len()], self.settings())?)
            }
            Topology::Sentinel { sentinels, primary } => {
                let mut sentinel = Sentinel::build(self.infos(sentinels, &RedisConnectionInfo::default())?)?;
                sentinel.async_master_for(primary, Some(&self.node_info())).await
            }
        }
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
            return builder.build()?.get_async_connection().await.map(Connection::Cluster);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(COMMAND));
        let client = self.client(0).await?;
        client.get_multiplexed_async_connection_with_config(&config).await.map(Connection::One)
    }

    /// Connects for subscriptions; what comes is given to `push` by the task that reads. `turn` chooses
    /// among a cluster's servers, all of which hear everything that is published.
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

    /// A pool; nothing is connected yet.
    pub(crate) fn pool(&self) -> Result<Pool, Box<dyn std::error::Error + Send + Sync>> {
        let mut config = PoolConfig::new(REDIS_POOL);
        config.timeouts.wait = Some(COMMAND);
        config.timeouts.create = Some(CONNECT);
        config.timeouts.recycle = Some(COMMAND);
        let runtime = Some(deadpool_redis::Runtime::Tokio1);
        Ok(match &self.address.topology {
            Topology::Single(server) => {
                let manager = deadpool_redis::Manager::new(self.info(server, self.settings())?)?;
                let builder = deadpool_redis::Pool::builder(manager).config(config);
                Pool::One(match runtime {
                    Some(runtime) => builder.runtime(runtime).build()?,
                    None => builder.build()?,
                })
            }
            Topology::Cluster(servers) => {
                let infos = self.infos(servers, &self.settings())?;
                let manager = deadpool_redis::cluster::Manager::new(infos, false)?;
                let builder = deadpool_redis::cluster::Pool::builder(manager).config(config);
                Pool::Cluster(builder.runtime(deadpool_redis::Runtime::Tokio1).build()?)
            }
            Topology::Sentinel { sentinels, primary } => {
                let infos = self.infos(sentinels, &RedisConnectionInfo::default())?;
                let node = deadpool_redis::sentinel::SentinelNodeConnectionInfo {
                    tls_mode: self.address.tls.then_some(deadpool_redis::sentinel::TlsMode::Secure),
                    redis_connection_info: Some(self.settings().into()),
                };
                let kind = deadpool_redis::sentinel::SentinelServerType::Master;
                let manager =
                    deadpool_redis::sentinel::Manager::new(infos, primary.clone(), Some(node), kind)?;
                let builder = deadpool_redis::sentinel::Pool::builder(manager).config(config);
                Pool::Sentinel(builder.runtime(deadpool_redis::Runtime::Tokio1).build()?)
            }
        })
    }
}

impl Pool {
    /// Sends one command on a connection of the pool.
    pub(crate) async fn query(&self, cmd: &Cmd) -> Result<Value, PoolError> {
        match self {
            Self::One(pool) => Ok(cmd.query_async(&mut pool.get().await?).await?),
            Self::Cluster(pool) => Ok(cmd.query_async(&mut pool.get().await?).await?),
            Self::Sentinel(pool) => Ok(cmd.query_async(&mut Box::pin(pool.get()).await?).await?),
        }
    }
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
