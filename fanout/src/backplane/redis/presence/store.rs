//! Stores the membership of the whole cluster.
//!
//! Keys, all under the configured prefix (`P`):
//!
//! | key | what |
//! | --- | --- |
//! | `P{nodes}:leases` | sorted set: incarnation → when its lease lapses, on Redis' clock |
//! | `P{nodes}:estates` | sorted set: dead incarnation → until when its claimer has time |
//! | `P{nodes}:info` | hash: incarnation → the node's address |
//! | `P{nodes}:accord` | hash: node → its start, and what it must have in common with the others |
//! | `P{nodes}:cluster` | the name of the cluster: a random text |
//! | `Psettled:INC` | set for a while when an incarnation has been cleaned up |
//! | `Prooms:INC` | set: rooms that the incarnation has had members in |
//! | `P{room}:n`, `:m:INC`, `:u:INC`, `:l:INC`, `:t:INC` | the members of a room (`lua/room.lua`) |

use std::collections::HashSet;
use std::time::Duration;

use shared::limits::{MEMBERS_READ_MAX, PRESENCE_KEPT_S};

use super::agreement::Others;
use super::stored::{Leases, LeftRoom, Share, StoredMember};
use crate::backplane::redis::connection::{Commands, Script};
use crate::error::FanoutError;

type Answer<T> = Result<T, FanoutError>;

/// The store: Redis, or the simulation in tests of time and faults.
#[derive(Debug)]
pub(crate) enum Store {
    Redis(Box<RedisStore>),
    #[cfg(test)]
    Model(super::model::Handle),
}

/// The store in Redis.
#[derive(Debug)]
pub(crate) struct RedisStore {
    commands: std::sync::Arc<Commands>,
    prefix: String,
    scripts: Scripts,
}

#[derive(Debug)]
struct Scripts {
    enter: Script,
    leave: Script,
    settle_user: Script,
    settle_room: Script,
    register: Script,
    forget: Script,
    here: Script,
    count: Script,
    renew: Script,
    open: Script,
    claim: Script,
    accord: Script,
}

/// A script about a room, behind the part that all of them share.
macro_rules! room_script {
    ($name:literal) => {
        Script::new(concat!(include_str!("../lua/room.lua"), include_str!(concat!("../lua/", $name, ".lua"))))
    };
}

/// Runs `$call` on either store.
macro_rules! on_store {
    ($store:expr, $inner:ident => $call:expr) => {
        match $store {
            Store::Redis($inner) => $call.await,
            #[cfg(test)]
            Store::Model($inner) => $call.await,
        }
    };
}

impl Store {
    pub(crate) fn redis(commands: std::sync::Arc<Commands>, prefix: &str) -> Self {
        Self::Redis(Box::new(RedisStore {
            commands,
            prefix: prefix.to_owned(),
            scripts: Scripts {
                enter: room_script!("enter"),
                leave: room_script!("leave"),
                settle_user: room_script!("settle_user"),
                settle_room: room_script!("settle_room"),
                register: room_script!("register"),
                forget: room_script!("forget"),
                here: room_script!("here"),
                count: room_script!("count"),
                renew: Script::new(include_str!("../lua/renew.lua")),
                open: Script::new(include_str!("../lua/open_lease.lua")),
                claim: Script::new(include_str!("../lua/claim.lua")),
                accord: Script::new(include_str!("../lua/accord.lua")),
            },
        }))
    }

    /// Whether there is a connection to the store.
    pub(crate) fn is_up(&self) -> bool {
        match self {
            Self::Redis(store) => store.commands.is_up(),
            #[cfg(test)]
            Self::Model(store) => !store.faults.lock().cut,
        }
    }

    /// Opens a lease. Returns false when another living node has the id `unique`.
    pub(crate) async fn open_lease(
        &self,
        inc: &str,
        ttl: Duration,
        info: &str,
        unique: &str,
    ) -> Answer<bool> {
        on_store!(self, store => store.open_lease(inc, ttl, info, unique))
    }

