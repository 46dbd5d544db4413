//! What other nodes, Node.js servers and emitters ask of this node: joins, leaves, disconnects, lists,
//! questions to clients (protocol, 3.1).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use shared::adapter::{self, JoinedBy, Request, Selection};
use shared::ids::SocketId;
use shared::limits::{
    ACK_MAX_MS, ANSWER_LARGE_BYTES, BACKEND_ACK_MAX_MS, JOIN_WAIT_MS, REACH_PAUSE_MS, REACH_WAIT_MS,
    SOCKETS_PER_TURN,
};
use shared::names::{Namespace, Room, UserId};
use tokio::time::Instant;

use crate::backplane::questions::{Asker, Question};
use crate::backplane::redis::cluster::RedisBackplane;
use crate::backplane::redis::lane::Pauses;
use crate::error::FanoutError;
use crate::events::{Control, Reply, Turn};
use crate::fanout::{Backplane, Fanout};
use crate::local::registry::{Hub, LocalSocket};
use crate::target::Target;

impl Fanout {
    /// Carries a request out. What it does to rooms and sockets is done when this has ended; what follows from that is left
    /// to [`Self::follow_up`].
    pub(crate) async fn carry_out(self, rooms: Arc<Hub>, message: Vec<u8>) {
        let Some(cluster) = self.cluster() else { return };
        // Reading a long one takes as long as some effects.
        Pauses::default().before(message.len() / 1024).await;
        if let Some(request) = cluster.read(&rooms.name, &message) {
            self.answer(cluster, &rooms, request).await;
        }
    }

    async fn answer(&self, cluster: &Arc<RedisBackplane>, rooms: &Arc<Hub>, request: Request<'_>) {
        let namespace = &rooms.name;
        let mut pauses = Pauses::default();
        let reply = match request {
            Request::Rooms { id } => {
                pauses.before(rooms.rooms_at_most() + 2 * rooms.sockets_at_most()).await;
                let names: Vec<String> = rooms.all_names().into_iter().collect();
                Some(adapter::encode_rooms(&id, &names))
            }
            Request::Sockets { id, selection } => {
                let sockets = select(rooms, (&selection.rooms, &selection.except), &mut pauses).await;
                let ids: Vec<_> = sockets.iter().map(|socket| socket.id().as_str().to_owned()).collect();
                Some(adapter::encode_fetched(&id, Some(&ids)))
            }
            Request::Fetch { id, selection } => {
                let sockets = select(rooms, (&selection.rooms, &selection.except), &mut pauses).await;
                self.tell_fetched(cluster, namespace, (id, sockets), &mut pauses).await;
                None
            }
            Request::Join { id, selection, rooms: names, by } => {
                let sockets = select(rooms, (&selection.rooms, &selection.except), &mut pauses).await;
                let names = cluster.named(namespace, &names);
                self.let_in(cluster, namespace, (sockets, names), (by, id), &mut pauses).await;
                None
            }
            Request::Review { id, rooms: names } => {
                if let Some(room) = names.first().and_then(|name| Room::of_server(name)) {
                    let sockets = rooms.sockets_in(room.as_str());
                    let reply = Some(self.reply_to(namespace, id));
                    self.control(Control::Review { sockets, room, reply }).await;
                }
                None
            }
            Request::Leave { id, selection, rooms: names } => {
                let sockets = select(rooms, (&selection.rooms, &selection.except), &mut pauses).await;
                // Who asks in the oldest form waits for the one server that has the socket.
                let done = self.when_done(cluster, namespace, id.filter(|_| !sockets.is_empty()));
                self.let_out(cluster, (sockets, names), &done, &mut pauses).await;
                None
            }
            Request::Disconnect { id, selection, close } => {
                let sockets = select(rooms, (&selection.rooms, &selection.except), &mut pauses).await;
                let is_here = !sockets.is_empty();
                if is_here {
                    let (turn, over) = Turn::new();
                    self.order(Control::Disconnect { sockets, close, turn }, over).await;
                }
                id.filter(|_| is_here).map(|id| adapter::encode_fetched(&id, None::<&[()]>))
            }
            Request::Count { id, selection } => {
                let sockets = select(rooms, (&selection.rooms, &selection.except), &mut pauses).await;
                Some(adapter::encode_client_count(&id, sockets.len()))
            }
            Request::ServerSideEmit { uid, id, data } => {
                tracing::debug!(from = %uid.chars().take(64).collect::<String>(), bytes = data.len(), "an event for servers");
                id.filter(|_| uid != self.node().as_str()).map(|id| adapter::encode_server_side_ack(&id))
            }
            Request::AckBroadcast { id, broadcast, timeout_ms } => {
                let sockets = select(rooms, (&broadcast.rooms, &broadcast.except), &mut pauses).await;
                let timeout = Duration::from_millis(timeout_ms.unwrap_or(ACK_MAX_MS).min(BACKEND_ACK_MAX_MS));
                let reply = self.reply_to(namespace, id);
                let (turn, over) = Turn::new();
                self.order(Control::Ask { sockets, body: broadcast.body, timeout, reply, turn }, over).await;
                None
            }
        };
        if let Some(reply) = reply {
            self.respond(cluster, namespace, reply).await;
        }
    }

