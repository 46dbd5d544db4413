//! The backplane between the nodes: memory for a single node, Redis for a cluster.
//!
//! [`Backplane`] has every operation that differs between the two; no other module distinguishes them. A new backplane needs
//! a folder and an arm in each function here. `tests/conformance.rs` checks the guarantees of each operation for all
//! backplanes.

mod departures;
mod memory;
mod questions;
pub(crate) mod redis;

use std::sync::Arc;
use std::time::Duration;

use shared::adapter::Selection;
use shared::ids::{NodeId, SocketId};
use shared::names::{Namespace, Room, UserId};
use shared::sio::Event;

use self::memory::MemoryBackplane;
use self::redis::backplane::{ClusterOptions, RedisBackplane};
use crate::collector::Answers;
use crate::error::FanoutError;
use crate::events::Turn;
use crate::geo::{Near, Place};
use crate::local::hub::Hub;
use crate::local::node::{LocalNode, room_key};
use crate::local::room::{Kind, Room as LocalRoom};
use crate::local::socket::LocalSocket;
use crate::presence::{Agreement, Counted, Entered, FirstMembers, Left, Member, Peer};
use crate::stats::StatsSnapshot;
use crate::target::{Packet, Posted, Target};

/// Carries broadcasts and requests, and knows the members of rooms.
pub(crate) enum Backplane {
    /// A single node.
    Memory(Box<MemoryBackplane>),
    /// A node in a cluster.
    Redis(Arc<RedisBackplane>),
}

/// The stored info of a socket that leaves several rooms, once it is encoded.
pub(crate) type KeptInfo = Option<String>;

// The node.
impl Backplane {
    /// The backplane of a node: of a cluster with `options`, otherwise of a single node.
    pub(crate) fn new(options: Option<ClusterOptions>, node: Arc<LocalNode>) -> Self {
        match options {
            None => Self::Memory(Box::new(MemoryBackplane::new(node))),
            Some(options) => Self::Redis(Arc::new(RedisBackplane::new(options, node))),
        }
    }

    /// Runs until the node stops. Call it once.
    pub(crate) async fn run(&self) {
        match self {
            Self::Memory(memory) => memory.run().await,
            Self::Redis(redis) => Box::pin(redis.run()).await,
        }
    }

    /// The part that runs on a thread that is not a worker, until the node stops. Ends at once if there is none.
    pub(crate) async fn run_apart(&self) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(redis) => redis.run_apart().await,
        }
    }

    /// Lets other nodes take over what this node has left. Call it when every socket is detached.
    pub(crate) async fn close(&self) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(redis) => redis.presence.close().await,
        }
    }

    /// Whether this node is fully operational.
    pub(crate) fn is_ready(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(redis) => redis.is_ready(),
        }
    }

    /// Whether there are other nodes, or may be.
    pub(crate) fn has_peers(&self) -> bool {
        match self {
            Self::Memory(_) => false,
            Self::Redis(_) => true,
        }
    }

    pub(crate) fn stats(&self, node: &LocalNode) -> StatsSnapshot {
        match self {
            Self::Memory(_) => node.stats.snapshot(),
            Self::Redis(redis) => redis.stats(),
        }
    }

    /// Whether this node agrees with the others.
    pub(crate) fn agreement(&self) -> Agreement {
        match self {
            Self::Memory(_) => Agreement { is_known: true, ..Agreement::default() },
            Self::Redis(redis) => redis.presence.agreement(),
        }
    }

    /// Sets the records that the node's apps keep.
    pub(crate) fn set_records(&self, records: &str) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(redis) => redis.presence.set_records(records),
        }
    }

    /// Whether the node with this id lives; `None` where there are no others.
    pub(crate) async fn lives(&self, node: &str) -> Option<Result<bool, FanoutError>> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(redis) => Some(redis.presence.lives(node).await),
        }
    }

    /// Waits until this node has found that another one is gone and that no other node cleans up after it.
    pub(crate) async fn lost_node(&self) {
        match self {
            Self::Memory(_) => std::future::pending().await,
            Self::Redis(redis) => redis.presence.departed.notified().await,
        }
    }

    /// The address of another living node.
    pub(crate) async fn peer(&self, node: NodeId) -> Result<Option<Peer>, FanoutError> {
        match self {
            Self::Memory(_) => Ok(None),
            Self::Redis(redis) => redis.presence.peer(node).await,
        }
    }
}