    /// Renews a lease (with an empty `inc` it only reads) and returns all leases.
    pub(crate) async fn renew(&self, inc: &str, ttl: Duration) -> Answer<Leases> {
        on_store!(self, store => store.renew(inc, ttl))
    }

    /// The addresses of living nodes.
    pub(crate) async fn infos(&self) -> Answer<Vec<(String, String)>> {
        on_store!(self, store => store.infos())
    }

    /// Writes a node's traits, its start (0: now) and the cluster's name if there is none. Returns the traits of the
    /// others.
    pub(crate) async fn accord(&self, node: &str, since: u64, like: &str, name: &str) -> Answer<Others> {
        on_store!(self, store => store.accord(node, since, like, name))
    }

    /// Claims the cleanup after a dead incarnation. With `own` a node gives up its own lease, lapsed or not.
    pub(crate) async fn claim(&self, inc: &str, during: Duration, own: bool) -> Answer<bool> {
        on_store!(self, store => store.claim(inc, during, own))
    }

    /// Marks an incarnation as cleaned up in every room.
    pub(crate) async fn finish(&self, inc: &str) -> Answer<()> {
        on_store!(self, store => store.finish(inc))
    }

    /// Adds rooms to the index of an incarnation.
    pub(crate) async fn index(&self, inc: &str, rooms: &[&str]) -> Answer<()> {
        on_store!(self, store => store.index(inc, rooms))
    }

    /// Removes rooms from the index of an incarnation.
    pub(crate) async fn unindex(&self, inc: &str, rooms: &[&str]) -> Answer<()> {
        on_store!(self, store => store.unindex(inc, rooms))
    }

    /// Rooms that an incarnation has had members in.
    pub(crate) async fn rooms_of(&self, inc: &str) -> Answer<Vec<String>> {
        on_store!(self, store => store.rooms_of(inc))
    }

    /// Adds a socket. Returns whether it is the user's first.
    pub(crate) async fn enter(&self, inc: &str, room: &str, member: &StoredMember) -> Answer<bool> {
        on_store!(self, store => store.enter(inc, room, member))
    }

    /// Removes a socket.
    pub(crate) async fn leave(
        &self,
        inc: &str,
        room: &str,
        member: &StoredMember,
        linger: bool,
    ) -> Answer<LeftRoom> {
        on_store!(self, store => store.leave(inc, room, member, linger))
    }

    /// Ends a user's hold-back. Returns whether the user is gone. `force` asks about a user who never lingered.
    pub(crate) async fn settle_user(
        &self,
        inc: &str,
        room: &str,
        (user, info): (&str, &str),
        force: bool,
    ) -> Answer<bool> {
        on_store!(self, store => store.settle_user(inc, room, (user, info), force))
    }

    /// Forgets a user whose departure was reported; `None` forgets all users of the incarnation in the room.
    pub(crate) async fn forget(&self, inc: &str, room: &str, user: Option<&str>) -> Answer<()> {
        on_store!(self, store => store.forget(inc, room, user))
    }

    /// Removes a dead incarnation from a room. Returns the users who are gone, and their info.
    pub(crate) async fn settle_room(&self, dead: &str, room: &str) -> Answer<Vec<(String, String)>> {
        on_store!(self, store => store.settle_room(dead, room))
    }

    /// Whether a node is cleaning up after an incarnation, or has lately done so.
    pub(crate) async fn was_settled(&self, inc: &str) -> Answer<bool> {
        on_store!(self, store => store.was_settled(inc))
    }

    /// Writes members that are in the room already. Returns the users of whom these are the first sockets.
    pub(crate) async fn register(
        &self,
        inc: &str,
        room: &str,
        members: &[StoredMember],
    ) -> Answer<Vec<(String, String)>> {
        on_store!(self, store => store.register(inc, room, members))
    }

    /// How many each incarnation has in a room.
    pub(crate) async fn shares(&self, room: &str) -> Answer<Vec<Share>> {
        on_store!(self, store => store.shares(room))
    }

    /// The users that an incarnation has in a room.
    pub(crate) async fn users(&self, inc: &str, room: &str) -> Answer<HashSet<String>> {
        on_store!(self, store => store.users(inc, room))
    }

