//! The slots of a listener: bounds its connections, and chooses which to close when there are too many.
//!
//! A connection is a *guest* while it speaks HTTP. Unauthenticated guests have a share of the slots and of the memory;
//! when it is used up, the next guest displaces another one ([`FairShare`] chooses it). A guest is *trusted* during a
//! request whose sender is known: of a session in a namespace, with a valid token, or from another node. Between two
//! such requests it *rests*: it does not count against the share, and is displaced only if all slots of the listener
//! are taken. Then the address that holds most loses one first, so that one client with a token cannot lock out the
//! others.
//!
//! Ranking a connection for each of a backend's requests would cost more than the request. So those of the internal
//! listener rest only when no other one can make room ([`Guest::rest_on_demand`]).
//!
//! A connection that has become a session's WebSocket keeps its slot as long as its session lives; the session has a
//! slot of its own among sessions. If the session ends and the client does not close, the connection counts as a
//! stranger's again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use shared::limits::STRANGER_CONNECTION_BYTES;
use tokio::sync::{Notify, oneshot};

use crate::fair::{FairShare, Member};
use crate::limiter::source;
use crate::metrics::{self, Evicted};

/// Guests who weigh less than this count as equal: sending a request must not be worse than sending nothing.
const GRAIN: usize = 64 * 1024;

/// The memory of a connection is counted in steps of this size.
const HELD_STEP: usize = 4 * 1024;

/// Resolves when the connection has lost its slot.
pub(crate) type Displaced = oneshot::Receiver<()>;

/// Bounds of a listener's slots.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlaceLimits {
    /// Connections.
    pub(crate) connections: usize,
    /// Guests who are not trusted; 0 means no limit.
    pub(crate) strangers: usize,
    /// Their maximum total weight in bytes; 0 means no limit.
    pub(crate) stranger_bytes: usize,
}

impl PlaceLimits {
    fn are_passed_by<T>(&self, strangers: &FairShare<T>) -> bool {
        (self.strangers != 0 && strangers.len() > self.strangers)
            || (self.stranger_bytes != 0 && strangers.weight() > self.stranger_bytes)
    }
}

/// The slots of one listener.
#[derive(Debug)]
pub(crate) struct Places {
    limits: PlaceLimits,
    taken: Mutex<Taken>,
    /// Notified when a connection ends while all slots were taken.
    freed: Notify,
}

#[derive(Debug)]
struct Taken {
    open: usize,
    accepted: u64,
    strangers: FairShare<oneshot::Sender<()>>,
    /// Guests between two trusted requests.
    resting: FairShare<oneshot::Sender<()>>,
    /// Guests who rest when a slot is needed, by connection.
    on_demand: HashMap<u64, Weak<Guest>>,
}

impl Taken {
    /// Whether no guest can be displaced now.
    fn has_none_to_displace(&self) -> bool {
        self.strangers.len() + self.resting.len() == 0
    }

    /// The guests who rest on demand, unless a request of theirs is in progress.
    fn idle_on_demand(&self) -> Vec<Arc<Guest>> {
        let guests = self.on_demand.values().filter_map(Weak::upgrade);
        guests.filter(|guest| guest.is_idle.load(Ordering::Relaxed)).collect()
    }

    /// Removes the first one in eviction order if all slots are taken.
    fn take_first(&mut self) -> Option<oneshot::Sender<()>> {
        if self.resting.most() > self.strangers.most() {
            self.resting.take_first()
        } else {
            self.strangers.take_first()
        }
    }
}

/// How many slots are taken.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PlacesTaken {
    pub(crate) connections: usize,
    pub(crate) strangers: usize,
    pub(crate) stranger_bytes: usize,
}

impl Places {
    pub(crate) fn new(limits: PlaceLimits) -> Arc<Self> {
        let (strangers, resting) = (FairShare::new(GRAIN), FairShare::new(GRAIN));
        let taken = Taken { open: 0, accepted: 0, strangers, resting, on_demand: HashMap::new() };
        Arc::new(Self { limits, taken: Mutex::new(taken), freed: Notify::new() })
    }