// Broadcasts and questions.
impl Backplane {
    /// Encodes an event once, in the form that sending it to `target` needs.
    pub(crate) fn packet(&self, target: &Target<'_>, event: &Event<'_>) -> Packet {
        match self {
            Self::Memory(_) => Packet::ready(event),
            Self::Redis(redis) => redis.packet(target, event),
        }
    }

    /// Sends a packet that was encoded for `target`. It has its place in the order when this returns.
    pub(crate) fn post(&self, target: &Target<'_>, packet: Packet) -> Posted {
        match self {
            Self::Memory(memory) => memory.post(target, packet),
            Self::Redis(redis) => redis.post(target, packet),
        }
    }

    /// Whether `key` stands for `request`. A key stands for the first request that uses it, for `IDEMPOTENCY_S`.
    pub(crate) async fn claim_key(&self, key: &str, request: &str) -> Result<bool, FanoutError> {
        match self {
            Self::Memory(memory) => memory.claim_key(key, request),
            Self::Redis(redis) => redis.claim_key(key, request).await,
        }
    }

    /// Asks the clients of sockets, and waits for the answers. The turn ends when the question has its place in the order.
    pub(crate) async fn ask(
        &self,
        target: &Target<'_>,
        event: &Event<'_>,
        until: (Duration, Turn),
    ) -> Result<Answers, FanoutError> {
        match self {
            Self::Memory(memory) => memory.ask(target, event, until).await,
            Self::Redis(redis) => redis.ask(target, event, until).await,
        }
    }

    /// Waits until everything that was posted to a room here has come back: it is delivered here, or its app has got it.
    pub(crate) async fn after_posts(&self, hub: &Hub, room: &str) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(redis) => redis.after_posts(hub, room).await,
        }
    }

    /// How many sockets receive what is sent to `target`; `None` where not all nodes report in time.
    pub(crate) async fn reach(&self, hub: &Hub, target: &Target<'_>) -> Result<Option<usize>, FanoutError> {
        let rooms = target.to.room().map(std::borrow::Cow::into_owned).into_iter().collect();
        let of = Selection { rooms, except: target.excepted() };
        match self {
            Self::Memory(_) => Ok(Some(hub.select(&of.rooms, &of.except).len())),
            Self::Redis(redis) => redis.reach(target, &of).await,
        }
    }

    /// Sends an event to the other servers of the namespace.
    pub(crate) async fn server_side_emit(
        &self,
        namespace: &Namespace,
        name: &str,
        args: &[&str],
    ) -> Result<(), FanoutError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(redis) => redis.server_side_emit(namespace, name, args).await,
        }
    }
}

// One socket.
impl Backplane {
    /// Receives what is published to a room, even if no socket is in it, from the end of this call until
    /// [`Self::unfollow_room`].
    pub(crate) async fn follow_room(&self, hub: &Hub, room: &str) {
        hub.follow(room);
        match self {
            Self::Memory(_) => {}
            Self::Redis(redis) => drop(redis.follow(hub.name.as_str(), room).await),
        }
    }

    /// Undoes one [`Self::follow_room`].
    pub(crate) fn unfollow_room(&self, hub: &Hub, room: &str) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(redis) => redis.unfollow(hub.name.as_str(), room),
        }
        hub.unfollow(room);
    }

    /// A socket no longer receives what is published to a room.
    pub(crate) fn unfollow(&self, namespace: &str, room: &str) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(redis) => redis.unfollow(namespace, room),
        }
    }

    /// Receives what is sent to a socket's user, until [`Self::unfollow_user`].
    pub(crate) async fn follow_user(&self, namespace: &str, user: &UserId) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(redis) => drop(redis.follow(namespace, Room::of_user(user).as_str()).await),
        }
    }

    /// Undoes one [`Self::follow_user`].
    pub(crate) fn unfollow_user(&self, namespace: &str, user: &UserId) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(redis) => redis.unfollow(namespace, Room::of_user(user).as_str()),
        }
    }

    /// Puts a socket into a room.
    pub(crate) async fn enter(
        &self,
        socket: &Arc<LocalSocket>,
        room: (&Room, Kind),
        limit: usize,
    ) -> Result<Entered, FanoutError> {
        match self {
            Self::Memory(memory) => memory.enter(socket, room, limit),
            Self::Redis(redis) => redis.enter(socket, room, limit).await,
        }
    }

    /// Lets a socket receive a room's broadcasts without becoming a member.
    pub(crate) async fn watch(&self, socket: &Arc<LocalSocket>, room: &Room) -> Result<(), FanoutError> {
        match self {
            Self::Memory(memory) => memory.enter(socket, (room, Kind::Watched), 0).map(drop),
            Self::Redis(redis) => redis.watch(socket, room).await,
        }
    }

    /// Removes a socket from a room.
    pub(crate) async fn leave(&self, socket: &Arc<LocalSocket>, room: &str) -> Left {
        match self {
            Self::Memory(memory) => memory.leave(socket, room),
            Self::Redis(redis) => redis.leave(socket, room).await,
        }
    }

    /// A socket that is being detached has left a room here; `room` says whether it was its user's last. Called before the
    /// user can enter it again.
    pub(crate) fn leaving(&self, socket: &LocalSocket, room: (&LocalRoom, bool), info: &mut KeptInfo) {
        match self {
            Self::Memory(memory) => memory.hold_back(socket, room, info),
            // The store decides in `left_rooms`.
            Self::Redis(_) => {}
        }
    }

    /// A detached socket has left rooms.
    pub(crate) async fn left_rooms(&self, socket: &LocalSocket, left: &[Arc<LocalRoom>]) {
        match self {
            Self::Memory(_) => {}
            Self::Redis(redis) => redis.left_rooms(socket, left).await,
        }
    }
}

