//! Origins of web pages (RFC 6454), compared as URLs are: two spellings of one origin are equal.
//!
//! Spellings differ in the case of letters, the scheme's default port, `ws` for `http`, the trailing dot of a complete domain
//! name, Unicode for `xn--…`, and the notation of an IP address.

use std::fmt;
use std::net::IpAddr;

use url::Host;

/// A scheme, a host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    scheme: String,
    host: Place,
    /// The scheme's default if none is written; `None` if the scheme has no default, either.
    port: Option<u16>,
}

/// A host.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Name(String),
    Address(IpAddr),
}

/// An entry of `CORS_ORIGINS`: origins whose pages may connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginRule {
    /// `*`: every origin.
    Any,
    /// `null`: pages without their own origin, such as files and sandboxed frames.
    Null,
    /// Origins that match a pattern.
    Like {
        /// Scheme, host (without the `*.`) and port.
        origin: Origin,
        /// The host begins with `*.`: any name under it, but not the host itself.
        is_under: bool,
        /// The port is `*`: any.
        any_port: bool,
    },
}

impl Origin {
    /// Reads an `Origin` header. A path and a query are ignored: no browser writes them, and some programs write the whole URL.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (scheme, authority) = split(without_path(text))?;
        let (host, port) = host_and_port(authority)?;
        Self::of(scheme, host, port_number(port)?)
    }

    fn of(scheme: String, host: &str, port: Option<u16>) -> Option<Self> {
        let host = if is_web(&scheme) {
            web_host(host)?
        } else if !host.is_empty() || scheme == "file" {
            Place::Name(host.to_ascii_lowercase())
        } else {
            return None;
        };
        let port = port.or_else(|| default_port(&scheme));
        Some(Self { scheme, host, port })
    }

    /// Whether a page of this origin was served from the host in a `Host` header. The header has no scheme, so a missing port
    /// means the default of this origin's scheme.
    #[must_use]
    pub fn is_at(&self, host: &str) -> bool {
        self.is_at_port(host, None)
    }

    /// As [`Self::is_at`]; `port` applies if `host` has none.
    #[must_use]
    pub fn is_at_port(&self, host: &str, port: Option<u16>) -> bool {
        if !is_web(&self.scheme) || host.contains(NEVER) {
            return false;
        }
        let Some((host, written)) = host_and_port(host) else { return false };
        let Some(written) = port_number(written) else { return false };
        let port = written.or(port).or_else(|| default_port(&self.scheme));
        port == self.port && web_host(host).is_some_and(|host| host == self.host)
    }

    /// Whether it is a page of this machine: `localhost`, a name under it, or a loopback address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_web(&self.scheme)
            && match &self.host {
                Place::Address(address) => address.is_loopback(),
                Place::Name(name) => name == "localhost" || name.ends_with(".localhost"),
            }
    }
}

impl OriginRule {
    /// Reads an entry of `CORS_ORIGINS`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "*" => return Some(Self::Any),
            "null" => return Some(Self::Null),
            _ => {}
        }
        let (scheme, authority) = split(text)?;
        let (authority, any_port) = match authority.strip_suffix(":*") {
            Some(rest) => (rest, true),
            None => (authority, false),
        };
        let (authority, is_under) = match authority.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (authority, false),
        };
        let (host, port) = host_and_port(authority)?;
        if host.contains('*') || (any_port && port.is_some()) {
            return None;
        }
        let origin = Origin::of(scheme, host, port_number(port)?)?;
        // An address has no names under it.
        let fits = !is_under || matches!(&origin.host, Place::Name(name) if !name.is_empty());
        fits.then_some(Self::Like { origin, is_under, any_port })
    }

    /// Whether it admits an origin; `None` is an unreadable origin, or `null` where `is_null`.
    #[must_use]
    pub fn lets_in(&self, origin: Option<&Origin>, is_null: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Null => is_null,
            Self::Like { origin: like, is_under, any_port } => origin.is_some_and(|origin| {
                let host = match (&like.host, &origin.host) {
                    (Place::Name(parent), Place::Name(name)) if *is_under => is_name_under(name, parent),
                    (like, host) => !is_under && like == host,
                };
                host && like.scheme == origin.scheme && (*any_port || like.port == origin.port)
            }),
        }
    }
}

