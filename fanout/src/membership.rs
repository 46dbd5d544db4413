//! Sockets that come and go, the rooms that they are in, and who is there: on this node at once, in a cluster
//! with the store's word.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use shared::ids::SocketId;
use shared::limits::ROOMS_AT_ONCE;
use shared::names::{Room, USER_ROOM_PREFIX, UserId};

use crate::backplane::departures::Departure;
use crate::backplane::redis::cluster::{RedisBackplane, kept, room_key};
use crate::backplane::redis::presence::store::StoredMember;
use crate::backplane::redis::requests::Done;
use crate::error::FanoutError;
use crate::fanout::{Backplane, Fanout};
use crate::local::registry::{Detached, LocalSocket, SocketInfo};
use crate::local::room::{Kind, Room as RoomHere};
use crate::local::send_queue::SendQueue;
use crate::presence::{Counted, Entered, FirstMembers, Left, Member, RoomCount, SCANNED_PER_USER};

/// Interest in a room: while it is held, this node hears what is published to the room.
#[derive(Debug)]
pub struct Follow<'a> {
    fanout: &'a Fanout,
    channel: Option<String>,
}

impl Drop for Follow<'_> {
    fn drop(&mut self) {
        if let (Some(channel), Backplane::Redis { cluster, .. }) =
            (&self.channel, &self.fanout.inner.backplane)
        {
            cluster.subscriber.release(channel);
        }
    }
}
impl Fanout {
    /// Makes a socket known on this node: from then on it gets what is sent to its user, to its own id and to
    /// the namespace.
    ///
    /// # Errors
    /// [`FanoutError::TooManySockets`], [`FanoutError::UnknownNamespace`].
    pub async fn attach(
        &self,
        namespace: &str,
        info: SocketInfo,
        queue: Arc<SendQueue>,
    ) -> Result<Arc<LocalSocket>, FanoutError> {
        let rooms = self.rooms(namespace)?;
        let user = info.user.clone();
        let socket = rooms.attach(info, queue, self.inner.options.sockets_per_user)?;
        if let Backplane::Redis { cluster, .. } = &self.inner.backplane {
            cluster
                .subscriber
                .acquire(&cluster.channels.own_room(namespace, Room::of_user(&user).as_str()))
                .await;
        }
        Ok(socket)
    }

    /// Takes a socket out of all of its rooms, some at a time: when this has ended nothing that is broadcast reaches it, and
    /// it is in no list. [`Self::detach`] then does what follows, and must be called.
    pub async fn expel(&self, socket: &Arc<LocalSocket>) {
        let (mut begins, mut expelled, mut member) = (true, Vec::new(), None);
        loop {
            let detached = socket.namespace.detach_some(socket, begins, ROOMS_AT_ONCE, |room, is_last| {
                self.linger_here(socket, (room, is_last), &mut member);
                expelled.push(Arc::clone(room));
            });
            match detached {
                Detached::Elsewhere => return,
                Detached::Wholly => return socket.set_expelled(expelled),
                Detached::Partly => begins = false,
            }
            tokio::task::yield_now().await;
        }
    }

    /// Forgets a socket: it leaves all of its rooms, which are answered; some at a time, so that others get their turn. Where it was its user's last, that is
    /// told after the hold-back as [`Gone`](crate::presence::Gone), unless the user is back. Safe to call twice: the
    /// second call finds nothing.
    pub async fn detach(&self, socket: &Arc<LocalSocket>) -> Vec<Room> {
        let (mut names, mut begins, mut member) = (Vec::new(), true, None);
        if let Some(expelled) = socket.take_expelled() {
            self.let_go_of_user(socket);
            for left in expelled.chunks(ROOMS_AT_ONCE) {
                self.tell_left(socket, left, &mut names).await;
                tokio::task::yield_now().await;
            }
            return names;
        }
        loop {
            let mut left = Vec::new();
            let detached = socket.namespace.detach_some(socket, begins, ROOMS_AT_ONCE, |room, is_last| {
                self.linger_here(socket, (room, is_last), &mut member);
                left.push(Arc::clone(room));
            });
            if detached == Detached::Elsewhere {
                return names;
            }
            if begins {
                self.let_go_of_user(socket);
            }
            self.tell_left(socket, &left, &mut names).await;
            if detached == Detached::Wholly {
                return names;
            }
            begins = false;
            tokio::task::yield_now().await;
        }
    }

