//! Simulates Redis where tests simulate time and faults: the scripts of `lua/` in plain Rust, on a clock
//! that tests control. An answer may be late, or be lost before or after the work was done.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::Instant;

use super::agreement::Others;
use super::stored::{Leases, LeftRoom, Share, StoredMember};
use crate::error::FanoutError;

/// A room: incarnation → its members there.
type Room = BTreeMap<String, Held>;

#[derive(Debug, Default, Clone)]
struct Held {
    /// Socket → user and info.
    members: BTreeMap<String, (String, String)>,
    /// User → info.
    lingering: BTreeMap<String, String>,
    /// Left, and not reported yet.
    unreported: BTreeMap<String, String>,
}

impl Held {
    fn has_user(&self, user: &str) -> bool {
        self.members.values().any(|(other, _)| other == user)
    }
}

#[derive(Debug, Default)]
struct Data {
    leases: BTreeMap<String, u64>,
    estates: BTreeMap<String, u64>,
    infos: BTreeMap<String, String>,
    rooms: BTreeMap<String, Room>,
    index: BTreeMap<String, BTreeSet<String>>,
    settled: BTreeSet<String>,
}

/// The server that all nodes of a simulation share.
#[derive(Debug)]
pub(super) struct Server {
    start: Instant,
    rng: Mutex<StdRng>,
    data: Mutex<Data>,
}

/// Faults on one node's connection, in percent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// There is no connection.
    pub(super) cut: bool,
    /// The request is lost.
    pub(super) lost_before: u32,
    /// The work is done and its answer lost.
    pub(super) lost_after: u32,
}

/// One node's connection to the server.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    pub(super) server: Arc<Server>,
    pub(super) faults: Arc<Mutex<Faults>>,
}

type Answer<T> = Result<T, FanoutError>;

impl Server {
    pub(super) fn new(seed: u64) -> Arc<Self> {
        let rng = Mutex::new(StdRng::seed_from_u64(seed));
        Arc::new(Self { start: Instant::now(), rng, data: Mutex::default() })
    }

    fn now(&self) -> u64 {
        // Not zero at the start, like any clock.
        1_000_000 + u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }

    /// Loses everything, as a restart without persistence does.
    pub(super) fn flush(&self) {
        *self.data.lock() = Data::default();
    }

    /// Whether nothing is left, as when all nodes have stopped.
    pub(super) fn is_empty(&self) -> bool {
        let data = self.data.lock();
        data.rooms.values().all(BTreeMap::is_empty) && data.estates.is_empty() && data.leases.is_empty()
    }
}

impl Handle {
    async fn call<T>(&self, work: impl FnOnce(&mut Data, u64) -> T) -> Answer<T> {
        let faults = *self.faults.lock();
        let (rolled, before, after) = {
            let mut rng = self.server.rng.lock();
            (rng.random_range(0..100), rng.random_range(0..5), rng.random_range(0..5))
        };
        tokio::time::sleep(Duration::from_millis(before)).await;
        if faults.cut || rolled < faults.lost_before {
            tokio::time::sleep(Duration::from_millis(100)).await;
            return Err(FanoutError::Unavailable);
        }
        let answer = work(&mut self.server.data.lock(), self.server.now());
        tokio::time::sleep(Duration::from_millis(after)).await;
        if rolled < faults.lost_before + faults.lost_after {
            return Err(FanoutError::Unavailable);
        }
        Ok(answer)
    }

    pub(super) async fn open_lease(
        &self,
        inc: &str,
        ttl: Duration,
        info: &str,
        unique: &str,
    ) -> Answer<bool> {
        self.call(|data, now| {
            let prefix = format!("{unique}-");
            let taken = data.leases.iter().any(|(other, at)| *at > now && other.starts_with(&prefix));
            if !unique.is_empty() && taken {
                return false;
            }
            data.leases.insert(inc.to_owned(), now + millis(ttl));
            data.infos.insert(inc.to_owned(), info.to_owned());
            true
        })
        .await
    }

    pub(super) async fn renew(&self, inc: &str, ttl: Duration) -> Answer<Leases> {
        self.call(|data, now| {
            let mut held = false;
            if let Some(at) = data.leases.get_mut(inc).filter(|at| **at > now) {
                *at = now + millis(ttl);
                held = true;
            }
            let list = |map: &BTreeMap<String, u64>| map.iter().map(|(inc, at)| (inc.clone(), *at)).collect();
            Leases { held, now_ms: now, nodes: list(&data.leases), estates: list(&data.estates) }
        })
        .await
    }