    /// Whether an incarnation has a socket of a user in a room.
    pub(crate) async fn has_user(&self, inc: &str, room: &str, user: &str) -> Answer<bool> {
        on_store!(self, store => store.has_user(inc, room, user))
    }

    /// Whether a user is in a room on any node, including nodes that are not cleaned up yet.
    pub(crate) async fn is_here(&self, room: &str, user: &str) -> Answer<bool> {
        on_store!(self, store => store.is_here(room, user))
    }

    /// The members that an incarnation has in a room.
    pub(crate) async fn members(&self, inc: &str, room: &str) -> Answer<Vec<StoredMember>> {
        on_store!(self, store => store.members(inc, room))
    }

    /// At least `enough` of the members that an incarnation has in a room, or all.
    pub(crate) async fn some_members(
        &self,
        inc: &str,
        room: &str,
        enough: usize,
    ) -> Answer<Vec<StoredMember>> {
        match self {
            Self::Redis(store) => store.scan_members(inc, room, enough).await,
            #[cfg(test)]
            Self::Model(store) => store.members(inc, room).await,
        }
    }

    /// Keeps an incarnation's keys in a room from expiring.
    pub(crate) async fn touch(&self, inc: &str, room: &str) -> Answer<()> {
        on_store!(self, store => store.touch(inc, room))
    }
}

fn millis(time: Duration) -> String {
    time.as_millis().to_string()
}

/// A boolean as scripts read it.
fn flag(on: bool) -> &'static str {
    if on { "1" } else { "0" }
}

/// Splits a flat list of users and infos into pairs.
fn pairs(flat: Vec<String>) -> Vec<(String, String)> {
    let mut flat = flat.into_iter();
    std::iter::from_fn(|| flat.next().zip(flat.next())).collect()
}

impl RedisStore {
    fn nodes(&self, what: &str) -> String {
        format!("{}{{nodes}}:{what}", self.prefix)
    }

    fn index_key(&self, inc: &str) -> String {
        format!("{}rooms:{inc}", self.prefix)
    }

    fn settled_key(&self, inc: &str) -> String {
        format!("{}settled:{inc}", self.prefix)
    }

    /// The base of a room's keys. Checked names contain no brace.
    fn base(&self, room: &str) -> String {
        format!("{}{{{room}}}:", self.prefix)
    }

    async fn open_lease(&self, inc: &str, ttl: Duration, info: &str, unique: &str) -> Answer<bool> {
        let (leases, infos, ttl) = (self.nodes("leases"), self.nodes("info"), millis(ttl));
        let args = [inc.as_bytes(), ttl.as_bytes(), info.as_bytes(), unique.as_bytes()];
        self.scripts.open.run(&self.commands, &[&leases, &infos], &args).await
    }

    async fn renew(&self, inc: &str, ttl: Duration) -> Answer<Leases> {
        let (leases, estates, ttl) = (self.nodes("leases"), self.nodes("estates"), millis(ttl));
        let args = [inc.as_bytes(), ttl.as_bytes()];
        let (held, now_ms, nodes, estates): (bool, u64, redis::Value, redis::Value) =
            self.scripts.renew.run(&self.commands, &[&leases, &estates], &args).await?;
        Ok(Leases { held, now_ms, nodes: self.scores(nodes)?, estates: self.scores(estates)? })
    }

