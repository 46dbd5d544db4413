//! Texts to values; an error says what should have stood there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;

use super::{AppName, AuthErrors, FirstTokenTo, LogFormat};
use crate::names::Namespace;
use crate::origin::OriginRule;

/// What a setting should have been.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Expected(pub(super) &'static str);

type Parsed<T> = Result<T, Expected>;

/// The longest time that may be set.
const DURATION_MAX: Duration = Duration::from_hours(24);

/// The longest age after which something ends.
const AGE_MAX: Duration = Duration::from_hours(24 * 30);

pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    text.parse().map_err(|_| Expected("an address and port, such as 127.0.0.1:8080"))
}

pub(super) fn port(text: &str) -> Parsed<SocketAddr> {
    let port = text.parse().map_err(|_| Expected("a port from 0 to 65535"))?;
    Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
}

/// `250ms`, `25s`, `2m`, `1h`; a bare number is milliseconds.
pub(super) fn duration(text: &str) -> Parsed<Duration> {
    let expected = Expected("a duration up to 24h, such as 250ms, 25s or 2m (a bare number is milliseconds)");
    time(text).filter(|d| *d <= DURATION_MAX).ok_or(expected)
}

/// A duration of days: `30d`, or as [`duration`].
pub(super) fn age(text: &str) -> Parsed<Duration> {
    let expected = Expected("a duration up to 30d, such as 90m, 24h or 7d (a bare number is milliseconds)");
    time(text).filter(|d| *d <= AGE_MAX).ok_or(expected)
}

fn time(text: &str) -> Option<Duration> {
    let end = text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit_ms = match unit {
        "" | "ms" => 1,
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

pub(super) fn mounts(text: &str) -> Parsed<Vec<(AppName, Namespace)>> {
    let expected = || {
        Expected("app=/namespace separated by commas, with the apps sos, emergencies, chat, care and relay")
    };
    let mut found = Vec::new();
    for item in list(text) {
        let (app, namespace) = item.split_once('=').ok_or_else(expected)?;
        let app = AppName::ALL.into_iter().find(|a| a.as_str() == app).ok_or_else(expected)?;
        let namespace = Namespace::parse(namespace).map_err(|_| expected())?;
        if found.iter().any(|(other, _)| *other == app) {
            return Err(Expected("each app once"));
        }
        found.push((app, namespace));
    }
    if found.is_empty() { Err(expected()) } else { Ok(found) }
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

/// A prefix of keys or channels: plain characters, so that no pattern and no cluster slot is changed by it.
pub(super) fn prefix(text: &str) -> Parsed<String> {
    if crate::names::is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(Expected("1 to 128 characters of A-Z a-z 0-9 . _ : -"))
    }
}

/// How long a lease lasts: long enough to be renewed through a slow second, short enough to be noticed.
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
        assert_eq!(duration("7"), Ok(Duration::from_millis(7)));
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
        assert_eq!(mounts("chat=/,relay=/relay").map(|m| m.len()), Ok(2));
        for bad in ["", "chat", "chat=x", "chess=/", "chat=/,chat=/b"] {
            assert!(mounts(bad).is_err(), "{bad}");
        }
    }
}
