//! Membership of rooms in a cluster: every change here is written to the store, which decides first and last of a user.

use std::sync::Arc;

use shared::ids::SocketId;
use shared::names::{Room, UserId};

use super::backplane::{RedisBackplane, stored};
use super::presence::store::StoredMember;
use super::requests::Done;
use crate::error::FanoutError;
use crate::local::node::room_key;
use crate::local::room::{Kind, Room as LocalRoom};
use crate::local::socket::LocalSocket;
use crate::presence::{Entered, FirstMembers, Left, Member};

impl RedisBackplane {
    /// Subscribes to a room. Returns whether what is published to it is received from now on.
    pub(crate) async fn follow(&self, namespace: &str, room: &str) -> bool {
        Box::pin(self.subscriber.acquire(&self.channels.own_room(namespace, room))).await
    }

    /// Undoes one [`Self::follow`].
    pub(crate) fn unfollow(&self, namespace: &str, room: &str) {
        self.subscriber.release(&self.channels.own_room(namespace, room));
    }

    /// Puts a socket into a room.
    pub(crate) async fn enter(
        &self,
        socket: &Arc<LocalSocket>,
        (room, kind): (&Room, Kind),
        limit: usize,
    ) -> Result<Entered, FanoutError> {
        let (namespace, hub) = (socket.namespace().as_str(), self.node.hub_of(socket));
        let is_received = self.follow(namespace, room.as_str()).await;
        let key = room_key(namespace, room.as_str());
        let _changing = Box::pin(self.presence.changing(&key)).await;
        let entered = hub.enter(socket, (room, kind), limit);
        if !matches!(entered, Ok(Entered { new: true, .. })) {
            self.unfollow(namespace, room.as_str());
            return entered;
        }
        let entered = entered?;
        if let Some(found) = hub.find(room.as_str()) {
            if !found.is_public() {
                return Ok(entered);
            }
            if !is_received {
                found.mark_missed();
            }
        }
        let member = stored(&socket.info);
        let first = Box::pin(self.presence.entered(&key, &member)).await;
        if !socket.is_in(room.as_str()) {
            // Detached meanwhile, and the store got the leave before the entry.
            Box::pin(self.presence.left(&key, &member, true)).await;
        }
        Ok(Entered { new: true, first_of_user: first.unwrap_or(entered.first_of_user) })
    }

    /// Puts a socket into a room at once, for a backend: what is received after that reaches it. The store is
    /// updated afterwards. What our own nodes send to the room is received when its channel is subscribed, which is so before `done`
    /// is dropped; what backends send is received in any case.
    pub(super) async fn enter_now(self: &Arc<Self>, socket: &Arc<LocalSocket>, room: &Room, done: &Done) {
        let channel = self.channels.own_room(socket.namespace().as_str(), room.as_str());
        self.subscriber.want(&channel);
        // `ROOMS_PER_SOCKET` is for clients. A socket that has left meanwhile stays out.
        let entered = self.node.hub_of(socket).enter(socket, (room, Kind::Own), 0);
        if !matches!(entered, Ok(Entered { new: true, .. })) {
            self.subscriber.release(&channel);
            return;
        }
        let (backplane, socket, room, done) =
            (Arc::clone(self), Arc::clone(socket), room.clone(), done.clone());
        self.follow_up(async move {
            let is_received = backplane.subscriber.confirmed(&channel).await;
            if !is_received && let Some(found) = backplane.node.hub_of(&socket).find(room.as_str()) {
                found.mark_missed();
            }
            let (key, member) = (room_key(socket.namespace().as_str(), room.as_str()), stored(&socket.info));
            let _changing = Box::pin(backplane.presence.changing(&key)).await;
            Box::pin(backplane.presence.entered(&key, &member)).await;
            if !socket.is_in(room.as_str()) {
                // It has left meanwhile, and the store may have got that before the entry.
                Box::pin(backplane.presence.left(&key, &member, !socket.is_attached())).await;
            }
            drop(done);
        })
        .await;
    }

