//! Where settings come from: flags, then the environment, then one file. Unknown keys and wrong values
//! are all found before anything is started.

use std::collections::BTreeMap;
use std::fmt;

use super::parse::{self, Expected};
use super::redact::{HIDDEN, SecretUrl, redact};
use super::settings::SETTINGS;
use super::{
    AppsConfig, AuthConfig, ClusterConfig, Config, Limits, PushConfig, RedisAddress, Secret, SessionTimes,
    TokenKeys,
};

/// One setting that cannot be used, as the user is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands: `--ping-interval`, `PING_INTERVAL`, or `ping_interval in FILE`.
    pub place: String,
    /// The value; `…` for secrets and for the credentials of URLs, `None` where there is none to show.
    pub value: Option<String>,
    /// What should stand there.
    pub expected: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(value) => write!(f, "{} = \"{value}\": expected {}", self.place, self.expected),
            None => write!(f, "{}: {}", self.place, self.expected),
        }
    }
}

/// One source of settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Command line.
    Flag,
    /// Environment.
    Environment,
    /// TOML file.
    File,
}

/// Texts of all sources, by key.
#[derive(Default)]
pub struct Layers {
    values: BTreeMap<(String, Layer), String>,
    file_name: String,
    problems: Vec<Problem>,
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The texts are as they were set, secrets too.
        f.debug_struct("Layers").field("keys", &self.values.keys()).finish_non_exhaustive()
    }
}

impl Layers {
    /// Adds a flag or environment value. Empty environment values count as not set.
    pub fn set(&mut self, layer: Layer, key: &str, value: &str) {
        if layer != Layer::Environment || !value.is_empty() {
            self.values.insert((key.to_owned(), layer), value.to_owned());
        }
    }

    /// Adds the values of a TOML file: one flat table with the settings' keys.
    pub fn set_file(&mut self, name: &str, text: &str) {
        name.clone_into(&mut self.file_name);
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                let expected = format!("not valid TOML: {}", error.message());
                self.problems.push(Problem { place: name.to_owned(), value: None, expected });
                return;
            }
        };
        for (key, value) in table {
            let place = format!("{key} in {name}");
            if !SETTINGS.iter().any(|setting| setting.key == key) {
                let expected = "no such setting".to_owned();
                self.problems.push(Problem { place, value: None, expected });
                continue;
            }
            match text_of(&value) {
                Some(text) => drop(self.values.insert((key, Layer::File), text)),
                None => self.problems.push(Problem {
                    place,
                    value: Some(shown(&key, &value.to_string())),
                    expected: "a text, a number or a list of texts".to_owned(),
                }),
            }
        }
    }

    /// The text in force for `key` and where it stands.
    fn get(&self, key: &str) -> Option<(Layer, &str)> {
        [Layer::Flag, Layer::Environment, Layer::File]
            .into_iter()
            .find_map(|layer| Some((layer, self.values.get(&(key.to_owned(), layer))?.as_str())))
    }

    fn place(&self, key: &str, layer: Layer) -> String {
        match layer {
            Layer::Flag if key == "mounts" => "--mount".to_owned(),
            Layer::Flag => format!("--{}", key.replace('_', "-")),
            Layer::Environment => key.to_uppercase(),
            Layer::File => format!("{key} in {}", self.file_name),
        }
    }

    /// Every setting with what may be shown of the text in force: `print-config`.
    pub fn effective(&self) -> impl Iterator<Item = Effective> {
        SETTINGS.iter().map(|setting| {
            let value = self.get(setting.key).map_or(setting.default, |(_, text)| text);
            let is_default = value.is_empty() || value == setting.default;
            let text = if is_default { value.to_owned() } else { shown(setting.key, value) };
            Effective { key: setting.key, is_whole: text == value, text }
        })
    }

    /// Checks everything.
    ///
    /// # Errors
    /// Every problem found, in the order of the settings.
    pub fn resolve(mut self) -> Result<Config, Vec<Problem>> {
        let problems = std::mem::take(&mut self.problems);
        let mut reader = Reader { layers: &self, problems };
        let config = reader.config();
        let problems = reader.problems;
        match config {
            Some(config) if problems.is_empty() => Ok(config),
            _ => Err(problems),
        }
    }
}

/// A setting as `print-config` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Its key.
    pub key: &'static str,
    /// The text in force, less what must not be shown.
    pub text: String,
    /// Nothing is left out.
    pub is_whole: bool,
}

