//! Carries out the requests of nodes, Node.js servers and emitters: joins, leaves, disconnects, lists and questions to clients
//! (protocol, 3.1).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::json;
use shared::adapter::{self, Broadcast, JoinedBy, Request, Selection};
use shared::ids::SocketId;
use shared::limits::{ACK_MAX_MS, ANSWER_LARGE_BYTES, BACKEND_ACK_MAX_MS, SOCKETS_PER_TURN};
use shared::names::{Namespace, Room};
use shared::sio::Answer;

use super::backplane::RedisBackplane;
use super::order::Pauses;
use crate::events::{Answerable, Control, Reply, Turn};
use crate::local::audience::Audience;
use crate::local::hub::Hub;
use crate::local::rooms::is_own_room;
use crate::local::socket::LocalSocket;

impl RedisBackplane {
    /// Carries out a request. When this ends, its effects on rooms and sockets are complete; the rest is left to
    /// [`Self::follow_up`].
    pub(super) async fn carry_out(self: Arc<Self>, hub: Arc<Hub>, message: Vec<u8>) {
        // Parsing a long request takes as long as some effects.
        Pauses::default().before(message.len() / 1024).await;
        match adapter::decode_request(&message, self.message_max()) {
            Ok(request) => self.answer(&hub, request).await,
            Err(_) => self.refuse_part(&hub.name, "malformed request"),
        }
    }

    async fn answer(self: &Arc<Self>, hub: &Hub, request: Request<'_>) {
        let namespace = &hub.name;
        let mut pauses = Pauses::default();
        let reply = match request {
            Request::Rooms { id } => {
                pauses.before(hub.rooms.len() + 2 * hub.len()).await;
                let names: Vec<String> = hub.all_names().into_iter().collect();
                Some(adapter::encode_rooms(&id, &names))
            }
            Request::Sockets { id, selection } => {
                let sockets = select(hub, (&selection.rooms, &selection.except), &mut pauses).await;
                let ids: Vec<_> = sockets.iter().map(|socket| socket.id().as_str().to_owned()).collect();
                Some(adapter::encode_fetched(&id, Some(&ids)))
            }
            Request::Fetch { id, selection } => {
                let sockets = select(hub, (&selection.rooms, &selection.except), &mut pauses).await;
                self.send_descriptions(namespace, (id, sockets), &mut pauses).await;
                None
            }
            Request::Join { id, selection, rooms: names, by } => {
                let sockets = select(hub, (&selection.rooms, &selection.except), &mut pauses).await;
                let names = self.parse_rooms(namespace, &names);
                self.let_in(namespace, (sockets, names), (by, id), &mut pauses).await;
                None
            }
            Request::Review { id, rooms: names } => {
                if let Some(room) = names.first().and_then(|name| Room::of_server(name)) {
                    let sockets = hub.sockets_in(room.as_str());
                    let reply = Some(self.reply_to(namespace, id));
                    self.node.control(Control::Review { sockets, room, reply }).await;
                }
                None
            }
            Request::Leave { id, selection, rooms: names, is_of_backend } => {
                self.let_out(hub, (selection, names), (is_of_backend, id), &mut pauses).await;
                None
            }
            Request::Disconnect { id, selection, close } => {
                let mut sockets = select(hub, (&selection.rooms, &selection.except), &mut pauses).await;
                // A socket that is leaving counts until it has left.
                sockets.extend(selection.rooms.iter().filter_map(|room| hub.leaving(SocketId::parse(room)?)));
                // An asker that names a socket of this node waits for the answer, even if the socket has left meanwhile.
                let answers =
                    !sockets.is_empty() || selection.rooms.iter().any(|room| is_own_room(room, self.node.id));
                let done = self.when_done(namespace, id.filter(|_| answers));
                self.disconnect_here(sockets, close, done).await;
                None
            }
            Request::Count { id, selection } => {
                let sockets = select(hub, (&selection.rooms, &selection.except), &mut pauses).await;
                Some(adapter::encode_client_count(&id, sockets.len()))
            }
            Request::ServerSideEmit { uid, id, data } => {
                tracing::debug!(from = %uid.chars().take(64).collect::<String>(), bytes = data.len(), "an event for servers");
                id.filter(|_| uid != self.node.id.as_str()).map(|id| adapter::encode_server_side_ack(&id))
            }
            Request::AckBroadcast { id, broadcast, timeout_ms } => {
                pauses.before(hub.selects_at_most(&broadcast.rooms, &broadcast.except)).await;
                let audience = self.audience(hub, &broadcast);
                let timeout = Duration::from_millis(timeout_ms.unwrap_or(ACK_MAX_MS).min(BACKEND_ACK_MAX_MS));
                let reply = self.reply_to(namespace, id);
                let (turn, over) = Turn::new();
                self.order(Control::Ask { audience, body: broadcast.body, timeout, reply, turn }, over).await;
                None
            }
        };
        if let Some(reply) = reply {
            self.respond(namespace, reply).await;
        }
    }