    /// Publishes an answer, which nobody waits for here.
    async fn respond(&self, cluster: &Arc<RedisBackplane>, namespace: &Namespace, reply: Vec<u8>) {
        let channel = cluster.channels.response(namespace.as_str());
        if reply.len() < ANSWER_LARGE_BYTES {
            cluster.publish_soon(&channel, &reply);
            return;
        }
        let cluster = Arc::clone(cluster);
        // Who asked waits no longer than it would for a dead node.
        self.follow_up(async move { _ = cluster.publish_plain(&channel, &reply).await }).await;
    }

    /// Answers with descriptions of sockets as they are now. Writing them down takes long and is done apart.
    async fn tell_fetched(
        &self,
        cluster: &Arc<RedisBackplane>,
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
        let (cluster, channel) = (Arc::clone(cluster), cluster.channels.response(namespace.as_str()));
        self.follow_up(async move {
            let mut told = Vec::with_capacity(found.len());
            for some in found.chunks(SOCKETS_PER_TURN) {
                told.extend(some.iter().map(|(socket, rooms)| describe(socket, rooms)));
                tokio::task::yield_now().await;
            }
            let reply = adapter::encode_fetched(&id, Some(&told));
            // Who asked waits no longer than it would for a dead node.
            let _ = cluster.publish_plain(&channel, &reply).await;
        })
        .await;
    }

    fn reply_to(&self, namespace: &Namespace, id: String) -> Reply {
        Reply { fanout: self.clone(), namespace: namespace.clone(), id }
    }

    /// Sockets of this node enter rooms.
    async fn let_in(
        &self,
        cluster: &Arc<RedisBackplane>,
        namespace: &Namespace,
        (sockets, rooms): (Vec<Arc<LocalSocket>>, Vec<Room>),
        (by, id): (JoinedBy, Option<String>),
        pauses: &mut Pauses,
    ) {
        if by == JoinedBy::AppIfAllowed {
            let reply = id.map(|id| self.reply_to(namespace, id));
            if let Some(room) = rooms.into_iter().next() {
                // The records are asked, and nothing comes after it before it is answered.
                self.control(Control::Bring { sockets, room, reply }).await;
            }
            return;
        }
        // As for leaving: nodes of ours wait for all of them, others for the one that has the socket.
        let answers = by != JoinedBy::Backend || !sockets.is_empty();
        let done = self.when_done(cluster, namespace, id.filter(|_| answers));
        for socket in &sockets {
            for room in rooms.iter().filter(|room| !socket.is_implicit(room.as_str())) {
                pauses.before(1).await;
                self.enter_now(cluster, socket, room, &done).await;
                if by == JoinedBy::Backend {
                    socket.set_placed(room);
                }
            }
        }
    }

