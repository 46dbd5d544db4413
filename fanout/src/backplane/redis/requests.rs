//! Does what nodes, Node.js servers and emitters ask of this node: joins, leaves, disconnects, lists, questions to clients
//! (protocol, 3.1).

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::json;
use shared::adapter::{self, JoinedBy, Request};
use shared::limits::{ACK_MAX_MS, ANSWER_LARGE_BYTES, BACKEND_ACK_MAX_MS, SOCKETS_PER_TURN};
use shared::names::{Namespace, Room};
use shared::sio::Answer;

use super::backplane::RedisBackplane;
use super::order::Pauses;
use crate::events::{Answerable, Control, Reply, Turn};
use crate::local::hub::Hub;
use crate::local::socket::LocalSocket;

impl RedisBackplane {
    /// Carries a request out. What it does to rooms and sockets is done when this has ended; what follows from that is left
    /// to [`Self::follow_up`].
    pub(super) async fn carry_out(self: Arc<Self>, hub: Arc<Hub>, message: Vec<u8>) {
        // Reading a long one takes as long as some effects.
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
            Request::Leave { id, selection, rooms: names } => {
                let sockets = select(hub, (&selection.rooms, &selection.except), &mut pauses).await;
                // Whoever asks in the oldest form waits for the one server that has the socket.
                let done = self.when_done(namespace, id.filter(|_| !sockets.is_empty()));
                self.let_out((sockets, names), &done, &mut pauses).await;
                None
            }
            Request::Disconnect { id, selection, close } => {
                let sockets = select(hub, (&selection.rooms, &selection.except), &mut pauses).await;
                let is_here = !sockets.is_empty();
                if is_here {
                    let (turn, over) = Turn::new();
                    self.order(Control::Disconnect { sockets, close, turn }, over).await;
                }
                id.filter(|_| is_here).map(|id| adapter::encode_fetched(&id, None::<&[()]>))
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
                let sockets = select(hub, (&broadcast.rooms, &broadcast.except), &mut pauses).await;
                let timeout = Duration::from_millis(timeout_ms.unwrap_or(ACK_MAX_MS).min(BACKEND_ACK_MAX_MS));
                let reply = self.reply_to(namespace, id);
                let (turn, over) = Turn::new();
                self.order(Control::Ask { sockets, body: broadcast.body, timeout, reply, turn }, over).await;
                None
            }
        };
        if let Some(reply) = reply {
            self.respond(namespace, reply).await;
        }
    }

    /// Publishes an answer, which nobody waits for here.
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

    /// Sends descriptions of sockets as they are now. Writing them takes long and is done apart.
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

    /// Rooms as a server names them.
    fn parse_rooms(&self, namespace: &Namespace, names: &[String]) -> Vec<Room> {
        let rooms: Vec<Room> = names.iter().filter_map(|name| Room::of_server(name)).collect();
        if rooms.len() < names.len() {
            self.refuse_part(namespace, "the name of a room is too long");
        }
        rooms
    }

    /// Sockets of this node enter rooms.
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
                // The records are asked, and nothing comes after it before it is answered.
                self.node.control(Control::Bring { sockets, room, reply }).await;
            }
            return;
        }
        // As for leaving: nodes of ours wait for all of them, others for the one that has the socket.
        let answers = by != JoinedBy::Backend || !sockets.is_empty();
        let done = self.when_done(namespace, id.filter(|_| answers));
        for socket in &sockets {
            for room in rooms.iter().filter(|room| !socket.is_implicit(room.as_str())) {
                pauses.before(1).await;
                self.enter_now(socket, room, &done).await;
                if by == JoinedBy::Backend {
                    socket.set_placed(room);
                }
            }
        }
    }

    /// Sockets of this node leave rooms.
    async fn let_out(
        self: &Arc<Self>,
        (sockets, rooms): (Vec<Arc<LocalSocket>>, Vec<String>),
        done: &Done,
        pauses: &mut Pauses,
    ) {
        for socket in &sockets {
            for room in &rooms {
                if socket.is_implicit(room) {
                    let reason = "a socket cannot leave its own room, nor its user's";
                    self.refuse_part(socket.namespace(), reason);
                    continue;
                }
                pauses.before(1).await;
                self.leave_now(socket, room, done).await;
            }
        }
    }

    /// Answers a request that has no other answer, when the last copy of this is dropped.
    fn when_done(self: &Arc<Self>, namespace: &Namespace, id: Option<String>) -> Done {
        let backplane = Arc::clone(self);
        Done { _doing: id.map(|id| Arc::new(Doing { backplane, namespace: namespace.clone(), id })) }
    }
}

/// The asker of a question that came through Redis, which is answered by the same way.
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
                // Whoever asked counts what is missing.
                let _ = self.backplane.publish_plain(&channel, &message).await;
            } else {
                // Behind how many there are, and without a round trip for each.
                self.backplane.publish_soon(&channel, &message);
            }
        })
    }
}

/// Reports that a request is done, when the last of its copies is dropped: everything that follows from it has one.
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

/// The sockets that a request is about, where it is its turn.
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
        "data": {"userId": info.user.as_str(), "displayName": info.display_name, "role": info.role},
    })
}