/// What may be shown of a setting's text.
fn shown(key: &str, text: &str) -> String {
    let is_secret = SETTINGS.iter().any(|setting| setting.key == key && setting.secret);
    if is_secret { HIDDEN.to_owned() } else { redact(text) }
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Array(items) => {
            let texts: Option<Vec<_>> = items.iter().map(toml::Value::as_str).collect();
            Some(texts?.join(","))
        }
        _ => None,
    }
}

/// Reads settings one by one and remembers what was wrong with them.
struct Reader<'a> {
    layers: &'a Layers,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, key: &str, expected: &str) {
        let found = self.layers.get(key);
        let place = self.layers.place(key, found.map_or(Layer::Environment, |(layer, _)| layer));
        let value = found.map(|(_, text)| shown(key, text));
        self.problems.push(Problem { place, value, expected: expected.to_owned() });
    }

    /// The value in force, by `parse`; a default that does not parse would be caught by a test.
    fn read<T>(&mut self, key: &str, parse: impl Fn(&str) -> Result<T, Expected>) -> Option<T> {
        let default = SETTINGS.iter().find(|setting| setting.key == key).map_or("", |s| s.default);
        let text = self.layers.get(key).map_or(default, |(_, text)| text);
        match parse(text) {
            Ok(value) => Some(value),
            Err(Expected(expected)) => {
                self.problem(key, expected);
                None
            }
        }
    }

    fn text(&self, key: &str) -> Option<String> {
        self.layers.get(key).map(|(_, text)| text.to_owned()).filter(|text| !text.is_empty())
    }

    fn config(&mut self) -> Option<Config> {
        // Everything is read before the first `?`, so that every problem is found.
        let listen = match (self.text("listen"), self.text("port")) {
            (None, Some(_)) => self.read("port", parse::port),
            _ => self.read("listen", parse::address),
        };
        let internal_listen = self.read("internal_listen", parse::address);
        let mounts = self.read("mounts", parse::mounts);
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
        let log = self.read("log", |text| Ok(text.to_owned()));
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
            auth: auth?,
            first_token: first_token?,
            cors_origins: cors_origins?,
            trusted_proxies: trusted_proxies?,
            database_url: Secret(database_url?),
            cluster: cluster?,
            times: times?,
            limits: limits?,
            drain: drain?,
            leave_holdback: leave_holdback?,
            apps: apps?,
            log: log?,
            log_format: log_format?,
            workers: workers?,
        })
    }

    fn apps(&mut self) -> Option<AppsConfig> {
        let calls_per_minute = self.read("calls_per_minute", parse::number);
        let call_ring = self.read("call_ring", parse::duration);
        let presence_grace = self.read("presence_grace", parse::duration);
        let presence_away = self.read("presence_away", parse::duration);
        let sos_age = self.read("sos_age", parse::age);
        let url = self.read("push_webhook_url", parse::web_address);
        let secret = self.text("push_webhook_secret").map(Secret);
        let push = url.map(|url| {
            Some(url).filter(|url| !url.is_empty()).map(|url| PushConfig { url: SecretUrl::new(url), secret })
        });
        Some(AppsConfig {
            calls_per_minute: u32::try_from(calls_per_minute?).unwrap_or(u32::MAX),
            call_ring: call_ring?,
            presence_grace: presence_grace?,
            presence_away: presence_away?,
            sos_age: sos_age?,
            push: push?,
        })
    }

    /// `None` for a problem, `Some(None)` for a node alone.
    fn cluster(&mut self, auth: Option<&AuthConfig>) -> Option<Option<ClusterConfig>> {
        let redis = match (self.text("redis_url"), self.text("redis_host"), self.text("redis_port")) {
            (None, None, None) => None,
            (Some(_), _, _) => Some(self.read("redis_url", RedisAddress::parse)),
            (None, host, port) => {
                let port = match port {
                    Some(_) => self.read("redis_port", parse::port).map(|address| address.port()),
                    None => Some(6_379),
                };
                Some(port.map(|port| RedisAddress::plain(host.as_deref().unwrap_or("127.0.0.1"), port)))
            }
        };
        let ca_cert = self.text("redis_ca_cert");
        let is_tls = redis.as_ref().is_none_or(|redis| redis.as_ref().is_none_or(|redis| redis.tls));
        if ca_cert.as_ref().is_some_and(|path| path.contains("-----BEGIN")) {
            self.problem("redis_ca_cert", "the path of a PEM file, and not its text");
        } else if ca_cert.is_some() && !is_tls {
            self.problem("redis_ca_cert", "a redis_url with TLS beside it: rediss://…");
        }
        let key_prefix = self.read("redis_prefix", parse::prefix);
        let channel_prefix = self.read("redis_channel_prefix", parse::prefix);
        let lease = self.read("lease", parse::lease);
        let advertise_url = self.read("advertise_url", parse::http_url);
        let Some(redis) = redis else { return Some(None) };
        if auth.is_some_and(|auth| auth.keys == TokenKeys::Random) {
            self.problem("jwt_secret", "a secret, since the nodes of a cluster must believe the same tokens");
            return None;
        }
        Some(Some(ClusterConfig {
            redis: redis?,
            redis_ca_cert: ca_cert.map(Into::into),
            key_prefix: key_prefix?,
            channel_prefix: channel_prefix?,
            lease: lease?,
            advertise_url: advertise_url?,
        }))
    }

    fn auth(&mut self) -> Option<AuthConfig> {
        let secret = self.text("jwt_secret");
        let public = self.text("jwt_public_key");
        let jwks = self.text("jwks_url");
        let errors = self.read("auth_errors", parse::auth_errors);
        if jwks.as_ref().is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
            self.problem("jwks_url", "a URL that begins with http:// or https://");
        }
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
            issuer: self.text("jwt_issuer"),
            audience: self.text("jwt_audience"),
            errors,
            errors_by_namespace,
            internal_token: self.text("internal_token").map(Secret),
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_defaults_are_a_valid_configuration() {
        let config = Layers::default().resolve().unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.times.ping_interval, Duration::from_secs(25));
        assert_eq!(config.limits.max_payload, 1_000_000);
        assert_eq!(config.auth.keys, TokenKeys::Random);
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let mut layers = Layers::default();
        layers.set_file("m.toml", "drain = \"1s\"\nping_interval = 1000\nping_timeout = \"3s\"\n");
        layers.set(Layer::Environment, "drain", "2s");
        layers.set(Layer::Environment, "ping_interval", "2s");
        layers.set(Layer::Flag, "drain", "3s");
        let config = layers.resolve().unwrap();
        assert_eq!(config.drain, Duration::from_secs(3));
        assert_eq!(config.times.ping_interval, Duration::from_secs(2));
        assert_eq!(config.times.ping_timeout, Duration::from_secs(3));
    }

    #[test]
    fn every_problem_is_told_with_its_place_value_and_what_was_expected() {
        let mut layers = Layers::default();
        layers.set_file("m.toml", "colour = \"red\"\nping_timeout = \"soon\"\n");
        layers.set(Layer::Environment, "listen", "nowhere");
        layers.set(Layer::Flag, "mounts", "chess=/");
        let problems: Vec<String> = layers.resolve().unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(problems.len(), 4, "{problems:#?}");
        assert!(problems[0].contains("colour in m.toml"));
        assert!(problems[1].contains("LISTEN = \"nowhere\": expected an address and port"));
        assert!(problems[2].contains("--mount = \"chess=/\""));
        assert!(problems[3].contains("ping_timeout in m.toml = \"soon\""));
    }

    #[test]
    fn a_secret_is_never_shown() {
        let mut layers = Layers::default();
        layers.set(Layer::Environment, "jwt_secret", "hush");
        layers.set(Layer::Environment, "database_url", "mysql://hush");
        let shown: Vec<_> = layers.effective().collect();
        assert!(shown.iter().all(|setting| !setting.text.contains("hush")));
        let problems = layers.resolve().unwrap_err();
        assert!(problems.iter().all(|problem| !problem.to_string().contains("hush")));
    }

    #[test]
    fn credentials_are_not_shown_whatever_setting_they_stand_in() {
        for setting in SETTINGS {
            for text in ["https://user:hush@h.example/x?token=hush", "user:hush@h.example"] {
                let mut layers = Layers::default();
                layers.set(Layer::Environment, setting.key, text);
                for shown in layers.effective() {
                    assert!(!shown.text.contains("hush"), "{shown:?}");
                    assert!(shown.key != setting.key || !shown.is_whole, "{shown:?}");
                }
                // Whether it is accepted or not.
                let said = match layers.resolve() {
                    Ok(config) => format!("{config:?}"),
                    Err(problems) => format!("{problems:?}"),
                };
                assert!(!said.contains("hush"), "{}: {said}", setting.key);
            }
        }
    }

    #[test]
    fn a_value_of_a_wrong_type_is_not_shown_where_it_is_secret() {
        for key in SETTINGS.iter().filter(|setting| setting.secret).map(|setting| setting.key) {
            for value in ["12345.5", "true", "{ hush = 12345 }", "[12345]", "1979-05-27"] {
                let mut layers = Layers::default();
                layers.set_file("m.toml", &format!("{key} = {value}"));
                let problems = layers.resolve().unwrap_err();
                let said = problems.iter().map(ToString::to_string).collect::<String>();
                assert!(said.contains(key) && !said.contains("12345") && !said.contains("true"), "{said}");
                assert!(!said.contains("1979"), "{said}");
            }
        }
    }

    #[test]
    fn the_debug_form_of_a_configuration_holds_no_credentials() {
        let mut layers = Layers::default();
        for (key, value) in [
            ("jwks_url", "https://user:hush@keys.example/jwks?hush=1"),
            ("push_webhook_url", "https://user:hush@push.example/?hush=1"),
            ("push_webhook_secret", "hush hush"),
            ("redis_url", "redis://name-of-the-user:hush@redis.example"),
            ("database_url", "postgres://name-of-the-user:hush@db.example/x?password=hush"),
            ("internal_token", "hush hush"),
        ] {
            layers.set(Layer::Environment, key, value);
        }
        let said = format!("{:?}", layers.resolve().unwrap());
        assert!(said.contains("keys.example") && said.contains("redis.example"), "{said}");
        assert!(!said.contains("hush") && !said.contains("name-of-the-user"), "{said}");
    }

    #[test]
    fn an_internal_listener_for_others_needs_a_token() {
        let mut layers = Layers::default();
        layers.set(Layer::Environment, "internal_listen", "0.0.0.0:9090");
        assert!(layers.resolve().is_err());
        let mut layers = Layers::default();
        layers.set(Layer::Environment, "internal_listen", "0.0.0.0:9090");
        layers.set(Layer::Environment, "internal_token", "t");
        assert!(layers.resolve().is_ok());
    }

    #[test]
    fn a_cluster_needs_a_secret() {
        let set = |values: &[(&str, &str)]| {
            let mut layers = Layers::default();
            for (key, value) in values {
                layers.set(Layer::Environment, key, value);
            }
            layers.resolve()
        };
        let refused = set(&[("redis_host", "redis.example")]).unwrap_err();
        assert!(refused.len() == 1 && refused[0].to_string().contains("JWT_SECRET"), "{refused:?}");
        let config = set(&[("redis_host", "redis.example"), ("jwt_secret", "s")]).unwrap();
        assert_eq!(config.cluster.unwrap().redis, RedisAddress::plain("redis.example", 6379));
        let config = set(&[("redis_port", "7000"), ("jwt_secret", "s")]).unwrap();
        assert_eq!(config.cluster.unwrap().redis, RedisAddress::plain("127.0.0.1", 7000));
        let wrong = [
            ("redis_url", "redis://:hush@h:0"),
            ("lease", "1ms"),
            ("advertise_url", "x"),
            ("jwt_secret", "s"),
        ];
        let problems = set(&wrong).unwrap_err();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems.iter().all(|problem| !problem.to_string().contains("hush")));
    }

    #[test]
    fn an_authority_of_redis_is_a_file_and_needs_tls() {
        let set = |url: &str, ca: &str| {
            let mut layers = Layers::default();
            for (key, value) in [("redis_url", url), ("redis_ca_cert", ca), ("jwt_secret", "s")] {
                layers.set(Layer::Environment, key, value);
            }
            layers.resolve()
        };
        let config = set("rediss://redis.example", "/etc/redis/ca.crt").unwrap();
        assert_eq!(config.cluster.unwrap().redis_ca_cert, Some("/etc/redis/ca.crt".into()));
        for (url, ca, said) in [
            ("redis://redis.example", "/etc/redis/ca.crt", "rediss://"),
            ("rediss://redis.example", "-----BEGIN CERTIFICATE-----\nx", "the path of a PEM file"),
        ] {
            let problems = set(url, ca).unwrap_err();
            assert!(problems.len() == 1 && problems[0].to_string().contains(said), "{problems:?}");
        }
    }

    #[test]
    fn only_one_kind_of_key_may_be_set() {
        let mut layers = Layers::default();
        layers.set(Layer::Environment, "jwt_secret", "s");
        layers.set(Layer::Environment, "jwks_url", "https://keys.example/jwks");
        assert_eq!(layers.resolve().unwrap_err().len(), 1);
    }
}