impl fmt::Display for OriginRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Null => f.write_str("null"),
            Self::Like { origin: Origin { scheme, host, port }, is_under, any_port } => {
                write!(f, "{scheme}://{}", if *is_under { "*." } else { "" })?;
                match host {
                    Place::Name(name) => f.write_str(name)?,
                    Place::Address(IpAddr::V4(address)) => write!(f, "{address}")?,
                    Place::Address(IpAddr::V6(address)) => write!(f, "[{address}]")?,
                }
                match port {
                    _ if *any_port => f.write_str(":*"),
                    Some(port) if default_port(scheme) != Some(*port) => write!(f, ":{port}"),
                    Some(_) | None => Ok(()),
                }
            }
        }
    }
}

/// Characters that no scheme, host or port contains. URL parsers skip some of these, and treat others as the host's end.
const NEVER: [char; 9] = ['/', '\\', '?', '#', '@', ' ', '\t', '\n', '\r'];

/// A URL's scheme and authority.
fn without_path(url: &str) -> &str {
    let Some((scheme, rest)) = url.split_once("://") else { return url };
    let authority = rest.find(['/', '?']).unwrap_or(rest.len());
    url.get(..scheme.len() + "://".len() + authority).unwrap_or(url)
}

/// The scheme in lower case, `http` for `ws`, and the text after `://`.
fn split(text: &str) -> Option<(String, &str)> {
    let (scheme, authority) = text.split_once("://")?;
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !is_scheme || authority.contains(NEVER) || authority.contains(char::is_control) {
        return None;
    }
    let scheme = scheme.to_ascii_lowercase();
    let scheme = match scheme.as_str() {
        "ws" => "http".to_owned(),
        "wss" => "https".to_owned(),
        _ => scheme,
    };
    Some((scheme, authority))
}

/// A host, in brackets if it is an IPv6 address, and the text of its port.
fn host_and_port(authority: &str) -> Option<(&str, Option<&str>)> {
    if authority.starts_with('[') {
        let end = authority.find(']')? + 1;
        let (host, rest) = authority.split_at(end);
        return if rest.is_empty() {
            Some((host, None))
        } else {
            Some((host, Some(rest.strip_prefix(':')?)))
        };
    }
    match authority.split_once(':') {
        Some((host, port)) => Some((host, Some(port))),
        None => Some((authority, None)),
    }
}

/// A port; `Some(None)` if none is written, which means the default.
fn port_number(text: Option<&str>) -> Option<Option<u16>> {
    match text {
        None | Some("") => Some(None),
        Some(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok().map(Some),
        Some(_) => None,
    }
}

/// A host as browsers read it.
fn web_host(text: &str) -> Option<Place> {
    match Host::parse(text).ok()? {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(&name);
            (!name.is_empty() && !name.ends_with('.')).then(|| Place::Name(name.to_owned()))
        }
        Host::Ipv4(address) => Some(Place::Address(address.into())),
        Host::Ipv6(address) => Some(Place::Address(IpAddr::V6(address).to_canonical())),
    }
}

fn is_name_under(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).and_then(|rest| rest.strip_suffix('.')).is_some_and(|rest| !rest.is_empty())
}

