//! Connects and disconnects sockets, and manages the rooms that they are in.

use std::fmt;
use std::sync::Arc;

use shared::limits::ROOMS_AT_ONCE;
use shared::names::{Namespace, Room, UserId};

use crate::error::FanoutError;
use crate::events::Control;
use crate::fanout::{Fanout, Inner};
use crate::local::hub::{Detached, Hub};
use crate::local::placements::Placements;
use crate::local::room::{Kind, Room as LocalRoom};
use crate::local::send_queue::SendQueue;
use crate::local::socket::LocalSocket;
use crate::presence::{Counted, Entered, FirstMembers, Gone, Left, Member, SocketInfo};

/// Interest in a room: while it is held, this node receives what is published to the room.
pub struct Follow<'a> {
    fanout: &'a Fanout,
    /// None where the node does not serve the namespace.
    hub: Option<&'a Arc<Hub>>,
    room: String,
}

impl fmt::Debug for Follow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow").field("room", &self.room).finish_non_exhaustive()
    }
}

impl Drop for Follow<'_> {
    fn drop(&mut self) {
        if let Some(hub) = self.hub {
            self.fanout.inner.backplane.unfollow_room(hub, &self.room);
        }
    }
}

/// An app places a socket in the rooms that its records give it. Orders to leave a room wait for the end.
pub struct Placement<'a> {
    fanout: &'a Fanout,
    socket: &'a Arc<LocalSocket>,
    number: u64,
}

impl Placement<'_> {
    /// The records have been read: the socket will enter these rooms, and orders to leave others need not wait.
    pub fn narrow<'a>(&self, rooms: impl Iterator<Item = &'a Room>) {
        let rooms = rooms.map(|room| room.as_str().to_owned()).collect();
        self.placements().narrow(self.number, rooms);
    }

    /// The socket is in its rooms: it leaves those again that it was ordered to leave meanwhile. Returns them: if the records
    /// have changed once more since, it belongs in them.
    pub async fn end(self) -> Vec<String> {
        let mut rooms = Vec::new();
        for order in self.placements().end(self.number) {
            self.fanout.leave_at_once(self.socket, &order.room).await;
            rooms.push(order.room.clone());
        }
        rooms
    }

    fn placements(&self) -> &Placements {
        &self.fanout.inner.node.hub_of(self.socket).placements
    }
}

impl fmt::Debug for Placement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placement").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Drop for Placement<'_> {
    fn drop(&mut self) {
        // Without an end, the socket was not placed.
        self.placements().end(self.number);
    }
}

/// A socket that is not attached yet. This node already receives what is sent to its user.
pub struct PreparedSocket<'a> {
    fanout: &'a Fanout,
    hub: &'a Hub,
    /// `None` once it is attached.
    info: Option<SocketInfo>,
}

impl fmt::Debug for PreparedSocket<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedSocket").field("info", &self.info).finish_non_exhaustive()
    }
}

impl PreparedSocket<'_> {
    /// Attaches the socket to this node in one step: from then on it receives what is sent to its user, to its own id and to the
    /// namespace, and can be disconnected. `first` is called when nothing can refuse the socket any more and before other tasks
    /// can find it: packets that it queues come ahead of everything that is sent to the socket.
    ///
    /// # Errors
    /// [`FanoutError::TooManySockets`].
    pub fn attach(
        mut self,
        queue: Arc<SendQueue>,
        first: impl FnOnce(),
    ) -> Result<Arc<LocalSocket>, FanoutError> {
        // It can be taken once.
        let info = self.info.take().ok_or(FanoutError::Gone)?;
        let user = info.user.clone();
        let attached = self.hub.attach((info, queue), self.fanout.inner.sockets_per_user, first);
        if attached.is_err() {
            self.fanout.inner.backplane.unfollow_user(self.hub.name.as_str(), &user);
        }
        attached
    }
}

impl Drop for PreparedSocket<'_> {
    fn drop(&mut self) {
        if let Some(info) = &self.info {
            self.fanout.inner.backplane.unfollow_user(self.hub.name.as_str(), &info.user);
        }
    }
}