// All sockets.
impl Backplane {
    /// Every socket of a user enters a room; with `if_allowed`, only the sockets that the rules of its app allow.
    pub(crate) async fn join_user(
        &self,
        hub: &Hub,
        member: (&UserId, &Room),
        if_allowed: bool,
    ) -> Result<(), FanoutError> {
        match self {
            Self::Memory(memory) => memory.join_user(hub, member, if_allowed).await,
            Self::Redis(redis) => redis.join_user(&hub.name, member, if_allowed).await,
        }
    }

    /// Removes sockets from a room that may no longer be in it. Returns whether all nodes have done so. If the others cannot
    /// be asked, only this node does it.
    pub(crate) async fn review(&self, node: &LocalNode, hub: &Hub, room: &Room) -> bool {
        match self {
            Self::Memory(memory) => memory.review(hub, room).await,
            Self::Redis(redis) => match redis.review(&hub.name, room).await {
                Ok(is_done) => is_done,
                Err(_) => {
                    node.review(hub, room, None).await;
                    false
                }
            },
        }
    }

    /// The sockets in the room `of` leave another room. Ends when all nodes have done so.
    pub(crate) async fn take_out(&self, hub: &Hub, of: &str, room: &Room) -> Result<(), FanoutError> {
        match self {
            Self::Memory(memory) => {
                if memory.take_out(hub, of, room).await {
                    Ok(())
                } else {
                    Err(FanoutError::Unavailable)
                }
            }
            Self::Redis(redis) => redis.take_out(&hub.name, of, room).await,
        }
    }

    /// Disconnects sockets from the namespace. They have left all of their rooms when this ends.
    pub(crate) async fn disconnect(&self, hub: &Hub, ids: &[SocketId]) -> Result<(), FanoutError> {
        match self {
            Self::Memory(memory) => {
                if memory.disconnect(hub, ids).await {
                    Ok(())
                } else {
                    Err(FanoutError::Unavailable)
                }
            }
            Self::Redis(redis) => redis.disconnect(&hub.name, ids).await,
        }
    }

    /// The members of a room.
    pub(crate) async fn members(&self, hub: &Hub, room: &str) -> Result<Vec<Member>, FanoutError> {
        match self {
            Self::Memory(memory) => Ok(memory.members(hub, room)),
            Self::Redis(redis) => redis.members(hub.name.as_str(), room).await,
        }
    }

    /// Some members of a room, of at most `users` distinct users, and how many there are.
    pub(crate) async fn first_members(
        &self,
        hub: &Hub,
        room: &str,
        users: usize,
    ) -> Result<FirstMembers, FanoutError> {
        match self {
            Self::Memory(memory) => Ok(memory.first_members(hub, room, users)),
            Self::Redis(redis) => redis.first_members(hub.name.as_str(), room, users).await,
        }
    }

    /// Whether a user has a socket in a room.
    pub(crate) async fn is_in(&self, hub: &Hub, room: &str, user: &UserId) -> Result<bool, FanoutError> {
        match self {
            Self::Memory(_) => Ok(hub.sockets_of(user.as_str()).iter().any(|socket| socket.is_in(room))),
            Self::Redis(redis) => {
                redis.presence.is_in(&room_key(hub.name.as_str(), room), user.as_str()).await
            }
        }
    }