    pub(crate) fn limits(&self) -> PlaceLimits {
        self.limits
    }

    pub(crate) fn taken(&self) -> PlacesTaken {
        let taken = self.taken.lock();
        PlacesTaken {
            connections: taken.open,
            strangers: taken.strangers.len(),
            stranger_bytes: taken.strangers.weight(),
        }
    }

    /// Whether connections that cannot be displaced take all slots.
    pub(crate) fn is_full(&self) -> bool {
        let taken = self.taken.lock();
        taken.open >= self.limits.connections && taken.has_none_to_displace()
    }

    /// Waits until another connection may be accepted. If all slots are taken, displaces one that is not trusted.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            let on_demand = {
                let taken = self.taken.lock();
                let is_full = taken.open >= self.limits.connections;
                if is_full && taken.has_none_to_displace() { taken.idle_on_demand() } else { Vec::new() }
            };
            // Dropped before the wait, because a guest keeps its slot.
            on_demand.into_iter().for_each(|guest| guest.rest_if_idle());
            let displaced = {
                let mut taken = self.taken.lock();
                if taken.open < self.limits.connections {
                    return;
                }
                taken.take_first()
            };
            displace(displaced);
            freed.await;
        }
    }

    /// Registers an accepted connection from `address`.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> (Guest, Displaced) {
        let (sender, displaced) = oneshot::channel();
        let (seat, member, is_over) = {
            let mut taken = self.taken.lock();
            taken.open += 1;
            taken.accepted += 1;
            let (from, connection) = (source(address), taken.accepted);
            let member = taken.strangers.insert(from, connection, STRANGER_CONNECTION_BYTES, sender);
            let is_over = self.limits.are_passed_by(&taken.strangers);
            (Seat { places: Arc::clone(self), source: from, connection }, member, is_over)
        };
        if is_over {
            self.make_room();
        }
        let trust = Mutex::new(Trust::Stranger(member));
        let guest = Guest {
            seat: Arc::new(seat),
            trust,
            is_known: AtomicBool::new(false),
            is_idle: AtomicBool::new(false),
            extra: AtomicUsize::new(0),
            has_opened: AtomicBool::new(false),
            opens_websocket: AtomicBool::new(false),
        };
        (guest, displaced)
    }

    /// Displaces strangers until the rest fits into the share.
    fn make_room(&self) {
        loop {
            let displaced = {
                let mut taken = self.taken.lock();
                if !self.limits.are_passed_by(&taken.strangers) {
                    return;
                }
                taken.strangers.take_first()
            };
            if !displace(displaced) {
                return;
            }
        }
    }
}

/// Notifies a connection that it has lost its slot. False if there is none.
fn displace(displaced: Option<oneshot::Sender<()>>) -> bool {
    let is_one = displaced.is_some();
    if is_one {
        metrics::get().evicted(Evicted::Connection);
    }
    drop(displaced);
    is_one
}

/// The slot of a connection, freed on drop.
#[derive(Debug)]
pub(crate) struct Seat {
    places: Arc<Places>,
    source: IpAddr,
    connection: u64,
}

impl Seat {
    /// The session of the connection has ended, and the node waits for its client to close: another connection may need
    /// the slot.
    pub(crate) fn linger(self: &Arc<Self>) -> Lingering {
        let (sender, displaced) = oneshot::channel();
        // As heavy as any other connection: many that linger must not outlast an honest one.
        let weight = STRANGER_CONNECTION_BYTES;
        let member = self.places.taken.lock().strangers.insert(self.source, self.connection, weight, sender);
        self.places.make_room();
        Lingering { seat: Arc::clone(self), member, displaced }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let was_full = {
            let mut taken = self.places.taken.lock();
            taken.on_demand.remove(&self.connection);
            taken.open -= 1;
            taken.open + 1 >= self.places.limits.connections
        };
        if was_full {
            self.places.freed.notify_waiters();
        }
    }
}

