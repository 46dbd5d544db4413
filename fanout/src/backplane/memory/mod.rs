//! The backplane of a single node: its own registry is complete, so most calls return at once.
//!
//! It keeps what the cluster keeps in Redis: departures that are held back, questions to clients, idempotency keys, and the
//! live state of apps ([`live`]).

pub(crate) mod live;
mod once;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use shared::adapter::Body;
use shared::ids::SocketId;
use shared::limits::{JOIN_WAIT_MS, LINGERING_MAX};
use shared::names::{Room, USER_ROOM_PREFIX, UserId};
use shared::sio::{Encoded, Event};

use self::live::LiveMemory;
use self::once::Keys;
use super::departures::{Departure, Departures};
use super::questions::{Question, Questions};
use crate::collector::{Answers, Asker, Expected};
use crate::error::FanoutError;
use crate::events::{Control, Reply, Turn};
use crate::local::delivery::{Delivery, Receivers};
use crate::local::hub::Hub;
use crate::local::node::{LocalNode, MembershipChange, member_info, room_key};
use crate::local::room::{Kind, Room as LocalRoom};
use crate::local::socket::LocalSocket;
use crate::presence::{Entered, FirstMembers, Left, Member, RoomCount, SCANNED_PER_USER};
use crate::sequenced::{Except, Sequenced};
use crate::target::{Form, Packet, Posted, Receipt, Target, To};

/// A single node.
pub(crate) struct MemoryBackplane {
    node: Arc<LocalNode>,
    departures: Departures,
    questions: Questions,
    keys: Keys,
    pub(crate) live: LiveMemory,
}

impl MemoryBackplane {
    pub(crate) fn new(node: Arc<LocalNode>) -> Self {
        Self {
            questions: Questions::new(node.id.as_str()),
            node,
            departures: Departures::new(LINGERING_MAX),
            keys: Keys::default(),
            live: LiveMemory::default(),
        }
    }

    /// Reports the users who did not return in time.
    pub(crate) async fn run(&self) {
        loop {
            let Departure { room, user, info, .. } = self.departures.due().await;
            self.node.report(MembershipChange { room, user, info, returned: false, held_back: true }).await;
        }
    }

    /// Delivers a broadcast to this node's sockets.
    pub(crate) fn post(&self, target: &Target<'_>, packet: Packet) -> Posted {
        match packet.0 {
            Form::Ready(packet) => match self.receive(target, packet) {
                Ok(posted) => posted,
                Err(error) => Posted::Done(Err(error)),
            },
            Form::Bad(error) => Posted::Done(Err(error)),
            Form::Message(_) => Posted::Done(Err(FanoutError::BadPacket)),
        }
    }

    fn receive(&self, target: &Target<'_>, packet: Encoded) -> Result<Posted, FanoutError> {
        let namespace = target.namespace.as_str();
        let hub = self.node.hub(namespace)?;
        let receipt = Receipt { nodes: 1, ..Receipt::default() };
        if let Some(key) = target.idempotency {
            let room = target.to.room();
            if !self.keys.is_first((namespace, room.as_deref().unwrap_or_default()), key) {
                return Ok(Posted::Done(Ok(Receipt { nodes: 0, repeated: true, ..receipt })));
            }
        }
        let found = match target.to {
            To::Room(room) => hub.find(room),
            To::User(_) | To::All => None,
        };
        if let To::Room(room) = target.to
            && (target.sequence.is_some() || found.as_ref().is_some_and(|room| room.is_sequenced()))
        {
            found.inspect(|room| room.set_sequenced());
            self.node.pass_to_app(Sequenced {
                namespace: target.namespace.clone(),
                room: room.to_owned(),
                sequence: target.sequence,
                packet,
                except: Except {
                    socket: target.except,
                    user: target.except_user.cloned(),
                    rooms: Vec::new(),
                },
                volatile: target.volatile,
            });
            return Ok(Posted::Done(Ok(receipt)));
        }
        let delivery = Delivery {
            to: match target.to {
                To::Room(room) => Receivers::Room(room, found.as_ref()),
                To::User(user) => Receivers::User(user.as_str()),
                To::All => Receivers::Rooms(&[]),
            },
            except: target.except,
            except_user: target.except_user.map(UserId::as_str),
            except_rooms: &[],
            volatile: target.volatile,
        };
        hub.deliver(&delivery, &packet);
        Ok(Posted::Done(Ok(receipt)))
    }

