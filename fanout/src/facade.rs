//! [`Fanout`]: the handle that everybody clones.
//!
//! Entering, leaving and broadcasting are futures although a node alone answers them at once: with Redis
//! behind the same handle they wait for its word.

use std::collections::HashMap;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shared::ids::{NodeId, SessionId, SocketId};
use shared::limits::OVERFLOWS_QUEUED;
use shared::names::{Namespace, Room, UserId};
use shared::sio::Encoded;
use tokio::sync::mpsc;

use crate::courier::Courier;
use crate::error::FanoutError;
use crate::outbox::{Outbox, OutboxLimits, OutboxShared};
use crate::presence::{Entered, Left, Member, RoomCount};
use crate::registry::{LocalSocket, NamespaceRooms, SocketInfo};
use crate::stats::{Distributions, Stats, StatsSnapshot};

/// What a [`Fanout`] is made with.
#[derive(Debug, Clone)]
pub struct FanoutOptions {
    /// This node.
    pub node: NodeId,
    /// The namespaces it serves.
    pub namespaces: Vec<Namespace>,
    /// Couriers, one for each worker.
    pub couriers: usize,
    /// Bounds of every outbox.
    pub outbox: OutboxLimits,
    /// Rooms of one socket; 0: no limit.
    pub rooms_per_socket: usize,
    /// Sockets of one user in a namespace; 0: no limit.
    pub sockets_per_user: usize,
    /// Where delivery is observed.
    pub distributions: Distributions,
}

/// Where a broadcast goes.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The namespace.
    pub namespace: &'a Namespace,
    /// The room.
    pub room: &'a str,
    /// A socket that does not get it.
    pub except: Option<SocketId>,
    /// May be dropped for a client who cannot take it now.
    pub volatile: bool,
}

impl<'a> Target<'a> {
    /// Everybody in `room`.
    #[must_use]
    pub fn room(namespace: &'a Namespace, room: &'a str) -> Self {
        Self { namespace, room, except: None, volatile: false }
    }

    /// Not to `socket`.
    #[must_use]
    pub fn except(self, socket: SocketId) -> Self {
        Self { except: Some(socket), ..self }
    }

    /// Dropped for clients who cannot take it now.
    #[must_use]
    pub fn volatile(self) -> Self {
        Self { volatile: true, ..self }
    }
}

/// Rooms, members and delivery. Cheap to clone.
#[derive(Clone)]
pub struct Fanout {
    inner: Arc<Inner>,
}

struct Inner {
    options: FanoutOptions,
    namespaces: HashMap<Namespace, Arc<NamespaceRooms>>,
    couriers: Box<[Arc<Courier>]>,
    next_courier: AtomicUsize,
    outboxes: Arc<OutboxShared>,
}

impl fmt::Debug for Fanout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fanout").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

impl Fanout {
    /// Makes the fan-out of a node, and the channel that names sessions whose outbox overflowed: whoever
    /// owns sessions closes those. The couriers ([`Self::couriers`]) must be run.
    #[must_use]
    pub fn new(options: FanoutOptions) -> (Self, mpsc::Receiver<SessionId>) {
        let (overflowed, receiver) = mpsc::channel(OVERFLOWS_QUEUED);
        let stats = Arc::new(Stats::new(options.distributions.clone()));
        let couriers: Box<[_]> = (0..options.couriers.max(1)).map(|_| Arc::default()).collect();
        let rooms_of = |name: &Namespace| {
            let rooms = NamespaceRooms::new(name.clone(), couriers.clone(), Arc::clone(&stats));
            (name.clone(), Arc::new(rooms))
        };
        let namespaces = options.namespaces.iter().map(rooms_of).collect();
        let outboxes = Arc::new(OutboxShared { limits: options.outbox, overflowed, stats });
        let next_courier = AtomicUsize::new(0);
        (Self { inner: Arc::new(Inner { options, namespaces, couriers, next_courier, outboxes }) }, receiver)
    }

