//! Parses texts to the typed configuration; collects every problem instead of stopping at the first.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::parse;
use super::source::{Layer, Layers, Problem};
use super::{
    AppSettings, AuthConfig, ClusterConfig, Config, Limits, RedisAddress, Secret, SecretUrl, SessionTimes,
    TokenKeys,
};

/// Reads settings one by one and collects their problems.
pub(super) struct Reader<'a> {
    pub(super) layers: &'a Layers,
    pub(super) problems: Vec<Problem>,
    /// Remarks that are not problems.
    pub(super) notes: Vec<String>,
}

impl Reader<'_> {
    fn problem(&mut self, key: &str, expected: &str) {
        let found = self.layers.get(key);
        let place = self.layers.place(key, found.map_or(Layer::Environment, |(layer, _)| layer));
        let value = found.map(|(_, text)| self.layers.shown(key, text));
        self.problems.push(Problem { place, value, expected: expected.to_owned() });
    }

    /// The effective value, parsed by `parse`; a test checks that every default parses.
    fn read<T, E: Into<String>>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, E>) -> Option<T> {
        let mut settings = self.layers.settings().iter();
        let default = settings.find(|setting| setting.key == key).map_or("", |setting| &*setting.default);
        let text = self.layers.get(key).map_or(default, |(_, text)| text);
        match parse(text) {
            Ok(value) => Some(value),
            Err(expected) => {
                let expected: String = expected.into();
                self.problem(key, &expected);
                None
            }
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        self.layers.get(key).map(|(_, text)| text.to_owned()).filter(|text| !text.is_empty())
    }

    pub(super) fn config(&mut self) -> Option<Config> {
        // Everything is read before the first `?`, so that every problem is found.
        let listen = self.listen();
        let internal_listen = self.read("internal_listen", parse::address);
        let mounts = self.read("mounts", |text| parse::mounts(text, self.layers.apps()));
        let auth = self.auth();
        let first_token = self.read("first_token", parse::first_token);
        let cors_origins = self.read("cors_origins", parse::origins);
        let trusted_proxies = self.read("trusted_proxies", parse::networks);
        let database_url = self.read("database_url", parse::database_url);
        let cluster = self.cluster(auth.as_ref());
        let times = self.times();
        let limits = self.limits();
        let drain = self.read("drain", parse::duration);
        let leave_holdback = self.read("leave_holdback", parse::duration);
        let apps = self.apps();
        let log_format = self.read("log_format", parse::log_format);
        let workers = self.read("workers", parse::workers);
        let log = self.read("log", parse::log_filter);
        let sqlite_with_redis = self.read("sqlite_with_redis", parse::flag);
        if let (Some(address), Some(auth)) = (internal_listen, &auth)
            && !address.ip().is_loopback()
            && auth.internal_token.is_none()
        {
            self.problem("internal_listen", "a loopback address, or an internal_token beside it");
        }
        Some(Config {
            listen: listen?,
            internal_listen: internal_listen?,
            mounts: mounts?,
            mounts_are_set: self.layers.get("mounts").is_some(),
            auth: auth?,
            first_token: first_token?,
            cors_origins: cors_origins?,
            trusted_proxies: trusted_proxies?,
            database_url: Secret(database_url?),
            sqlite_with_redis: sqlite_with_redis?,
            cluster: cluster?,
            times: times?,
            limits: limits?,
            drain: drain?,
            leave_holdback: leave_holdback?,
            known_apps: self.layers.apps().to_vec(),
            apps: apps?,
            log: log?,
            log_format: log_format?,
            workers: workers?,
            notes: std::mem::take(&mut self.notes),
        })
    }

    /// The public address. A platform's port replaces the one of `listen`, unless `listen` has higher precedence: a
    /// flag is taken literally.
    fn listen(&mut self) -> Option<SocketAddr> {
        let mut listen = self.read("listen", parse::address);
        let layer = |key| self.layers.get(key).filter(|(_, text)| !text.is_empty()).map(|(layer, _)| layer);
        if let Some(of_port) = layer("port")
            && layer("listen").is_none_or(|of_listen| of_port <= of_listen)
        {
            let port = self.read("port", parse::port)?;
            if let Some(listen) = &mut listen {
                listen.set_port(port);
            }
        }
        listen
    }

    fn apps(&mut self) -> Option<AppSettings> {
        let (mut settings, mut all) = (AppSettings::default(), true);
        for setting in self.layers.apps().iter().flat_map(|app| app.settings) {
            let key = setting.setting().key;
            match self.read(key, |text| setting.check(text).map(|()| text.to_owned())) {
                Some(text) => settings.set(key, &text),
                None => all = false,
            }
        }
        all.then_some(settings)
    }

    /// The address of Redis. `None` for a problem, `Some(None)` without Redis.
    fn redis(&mut self) -> Option<Option<RedisAddress>> {
        let (url, host) = (self.text("redis_url"), self.text("redis_host"));
        // Docker and Kubernetes set this automatically where a service is named `redis`. It is the address of a service
        // that this node was not configured to use.
        let port = self.text("redis_port");
        let linked = port.as_deref().and_then(|port| port.strip_prefix("tcp://")).map(str::to_owned);
        let (user, password) = (self.text("redis_username"), self.text("redis_password"));
        if url.is_some() {
            if host.is_some() {
                self.problem("redis_host", "only one of redis_url and redis_host");
            }
            if port.is_some() && linked.is_none() {
                self.problem("redis_port", "only one of redis_url, which has its own port, and redis_port");
            }
        }
        let address = match (url, host) {
            (Some(_), _) => self.read("redis_url", RedisAddress::parse).map(Some),
            (None, None) if port.is_none() || linked.is_some() => Some(None),
            (None, host) => {
                let host = match host {
                    Some(_) => self.read("redis_host", parse::host),
                    None => Some("127.0.0.1".to_owned()),
                };
                let port = match (&port, linked) {
                    (None, _) => Some(6_379),
                    (Some(_), Some(link)) => {
                        Some(link.rsplit(':').next().and_then(|at| at.parse().ok()).unwrap_or(6_379))
                    }
                    (Some(_), None) => self.read("redis_port", parse::some_port),
                };
                host.zip(port).map(|(host, port)| Some(RedisAddress::plain(&host, port)))
            }
        };
        let mut address = address?;
        for (key, value) in [("redis_username", user), ("redis_password", password)] {
            let Some(value) = value else { continue };
            match &mut address {
                None => self
                    .problem(key, "redis_url or redis_host beside it: without one of them there is no Redis"),
                Some(address) => {
                    if !address.add_credential(key == "redis_password", value) {
                        self.problem(key, "nothing, since redis_url has another one");
                    }
                }
            }
        }
        Some(address)
    }

    /// `None` for a problem, `Some(None)` for a single node.
    fn cluster(&mut self, auth: Option<&AuthConfig>) -> Option<Option<ClusterConfig>> {
        let redis = self.redis();
        let key_prefix = self.read("redis_prefix", parse::prefix);
        let channel_prefix = self.read("redis_channel_prefix", parse::prefix);
        let lease = self.read("lease", parse::lease);
        let advertise_url = self.read("advertise_url", parse::http_url);
        let ca_cert = self.redis_ca_cert(redis.as_ref().and_then(Option::as_ref));
        let Some(redis) = redis? else { return Some(None) };
        if auth.is_some_and(|auth| auth.keys == TokenKeys::Random) {
            self.problem(
                "jwt_secret",
                "expected a secret (or jwt_public_key, or jwks_url), since the nodes of a cluster must accept the same tokens",
            );
            return None;
        }
        Some(Some(ClusterConfig {
            redis,
            redis_ca_cert: ca_cert,
            key_prefix: key_prefix?,
            channel_prefix: channel_prefix?,
            lease: lease?,
            advertise_url: advertise_url?,
        }))
    }

    fn redis_ca_cert(&mut self, redis: Option<&RedisAddress>) -> Option<PathBuf> {
        let path = self.text("redis_ca_cert")?;
        if parse::is_pem(&path) {
            self.problem("redis_ca_cert", "the path of a PEM file, and not its text");
        } else if redis.is_some_and(|redis| !redis.tls) {
            self.problem("redis_ca_cert", "a redis_url with TLS beside it: rediss://…");
        }
        Some(path.into())
    }

    fn auth(&mut self) -> Option<AuthConfig> {
        let secret = self.text("jwt_secret");
        let public = self.text("jwt_public_key");
        let jwks = self.text("jwks_url");
        let errors = self.read("auth_errors", parse::auth_errors);
        if jwks.as_ref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
            self.problem("jwks_url", "a URL that begins with http:// or https://");
        }
        if secret.as_deref().is_some_and(parse::is_pem) {
            self.problem(
                "jwt_secret",
                "a shared secret; a public key belongs to a file that jwt_public_key names",
            );
        }
        if public.is_some() {
            let _ = self.read("jwt_public_key", parse::key_file);
        }
        let internal_token = self.text("internal_token").map(|_| self.read("internal_token", parse::bearer));
        let keys = match (secret, public, jwks) {
            (Some(secret), None, None) => TokenKeys::Secret(secret),
            (None, None, None) => TokenKeys::Random,
            (None, Some(path), None) => TokenKeys::PublicKey(path.into()),
            (None, None, Some(url)) => TokenKeys::Jwks(SecretUrl::new(url)),
            (_, Some(_), _) => {
                self.problem("jwt_public_key", "only one of jwt_secret, jwt_public_key and jwks_url");
                return None;
            }
            (Some(_), None, Some(_)) => {
                self.problem("jwks_url", "only one of jwt_secret, jwt_public_key and jwks_url");
                return None;
            }
        };
        let (errors, errors_by_namespace) = errors?;
        Some(AuthConfig {
            keys,
            issuers: self.text("jwt_issuer").map(|text| parse::texts(&text)).unwrap_or_default(),
            audiences: self.text("jwt_audience").map(|text| parse::texts(&text)).unwrap_or_default(),
            user_claim: self.text("jwt_user_claim"),
            errors,
            errors_by_namespace,
            internal_token: internal_token.flatten().map(Secret),
        })
    }

    fn times(&mut self) -> Option<SessionTimes> {
        let ping_interval = self.read("ping_interval", parse::some_duration);
        let ping_timeout = self.read("ping_timeout", parse::some_duration);
        let connect_timeout = self.read("connect_timeout", parse::some_duration);
        let upgrade_timeout = self.read("upgrade_timeout", parse::some_duration);
        Some(SessionTimes {
            ping_interval: ping_interval?,
            ping_timeout: ping_timeout?,
            connect_timeout: connect_timeout?,
            upgrade_timeout: upgrade_timeout?,
        })
    }

    fn limits(&mut self) -> Option<Limits> {
        let max_payload = self.read("max_payload", parse::payload);
        let events_per_second = self.read("events_per_second", parse::number);
        let rooms_per_socket = self.read("rooms_per_socket", parse::number);
        let sockets_per_user = self.read("sockets_per_user", parse::number);
        let connections_per_address = self.read("connections_per_address", parse::number);
        let handshakes_per_address = self.read("handshakes_per_address", parse::number);
        let max_connections = self.read("max_connections", parse::auto_number);
        let max_pending = self.read("max_pending", parse::auto_number);
        let unfinished_bytes = self.read("unfinished_bytes", parse::number);
        if let (Some(unfinished), Some(payload)) = (unfinished_bytes, max_payload)
            && unfinished != 0
            && unfinished < payload
        {
            self.problem("unfinished_bytes", "no less than max_payload, or 0");
        }
        let outbox_bytes = self.read("outbox_bytes", parse::number);
        let outbox_packets = self.read("outbox_packets", parse::number);
        if let (Some(outbox), Some(payload)) = (outbox_bytes, max_payload)
            && outbox != 0
            && outbox < payload
        {
            self.problem("outbox_bytes", "no less than max_payload, or 0");
        }
        Some(Limits {
            max_payload: max_payload?,
            events_per_second: u32::try_from(events_per_second?).unwrap_or(u32::MAX),
            rooms_per_socket: rooms_per_socket?,
            sockets_per_user: sockets_per_user?,
            connections_per_address: connections_per_address?,
            handshakes_per_address: u32::try_from(handshakes_per_address?).unwrap_or(u32::MAX),
            max_connections: max_connections?,
            max_pending: max_pending?,
            unfinished_bytes: unfinished_bytes?,
            outbox_bytes: outbox_bytes?,
            outbox_packets: outbox_packets?,
        })
    }
}
