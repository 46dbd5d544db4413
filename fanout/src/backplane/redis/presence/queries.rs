//! Who is in a room, and how many, on all nodes that live.

use std::collections::HashSet;
use std::time::Duration;

use shared::ids::NodeId;
use shared::limits::{COUNTS_KEPT_MAX, LEASE_AHEAD_MAX_MS, LEASES_FRESH_MS, LEASES_RECHECK_MS, STALE_MAX_MS};
use tokio::time::Instant;

use super::store::{Share, StoredMember};
use super::{Presence, Table};
use crate::error::FanoutError;
use crate::presence::{Counted, Peer, RoomCount, SCANNED_PER_USER};

/// The ids of the nodes that incarnations are of.
fn ids(incarnations: &HashSet<String>) -> impl Iterator<Item = &str> {
    incarnations.iter().filter_map(|incarnation| Some(incarnation.split_once('-')?.0))
}

/// How often a room is read before its count is given up, when each time a lease was lost meanwhile.
const READS_MAX: usize = 3;

impl Presence {
    /// Incarnations whose lease holds, by a list that is no older than `LEASES_FRESH_MS`.
    pub(super) async fn living(&self) -> Result<HashSet<String>, FanoutError> {
        self.living_within(Duration::from_millis(LEASES_FRESH_MS)).await
    }

    /// As [`Self::living`]. Where a node is missed, it may have started since the list was read, so the list is read again,
    /// but not more often than every `LEASES_RECHECK_MS`, since strangers can name nodes that never were.
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
        // One asks, the others wait for the answer.
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
        // No node writes what lies further ahead: such an entry would have members counted that are nobody's.
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

    /// Whether the node with this id lives.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub(crate) async fn lives(&self, node: &str) -> Result<bool, FanoutError> {
        if self.leases.lock().trusted_from.is_some_and(|from| Instant::now() < from) {
            // Redis was away: a node that lives may not have renewed its lease yet.
            return Err(FanoutError::Unavailable);
        }
        let prefix = format!("{node}-");
        let is_missed =
            |living: &HashSet<String>| !living.iter().any(|incarnation| incarnation.starts_with(&prefix));
        Ok(!is_missed(&self.living_unless(is_missed).await?))
    }

    /// How the living node called `node` is reached.
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

    /// How many are in a room, on all nodes.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`] when Redis has been away for longer than the last known count is good.
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

    /// The count, and whether it may be wrong: a node that registers again is under two incarnations, and what
    /// leaves it just then is still there under the old one.
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

    /// Whether a user has a socket in a room, on a node that lives.
    pub(crate) async fn is_in(&self, room: &str, user: &str) -> Result<bool, FanoutError> {
        for share in self.living_shares(room).await? {
            if self.store.has_user(&share.incarnation, room, user).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Who is in a room, on all nodes.
    pub(crate) async fn members(&self, room: &str) -> Result<Vec<StoredMember>, FanoutError> {
        let shares = self.living_shares(room).await?;
        self.members_of(&shares, room).await
    }

    /// Some members of a room, each user once and at most `users` of them, and how many there are. What is read does not
    /// grow with the room, but for the count of users where several nodes have some, and that is read once for all who
    /// ask at the same time.
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

    /// How many distinct users a room has, read after `asked`. Who asks while it is read waits, and all who waited get the
    /// answer of one more reading.
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

    /// What each incarnation with a lease has in a room, where it has anything.
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
                // Newer than the list, or long dead: a look at the list shows which.
                self.leases.lock().read = None;
                self.living().await?
            } else {
                before.clone()
            };
            // Who has lapsed meanwhile may be in the room under another incarnation by now.
            let lapsed =
                |share: &Share| before.contains(&share.incarnation) && !living.contains(&share.incarnation);
            if shares.iter().any(lapsed) {
                continue;
            }
            shares.retain(|share| living.contains(&share.incarnation));
            // Between two questions the process may have slept for as long as its lease.
            if self.is_ready() {
                return Ok(shares);
            }
        }
        Err(FanoutError::Unavailable)
    }

    /// A node that slept through its lease, or whose store is out of date, registers again before it answers.
    async fn must_be_ready(&self) -> Result<(), FanoutError> {
        if self.is_ready() {
            return Ok(());
        }
        self.wake();
        let told = tokio::time::timeout(self.options.lease / 3, async {
            while !self.is_ready() {
                if !self.store.is_up() {
                    return Err(FanoutError::Unavailable);
                }
                tokio::time::sleep(self.options.lease / 120).await;
            }
            Ok(())
        });
        told.await.unwrap_or(Err(FanoutError::Unavailable))
    }
}

/// How many distinct users a room had when that was read.
#[derive(Debug)]
pub(super) struct Union {
    room: String,
    read: Instant,
    users: usize,
}

/// Whether a node has members under two incarnations: it is registering again.
fn has_twins(shares: &[Share]) -> bool {
    let node = |share: &Share| share.incarnation.split('-').next().map(str::to_owned);
    let nodes: HashSet<_> = shares.iter().map(node).collect();
    nodes.len() < shares.len()
}