    /// Whether `key` stands for `request`.
    pub(crate) fn claim_key(&self, key: &str, request: &str) -> Result<bool, FanoutError> {
        self.keys.claim(key, request)
    }

    /// Asks the clients of sockets, and waits for the answers.
    pub(crate) async fn ask(
        &self,
        target: &Target<'_>,
        event: &Event<'_>,
        (at_most, turn): (Duration, Turn),
    ) -> Result<Answers, FanoutError> {
        let (question, reply) = self.open(Asker::Client, Expected::Sockets { nodes: 1 })?;
        let room = target.to.room();
        let except = target.excepted();
        let audience = self.node.hub(target.namespace.as_str())?.audience(room.as_slice(), &except);
        let name = serde_json::Value::from(event.name).to_string();
        let json = std::iter::once(&*name).chain(event.args.iter().copied()).collect::<Vec<_>>().join(",");
        let body = Body { json, attachments: event.attachments.to_vec() };
        let ask = Control::Ask { audience, body, timeout: at_most, reply, turn };
        self.node.control.send(ask).await.map_err(|_| FanoutError::Unavailable)?;
        Ok(question.answers(at_most).await)
    }

    /// A question of this node to itself.
    fn open(&self, asker: Asker, expected: Expected) -> Result<(Question, Reply), FanoutError> {
        let question = self.questions.open(asker, expected)?;
        let reply = Reply { to: Arc::new(self.questions.clone()), id: question.id.clone() };
        Ok((question, reply))
    }

    /// Asks the owner to do something, and waits until it is done, at most as long as for other nodes. Where no question can
    /// be opened, the owner still does it, but completion is unknown.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::TooManyQuestions`].
    async fn have_done<F: Future<Output = ()>>(
        &self,
        order: impl FnOnce(Option<Reply>) -> F,
    ) -> Result<(), FanoutError> {
        match self.open(Asker::Node, Expected::Reports { nodes: 1 }) {
            Ok((question, reply)) => {
                order(Some(reply)).await;
                question.done_by_all(Duration::from_millis(JOIN_WAIT_MS)).await
            }
            Err(error) => {
                order(None).await;
                Err(error)
            }
        }
    }

    /// A user's last socket has left a room; the user may return. `info` is the socket's stored info, once it is encoded.
    pub(crate) fn hold_back(
        &self,
        socket: &LocalSocket,
        (room, is_last): (&LocalRoom, bool),
        info: &mut Option<String>,
    ) {
        if is_last && room.is_public() {
            let info = info.get_or_insert_with(|| member_info(&socket.info)).clone();
            let room = room_key(socket.namespace().as_str(), room.name.as_str());
            self.add_departure(socket, room, info);
        }
    }

    fn add_departure(&self, socket: &LocalSocket, room: String, info: String) {
        let user = socket.user().as_str().to_owned();
        let departure = Departure { room, user, info, incarnation: String::new(), reported: false };
        self.departures.add(departure, self.node.holdback);
    }

