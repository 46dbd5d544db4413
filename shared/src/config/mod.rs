//! Settings: their names, their sources, and the typed [`Config`] that they become.
//!
//! Three stages. [`Layers`] holds texts from flags, the environment and one file, in that order of precedence.
//! [`Layers::resolve`] checks everything and reports every problem together. Each part of the gateway then gets its own
//! struct by value and never reads a setting again.
//!
//! Not clap or figment, because an operator who has made four mistakes must see all four, and these libraries stop at
//! the first. With figment 0.10, a comma-separated list could not be read from a variable at all.

mod apps;
mod pairs;
mod parse;
mod reader;
mod redact;
mod redis;
mod settings;
mod source;
mod spelling;
mod warnings;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::names::Namespace;
use crate::origin::OriginRule;
pub use apps::{AnyAppSetting, AppDeclaration, AppSetting, AppSettings, Sensitivity};
pub use redact::{HIDDEN, Scrubber, SecretUrl, redact};
pub use redis::{RedisAddress, Server, Topology};
pub use settings::Setting;
pub use source::{Effective, Layer, Layers, Problem};

/// Reads a duration: `250ms`, `25s`, `2m`, `1h`; a number other than 0 needs its unit.
///
/// # Errors
/// The expected form.
pub fn duration(text: &str) -> Result<Duration, &'static str> {
    parse::duration(text).map_err(|expected| expected.0)
}

/// The wording of token refusals (contract, "Identity").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AuthErrors {
    /// `Invalid token`.
    #[default]
    Plain,
    /// `Authentication error: Invalid token`.
    Prefixed,
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, else JSON.
    Auto,
    /// One JSON object a line.
    Json,
    /// For people.
    Pretty,
}

/// Where a node without a key for tokens writes the token that it generates for its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstTokenTo {
    /// On a terminal to standard output, else to a file.
    Auto,
    /// To standard output.
    Stdout,
}

/// The source of keys for tokens.
#[derive(Clone, PartialEq, Eq)]
pub enum TokenKeys {
    /// HS256 by this secret.
    Secret(String),
    /// None was set: a random secret for this run.
    Random,
    /// A PEM file's path.
    PublicKey(PathBuf),
    /// A URL of a JSON Web Key Set.
    Jwks(SecretUrl),
}

impl std::fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Secret(_) => f.write_str("Secret(…)"),
            Self::Random => f.write_str("Random"),
            Self::PublicKey(path) => write!(f, "PublicKey({})", redact(&path.display().to_string())),
            Self::Jwks(url) => write!(f, "Jwks({url})"),
        }
    }
}

/// A text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// Authentication.
#[derive(Clone)]
pub struct AuthConfig {
    /// Keys for tokens.
    pub keys: TokenKeys,
    /// Tokens must carry one of these as `iss`, if there are any; tokens signed by the node carry the first.
    pub issuers: Vec<String>,
    /// Tokens must carry one of these as `aud`, if there are any; tokens signed by the node carry the first.
    pub audiences: Vec<String>,
    /// The claim with the user's id; `None` for the usual claims.
    pub user_claim: Option<String>,
    /// Wording of refusals.
    pub errors: AuthErrors,
    /// Wording for single namespaces.
    pub errors_by_namespace: Vec<(Namespace, AuthErrors)>,
    /// Bearer token for `/internal/*`.
    pub internal_token: Option<Secret>,
}

impl std::fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Free texts are left out: they may contain anything.
        f.debug_struct("AuthConfig").field("keys", &self.keys).finish_non_exhaustive()
    }
}

/// Times of the Engine.IO session.
#[derive(Debug, Clone, Copy)]
pub struct SessionTimes {
    /// From the last pong to the next ping.
    pub ping_interval: Duration,
    /// From a ping to its pong.
    pub ping_timeout: Duration,
    /// From the handshake to the first CONNECT.
    pub connect_timeout: Duration,
    /// From `2probe` to `5`.
    pub upgrade_timeout: Duration,
}

/// Limits that an operator can change; 0 means no limit.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of one message, and of a polling body.
    pub max_payload: usize,
    /// Events a second of one socket, with a burst of four times as many.
    pub events_per_second: u32,
    /// Rooms of one socket.
    pub rooms_per_socket: usize,
    /// Sockets of one user on this node, in each namespace.
    pub sockets_per_user: usize,
    /// Open connections of one address, on this node.
    pub connections_per_address: usize,
    /// Handshakes a second of one address, on this node.
    pub handshakes_per_address: u32,
    /// Sessions of this node; `None` derives it from the file limit.
    pub max_connections: Option<usize>,
    /// Sessions of this node that have joined no namespace; `None` means a part of `max_connections`.
    pub max_pending: Option<usize>,
    /// Bytes of unfinished input of all sessions in namespaces together.
    pub unfinished_bytes: usize,
    /// Bytes queued for one session.
    pub outbox_bytes: usize,
    /// Packets queued for one session.
    pub outbox_packets: usize,
}

/// How a node takes part in a cluster.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// The address of Redis.
    pub redis: RedisAddress,
    /// File with the authorities that are trusted to sign Redis' certificate; `None` for the system's.
    pub redis_ca_cert: Option<PathBuf>,
    /// Prefix of Muster's keys.
    pub key_prefix: String,
    /// Prefix of channels.
    pub channel_prefix: String,
    /// How long a silent node counts as alive.
    pub lease: Duration,
    /// The URL at which other nodes reach the internal listener; `None` derives it from its address.
    pub advertise_url: Option<String>,
}

/// All settings, checked.
#[derive(Clone)]
pub struct Config {
    /// Public listener.
    pub listen: SocketAddr,
    /// Internal listener.
    pub internal_listen: SocketAddr,
    /// Apps and their namespaces.
    pub mounts: Vec<(&'static AppDeclaration, Namespace)>,
    /// Every app that may be mounted, in the order in which they are named.
    pub known_apps: Vec<&'static AppDeclaration>,
    /// Whether `mounts` is set.
    pub mounts_are_set: bool,
    /// Identity.
    pub auth: AuthConfig,
    /// Origins of other sites that may connect; `*` only without credentials.
    pub cors_origins: Vec<OriginRule>,
    /// Where the token of a run without a configured key is written.
    pub first_token: FirstTokenTo,
    /// Proxies whose `X-Forwarded-For` or `Forwarded` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Records.
    pub database_url: Secret,
    /// Redis may be used with records in SQLite.
    pub sqlite_with_redis: bool,
    /// The cluster; `None` for a single node.
    pub cluster: Option<ClusterConfig>,
    /// Session times.
    pub times: SessionTimes,
    /// Limits.
    pub limits: Limits,
    /// How long a drain may take.
    pub drain: Duration,
    /// How long `user_left` waits after a lost connection.
    pub leave_holdback: Duration,
    /// Settings of apps.
    pub apps: AppSettings,
    /// Log filter.
    pub log: String,
    /// Log format.
    pub log_format: LogFormat,
    /// Worker threads; `None` means one for each core.
    pub workers: Option<usize>,
    /// Remarks for the operator on how the settings were read.
    pub notes: Vec<String>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Free texts are left out: they may contain anything.
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("internal_listen", &self.internal_listen)
            .field("mounts", &self.mounts_text())
            .field("auth", &self.auth)
            .field("cluster", &self.cluster)
            .field("apps", &self.apps)
            .finish_non_exhaustive()
    }
}
