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

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ahash::RandomState;
use dashmap::DashMap;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex;
use shared::ids::NodeId;
use shared::limits::{COUNTS_KEPT_MAX, LEASES_FRESH_MS, LINGERING_MAX, ROOMS_AT_ONCE, STALE_MAX_MS};
use tokio::sync::{Notify, RwLock, RwLockReadGuard, mpsc};
use tokio::time::Instant;

use super::lingering::{Lingering, Waiting};
use super::store::{Kept, LeftRoom, Share, Store};
use super::{Counted, RoomCount};
use crate::error::FanoutError;
use crate::stats::Stats;

/// Incarnations of this node that are looked up when it registers anew.
const FORERUNNERS_MAX: usize = 32;

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
}

/// Presence in a cluster.
pub(crate) struct ClusterPresence {
    terms: Terms,
    store: Store,
    local: Arc<dyn Local>,
    incarnation: Mutex<Arc<str>>,
    stripes: Box<[RwLock<()>]>,
    hasher: RandomState,
    /// Rooms in the store's index, and of which incarnation.
    indexed: DashMap<String, Arc<str>>,
    table: tokio::sync::Mutex<()>,
    leases: Mutex<Table>,
    /// Incarnations since all members were last registered under one.
    forerunners: Mutex<Vec<String>>,
    /// The store may not say what is true here.
    unsaid: AtomicBool,
    /// A lease was made: the node's id is its own.
    opened: AtomicBool,
    registered: AtomicBool,
    wake: Notify,
    lingering: Lingering,
    estates: Mutex<HashMap<String, Instant>>,
    estate_added: Notify,
    gone: mpsc::Sender<Moved>,
    counts: DashMap<String, (Instant, Counted)>,
    stats: Arc<Stats>,
}

