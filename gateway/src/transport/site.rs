//! Decides which sites' pages may use the node, and what browsers learn about that.
//!
//! A page is the node's *own* if its origin is the requested host: the `Host`, the host that a trusted proxy forwards,
//! or the browser's own statement (`Sec-Fetch-Site: same-origin`, which no page can write). Other origins need a rule.

use std::time::Instant;

use axum::body::Body;
use fanout::RateLimitedLog;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use shared::eio::HandshakeError;
use shared::forwarded;
use shared::limits::ORIGIN_MAX_BYTES;
use shared::origin::{Origin, OriginRule};
use smallvec::SmallVec;

use super::{plain, refuse};

const X_FORWARDED_HOST: &str = "x-forwarded-host";
const X_FORWARDED_PORT: &str = "x-forwarded-port";
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// How many bytes of a refused origin are logged.
const SHOWN_MAX: usize = 256;

/// The rules for pages of other sites.
#[derive(Debug)]
pub(super) struct Sites {
    rules: Vec<OriginRule>,
    /// Pages of this machine may connect: a node without a configured key is a trial.
    lets_loopback_in: bool,
    refused: RateLimitedLog<Refused>,
}

/// The origin of a request's page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Site {
    /// Not from a page, or from one of this node.
    Own,
    /// From a listed site, which may send credentials.
    Listed(HeaderValue),
    /// From any site, without credentials.
    Any,
}

/// The CORS headers of an answer; none by default.
#[derive(Debug, Default)]
pub(crate) struct Cross(pub(super) Option<Site>);

/// A request that is refused for its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SiteRefused {
    TooLong,
    Because(HandshakeError),
}

/// Kinds of refusals, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Refused {
    NotListed,
    /// An untrusted proxy forwards another host.
    ThroughStranger,
}

impl Cross {
    /// Adds it to an answer's headers.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        if let Some(site) = &self.0 {
            site.apply(headers);
        }
    }
}

impl SiteRefused {
    /// The origin is valid but may not connect.
    pub(super) const FORBIDDEN: Self = Self::Because(HandshakeError::Forbidden);

    pub(super) fn into_response(self) -> Response<Body> {
        match self {
            Self::TooLong => plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Self::Because(error) => refuse(error),
        }
    }
}

impl Sites {
    pub(super) fn new(rules: Vec<OriginRule>, lets_loopback_in: bool) -> Self {
        Self { rules, lets_loopback_in, refused: RateLimitedLog::new() }
    }

    /// Whether a page of a request's origin may use the node. CORS does not protect WebSockets, so every request is
    /// checked here, whatever its transport.
    pub(super) fn judge(&self, headers: &HeaderMap, is_proxy_trusted: bool) -> Result<Site, SiteRefused> {
        // An empty header has no meaning; browsers send `null` for a page without an origin.
        let Some(value) = headers.get(header::ORIGIN).filter(|value| !value.is_empty()) else {
            return Ok(Site::Own);
        };
        if headers.get_all(header::ORIGIN).iter().any(|other| other != value) {
            return Err(SiteRefused::Because(HandshakeError::BadRequest));
        }
        if value.len() > ORIGIN_MAX_BYTES {
            return Err(SiteRefused::TooLong);
        }
        let text = value.to_str().map_err(|_| SiteRefused::Because(HandshakeError::BadRequest))?;
        let origin = Origin::parse(text);
        if let Some(origin) = &origin
            && is_own(origin, headers, is_proxy_trusted)
        {
            return Ok(Site::Own);
        }
        if headers.get(header::HOST).is_some_and(|host| host.as_bytes().eq_ignore_ascii_case(text.as_bytes()))
        {
            // Without a scheme it is not a page's origin.
            return Ok(Site::Own);
        }
        let mut rules = self.rules.iter().filter(|rule| **rule != OriginRule::Any);
        let is_local = self.lets_loopback_in && origin.as_ref().is_some_and(Origin::is_loopback);
        if is_local || rules.any(|rule| rule.lets_in(origin.as_ref(), text == "null")) {
            return Ok(Site::Listed(value.clone()));
        }
        if self.rules.contains(&OriginRule::Any) {
            return Ok(Site::Any);
        }
        Err(SiteRefused::FORBIDDEN)
    }