    /// Sockets of this node leave rooms.
    async fn let_out(
        &self,
        cluster: &Arc<RedisBackplane>,
        (sockets, rooms): (Vec<Arc<LocalSocket>>, Vec<String>),
        done: &Done,
        pauses: &mut Pauses,
    ) {
        for socket in &sockets {
            for room in &rooms {
                if socket.is_implicit(room) {
                    let reason = "a socket cannot leave its own room, nor its user's";
                    cluster.refuse_part(socket.namespace(), reason);
                    continue;
                }
                pauses.before(1).await;
                self.leave_now(cluster, socket, room, done).await;
            }
        }
    }

    /// What answers a request for which there is nothing to tell, when nobody holds it any more.
    fn when_done(&self, cluster: &Arc<RedisBackplane>, namespace: &Namespace, id: Option<String>) -> Done {
        let cluster = Arc::clone(cluster);
        Done { _doing: id.map(|id| Arc::new(Doing { cluster, namespace: namespace.clone(), id })) }
    }

    async fn request(&self, namespace: &Namespace, message: &[u8]) -> Result<(), FanoutError> {
        let Some(cluster) = self.cluster() else { return Ok(()) };
        cluster.publish_plain(&cluster.channels.request(namespace.as_str()), message).await?;
        Ok(())
    }

    /// Every socket of a user, on all nodes, enters a room. May be repeated.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`]: not all nodes have said within `JOIN_WAIT_MS` that it is done.
    pub async fn join_user(
        &self,
        namespace: &Namespace,
        user: &UserId,
        room: &Room,
    ) -> Result<(), FanoutError> {
        let of = selection(Room::of_user(user).as_str(), None);
        if let Some(cluster) = self.cluster() {
            return self.ask_to_join(cluster, namespace, &of, room, false).await;
        }
        let rooms = self.rooms_of(namespace).ok_or(FanoutError::UnknownNamespace)?;
        for socket in rooms.select(&of.rooms, &of.except) {
            // `ROOMS_PER_SOCKET` is for clients. A socket that has gone meanwhile stays out.
            let _ = self.enter_own(&socket, room).await;
        }
        Ok(())
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
        let of = selection(Room::of_user(user).as_str(), None);
        if let Some(cluster) = self.cluster() {
            return self.ask_to_join(cluster, namespace, &of, room, true).await;
        }
        let rooms = self.rooms_of(namespace).ok_or(FanoutError::UnknownNamespace)?;
        let sockets = rooms.select(&of.rooms, &of.except);
        // Where no question can be put it is done all the same, and nobody knows when.
        let (question, reply) = self.ask_here(namespace).unzip();
        self.control(Control::Bring { sockets, room: room.clone(), reply }).await;
        let question = question.ok_or(FanoutError::TooManyQuestions)?;
        if Self::is_done(question).await { Ok(()) } else { Err(FanoutError::Unavailable) }
    }

    /// Sockets of this node enter a room, those that may be there by the rules of its app. Nobody waits for it.
    pub async fn bring(&self, sockets: Vec<Arc<LocalSocket>>, room: Room) {
        self.control(Control::Bring { sockets, room, reply: None }).await;
    }

    async fn ask_to_join(
        &self,
        cluster: &RedisBackplane,
        namespace: &Namespace,
        of: &Selection,
        room: &Room,
        judged: bool,
    ) -> Result<(), FanoutError> {
        let (question, node) = (self.ask_nodes(cluster, namespace).await?, self.node());
        let from = (node.as_str(), &*question.id);
        self.request(namespace, &adapter::encode_join_sockets(from, of, &[room.as_str()], judged)).await?;
        if Self::is_done(question).await { Ok(()) } else { Err(FanoutError::Unavailable) }
    }

