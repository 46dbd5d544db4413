//! Who may come in: origins, addresses, capacity.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::body::Body;
use axum::response::IntoResponse as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use ipnet::IpNet;
use shared::eio::HandshakeError;
use shared::forwarded;
use shared::limits::{ADDRESSES_MAX, ORIGIN_MAX_BYTES};
use smallvec::SmallVec;

use super::forwarding::Forwarding;
use super::{plain, refuse};
use crate::error::AppError;
use crate::limiter::{Meters, Rate, source};
use crate::metrics::{self, Limit};
use crate::session::Full;

/// The rules at the door.
#[derive(Debug)]
pub(crate) struct Gate {
    origins: Vec<String>,
    trusted_proxies: Vec<IpNet>,
    handshakes: Meters<IpAddr>,
    draining: AtomicBool,
    forwarding: Forwarding,
}

/// The header that names a request's client, in front of RFC 7239.
const X_FORWARDED_FOR: &str = "x-forwarded-for";

/// Where a page that makes a request comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Not from a page, or from one of ours.
    Own,
    /// From a listed site, which may send credentials.
    Listed(HeaderValue),
    /// From any site, without credentials.
    Any,
}

/// What a browser is told about who may read an answer; nothing by default.
#[derive(Debug, Default)]
pub(crate) struct Cross(Option<Origin>);

impl Cross {
    /// Adds it to an answer's headers.
    pub(crate) fn apply(&self, headers: &mut HeaderMap) {
        if let Some(origin) = &self.0 {
            apply(origin, headers);
        }
    }
}

/// A request that is refused for its origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OriginRefused {
    TooLong,
    Because(HandshakeError),
}

impl OriginRefused {
    pub(super) fn into_response(self) -> Response<Body> {
        match self {
            Self::TooLong => plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
            Self::Because(error) => refuse(error),
        }
    }
}

impl Origin {
    /// Whether it is another site's.
    pub(super) fn is_cross(&self) -> bool {
        *self != Self::Own
    }
}

impl Gate {
    pub(crate) fn new(
        origins: Vec<String>,
        trusted_proxies: Vec<IpNet>,
        handshakes_per_address: u32,
    ) -> Self {
        let rate = Rate::new(handshakes_per_address, handshakes_per_address);
        Self {
            origins,
            trusted_proxies,
            handshakes: Meters::new(rate, ADDRESSES_MAX),
            draining: AtomicBool::new(false),
            forwarding: Forwarding::default(),
        }
    }

    /// From now on nobody comes in.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Whether a page of this origin may talk to us. CORS does not protect WebSockets, so every request is
    /// judged here, whatever its transport.
    pub(super) fn origin(&self, headers: &HeaderMap) -> Result<Origin, OriginRefused> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(Origin::Own) };
        if headers.get_all(header::ORIGIN).iter().count() > 1 {
            return Err(OriginRefused::Because(HandshakeError::BadRequest));
        }
        if origin.len() > ORIGIN_MAX_BYTES {
            return Err(OriginRefused::TooLong);
        }
        let bad = OriginRefused::Because(HandshakeError::BadRequest);
        let text = origin.to_str().map_err(|_| bad)?;
        let host = text.split_once("://").map(|(_, host)| host);
        let own = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        if host.zip(own).is_some_and(|(host, own)| host.eq_ignore_ascii_case(own)) {
            return Ok(Origin::Own);
        }
        if self.origins.iter().any(|listed| listed.eq_ignore_ascii_case(text)) {
            return Ok(Origin::Listed(origin.clone()));
        }
        if self.origins.iter().any(|listed| listed == "*") {
            return Ok(Origin::Any);
        }
        Err(OriginRefused::Because(HandshakeError::Forbidden))
    }

    /// Judges a request to the REST API by where its page comes from: what to tell the browser, or the
    /// answer to a refused request or a preflight.
    pub(crate) fn judge<B>(&self, request: &Request<B>) -> Result<Cross, Box<Response<Body>>> {
        let origin = self.origin(request.headers()).map_err(|refused| {
            Box::new(match refused {
                OriginRefused::TooLong => refused.into_response(),
                OriginRefused::Because(_) => AppError::Forbidden("Origin not allowed".into()).into_response(),
            })
        })?;
        if request.method() == Method::OPTIONS && origin.is_cross() {
            return Err(Box::new(preflight(&origin, request.headers())));
        }
        Ok(Cross(Some(origin)))
    }

    /// The address of the client: the peer's, or where the peer is a trusted proxy, the one that its
    /// forwarding headers name ([`forwarded`]).
    pub(crate) fn client_address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let lines = |name: &str| -> SmallVec<[&[u8]; 4]> {
            headers.get_all(name).iter().map(HeaderValue::as_bytes).collect()
        };
        let (x_forwarded_for, forwarded) = (lines(X_FORWARDED_FOR), lines(header::FORWARDED.as_str()));
        forwarded::client_address(peer, &x_forwarded_for, &forwarded, |address| self.is_trusted(*address))
    }

    fn is_trusted(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&address))
    }

    /// Notes how a login or a handshake arrived, to detect proxies that are not trusted.
    pub(crate) fn note_forwarding(&self, peer: IpAddr, headers: &HeaderMap) {
        let is_forwarded = headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(header::FORWARDED);
        let peer = peer.to_canonical();
        self.forwarding.note(peer, is_forwarded && !self.is_trusted(peer));
    }

    /// Whether clients seem to come through a proxy that is not in `TRUSTED_PROXIES`, and therefore all count as one.
    pub(crate) fn is_proxy_untrusted(&self) -> bool {
        self.forwarding.is_untrusted()
    }

    /// Whether a client from `address` may open a session now.
    pub(super) fn admit(&self, address: IpAddr) -> Result<(), HandshakeError> {
        if self.is_draining() {
            return Err(HandshakeError::AtCapacity);
        }
        if !self.handshakes.take(source(address), Instant::now()) {
            metrics::get().rate_limited(Limit::HandshakesPerAddress);
            return Err(HandshakeError::TooManyRequests);
        }
        Ok(())
    }

    /// The refusal of a session that found no place.
    pub(super) fn refusal(full: Full) -> HandshakeError {
        let (limit, error) = match full {
            Full::Node => (Limit::MaxConnections, HandshakeError::AtCapacity),
            Full::Address => (Limit::ConnectionsPerAddress, HandshakeError::TooManyRequests),
        };
        metrics::get().rate_limited(limit);
        error
    }
}