    /// Members and scores, flat or in pairs, depending on the protocol's version.
    fn scores(&self, value: redis::Value) -> Answer<Vec<(String, u64)>> {
        let pairs: Vec<(String, f64)> = self.commands.read(value)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "milliseconds of this age"
        )]
        Ok(pairs.into_iter().map(|(inc, score)| (inc, score.max(0.0) as u64)).collect())
    }

    async fn infos(&self) -> Answer<Vec<(String, String)>> {
        self.commands.query(redis::cmd("HGETALL").arg(self.nodes("info"))).await
    }

    async fn accord(&self, node: &str, since: u64, like: &str, name: &str) -> Answer<Others> {
        let (leases, traits, cluster) = (self.nodes("leases"), self.nodes("accord"), self.nodes("cluster"));
        let since = since.to_string();
        let args = [node, &since, like, name].map(str::as_bytes);
        let (cluster, since, nodes): (String, String, Vec<String>) =
            self.scripts.accord.run(&self.commands, &[&leases, &traits, &cluster], &args).await?;
        Ok(Others { cluster, since: since.parse().unwrap_or_default(), nodes: pairs(nodes) })
    }

    async fn claim(&self, inc: &str, during: Duration, own: bool) -> Answer<bool> {
        let (leases, estates, infos) = (self.nodes("leases"), self.nodes("estates"), self.nodes("info"));
        let during = millis(during);
        let args = [inc.as_bytes(), during.as_bytes(), flag(own).as_bytes()];
        self.scripts.claim.run(&self.commands, &[&leases, &estates, &infos], &args).await
    }

    async fn finish(&self, inc: &str) -> Answer<()> {
        self.commands.query::<()>(redis::cmd("DEL").arg(self.index_key(inc))).await?;
        let mut mark = redis::cmd("SET");
        mark.arg(self.settled_key(inc)).arg("1").arg("EX").arg(PRESENCE_KEPT_S);
        self.commands.query::<()>(&mark).await?;
        self.commands.query(redis::cmd("ZREM").arg(self.nodes("estates")).arg(inc)).await
    }

    async fn was_settled(&self, inc: &str) -> Answer<bool> {
        let claimed = redis::cmd("ZSCORE").arg(self.nodes("estates")).arg(inc).to_owned();
        if self.commands.query::<Option<f64>>(&claimed).await?.is_some() {
            return Ok(true);
        }
        self.commands.query(redis::cmd("EXISTS").arg(self.settled_key(inc))).await
    }

    async fn index(&self, inc: &str, rooms: &[&str]) -> Answer<()> {
        let key = self.index_key(inc);
        self.commands.query::<()>(redis::cmd("SADD").arg(&key).arg(rooms)).await?;
        self.commands.query(redis::cmd("EXPIRE").arg(&key).arg(PRESENCE_KEPT_S)).await
    }

    async fn unindex(&self, inc: &str, rooms: &[&str]) -> Answer<()> {
        self.commands.query(redis::cmd("SREM").arg(self.index_key(inc)).arg(rooms)).await
    }

    async fn rooms_of(&self, inc: &str) -> Answer<Vec<String>> {
        self.commands.query_long(redis::cmd("SMEMBERS").arg(self.index_key(inc))).await
    }

    /// Runs a script about `room`.
    async fn on_room<T: redis::FromRedisValue>(
        &self,
        script: &Script,
        room: &str,
        args: &[&str],
    ) -> Answer<T> {
        let base = self.base(room);
        let args: Vec<&[u8]> =
            std::iter::once(&*base).chain(args.iter().copied()).map(str::as_bytes).collect();
        script.run(&self.commands, &[&format!("{base}n")], &args).await
    }

    async fn enter(&self, inc: &str, room: &str, member: &StoredMember) -> Answer<bool> {
        let (kept, StoredMember { socket, user, info }) = (PRESENCE_KEPT_S.to_string(), member);
        self.on_room(&self.scripts.enter, room, &[inc, socket, user, info, &kept]).await
    }

    async fn leave(&self, inc: &str, room: &str, member: &StoredMember, linger: bool) -> Answer<LeftRoom> {
        let (kept, StoredMember { socket, user, info }) = (PRESENCE_KEPT_S.to_string(), member);
        let args = [inc, socket, user, info, &kept, flag(linger)];
        let result: u8 = self.on_room(&self.scripts.leave, room, &args).await?;
        Ok(match result {
            1 => LeftRoom::Gone,
            2 => LeftRoom::Lingers,
            _ => LeftRoom::Remains,
        })
    }

    async fn settle_user(
        &self,
        inc: &str,
        room: &str,
        (user, info): (&str, &str),
        force: bool,
    ) -> Answer<bool> {
        let kept = PRESENCE_KEPT_S.to_string();
        self.on_room(&self.scripts.settle_user, room, &[inc, user, info, &kept, flag(force)]).await
    }

    async fn forget(&self, inc: &str, room: &str, user: Option<&str>) -> Answer<()> {
        self.on_room(&self.scripts.forget, room, &[inc, user.unwrap_or_default()]).await
    }

    async fn settle_room(&self, dead: &str, room: &str) -> Answer<Vec<(String, String)>> {
        let kept = PRESENCE_KEPT_S.to_string();
        Ok(pairs(self.on_room(&self.scripts.settle_room, room, &[dead, &kept]).await?))
    }

    async fn register(
        &self,
        inc: &str,
        room: &str,
        members: &[StoredMember],
    ) -> Answer<Vec<(String, String)>> {
        let (mut firsts, kept) = (Vec::new(), PRESENCE_KEPT_S.to_string());
        for some in members.chunks(500) {
            let mut args = vec![inc, &kept];
            args.extend(some.iter().flat_map(|StoredMember { socket, user, info }| [&**socket, user, info]));
            firsts.extend(pairs(self.on_room(&self.scripts.register, room, &args).await?));
        }
        Ok(firsts)
    }

    async fn shares(&self, room: &str) -> Answer<Vec<Share>> {
        let flat: Vec<String> = self.on_room(&self.scripts.count, room, &[]).await?;
        let (shares, _) = flat.as_chunks::<3>();
        let number = |text: &String| text.parse().unwrap_or_default();
        let share = |[inc, sockets, users]: &[String; 3]| Share {
            incarnation: inc.clone(),
            sockets: number(sockets),
            users: number(users),
        };
        Ok(shares.iter().map(share).collect())
    }

    async fn users(&self, inc: &str, room: &str) -> Answer<HashSet<String>> {
        let key = format!("{}u:{inc}", self.base(room));
        self.commands.query_long(redis::cmd("HKEYS").arg(key)).await
    }

    async fn has_user(&self, inc: &str, room: &str, user: &str) -> Answer<bool> {
        let key = format!("{}u:{inc}", self.base(room));
        self.commands.query(redis::cmd("HEXISTS").arg(key).arg(user)).await
    }

    async fn is_here(&self, room: &str, user: &str) -> Answer<bool> {
        self.on_room(&self.scripts.here, room, &["", user]).await
    }

    async fn members(&self, inc: &str, room: &str) -> Answer<Vec<StoredMember>> {
        self.scan_members(inc, room, MEMBERS_READ_MAX).await
    }

    async fn scan_members(&self, inc: &str, room: &str, enough: usize) -> Answer<Vec<StoredMember>> {
        let count = enough.min(1_000);
        let key = format!("{}m:{inc}", self.base(room));
        let (mut members, mut cursor) = (Vec::new(), 0_u64);
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(&key).arg(cursor).arg("COUNT").arg(count);
            let (next, flat): (u64, Vec<String>) = self.commands.query_long(&scan).await?;
            let (pairs, _) = flat.as_chunks::<2>();
            members.extend(pairs.iter().filter_map(|[socket, value]| {
                let (user, info) = value.split_once('\n')?;
                Some(StoredMember { socket: socket.clone(), user: user.to_owned(), info: info.to_owned() })
            }));
            cursor = next;
            if cursor == 0 || members.len() >= enough {
                break;
            }
        }
        // A scan may return an entry twice while the hash grows.
        members.sort_by(|a, b| a.socket.cmp(&b.socket));
        members.dedup_by(|a, b| a.socket == b.socket);
        Ok(members)
    }

    async fn touch(&self, inc: &str, room: &str) -> Answer<()> {
        let base = self.base(room);
        for key in [format!("{base}n"), format!("{base}m:{inc}"), format!("{base}u:{inc}")] {
            self.commands.query::<()>(redis::cmd("EXPIRE").arg(key).arg(PRESENCE_KEPT_S)).await?;
        }
        Ok(())
    }
}
