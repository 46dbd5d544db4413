//! The backplane of a node alone: its own registry is all there is, so most questions have their answer at once.
//!
//! What other nodes would keep is kept here: departures that are held back, questions to clients, idempotency keys, and the
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
use super::questions::{Answers, Asker, Question, Questions};
use crate::error::FanoutError;
use crate::events::{Control, Reply, Sequenced, Turn};
use crate::local::delivery::{Delivery, Receivers};
use crate::local::hub::Hub;
use crate::local::node::{LocalNode, MembershipChange, member_info, room_key};
use crate::local::room::{Kind, Room as LocalRoom};
use crate::local::socket::LocalSocket;
use crate::presence::{Entered, FirstMembers, Left, Member, RoomCount, SCANNED_PER_USER};
use crate::target::{Form, Packet, Posted, Receipt, Target, To};

/// A node alone.
pub(crate) struct MemoryBackplane {
    node: Arc<LocalNode>,
    departures: Departures,
    questions: Arc<Questions>,
    keys: Keys,
    pub(crate) live: LiveMemory,
}

impl MemoryBackplane {
    pub(crate) fn new(node: Arc<LocalNode>) -> Self {
        Self {
            node,
            departures: Departures::new(LINGERING_MAX),
            questions: Arc::default(),
            keys: Keys::default(),
            live: LiveMemory::default(),
        }
    }

    /// Reports the users who did not come back in time.
    pub(crate) async fn run(&self) {
        loop {
            let Departure { room, user, info, .. } = self.departures.due().await;
            self.node.report(MembershipChange { room, user, info, returned: false }).await;
        }
    }

    /// Gives a broadcast to this node's sockets.
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
        if let (Some(sequence), To::Room(room)) = (target.sequence, target.to) {
            let namespace = target.namespace.clone();
            let broadcast = Sequenced { namespace, room: room.to_owned(), sequence, packet };
            let sequenced = self.node.sequenced.clone();
            return Ok(Posted::Waits(Box::pin(async move {
                sequenced.send(broadcast).await.map_err(|_| FanoutError::Unavailable)?;
                Ok(receipt)
            })));
        }
        let found;
        let delivery = Delivery {
            to: match target.to {
                To::Room(room) => {
                    found = hub.find(room);
                    Receivers::Room(room, found.as_ref())
                }
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

    /// Has sockets ask their clients, and waits for the answers.
    pub(crate) async fn ask(
        &self,
        target: &Target<'_>,
        event: &Event<'_>,
        at_most: Duration,
    ) -> Result<Answers, FanoutError> {
        let (question, reply) = self.open(Asker::Client).ok_or(FanoutError::TooManyQuestions)?;
        let room = target.to.room();
        let except = target.excepted();
        let sockets = self.node.hub(target.namespace.as_str())?.select(room.as_slice(), &except);
        let name = serde_json::Value::from(event.name).to_string();
        let json = std::iter::once(&*name).chain(event.args.iter().copied()).collect::<Vec<_>>().join(",");
        let body = Body { json, attachments: event.attachments.to_vec() };
        let ask = Control::Ask { sockets, body, timeout: at_most, reply, turn: Turn::free() };
        self.node.control.send(ask).await.map_err(|_| FanoutError::Unavailable)?;
        Ok(question.answers(at_most).await)
    }

    /// A question of this node to itself.
    fn open(&self, asker: Asker) -> Option<(Question<'_>, Reply)> {
        let question = self.questions.open(asker, self.node.id.as_str(), 1)?;
        let reply = Reply { to: Arc::clone(&self.questions) as _, id: question.id.clone() };
        Some((question, reply))
    }

    /// A user's last socket in a room has left it: the user may come back. `info` is what is kept of the socket, once it is
    /// known.
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
            // The connection was lost while it entered, and its departure has just been taken back.
            self.add_departure(socket, key, member_info(&socket.info));
        }
        Ok(Entered { first_of_user: !was_held_back, ..entered })
    }

    /// Takes a socket out of a room.
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

    /// Sockets of a user enter a room; with `if_allowed`, those that the rules of its app let in.
    pub(crate) async fn join_user(
        &self,
        hub: &Hub,
        (user, room): (&UserId, &Room),
        if_allowed: bool,
    ) -> Result<(), FanoutError> {
        let sockets = hub.sockets_in(Room::of_user(user).as_str());
        if !if_allowed {
            for socket in &sockets {
                // `ROOMS_PER_SOCKET` is for clients. A socket that has left meanwhile stays out.
                let _ = self.enter(socket, (room, Kind::Own), 0);
            }
            return Ok(());
        }
        // Where no question can be put it is done all the same, and nobody knows when.
        let (question, reply) = self.open(Asker::Node).unzip();
        self.node.control(Control::Bring { sockets, room: room.clone(), reply }).await;
        let question = question.ok_or(FanoutError::TooManyQuestions)?;
        if is_done(question).await { Ok(()) } else { Err(FanoutError::Unavailable) }
    }

    /// Sockets in a room that may not be there any more leave it. Returns whether that is done.
    pub(crate) async fn review(&self, hub: &Hub, room: &Room) -> bool {
        let (question, reply) = self.open(Asker::Node).unzip();
        self.node.review(hub, room, reply).await;
        match question {
            Some(question) => is_done(question).await,
            None => false,
        }
    }

    /// The sockets in a room leave another one.
    pub(crate) fn take_out(&self, hub: &Hub, of: &str, room: &Room) {
        for socket in hub.sockets_in(of) {
            self.leave(&socket, room.as_str());
        }
    }

    /// Sockets are disconnected from the namespace.
    pub(crate) async fn disconnect(&self, hub: &Hub, ids: &[SocketId]) {
        let sockets = ids.iter().filter_map(|id| hub.socket(*id)).collect();
        self.node.control(Control::Disconnect { sockets, close: false, turn: Turn::free() }).await;
    }
}

/// Waits until the owner has done what it was asked, but not for longer than other nodes are waited for.
async fn is_done(question: Question<'_>) -> bool {
    question.all_done(Duration::from_millis(JOIN_WAIT_MS)).await
}
