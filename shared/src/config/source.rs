//! Sources of settings: flags, then the environment, then one file. All unknown keys and wrong values are found before
//! anything starts.

use std::collections::BTreeMap;
use std::fmt;

use super::parse::is_pem;
use super::reader::Reader;
use super::redact::{HIDDEN, redact};
use super::settings::{self, Setting};
use super::spelling;
use super::{AppDeclaration, Config};

/// One setting that cannot be used, as the user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Its place: `--ping-interval`, `PING_INTERVAL`, or `ping_interval in FILE`.
    pub place: String,
    /// The value; `…` for secrets and for the credentials of URLs, `None` if there is none to show.
    pub value: Option<String>,
    /// The expected form.
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
pub struct Layers {
    apps: Vec<&'static AppDeclaration>,
    settings: Vec<Setting>,
    values: BTreeMap<(String, Layer), String>,
    file_name: String,
    problems: Vec<Problem>,
    notes: Vec<String>,
}

impl fmt::Debug for Layers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The texts are unredacted, including secrets.
        f.debug_struct("Layers").field("keys", &self.values.keys()).finish_non_exhaustive()
    }
}

impl Layers {
    /// No settings, for a node with these apps.
    #[must_use]
    pub fn new(apps: Vec<&'static AppDeclaration>) -> Self {
        let settings = settings::all(&apps);
        let (values, file_name, problems, notes) = Default::default();
        Self { apps, settings, values, file_name, problems, notes }
    }

    /// All settings: the node's, and each app's.
    #[must_use]
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    pub(super) fn apps(&self) -> &[&'static AppDeclaration] {
        &self.apps
    }

    /// Adds a flag or environment value. Empty environment values count as not set. A line break at the end is removed:
    /// a file or a Kubernetes secret often ends with one.
    pub fn set(&mut self, layer: Layer, key: &str, value: &str) {
        let trimmed = value.trim_end_matches(['\n', '\r']);
        if trimmed.len() < value.len() && key == "jwt_secret" {
            self.notes.push(format!(
                "{} ended with a line break, which is not part of it: the signer of tokens must leave it out, too",
                self.place(key, layer)
            ));
        }
        if layer != Layer::Environment || !trimmed.is_empty() {
            self.values.insert((key.to_owned(), layer), trimmed.to_owned());
        }
    }

