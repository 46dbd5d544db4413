//! Admission: origins, addresses, capacity.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use axum::body::Body;
use axum::response::IntoResponse as _;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use ipnet::IpNet;
use shared::eio::HandshakeError;
use shared::forwarded;
use shared::limits::ADDRESSES_MAX;
use shared::origin::OriginRule;
use smallvec::SmallVec;

use super::forwarding::Forwarding;
use super::site::{self, Cross, Site, SiteRefused, Sites};
use crate::error::AppError;
use crate::limiter::{Meters, Rate, source};
use crate::metrics::{self, Limit};
use crate::session::Full;

/// The admission rules.
#[derive(Debug)]
pub(crate) struct Gate {
    sites: Sites,
    trusted_proxies: Vec<IpNet>,
    handshakes: Meters<IpAddr>,
    draining: AtomicBool,
    forwarding: Forwarding,
}

/// The header that names a request's client; older than RFC 7239.
const X_FORWARDED_FOR: &str = "x-forwarded-for";

impl Gate {
    pub(crate) fn new(
        origins: Vec<OriginRule>,
        lets_loopback_in: bool,
        trusted_proxies: Vec<IpNet>,
        handshakes_per_address: u32,
    ) -> Self {
        let rate = Rate::new(handshakes_per_address, handshakes_per_address);
        Self {
            sites: Sites::new(origins, lets_loopback_in),
            trusted_proxies,
            handshakes: Meters::new(rate, ADDRESSES_MAX),
            draining: AtomicBool::new(false),
            forwarding: Forwarding::default(),
        }
    }

    /// Refuses all new clients from now on.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// The origin of a request's page, if it may use the node. Logs a refusal.
    ///
    /// `is_continued`: the sender knows a session that was admitted before.
    pub(super) fn site(
        &self,
        headers: &HeaderMap,
        peer: IpAddr,
        is_continued: impl FnOnce() -> bool,
    ) -> Result<Site, SiteRefused> {
        let is_proxy_trusted = self.is_trusted(peer.to_canonical());
        match self.sites.judge(headers, is_proxy_trusted) {
            Err(SiteRefused::FORBIDDEN) if is_continued() => Ok(Site::Own),
            Err(SiteRefused::FORBIDDEN) => {
                self.sites.log(headers, is_proxy_trusted);
                Err(SiteRefused::FORBIDDEN)
            }
            judged => judged,
        }
    }

    /// Checks a request to the REST API by the origin of its page. Returns the headers for the browser, or the answer
    /// to a refused request or a preflight.
    pub(crate) fn judge<B>(&self, request: &Request<B>, peer: IpAddr) -> Result<Cross, Box<Response<Body>>> {
        let site = self.site(request.headers(), peer, || false).map_err(|refused| {
            Box::new(match refused {
                SiteRefused::TooLong => refused.into_response(),
                SiteRefused::Because(_) => AppError::Forbidden("Origin not allowed".into()).into_response(),
            })
        })?;
        if request.method() == Method::OPTIONS && site.is_cross() {
            return Err(Box::new(site::preflight(&site, request.headers())));
        }
        Ok(Cross(Some(site)))
    }

    /// The address of the client: the peer's, or if the peer is a trusted proxy, the one in its forwarding headers
    /// ([`forwarded`]).
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

    /// Records how a login or a handshake arrived, to detect untrusted proxies.
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

    /// The refusal of a session that got no slot.
    pub(super) fn refusal(full: Full) -> HandshakeError {
        let (limit, error) = match full {
            Full::Node => (Limit::MaxConnections, HandshakeError::AtCapacity),
            Full::Address => (Limit::ConnectionsPerAddress, HandshakeError::TooManyRequests),
        };
        metrics::get().rate_limited(limit);
        error
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderName;
    use shared::limits::UNTRUSTED_FORWARDED_MIN;

    use super::*;

    fn gate(trusted: &str) -> Gate {
        Gate::new(Vec::new(), false, trusted.split(',').filter_map(|net| net.parse().ok()).collect(), 0)
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn only_a_trusted_proxy_may_name_the_client() {
        let gate = gate("10.0.0.0/8");
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
    fn an_untrusted_proxy_is_detected_by_its_headers() {
        let gate = gate("10.0.0.0/8");
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