    /// Who may be in a room has changed: on all nodes, sockets that may not be there any more leave it
    /// ([`Control::Review`]). Answers whether all nodes have said within `JOIN_WAIT_MS` that it is done. A node that was not
    /// asked, because Redis is away, judges all of its sockets when its subscriptions are made anew.
    pub async fn review(&self, namespace: &Namespace, room: &Room) -> bool {
        if let Some(cluster) = self.cluster() {
            let asked = async {
                let (question, node) = (self.ask_nodes(cluster, namespace).await?, self.node());
                let message = adapter::encode_review(node.as_str(), &question.id, room.as_str());
                self.request(namespace, &message).await?;
                Ok::<_, FanoutError>(Self::is_done(question).await)
            };
            if let Ok(is_done) = asked.await {
                return is_done;
            }
        }
        // Alone, or cut off: at least the sockets of this node.
        let Some(rooms) = self.rooms_of(namespace) else { return false };
        let sockets = rooms.sockets_in(room.as_str());
        let (question, reply) = self.ask_here(namespace).unzip();
        self.control(Control::Review { sockets, room: room.clone(), reply }).await;
        match question {
            Some(question) => Self::is_done(question).await,
            None => false,
        }
    }

    /// A question to every node of ours that listens.
    async fn ask_nodes<'a>(
        &self,
        cluster: &'a RedisBackplane,
        namespace: &Namespace,
    ) -> Result<Question<'a>, FanoutError> {
        // Node.js servers do not answer; a node that has just died holds its lease but does not listen.
        let listening = cluster.servers(namespace.as_str()).await?;
        let nodes = cluster.presence.living_nodes().await?.min(listening);
        cluster.questions.open(Asker::Node, self.node().as_str(), nodes).ok_or(FanoutError::TooManyQuestions)
    }

    /// A question to the owner of a node alone; `None` when too many are open, and in a cluster, where answers go through
    /// Redis.
    fn ask_here(&self, namespace: &Namespace) -> Option<(Question<'_>, Reply)> {
        let Backplane::InProcess { questions, .. } = &self.inner.backplane else { return None };
        let question = questions.open(Asker::Node, self.node().as_str(), 1)?;
        let reply = self.reply_to(namespace, question.id.clone());
        Some((question, reply))
    }

    async fn is_done(question: Question<'_>) -> bool {
        question.all_done(Duration::from_millis(JOIN_WAIT_MS)).await
    }

    /// How many sockets on all nodes get what is sent to `target`; `None` when one of them does not tell in time, or lately did
    /// not. Sockets of Node.js servers are not counted.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`], [`FanoutError::TooManyQuestions`], [`FanoutError::UnknownNamespace`].
    pub async fn reach(&self, target: &Target<'_>) -> Result<Option<usize>, FanoutError> {
        let rooms = self.rooms_of(target.namespace).ok_or(FanoutError::UnknownNamespace)?;
        let of = Selection {
            rooms: target.to.room().map(Cow::into_owned).into_iter().collect(),
            except: target.excepted(),
        };
        let Some(cluster) = self.cluster() else {
            return Ok(Some(rooms.select(&of.rooms, &of.except).len()));
        };
        let pause = Duration::from_millis(REACH_PAUSE_MS);
        if cluster.unreached.lock().is_some_and(|at| at.elapsed() < pause) {
            return Ok(None);
        }
        let nodes = cluster.presence.living_nodes().await?;
        let node = self.node();
        let question = cluster
            .questions
            .open_count(Asker::Backend, node.as_str(), nodes)
            .ok_or(FanoutError::TooManyQuestions)?;
        let message = adapter::encode_count(node.as_str(), &question.id, &of);
        self.request(target.namespace, &message).await?;
        let reached = question.counted(Duration::from_millis(REACH_WAIT_MS)).await;
        if reached.is_none() {
            *cluster.unreached.lock() = Some(Instant::now());
        }
        Ok(reached)
    }

    /// Every socket of a user, on all nodes, leaves a room. May be repeated.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn leave_user(
        &self,
        namespace: &Namespace,
        user: &UserId,
        room: &Room,
    ) -> Result<(), FanoutError> {
        let of = selection(Room::of_user(user).as_str(), None);
        if self.is_clustered() {
            let message = adapter::encode_leave_sockets(self.node().as_str(), &of, &[room.as_str()]);
            return self.request(namespace, &message).await;
        }
        let rooms = self.rooms_of(namespace).ok_or(FanoutError::UnknownNamespace)?;
        for socket in rooms.select(&of.rooms, &of.except) {
            self.leave(&socket, room.as_str()).await;
        }
        Ok(())
    }

    /// Every socket in a room, on all nodes, leaves it. May be repeated.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn leave_all(&self, namespace: &Namespace, room: &Room) -> Result<(), FanoutError> {
        let of = selection(room.as_str(), None);
        if self.is_clustered() {
            let message = adapter::encode_leave_sockets(self.node().as_str(), &of, &[room.as_str()]);
            return self.request(namespace, &message).await;
        }
        let rooms = self.rooms_of(namespace).ok_or(FanoutError::UnknownNamespace)?;
        for socket in rooms.select(&of.rooms, &of.except) {
            self.leave(&socket, room.as_str()).await;
        }
        Ok(())
    }

    /// Those sockets of a user that are in `room` are disconnected from the namespace, on all nodes.
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
        let ids: Vec<String> = members
            .iter()
            .filter(|member| member.user == *user)
            .map(|member| member.socket.as_str().to_owned())
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        let of = Selection { rooms: ids, except: Vec::new() };
        if self.is_clustered() {
            let message = adapter::encode_disconnect_sockets(self.node().as_str(), &of, false);
            return self.request(namespace, &message).await;
        }
        let rooms = self.rooms_of(namespace).ok_or(FanoutError::UnknownNamespace)?;
        let sockets = rooms.select(&of.rooms, &of.except);
        self.control(Control::Disconnect { sockets, close: false, turn: Turn::free() }).await;
        Ok(())
    }

    /// Whether `key` stands for `print`, on all nodes: it does from its first use on, for five minutes.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn claim_key(&self, key: &str, print: &str) -> Result<bool, FanoutError> {
        match self.cluster() {
            Some(cluster) => cluster.claim_key(key, print).await,
            None => Ok(true),
        }
    }

    /// Tells other servers of the namespace an event; `args` are raw JSON. Alone there is none.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`].
    pub async fn server_side_emit(
        &self,
        namespace: &Namespace,
        name: &str,
        args: &[&str],
    ) -> Result<(), FanoutError> {
        self.request(namespace, &adapter::encode_server_side_emit(self.node().as_str(), name, args)).await
    }
}

/// Says that a request is done, when the last of its copies is dropped: everything that follows from it has one.
#[derive(Clone)]
pub(crate) struct Done {
    _doing: Option<Arc<Doing>>,
}

struct Doing {
    cluster: Arc<RedisBackplane>,
    namespace: Namespace,
    id: String,
}

impl Drop for Doing {
    fn drop(&mut self) {
        let reply = adapter::encode_fetched(&self.id, None::<&[()]>);
        self.cluster.publish_soon(&self.cluster.channels.response(self.namespace.as_str()), &reply);
    }
}

/// The sockets that a request is about, where it is its turn.
async fn select<R: AsRef<str>>(
    rooms: &Hub,
    (names, except): (&[R], &[R]),
    pauses: &mut Pauses,
) -> Vec<Arc<LocalSocket>> {
    pauses.before(rooms.selects_at_most(names, except)).await;
    rooms.select(names, except)
}

fn selection(room: &str, except: Option<SocketId>) -> Selection {
    let except = except.map(|socket| socket.as_str().to_owned());
    Selection { rooms: vec![room.to_owned()], except: except.into_iter().collect() }
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