    pub(super) async fn infos(&self) -> Answer<Vec<(String, String)>> {
        self.call(|data, _| data.infos.clone().into_iter().collect()).await
    }

    /// The simulated nodes are all alike, so nothing is asked and nothing can fail.
    pub(super) fn accord(
        &self,
        _: &str,
        since: u64,
        _: &str,
        name: &str,
    ) -> impl Future<Output = Answer<Others>> + use<> {
        std::future::ready(Ok(Others { cluster: name.to_owned(), since, nodes: Vec::new() }))
    }

    pub(super) async fn claim(&self, inc: &str, during: Duration, own: bool) -> Answer<bool> {
        self.call(|data, now| {
            let lapses = data.leases.get(inc).copied();
            let claimed = data.estates.get(inc).copied();
            let free = match lapses {
                Some(at) => at <= now,
                None => claimed.is_some_and(|until| until <= now),
            };
            if !free && !own {
                return false;
            }
            data.leases.remove(inc);
            data.infos.remove(inc);
            data.estates.insert(inc.to_owned(), now + millis(during));
            true
        })
        .await
    }

    pub(super) async fn finish(&self, inc: &str) -> Answer<()> {
        self.call(|data, _| {
            data.index.remove(inc);
            data.settled.insert(inc.to_owned());
            data.estates.remove(inc);
        })
        .await
    }

    pub(super) async fn was_settled(&self, inc: &str) -> Answer<bool> {
        self.call(|data, _| data.settled.contains(inc) || data.estates.contains_key(inc)).await
    }

    pub(super) async fn index(&self, inc: &str, rooms: &[&str]) -> Answer<()> {
        self.call(|data, _| {
            let known = data.index.entry(inc.to_owned()).or_default();
            known.extend(rooms.iter().map(|room| (*room).to_owned()));
        })
        .await
    }

    pub(super) async fn unindex(&self, inc: &str, rooms: &[&str]) -> Answer<()> {
        self.call(|data, _| {
            if let Some(known) = data.index.get_mut(inc) {
                known.retain(|room| !rooms.contains(&room.as_str()));
            }
        })
        .await
    }

    pub(super) async fn rooms_of(&self, inc: &str) -> Answer<Vec<String>> {
        self.call(|data, _| data.index.get(inc).into_iter().flatten().cloned().collect()).await
    }

    pub(super) async fn enter(&self, inc: &str, room: &str, member: &StoredMember) -> Answer<bool> {
        self.call(|data, _| {
            let room = data.rooms.entry(room.to_owned()).or_default();
            let mut first = true;
            for held in room.values_mut() {
                held.unreported.remove(&member.user);
                first &= held.lingering.remove(&member.user).is_none() && !held.has_user(&member.user);
            }
            let value = (member.user.clone(), member.info.clone());
            room.entry(inc.to_owned()).or_default().members.insert(member.socket.clone(), value);
            first
        })
        .await
    }

    pub(super) async fn leave(
        &self,
        inc: &str,
        room: &str,
        member: &StoredMember,
        linger: bool,
    ) -> Answer<LeftRoom> {
        self.call(|data, _| {
            let room = data.rooms.entry(room.to_owned()).or_default();
            if let Some(held) = room.get_mut(inc) {
                held.members.remove(&member.socket);
            }
            let left = if room.values().any(|held| held.has_user(&member.user)) {
                LeftRoom::Remains
            } else if linger {
                let held = room.entry(inc.to_owned()).or_default();
                held.lingering.insert(member.user.clone(), member.info.clone());
                LeftRoom::Lingers
            } else {
                let held = room.entry(inc.to_owned()).or_default();
                held.unreported.insert(member.user.clone(), member.info.clone());
                LeftRoom::Gone
            };
            tidy(room);
            left
        })
        .await
    }