    /// The sockets that a question is for. First delivers what a backend sent to another room.
    fn audience(&self, hub: &Hub, question: &Broadcast<'_>) -> Audience {
        let audience = hub.audience(&question.rooms, &question.except);
        if !question.is_of_node() {
            self.flush_before(audience.room());
        }
        audience
    }

    /// Publishes an answer without waiting for it.
    async fn respond(self: &Arc<Self>, namespace: &Namespace, reply: Vec<u8>) {
        let channel = self.channels.response(namespace.as_str());
        if reply.len() < ANSWER_LARGE_BYTES {
            self.publish_soon(&channel, &reply);
            return;
        }
        let backplane = Arc::clone(self);
        // The asker waits no longer than it would for a dead node.
        self.follow_up(async move { _ = backplane.publish_plain(&channel, &reply).await }).await;
    }

    /// Sends descriptions of the sockets' current state. Encoding them takes long and runs separately.
    async fn send_descriptions(
        self: &Arc<Self>,
        namespace: &Namespace,
        (id, sockets): (String, Vec<Arc<LocalSocket>>),
        pauses: &mut Pauses,
    ) {
        let mut found = Vec::with_capacity(sockets.len());
        for socket in sockets {
            pauses.before(1).await;
            let rooms = socket.rooms();
            found.push((socket, rooms));
        }
        let (backplane, channel) = (Arc::clone(self), self.channels.response(namespace.as_str()));
        self.follow_up(async move {
            let mut described = Vec::with_capacity(found.len());
            for some in found.chunks(SOCKETS_PER_TURN) {
                described.extend(some.iter().map(|(socket, rooms)| describe(socket, rooms)));
                tokio::task::yield_now().await;
            }
            let reply = adapter::encode_fetched(&id, Some(&described));
            // The asker waits no longer than it would for a dead node.
            let _ = backplane.publish_plain(&channel, &reply).await;
        })
        .await;
    }

    fn reply_to(self: &Arc<Self>, namespace: &Namespace, id: String) -> Reply {
        let to = Answers { backplane: Arc::clone(self), namespace: namespace.clone() };
        Reply { to: Arc::new(to), id }
    }

    /// Parses the room names of a request.
    fn parse_rooms(&self, namespace: &Namespace, names: &[String]) -> Vec<Room> {
        let rooms: Vec<Room> = names.iter().filter_map(|name| Room::of_server(name)).collect();
        if rooms.len() < names.len() {
            self.refuse_part(namespace, "the name of a room is too long");
        }
        rooms
    }

    /// Adds sockets of this node to rooms.
    async fn let_in(
        self: &Arc<Self>,
        namespace: &Namespace,
        (sockets, rooms): (Vec<Arc<LocalSocket>>, Vec<Room>),
        (by, id): (JoinedBy, Option<String>),
        pauses: &mut Pauses,
    ) {
        if by == JoinedBy::AppIfAllowed {
            let reply = id.map(|id| self.reply_to(namespace, id));
            if let Some(room) = rooms.into_iter().next() {
                // The owner asks the records; nothing overtakes it before the answer.
                self.node.control(Control::Bring { sockets, room, reply }).await;
            }
            return;
        }
        // As for leaving: Muster nodes wait for all nodes, other askers for the one that has the socket.
        let answers = by != JoinedBy::Backend || !sockets.is_empty();
        let done = self.when_done(namespace, id.filter(|_| answers));
        for socket in &sockets {
            for room in rooms.iter().filter(|room| !socket.is_implicit(room.as_str())) {
                pauses.before(1).await;
                let is_of_backend = by == JoinedBy::Backend;
                self.enter_now(socket, room, (is_of_backend, &done)).await;
                if is_of_backend {
                    socket.set_placed(room);
                }
            }
        }
    }

