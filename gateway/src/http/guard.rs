//! Blocks web pages from the internal listener.
//!
//! Every browser of a machine can reach its loopback listeners. A page of another site can send requests whose answers
//! it does not need, and with a name that resolves to 127.0.0.1 (DNS rebinding) it can read the answers, too. The
//! former have an `Origin` or a `Sec-Fetch-Site` header, which no page can omit; the latter have the page's name as
//! `Host`.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, header};

/// Decides by the browsers' headers which requests the internal listener accepts.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    /// The hosts that requests may name; `None` if an internal token protects the listener.
    hosts: Option<Vec<String>>,
}

impl Guard {
    /// For a listener at `listen` that other nodes reach as `advertised`.
    ///
    /// With an internal token any `Host` is accepted: a node does not know all of its names (of services, of
    /// ingresses), and without the token it serves only metrics and health.
    pub(crate) fn new(listen: SocketAddr, advertised: Option<&str>, has_token: bool) -> Self {
        let known = [Some(listen.ip().to_string()), advertised.and_then(host_of_url)];
        Self { hosts: (!has_token).then(|| known.into_iter().flatten().collect()) }
    }

    /// Whether a request comes from a page, or names a host that a page may have made resolve to this listener.
    ///
    /// `is_peer`: another node forwarded it with the headers of its client.
    pub(crate) fn refuses(&self, headers: &HeaderMap, is_peer: bool) -> bool {
        // `none` means that a person typed the address.
        let from_page = headers.get_all("sec-fetch-site").iter().any(|site| site != "none");
        headers.contains_key(header::ORIGIN)
            || (from_page && !is_peer)
            || headers.get(header::HOST).is_some_and(|host| !host.to_str().is_ok_and(|host| self.knows(host)))
    }

    fn knows(&self, host: &str) -> bool {
        let Some(known) = &self.hosts else { return true };
        let host = without_port(host);
        let is_loopback = host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
        is_loopback
            || host.eq_ignore_ascii_case("localhost")
            || known.iter().any(|known| known.eq_ignore_ascii_case(host))
    }
}

/// The host of `http://host:port`.
fn host_of_url(url: &str) -> Option<String> {
    let authority = url.strip_prefix("http://")?;
    Some(without_port(authority).to_owned())
}

/// A `Host` without its port, and without the brackets of an IPv6 address.
fn without_port(host: &str) -> &str {
    if let Some(rest) = host.strip_prefix('[') {
        return rest.split(']').next().unwrap_or_default();
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
    }

    fn refuses(guard: &Guard, pairs: &[(&'static str, &'static str)]) -> bool {
        guard.refuses(&headers(pairs), false)
    }

    #[test]
    fn pages_are_refused_and_programs_are_not() {
        let listen = "127.0.0.1:9090".parse().unwrap();
        let open = Guard::new(listen, Some("http://node-one.internal:9090"), false);
        let closed = Guard::new("10.0.0.5:9090".parse().unwrap(), None, true);
        for guard in [&open, &closed] {
            assert!(refuses(guard, &[("host", "127.0.0.1:9090"), ("origin", "https://evil.example")]));
            assert!(refuses(guard, &[("host", "127.0.0.1:9090"), ("origin", "null")]));
            for site in ["cross-site", "same-site", "same-origin"] {
                assert!(refuses(guard, &[("host", "127.0.0.1:9090"), ("sec-fetch-site", site)]));
            }
            assert!(!refuses(guard, &[("host", "127.0.0.1:9090"), ("sec-fetch-site", "none")]));
            assert!(!refuses(guard, &[]), "HTTP/1.0 needs no Host, and no browser uses it");
        }
        for known in [
            "127.0.0.1:9090",
            "127.0.0.1",
            "localhost:1",
            "LOCALHOST",
            "[::1]:9090",
            "127.9.9.9",
            "Node-One.internal",
        ] {
            assert!(!refuses(&open, &[("host", known)]), "{known}");
        }
        for foreign in [
            "evil.example",
            "evil.example:9090",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.5",
            "",
            "[::2]",
        ] {
            assert!(refuses(&open, &[("host", foreign)]), "{foreign}");
            assert!(!refuses(&closed, &[("host", foreign)]), "{foreign}");
        }
    }

    #[test]
    fn a_request_forwarded_by_a_node_may_come_from_a_page() {
        let guard = Guard::new("127.0.0.1:9090".parse().unwrap(), None, false);
        let forwarded = headers(&[("host", "127.0.0.1:9090"), ("sec-fetch-site", "same-origin")]);
        assert!(!guard.refuses(&forwarded, true));
        let rebound = headers(&[("host", "evil.example:9090")]);
        assert!(guard.refuses(&rebound, true));
    }
}
