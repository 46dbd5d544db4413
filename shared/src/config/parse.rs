//! Parses texts to values; an error names the expected form.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::{AppDeclaration, AuthErrors, FirstTokenTo, LogFormat, redact};
use crate::names::Namespace;
use crate::origin::OriginRule;

/// The expected form of a setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Expected(pub(super) &'static str);

impl From<Expected> for String {
    fn from(Expected(expected): Expected) -> Self {
        expected.to_owned()
    }
}

type Parsed<T> = Result<T, Expected>;

/// The longest time that may be set.
const DURATION_MAX: Duration = Duration::from_hours(24);

/// The longest age after which something ends.
const AGE_MAX: Duration = Duration::from_hours(24 * 30);

pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    text.parse().map_err(|_| Expected("an address and port, such as 127.0.0.1:8080"))
}

pub(super) fn port(text: &str) -> Parsed<u16> {
    text.parse().map_err(|_| Expected("a port from 0 to 65535"))
}

/// The port of a server to connect to.
pub(super) fn some_port(text: &str) -> Parsed<u16> {
    port(text).ok().filter(|port| *port != 0).ok_or(Expected("a port from 1 to 65535"))
}

/// A host alone: a name, or an address with or without brackets.
pub(super) fn host(text: &str) -> Parsed<String> {
    let plain = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if plain.parse::<IpAddr>().is_ok() {
        return Ok(plain.to_owned());
    }
    let is_name = !text.is_empty() && !text.contains([':', '/', '@', '?', '#', ',', '[', ']']);
    if is_name && !text.contains(char::is_whitespace) {
        Ok(text.to_owned())
    } else {
        Err(Expected("a host name or address alone; a port belongs to redis_port, and a URL to redis_url"))
    }
}

/// Texts separated by commas.
pub(super) fn texts(text: &str) -> Vec<String> {
    list(text).map(str::to_owned).collect()
}

pub(super) fn flag(text: &str) -> Parsed<bool> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Expected("true or false")),
    }
}

/// A bearer token that a client can send in a header.
pub(super) fn bearer(text: &str) -> Parsed<String> {
    let is_sendable = text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) && text.trim() == text;
    if is_sendable {
        Ok(text.to_owned())
    } else {
        Err(Expected(
            "a token of visible ASCII characters, since no request could carry any other in a header",
        ))
    }
}

/// A log filter. A word that is not a level would mute every target except one of that name.
pub(super) fn log_filter(text: &str) -> Parsed<String> {
    let is_level = |word: &str| {
        ["off", "error", "warn", "info", "debug", "trace"]
            .iter()
            .any(|level| word.eq_ignore_ascii_case(level))
    };
    let is_directive = |item: &str| match item.rsplit_once('=') {
        Some((target, level)) => !target.trim().is_empty() && is_level(level.trim()),
        None => is_level(item),
    };
    if list(text).count() > 0 && list(text).all(is_directive) {
        Ok(text.to_owned())
    } else {
        Err(Expected(
            "a level (error, warn, info, debug, trace or off), or target=level, separated by commas",
        ))
    }
}

/// The path of a PEM file.
pub(super) fn key_file(text: &str) -> Parsed<PathBuf> {
    if is_pem(text) {
        Err(Expected(
            "the path of a PEM file; this is the text of a key, so write it to a file and name that",
        ))
    } else {
        Ok(text.into())
    }
}

/// Whether a text is a key instead of the path of one.
pub(super) fn is_pem(text: &str) -> bool {
    text.contains("-----BEGIN")
}

/// `250ms`, `25s`, `2m`, `1h`. A number without a unit is refused, because it could mean seconds or milliseconds;
/// only `0` needs none.
pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let expected = Expected("a duration up to 24h with its unit (ms, s, m or h), such as 250ms, 25s or 2m");
    time(text).filter(|d| *d <= DURATION_MAX).ok_or(expected)
}

/// A duration that may have days: `30d`, or as [`duration`].
pub(super) fn age(text: &str) -> Parsed<Duration> {
    let expected = Expected("a duration up to 30d with its unit (ms, s, m, h or d), such as 90m, 24h or 7d");
    time(text).filter(|d| *d <= AGE_MAX).ok_or(expected)
}

