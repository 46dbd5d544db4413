//! A node's part in presence: its lease, its members in the store, the estates of dead nodes.
//!
//! ```text
//!  lease      open ── renew every ttl/3 ──► lost, or something unsaid? ──► register all under a new
//!                                                                          incarnation, settle the old one
//!  estate     lapsed lease ──► claimed by one ── hold-back ──► settled room by room ──► `Gone` to the apps
//!  leave      socket out ──► user still there | gone | lingers ── hold-back ──► settled ──► `Gone`
//! ```
//! A member is in the store under the incarnation of its node; what belongs to a lapsed lease stops counting
//! by itself. Whether a user is first or last is decided in the store, which also knows the dead and the
//! lingering: a user who comes back in time was never gone.
//!
//! Locks: a stripe of `stripes` is held (shared) while a member's place changes here and in the store, and
//! (alone) while its room is registered anew, so that a snapshot never brings back who has left.

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

use super::RoomCount;
use super::accord::{Agreeing, Nature, Strangers};
use super::census::Union;
use super::lingering::{Lingering, Waiting};
use super::neighbours::Neighbours;
use super::store::{Kept, LeftRoom, Store};
use crate::error::FanoutError;
use crate::stats::Stats;

/// Incarnations of this node that are looked up when it registers anew.
pub(super) const FORERUNNERS_MAX: usize = 32;

/// What the node itself knows: the truth that the store is told.
pub(crate) trait Local: Send + Sync + 'static {
    /// Rooms with members.
    fn rooms(&self) -> Vec<String>;
    /// The members of one.
    fn members(&self, room: &str) -> Vec<Kept>;
}

/// A user is in a room no more, or again, and whoever was told otherwise must hear it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moved {
    pub(crate) room: String,
    pub(crate) user: String,
    pub(crate) info: String,
    /// This node had been taken for dead, and its users with it; they are here.
    pub(crate) is_back: bool,
}

/// How presence is kept.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) node: NodeId,
    /// How long a lease lasts.
    pub(crate) lease: Duration,
    /// How long who is lost may take to come back.
    pub(crate) holdback: Duration,
    /// What the node tells of itself.
    pub(crate) info: String,
    /// What it must have in common with the others.
    pub(crate) nature: Nature,
}

/// Presence in a cluster.
pub(crate) struct ClusterPresence {
    pub(super) terms: Terms,
    pub(super) store: Store,
    pub(super) local: Arc<dyn Local>,
    pub(super) incarnation: Mutex<Arc<str>>,
    pub(super) stripes: Box<[RwLock<()>]>,
    pub(super) hasher: RandomState,
    /// Rooms in the store's index, and of which incarnation.
    pub(super) indexed: DashMap<String, Arc<str>>,
    pub(super) table: tokio::sync::Mutex<()>,
    pub(super) leases: Mutex<Table>,
    /// When a task of the workers last noted that it runs.
    pub(super) beaten: Mutex<Option<Instant>>,
    /// Incarnations since all members were last registered under one.
    pub(super) forerunners: Mutex<Vec<String>>,
    /// The store may not say what is true here.
    pub(super) unsaid: AtomicBool,
    /// A lease was made: the node's id is its own.
    pub(super) opened: AtomicBool,
    /// All members were registered under the current incarnation.
    pub(super) registered: AtomicBool,
    pub(super) wake: Notify,
    pub(super) agreeing: Mutex<Agreeing>,
    pub(super) strangers: Mutex<Strangers>,
    /// All living nodes hear broadcasts on channels that only our nodes use.
    pub(super) own_rooms: AtomicBool,
    pub(super) lingering: Lingering,
    pub(super) neighbours: Neighbours,
    pub(super) estates: Mutex<HashMap<String, Instant>>,
    pub(super) estate_added: Notify,
    pub(super) gone: mpsc::Sender<Moved>,
    /// Found while nobody could be told; no more than this node has members.
    to_tell: Mutex<VecDeque<Moved>>,
    to_tell_added: Notify,
    /// What rooms counted last, and when that was asked.
    pub(super) counts: DashMap<String, (Instant, RoomCount)>,
    /// The users last counted over several nodes, by a hash of the room.
    pub(super) unions: Box<[tokio::sync::Mutex<Option<Union>>]>,
    pub(super) stats: Arc<Stats>,
}

#[derive(Debug, Default)]
pub(super) struct Table {
    /// When it was read, and Redis' clock then.
    pub(super) read: Option<(Instant, u64)>,
    pub(super) nodes: HashMap<String, u64>,
    /// When the own lease was last renewed.
    pub(super) renewed: Option<Instant>,
    /// Nobody is taken for dead before.
    pub(super) trusted_from: Option<Instant>,
}

impl std::fmt::Debug for ClusterPresence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClusterPresence").field("terms", &self.terms).finish_non_exhaustive()
    }
}

impl ClusterPresence {
    pub(crate) fn new(
        terms: Terms,
        store: Store,
        local: Arc<dyn Local>,
        gone: mpsc::Sender<Moved>,
        stats: Arc<Stats>,
    ) -> Self {
        let incarnation = Mutex::new(new_incarnation(terms.node));
        let agreeing = Mutex::new(Agreeing::new(terms.nature.clone()));
        Self {
            terms,
            store,
            local,
            incarnation,
            stripes: (0..256).map(|_| RwLock::default()).collect(),
            hasher: RandomState::new(),
            indexed: DashMap::new(),
            table: tokio::sync::Mutex::default(),
            leases: Mutex::default(),
            beaten: Mutex::default(),
            forerunners: Mutex::default(),
            unsaid: AtomicBool::new(false),
            opened: AtomicBool::new(false),
            registered: AtomicBool::new(false),
            wake: Notify::new(),
            agreeing,
            strangers: Mutex::default(),
            own_rooms: AtomicBool::new(false),
            lingering: Lingering::new(LINGERING_MAX),
            neighbours: Neighbours::default(),
            estates: Mutex::default(),
            estate_added: Notify::new(),
            gone,
            to_tell: Mutex::default(),
            to_tell_added: Notify::new(),
            counts: DashMap::new(),
            unions: (0..64).map(|_| tokio::sync::Mutex::default()).collect(),
            stats,
        }
    }

