//! Whether a proxy is in front that nobody named in `TRUSTED_PROXIES`.
//!
//! Behind such a proxy all clients have the proxy's address, so that the limits for each address, and the
//! failed logins of one client, meet all of them. It shows in requests that carry a forwarding header from a
//! peer that is not trusted. A single client can write such a header itself; only where many in a row come so
//! is it the proxy.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use shared::limits::UNTRUSTED_FORWARDED_MIN;

/// How the last logins and handshakes came.
#[derive(Debug, Default)]
pub(super) struct Forwarding {
    /// How many in a row were forwarded by a peer that is not trusted.
    in_a_row: AtomicU32,
    has_warned: AtomicBool,
}

impl Forwarding {
    /// Notes a login or a handshake that `peer` sent.
    pub(super) fn note(&self, peer: IpAddr, by_untrusted_proxy: bool) {
        if !by_untrusted_proxy {
            // Mostly it is 0 already: many threads read it, and few write.
            if self.in_a_row.load(Ordering::Relaxed) != 0 {
                self.in_a_row.store(0, Ordering::Relaxed);
            }
            return;
        }
        let before = self.in_a_row.load(Ordering::Relaxed);
        if before < UNTRUSTED_FORWARDED_MIN {
            self.in_a_row.store(before + 1, Ordering::Relaxed);
        }
        if self.is_untrusted() && !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                address = %peer,
                "clients come through a proxy that TRUSTED_PROXIES does not name: they share its address and its limits"
            );
        }
    }

    /// Whether all of the last ones came through a proxy that is not trusted.
    pub(super) fn is_untrusted(&self) -> bool {
        self.in_a_row.load(Ordering::Relaxed) >= UNTRUSTED_FORWARDED_MIN
    }
}