    /// Takes a socket out of a room at once, for a backend: what is received after that does not reach it. The store is
    /// updated afterwards.
    pub(super) async fn leave_now(self: &Arc<Self>, socket: &Arc<LocalSocket>, room: &str, done: &Done) {
        if !self.node.hub_of(socket).leave(socket, room).was_member {
            return;
        }
        let namespace = socket.namespace().as_str();
        self.unfollow(namespace, room);
        let (backplane, socket, done) = (Arc::clone(self), Arc::clone(socket), done.clone());
        let (key, room) = (room_key(namespace, room), room.to_owned());
        self.follow_up(async move {
            let member = stored(&socket.info);
            let _changing = Box::pin(backplane.presence.changing(&key)).await;
            // If it was let in again meanwhile, that entry is written by the task that did it.
            if !socket.is_in(&room) {
                Box::pin(backplane.presence.left(&key, &member, false)).await;
                if socket.is_in(&room) {
                    Box::pin(backplane.presence.entered(&key, &member)).await;
                }
            }
            drop(done);
        })
        .await;
    }

    /// Lets a socket receive what is broadcast to a room without being one of its members.
    pub(crate) async fn watch(&self, socket: &Arc<LocalSocket>, room: &Room) -> Result<(), FanoutError> {
        let namespace = socket.namespace().as_str();
        self.follow(namespace, room.as_str()).await;
        let entered = self.node.hub_of(socket).enter(socket, (room, Kind::Watched), 0);
        if !matches!(entered, Ok(Entered { new: true, .. })) {
            self.unfollow(namespace, room.as_str());
        }
        entered.map(drop)
    }

    /// Takes a socket out of a room.
    pub(crate) async fn leave(&self, socket: &Arc<LocalSocket>, room: &str) -> Left {
        let left = self.node.hub_of(socket).leave(socket, room);
        if !left.was_member {
            return left;
        }
        let namespace = socket.namespace().as_str();
        let key = room_key(namespace, room);
        let _changing = Box::pin(self.presence.changing(&key)).await;
        let last_of_user = Box::pin(self.presence.left(&key, &stored(&socket.info), false)).await;
        self.unfollow(namespace, room);
        Left { last_of_user, ..left }
    }

    /// Tells the store which rooms a detached socket has left.
    pub(crate) async fn left_rooms(&self, socket: &LocalSocket, left: &[Arc<LocalRoom>]) {
        let (namespace, member) = (socket.namespace().as_str(), stored(&socket.info));
        for room in left {
            let name = room.name.as_str();
            if room.is_public() {
                let key = room_key(namespace, name);
                let _changing = Box::pin(self.presence.changing(&key)).await;
                Box::pin(self.presence.left(&key, &member, true)).await;
            }
            self.unfollow(namespace, name);
        }
    }

    pub(crate) async fn members(&self, namespace: &str, room: &str) -> Result<Vec<Member>, FanoutError> {
        let members = self.presence.members(&room_key(namespace, room)).await?;
        Ok(members.iter().filter_map(listed).collect())
    }

    pub(crate) async fn first_members(
        &self,
        namespace: &str,
        room: &str,
        users: usize,
    ) -> Result<FirstMembers, FanoutError> {
        let (members, count) = self.presence.first_members(&room_key(namespace, room), users).await?;
        Ok(FirstMembers { members: members.iter().filter_map(listed).collect(), count })
    }
}

fn listed(member: &StoredMember) -> Option<Member> {
    let info: serde_json::Value = serde_json::from_str(&member.info).ok()?;
    let text = |field: &str| info.get(field).and_then(serde_json::Value::as_str).map(Into::into);
    let socket = SocketId::parse(&member.socket)?;
    Some(Member {
        socket,
        user: UserId::parse(&member.user).ok()?,
        display_name: text("d").unwrap_or_default(),
        node: socket.node(),
        connected_at_ms: info.get("c").and_then(serde_json::Value::as_u64).unwrap_or_default(),
        role: text("r"),
    })
}