    /// Refuses environment variables with names that are nearly settings: otherwise a misspelt setting would be ignored
    /// silently.
    pub fn check_names<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        for name in names {
            if let Some(meant) = spelling::meant(name, &self.settings) {
                let expected = format!("no such setting; did you mean {}?", meant.to_uppercase());
                self.problems.push(Problem { place: name.to_owned(), value: None, expected });
            }
        }
    }

    /// Adds the values of a TOML file: one flat table with the settings' keys.
    pub fn set_file(&mut self, name: &str, text: &str) {
        name.clone_into(&mut self.file_name);
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                let at = error.span().map(|span| position(text, span.start));
                let place = match at {
                    Some((line, column)) => format!("{name}, line {line}, column {column}"),
                    None => name.to_owned(),
                };
                let expected = format!("not valid TOML: {}", error.message());
                self.problems.push(Problem { place, value: None, expected });
                return;
            }
        };
        for (key, value) in table {
            let place = format!("{key} in {name}");
            if !self.settings.iter().any(|setting| setting.key == key) {
                let expected = match spelling::nearest(&key, &self.settings) {
                    Some(meant) => format!("no such setting; did you mean {meant}?"),
                    None => "no such setting".to_owned(),
                };
                self.problems.push(Problem { place, value: None, expected });
                continue;
            }
            match text_of(&value) {
                Some(text) => self.set(Layer::File, &key, &text),
                None => self.problems.push(Problem {
                    place,
                    value: Some(self.shown(&key, &value.to_string())),
                    expected: "a text, a number or a list of texts".to_owned(),
                }),
            }
        }
    }

    /// The effective text for `key` and its layer.
    pub(super) fn get(&self, key: &str) -> Option<(Layer, &str)> {
        [Layer::Flag, Layer::Environment, Layer::File]
            .into_iter()
            .find_map(|layer| Some((layer, self.values.get(&(key.to_owned(), layer))?.as_str())))
    }

    pub(super) fn place(&self, key: &str, layer: Layer) -> String {
        match layer {
            Layer::Flag if key == "mounts" => "--mount".to_owned(),
            Layer::Flag => format!("--{}", key.replace('_', "-")),
            Layer::Environment => key.to_uppercase(),
            Layer::File => format!("{key} in {}", self.file_name),
        }
    }

    /// Every setting with its redacted effective text: `print-config`.
    pub fn effective(&self) -> impl Iterator<Item = Effective> {
        self.settings.iter().map(|setting| {
            let value = self.get(setting.key).map_or(&*setting.default, |(_, text)| text);
            let is_default = value.is_empty() || value == setting.default;
            let text = if is_default { value.to_owned() } else { self.shown(setting.key, value) };
            Effective { key: setting.key, is_whole: text == value, text }
        })
    }

    /// The redacted text of a setting.
    pub(super) fn shown(&self, key: &str, text: &str) -> String {
        let is_secret = self.settings.iter().any(|setting| setting.key == key && setting.secret);
        // A key pasted instead of its file's path may be a private one.
        if is_secret || is_pem(text) { HIDDEN.to_owned() } else { redact(text) }
    }

    /// Checks everything.
    ///
    /// # Errors
    /// Every problem found, in the order of the settings.
    pub fn resolve(mut self) -> Result<Config, Vec<Problem>> {
        let (problems, notes) = (std::mem::take(&mut self.problems), std::mem::take(&mut self.notes));
        let mut reader = Reader { layers: &self, problems, notes };
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
    /// The effective text, redacted.
    pub text: String,
    /// Nothing is redacted.
    pub is_whole: bool,
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

/// The line and column of a position in a text, both from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{RedisAddress, Secret, TokenKeys};
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
        layers.set_file("m.toml", "drain = \"1s\"\nping_interval = \"1s\"\nping_timeout = \"3s\"\n");
        layers.set(Layer::Environment, "drain", "2s");
        layers.set(Layer::Environment, "ping_interval", "2s");
        layers.set(Layer::Flag, "drain", "3s");
        let config = layers.resolve().unwrap();
        assert_eq!(config.drain, Duration::from_secs(3));
        assert_eq!(config.times.ping_interval, Duration::from_secs(2));
        assert_eq!(config.times.ping_timeout, Duration::from_secs(3));
    }

    #[test]
    fn every_problem_is_reported_with_its_place_value_and_what_was_expected() {
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
    fn credentials_are_not_shown_in_any_setting() {
        for setting in Layers::default().settings() {
            for text in ["https://user:hush@h.example/x?token=hush", "user:hush@h.example"] {
                let mut layers = Layers::default();
                layers.set(Layer::Environment, setting.key, text);
                for shown in layers.effective() {
                    assert!(!shown.text.contains("hush"), "{shown:?}");
                    assert!(shown.key != setting.key || !shown.is_whole, "{shown:?}");
                }
                // Accepted or not.
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
        for key in
            Layers::default().settings().iter().filter(|setting| setting.secret).map(|setting| setting.key)
        {
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

    fn set(values: &[(&str, &str)]) -> Result<Config, String> {
        let mut layers = Layers::default();
        for (key, value) in values {
            layers.set(Layer::Environment, key, value);
        }
        let said = |problems: Vec<Problem>| problems.iter().map(|problem| format!("{problem}\n")).collect();
        layers.resolve().map_err(said)
    }

    #[test]
    fn a_duration_without_its_unit_is_refused_with_the_units() {
        for key in ["ping_interval", "drain", "lease", "call_ring", "sos_age"] {
            let said = set(&[(key, "25")]).unwrap_err();
            assert!(said.contains(&key.to_uppercase()) && said.contains("unit (ms, s, m"), "{said}");
        }
        assert!(set(&[("drain", "0"), ("sos_age", "0"), ("leave_holdback", "0")]).is_ok());
    }

    #[test]
    fn a_line_break_at_the_end_of_a_value_is_left_out() {
        let config = set(&[("internal_token", "hush-hush-hush-hush\n"), ("jwt_secret", "s\r\n")]).unwrap();
        assert_eq!(config.auth.internal_token, Some(Secret("hush-hush-hush-hush".into())));
        assert_eq!(config.auth.keys, TokenKeys::Secret("s".into()));
        let said = config.warnings();
        assert!(
            said.iter().any(|warning| warning.starts_with("JWT_SECRET ended with a line break")),
            "{said:?}"
        );
        let mut layers = Layers::default();
        layers.set_file("m.toml", "internal_token = \"\"\"\nhush-hush-hush-hush\n\"\"\"\n");
        assert!(layers.resolve().unwrap().auth.internal_token.is_some_and(|token| !token.0.contains('\n')));
        let said = set(&[("internal_token", "hush\nhush")]).unwrap_err();
        assert!(
            said.contains("INTERNAL_TOKEN") && said.contains("header") && !said.contains("hush"),
            "{said}"
        );
    }

    #[test]
    fn several_issuers_and_audiences_are_a_list() {
        let auth =
            set(&[("jwt_audience", "web, mobile"), ("jwt_issuer", "https://a.example/")]).unwrap().auth;
        assert_eq!(auth.audiences, ["web", "mobile"]);
        assert_eq!(auth.issuers, ["https://a.example/"]);
    }

    #[test]
    fn the_port_of_a_platform_replaces_the_one_of_listen() {
        let listen = |values: &[(&str, &str)]| set(values).unwrap().listen.to_string();
        assert_eq!(listen(&[("port", "3000")]), "127.0.0.1:3000");
        assert_eq!(listen(&[("port", "3000"), ("listen", "0.0.0.0:8080")]), "0.0.0.0:3000");
        assert!(set(&[("port", "tcp://10.0.0.1:1")]).is_err());
        let mut layers = Layers::default();
        layers.set(Layer::Environment, "port", "3000");
        layers.set(Layer::Flag, "listen", "127.0.0.1:4000");
        assert_eq!(
            layers.resolve().unwrap().listen.to_string(),
            "127.0.0.1:4000",
            "a flag is taken literally"
        );
    }

    #[test]
    fn settings_of_redis_work_together_or_are_refused() {
        let redis = |values: &[(&str, &str)]| {
            let config = set(&[values, &[("jwt_secret", "s")]].concat());
            config.map(|config| config.cluster.map(|cluster| cluster.redis))
        };
        let full = redis(&[("redis_host", "r.example"), ("redis_username", "u"), ("redis_password", "p\n")]);
        let full = full.unwrap().unwrap();
        assert_eq!((full.user.as_deref(), full.password), (Some("u"), Some(Secret("p".into()))));
        let url = redis(&[("redis_url", "redis://r.example"), ("redis_password", "p")]).unwrap().unwrap();
        assert_eq!(url.password, Some(Secret("p".into())));
        for (values, place) in [
            (&[("redis_url", "redis://:other@r"), ("redis_password", "hush")], "REDIS_PASSWORD"),
            (&[("redis_url", "redis://r"), ("redis_host", "r")], "REDIS_HOST"),
            (&[("redis_url", "redis://r"), ("redis_port", "6380")], "REDIS_PORT"),
            (&[("redis_host", "redis://h"), ("drain", "0")], "REDIS_HOST"),
            (&[("redis_host", "h:6380"), ("drain", "0")], "REDIS_HOST"),
            (&[("redis_host", "h"), ("redis_port", "0")], "REDIS_PORT"),
            (&[("redis_password", "hush"), ("drain", "0")], "REDIS_PASSWORD"),
        ] {
            let said = redis(values).unwrap_err();
            assert!(said.lines().count() == 1 && said.starts_with(place) && !said.contains("hush"), "{said}");
        }
        // Docker and Kubernetes set this automatically for a service named `redis`.
        let linked = ("redis_port", "tcp://10.0.0.1:6380");
        assert_eq!(redis(&[linked]).unwrap(), None);
        assert_eq!(redis(&[linked, ("redis_host", "r")]).unwrap(), Some(RedisAddress::plain("r", 6_380)));
        assert_eq!(
            redis(&[linked, ("redis_url", "redis://r")]).unwrap(),
            Some(RedisAddress::plain("r", 6_379))
        );
    }

    #[test]
    fn the_text_of_a_key_is_neither_a_path_nor_a_secret() {
        let pem = "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----";
        for key in ["jwt_public_key", "jwt_secret"] {
            let said = set(&[(key, pem)]).unwrap_err();
            assert!(said.starts_with(&key.to_uppercase()) && said.contains("file"), "{said}");
            assert!(!said.contains("MFkw"), "{said}");
        }
    }

    #[test]
    fn a_word_that_is_not_a_level_does_not_mute_the_log() {
        let said = set(&[("log", "verbose")]).unwrap_err();
        assert!(said.starts_with("LOG = \"verbose\": expected a level (error, warn, info"), "{said}");
    }

    #[test]
    fn a_misspelt_name_is_refused_with_a_suggestion() {
        let mut layers = Layers::default();
        layers.check_names(["PATH", "PING_TIMEUOT", "PING_TIMEOUT"].into_iter());
        layers.set_file("m.toml", "drian = \"1s\"\n");
        let said: Vec<_> = layers.resolve().unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(
            said[0].starts_with("PING_TIMEUOT") && said[0].contains("did you mean PING_TIMEOUT?"),
            "{said:?}"
        );
        assert!(said[1].contains("drian in m.toml") && said[1].contains("did you mean drain?"), "{said:?}");
    }

    #[test]
    fn an_error_in_a_file_has_its_line_and_column() {
        for (text, place) in [
            ("drain = \"1s\"\nport = = 1\n", "m.toml, line 2, column 8"),
            ("\n\nlog = \"é\" x\n", "m.toml, line 3, column 11"),
        ] {
            let mut layers = Layers::default();
            layers.set_file("m.toml", text);
            let said = layers.resolve().unwrap_err()[0].to_string();
            assert!(said.starts_with(place) && said.contains("not valid TOML"), "{said}");
        }
    }
}
