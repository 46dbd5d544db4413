//! The only map of sessions, and the slots that they take.
//!
//! A session is *pending* until it joins a namespace, which requires a valid token, and again after it leaves its last
//! one. Pending sessions have a share of the slots. When that share, or the whole node, is full, a new session evicts a
//! pending one ([`FairShare`] chooses it), never one in a namespace.

use std::net::IpAddr;
use std::sync::Arc;

use dashmap::DashMap;
use parking_lot::Mutex;
use shared::ids::SessionId;
use smallvec::SmallVec;
use tokio::sync::Notify;

use super::Session;
use crate::fair::{FairShare, Member};
use crate::limiter::{Origin, source};

/// How many pending sessions a new one may evict: two, so that a share over its bound shrinks back.
const EVICTED_AT_ONCE: usize = 2;

/// The map keeps this capacity when most of it is free.
const ROOM_KEPT: usize = 4_096;

/// Why a session is not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// Sessions in a namespace have every slot of the node.
    Node,
    /// The address has its maximum number of sessions.
    Address,
}

/// The slot of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Among the sessions in no namespace, with its serial number there.
    Pending(u64),
    Proven,
}

/// Bounds of a [`SessionTable`]; 0 means none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Bounds {
    /// Maximum sessions of the node.
    pub(crate) sessions: usize,
    /// Maximum sessions in no namespace.
    pub(crate) pending: usize,
    /// Maximum sessions of one address.
    pub(crate) per_address: usize,
}

/// How many slots are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Occupied {
    pub(crate) pending: usize,
    pub(crate) proven: usize,
}

/// A slot, and the sessions to close for it.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) place: Place,
    pub(crate) evicted: SmallVec<[SessionId; EVICTED_AT_ONCE]>,
}

/// The sessions of this node.
#[derive(Debug)]
pub(crate) struct SessionTable {
    sessions: DashMap<SessionId, Arc<Session>, ahash::RandomState>,
    by_address: DashMap<IpAddr, usize, ahash::RandomState>,
    places: Mutex<Places>,
    /// A session was removed.
    removed: Notify,
    bounds: Bounds,
}

#[derive(Debug)]
struct Places {
    pending: FairShare<SessionId>,
    proven: usize,
}

fn member(origin: Origin, serial: u64) -> Member {
    Member { source: source(origin.address), group: origin.connection, serial }
}

