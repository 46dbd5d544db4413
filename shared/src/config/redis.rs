//! The address of Redis: one server, Sentinels, or a cluster.

use std::fmt;
use std::sync::Arc;

use super::Secret;
use super::parse::Expected;

/// A server's host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// The kind of deployment that a URL names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// `redis://host:port/database`
    Single(Server),
    /// `redis+sentinel://host:port,host:port/name`: Sentinels that know where the primary `name` is.
    Sentinel {
        /// The Sentinels.
        sentinels: Vec<Server>,
        /// Their name of the primary.
        primary: String,
    },
    /// `redis+cluster://host:port,host:port`: some of a cluster's nodes.
    Cluster(Vec<Server>),
}

/// How to reach Redis. [`fmt::Display`] and [`fmt::Debug`] show it without user and password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisAddress {
    /// The deployment.
    pub topology: Topology,
    /// Use TLS: `rediss://`.
    pub tls: bool,
    /// PEM texts of the authorities that are trusted to sign its certificate; `None` for those of the system.
    pub authorities: Option<Arc<[u8]>>,
    /// User.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Number of the database; 0 on a cluster.
    pub database: i64,
}

const EXPECTED: &str = "redis://[user:password@]host:port[/database], redis+sentinel://host:port,…/primary or \
                        redis+cluster://host:port,… (rediss for TLS)";

impl RedisAddress {
    /// One server without a password.
    #[must_use]
    pub fn plain(host: &str, port: u16) -> Self {
        let server = Server { host: host.to_owned(), port };
        Self {
            topology: Topology::Single(server),
            tls: false,
            user: None,
            password: None,
            database: 0,
            authorities: None,
        }
    }

    pub(super) fn parse(text: &str) -> Result<Self, Expected> {
        Self::read(text).ok_or(Expected(EXPECTED))
    }

    fn read(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let (transport, kind) =
            scheme.split_once('+').map_or((scheme, ""), |(transport, kind)| (transport, kind));
        let tls = match transport {
            "redis" => false,
            "rediss" => true,
            _ => return None,
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None => (None, authority),
        };
        let (user, password) = match credentials.map(|pair| pair.split_once(':').unwrap_or((pair, ""))) {
            Some((user, password)) => (some(decode(user)?), some(decode(password)?)),
            None => (None, None),
        };
        let default_port = if kind == "sentinel" { 26_379 } else { 6_379 };
        let mut servers: Vec<_> =
            hosts.split(',').map(|host| server(host, default_port)).collect::<Option<_>>()?;
        let mut database = 0;
        let topology = match kind {
            "" if servers.len() == 1 => {
                if !path.is_empty() {
                    database = path.parse().ok().filter(|number| *number >= 0)?;
                }
                Topology::Single(servers.pop()?)
            }
            "sentinel" if !path.is_empty() => {
                Topology::Sentinel { sentinels: servers, primary: decode(path)? }
            }
            "cluster" if path.is_empty() => Topology::Cluster(servers),
            _ => return None,
        };
        Some(Self { topology, tls, user, password: password.map(Secret), database, authorities: None })
    }

    /// Adds a user or a password from a separate setting; false where the URL has another one.
    pub(super) fn add_credential(&mut self, is_password: bool, value: String) -> bool {
        if is_password {
            let value = Secret(value);
            self.password.get_or_insert_with(|| value.clone()) == &value
        } else {
            self.user.get_or_insert_with(|| value.clone()) == &value
        }
    }

    /// The servers in the URL.
    #[must_use]
    pub fn servers(&self) -> &[Server] {
        match &self.topology {
            Topology::Single(server) => std::slice::from_ref(server),
            Topology::Sentinel { sentinels: servers, .. } | Topology::Cluster(servers) => servers,
        }
    }
}

impl fmt::Debug for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.topology {
            Topology::Single(_) => "",
            Topology::Sentinel { .. } => "+sentinel",
            Topology::Cluster(_) => "+cluster",
        };
        write!(f, "redis{}{kind}://", if self.tls { "s" } else { "" })?;
        for (index, Server { host, port }) in self.servers().iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{host}:{port}")?;
        }
        Ok(())
    }
}

fn some(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

fn server(text: &str, default_port: u16) -> Option<Server> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port != 0)?),
        _ => (text, default_port),
    };
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!host.is_empty() && !host.contains([' ', '@', '?'])).then(|| Server { host: host.to_owned(), port })
}

/// Decodes percent escapes.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            let digits = str::from_utf8(&digits)
                .ok()
                .filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let server = |host: &str, port| Server { host: host.to_owned(), port };
        assert_eq!(RedisAddress::read("redis://localhost"), Some(RedisAddress::plain("localhost", 6379)));
        let full = RedisAddress::read("rediss://u:p%40ss@r.example:7000/3").unwrap();
        assert!(full.tls && full.user.as_deref() == Some("u") && full.database == 3);
        assert_eq!(full.password, Some(Secret("p@ss".into())));
        assert_eq!(full.to_string(), "rediss://r.example:7000");
        let only_password = RedisAddress::read("redis://:secret@h").unwrap();
        assert_eq!((only_password.user, only_password.password), (None, Some(Secret("secret".into()))));
        let sentinel = RedisAddress::read("redis+sentinel://a,[::1]:26380/main").unwrap();
        let sentinels = vec![server("a", 26_379), server("::1", 26_380)];
        assert_eq!(sentinel.topology, Topology::Sentinel { sentinels, primary: "main".into() });
        let cluster = RedisAddress::read("redis+cluster://a:1,b:2").unwrap();
        assert_eq!(cluster.topology, Topology::Cluster(vec![server("a", 1), server("b", 2)]));
        for bad in [
            "",
            "localhost:6379",
            "http://a",
            "redis://",
            "redis://a,b",
            "redis://a:0",
            "redis://a:x",
            "redis://a/x",
            "redis+sentinel://a",
            "redis+cluster://a/1",
            "redis+ring://a",
            "redis://u:%zz@a",
            "redis://a b",
        ] {
            assert_eq!(RedisAddress::read(bad), None, "{bad}");
        }
    }
}