// One socket.
impl Fanout {
    /// Prepares to attach a socket ([`PreparedSocket::attach`]). When this ends, this node receives what is sent to its user;
    /// where Redis does not confirm the subscription in time, it follows later.
    ///
    /// # Errors
    /// [`FanoutError::UnknownNamespace`].
    pub async fn prepare(
        &self,
        namespace: &str,
        info: SocketInfo,
    ) -> Result<PreparedSocket<'_>, FanoutError> {
        let hub = self.inner.node.hub(namespace)?;
        self.inner.backplane.follow_user(namespace, &info.user).await;
        Ok(PreparedSocket { fanout: self, hub, info: Some(info) })
    }

    /// Removes a socket from all of its rooms, some at a time. When this ends, no broadcast reaches it and no list contains it.
    /// Call [`Self::detach`] afterwards for the rest.
    pub async fn expel(&self, socket: &Arc<LocalSocket>) {
        let (mut begins, mut expelled, mut info) = (true, Vec::new(), None);
        loop {
            match self.detach_some(socket, begins, &mut expelled, &mut info) {
                Detached::Elsewhere => return,
                Detached::Wholly => return socket.set_expelled(expelled),
                Detached::Partly => begins = false,
            }
            tokio::task::yield_now().await;
        }
    }

    /// Forgets a socket. It leaves all of its rooms, some at a time, so that others get their turn; the public ones are
    /// returned. Where it was its user's last, the user is reported as [`Gone`] after the hold-back, unless they
    /// have reconnected. Safe to call twice: the second call returns no rooms when the first has ended.
    pub async fn detach(&self, socket: &Arc<LocalSocket>) -> Vec<Room> {
        match self.detach_here(socket).await {
            Some(names) => {
                self.inner.node.hub_of(socket).has_left(socket);
                names
            }
            None => {
                socket.until_left().await;
                Vec::new()
            }
        }
    }

    /// As [`Self::detach`]. `None` where another call is detaching the socket.
    async fn detach_here(&self, socket: &Arc<LocalSocket>) -> Option<Vec<Room>> {
        let backplane = &self.inner.backplane;
        let (mut names, mut begins, mut info) = (Vec::new(), true, None);
        let public = |left: &[Arc<LocalRoom>]| -> Vec<Room> {
            left.iter().filter(|room| room.is_public()).map(|room| room.name.clone()).collect()
        };
        if let Some(expelled) = socket.take_expelled() {
            backplane.unfollow_user(socket.namespace().as_str(), socket.user());
            for left in expelled.chunks(ROOMS_AT_ONCE) {
                backplane.left_rooms(socket, left).await;
                names.extend(public(left));
                tokio::task::yield_now().await;
            }
            return Some(names);
        }
        loop {
            let mut left = Vec::new();
            let detached = self.detach_some(socket, begins, &mut left, &mut info);
            if detached == Detached::Elsewhere {
                return None;
            }
            if begins {
                backplane.unfollow_user(socket.namespace().as_str(), socket.user());
            }
            backplane.left_rooms(socket, &left).await;
            names.extend(public(&left));
            if detached == Detached::Wholly {
                return Some(names);
            }
            begins = false;
            tokio::task::yield_now().await;
        }
    }

    /// Removes a socket from some of its rooms, which are added to `left`.
    fn detach_some(
        &self,
        socket: &Arc<LocalSocket>,
        begins: bool,
        left: &mut Vec<Arc<LocalRoom>>,
        info: &mut Option<String>,
    ) -> Detached {
        self.inner.node.hub_of(socket).detach_some(socket, begins, ROOMS_AT_ONCE, |room, is_last| {
            self.inner.backplane.leaving(socket, (room, is_last), info);
            left.push(Arc::clone(room));
        })
    }

    /// Begins to place a socket in rooms that an app's records give it. Call it before reading the records: orders to leave
    /// a room ([`Self::leave_user`], [`Self::leave_all`], [`Self::disconnect_user`]) wait for [`Placement::end`].
    #[must_use]
    pub fn begin_placement<'a>(&'a self, socket: &'a Arc<LocalSocket>) -> Placement<'a> {
        let number = self.inner.node.hub_of(socket).placements.begin(socket);
        Placement { fanout: self, socket, number }
    }

    /// Subscribes to a room before a socket enters it: broadcasts whose order an app keeps are passed to the app.
    pub async fn follow<'a>(&'a self, namespace: &str, room: &str) -> Follow<'a> {
        let hub = self.inner.node.find(namespace);
        // Dropping it undoes the subscription, even if the caller does not wait for the end.
        let follow = Follow { fanout: self, hub, room: room.to_owned() };
        if let Some(hub) = hub {
            self.inner.backplane.follow_room(hub, room).await;
        }
        follow
    }

    /// Puts a socket into a room: it receives every broadcast made after this ends, and none made before the call. While Redis
    /// is away, the socket is a member for this node only.
    ///
    /// # Errors
    /// [`FanoutError::TooManyRooms`], [`FanoutError::Gone`].
    pub async fn enter(&self, socket: &Arc<LocalSocket>, room: &Room) -> Result<Entered, FanoutError> {
        self.inner.backplane.enter(socket, (room, Kind::Joined), self.inner.rooms_per_socket).await
    }

    /// As [`Self::enter`], for a room that an app puts every socket into: `ROOMS_PER_SOCKET` does not apply, and the room does
    /// not count towards it.
    ///
    /// # Errors
    /// [`FanoutError::Gone`].
    pub async fn enter_own(&self, socket: &Arc<LocalSocket>, room: &Room) -> Result<Entered, FanoutError> {
        self.inner.backplane.enter(socket, (room, Kind::Own), self.inner.rooms_per_socket).await
    }

    /// Lets a socket receive a room's broadcasts without becoming a member: no client is notified, nothing is counted, and
    /// `ROOMS_PER_SOCKET` does not apply. The caller bounds how many rooms one socket watches, and uses the room for nothing
    /// else; all sockets of a user together watch up to `WATCHED_PER_USER_MAX`. Undone by [`Self::unwatch`], and when the socket
    /// is detached.
    ///
    /// # Errors
    /// [`FanoutError::Gone`], [`FanoutError::TooManyWatched`].
    pub async fn watch(&self, socket: &Arc<LocalSocket>, room: &Room) -> Result<(), FanoutError> {
        self.inner.backplane.watch(socket, room).await
    }

    /// The rooms that a socket watches.
    #[must_use]
    pub fn watched(&self, socket: &LocalSocket) -> Vec<Room> {
        socket.watched()
    }

    /// Undoes [`Self::watch`]. Safe to call twice.
    pub fn unwatch(&self, socket: &Arc<LocalSocket>, room: &str) {
        if self.inner.node.hub_of(socket).leave(socket, room).was_member {
            self.inner.backplane.unfollow(socket.namespace().as_str(), room);
        }
    }

    /// Removes a socket from a room, after everything that this node posted to the room before ([`Self::after_posts`]): the
    /// socket receives those posts, and no broadcast made after this ends. Safe to call twice.
    pub async fn leave(&self, socket: &Arc<LocalSocket>, room: &str) -> Left {
        let Inner { node, backplane, .. } = &*self.inner;
        backplane.after_posts(node.hub_of(socket), room).await;
        backplane.leave(socket, room).await
    }

    /// As [`Self::leave`], but at once: for callers that have waited themselves, and for sockets that may no longer be in the
    /// room.
    pub async fn leave_at_once(&self, socket: &Arc<LocalSocket>, room: &str) -> Left {
        self.inner.backplane.leave(socket, room).await
    }
}

