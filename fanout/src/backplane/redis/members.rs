//! Membership of rooms in a cluster. Every change is written to the store, which decides whether a socket is a user's first or
//! last.

use std::sync::Arc;

use shared::ids::SocketId;
use shared::names::{Room, UserId};
use tokio::sync::mpsc;

use super::backplane::{RedisBackplane, stored};
use super::presence::stored::StoredMember;
use super::requests::Done;
use crate::error::FanoutError;
use crate::events::Control;
use crate::local::node::{MembershipChange, room_key};
use crate::local::room::{Kind, Room as LocalRoom};
use crate::local::socket::LocalSocket;
use crate::presence::{Entered, FirstMembers, Left, Member};

impl RedisBackplane {
    /// Subscribes to a room. Returns whether this node receives what is published to it from now on.
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
            // The socket was detached meanwhile, and the store got the leave before the entry.
            Box::pin(self.presence.left(&key, &member, true)).await;
        }
        Ok(Entered { new: true, first_of_user: first.unwrap_or(entered.first_of_user) })
    }

    /// Puts a socket into a room at once, for a backend: the socket receives whatever arrives after that. The store is updated
    /// afterwards. Broadcasts of Muster nodes arrive once the room's channel is subscribed, which is so before `done` is dropped;
    /// broadcasts of backends arrive in any case. If a backend has asked, and not an app, the entry of a user's first socket is
    /// reported to the owner.
    pub(super) async fn enter_now(
        self: &Arc<Self>,
        socket: &Arc<LocalSocket>,
        room: &Room,
        (is_of_backend, done): (bool, &Done),
    ) {
        let channel = self.channels.own_room(socket.namespace().as_str(), room.as_str());
        self.subscriber.want(&channel);
        // `ROOMS_PER_SOCKET` bounds clients only. A socket that has left meanwhile stays out.
        let entered = self.node.hub_of(socket).enter(socket, (room, Kind::Own), 0);
        let Ok(Entered { new: true, first_of_user }) = entered else {
            self.subscriber.release(&channel);
            return;
        };
        let (backplane, socket, room, done) =
            (Arc::clone(self), Arc::clone(socket), room.clone(), done.clone());
        self.follow_up(async move {
            let is_received = backplane.subscriber.confirmed(&channel).await;
            if !is_received && let Some(found) = backplane.node.hub_of(&socket).find(room.as_str()) {
                found.mark_missed();
            }
            let (key, member) = (room_key(socket.namespace().as_str(), room.as_str()), stored(&socket.info));
            let place = is_of_backend.then(|| backplane.node.try_reserve_report()).flatten();
            let changing = Box::pin(backplane.presence.changing(&key)).await;
            let first = Box::pin(backplane.presence.entered(&key, &member)).await;
            if socket.is_in(room.as_str()) {
                if is_of_backend && first.unwrap_or(first_of_user) {
                    backplane.report_move(place, changing, change((key, member), true)).await;
                }
            } else {
                // The socket has left meanwhile, and the store may have got the leave first.
                Box::pin(backplane.presence.left(&key, &member, !socket.is_attached())).await;
            }
            drop(done);
        })
        .await;
    }

    /// Removes a socket from a room at once, for a backend: the socket receives nothing that arrives after that. The store is
    /// updated afterwards, and the leave of a user's last socket is reported to the owner, like the entry of the first.
    pub(super) async fn leave_now(
        self: &Arc<Self>,
        socket: &Arc<LocalSocket>,
        room: &str,
        (is_of_backend, done): (bool, &Done),
    ) {
        if !self.node.hub_of(socket).leave(socket, room).was_member {
            return;
        }
        let namespace = socket.namespace().as_str();
        self.unfollow(namespace, room);
        let (backplane, socket, done) = (Arc::clone(self), Arc::clone(socket), done.clone());
        let (key, room) = (room_key(namespace, room), room.to_owned());
        self.follow_up(async move {
            let member = stored(&socket.info);
            let place = is_of_backend.then(|| backplane.node.try_reserve_report()).flatten();
            let changing = Box::pin(backplane.presence.changing(&key)).await;
            let mut is_gone = false;
            // If another task let it in meanwhile, that task writes the entry.
            if !socket.is_in(&room) {
                is_gone = Box::pin(backplane.presence.left(&key, &member, false)).await;
                if socket.is_in(&room) {
                    Box::pin(backplane.presence.entered(&key, &member)).await;
                    is_gone = false;
                }
            }
            if is_of_backend && is_gone {
                backplane.report_move(place, changing, change((key, member), false)).await;
            }
            drop(done);
        })
        .await;
    }

    /// Reports what a backend has changed: in its place at once, so that reports about a room have the order of the store's
    /// answers. Without a place it waits, but not while it keeps others from changing the room: the receiver may want to.
    async fn report_move<G>(
        &self,
        place: Option<mpsc::Permit<'_, Control>>,
        changing: G,
        change: MembershipChange,
    ) {
        if let Some(place) = place {
            self.node.report_in(place, &change);
            return;
        }
        drop(changing);
        self.node.report(change).await;
    }

    /// Lets a socket receive a room's broadcasts without becoming a member.
    pub(crate) async fn watch(&self, socket: &Arc<LocalSocket>, room: &Room) -> Result<(), FanoutError> {
        let namespace = socket.namespace().as_str();
        self.follow(namespace, room.as_str()).await;
        let entered = self.node.hub_of(socket).enter(socket, (room, Kind::Watched), 0);
        if !matches!(entered, Ok(Entered { new: true, .. })) {
            self.unfollow(namespace, room.as_str());
        }
        entered.map(drop)
    }

    /// Removes a socket from a room.
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

    /// Records in the store that a detached socket has left rooms.
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

/// A backend has added a user's first socket to a room, or removed the last one.
fn change((room, member): (String, StoredMember), returned: bool) -> MembershipChange {
    MembershipChange { room, user: member.user, info: member.info, returned, held_back: false }
}

fn listed(member: &StoredMember) -> Option<Member> {
    let info: serde_json::Value = serde_json::from_str(&member.info).ok()?;
    let text = |field: &str| info.get(field).and_then(serde_json::Value::as_str);
    let socket = SocketId::parse(&member.socket)?;
    Some(Member {
        socket,
        user: UserId::parse(&member.user).ok()?,
        display_name: text("d").unwrap_or_default().into(),
        node: socket.node(),
        connected_at_ms: info.get("c").and_then(serde_json::Value::as_u64).unwrap_or_default(),
        role: text("r").map(Into::into),
    })
}
