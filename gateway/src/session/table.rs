//! The only map of sessions, and how many of them there are, in all and for each address.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dashmap::DashMap;
use shared::ids::SessionId;
use tokio::sync::Notify;

use super::Session;
use crate::limiter::source;

/// Why a session is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Node,
    Address,
}

/// The sessions of this node.
#[derive(Debug)]
pub(crate) struct SessionTable {
    sessions: DashMap<SessionId, Arc<Session>, ahash::RandomState>,
    by_address: DashMap<IpAddr, usize, ahash::RandomState>,
    open: AtomicUsize,
    /// A session was removed.
    removed: Notify,
    max: usize,
    max_per_address: usize,
}

impl SessionTable {
    /// A table for `max` sessions, `max_per_address` of one address; 0: no limit.
    pub(crate) fn new(max: usize, max_per_address: usize) -> Self {
        Self {
            sessions: DashMap::default(),
            by_address: DashMap::default(),
            open: AtomicUsize::new(0),
            removed: Notify::new(),
            max,
            max_per_address,
        }
    }

    /// Takes a place for a session; every place is given back with [`Self::release`].
    pub(crate) fn admit(&self, address: IpAddr) -> Result<(), Full> {
        if self.open.fetch_add(1, Ordering::AcqRel) >= self.max && self.max != 0 {
            self.open.fetch_sub(1, Ordering::AcqRel);
            return Err(Full::Node);
        }
        if self.max_per_address != 0 {
            let mut count = self.by_address.entry(source(address)).or_default();
            if *count >= self.max_per_address {
                self.open.fetch_sub(1, Ordering::AcqRel);
                return Err(Full::Address);
            }
            *count += 1;
        }
        Ok(())
    }

    /// Gives a session's place back.
    pub(crate) fn release(&self, address: IpAddr) {
        self.open.fetch_sub(1, Ordering::AcqRel);
        if self.max_per_address != 0 {
            let source = source(address);
            self.by_address.alter(&source, |_, count| count.saturating_sub(1));
            self.by_address.remove_if(&source, |_, count| *count == 0);
        }
    }

    pub(crate) fn insert(&self, session: Arc<Session>) {
        self.sessions.insert(session.id(), session);
    }

    pub(crate) fn get(&self, id: SessionId) -> Option<Arc<Session>> {
        self.sessions.get(&id).map(|session| Arc::clone(&session))
    }

    pub(crate) fn remove(&self, id: SessionId) {
        self.sessions.remove(&id);
        self.removed.notify_waiters();
    }

    /// Sessions that are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// Returns when no session is in the table, open or waiting for its last GET.
    pub(crate) async fn emptied(&self) {
        loop {
            let removed = self.removed.notified();
            if self.sessions.is_empty() {
                return;
            }
            removed.await;
        }
    }

    /// Every session now in the table.
    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.sessions.iter().map(|entry| Arc::clone(&entry)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn places_are_bounded_and_given_back() {
        let table = SessionTable::new(3, 2);
        let (a, b) = (IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::from(Ipv4Addr::new(10, 0, 0, 2)));
        assert_eq!(table.admit(a), Ok(()));
        assert_eq!(table.admit(a), Ok(()));
        assert_eq!(table.admit(a), Err(Full::Address));
        assert_eq!(table.admit(b), Ok(()));
        assert_eq!(table.admit(b), Err(Full::Node));
        assert_eq!(table.open(), 3);
        table.release(a);
        assert_eq!(table.admit(a), Ok(()));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let table = SessionTable::new(0, 1);
        let [a, b, other] =
            ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|text| text.parse().unwrap());
        assert_eq!(table.admit(a), Ok(()));
        assert_eq!(table.admit(b), Err(Full::Address));
        assert_eq!(table.admit(other), Ok(()));
        table.release(a);
        assert_eq!(table.admit(b), Ok(()));
    }
}