    pub(super) fn incarnation(&self) -> Arc<str> {
        Arc::clone(&self.incarnation.lock())
    }

    /// To be held while a member's place in `room` changes here and in the store.
    pub(crate) async fn changing(&self, room: &str) -> RwLockReadGuard<'_, ()> {
        self.stripe(room).read().await
    }

    pub(super) fn stripe(&self, room: &str) -> &RwLock<()> {
        let at = usize::try_from(self.hasher.hash_one(room) % 256).unwrap_or_default();
        &self.stripes[at]
    }

    /// Whether the lease is held and the store was told everything.
    pub(crate) fn is_ready(&self) -> bool {
        self.registered.load(Ordering::Acquire) && !self.unsaid.load(Ordering::Acquire) && self.is_fresh()
    }

    /// A process that slept through its lease must not believe that it still has it.
    pub(super) fn is_fresh(&self) -> bool {
        self.leases.lock().renewed.is_some_and(|at| at.elapsed() < self.terms.lease)
    }

    /// To be asked before anything is written about a room: what is written under an incarnation without a lease
    /// is nobody's to settle, under one that has lapsed it may be settled already, and in a room that is not in
    /// its index nobody looks.
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

    /// Has the lease looked at now: the connection is new, or something went wrong.
    pub(crate) fn wake(&self) {
        self.wake.notify_one();
    }

    /// After a new connection nobody is taken for dead for the time of a lease: another server's clock may be
    /// ahead of the one that the leases were made by.
    pub(crate) fn reconnected(&self) {
        self.leases.lock().trusted_from = Some(Instant::now() + self.terms.lease);
        // And it may lack what the last one had not passed on: everything is told anew.
        self.unsaid();
    }

    pub(super) fn unsaid(&self) {
        self.unsaid.store(true, Ordering::Release);
        self.wake();
    }

    /// A member has entered here; answers whether it is the user's first socket in the cluster, `None` when the
    /// store could not be asked: it will be told.
    pub(crate) async fn entered(&self, room: &str, member: &Kept) -> Option<bool> {
        let incarnation = self.incarnation();
        let told = async {
            self.may_write(&incarnation, room).await?;
            self.store.enter(&incarnation, room, member).await
        };
        match told.await {
            Ok(first) => {
                let waited = self.lingering.cancel(room, &member.user);
                Some(first && !waited)
            }
            Err(_) => {
                self.unsaid();
                None
            }
        }
    }

    /// A member has left here; answers whether that was the user's last socket in the cluster. With `linger`
    /// the answer comes later, as [`Moved`], unless the user is back.
    pub(crate) async fn left(&self, room: &str, member: &Kept, linger: bool) -> bool {
        let incarnation = self.incarnation();
        let waiting = |incarnation: &str| Waiting {
            room: room.to_owned(),
            user: member.user.clone(),
            info: member.info.clone(),
            incarnation: incarnation.to_owned(),
            told: false,
        };
        let told = async {
            self.may_write(&incarnation, room).await?;
            self.store.leave(&incarnation, room, member, linger).await
        };
        match told.await {
            Ok(LeftRoom::Remains) => false,
            Ok(LeftRoom::Gone) => {
                // Told by who asked; a survivor tells again if this node dies before it is forgotten.
                self.lingering.add(Waiting { told: true, ..waiting(&incarnation) }, self.terms.holdback);
                true
            }
            Ok(LeftRoom::Lingers) => {
                self.lingering.add(waiting(&incarnation), self.terms.holdback);
                false
            }
            Err(_) => {
                self.unsaid();
                self.lingering.add(waiting(""), self.terms.holdback);
                false
            }
        }
    }

    /// Does a node's duties until the task is dropped.
    pub(crate) async fn run(&self) {
        tokio::join!(
            self.beat(),
            self.keep_lease(),
            self.settle_estates(),
            self.settle_lingering(),
            self.sweep(),
            self.tell_waiting()
        );
    }

    /// Has these told by and by.
    pub(super) fn tell_later(&self, moved: Vec<Moved>) {
        if !moved.is_empty() {
            self.to_tell.lock().extend(moved);
            self.to_tell_added.notify_one();
        }
    }

    async fn tell_waiting(&self) {
        loop {
            let next = self.to_tell.lock().pop_front();
            match next {
                Some(moved) => self.tell(moved).await,
                None => self.to_tell_added.notified().await,
            }
        }
    }

    pub(super) async fn tell(&self, gone: Moved) {
        // Without a receiver the node is stopping.
        let _ = self.gone.send(gone).await;
    }

    /// Gives the lease up: what is still in the store is settled by a survivor.
    pub(crate) async fn close(&self) {
        let _ = self.store.claim(&self.incarnation(), Duration::from_millis(1), true).await;
    }
}

pub(super) fn new_incarnation(node: NodeId) -> Arc<str> {
    format!("{node}-{:032x}", rand::random::<u128>()).into()
}
