//! A node's part in presence: its lease, its members in the store, and the cleanup after dead nodes.
//!
//! ```text
//!  lease      open ── renew every ttl/3 ──► lost, or is the store out of date? ──► register all under a new
//!                                                                          incarnation, clean up the old one
//!  cleanup    lapsed lease ──► claimed by one ── hold-back ──► cleaned up, room by room ──► `Gone` to the apps
//!  leave      socket out ──► user still there | gone | lingers ── hold-back ──► settled ──► `Gone`
//! ```
//! The store keeps a member under the incarnation of its node; members of a lapsed lease stop counting by themselves.
//! The store decides whether a socket is a user's first or last, and it also knows dead nodes' members and lingering
//! users: a user who reconnects in time never left.
//!
//! Locks: a stripe of `stripes` is held (shared) while a member changes here and in the store, and (exclusively) while
//! its room is registered again, so that a snapshot never restores a user who has left.

pub(crate) mod agreement;
mod cleanup;
mod lease;
mod lease_thread;
#[cfg(test)]
mod model;
mod peers;
mod queries;
#[cfg(test)]
mod simulation;
pub(crate) mod store;
pub(crate) mod stored;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ahash::RandomState;
use dashmap::DashMap;
use parking_lot::Mutex;
use shared::ids::NodeId;
use shared::limits::LINGERING_MAX;
use tokio::sync::{Notify, RwLock, RwLockReadGuard, mpsc};
use tokio::time::Instant;

use self::agreement::{AgreementState, NodeTraits, UnknownNodes};
use self::peers::LivePeers;
use self::queries::Union;
use self::store::Store;
use self::stored::{LeftRoom, StoredMember};
use crate::backplane::departures::{Departure, Departures};
use crate::error::FanoutError;
use crate::local::node::MembershipChange;
use crate::presence::RoomCount;
use crate::stats::Stats;

/// Upper bound of the earlier incarnations that a node looks up when it registers again.
pub(super) const PREVIOUS_INCARNATIONS_MAX: usize = 32;

/// The node's own members: the source of what is written to the store.
pub(crate) trait LocalMembers: Send + Sync + 'static {
    /// Rooms with members.
    fn rooms(&self) -> Vec<String>;
    /// The members of one room.
    fn members(&self, room: &str) -> Vec<StoredMember>;
}

/// How presence is kept.
#[derive(Debug, Clone)]
pub(crate) struct PresenceOptions {
    pub(crate) node: NodeId,
    /// How long a lease lasts.
    pub(crate) lease: Duration,
    /// How long a user whose connection dropped may take to reconnect.
    pub(crate) holdback: Duration,
    /// The address at which other nodes reach this one.
    pub(crate) info: String,
    /// What it must have in common with the other nodes.
    pub(crate) traits: NodeTraits,
}

/// Presence in a cluster.
pub(crate) struct Presence {
    options: PresenceOptions,
    store: Store,
    local: Arc<dyn LocalMembers>,
    incarnation: Mutex<Arc<str>>,
    stripes: Box<[RwLock<()>]>,
    hasher: RandomState,
    /// Rooms in the store's index, each with its incarnation.
    indexed: DashMap<String, Arc<str>>,
    table: tokio::sync::Mutex<()>,
    leases: Mutex<Table>,
    /// When a task on the workers last noted that it runs.
    alive_at: Mutex<Option<Instant>>,
    /// Incarnations since all members were last registered under one of them.
    previous_incarnations: Mutex<Vec<String>>,
    /// The store may be out of date.
    needs_resync: AtomicBool,
    /// A lease was opened: the id belongs to this node.
    opened: AtomicBool,
    /// All members were registered under the current incarnation.
    registered: AtomicBool,
    wake: Notify,
    agreement: Mutex<AgreementState>,
    unknown_nodes: Mutex<UnknownNodes>,
    /// All living nodes receive broadcasts on the channels reserved for nodes.
    own_rooms: AtomicBool,
    departures: Departures,
    peers: LivePeers,
    cleanups: Mutex<HashMap<String, Instant>>,
    cleanup_added: Notify,
    /// Another node has left something for this node to clean up.
    pub(crate) departed: Notify,
    gone: mpsc::Sender<MembershipChange>,
    /// Changes that are not reported yet; no more than this node has members.
    queued: Mutex<VecDeque<MembershipChange>>,
    queued_added: Notify,
    /// The last counts of rooms, and when each was asked for.
    counts: DashMap<String, (Instant, RoomCount)>,
    /// The users last counted over several nodes, by a hash of the room.
    unions: Box<[tokio::sync::Mutex<Option<Union>>]>,
    stats: Arc<Stats>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    /// When it was read, and Redis' clock at that time.
    read: Option<(Instant, u64)>,
    nodes: HashMap<String, u64>,
    /// When this node's lease was last renewed.
    renewed: Option<Instant>,
    /// Until then no node counts as dead.
    trusted_from: Option<Instant>,
}