impl SessionTable {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            sessions: DashMap::default(),
            by_address: DashMap::default(),
            places: Mutex::new(Places { pending: FairShare::new(1), proven: 0 }),
            removed: Notify::new(),
            bounds,
        }
    }

    /// Takes a slot for a session; the caller returns it with [`Self::release`] and closes the evicted sessions.
    pub(crate) fn admit(&self, origin: Origin, session: SessionId) -> Result<Admitted, Full> {
        let source = source(origin.address);
        self.count_address(source)?;
        let bounds = self.bounds;
        let mut places = self.places.lock();
        let is_full = |places: &Places| {
            let pending = places.pending.len();
            (bounds.pending != 0 && pending >= bounds.pending)
                || (bounds.sessions != 0 && places.proven + pending >= bounds.sessions)
        };
        let mut evicted = SmallVec::new();
        while evicted.len() < EVICTED_AT_ONCE && is_full(&places) {
            let Some(session) = places.pending.take_first() else { break };
            evicted.push(session);
        }
        if bounds.sessions != 0 && places.proven + places.pending.len() >= bounds.sessions {
            drop(places);
            self.uncount_address(source);
            return Err(Full::Node);
        }
        let member = places.pending.insert(source, origin.connection, 1, session);
        Ok(Admitted { place: Place::Pending(member.serial), evicted })
    }

    /// Whether the session still has its slot.
    pub(crate) fn keeps(&self, place: Place, origin: Origin) -> bool {
        match place {
            Place::Pending(serial) => self.places.lock().pending.contains(member(origin, serial)),
            Place::Proven => true,
        }
    }

    /// The session presented a valid token. False if it was evicted meanwhile.
    pub(crate) fn prove(&self, place: &mut Place, origin: Origin) -> bool {
        if let Place::Pending(serial) = *place {
            let mut places = self.places.lock();
            if places.pending.remove(member(origin, serial)).is_none() {
                return false;
            }
            places.proven += 1;
            *place = Place::Proven;
        }
        true
    }

    /// The session is in no namespace any more. This may exceed the share of such sessions; the next new sessions evict
    /// the excess.
    pub(crate) fn doubt(&self, place: &mut Place, origin: Origin, session: SessionId) {
        if *place == Place::Proven {
            let mut places = self.places.lock();
            places.proven -= 1;
            let member = places.pending.insert(source(origin.address), origin.connection, 1, session);
            *place = Place::Pending(member.serial);
        }
    }

    /// Frees a session's slot, unless the session was evicted.
    pub(crate) fn release(&self, place: Place, origin: Origin) {
        {
            let mut places = self.places.lock();
            match place {
                Place::Pending(serial) => drop(places.pending.remove(member(origin, serial))),
                Place::Proven => places.proven -= 1,
            }
        }
        self.uncount_address(source(origin.address));
    }

    fn count_address(&self, source: IpAddr) -> Result<(), Full> {
        if self.bounds.per_address != 0 {
            let mut count = self.by_address.entry(source).or_default();
            if *count >= self.bounds.per_address {
                return Err(Full::Address);
            }
            *count += 1;
        }
        Ok(())
    }

    fn uncount_address(&self, source: IpAddr) {
        if self.bounds.per_address != 0 {
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

    /// Whether a session is in the table.
    pub(crate) fn has(&self, id: SessionId) -> bool {
        self.sessions.contains_key(&id)
    }

    pub(crate) fn remove(&self, id: SessionId) {
        self.sessions.remove(&id);
        self.removed.notify_waiters();
    }

    /// Sessions in the table, open or waiting for their last GET.
    pub(crate) fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Slots that are taken now.
    pub(crate) fn occupied(&self) -> Occupied {
        let places = self.places.lock();
        Occupied { pending: places.pending.len(), proven: places.proven }
    }

    /// The bounds of the table.
    pub(crate) fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Sessions that are open.
    pub(crate) fn open(&self) -> usize {
        let Occupied { pending, proven } = self.occupied();
        pending + proven
    }

    /// Whether the node can admit no new client: sessions in a namespace take every slot.
    pub(crate) fn is_full(&self) -> bool {
        self.bounds.sessions != 0 && self.occupied().proven >= self.bounds.sessions
    }

    /// Shrinks the map if most of it is unused.
    pub(crate) fn shrink(&self) {
        if self.sessions.capacity() > ROOM_KEPT && self.sessions.len() < self.sessions.capacity() / 4 {
            self.sessions.shrink_to_fit();
        }
    }

    /// Returns when the table has no session, open or waiting for its last GET.
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

    use shared::ids::NodeId;

    use super::*;

    fn id(number: u8) -> SessionId {
        SessionId::new(NodeId::from_random([0; 4]), [number; 16])
    }

    fn table(sessions: usize, pending: usize, per_address: usize) -> SessionTable {
        SessionTable::new(Bounds { sessions, pending, per_address })
    }

    fn from(last: u8, connection: u64) -> Origin {
        Origin { address: Ipv4Addr::new(10, 0, 0, last).into(), connection }
    }

    fn evicted(table: &SessionTable, origin: Origin, session: u8) -> Vec<SessionId> {
        table.admit(origin, id(session)).unwrap().evicted.to_vec()
    }

    #[test]
    fn places_are_bounded_and_given_back() {
        let table = table(3, 0, 2);
        let (a, b) = (from(1, 1), from(2, 2));
        let mut places: Vec<_> = [a, a].into_iter().map(|o| table.admit(o, id(0)).unwrap().place).collect();
        assert_eq!(table.admit(a, id(0)).unwrap_err(), Full::Address);
        places.push(table.admit(b, id(0)).unwrap().place);
        assert!(!table.is_full());
        assert!(places.iter_mut().zip([a, a, b]).all(|(place, origin)| table.prove(place, origin)));
        assert!(table.is_full());
        assert_eq!(table.admit(b, id(0)).unwrap_err(), Full::Node);
        assert_eq!(table.open(), 3);
        table.release(places.remove(0), a);
        assert!(table.admit(a, id(0)).is_ok());
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_oldest_pending_one() {
        let table = table(3, 0, 0);
        let mut proven = table.admit(from(1, 1), id(1)).unwrap().place;
        assert!(table.prove(&mut proven, from(1, 1)));
        assert!(evicted(&table, from(2, 2), 2).is_empty());
        assert!(evicted(&table, from(3, 3), 3).is_empty());
        assert_eq!(evicted(&table, from(4, 4), 4), [id(2)]);
        assert_eq!(table.occupied(), Occupied { pending: 2, proven: 1 });
    }

    #[test]
    fn a_connection_that_takes_much_of_the_share_makes_room_itself() {
        let table = table(0, 4, 0);
        assert!(evicted(&table, from(1, 1), 1).is_empty());
        for session in [2, 3, 4] {
            assert!(evicted(&table, from(1, 2), session).is_empty());
        }
        assert_eq!(evicted(&table, from(1, 2), 5), [id(2)]);
        assert_eq!(evicted(&table, from(2, 3), 6), [id(3)]);
        assert_eq!(table.occupied().pending, 4);
    }

    #[test]
    fn an_evicted_session_cannot_prove_itself() {
        let table = table(0, 1, 0);
        let mut first = table.admit(from(1, 1), id(1)).unwrap().place;
        let second = table.admit(from(1, 1), id(2)).unwrap();
        assert_eq!(second.evicted.to_vec(), [id(1)]);
        assert!(!table.keeps(first, from(1, 1)) && table.keeps(second.place, from(1, 1)));
        assert!(!table.prove(&mut first, from(1, 1)));
        table.release(first, from(1, 1));
        assert_eq!(table.occupied(), Occupied { pending: 1, proven: 0 });
    }

    #[test]
    fn a_session_that_leaves_its_last_namespace_is_pending_again() {
        let table = table(0, 2, 0);
        let places = [1, 2, 3].map(|session| {
            let mut place = table.admit(from(session, 1), id(session)).unwrap().place;
            assert!(table.prove(&mut place, from(session, 1)));
            place
        });
        for (mut place, session) in places.into_iter().zip([1, 2, 3]) {
            table.doubt(&mut place, from(session, 1), id(session));
        }
        assert_eq!(table.occupied(), Occupied { pending: 3, proven: 0 });
        // One new session evicts two, until the share is back at its bound.
        assert_eq!(evicted(&table, from(4, 4), 4), [id(1), id(2)]);
        assert_eq!(evicted(&table, from(5, 5), 5), [id(3)]);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let table = table(0, 0, 1);
        let [a, b, other] = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"]
            .map(|text| Origin { address: text.parse().unwrap(), connection: 0 });
        let place = table.admit(a, id(0)).unwrap().place;
        assert_eq!(table.admit(b, id(0)).unwrap_err(), Full::Address);
        assert!(table.admit(other, id(0)).is_ok());
        table.release(place, a);
        assert!(table.admit(b, id(0)).is_ok());
    }
}