    /// Logs that an origin is refused, and what would admit it.
    pub(super) fn log(&self, headers: &HeaderMap, is_proxy_trusted: bool) {
        let is_forwarded = headers.contains_key(X_FORWARDED_HOST);
        let kind =
            if is_forwarded && !is_proxy_trusted { Refused::ThroughStranger } else { Refused::NotListed };
        let Some(left_out) = self.refused.due(kind, Instant::now()) else { return };
        let shown = |name: HeaderName| {
            let value = headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
            value.unwrap_or_default().chars().take(SHOWN_MAX).collect::<String>()
        };
        let (origin, host) = (shown(header::ORIGIN), shown(header::HOST));
        match kind {
            Refused::NotListed => tracing::info!(
                origin,
                host,
                left_out,
                "an origin is refused: it is not that of the Host, and CORS_ORIGINS does not list it"
            ),
            Refused::ThroughStranger => tracing::info!(
                origin,
                host,
                forwarded_host = shown(HeaderName::from_static(X_FORWARDED_HOST)),
                left_out,
                "an origin is refused: it is not that of the Host, CORS_ORIGINS does not list it, and TRUSTED_PROXIES does not \
                 name the proxy whose X-Forwarded-Host would count"
            ),
        }
    }
}

/// Whether a page of this origin is the node's own.
fn is_own(origin: &Origin, headers: &HeaderMap, is_proxy_trusted: bool) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::HOST.as_str()).is_some_and(|host| origin.is_at(host)) {
        return true;
    }
    if text(SEC_FETCH_SITE) == Some("same-origin") {
        return true;
    }
    if !is_proxy_trusted {
        return false;
    }
    let lines = |name: &str| -> SmallVec<[&[u8]; 2]> {
        headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
    };
    let port = text(X_FORWARDED_PORT).and_then(|port| port.parse().ok());
    let (listed, named) = (lines(X_FORWARDED_HOST), lines(header::FORWARDED.as_str()));
    forwarded::hosts(&listed, &named).any(|host| origin.is_at(&host) || origin.is_at_port(&host, port))
}

impl Site {
    /// Whether it is another site's.
    pub(super) fn is_cross(&self) -> bool {
        *self != Self::Own
    }

    /// Adds the headers that let a page read the answer.
    pub(super) fn apply(&self, headers: &mut HeaderMap) {
        match self {
            Self::Own => {}
            Self::Listed(origin) => {
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
                let yes = HeaderValue::from_static("true");
                headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
                headers.append(header::VARY, HeaderValue::from_static("Origin"));
            }
            Self::Any => {
                let any = HeaderValue::from_static("*");
                headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
            }
        }
    }
}