    /// The couriers, each to be run by a task of its own ([`Courier::run`]).
    #[must_use]
    pub fn couriers(&self) -> &[Arc<Courier>] {
        &self.inner.couriers
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.inner.options.node
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> StatsSnapshot {
        self.inner.outboxes.stats.snapshot()
    }

    /// An outbox for a new session.
    #[must_use]
    pub fn outbox(&self, session: SessionId) -> Arc<Outbox> {
        let turn = self.inner.next_courier.fetch_add(1, Ordering::Relaxed);
        let courier = &self.inner.couriers[turn % self.inner.couriers.len()];
        Arc::new(Outbox::new(session, Arc::clone(&self.inner.outboxes), Arc::clone(courier)))
    }

    /// Makes a socket known on this node.
    ///
    /// # Errors
    /// [`FanoutError::TooManySockets`], [`FanoutError::UnknownNamespace`].
    pub fn attach(
        &self,
        namespace: &str,
        info: SocketInfo,
        outbox: Arc<Outbox>,
    ) -> Result<Arc<LocalSocket>, FanoutError> {
        let rooms = self.inner.namespaces.get(namespace).ok_or(FanoutError::UnknownNamespace)?;
        rooms.attach(info, outbox, self.inner.options.sockets_per_user)
    }

    /// Forgets a socket: it leaves all of its rooms, which are answered. Safe to call twice: the second
    /// call finds nothing.
    pub fn detach(&self, socket: &Arc<LocalSocket>) -> Ready<Vec<(Room, Left)>> {
        ready(socket.namespace.detach(socket))
    }

    /// Puts a socket into a room: it gets every broadcast made after this answers, and none made before
    /// it was called.
    pub fn enter(&self, socket: &Arc<LocalSocket>, room: &Room) -> Ready<Result<Entered, FanoutError>> {
        ready(socket.namespace.enter(socket, room, self.inner.options.rooms_per_socket))
    }

    /// Takes a socket out of a room: nothing broadcast after this answers reaches it. Safe to call twice.
    pub fn leave(&self, socket: &Arc<LocalSocket>, room: &str) -> Ready<Left> {
        ready(socket.namespace.leave(socket, room))
    }

    /// Sends one packet to a room. Answers when it has its place in the room's order, not when it is
    /// written.
    pub fn broadcast(&self, target: Target<'_>, packet: Encoded) -> Ready<Result<(), FanoutError>> {
        let Some(rooms) = self.inner.namespaces.get(target.namespace) else {
            return ready(Err(FanoutError::UnknownNamespace));
        };
        if let Some(room) = rooms.find(target.room) {
            room.broadcast(packet, target.except, target.volatile);
        }
        ready(Ok(()))
    }

    /// Sends one packet to one socket of this node, behind what was broadcast to its rooms before.
    pub fn emit(&self, socket: &LocalSocket, packet: Encoded) {
        socket.emit(packet);
    }

    /// Who is in a room.
    pub fn members(&self, namespace: &str, room: &str) -> Ready<Result<Vec<Member>, FanoutError>> {
        let Some(rooms) = self.inner.namespaces.get(namespace) else {
            return ready(Err(FanoutError::UnknownNamespace));
        };
        let node = self.inner.options.node;
        let member = |info: &SocketInfo| Member {
            socket: info.id,
            user: info.user.clone(),
            display_name: info.display_name.clone(),
            node,
            connected_at_ms: info.connected_at_ms,
        };
        ready(Ok(rooms.find(room).map(|room| room.map_members(member)).unwrap_or_default()))
    }

    /// How many are in a room.
    pub fn count(&self, namespace: &str, room: &str) -> Ready<Result<RoomCount, FanoutError>> {
        let Some(rooms) = self.inner.namespaces.get(namespace) else {
            return ready(Err(FanoutError::UnknownNamespace));
        };
        let users = rooms.find(room).map(|room| room.map_members(|info| info.user.clone()));
        let users = users.unwrap_or_default();
        let sockets = users.len();
        let users = users.into_iter().collect::<std::collections::HashSet<UserId>>().len();
        ready(Ok(RoomCount { sockets, users }))
    }

    /// Whether any socket of `user` is in `room`.
    pub fn is_user_in(&self, namespace: &str, user: &UserId, room: &str) -> Ready<bool> {
        let rooms = self.inner.namespaces.get(namespace);
        let sockets = rooms.map(|rooms| rooms.sockets_of(user.as_str())).unwrap_or_default();
        ready(sockets.iter().any(|socket| socket.is_in(room)))
    }
}