/// Tells a browser that its page may read the answer.
pub(super) fn apply(origin: &Origin, headers: &mut HeaderMap) {
    match origin {
        Origin::Own => {}
        Origin::Listed(origin) => {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            let yes = HeaderValue::from_static("true");
            headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
        Origin::Any => {
            let any = HeaderValue::from_static("*");
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
        }
    }
}

/// The answer to a browser that asks before it sends.
pub(super) fn preflight(origin: &Origin, request: &HeaderMap) -> Response<Body> {
    const METHODS: HeaderValue = HeaderValue::from_static("GET,HEAD,PUT,PATCH,POST,DELETE");
    const MAX_AGE: (HeaderName, HeaderValue) =
        (header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    let mut response = plain(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    apply(origin, headers);
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
    use shared::limits::UNTRUSTED_FORWARDED_MIN;

    use super::*;

    fn gate(origins: &[&str], trusted: &str) -> Gate {
        let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
        Gate::new(origins, trusted.split(',').filter_map(|net| net.parse().ok()).collect(), 0)
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn origins_are_compared_whole() {
        let gate = gate(&["https://good.example"], "");
        let judge = |origin| gate.origin(&headers(&[("host", "node:8080"), ("origin", origin)]));
        assert!(matches!(judge("https://good.example"), Ok(Origin::Listed(_))));
        assert_eq!(judge("http://node:8080"), Ok(Origin::Own));
        for bad in
            ["https://good.example.evil.tld", "https://evil-good.example", "null", "http://good.example"]
        {
            assert_eq!(judge(bad), Err(OriginRefused::Because(HandshakeError::Forbidden)), "{bad}");
        }
        assert_eq!(gate.origin(&HeaderMap::new()), Ok(Origin::Own));
    }

    #[test]
    fn only_a_trusted_proxy_may_name_the_client() {
        let gate = gate(&[], "10.0.0.0/8");
        let address = |peer: &str, forwarded| {
            let headers = headers(&[("x-forwarded-for", forwarded)]);
            gate.client_address(peer.parse().unwrap(), &headers).to_string()
        };
        assert_eq!(address("192.0.2.1", "198.51.100.7"), "192.0.2.1");
        assert_eq!(address("10.0.0.1", "203.0.113.9, 198.51.100.7"), "198.51.100.7");
        assert_eq!(address("10.0.0.1", "198.51.100.7, 10.0.0.2"), "198.51.100.7");
        assert_eq!(address("10.0.0.1", "rubbish"), "10.0.0.1");
        assert_eq!(address("10.0.0.1", "198.51.100.7:1234"), "198.51.100.7");
        let forwarded = headers(&[("forwarded", "for=\"[2001:db8::7]:80\"")]);
        assert_eq!(gate.client_address("10.0.0.1".parse().unwrap(), &forwarded).to_string(), "2001:db8::7");
    }

    #[test]
    fn a_proxy_that_is_not_trusted_is_found_by_what_it_forwards() {
        let gate = gate(&[], "10.0.0.0/8");
        let plain = HeaderMap::new();
        let forwarded = headers(&[("x-forwarded-for", "198.51.100.7")]);
        let note = |peer: &str, headers: &HeaderMap, times| {
            (0..times).for_each(|_| gate.note_forwarding(peer.parse().unwrap(), headers));
            gate.is_proxy_untrusted()
        };
        assert!(!note("10.0.0.1", &forwarded, 2 * UNTRUSTED_FORWARDED_MIN));
        assert!(!note("192.0.2.1", &forwarded, UNTRUSTED_FORWARDED_MIN - 1));
        assert!(note("192.0.2.2", &forwarded, 1), "two balancers count together");
        assert!(!note("192.0.2.1", &plain, 1), "a direct client resets it");
        assert!(note("192.0.2.1", &forwarded, UNTRUSTED_FORWARDED_MIN));
    }
}