    pub(super) async fn settle_user(
        &self,
        inc: &str,
        room: &str,
        (user, info): (&str, &str),
        force: bool,
    ) -> Answer<bool> {
        self.call(|data, _| {
            let room = data.rooms.entry(room.to_owned()).or_default();
            let waits = room.get_mut(inc).is_some_and(|held| {
                held.lingering.remove(user).is_some() || held.unreported.contains_key(user)
            });
            let here = room.values().any(|held| held.has_user(user) || held.lingering.contains_key(user));
            let gone = (waits || force) && !here;
            if gone {
                room.entry(inc.to_owned()).or_default().unreported.insert(user.to_owned(), info.to_owned());
            }
            tidy(room);
            gone
        })
        .await
    }

    pub(super) async fn is_here(&self, room: &str, user: &str) -> Answer<bool> {
        self.call(|data, _| {
            let room = data.rooms.get(room);
            room.is_some_and(|room| room.values().any(|held| held.has_user(user)))
        })
        .await
    }

    pub(super) async fn forget(&self, inc: &str, room: &str, user: Option<&str>) -> Answer<()> {
        self.call(|data, _| {
            let room = data.rooms.entry(room.to_owned()).or_default();
            if let Some(held) = room.get_mut(inc) {
                held.unreported.retain(|other, _| user.is_some_and(|user| user != other));
            }
            tidy(room);
        })
        .await
    }

    pub(super) async fn settle_room(&self, dead: &str, room: &str) -> Answer<Vec<(String, String)>> {
        self.call(|data, _| {
            let room = data.rooms.entry(room.to_owned()).or_default();
            let held = room.remove(dead).unwrap_or_default();
            let mut users: BTreeMap<String, String> = held.members.into_values().collect();
            users.extend(held.lingering);
            let here = |user: &str| {
                room.values().any(|held| held.has_user(user) || held.lingering.contains_key(user))
            };
            users.retain(|user, _| !here(user));
            users.extend(held.unreported);
            let unreported = Held { unreported: users.clone(), ..Held::default() };
            room.insert(dead.to_owned(), unreported);
            tidy(room);
            users.into_iter().collect()
        })
        .await
    }

    pub(super) async fn register(
        &self,
        inc: &str,
        room: &str,
        members: &[StoredMember],
    ) -> Answer<Vec<(String, String)>> {
        self.call(|data, _| {
            let room = data.rooms.entry(room.to_owned()).or_default();
            let mut firsts = Vec::new();
            for StoredMember { socket, user, info } in members {
                let mut first = true;
                for held in room.values_mut() {
                    held.unreported.remove(user);
                    first &= held.lingering.remove(user).is_none() && !held.has_user(user);
                }
                let held = room.entry(inc.to_owned()).or_default();
                held.members.insert(socket.clone(), (user.clone(), info.clone()));
                if first {
                    firsts.push((user.clone(), info.clone()));
                }
            }
            firsts
        })
        .await
    }

    pub(super) async fn shares(&self, room: &str) -> Answer<Vec<Share>> {
        self.call(|data, _| {
            let share = |(inc, held): (&String, &Held)| {
                let users: HashSet<_> = held.members.values().map(|(user, _)| user).collect();
                Share { incarnation: inc.clone(), sockets: held.members.len(), users: users.len() }
            };
            data.rooms.get(room).into_iter().flatten().map(share).collect()
        })
        .await
    }

    pub(super) async fn users(&self, inc: &str, room: &str) -> Answer<HashSet<String>> {
        let members = self.members(inc, room).await?;
        Ok(members.into_iter().map(|member| member.user).collect())
    }

    pub(super) async fn has_user(&self, inc: &str, room: &str, user: &str) -> Answer<bool> {
        Ok(self.users(inc, room).await?.contains(user))
    }

    pub(super) async fn members(&self, inc: &str, room: &str) -> Answer<Vec<StoredMember>> {
        self.call(|data, _| {
            let held = data.rooms.get(room).and_then(|room| room.get(inc)).cloned().unwrap_or_default();
            let kept = |(socket, (user, info))| StoredMember { socket, user, info };
            held.members.into_iter().map(kept).collect()
        })
        .await
    }

    #[expect(clippy::unused_async, reason = "the face of the other store")]
    pub(super) async fn touch(&self, _: &str, _: &str) -> Answer<()> {
        Ok(())
    }
}

fn tidy(room: &mut Room) {
    let is_kept =
        |held: &Held| !held.members.is_empty() || !held.lingering.is_empty() || !held.unreported.is_empty();
    room.retain(|_, held| is_kept(held));
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}
