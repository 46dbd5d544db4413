//! Sockets that connect and disconnect, the rooms that they are in, and who else is there.

use std::sync::Arc;

use shared::limits::ROOMS_AT_ONCE;
use shared::names::{Namespace, Room, UserId};

use crate::error::FanoutError;
use crate::events::Control;
use crate::fanout::Fanout;
use crate::local::hub::Detached;
use crate::local::room::{Kind, Room as LocalRoom};
use crate::local::send_queue::SendQueue;
use crate::local::socket::LocalSocket;
use crate::presence::{Counted, Entered, FirstMembers, Left, Member, SocketInfo};

/// Interest in a room: while it is held, this node receives what is published to the room.
#[derive(Debug)]
pub struct Follow<'a> {
    fanout: &'a Fanout,
    namespace: String,
    room: String,
}

impl Drop for Follow<'_> {
    fn drop(&mut self) {
        self.fanout.inner.backplane.unfollow(&self.namespace, &self.room);
    }
}

// One socket.
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
        let hub = self.inner.node.hub(namespace)?;
        let socket = hub.attach(info, queue, self.inner.sockets_per_user)?;
        self.inner.backplane.follow_user(namespace, socket.user()).await;
        Ok(socket)
    }

    /// Takes a socket out of all of its rooms, some at a time: when this has ended nothing that is broadcast reaches it, and
    /// it is in no list. [`Self::detach`] then does what follows, and must be called.
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
    /// returned. Where it was its user's last, the user is reported as [`Gone`](crate::Gone) after the hold-back, unless they
    /// have reconnected. Safe to call twice: the second call finds nothing.
    pub async fn detach(&self, socket: &Arc<LocalSocket>) -> Vec<Room> {
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
            return names;
        }
        loop {
            let mut left = Vec::new();
            let detached = self.detach_some(socket, begins, &mut left, &mut info);
            if detached == Detached::Elsewhere {
                return names;
            }
            if begins {
                backplane.unfollow_user(socket.namespace().as_str(), socket.user());
            }
            backplane.left_rooms(socket, &left).await;
            names.extend(public(&left));
            if detached == Detached::Wholly {
                return names;
            }
            begins = false;
            tokio::task::yield_now().await;
        }
    }

    /// Takes a socket out of some of its rooms, which are added to `left`.
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

    /// Receives what is published to a room, before anybody enters it.
    pub async fn follow<'a>(&'a self, namespace: &str, room: &str) -> Follow<'a> {
        self.inner.backplane.follow(namespace, room).await;
        Follow { fanout: self, namespace: namespace.to_owned(), room: room.to_owned() }
    }

    /// Puts a socket into a room: it gets every broadcast made after this has ended, and none made before
    /// it was called. While Redis is away it is in the room for this node alone, until Redis is back.
    ///
    /// # Errors
    /// [`FanoutError::TooManyRooms`], [`FanoutError::Gone`].
    pub async fn enter(&self, socket: &Arc<LocalSocket>, room: &Room) -> Result<Entered, FanoutError> {
        self.inner.backplane.enter(socket, (room, Kind::Joined), self.inner.rooms_per_socket).await
    }

    /// As [`Self::enter`], for a room that an app puts every socket into: `ROOMS_PER_SOCKET` does not matter, nor does
    /// the room count against it.
    ///
    /// # Errors
    /// [`FanoutError::Gone`].
    pub async fn enter_own(&self, socket: &Arc<LocalSocket>, room: &Room) -> Result<Entered, FanoutError> {
        self.inner.backplane.enter(socket, (room, Kind::Own), self.inner.rooms_per_socket).await
    }

    /// Lets a socket receive what is broadcast to a room without being one of its members: nobody is notified, nothing is
    /// counted, and `ROOMS_PER_SOCKET` does not matter. The caller bounds how many rooms one socket watches, and uses the room
    /// for nothing else; all sockets of a user together watch `WATCHED_PER_USER_MAX`. Undone by [`Self::unwatch`], and when
    /// the socket is detached.
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

    /// Takes a socket out of a room: nothing broadcast after this has ended reaches it. Safe to call twice.
    pub async fn leave(&self, socket: &Arc<LocalSocket>, room: &str) -> Left {
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

    /// As [`Self::join_user`], but only those sockets enter that may be in the room by the rules of its app
    /// ([`Control::Bring`]): sockets of one user may have tokens of different rights.
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

    /// Sockets of this node enter a room, those that may be there by the rules of its app. Nobody waits for it.
    pub async fn bring(&self, sockets: Vec<Arc<LocalSocket>>, room: Room) {
        self.inner.node.control(Control::Bring { sockets, room, reply: None }).await;
    }

    /// Who may be in a room has changed: sockets that may not be there any more leave it ([`Control::Review`]). Returns
    /// whether all nodes have reported within `JOIN_WAIT_MS` that it is done. A node that was not asked, because Redis is
    /// away, judges all of its sockets when its subscriptions are renewed.
    pub async fn review(&self, namespace: &Namespace, room: &Room) -> bool {
        match self.hub(namespace) {
            Ok(hub) => self.inner.backplane.review(&self.inner.node, hub, room).await,
            Err(_) => false,
        }
    }

    /// Every socket of a user leaves a room. May be repeated.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
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
    /// [`FanoutError::Unavailable`].
    pub async fn leave_all(&self, namespace: &Namespace, room: &Room) -> Result<(), FanoutError> {
        self.inner.backplane.take_out(self.hub(namespace)?, room.as_str(), room).await
    }

    /// Those sockets of a user that are in `room` are disconnected from the namespace.
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
        if ids.is_empty() {
            return Ok(());
        }
        self.inner.backplane.disconnect(self.hub(namespace)?, &ids).await
    }

    /// Who is in a room.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::UnknownNamespace`].
    pub async fn members(&self, namespace: &str, room: &str) -> Result<Vec<Member>, FanoutError> {
        self.inner.backplane.members(self.inner.node.hub(namespace)?, room).await
    }

    /// Some members of a room, of at most `users` distinct users, and how many there are. What it costs does not grow with the
    /// room.
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

    /// How many are in a room.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::UnknownNamespace`].
    pub async fn count(&self, namespace: &str, room: &str) -> Result<Counted, FanoutError> {
        self.inner.backplane.count(self.inner.node.hub(namespace)?, room).await
    }
}