/// The answer to a browser's preflight request.
pub(super) fn preflight(site: &Site, request: &HeaderMap) -> Response<Body> {
    const METHODS: HeaderValue = HeaderValue::from_static("GET,HEAD,PUT,PATCH,POST,DELETE");
    const MAX_AGE: (HeaderName, HeaderValue) =
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    let mut response = plain(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    site.apply(headers);
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, METHODS);
    headers.insert(MAX_AGE.0, MAX_AGE.1);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    if let Some(asked) = request.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
        headers.append(header::VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sites(rules: &[&str], lets_loopback_in: bool) -> Sites {
        let rules = rules.iter().map(|rule| OriginRule::parse(rule).unwrap()).collect();
        Sites::new(rules, lets_loopback_in)
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn origins_are_compared_whole() {
        let sites = sites(&["https://good.example", "capacitor://localhost", "null"], false);
        let judge = |origin| sites.judge(&headers(&[("host", "node:8080"), ("origin", origin)]), false);
        for listed in ["https://good.example", "HTTPS://GOOD.example:443", "capacitor://localhost", "null"] {
            assert!(matches!(judge(listed), Ok(Site::Listed(value)) if value == listed), "{listed}");
        }
        assert_eq!(judge("http://node:8080"), Ok(Site::Own));
        for bad in [
            "https://good.example.evil.tld",
            "https://evil-good.example",
            "http://good.example",
            "http://localhost",
            "ionic://localhost",
            "file://",
            "*",
        ] {
            assert_eq!(judge(bad), Err(SiteRefused::FORBIDDEN), "{bad}");
        }
        assert_eq!(sites.judge(&HeaderMap::new(), false), Ok(Site::Own));
    }

    #[test]
    fn an_origin_that_is_empty_a_whole_url_or_written_twice_is_read() {
        let sites = sites(&["https://good.example"], false);
        let judge = |origins: &[&'static str]| {
            let mut request = headers(&[("host", "node:8080")]);
            origins.iter().for_each(|origin| {
                request.append(header::ORIGIN, HeaderValue::from_static(origin));
            });
            sites.judge(&request, false)
        };
        for own in
            ["", "http://node:8080/", "http://node:8080/socket.io/?EIO=4#a", "ws://NODE:8080?x", "node:8080"]
        {
            assert_eq!(judge(&[own]), Ok(Site::Own), "{own:?}");
        }
        assert_eq!(judge(&["http://node:8080", "http://node:8080"]), Ok(Site::Own));
        let listed = judge(&["https://good.example/a", "https://good.example/a"]);
        assert!(matches!(listed, Ok(Site::Listed(_))));
        for bad in [
            "https://evil.example/https://good.example",
            "https://evil.example?@good.example",
            "http://node:8081/",
            "evil",
        ] {
            assert_eq!(judge(&[bad]), Err(SiteRefused::FORBIDDEN), "{bad}");
        }
        let two = judge(&["https://good.example", "https://evil.example"]);
        assert_eq!(two, Err(SiteRefused::Because(HandshakeError::BadRequest)));
    }

    #[test]
    fn a_listed_origin_may_send_credentials_though_any_other_may_not() {
        let sites = sites(&["*", "https://good.example"], false);
        let judge = |origin| sites.judge(&headers(&[("host", "node"), ("origin", origin)]), false);
        assert!(matches!(judge("https://good.example"), Ok(Site::Listed(_))));
        assert_eq!(judge("https://any.example"), Ok(Site::Any));
        assert_eq!(judge("null"), Ok(Site::Any));
    }

    #[test]
    fn a_page_behind_a_proxy_is_its_own_site() {
        let sites = sites(&[], false);
        let own = |pairs: &[(&'static str, &'static str)], is_proxy_trusted| {
            sites.judge(&headers(pairs), is_proxy_trusted) == Ok(Site::Own)
        };
        // nginx with a bare `proxy_pass`, and with `Host $host` on another port.
        let (bare, portless) = (("host", "127.0.0.1:8080"), ("host", "site.example"));
        let page = ("origin", "http://site.example:8081");
        for host in [bare, portless] {
            assert!(!own(&[host, page], true));
            assert!(own(&[host, page, ("sec-fetch-site", "same-origin")], false), "the browser states it");
            for other in ["same-site", "cross-site", "none"] {
                assert!(!own(&[host, page, ("sec-fetch-site", other)], true), "{other}");
            }
            for forwarded in [
                ("x-forwarded-host", "site.example:8081"),
                ("x-forwarded-host", "SITE.example:8081, inner.example"),
                ("forwarded", "for=192.0.2.1;host=\"site.example:8081\""),
            ] {
                assert!(own(&[host, page, forwarded], true), "{forwarded:?}");
                assert!(!own(&[host, page, forwarded], false), "a stranger may send {forwarded:?}");
            }
            let apart = [host, page, ("x-forwarded-host", "site.example"), ("x-forwarded-port", "8081")];
            assert!(own(&apart, true));
            assert!(!own(&apart[..3], true), "another port is another origin");
        }
    }

    #[test]
    fn pages_of_this_machine_may_connect_to_a_node_without_a_key() {
        for (origin, expected) in
            [("http://localhost:5173", true), ("https://[::1]:4200", true), ("https://evil.example", false)]
        {
            let request = headers(&[("host", "127.0.0.1:8080"), ("origin", origin)]);
            let judge = |lets_in| sites(&[], lets_in).judge(&request, false);
            assert_eq!(matches!(judge(true), Ok(Site::Listed(_))), expected, "{origin}");
            assert_eq!(judge(false), Err(SiteRefused::FORBIDDEN), "{origin}");
        }
    }
}
