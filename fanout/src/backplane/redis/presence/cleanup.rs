//! Pending cleanup: members of dead nodes, users whose hold-back has ended, and keys of empty rooms.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use shared::limits::{ROOMS_AT_ONCE, STALE_MAX_MS};
use tokio::time::Instant;

use super::Presence;
use crate::backplane::departures::Departure;
use crate::error::FanoutError;
use crate::local::node::MembershipChange;

impl Presence {
    pub(super) async fn clean_up_dead_nodes(&self) {
        loop {
            let added = self.cleanup_added.notified();
            let next =
                self.cleanups.lock().iter().min_by_key(|(_, at)| **at).map(|(dead, at)| (dead.clone(), *at));
            match next {
                None => added.await,
                Some((_, at)) if at > Instant::now() => tokio::select! {
                    () = tokio::time::sleep_until(at) => {}
                    () = added => {}
                },
                Some((dead, _)) => {
                    let settled = self.clean_up_dead_node(&dead).await;
                    let mut cleanups = self.cleanups.lock();
                    if settled.is_ok() {
                        cleanups.remove(&dead);
                    } else {
                        // The claim outlasts several attempts; after that another node may take over.
                        cleanups.insert(dead, Instant::now() + self.options.lease / 3);
                    }
                }
            }
        }
    }

    pub(super) async fn clean_up_dead_node(&self, dead: &str) -> Result<(), FanoutError> {
        let rooms = self.store.rooms_of(dead).await?;
        let count = rooms.len();
        let settling: Vec<BoxFuture<'_, _>> =
            rooms.into_iter().map(|room| self.settle_room(dead.to_owned(), room).boxed()).collect();
        let mut settling = stream::iter(settling).buffer_unordered(ROOMS_AT_ONCE);
        while let Some(done) = settling.next().await {
            done?;
        }
        self.store.finish(dead).await?;
        tracing::info!(incarnation = %dead, rooms = count, "the members of a dead node are cleaned up");
        Ok(())
    }

    pub(super) async fn settle_room(&self, dead: String, room: String) -> Result<(), FanoutError> {
        for (user, info) in self.store.settle_room(&dead, &room).await? {
            // The store did not know of a departure; it has been reported now.
            self.departures.cancel(&room, &user);
            self.report(MembershipChange {
                room: room.clone(),
                user,
                info,
                returned: false,
                held_back: true,
            })
            .await;
        }
        self.store.forget(&dead, &room, None).await
    }

    pub(super) async fn settle_departures(&self) {
        loop {
            let waiting = self.departures.due().await;
            let needs_resync = waiting.incarnation.is_empty();
            if !needs_resync && *waiting.incarnation != *self.incarnation() {
                // The cleanup of the old incarnation covers it.
                continue;
            }
            let Departure { room, user, info, reported, .. } = waiting.clone();
            let incarnation = self.incarnation();
            let settled = if reported {
                self.store.forget(&incarnation, &room, Some(&user)).await.map(|()| false)
            } else if self.registered.load(Ordering::Acquire) && !self.needs_resync.load(Ordering::Acquire) {
                match self.may_write(&incarnation, &room).await {
                    Ok(()) => self.store.settle_user(&incarnation, &room, (&user, &info), needs_resync).await,
                    Err(error) => Err(error),
                }
            } else {
                Err(FanoutError::Unavailable)
            };
            match settled {
                Ok(true) => {
                    self.report(MembershipChange { room, user, info, returned: false, held_back: true })
                        .await;
                    let incarnation = incarnation.to_string();
                    self.departures
                        .add(Departure { reported: true, incarnation, ..waiting }, self.options.holdback);
                }
                Ok(false) => {}
                Err(_) => {
                    // The pause lets this task's other work go on even where nothing else here waits.
                    tokio::time::sleep(self.options.lease / 600).await;
                    self.departures.retry(waiting, self.options.lease / 6);
                }
            }
        }
    }

    /// Keeps the keys of rooms from expiring, and forgets rooms without members on this node.
    pub(super) async fn sweep(&self) {
        loop {
            tokio::time::sleep(self.options.lease * 50).await;
            let incarnation = self.incarnation();
            let live: HashSet<String> = self.local.rooms().into_iter().collect();
            let known: Vec<String> = self.indexed.iter().map(|room| room.key().clone()).collect();
            for room in known {
                if live.contains(&room) {
                    let _ = self.store.touch(&incarnation, &room).await;
                    let _ = self.store.index(&incarnation, &[&room]).await;
                    continue;
                }
                // Forgets the room before looking at it again: an entry in between indexes it again.
                self.indexed.remove(&room);
                let forgotten = self.store.unindex(&incarnation, &[&room]).await.is_ok();
                if forgotten && !self.local.members(&room).is_empty() {
                    let _ = self.store.index(&incarnation, &[&room]).await;
                }
            }
            self.counts.retain(|_, (at, _)| at.elapsed() < Duration::from_millis(STALE_MAX_MS));
        }
    }
}