/// A connection whose session has ended.
#[derive(Debug)]
pub(crate) struct Lingering {
    seat: Arc<Seat>,
    member: Member,
    pub(crate) displaced: Displaced,
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let removed = self.seat.places.taken.lock().strangers.remove(self.member);
        drop(removed);
    }
}

/// A connection that speaks HTTP.
#[derive(Debug)]
pub(crate) struct Guest {
    seat: Arc<Seat>,
    trust: Mutex<Trust>,
    /// A request on it was trusted before.
    is_known: AtomicBool,
    /// Its requests were answered, and it rests on demand.
    is_idle: AtomicBool,
    /// The bytes that it holds beyond every connection's minimum.
    extra: AtomicUsize,
    /// A session was opened on it before.
    has_opened: AtomicBool,
    /// It becomes the WebSocket of the session that was opened on it.
    opens_websocket: AtomicBool,
}

#[derive(Debug)]
enum Trust {
    Stranger(Member),
    Resting(Member),
    /// With the sender that displaces it, for when it becomes a stranger again.
    Trusted(oneshot::Sender<()>),
    /// It has lost its slot or is no longer a guest.
    Gone,
}

impl Guest {
    /// Unique among the listener's connections.
    pub(crate) fn connection(&self) -> u64 {
        self.seat.connection
    }

    /// The connection's address, as the limits count it.
    pub(crate) fn source(&self) -> IpAddr {
        self.seat.source
    }

    /// Records that a session is opened; returns whether one was before.
    pub(crate) fn opens_again(&self) -> bool {
        self.has_opened.swap(true, Ordering::Relaxed)
    }

    /// Records that the connection becomes the WebSocket of a session that begins with it.
    pub(crate) fn open_websocket(&self) {
        self.opens_websocket.store(true, Ordering::Relaxed);
    }

    /// Whether [`Self::open_websocket`] was called.
    pub(crate) fn opens_websocket(&self) -> bool {
        self.opens_websocket.load(Ordering::Relaxed)
    }

    /// Whether the current request has a known sender.
    pub(crate) fn is_trusted(&self) -> bool {
        matches!(*self.trust.lock(), Trust::Trusted(_))
    }

    /// The sender of the current request is known, so the connection is not displaced until [`Self::rest`].
    pub(crate) fn trust(&self) {
        let mut trust = self.trust.lock();
        self.is_idle.store(false, Ordering::Relaxed);
        if matches!(*trust, Trust::Trusted(_)) {
            return;
        }
        if let Some(sender) = self.withdraw(&trust) {
            *trust = Trust::Trusted(sender);
            self.is_known.store(true, Ordering::Relaxed);
        } else {
            *trust = Trust::Gone;
        }
    }

    /// The sender is known, but this request must not keep the slot: it counts as a stranger's until [`Self::rest`].
    pub(crate) fn know(&self) {
        self.is_known.store(true, Ordering::Relaxed);
    }

    /// The connection is ranked between its requests only when another one needs a slot.
    pub(crate) fn rest_on_demand(self: &Arc<Self>) {
        let Seat { places, connection, .. } = &*self.seat;
        places.taken.lock().on_demand.insert(*connection, Arc::downgrade(self));
    }

    /// The current request of a connection that rests on demand was answered.
    pub(crate) fn idle(&self) {
        let _not_while_it_is_ranked = self.trust.lock();
        self.is_idle.store(true, Ordering::Relaxed);
    }

    fn rest_if_idle(&self) {
        let mut trust = self.trust.lock();
        if self.is_idle.load(Ordering::Relaxed) && matches!(*trust, Trust::Trusted(_)) {
            self.rest_locked(&mut trust);
        }
    }