    /// Removes sockets of this node from rooms.
    async fn let_out(
        self: &Arc<Self>,
        hub: &Hub,
        (selection, rooms): (Selection, Vec<String>),
        (is_of_backend, id): (bool, Option<String>),
        pauses: &mut Pauses,
    ) {
        let (sockets, done) = if is_of_backend {
            let sockets = select(hub, (&selection.rooms, &selection.except), pauses).await;
            // An asker that uses the oldest form waits for the one server that has the socket.
            let done = self.when_done(&hub.name, id.filter(|_| !sockets.is_empty()));
            (sockets, done)
        } else {
            let done = self.when_done(&hub.name, id);
            // Before the members are listed: a socket that is being placed may become one meanwhile.
            for of in &selection.rooms {
                for room in &rooms {
                    pauses.before(hub.placements.len() / 16).await;
                    hub.placements.order_leave(of, room, done.clone());
                }
            }
            (select(hub, (&selection.rooms, &selection.except), pauses).await, done)
        };
        for socket in &sockets {
            for room in &rooms {
                if socket.is_implicit(room) {
                    let reason = "a socket cannot leave its own room, nor its user's";
                    self.refuse_part(socket.namespace(), reason);
                    continue;
                }
                pauses.before(1).await;
                self.leave_now(socket, room, (is_of_backend, &done)).await;
            }
        }
    }

    /// Disconnects sockets of this node. When this ends, they receive nothing any more. `done` is dropped when they have left
    /// their rooms on all nodes.
    async fn disconnect_here(&self, sockets: Vec<Arc<LocalSocket>>, close: bool, done: Done) {
        if sockets.is_empty() {
            return;
        }
        let ((turn, over), left) = (Turn::new(), Turn::holding(done));
        self.order(Control::Disconnect { sockets, close, turn, left }, over).await;
    }

    /// Answers a request that has no other answer, once the last copy of this is dropped.
    fn when_done(self: &Arc<Self>, namespace: &Namespace, id: Option<String>) -> Done {
        let backplane = Arc::clone(self);
        Done { _doing: id.map(|id| Arc::new(Doing { backplane, namespace: namespace.clone(), id })) }
    }
}

/// The asker of a question that arrived through Redis; answers return the same way.
struct Answers {
    backplane: Arc<RedisBackplane>,
    namespace: Namespace,
}

impl Answerable for Answers {
    fn asked(&self, id: &str, sockets: usize) {
        let message = adapter::encode_client_count(id, sockets);
        self.backplane.publish_soon(&self.backplane.channels.response(self.namespace.as_str()), &message);
    }

    fn answered<'a>(&'a self, id: &'a str, answer: Answer) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let Ok(message) = adapter::encode_acked(id, &answer) else { return };
            let channel = self.backplane.channels.response(self.namespace.as_str());
            if message.len() >= ANSWER_LARGE_BYTES {
                // The asker counts missing answers.
                let _ = self.backplane.publish_plain(&channel, &message).await;
            } else {
                // Published after the number of sockets, without a round trip for each.
                self.backplane.publish_soon(&channel, &message);
            }
        })
    }
}

/// Reports that a request is done when its last copy is dropped. Everything that follows from the request holds one.
#[derive(Clone)]
pub(super) struct Done {
    _doing: Option<Arc<Doing>>,
}

struct Doing {
    backplane: Arc<RedisBackplane>,
    namespace: Namespace,
    id: String,
}

impl Drop for Doing {
    fn drop(&mut self) {
        let reply = adapter::encode_fetched(&self.id, None::<&[()]>);
        self.backplane.publish_soon(&self.backplane.channels.response(self.namespace.as_str()), &reply);
    }
}

/// The sockets that a request selects when its turn comes.
async fn select<R: AsRef<str>>(
    hub: &Hub,
    (names, except): (&[R], &[R]),
    pauses: &mut Pauses,
) -> Vec<Arc<LocalSocket>> {
    pauses.before(hub.selects_at_most(names, except)).await;
    hub.select(names, except)
}

/// A socket as `fetchSockets` of a Node.js server shows it. Headers, address and token stay here.
fn describe(socket: &LocalSocket, joined: &[Room]) -> serde_json::Value {
    let info = &socket.info;
    let mut rooms = vec![info.id.as_str().to_owned(), Room::of_user(&info.user).as_str().to_owned()];
    rooms.extend(joined.iter().map(|room| room.as_str().to_owned()));
    json!({
        "id": info.id.as_str(),
        "handshake": {
            "headers": {}, "time": "", "address": "", "xdomain": false, "secure": false,
            "issued": info.connected_at_ms, "url": "/socket.io/", "query": {}, "auth": {},
        },
        "rooms": rooms,
        "data": {"userId": info.user.as_str(), "displayName": &*info.display_name, "role": info.role},
    })
}
