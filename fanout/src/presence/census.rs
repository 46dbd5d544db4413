//! Who is in a room, and how many, on all nodes that live.

use std::collections::HashSet;
use std::time::Duration;

use shared::ids::NodeId;
use shared::limits::{COUNTS_KEPT_MAX, LEASES_FRESH_MS, STALE_MAX_MS};
use tokio::time::Instant;

use super::cluster::{ClusterPresence, Table};
use super::store::{Kept, Share};
use super::{Counted, RoomCount};
use crate::error::FanoutError;

impl ClusterPresence {
    /// Incarnations whose lease holds, by a list that is no older than `LEASES_FRESH_MS`.
    pub(super) async fn living(&self) -> Result<HashSet<String>, FanoutError> {
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

    pub(super) async fn count_now(&self, room: &str) -> Result<RoomCount, FanoutError> {
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
    pub(super) async fn living_shares(&self, room: &str) -> Result<Vec<Share>, FanoutError> {
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
    pub(super) async fn must_be_fresh(&self) -> Result<(), FanoutError> {
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
}