    /// Puts a socket into a room.
    pub(crate) fn enter(
        &self,
        socket: &Arc<LocalSocket>,
        (room, kind): (&Room, Kind),
        limit: usize,
    ) -> Result<Entered, FanoutError> {
        let entered = self.node.hub_of(socket).enter(socket, (room, kind), limit)?;
        if !entered.first_of_user || self.departures.is_empty() {
            return Ok(entered);
        }
        let key = room_key(socket.namespace().as_str(), room.as_str());
        let was_held_back = self.departures.cancel(&key, socket.user().as_str());
        if was_held_back && !socket.is_in(room.as_str()) {
            // The connection was lost while the socket entered, and entering has just cancelled its departure.
            self.add_departure(socket, key, member_info(&socket.info));
        }
        Ok(Entered { first_of_user: !was_held_back, ..entered })
    }

    /// Removes a socket from a room.
    pub(crate) fn leave(&self, socket: &Arc<LocalSocket>, room: &str) -> Left {
        let left = self.node.hub_of(socket).leave(socket, room);
        if left.was_member && left.last_of_user && !self.departures.is_empty() {
            self.departures.cancel(&room_key(socket.namespace().as_str(), room), socket.user().as_str());
        }
        left
    }

    pub(crate) fn members(&self, hub: &Hub, room: &str) -> Vec<Member> {
        if room.starts_with(USER_ROOM_PREFIX) {
            return hub.sockets_in(room).iter().map(|socket| self.node.member(&socket.info)).collect();
        }
        let members = hub.find_public(room).map(|room| room.map_members(|info| self.node.member(info)));
        members.unwrap_or_default()
    }

    pub(crate) fn first_members(&self, hub: &Hub, room: &str, users: usize) -> FirstMembers {
        let Some(room) = hub.find_public(room) else {
            return FirstMembers { members: Vec::new(), count: RoomCount::default() };
        };
        let mut seen = HashSet::new();
        let mut members = room.map_some(users.saturating_mul(SCANNED_PER_USER), |info| {
            let is_new = seen.len() < users && seen.insert(info.user.clone());
            is_new.then(|| self.node.member(info))
        });
        FirstMembers { members: members.drain(..).flatten().collect(), count: room.count() }
    }

    /// Sockets of a user enter a room; with `if_allowed`, only those that the rules of its app allow.
    pub(crate) async fn join_user(
        &self,
        hub: &Hub,
        (user, room): (&UserId, &Room),
        if_allowed: bool,
    ) -> Result<(), FanoutError> {
        let sockets = hub.sockets_in(Room::of_user(user).as_str());
        if !if_allowed {
            for socket in &sockets {
                // `ROOMS_PER_SOCKET` bounds clients only. A socket that has left meanwhile stays out.
                let _ = self.enter(socket, (room, Kind::Own), 0);
            }
            return Ok(());
        }
        let bring = |reply| self.node.control(Control::Bring { sockets, room: room.clone(), reply });
        self.have_done(bring).await
    }

    /// Removes sockets from a room that may no longer be in it. Returns whether that is done.
    pub(crate) async fn review(&self, hub: &Hub, room: &Room) -> bool {
        self.have_done(|reply| self.node.review(hub, room, reply)).await.is_ok()
    }

    /// The sockets in the room `of` leave another room. Returns whether that is done.
    pub(crate) async fn take_out(&self, hub: &Hub, of: &str, room: &Room) -> bool {
        let (turn, is_over) = Turn::new();
        hub.placements.order_leave(of, room.as_str(), turn);
        for socket in hub.sockets_in(of) {
            self.leave(&socket, room.as_str());
        }
        tokio::time::timeout(Duration::from_millis(JOIN_WAIT_MS), is_over).await.is_ok()
    }

    /// Disconnects sockets from the namespace. Returns whether that is done.
    pub(crate) async fn disconnect(&self, hub: &Hub, ids: &[SocketId]) -> bool {
        let sockets = ids.iter().filter_map(|id| hub.socket(*id).or_else(|| hub.leaving(*id))).collect();
        let (left, have_left) = Turn::new();
        self.node.control(Control::Disconnect { sockets, close: false, turn: Turn::free(), left }).await;
        tokio::time::timeout(Duration::from_millis(JOIN_WAIT_MS), have_left).await.is_ok()
    }
}