    /// The current request was answered.
    pub(crate) fn rest(&self) {
        let held_more = self.extra.swap(0, Ordering::Relaxed) != 0;
        let is_known = self.is_known.load(Ordering::Relaxed);
        let mut trust = self.trust.lock();
        match &*trust {
            Trust::Gone => return,
            Trust::Stranger(_) if !is_known && !held_more => return,
            Trust::Stranger(member) if !is_known => {
                self.seat.places.taken.lock().strangers.set_weight(*member, self.weight());
                return;
            }
            Trust::Stranger(_) | Trust::Resting(_) | Trust::Trusted(_) => {}
        }
        self.rest_locked(&mut trust);
    }

    fn rest_locked(&self, trust: &mut Trust) {
        let sender = match std::mem::replace(trust, Trust::Gone) {
            Trust::Trusted(sender) => Some(sender),
            former => self.withdraw(&former),
        };
        if let Some(sender) = sender {
            let Seat { places, source, connection } = &*self.seat;
            *trust = Trust::Resting(places.taken.lock().resting.insert(
                *source,
                *connection,
                self.weight(),
                sender,
            ));
        }
    }

    /// Removes the connection's sender from its share.
    fn withdraw(&self, trust: &Trust) -> Option<oneshot::Sender<()>> {
        let mut taken = self.seat.places.taken.lock();
        match trust {
            Trust::Stranger(member) => taken.strangers.remove(*member),
            Trust::Resting(member) => taken.resting.remove(*member),
            Trust::Trusted(_) | Trust::Gone => None,
        }
    }

    fn weight(&self) -> usize {
        STRANGER_CONNECTION_BYTES + self.extra.load(Ordering::Relaxed)
    }

    /// Sets how many bytes the connection holds beyond every connection's minimum.
    pub(crate) fn hold(&self, bytes: usize) {
        let bytes = bytes.next_multiple_of(HELD_STEP);
        if self.extra.swap(bytes, Ordering::Relaxed) != bytes {
            if let Trust::Stranger(member) = *self.trust.lock() {
                self.seat.places.taken.lock().strangers.set_weight(member, self.weight());
            }
            self.seat.places.make_room();
        }
    }

    /// Sets how many bytes of a body have arrived. They are held twice: in hyper's read buffer and in the node's own.
    pub(crate) fn hold_body(&self, bytes: usize) {
        self.hold(2 * bytes);
    }