    /// Whether a user who was reported as gone from a room is there again.
    pub(crate) async fn is_back(&self, hub: &Hub, room: &str, user: &UserId) -> bool {
        match self {
            Self::Memory(_) => hub.sockets_of(user.as_str()).iter().any(|socket| socket.is_in(room)),
            Self::Redis(redis) => {
                redis.presence.is_back(&room_key(hub.name.as_str(), room), user.as_str()).await
            }
        }
    }

    /// Counts the members of a room.
    pub(crate) async fn count(&self, hub: &Hub, room: &str) -> Result<Counted, FanoutError> {
        match self {
            Self::Memory(_) => {
                let count = hub.find_public(room).map(|room| room.count()).unwrap_or_default();
                Ok(Counted { count, age: Duration::ZERO, stale: false })
            }
            Self::Redis(redis) => redis.presence.count(&room_key(hub.name.as_str(), room)).await,
        }
    }
}

// Live state of apps ([`crate::Live`]).
impl Backplane {
    pub(crate) async fn get(&self, keys: &[String]) -> Result<Vec<Option<String>>, FanoutError> {
        match self {
            Self::Memory(memory) => Ok(keys.iter().map(|key| memory.live.get(key)).collect()),
            Self::Redis(redis) => redis.live.get(keys).await,
        }
    }

    /// Replaces a value if it is `old`. Returns whether it was.
    pub(crate) async fn swap(
        &self,
        key: &str,
        (old, new): (Option<&str>, Option<&str>),
        kept: Duration,
    ) -> Result<bool, FanoutError> {
        match self {
            Self::Memory(memory) => memory.live.swap(key, old, new, kept),
            Self::Redis(redis) => redis.live.swap(key, (old, new), kept).await,
        }
    }

    /// Changes when this node has another connection to Redis.
    pub(crate) fn generation(&self) -> u64 {
        match self {
            Self::Memory(_) => 0,
            Self::Redis(redis) => redis.generation(),
        }
    }

    /// Releases a lock, which is a value that `owner` has set, when what was ordered under it has its place in the order.
    /// `since` says at which [`Self::generation`] it was taken, and whether everything that was ordered is done.
    pub(crate) fn release(&self, key: &str, owner: &str, since: (u64, bool)) {
        match self {
            Self::Memory(memory) => drop(memory.live.swap(key, Some(owner), None, Duration::ZERO)),
            Self::Redis(redis) => redis.release(key, owner, since),
        }
    }

    pub(crate) async fn schedule(&self, timers: &str, id: &str, after: Duration) -> Result<(), FanoutError> {
        match self {
            Self::Memory(memory) => memory.live.schedule(timers, id, after),
            Self::Redis(redis) => redis.live.schedule(timers, id, after).await,
        }
    }

    pub(crate) async fn cancel(&self, timers: &str, id: &str) -> Result<(), FanoutError> {
        match self {
            Self::Memory(memory) => {
                memory.live.cancel(timers, id);
                Ok(())
            }
            Self::Redis(redis) => redis.live.cancel(timers, id).await,
        }
    }

    pub(crate) async fn due(
        &self,
        timers: &str,
        limit: usize,
        again: Duration,
    ) -> Result<Vec<String>, FanoutError> {
        match self {
            Self::Memory(memory) => Ok(memory.live.due(timers, limit, again)),
            Self::Redis(redis) => redis.live.due(timers, limit, again).await,
        }
    }

    pub(crate) async fn put(
        &self,
        map: &str,
        id: &str,
        place: Place,
        good_for: Duration,
    ) -> Result<(), FanoutError> {
        match self {
            Self::Memory(memory) => memory.live.put(map, id, place, good_for),
            Self::Redis(redis) => redis.live.put(map, id, place, good_for).await,
        }
    }

    pub(crate) async fn adopt(&self, map: &str, id: &str) -> Result<(), FanoutError> {
        match self {
            Self::Memory(_) => Ok(()),
            Self::Redis(redis) => redis.live.adopt(map, id).await,
        }
    }

    pub(crate) async fn forget(&self, map: &str, id: &str) -> Result<(), FanoutError> {
        match self {
            Self::Memory(memory) => {
                memory.live.forget(map, id);
                Ok(())
            }
            Self::Redis(redis) => redis.live.forget(map, id).await,
        }
    }

    /// Everyone within `radius` metres of a place, and possibly others; distances are not set yet.
    pub(crate) async fn around(
        &self,
        map: &str,
        place: Place,
        radius: f64,
        limit: usize,
    ) -> Result<Vec<Near>, FanoutError> {
        match self {
            Self::Memory(memory) => Ok(memory.live.all(map)),
            Self::Redis(redis) => redis.live.around(&redis.presence, map, place, radius, limit).await,
        }
    }
}