    /// A node alone: the user whose last socket has left a room may come back. `member` is what is told of the socket, once
    /// it is known.
    fn linger_here(
        &self,
        socket: &LocalSocket,
        (room, is_last): (&RoomHere, bool),
        member: &mut Option<StoredMember>,
    ) {
        if let (Backplane::InProcess { departures, .. }, true, true) =
            (&self.inner.backplane, is_last, room.is_public())
        {
            let StoredMember { user, info, .. } = member.get_or_insert_with(|| kept(&socket.info)).clone();
            let room = room_key(socket.namespace().as_str(), room.name.as_str());
            let waiting = Departure { room, user, info, incarnation: String::new(), told: false };
            departures.add(waiting, self.inner.options.holdback);
        }
    }

    /// What is sent to its user is not wanted for this socket any more.
    fn let_go_of_user(&self, socket: &LocalSocket) {
        if let Backplane::Redis { cluster, .. } = &self.inner.backplane {
            let room = Room::of_user(socket.user());
            cluster
                .subscriber
                .release(&cluster.channels.own_room(socket.namespace().as_str(), room.as_str()));
        }
    }

    /// Does what follows from a socket's having left rooms, and adds the names of those that are listed.
    async fn tell_left(&self, socket: &LocalSocket, left: &[Arc<RoomHere>], names: &mut Vec<Room>) {
        if let Backplane::Redis { cluster, .. } = &self.inner.backplane {
            let (namespace, member) = (socket.namespace().as_str(), kept(&socket.info));
            for room in left {
                let name = room.name.as_str();
                if room.is_public() {
                    let key = room_key(namespace, name);
                    let _changing = Box::pin(cluster.presence.changing(&key)).await;
                    Box::pin(cluster.presence.left(&key, &member, true)).await;
                }
                cluster.subscriber.release(&cluster.channels.own_room(namespace, name));
            }
        }
        names.extend(left.iter().filter(|room| room.is_public()).map(|room| room.name.clone()));
    }