fn time(text: &str) -> Option<Duration> {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit_ms = match unit {
        "" if number.parse() == Ok(0_u64) => 1,
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    let ms = number.parse::<u64>().ok().and_then(|n| n.checked_mul(unit_ms));
    ms.map(Duration::from_millis)
}

pub(super) fn some_duration(text: &str) -> Parsed<Duration> {
    match duration(text)? {
        Duration::ZERO => Err(Expected("a duration greater than 0")),
        some => Ok(some),
    }
}

pub(super) fn number(text: &str) -> Parsed<usize> {
    text.parse().map_err(|_| Expected("a whole number, 0 for no limit"))
}

pub(super) fn auto_number(text: &str) -> Parsed<Option<usize>> {
    match text {
        "auto" => Ok(None),
        _ => text.parse().map(Some).map_err(|_| Expected("auto, or a whole number, 0 for no limit")),
    }
}

pub(super) fn payload(text: &str) -> Parsed<usize> {
    let size = text.parse().ok().filter(|size| (1_024..=100_000_000).contains(size));
    size.ok_or(Expected("a number of bytes from 1024 to 100000000"))
}

pub(super) fn web_address(text: &str) -> Parsed<String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_url = text.is_empty() || rest.is_some_and(|rest| !rest.is_empty() && !rest.contains([' ', '\t']));
    if is_url { Ok(text.to_owned()) } else { Err(Expected("an http:// or https:// URL")) }
}