impl std::fmt::Debug for Presence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Presence").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Presence {
    pub(crate) fn new(
        options: PresenceOptions,
        store: Store,
        local: Arc<dyn LocalMembers>,
        gone: mpsc::Sender<MembershipChange>,
        stats: Arc<Stats>,
    ) -> Self {
        let incarnation = Mutex::new(new_incarnation(options.node));
        let agreement = Mutex::new(AgreementState::new(options.traits.clone()));
        Self {
            options,
            store,
            local,
            incarnation,
            stripes: (0..256).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            indexed: DashMap::new(),
            table: tokio::sync::Mutex::default(),
            leases: Mutex::default(),
            alive_at: Mutex::default(),
            previous_incarnations: Mutex::default(),
            needs_resync: AtomicBool::new(false),
            opened: AtomicBool::new(false),
            registered: AtomicBool::new(false),
            wake: Notify::new(),
            agreement,
            unknown_nodes: Mutex::default(),
            own_rooms: AtomicBool::new(false),
            departures: Departures::new(LINGERING_MAX),
            peers: LivePeers::default(),
            cleanups: Mutex::default(),
            cleanup_added: Notify::new(),
            departed: Notify::new(),
            gone,
            queued: Mutex::default(),
            queued_added: Notify::new(),
            counts: DashMap::new(),
            unions: (0..64).map(|_| tokio::sync::Mutex::default()).collect(),
            stats,
        }
    }

    pub(super) fn incarnation(&self) -> Arc<str> {
        Arc::clone(&self.incarnation.lock())
    }

    /// Held while a member of `room` changes here and in the store.
    pub(crate) async fn changing(&self, room: &str) -> RwLockReadGuard<'_, ()> {
        self.stripe(room).read().await
    }

    pub(super) fn stripe(&self, room: &str) -> &RwLock<()> {
        let at = usize::try_from(self.hasher.hash_one(room) % 256).unwrap_or_default();
        &self.stripes[at]
    }

    /// Whether the lease is held and the store is up to date.
    pub(crate) fn is_ready(&self) -> bool {
        self.registered.load(Ordering::Acquire)
            && !self.needs_resync.load(Ordering::Acquire)
            && self.is_fresh()
    }

    /// A process that slept past its lease must not assume that it still holds it.
    pub(super) fn is_fresh(&self) -> bool {
        self.leases.lock().renewed.is_some_and(|at| at.elapsed() < self.options.lease)
    }

    /// Must succeed before anything is written about a room. No node cleans up what is written under an incarnation
    /// without a lease; what is written under a lapsed one may have been cleaned up already; and no node looks into a
    /// room that is not in its index.
    pub(super) async fn may_write(&self, incarnation: &Arc<str>, room: &str) -> Result<(), FanoutError> {
        if !self.opened.load(Ordering::Acquire) || !self.is_fresh() {
            return Err(FanoutError::Unavailable);
        }
        if self.indexed.get(room).is_none_or(|under| **under != **incarnation) {
            self.store.index(incarnation, &[room]).await?;
            self.indexed.insert(room.to_owned(), Arc::clone(incarnation));
        }
        Ok(())
    }

    /// Has the lease checked now: the connection is new, or something failed.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// After a new connection no node counts as dead for the time of a lease: the new server's clock may be ahead of
    /// the one that the leases were set by.
    pub(crate) fn reconnected(&self) {
        self.leases.lock().trusted_from = Some(Instant::now() + self.options.lease);
        // The new server may lack what the last one had not replicated: all members are registered again.
        self.needs_resync();
    }

    pub(super) fn needs_resync(&self) {
        self.needs_resync.store(true, Ordering::Release);
        self.wake();
    }

    /// Records that a member has entered here. Returns whether it is the user's first socket in the cluster, or `None`
    /// where the store could not be asked; it is then written later.
    pub(crate) async fn entered(&self, room: &str, member: &StoredMember) -> Option<bool> {
        let incarnation = self.incarnation();
        let reported = async {
            self.may_write(&incarnation, room).await?;
            self.store.enter(&incarnation, room, member).await
        };
        match reported.await {
            Ok(first) => {
                let waited = self.departures.cancel(room, &member.user);
                Some(first && !waited)
            }
            Err(_) => {
                self.needs_resync();
                None
            }
        }
    }

    /// Records that a member has left here. Returns whether it was the user's last socket in the cluster. With `linger`
    /// a [`MembershipChange`] follows later instead, unless the user returns.
    pub(crate) async fn left(&self, room: &str, member: &StoredMember, linger: bool) -> bool {
        let incarnation = self.incarnation();
        let waiting = |incarnation: &str| Departure {
            room: room.to_owned(),
            user: member.user.clone(),
            info: member.info.clone(),
            incarnation: incarnation.to_owned(),
            reported: false,
        };
        let reported = async {
            self.may_write(&incarnation, room).await?;
            self.store.leave(&incarnation, room, member, linger).await
        };
        match reported.await {
            Ok(LeftRoom::Remains) => false,
            Ok(LeftRoom::Gone) => {
                // The caller reports it. If this node dies before it is forgotten, a survivor reports it again.
                self.departures
                    .add(Departure { reported: true, ..waiting(&incarnation) }, self.options.holdback);
                true
            }
            Ok(LeftRoom::Lingers) => {
                self.departures.add(waiting(&incarnation), self.options.holdback);
                false
            }
            Err(_) => {
                self.needs_resync();
                self.departures.add(waiting(""), self.options.holdback);
                false
            }
        }
    }

    /// Does a node's presence work until the task is dropped.
    pub(crate) async fn run(&self) {
        tokio::join!(
            self.note_alive(),
            self.keep_lease(),
            self.clean_up_dead_nodes(),
            self.settle_departures(),
            self.sweep(),
            self.report_queued()
        );
    }

    /// Queues these changes for delivery.
    pub(super) fn queue_changes(&self, moved: Vec<MembershipChange>) {
        if !moved.is_empty() {
            self.queued.lock().extend(moved);
            self.queued_added.notify_one();
        }
    }

    async fn report_queued(&self) {
        loop {
            let next = self.queued.lock().pop_front();
            match next {
                Some(moved) => self.report(moved).await,
                None => self.queued_added.notified().await,
            }
        }
    }

    pub(super) async fn report(&self, gone: MembershipChange) {
        // Without a receiver the node is stopping.
        let _ = self.gone.send(gone).await;
    }

    /// Gives up the lease: a survivor cleans up what is still in the store.
    pub(crate) async fn close(&self) {
        let _ = self.store.claim(&self.incarnation(), Duration::from_millis(1), true).await;
    }
}

pub(super) fn new_incarnation(node: NodeId) -> Arc<str> {
    format!("{node}-{:032x}", rand::random::<u128>()).into()
}