    /// Wants to hear what is published to a room, before anybody enters it.
    pub async fn follow<'a>(&'a self, namespace: &str, room: &str) -> Follow<'a> {
        let channel = match &self.inner.backplane {
            Backplane::InProcess { .. } => None,
            Backplane::Redis { cluster, .. } => {
                let channel = cluster.channels.own_room(namespace, room);
                Box::pin(cluster.subscriber.acquire(&channel)).await;
                Some(channel)
            }
        };
        Follow { fanout: self, channel }
    }

    /// Puts a socket into a room: it gets every broadcast made after this answers, and none made before
    /// it was called. While Redis is away it is in the room for this node alone, until Redis is back.
    ///
    /// # Errors
    /// [`FanoutError::TooManyRooms`], [`FanoutError::Gone`].
    pub async fn enter(&self, socket: &Arc<LocalSocket>, room: &Room) -> Result<Entered, FanoutError> {
        self.enter_as(socket, room, Kind::Joined).await
    }

    /// As [`Self::enter`], for a room that an app puts every socket into: `ROOMS_PER_SOCKET` does not matter, nor does
    /// the room count against it.
    ///
    /// # Errors
    /// [`FanoutError::Gone`].
    pub async fn enter_own(&self, socket: &Arc<LocalSocket>, room: &Room) -> Result<Entered, FanoutError> {
        self.enter_as(socket, room, Kind::Own).await
    }

    async fn enter_as(
        &self,
        socket: &Arc<LocalSocket>,
        room: &Room,
        kind: Kind,
    ) -> Result<Entered, FanoutError> {
        let namespace = socket.namespace().as_str();
        let limit = self.inner.options.rooms_per_socket;
        match &self.inner.backplane {
            Backplane::InProcess { departures, .. } => {
                let entered = socket.namespace.enter(socket, (room, kind), limit)?;
                let key = room_key(namespace, room.as_str());
                let waited = entered.first_of_user && departures.cancel(&key, socket.user().as_str());
                if waited && !socket.is_in(room.as_str()) {
                    // The connection was lost while it entered, and its leave has just been taken back.
                    let StoredMember { user, info, .. } = kept(&socket.info);
                    let waiting =
                        Departure { room: key, user, info, incarnation: String::new(), told: false };
                    departures.add(waiting, self.inner.options.holdback);
                }
                Ok(Entered { first_of_user: entered.first_of_user && !waited, ..entered })
            }
            Backplane::Redis { cluster, .. } => {
                let channel = cluster.channels.own_room(namespace, room.as_str());
                let hears = Box::pin(cluster.subscriber.acquire(&channel)).await;
                let key = room_key(namespace, room.as_str());
                let _changing = Box::pin(cluster.presence.changing(&key)).await;
                let entered = socket.namespace.enter(socket, (room, kind), limit);
                if !matches!(entered, Ok(Entered { new: true, .. })) {
                    cluster.subscriber.release(&channel);
                    return entered;
                }
                let entered = entered?;
                if let Some(found) = socket.namespace.find(room.as_str()) {
                    if !found.is_public() {
                        return Ok(entered);
                    }
                    if !hears {
                        found.mark_missed();
                    }
                }
                let member = kept(&socket.info);
                let first = Box::pin(cluster.presence.entered(&key, &member)).await;
                if !socket.is_in(room.as_str()) {
                    // Detached meanwhile, and the store was told of the leave before the entry.
                    Box::pin(cluster.presence.left(&key, &member, true)).await;
                }
                Ok(Entered { new: true, first_of_user: first.unwrap_or(entered.first_of_user) })
            }
        }
    }

    /// Puts a socket into a room at once, for a backend: what was heard after that reaches it. That it is there is told to the
    /// store afterwards. What our own nodes send to the room is heard when its channel is subscribed, which is so before
    /// `done` is dropped; what backends send is heard in any case.
    pub(crate) async fn enter_now(
        &self,
        cluster: &Arc<RedisBackplane>,
        socket: &Arc<LocalSocket>,
        room: &Room,
        done: &Done,
    ) {
        let channel = cluster.channels.own_room(socket.namespace().as_str(), room.as_str());
        cluster.subscriber.want(&channel);
        // `ROOMS_PER_SOCKET` is for clients. A socket that has gone meanwhile stays out.
        if !matches!(socket.namespace.enter(socket, (room, Kind::Own), 0), Ok(Entered { new: true, .. })) {
            cluster.subscriber.release(&channel);
            return;
        }
        let (cluster, socket, room, done) =
            (Arc::clone(cluster), Arc::clone(socket), room.clone(), done.clone());
        self.follow_up(async move {
            let hears = cluster.subscriber.confirmed(&channel).await;
            if !hears && let Some(found) = socket.namespace.find(room.as_str()) {
                found.mark_missed();
            }
            let (key, member) = (room_key(socket.namespace().as_str(), room.as_str()), kept(&socket.info));
            let _changing = Box::pin(cluster.presence.changing(&key)).await;
            Box::pin(cluster.presence.entered(&key, &member)).await;
            if !socket.is_in(room.as_str()) {
                // It has left meanwhile, and the store may have been told of that before the entry.
                Box::pin(cluster.presence.left(&key, &member, !socket.is_attached())).await;
            }
            drop(done);
        })
        .await;
    }

    /// Takes a socket out of a room at once, for a backend: what was heard after that does not reach it. That it has left is
    /// told to the store afterwards.
    pub(crate) async fn leave_now(
        &self,
        cluster: &Arc<RedisBackplane>,
        socket: &Arc<LocalSocket>,
        room: &str,
        done: &Done,
    ) {
        if !socket.namespace.leave(socket, room).was_member {
            return;
        }
        let namespace = socket.namespace().as_str();
        cluster.subscriber.release(&cluster.channels.own_room(namespace, room));
        let (cluster, socket, done) = (Arc::clone(cluster), Arc::clone(socket), done.clone());
        let (key, room) = (room_key(namespace, room), room.to_owned());
        self.follow_up(async move {
            let member = kept(&socket.info);
            let _changing = Box::pin(cluster.presence.changing(&key)).await;
            // Whoever has let it in again meanwhile tells so, or has.
            if !socket.is_in(&room) {
                Box::pin(cluster.presence.left(&key, &member, false)).await;
                if socket.is_in(&room) {
                    Box::pin(cluster.presence.entered(&key, &member)).await;
                }
            }
            drop(done);
        })
        .await;
    }

    /// Has a socket hear what is broadcast to a room without being one of its members: nobody is told, nothing is counted,
    /// and `ROOMS_PER_SOCKET` does not matter. The caller bounds how many rooms one socket watches, and uses the room for
    /// nothing else; all sockets of a user together watch `WATCHED_PER_USER_MAX`. Undone by [`Self::unwatch`], and when the
    /// socket goes.
    ///
    /// # Errors
    /// [`FanoutError::Gone`], [`FanoutError::TooManyWatched`].
    pub async fn watch(&self, socket: &Arc<LocalSocket>, room: &Room) -> Result<(), FanoutError> {
        let Backplane::Redis { cluster, .. } = &self.inner.backplane else {
            return socket.namespace.enter(socket, (room, Kind::Watched), 0).map(drop);
        };
        let channel = cluster.channels.own_room(socket.namespace().as_str(), room.as_str());
        Box::pin(cluster.subscriber.acquire(&channel)).await;
        let entered = socket.namespace.enter(socket, (room, Kind::Watched), 0);
        if !matches!(entered, Ok(Entered { new: true, .. })) {
            cluster.subscriber.release(&channel);
        }
        entered.map(drop)
    }

    /// The rooms that a socket watches.
    #[must_use]
    pub fn watched(&self, socket: &LocalSocket) -> Vec<Room> {
        socket.watched()
    }

    /// Has a socket hear no more of a room that it watches. Safe to call twice.
    pub fn unwatch(&self, socket: &Arc<LocalSocket>, room: &str) {
        let left = socket.namespace.leave(socket, room);
        if let (true, Backplane::Redis { cluster, .. }) = (left.was_member, &self.inner.backplane) {
            cluster.subscriber.release(&cluster.channels.own_room(socket.namespace().as_str(), room));
        }
    }

    /// Takes a socket out of a room: nothing broadcast after this answers reaches it. Safe to call twice.
    pub async fn leave(&self, socket: &Arc<LocalSocket>, room: &str) -> Left {
        let left = socket.namespace.leave(socket, room);
        if !left.was_member {
            return left;
        }
        let namespace = socket.namespace().as_str();
        let key = room_key(namespace, room);
        match &self.inner.backplane {
            Backplane::InProcess { departures, .. } => {
                if left.last_of_user {
                    departures.cancel(&key, socket.user().as_str());
                }
                left
            }
            Backplane::Redis { cluster, .. } => {
                let _changing = Box::pin(cluster.presence.changing(&key)).await;
                let last_of_user = Box::pin(cluster.presence.left(&key, &kept(&socket.info), false)).await;
                cluster.subscriber.release(&cluster.channels.own_room(namespace, room));
                Left { last_of_user, ..left }
            }
        }
    }

    /// Who is in a room, on all nodes.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::UnknownNamespace`].
    pub async fn members(&self, namespace: &str, room: &str) -> Result<Vec<Member>, FanoutError> {
        let rooms = self.rooms(namespace)?;
        let member = |info: &SocketInfo| self.member(info);
        match &self.inner.backplane {
            Backplane::InProcess { .. } => {
                if room.starts_with(USER_ROOM_PREFIX) {
                    return Ok(rooms.sockets_in(room).iter().map(|socket| member(&socket.info)).collect());
                }
                Ok(rooms.find(room).map(|room| room.map_members(member)).unwrap_or_default())
            }
            Backplane::Redis { cluster, .. } => {
                let members = cluster.presence.members(&room_key(namespace, room)).await?;
                Ok(members.iter().filter_map(listed).collect())
            }
        }
    }

    /// Some members of a room on all nodes, of at most `users` distinct users, and how many there are. What it costs does
    /// not grow with the room.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::UnknownNamespace`].
    pub async fn first_members(
        &self,
        namespace: &str,
        room: &str,
        users: usize,
    ) -> Result<FirstMembers, FanoutError> {
        let rooms = self.rooms(namespace)?;
        match &self.inner.backplane {
            Backplane::InProcess { .. } => {
                let Some(room) = rooms.find(room) else {
                    return Ok(FirstMembers { members: Vec::new(), count: RoomCount::default() });
                };
                let mut seen = HashSet::new();
                let mut members = room.map_some(users.saturating_mul(SCANNED_PER_USER), |info| {
                    let is_new = seen.len() < users && seen.insert(info.user.clone());
                    is_new.then(|| self.member(info))
                });
                Ok(FirstMembers { members: members.drain(..).flatten().collect(), count: room.count() })
            }
            Backplane::Redis { cluster, .. } => {
                let (members, count) =
                    cluster.presence.first_members(&room_key(namespace, room), users).await?;
                Ok(FirstMembers { members: members.iter().filter_map(listed).collect(), count })
            }
        }
    }

    fn member(&self, info: &SocketInfo) -> Member {
        Member {
            socket: info.id,
            user: info.user.clone(),
            display_name: info.display_name.clone(),
            node: self.inner.options.node,
            connected_at_ms: info.connected_at_ms,
            role: info.role.clone(),
        }
    }

    /// Whether a user has a socket in a room, on any node.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::UnknownNamespace`].
    pub async fn is_in(&self, namespace: &str, room: &str, user: &UserId) -> Result<bool, FanoutError> {
        let rooms = self.rooms(namespace)?;
        match &self.inner.backplane {
            Backplane::InProcess { .. } => {
                Ok(rooms.sockets_of(user.as_str()).iter().any(|socket| socket.is_in(room)))
            }
            Backplane::Redis { cluster, .. } => {
                cluster.presence.is_in(&room_key(namespace, room), user.as_str()).await
            }
        }
    }

    /// How many are in a room, on all nodes.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::UnknownNamespace`].
    pub async fn count(&self, namespace: &str, room: &str) -> Result<Counted, FanoutError> {
        let rooms = self.rooms(namespace)?;
        match &self.inner.backplane {
            Backplane::InProcess { .. } => {
                let count = rooms.find(room).map(|room| room.count()).unwrap_or_default();
                Ok(Counted { count, age: Duration::ZERO, stale: false })
            }
            Backplane::Redis { cluster, .. } => cluster.presence.count(&room_key(namespace, room)).await,
        }
    }
}

fn listed(kept: &StoredMember) -> Option<Member> {
    let info: serde_json::Value = serde_json::from_str(&kept.info).ok()?;
    let text = |field: &str| info.get(field).and_then(serde_json::Value::as_str).map(Into::into);
    let socket = SocketId::parse(&kept.socket)?;
    Some(Member {
        socket,
        user: UserId::parse(&kept.user).ok()?,
        display_name: text("d").unwrap_or_default(),
        node: socket.node(),
        connected_at_ms: info.get("c").and_then(serde_json::Value::as_u64).unwrap_or_default(),
        role: text("r"),
    })
}