// All sockets of a user or a room, on all nodes.
impl Fanout {
    /// Every socket of a user enters a room. May be repeated.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`]: not all nodes have reported within `JOIN_WAIT_MS` that it is done.
    pub async fn join_user(
        &self,
        namespace: &Namespace,
        user: &UserId,
        room: &Room,
    ) -> Result<(), FanoutError> {
        self.inner.backplane.join_user(self.hub(namespace)?, (user, room), false).await
    }

    /// As [`Self::join_user`], but only for sockets that the rules of the room's app allow ([`Control::Bring`]): tokens of one
    /// user may have different rights.
    ///
    /// # Errors
    /// As [`Self::join_user`].
    pub async fn bring_user(
        &self,
        namespace: &Namespace,
        user: &UserId,
        room: &Room,
    ) -> Result<(), FanoutError> {
        self.inner.backplane.join_user(self.hub(namespace)?, (user, room), true).await
    }

    /// Moves sockets of this node into a room, as far as the rules of its app allow them. Does not wait.
    pub async fn bring(&self, sockets: Vec<Arc<LocalSocket>>, room: Room) {
        self.inner.node.control(Control::Bring { sockets, room, reply: None }).await;
    }

    /// The rules of a room have changed: removes the sockets that may no longer be in it ([`Control::Review`]). Returns whether
    /// all nodes have reported within `JOIN_WAIT_MS` that it is done. A node that was not asked because Redis is away checks all
    /// of its sockets when its subscriptions are renewed.
    pub async fn review(&self, namespace: &Namespace, room: &Room) -> bool {
        match self.hub(namespace) {
            Ok(hub) => self.inner.backplane.review(&self.inner.node, hub, room).await,
            Err(_) => false,
        }
    }