pub(super) fn workers(text: &str) -> Parsed<Option<usize>> {
    match text {
        "auto" => Ok(None),
        _ => match text.parse() {
            Ok(count @ 1..=256) => Ok(Some(count)),
            _ => Err(Expected("auto, or a number from 1 to 256")),
        },
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// The value of `mounts`: apps and their namespaces.
pub(super) type Mounts = Vec<(&'static AppDeclaration, Namespace)>;

/// The mounted apps and their namespaces; an error names the wrong part.
pub(super) fn mounts(text: &str, apps: &[&'static AppDeclaration]) -> Result<Mounts, String> {
    let mut names: Vec<&str> = apps.iter().map(|app| app.name).collect();
    let last = names.pop().unwrap_or_default();
    let expected =
        format!("app=/namespace separated by commas, with the apps {} and {last}", names.join(", "));
    let mut found = Mounts::new();
    for item in list(text) {
        let shown = redact(item);
        let (app, namespace) =
            item.split_once('=').ok_or_else(|| format!("{expected}; {shown:?} is not of that form"))?;
        let known = apps.iter().copied().find(|known| known.name == app);
        let known = known.ok_or_else(|| format!("{expected}; there is no app {:?}", redact(app)))?;
        let namespace = Namespace::parse(namespace)
            .map_err(|_| format!("{expected}; {:?} is no namespace", redact(namespace)))?;
        if found.iter().any(|(other, _)| *other == known) {
            return Err(format!("each app once; {app} is named twice"));
        }
        found.push((known, namespace));
    }
    if found.is_empty() { Err(expected) } else { Ok(found) }
}

pub(super) fn origins(text: &str) -> Parsed<Vec<OriginRule>> {
    let expected = "* or null, or origins such as https://app.example.org, https://*.example.org, http://localhost:* or \
                    capacitor://localhost, with a scheme and without a path, separated by commas";
    list(text).map(OriginRule::parse).collect::<Option<_>>().ok_or(Expected(expected))
}

pub(super) fn networks(text: &str) -> Parsed<Vec<IpNet>> {
    let network = |item: &str| item.parse().or_else(|_| item.parse::<IpAddr>().map(IpNet::from));
    list(text)
        .map(network)
        .collect::<Result<_, _>>()
        .map_err(|_| Expected("addresses or networks such as 10.0.0.0/8, separated by commas"))
}

pub(super) fn database_url(text: &str) -> Parsed<String> {
    let known = ["sqlite:", "postgres://", "postgresql://"];
    if known.iter().any(|scheme| text.starts_with(scheme)) {
        Ok(text.to_owned())
    } else {
        Err(Expected("sqlite:FILE or postgres://user:password@host/database"))
    }
}

/// A prefix of keys or channels: plain characters, so that it changes no pattern and no cluster slot.
pub(super) fn prefix(text: &str) -> Parsed<String> {
    if crate::names::is_word(text) {
        Ok(text.to_owned())
    } else {
        Err(Expected("1 to 128 characters of A-Z a-z 0-9 . _ : -"))
    }
}

/// The duration of a lease: long enough to be renewed through a slow second, short enough to be noticed.
pub(super) fn lease(text: &str) -> Parsed<Duration> {
    let known = duration(text)?;
    let fits = (Duration::from_millis(500)..=Duration::from_mins(1)).contains(&known);
    if fits { Ok(known) } else { Err(Expected("a duration from 500ms to 1m")) }
}

pub(super) fn http_url(text: &str) -> Parsed<Option<String>> {
    if text.is_empty() {
        return Ok(None);
    }
    let host = text.strip_prefix("http://").map(|rest| rest.trim_end_matches('/'));
    match host {
        Some(host) if !host.is_empty() && !host.contains(['/', ' ', '@', '?', '#']) => {
            Ok(Some(format!("http://{host}")))
        }
        _ => Err(Expected("a URL such as http://10.0.0.5:9090, without a path")),
    }
}

pub(super) fn first_token(text: &str) -> Parsed<FirstTokenTo> {
    match text {
        "auto" => Ok(FirstTokenTo::Auto),
        "stdout" => Ok(FirstTokenTo::Stdout),
        _ => Err(Expected("auto or stdout")),
    }
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "json" => Ok(LogFormat::Json),
        "pretty" => Ok(LogFormat::Pretty),
        _ => Err(Expected("auto, json or pretty")),
    }
}

/// A wording for all namespaces, and wordings for single ones.
type Wordings = (AuthErrors, Vec<(Namespace, AuthErrors)>);

pub(super) fn auth_errors(text: &str) -> Parsed<Wordings> {
    let expected = || Expected("plain or prefixed; for one namespace /ns=plain or /ns=prefixed");
    let wording = |word: &str| match word {
        "plain" => Ok(AuthErrors::Plain),
        "prefixed" => Ok(AuthErrors::Prefixed),
        _ => Err(expected()),
    };
    let (mut all, mut single) = (AuthErrors::default(), Vec::new());
    for item in list(text) {
        match item.split_once('=') {
            None => all = wording(item)?,
            Some((namespace, word)) => {
                single.push((Namespace::parse(namespace).map_err(|_| expected())?, wording(word)?));
            }
        }
    }
    Ok((all, single))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("25s"), Ok(Duration::from_secs(25)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(age("0"), Ok(Duration::ZERO));
        for bare in ["25", "7", "25000"] {
            assert!(duration(bare).unwrap_err().0.contains("unit (ms, s, m or h)"), "{bare}");
            assert!(age(bare).unwrap_err().0.contains("unit (ms, s, m, h or d)"), "{bare}");
        }
        for bad in ["", "s", "1.5s", "-1s", "1 s", "25h", "99999999999999999999"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_have_a_scheme_and_no_path() {
        let good = "https://a.example, http://localhost:*,*,null,https://*.a.example,capacitor://localhost,wss://a.example";
        assert_eq!(origins(good).map(|rules| rules.len()), Ok(7));
        for bad in [
            "a.example",
            "https://",
            "https://a.*.example",
            "https://a.example/x",
            "https://a.example,b.example",
        ] {
            assert!(origins(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_app_is_mounted_once() {
        let mounts = |text: &str| mounts(text, &super::super::apps::testing::APPS);
        assert_eq!(mounts("chat=/,relay=/relay").map(|m| m.len()), Ok(2));
        for (bad, expected) in [
            ("", "app=/namespace"),
            ("chat", r#""chat" is not of that form"#),
            ("chat=x", r#""x" is no namespace"#),
            ("chess=/", r#"no app "chess""#),
            ("chat=/,foo=/x", r#"no app "foo""#),
            ("chat=/,chat=/b", "chat is named twice"),
        ] {
            let said = mounts(bad).unwrap_err();
            assert!(said.contains(expected), "{bad}: {said}");
        }
    }

    #[test]
    fn a_log_filter_names_levels() {
        for good in
            ["info", "DEBUG", "off", "info,gateway=debug", "warn, fanout::redis=trace", "info,a[b{c=d}]=warn"]
        {
            assert!(log_filter(good).is_ok(), "{good}");
        }
        for bad in ["verbose", "", ",", "info,loud", "gateway=loud", "=info", "gateway", "info debug"] {
            assert!(log_filter(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_host_is_no_url_and_has_no_port() {
        for (good, is) in
            [("redis.example", "redis.example"), ("10.0.0.1", "10.0.0.1"), ("[::1]", "::1"), ("::1", "::1")]
        {
            assert_eq!(host(good), Ok(is.to_owned()));
        }
        for bad in ["redis://h", "h:6380", "[::1]:6380", "", "a b", "user@h", "h/0", "a,b", "h\n"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_bearer_token_can_be_sent_in_a_header() {
        assert!(bearer("0f6c-2a9b e1d8").is_ok());
        for bad in ["a\nb", " a", "a ", "é", "a\tb", "\u{7f}"] {
            assert!(bearer(bad).is_err(), "{bad:?}");
        }
    }
}
