//! Lists and counts the members of a room on all living nodes.

use std::collections::HashSet;
use std::time::Duration;

use shared::ids::NodeId;
use shared::limits::{COUNTS_KEPT_MAX, LEASE_AHEAD_MAX_MS, LEASES_FRESH_MS, LEASES_RECHECK_MS, STALE_MAX_MS};
use tokio::time::Instant;

use super::stored::{Share, StoredMember};
use super::{Presence, Table};
use crate::error::FanoutError;
use crate::presence::{Counted, Peer, RoomCount, SCANNED_PER_USER};

/// The node ids in incarnations.
fn ids(incarnations: &HashSet<String>) -> impl Iterator<Item = &str> {
    incarnations.iter().filter_map(|incarnation| Some(incarnation.split_once('-')?.0))
}

/// Attempts to count a room when a lease is lost during each.
const READS_MAX: usize = 3;

impl Presence {
    /// Incarnations with a valid lease, by a list that is no older than `LEASES_FRESH_MS`.
    pub(super) async fn living(&self) -> Result<HashSet<String>, FanoutError> {
        self.living_within(Duration::from_millis(LEASES_FRESH_MS)).await
    }

    /// As [`Self::living`]. Where a node is missing, it may have started since the list was read, so the list is read
    /// again, at most every `LEASES_RECHECK_MS`: strangers can name nodes that never existed.
    async fn living_unless(
        &self,
        is_missed: impl FnOnce(&HashSet<String>) -> bool,
    ) -> Result<HashSet<String>, FanoutError> {
        let living = self.living().await?;
        if !is_missed(&living) {
            return Ok(living);
        }
        self.living_within(Duration::from_millis(LEASES_RECHECK_MS)).await
    }

    async fn living_within(&self, age: Duration) -> Result<HashSet<String>, FanoutError> {
        // One caller asks, the others wait for its answer.
        let _one = self.table.lock().await;
        let fresh = age.min(self.options.lease / 6);
        let is_old = self.leases.lock().read.is_none_or(|(at, _)| at.elapsed() >= fresh);
        if is_old {
            let before = Instant::now();
            let leases = self.store.renew("", self.options.lease).await?;
            let mut table = self.leases.lock();
            table.read = Some((before, leases.now_ms));
            table.nodes = leases.nodes.into_iter().collect();
        }
        let table = self.leases.lock();
        let (at, then) = table.read.ok_or(FanoutError::Unavailable)?;
        let now = then + u64::try_from(at.elapsed().as_millis()).unwrap_or_default();
        // No node writes a later time. Such an entry would count members of no node.
        let holds = |lapses: u64| lapses > now && lapses <= now + LEASE_AHEAD_MAX_MS;
        Ok(table.nodes.iter().filter(|(_, lapses)| holds(**lapses)).map(|(inc, _)| inc.clone()).collect())
    }

    /// The ids of the nodes that live, with those of `nodes` that have just started.
    pub(crate) async fn living_ids(&self, nodes: &HashSet<&str>) -> Result<HashSet<String>, FanoutError> {
        let living = self.living_unless(|living| !nodes.is_subset(&ids(living).collect())).await?;
        Ok(ids(&living).map(str::to_owned).collect())
    }

    /// How many nodes live.
    pub(crate) async fn living_nodes(&self) -> Result<usize, FanoutError> {
        Ok(ids(&self.living().await?).collect::<HashSet<_>>().len().max(1))
    }

    /// How many nodes live, where `listening` servers listen. Where more listen, a node may have just started.
    pub(crate) async fn living_among(&self, listening: usize) -> Result<usize, FanoutError> {
        let count = |living: &HashSet<String>| ids(living).collect::<HashSet<_>>().len();
        let living = self.living_unless(|living| count(living) < listening).await?;
        Ok(count(&living).clamp(1, listening))
    }