    /// The connection becomes something else than HTTP and keeps its slot.
    pub(crate) fn leave(&self) -> Arc<Seat> {
        let former = std::mem::replace(&mut *self.trust.lock(), Trust::Gone);
        drop(self.withdraw(&former));
        Arc::clone(&self.seat)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn places(connections: usize, strangers: usize, stranger_bytes: usize) -> Arc<Places> {
        Places::new(PlaceLimits { connections, strangers, stranger_bytes })
    }

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn is_displaced(displaced: &mut Displaced) -> bool {
        displaced.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn a_new_stranger_displaces_the_oldest_one_and_never_a_trusted_guest() {
        let places = places(100, 2, 0);
        let (trusted, mut first) = places.enter(address(1));
        trusted.trust();
        let (_guest, mut second) = places.enter(address(1));
        let (_other, mut third) = places.enter(address(1));
        assert!(!is_displaced(&mut second));
        let (_newest, mut fourth) = places.enter(address(1));
        assert!(is_displaced(&mut second));
        // A resting guest does not count against the share.
        trusted.rest();
        let (_last, _kept) = places.enter(address(1));
        assert!(is_displaced(&mut third) && !is_displaced(&mut first) && !is_displaced(&mut fourth));
        trusted.trust();
        assert!(trusted.is_trusted());
    }

    #[test]
    fn one_address_that_rests_on_many_connections_makes_room_for_strangers() {
        let places = places(4, 0, 0);
        let resting: Vec<_> = (0..3)
            .map(|_| {
                let (guest, displaced) = places.enter(address(1));
                guest.know();
                guest.rest();
                (guest, displaced)
            })
            .collect();
        let (_newcomer, mut kept) = places.enter(address(2));
        assert!(!places.is_full());
        let mut room = std::pin::pin!(places.room());
        let waker = std::task::Waker::noop();
        assert!(room.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
        let displaced: Vec<bool> =
            resting.into_iter().map(|(_, mut displaced)| is_displaced(&mut displaced)).collect();
        assert_eq!(displaced, [true, false, false]);
        assert!(!is_displaced(&mut kept));
    }

    #[tokio::test]
    async fn a_guest_who_rests_on_demand_makes_room_between_its_requests() {
        let places = places(2, 0, 0);
        let enter = |last| {
            let (guest, displaced) = places.enter(address(last));
            let guest = Arc::new(guest);
            guest.rest_on_demand();
            guest.trust();
            (guest, displaced)
        };
        let ((busy, mut of_busy), (idle, mut of_idle)) = (enter(1), enter(2));
        idle.idle();
        idle.trust();
        let mut room = std::pin::pin!(places.room());
        assert!(futures_util::poll!(&mut room).is_pending());
        assert!(!is_displaced(&mut of_busy) && !is_displaced(&mut of_idle));
        idle.idle();
        let mut room = std::pin::pin!(places.room());
        assert!(futures_util::poll!(&mut room).is_pending());
        assert!(!is_displaced(&mut of_busy) && is_displaced(&mut of_idle));
        drop(idle);
        room.await;
        drop(busy);
        assert!(places.taken.lock().on_demand.is_empty());
    }

    #[test]
    fn bytes_are_bounded_too() {
        let places = places(100, 0, 3 * STRANGER_CONNECTION_BYTES);
        let (_one, mut first) = places.enter(address(1));
        let (two, mut second) = places.enter(address(2));
        two.hold(STRANGER_CONNECTION_BYTES);
        assert!(!is_displaced(&mut first) && !is_displaced(&mut second));
        two.hold(STRANGER_CONNECTION_BYTES + 1);
        assert!(!is_displaced(&mut first) && is_displaced(&mut second));
        drop(two);
        assert_eq!(places.taken().stranger_bytes, STRANGER_CONNECTION_BYTES);
    }

    #[test]
    fn a_guest_that_sends_its_request_is_not_displaced_before_older_silent_ones() {
        let places = places(100, 0, 4 * STRANGER_CONNECTION_BYTES);
        let (_silent, mut oldest) = places.enter(address(1));
        let (_more, _kept) = places.enter(address(1));
        let (honest, mut displaced) = places.enter(address(1));
        honest.hold_body(1_000);
        let (_next, _also_kept) = places.enter(address(1));
        assert!(is_displaced(&mut oldest) && !is_displaced(&mut displaced));
    }

    #[tokio::test]
    async fn if_all_places_are_taken_a_stranger_makes_room() {
        let places = places(1, 0, 0);
        let (guest, displaced) = places.enter(address(1));
        let mut room = std::pin::pin!(places.room());
        let waits = futures_util::poll!(&mut room).is_pending();
        assert!(waits && displaced.await.is_err());
        drop(guest);
        room.await;
    }

    #[test]
    fn an_upgraded_connection_keeps_its_place_and_lingers_as_a_stranger() {
        let places = places(100, 1, 0);
        let (guest, _) = places.enter(address(1));
        let seat = guest.leave();
        drop(guest);
        assert_eq!((places.taken().connections, places.taken().strangers), (1, 0));
        let mut lingering = seat.linger();
        let (_next, _) = places.enter(address(1));
        let (_more, _) = places.enter(address(1));
        assert!(is_displaced(&mut lingering.displaced));
        drop((lingering, seat));
        assert_eq!(places.taken().connections, 2);
    }
}