    /// Every socket of a user leaves a room. May be repeated.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`]: not all nodes have reported within `JOIN_WAIT_MS` that it is done.
    pub async fn leave_user(
        &self,
        namespace: &Namespace,
        user: &UserId,
        room: &Room,
    ) -> Result<(), FanoutError> {
        self.inner.backplane.take_out(self.hub(namespace)?, Room::of_user(user).as_str(), room).await
    }

    /// Every socket in a room leaves it. May be repeated.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`]: not all nodes have reported within `JOIN_WAIT_MS` that it is done.
    pub async fn leave_all(&self, namespace: &Namespace, room: &Room) -> Result<(), FanoutError> {
        self.inner.backplane.take_out(self.hub(namespace)?, room.as_str(), room).await
    }

    /// Disconnects a user's sockets that are in `room` from the namespace.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn disconnect_user(
        &self,
        namespace: &Namespace,
        user: &UserId,
        room: &Room,
    ) -> Result<(), FanoutError> {
        let members = self.members(namespace.as_str(), room.as_str()).await?;
        let ids: Vec<_> =
            members.iter().filter(|member| member.user == *user).map(|member| member.socket).collect();
        let (backplane, hub) = (&self.inner.backplane, self.hub(namespace)?);
        // A socket that an app is placing in the room is no member yet.
        let own = Room::of_user(user);
        let leave = backplane.take_out(hub, own.as_str(), room);
        if ids.is_empty() {
            return leave.await;
        }
        let (left, disconnected) = tokio::join!(leave, backplane.disconnect(hub, &ids));
        left.and(disconnected)
    }

    /// The members of a room.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::UnknownNamespace`].
    pub async fn members(&self, namespace: &str, room: &str) -> Result<Vec<Member>, FanoutError> {
        self.inner.backplane.members(self.inner.node.hub(namespace)?, room).await
    }

    /// Some members of a room, of at most `users` distinct users, and how many there are. The cost does not grow with the room.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::UnknownNamespace`].
    pub async fn first_members(
        &self,
        namespace: &str,
        room: &str,
        users: usize,
    ) -> Result<FirstMembers, FanoutError> {
        self.inner.backplane.first_members(self.inner.node.hub(namespace)?, room, users).await
    }

    /// Whether a user has a socket in a room.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::UnknownNamespace`].
    pub async fn is_in(&self, namespace: &str, room: &str, user: &UserId) -> Result<bool, FanoutError> {
        self.inner.backplane.is_in(self.inner.node.hub(namespace)?, room, user).await
    }

    /// Whether a user who was reported as [`Gone`] is in the room again. False where Redis is away.
    pub async fn is_back(&self, gone: &Gone) -> bool {
        match self.hub(&gone.namespace) {
            Ok(hub) => self.inner.backplane.is_back(hub, gone.room.as_str(), &gone.user).await,
            Err(_) => false,
        }
    }

    /// Counts the members of a room.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::UnknownNamespace`].
    pub async fn count(&self, namespace: &str, room: &str) -> Result<Counted, FanoutError> {
        self.inner.backplane.count(self.inner.node.hub(namespace)?, room).await
    }
}
