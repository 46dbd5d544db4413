//! A node's lease: renewed while it lasts. When it was lost, or the store may be out of date, the node registers all
//! members under a new incarnation.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use shared::limits::ROOMS_AT_ONCE;
use tokio::time::Instant;

use super::{PREVIOUS_INCARNATIONS_MAX, Presence, new_incarnation};
use crate::error::FanoutError;
use crate::local::node::MembershipChange;
use crate::stats::Stats;

impl Presence {
    pub(super) async fn keep_lease(&self) {
        loop {
            self.keep_lease_once().await;
            tokio::select! {
                () = tokio::time::sleep(self.options.lease / 3) => {}
                () = self.wake.notified() => {
                    // Several callers may have reported the same fault.
                    tokio::time::sleep(self.options.lease / 60).await;
                }
            }
        }
    }

    pub(super) async fn keep_lease_once(&self) {
        let before = Instant::now();
        let incarnation = self.incarnation();
        let Ok(leases) = self.store.renew(&incarnation, self.options.lease).await else { return };
        {
            let mut table = self.leases.lock();
            table.read = Some((before, leases.now_ms));
            table.nodes = leases.nodes.iter().cloned().collect();
            if leases.held {
                table.renewed = Some(before);
            }
        }
        let all_said = self.registered.load(Ordering::Acquire) && !self.needs_resync.load(Ordering::Acquire);
        if !leases.held || !all_said {
            if !leases.held && self.opened.load(Ordering::Acquire) {
                Stats::add(&self.stats.lease_losses, 1);
            }
            if let Err(error) = self.register(&incarnation).await {
                tracing::warn!(%error, "could not register the members of this node; retrying");
                return;
            }
        }
        self.agree().await;
        self.warn_of_unknown_nodes(leases.now_ms);
        if self.leases.lock().trusted_from.is_some_and(|from| Instant::now() < from) {
            return;
        }
        self.end_with_lapsed(leases.now_ms);
        let own = self.incarnation();
        let lapsed = leases.nodes.iter().filter(|(inc, at)| *at <= leases.now_ms && **inc != *own);
        let left_over = leases.estates.iter().filter(|(_, until)| *until <= leases.now_ms);
        for (dead, _) in lapsed.chain(left_over) {
            if self.store.claim(dead, self.claim_time(), false).await == Ok(true) {
                tracing::warn!(incarnation = %dead, "cleaning up after a node whose lease has lapsed");
                self.schedule_cleanup(dead, self.options.holdback);
                self.departed.notify_one();
            }
        }
    }

    pub(super) fn claim_time(&self) -> Duration {
        self.options.holdback + self.options.lease * 10
    }

    pub(super) fn schedule_cleanup(&self, dead: &str, after: Duration) {
        self.cleanups.lock().insert(dead.to_owned(), Instant::now() + after);
        self.cleanup_added.notify_one();
    }

    /// Registers all members in the store under a new incarnation, and gives up the old one.
    pub(super) async fn register(&self, old: &str) -> Result<(), FanoutError> {
        let new = new_incarnation(self.options.node);
        tracing::info!(incarnation = %new, "registering the members of this node");
        // At the start no other node may have the id; later the id belongs to this node.
        let had_lease = self.opened.load(Ordering::Acquire);
        let unique = if had_lease { "" } else { self.options.node.as_str() };
        if !self.store.open_lease(&new, self.options.lease, &self.options.info, unique).await? {
            tracing::error!(node = unique, "another node has this id; waiting for it to stop");
            return Err(FanoutError::Unavailable);
        }
        self.opened.store(true, Ordering::Release);
        // Nothing is counted here until every room is registered.
        self.registered.store(false, Ordering::Release);
        self.needs_resync.store(false, Ordering::Release);
        *self.incarnation.lock() = Arc::clone(&new);
        self.leases.lock().renewed = Some(Instant::now());
        if had_lease {
            let mut previous_incarnations = self.previous_incarnations.lock();
            if previous_incarnations.len() < PREVIOUS_INCARNATIONS_MAX {
                previous_incarnations.push(old.to_owned());
            }
        }
        // Where this fails, the rooms registered so far belong to `new`, which the next attempt gives up.
        self.register_rooms(&new).await?;
        self.registered.store(true, Ordering::Release);
        self.leases.lock().read = None;
        // A user who left while nothing could be written is gone now, or has reconnected elsewhere. A claim fails here
        // when the lease has lapsed and a survivor holds it.
        let previous_incarnations = std::mem::take(&mut *self.previous_incarnations.lock());
        for previous in previous_incarnations {
            if self.store.claim(&previous, self.claim_time(), true).await == Ok(true) {
                self.schedule_cleanup(&previous, self.options.holdback);
            }
        }
        Ok(())
    }

    pub(super) async fn register_rooms(&self, new: &Arc<str>) -> Result<(), FanoutError> {
        self.indexed.clear();
        let rooms = self.local.rooms();
        for some in rooms.chunks(512) {
            let names: Vec<&str> = some.iter().map(String::as_str).collect();
            self.store.index(new, &names).await?;
        }
        // The node that cleaned up after this one has reported that its users left.
        let previous_incarnations = self.previous_incarnations.lock().clone();
        let mut is_settled = false;
        // In a separate task: the receiver may need what is locked here, and the lease must be kept.
        for previous in &previous_incarnations {
            is_settled |= self.store.was_settled(previous).await?;
        }
        let registering: Vec<BoxFuture<'_, _>> =
            rooms.into_iter().map(|room| self.register_room(Arc::clone(new), room).boxed()).collect();
        let mut registering = stream::iter(registering).buffer_unordered(ROOMS_AT_ONCE);
        while let Some(back) = registering.next().await {
            let back = back?;
            if is_settled {
                self.queue_changes(back);
            }
        }
        Ok(())
    }

    pub(super) async fn register_room(
        &self,
        incarnation: Arc<str>,
        room: String,
    ) -> Result<Vec<MembershipChange>, FanoutError> {
        let _alone = self.stripe(&room).write().await;
        let members = self.local.members(&room);
        if members.is_empty() {
            return Ok(Vec::new());
        }
        let firsts = self.store.register(&incarnation, &room, &members).await?;
        self.indexed.insert(room.clone(), incarnation);
        let back = |(user, info)| MembershipChange {
            room: room.clone(),
            user,
            info,
            returned: true,
            held_back: false,
        };
        Ok(firsts.into_iter().map(back).collect())
    }
}
