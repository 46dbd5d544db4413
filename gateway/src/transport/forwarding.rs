//! Detects a proxy that `TRUSTED_PROXIES` does not name.
//!
//! Behind such a proxy all clients have the proxy's address, so that limits for each address and the failed logins
//! of one client affect all of them. The evidence is a forwarding header from a peer that is not trusted. A client can
//! write such a header itself, so only many such requests in a row count.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use shared::limits::UNTRUSTED_FORWARDED_MIN;

/// How the latest logins and handshakes arrived.
#[derive(Debug, Default)]
pub(super) struct Forwarding {
    /// How many in a row were forwarded by a peer that is not trusted.
    in_a_row: AtomicU32,
    has_warned: AtomicBool,
}

impl Forwarding {
    /// Records a login or a handshake from `peer`.
    pub(super) fn note(&self, peer: IpAddr, by_untrusted_proxy: bool) {
        if !by_untrusted_proxy {
            // It is usually 0 already: many threads read it, and few write.
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

    /// Whether all of the latest ones came through an untrusted proxy.
    pub(super) fn is_untrusted(&self) -> bool {
        self.in_a_row.load(Ordering::Relaxed) >= UNTRUSTED_FORWARDED_MIN
    }
}