    /// Whether the node with this id lives.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub(crate) async fn lives(&self, node: &str) -> Result<bool, FanoutError> {
        if self.leases.lock().trusted_from.is_some_and(|from| Instant::now() < from) {
            // Redis was away: a living node may not have renewed its lease yet.
            return Err(FanoutError::Unavailable);
        }
        let prefix = format!("{node}-");
        let is_missed =
            |living: &HashSet<String>| !living.iter().any(|incarnation| incarnation.starts_with(&prefix));
        Ok(!is_missed(&self.living_unless(is_missed).await?))
    }

    /// The address of the living node `node`.
    pub(crate) async fn peer(&self, node: NodeId) -> Result<Option<Peer>, FanoutError> {
        let prefix = format!("{node}-");
        let is_missed =
            |living: &HashSet<String>| !living.iter().any(|incarnation| incarnation.starts_with(&prefix));
        let living = self.living_unless(is_missed).await?;
        if is_missed(&living) {
            return Ok(None);
        }
        let infos = self.store.infos().await?;
        Ok(infos
            .into_iter()
            .find(|(inc, _)| inc.starts_with(&prefix) && living.contains(inc))
            .map(|(_, url)| Peer { url, lapsed: self.peers.watch(node) }))
    }

    /// Counts the members of a room on all nodes.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`] when Redis has been away for longer than the last known count is valid.
    pub(crate) async fn count(&self, room: &str) -> Result<Counted, FanoutError> {
        let asked = Instant::now();
        match self.count_now(room).await {
            Ok((count, stale)) => {
                if self.counts.len() < COUNTS_KEPT_MAX || self.counts.contains_key(room) {
                    self.counts.insert(room.to_owned(), (asked, count));
                }
                Ok(Counted { count, age: asked.elapsed(), stale })
            }
            Err(error) => {
                let (at, count) = self.counts.get(room).map(|known| *known).ok_or(error)?;
                let age = at.elapsed();
                if age > Duration::from_millis(STALE_MAX_MS) {
                    return Err(error);
                }
                Ok(Counted { count, age, stale: true })
            }
        }
    }

    /// The count, and whether it may be wrong: a node that registers again has two incarnations, and a member that leaves
    /// at that moment is still counted under the old one.
    async fn count_now(&self, room: &str) -> Result<(RoomCount, bool), FanoutError> {
        let shares = self.living_shares(room).await?;
        if has_twins(&shares) {
            let members = self.members_of(&shares, room).await?;
            let users: HashSet<&str> = members.iter().map(|member| &*member.user).collect();
            return Ok((RoomCount { sockets: members.len(), users: users.len() }, true));
        }
        let sockets = shares.iter().map(|share| share.sockets).sum();
        let users = match &*shares {
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
        Ok((RoomCount { sockets, users }, false))
    }

    /// Whether a user has a socket in a room on a living node.
    pub(crate) async fn is_in(&self, room: &str, user: &str) -> Result<bool, FanoutError> {
        for share in self.living_shares(room).await? {
            if self.store.has_user(&share.incarnation, room, user).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a user who was reported as gone is in the room again. False where Redis does not answer.
    pub(crate) async fn is_back(&self, room: &str, user: &str) -> bool {
        self.store.is_here(room, user).await.unwrap_or(false)
    }

    /// The members of a room on all nodes.
    pub(crate) async fn members(&self, room: &str) -> Result<Vec<StoredMember>, FanoutError> {
        let shares = self.living_shares(room).await?;
        self.members_of(&shares, room).await
    }

    /// Some members of a room: at most `users` distinct users, and the count of all. The cost does not grow with the room,
    /// except for the count of users where several nodes have some; callers that ask at the same time share that one
    /// reading.
    pub(crate) async fn first_members(
        &self,
        room: &str,
        users: usize,
    ) -> Result<(Vec<StoredMember>, RoomCount), FanoutError> {
        let asked = Instant::now();
        let shares = self.living_shares(room).await?;
        let (mut found, mut seen, mut is_whole) = (Vec::new(), HashSet::new(), true);
        for share in &shares {
            if seen.len() >= users {
                is_whole = false;
                break;
            }
            let enough = (users - seen.len()) * SCANNED_PER_USER;
            let members = self.store.some_members(&share.incarnation, room, enough).await?;
            is_whole &= members.len() >= share.sockets;
            for member in members {
                if seen.contains(&member.user) {
                    continue;
                }
                if seen.len() >= users {
                    is_whole = false;
                    break;
                }
                seen.insert(member.user.clone());
                found.push(member);
            }
        }
        let has_twins = has_twins(&shares);
        let count = match &*shares {
            _ if has_twins => self.count_now(room).await?.0,
            [only] => RoomCount { sockets: only.sockets, users: only.users },
            several => {
                let sockets = several.iter().map(|share| share.sockets).sum();
                let users = if is_whole { seen.len() } else { self.users_since(asked, room).await? };
                RoomCount { sockets, users }
            }
        };
        Ok((found, count))
    }

    /// How many distinct users a room has, read after `asked`. Callers that ask during a reading wait, and share the next
    /// one.
    async fn users_since(&self, asked: Instant, room: &str) -> Result<usize, FanoutError> {
        let at = usize::try_from(self.hasher.hash_one(room)).unwrap_or_default() % self.unions.len();
        let mut last = self.unions[at].lock().await;
        if let Some(last) = last.as_ref().filter(|last| last.room == room && last.read >= asked) {
            return Ok(last.users);
        }
        let read = Instant::now();
        let users = self.count_now(room).await?.0.users;
        *last = Some(Union { room: room.to_owned(), read, users });
        Ok(users)
    }

    async fn members_of(&self, shares: &[Share], room: &str) -> Result<Vec<StoredMember>, FanoutError> {
        let mut members = Vec::new();
        for share in shares {
            members.extend(self.store.members(&share.incarnation, room).await?);
        }
        if has_twins(shares) {
            members.sort_by(|a, b| a.socket.cmp(&b.socket));
            members.dedup_by(|a, b| a.socket == b.socket);
        }
        Ok(members)
    }

    /// The share of each incarnation with a lease in a room, where it has one.
    async fn living_shares(&self, room: &str) -> Result<Vec<Share>, FanoutError> {
        for _ in 0..READS_MAX {
            self.must_be_ready().await?;
            let before = self.living().await?;
            let mut shares = self.store.shares(room).await?;
            shares.retain(|share| share.sockets > 0);
            let is_known = |table: &Table, share: &Share| table.nodes.contains_key(&share.incarnation);
            let unknown = {
                let table = self.leases.lock();
                shares.iter().any(|share| !is_known(&table, share))
            };
            let living = if unknown {
                // The incarnation is newer than the list, or long dead. Reading the list again shows which.
                self.leases.lock().read = None;
                self.living().await?
            } else {
                before.clone()
            };
            // A node whose lease has lapsed meanwhile may be in the room under another incarnation.
            let lapsed =
                |share: &Share| before.contains(&share.incarnation) && !living.contains(&share.incarnation);
            if shares.iter().any(lapsed) {
                continue;
            }
            shares.retain(|share| living.contains(&share.incarnation));
            // Between two calls the process may have slept past its lease.
            if self.is_ready() {
                return Ok(shares);
            }
        }
        Err(FanoutError::Unavailable)
    }

    /// A node that slept past its lease, or whose store is out of date, registers again before it answers.
    async fn must_be_ready(&self) -> Result<(), FanoutError> {
        if self.is_ready() {
            return Ok(());
        }
        self.wake();
        let ready = tokio::time::timeout(self.options.lease / 3, async {
            while !self.is_ready() {
                if !self.store.is_up() {
                    return Err(FanoutError::Unavailable);
                }
                tokio::time::sleep(self.options.lease / 120).await;
            }
            Ok(())
        });
        ready.await.unwrap_or(Err(FanoutError::Unavailable))
    }
}

/// How many distinct users a room had, and when that was read.
#[derive(Debug)]
pub(super) struct Union {
    room: String,
    read: Instant,
    users: usize,
}

/// Whether a node has members under two incarnations because it is registering again.
fn has_twins(shares: &[Share]) -> bool {
    let node = |share: &Share| share.incarnation.split('-').next().map(str::to_owned);
    let nodes: HashSet<_> = shares.iter().map(node).collect();
    nodes.len() < shares.len()
}