fn is_web(scheme: &str) -> bool {
    default_port(scheme).is_some()
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_rule_that_is_shown_is_read_as_the_same(text in "(https?|wss?|app|file)://(\\*\\.)?[a-zA-Z0-9ü.:\\[\\]*-]{0,16}(:[0-9*]{0,5})?/?") {
            if let Some(rule) = OriginRule::parse(&text) {
                prop_assert_eq!(OriginRule::parse(&rule.to_string()), Some(rule));
            }
        }

        #[test]
        fn an_origin_is_at_its_own_host(origin in "https?://[a-zA-Z0-9.-]{1,16}(:[0-9]{1,4})?") {
            if let Some(read) = Origin::parse(&origin) {
                let (_, host) = origin.split_once("://").unwrap();
                prop_assert!(read.is_at(host), "{}", origin);
            }
        }
    }

    fn is_at(origin: &str, host: &str) -> bool {
        Origin::parse(origin).is_some_and(|origin| origin.is_at(host))
    }

    #[test]
    fn two_spellings_of_ones_own_origin_are_equal() {
        for (origin, host) in [
            // Starscream (Swift) and Elephant.io (PHP) name the port in one of the two alone.
            ("wss://rt.example.org", "rt.example.org:443"),
            ("https://rt.example.org", "rt.example.org:443"),
            ("ws://rt.example.org", "rt.example.org:80"),
            ("http://rt.example.org", "rt.example.org:80"),
            ("https://rt.example.org:443", "rt.example.org"),
            ("wss://rt.example.org:443", "rt.example.org"),
            ("http://rt.example.org:80", "rt.example.org"),
            ("https://rt.example.org:", "rt.example.org:"),
            ("HTTPS://RT.Example.org", "rt.example.ORG"),
            ("https://rt.example.org.", "rt.example.org"),
            ("https://rt.example.org", "rt.example.org.:443"),
            ("https://rt.example.org/", "rt.example.org"),
            // Go's maldikhan/go.socket.io writes the whole URL.
            ("ws://rt.example.org:8080/socket.io/?EIO=4#@x", "rt.example.org:8080"),
            ("https://rt.example.org?x", "rt.example.org"),
            ("https://xn--bcher-kva.example", "bücher.example"),
            ("http://[::1]:8080", "[0:0:0:0:0:0:0:1]:8080"),
            ("http://127.0.0.1:8080", "127.1:8080"),
            ("http://rt.example.org:08080", "rt.example.org:8080"),
            ("ws://rt.example.org:8080", "rt.example.org:8080"),
            // The scheme of a `Host` without a port is unknown.
            ("http://rt.example.org", "rt.example.org"),
            ("https://rt.example.org", "rt.example.org"),
        ] {
            assert!(is_at(origin, host), "{origin} at {host}");
        }
    }

    #[test]
    fn another_origin_is_not_ones_own() {
        for (origin, host) in [
            ("https://rt.example.org", "rt.example.org:80"),
            ("http://rt.example.org", "rt.example.org:443"),
            ("wss://rt.example.org", "rt.example.org:8443"),
            ("http://127.0.0.1", "127.0.0.1:8080"),
            ("http://127.0.0.1:80800", "127.0.0.1:8080"),
            ("http://localhost:8080", "127.0.0.1:8080"),
            ("https://rt.example.org.evil.tld", "rt.example.org"),
            ("https://evil-rt.example.org", "rt.example.org"),
            ("https://rt.example.org@evil.tld", "evil.tld"),
            ("https://evil.tld\\@rt.example.org", "rt.example.org"),
            ("https://rt.example.org#evil.tld", "rt.example.org"),
            ("https://rt.exa\tmple.org", "rt.example.org"),
            ("https://rt.example.org:44 3", "rt.example.org"),
            ("https://rt.example.org:+443", "rt.example.org"),
            ("https://rt.example.org..", "rt.example.org"),
            ("https://rt.example.org", "rt.example.org@evil.tld"),
            ("https://evil.tld/rt.example.org", "rt.example.org"),
            ("https://evil.tld?@rt.example.org", "rt.example.org"),
            ("capacitor://localhost", "localhost"),
            ("null", "null"),
            ("rt.example.org", "rt.example.org"),
            ("https://", ""),
            ("://rt.example.org", "rt.example.org"),
        ] {
            assert!(!is_at(origin, host), "{origin} at {host}");
        }
    }

    #[test]
    fn a_rule_lets_in_what_it_describes() {
        for (rule, origin, expected) in [
            ("https://app.example.org", "https://app.example.org", true),
            ("https://app.example.org/", "https://app.example.org", true),
            ("wss://app.example.org", "https://app.example.org:443", true),
            ("HTTPS://App.Example.Org:443", "https://app.example.org", true),
            ("https://bücher.example", "https://xn--bcher-kva.example", true),
            ("https://app.example.org", "http://app.example.org", false),
            ("https://app.example.org", "https://app.example.org:8443", false),
            ("https://app.example.org", "https://app.example.org.evil.tld", false),
            ("capacitor://localhost", "capacitor://localhost", true),
            ("capacitor://localhost", "https://localhost", false),
            ("ionic://localhost", "ionic://LOCALHOST", true),
            ("tauri://localhost", "tauri://localhost", true),
            ("app://-", "app://-", true),
            (
                "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb",
                "chrome-extension://aapbdbdomjkkjkaonfhkkikfgjllcleb",
                true,
            ),
            ("file://", "file://", true),
            ("null", "null", true),
            ("null", "https://null", false),
            ("https://*.example.org", "https://a.example.org", true),
            ("https://*.example.org", "https://a.b.example.org", true),
            ("https://*.example.org", "https://example.org", false),
            ("https://*.example.org", "https://evilexample.org", false),
            ("https://*.example.org", "https://a.example.org.evil.tld", false),
            ("https://*.example.org", "http://a.example.org", false),
            ("https://*.example.org", "https://a.example.org:8443", false),
            ("https://*.example.org:*", "https://a.example.org:8443", true),
            ("http://localhost:*", "http://localhost:5173", true),
            ("http://localhost:*", "http://localhost", true),
            ("http://localhost:*", "https://localhost:5173", false),
            ("http://localhost:*", "http://localhost.evil.tld:5173", false),
            ("http://[::1]:*", "http://[::1]:5173", true),
            ("*", "https://any.example", true),
            ("*", "null", true),
        ] {
            let read = OriginRule::parse(rule).unwrap_or_else(|| panic!("{rule}"));
            let lets_in = read.lets_in(Origin::parse(origin).as_ref(), origin == "null");
            assert_eq!(lets_in, expected, "{rule} and {origin}");
        }
    }

    #[test]
    fn invalid_rules_are_refused_and_rules_are_shown_as_they_are_compared() {
        for bad in [
            "",
            "a.example",
            "localhost:3000",
            "https://",
            "https://*",
            "https://*.",
            "https://*:*",
            "https://a.*.example",
            "https://*a.example",
            "https://*.*.example",
            "https://*.127.0.0.1",
            "https://a.example/x",
            "https://a.example:8*",
            "https://a.example:80:*",
            "https://a.example:99999",
            "https://user:pass@a.example",
            "https://a example",
            "1http://a.example",
            "capacitor://",
            "NULL",
        ] {
            assert_eq!(OriginRule::parse(bad), None, "{bad}");
        }
        for (rule, shown) in [
            ("*", "*"),
            ("null", "null"),
            ("WSS://*.Example.org:443", "https://*.example.org"),
            ("http://localhost:*", "http://localhost:*"),
            ("http://[0::1]:3000/", "http://[::1]:3000"),
        ] {
            assert_eq!(OriginRule::parse(rule).map(|rule| rule.to_string()).as_deref(), Some(shown));
        }
    }

    #[test]
    fn pages_of_this_machine_are_known() {
        for (origin, expected) in [
            ("http://localhost:5173", true),
            ("https://localhost", true),
            ("http://127.0.0.1:3000", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:4200", true),
            ("http://app.localhost:8000", true),
            ("http://LOCALHOST.:3000", true),
            ("http://localhost.evil.tld", false),
            ("http://evil-localhost", false),
            ("http://127.0.0.1.evil.tld", false),
            ("http://10.0.0.1", false),
            ("http://0.0.0.0:3000", false),
            ("capacitor://localhost", false),
            ("null", false),
        ] {
            assert_eq!(
                Origin::parse(origin).is_some_and(|origin| origin.is_loopback()),
                expected,
                "{origin}"
            );
        }
    }
}