#[derive(Debug, Default)]
struct Table {
    /// When it was read, and Redis' clock then.
    read: Option<(Instant, u64)>,
    nodes: HashMap<String, u64>,
    /// When the own lease was last renewed.
    renewed: Option<Instant>,
    /// Nobody is taken for dead before.
    trusted_from: Option<Instant>,
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
            forerunners: Mutex::default(),
            unsaid: AtomicBool::new(false),
            opened: AtomicBool::new(false),
            registered: AtomicBool::new(false),
            wake: Notify::new(),
            lingering: Lingering::new(LINGERING_MAX),
            estates: Mutex::default(),
            estate_added: Notify::new(),
            gone,
            counts: DashMap::new(),
            stats,
        }
    }

    fn incarnation(&self) -> Arc<str> {
        Arc::clone(&self.incarnation.lock())
    }

    /// To be held while a member's place in `room` changes here and in the store.
    pub(crate) async fn changing(&self, room: &str) -> RwLockReadGuard<'_, ()> {
        self.stripe(room).read().await
    }

    fn stripe(&self, room: &str) -> &RwLock<()> {
        let at = usize::try_from(self.hasher.hash_one(room) % 256).unwrap_or_default();
        &self.stripes[at]
    }

    /// Whether the lease is held and the store was told everything.
    pub(crate) fn is_ready(&self) -> bool {
        self.registered.load(Ordering::Acquire) && self.is_fresh()
    }

    /// A process that slept through its lease must not believe that it still has it.
    fn is_fresh(&self) -> bool {
        self.leases.lock().renewed.is_some_and(|at| at.elapsed() < self.terms.lease)
    }

    /// To be asked before anything is written about a room: what is written under an incarnation without a lease
    /// is nobody's to settle, under one that has lapsed it may be settled already, and in a room that is not in
    /// its index nobody looks.
    async fn may_write(&self, incarnation: &Arc<str>, room: &str) -> Result<(), FanoutError> {
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
        self.wake();
    }

    fn unsaid(&self) {
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
        tokio::join!(self.keep_lease(), self.settle_estates(), self.settle_lingering(), self.sweep());
    }

    async fn keep_lease(&self) {
        loop {
            self.keep_lease_once().await;
            tokio::select! {
                () = tokio::time::sleep(self.terms.lease / 3) => {}
                () = self.wake.notified() => {
                    // Many may have found the same fault.
                    tokio::time::sleep(self.terms.lease / 60).await;
                }
            }
        }
    }

    async fn keep_lease_once(&self) {
        let before = Instant::now();
        let incarnation = self.incarnation();
        let Ok(leases) = self.store.renew(&incarnation, self.terms.lease).await else { return };
        let held = leases.held && self.registered.load(Ordering::Acquire);
        {
            let mut table = self.leases.lock();
            table.read = Some((before, leases.now_ms));
            table.nodes = leases.nodes.iter().cloned().collect();
            if held {
                table.renewed = Some(before);
            }
        }
        if !held || self.unsaid.load(Ordering::Acquire) {
            if !held {
                Stats::add(&self.stats.lease_losses, 1);
            }
            if let Err(error) = self.register(&incarnation).await {
                tracing::warn!(%error, "the members of this node could not be registered; trying on");
                return;
            }
        }
        if self.leases.lock().trusted_from.is_some_and(|from| Instant::now() < from) {
            return;
        }
        let own = self.incarnation();
        let lapsed = leases.nodes.iter().filter(|(inc, at)| *at <= leases.now_ms && **inc != *own);
        let left_over = leases.estates.iter().filter(|(_, until)| *until <= leases.now_ms);
        for (dead, _) in lapsed.chain(left_over) {
            if self.store.claim(dead, self.claim_time(), false).await == Ok(true) {
                tracing::warn!(incarnation = %dead, "a node is gone; this one settles what it left");
                self.add_estate(dead, self.terms.holdback);
            }
        }
    }

    fn claim_time(&self) -> Duration {
        self.terms.holdback + self.terms.lease * 10
    }

    fn add_estate(&self, dead: &str, after: Duration) {
        self.estates.lock().insert(dead.to_owned(), Instant::now() + after);
        self.estate_added.notify_one();
    }

    /// Tells the store everything under a new incarnation, and gives the old one up.
    async fn register(&self, old: &str) -> Result<(), FanoutError> {
        let new = new_incarnation(self.terms.node);
        tracing::info!(incarnation = %new, "registering the members of this node");
        // At the start the node's id must be nobody else's; later it is this one's own.
        let had_lease = self.opened.load(Ordering::Acquire);
        let unique = if had_lease { "" } else { self.terms.node.as_str() };
        if !self.store.open_lease(&new, self.terms.lease, &self.terms.info, unique).await? {
            tracing::error!(node = unique, "another node has this id; waiting for it to go");
            return Err(FanoutError::Unavailable);
        }
        self.opened.store(true, Ordering::Release);
        self.unsaid.store(false, Ordering::Release);
        *self.incarnation.lock() = Arc::clone(&new);
        self.leases.lock().renewed = Some(Instant::now());
        if had_lease {
            let mut forerunners = self.forerunners.lock();
            if forerunners.len() < FORERUNNERS_MAX {
                forerunners.push(old.to_owned());
            }
        }
        let told = self.register_rooms(&new).await;
        if told.is_err() {
            // Whatever is said is said under `new`, which the next try gives up.
            self.unsaid.store(true, Ordering::Release);
            return told;
        }
        self.registered.store(true, Ordering::Release);
        self.leases.lock().read = None;
        // Who left while nothing could be told is gone now, or has come back somewhere. A claim that fails here
        // is a survivor's when the lease has lapsed.
        let forerunners = std::mem::take(&mut *self.forerunners.lock());
        for forerunner in forerunners {
            if self.store.claim(&forerunner, self.claim_time(), true).await == Ok(true) {
                self.add_estate(&forerunner, self.terms.holdback);
            }
        }
        Ok(())
    }

    async fn register_rooms(&self, new: &Arc<str>) -> Result<(), FanoutError> {
        self.indexed.clear();
        let rooms = self.local.rooms();
        for some in rooms.chunks(512) {
            let names: Vec<&str> = some.iter().map(String::as_str).collect();
            self.store.index(new, &names).await?;
        }
        // Whoever settled what this node left has told that its users are gone.
        let forerunners = self.forerunners.lock().clone();
        let mut tell = false;
        for forerunner in &forerunners {
            tell |= self.store.was_settled(forerunner).await?;
        }
        let registering: Vec<BoxFuture<'_, _>> =
            rooms.into_iter().map(|room| self.register_room(Arc::clone(new), room, tell).boxed()).collect();
        let mut registering = stream::iter(registering).buffer_unordered(ROOMS_AT_ONCE);
        while let Some(done) = registering.next().await {
            done?;
        }
        Ok(())
    }

    async fn register_room(
        &self,
        incarnation: Arc<str>,
        room: String,
        tell: bool,
    ) -> Result<(), FanoutError> {
        let _alone = self.stripe(&room).write().await;
        let members = self.local.members(&room);
        if members.is_empty() {
            return Ok(());
        }
        let firsts = self.store.register(&incarnation, &room, &members).await?;
        self.indexed.insert(room.clone(), incarnation);
        for (user, info) in firsts.into_iter().filter(|_| tell) {
            self.tell(Moved { room: room.clone(), user, info, is_back: true }).await;
        }
        Ok(())
    }

    async fn settle_estates(&self) {
        loop {
            let added = self.estate_added.notified();
            let next =
                self.estates.lock().iter().min_by_key(|(_, at)| **at).map(|(dead, at)| (dead.clone(), *at));
            match next {
                None => added.await,
                Some((_, at)) if at > Instant::now() => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = added => {}
                },
                Some((dead, _)) => {
                    let settled = self.settle_estate(&dead).await;
                    let mut estates = self.estates.lock();
                    if settled.is_ok() {
                        estates.remove(&dead);
                    } else {
                        // The claim outlasts some tries; after that another may settle it.
                        estates.insert(dead, Instant::now() + self.terms.lease / 3);
                    }
                }
            }
        }
    }

    async fn settle_estate(&self, dead: &str) -> Result<(), FanoutError> {
        let rooms = self.store.rooms_of(dead).await?;
        let count = rooms.len();
        let settling: Vec<BoxFuture<'_, _>> =
            rooms.into_iter().map(|room| self.settle_room(dead.to_owned(), room).boxed()).collect();
        let mut settling = stream::iter(settling).buffer_unordered(ROOMS_AT_ONCE);
        while let Some(done) = settling.next().await {
            done?;
        }
        self.store.finish(dead).await?;
        tracing::info!(incarnation = %dead, rooms = count, "an estate is settled");
        Ok(())
    }

    async fn settle_room(&self, dead: String, room: String) -> Result<(), FanoutError> {
        for (user, info) in self.store.settle_room(&dead, &room).await? {
            // What the store was not told of has been told now.
            self.lingering.cancel(&room, &user);
            self.tell(Moved { room: room.clone(), user, info, is_back: false }).await;
        }
        self.store.forget(&dead, &room, None).await
    }

    async fn settle_lingering(&self) {
        loop {
            let waiting = self.lingering.due().await;
            let unsaid = waiting.incarnation.is_empty();
            if !unsaid && *waiting.incarnation != *self.incarnation() {
                // It is settled with the old incarnation's estate.
                continue;
            }
            let Waiting { room, user, info, told, .. } = waiting.clone();
            let incarnation = self.incarnation();
            let settled = if told {
                self.store.forget(&incarnation, &room, Some(&user)).await.map(|()| false)
            } else if self.registered.load(Ordering::Acquire) && !self.unsaid.load(Ordering::Acquire) {
                match self.may_write(&incarnation, &room).await {
                    Ok(()) => self.store.settle_user(&incarnation, &room, (&user, &info), unsaid).await,
                    Err(error) => Err(error),
                }
            } else {
                Err(FanoutError::Unavailable)
            };
            match settled {
                Ok(true) => {
                    self.tell(Moved { room, user, info, is_back: false }).await;
                    let incarnation = incarnation.to_string();
                    self.lingering.add(Waiting { told: true, incarnation, ..waiting }, self.terms.holdback);
                }
                Ok(false) => {}
                Err(_) => self.lingering.add(waiting, self.terms.lease / 6),
            }
        }
    }

    async fn tell(&self, gone: Moved) {
        // Without a receiver the node is stopping.
        let _ = self.gone.send(gone).await;
    }

    /// Keeps keys of rooms alive, and forgets rooms that nobody here is in any more.
    async fn sweep(&self) {
        loop {
            tokio::time::sleep(self.terms.lease * 50).await;
            let incarnation = self.incarnation();
            let live: HashSet<String> = self.local.rooms().into_iter().collect();
            let known: Vec<String> = self.indexed.iter().map(|room| room.key().clone()).collect();
            for room in known {
                if live.contains(&room) {
                    let _ = self.store.touch(&incarnation, &room).await;
                    let _ = self.store.index(&incarnation, &[&room]).await;
                    continue;
                }
                // Forgotten first, then looked at again: whoever enters meanwhile remembers it anew.
                self.indexed.remove(&room);
                let forgotten = self.store.unindex(&incarnation, &[&room]).await.is_ok();
                if forgotten && !self.local.members(&room).is_empty() {
                    let _ = self.store.index(&incarnation, &[&room]).await;
                }
            }
            self.counts.retain(|_, (at, _)| at.elapsed() < Duration::from_millis(STALE_MAX_MS));
        }
    }

    /// Incarnations whose lease holds, by a list that is no older than `LEASES_FRESH_MS`.
    async fn living(&self) -> Result<HashSet<String>, FanoutError> {
        // One asks, the others wait for the answer.
        let _one = self.table.lock().await;
        let fresh = Duration::from_millis(LEASES_FRESH_MS).min(self.terms.lease / 6);
        let is_old = self.leases.lock().read.is_none_or(|(at, _)| at.elapsed() >= fresh);
        if is_old {
            let before = Instant::now();
            let leases = self.store.renew("", self.terms.lease).await?;
            let mut table = self.leases.lock();
            table.read = Some((before, leases.now_ms));
            table.nodes = leases.nodes.into_iter().collect();
        }
        let table = self.leases.lock();
        let (at, then) = table.read.ok_or(FanoutError::Unavailable)?;
        let now = then + u64::try_from(at.elapsed().as_millis()).unwrap_or_default();
        Ok(table.nodes.iter().filter(|(_, lapses)| **lapses > now).map(|(inc, _)| inc.clone()).collect())
    }

    /// How many nodes live.
    pub(crate) async fn living_nodes(&self) -> Result<usize, FanoutError> {
        let living = self.living().await?;
        let nodes: HashSet<&str> = living.iter().filter_map(|inc| Some(inc.split_once('-')?.0)).collect();
        Ok(nodes.len().max(1))
    }

    /// What the living node called `node` tells of itself.
    pub(crate) async fn info_of(&self, node: NodeId) -> Result<Option<String>, FanoutError> {
        let living = self.living().await?;
        let prefix = format!("{node}-");
        if !living.iter().any(|incarnation| incarnation.starts_with(&prefix)) {
            return Ok(None);
        }
        let infos = self.store.infos().await?;
        Ok(infos
            .into_iter()
            .find(|(inc, _)| inc.starts_with(&prefix) && living.contains(inc))
            .map(|(_, info)| info))
    }

    /// How many are in a room, on all nodes.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`] when Redis has been away for longer than the last known count is good.
    pub(crate) async fn count(&self, room: &str) -> Result<Counted, FanoutError> {
        match self.count_now(room).await {
            Ok(count) => {
                let counted = Counted { count, age: Duration::ZERO, stale: !self.is_ready() };
                if self.counts.len() < COUNTS_KEPT_MAX || self.counts.contains_key(room) {
                    self.counts.insert(room.to_owned(), (Instant::now(), counted));
                }
                Ok(counted)
            }
            Err(error) => {
                let known = self.counts.get(room).map(|known| *known).ok_or(error)?;
                let age = known.0.elapsed();
                if age > Duration::from_millis(STALE_MAX_MS) {
                    return Err(error);
                }
                Ok(Counted { age, stale: true, ..known.1 })
            }
        }
    }

    async fn count_now(&self, room: &str) -> Result<RoomCount, FanoutError> {
        let shares = self.living_shares(room).await?;
        let sockets = shares.iter().map(|share| share.sockets).sum();
        let with_users: Vec<_> = shares.iter().filter(|share| share.users > 0).collect();
        let users = match &*with_users {
            [] => 0,
            [only] => only.users,
            several => {
                let mut users = HashSet::new();
                for share in several {
                    users.extend(self.store.users(&share.incarnation, room).await?);
                }
                users.len()
            }
        };
        Ok(RoomCount { sockets, users })
    }

    /// Who is in a room, on all nodes.
    pub(crate) async fn members(&self, room: &str) -> Result<Vec<Kept>, FanoutError> {
        let mut members = Vec::new();
        for share in self.living_shares(room).await? {
            if share.sockets > 0 {
                members.extend(self.store.members(&share.incarnation, room).await?);
            }
        }
        Ok(members)
    }

    /// What each incarnation with a lease has in a room.
    async fn living_shares(&self, room: &str) -> Result<Vec<Share>, FanoutError> {
        self.must_be_fresh().await?;
        let mut shares = self.store.shares(room).await?;
        let mut living = self.living().await?;
        let is_known = |table: &Table, share: &Share| table.nodes.contains_key(&share.incarnation);
        let unknown = {
            let table = self.leases.lock();
            shares.iter().any(|share| !is_known(&table, share))
        };
        if unknown {
            // Newer than the list, or long dead: a look tells.
            self.leases.lock().read = None;
            living = self.living().await?;
        }
        shares.retain(|share| living.contains(&share.incarnation));
        Ok(shares)
    }

    /// A node that slept through its lease registers anew before it answers.
    async fn must_be_fresh(&self) -> Result<(), FanoutError> {
        if self.is_fresh() {
            return Ok(());
        }
        self.wake();
        tokio::time::timeout(self.terms.lease / 3, async {
            while !self.is_ready() {
                tokio::time::sleep(self.terms.lease / 120).await;
            }
        })
        .await
        .map_err(|_| FanoutError::Unavailable)
    }

    /// Gives the lease up: what is still in the store is settled by a survivor.
    pub(crate) async fn close(&self) {
        let _ = self.store.claim(&self.incarnation(), Duration::from_millis(1), true).await;
    }
}

fn new_incarnation(node: NodeId) -> Arc<str> {
    format!("{node}-{:032x}", rand::random::<u128>()).into()
}
