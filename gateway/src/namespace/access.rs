//! Checks sockets' access to rooms again when it changes.
//!
//! An app defines once which sockets may be in which of its rooms ([`App::admits`]). This module applies that to a
//! socket's rooms after `auth:refresh`, to a room's sockets after a grant was withdrawn, and to everything after this
//! node may have missed a withdrawal. A socket without access leaves the room, the other members are notified as of any
//! leave, and its client receives `muster:removed`.

use std::collections::HashMap;
use std::sync::Arc;

use fanout::{FanoutError, LocalSocket};
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;
use shared::ids::SocketId;
use shared::limits::REVIEWS_AT_ONCE;
use shared::names::Room;
use tokio::sync::Notify;

use super::Namespaces;
use crate::apps::App;
use crate::error::AppError;
use crate::socket::Socket;

/// The room that a socket was removed from.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RemovedFromRoom")]
pub(super) struct Removed<'a> {
    /// The room's name in the cluster, with the prefix of its app, such as `room:lobby` for chat's room `lobby`.
    room: &'a str,
}

/// What to do with sockets that a backend has placed in a room itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// They stay: the socket's token has changed, but the token did not admit them.
    Stay,
    /// They are checked like all others: a backend has decided who may be in the room.
    Judged,
}

/// Sockets whose rooms could not be checked, because the database did not answer; no more than there are sockets.
#[derive(Debug, Default)]
pub(crate) struct Unreviewed {
    sockets: Mutex<HashMap<SocketId, Arc<LocalSocket>>>,
    added: Notify,
}

impl Unreviewed {
    /// Adds sockets to check.
    pub(crate) fn add(&self, sockets: impl IntoIterator<Item = Arc<LocalSocket>>) {
        self.sockets.lock().extend(sockets.into_iter().map(|socket| (socket.id(), socket)));
        self.added.notify_one();
    }

    /// Waits for sockets, and takes all of them.
    pub(crate) async fn take(&self) -> Vec<Arc<LocalSocket>> {
        loop {
            let taken = std::mem::take(&mut *self.sockets.lock());
            if !taken.is_empty() {
                return taken.into_values().collect();
            }
            self.added.notified().await;
        }
    }
}

impl Namespaces {
    /// Checks every room of a socket. Returns whether all could be checked; the others are checked later.
    pub(crate) async fn review_socket(&self, socket: &Arc<Socket>) -> bool {
        let mut all = true;
        let rooms = socket.local().rooms().into_iter().chain(self.context.fanout.watched(socket.local()));
        for room in rooms {
            all &= self.review(socket, &room, Placed::Stay).await;
        }
        all
    }

    /// Checks whether these sockets may stay in a room. Returns whether all could be checked; the others are checked
    /// later.
    pub(crate) async fn review_room(&self, sockets: Vec<Arc<Socket>>, room: &Room) -> bool {
        stream::iter(sockets)
            .map(|socket| async move { self.review(&socket, room, Placed::Judged).await })
            .buffer_unordered(REVIEWS_AT_ONCE)
            .fold(true, |all, judged| async move { all && judged })
            .await
    }

    /// Moves those of these sockets into a room that may be in it.
    pub(crate) async fn bring(&self, sockets: Vec<Arc<Socket>>, room: &Room) -> Result<(), AppError> {
        for socket in sockets {
            let _lock = self.context.access.of(socket.id()).await;
            let Some((_, true)) = self.judge(&socket, room).await? else { continue };
            // The records decide, not the client, so `ROOMS_PER_SOCKET` does not apply.
            match self.context.fanout.enter_own(socket.local(), room).await {
                // A disconnected socket needs no room.
                Ok(_) | Err(FanoutError::Gone) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn review(&self, socket: &Arc<Socket>, room: &Room, placed: Placed) -> bool {
        let _lock = self.context.access.of(socket.id()).await;
        if placed == Placed::Stay && socket.local().is_placed(room.as_str()) {
            return true;
        }
        match self.judge(socket, room).await {
            Ok(Some((app, false))) => {
                self.remove(app, socket, room).await;
                true
            }
            Ok(Some((_, true)) | None) => true,
            Err(error) => {
                tracing::warn!(error = error.say(), socket = %socket.id(), "a socket's access to a room is checked later");
                self.unreviewed.add([Arc::clone(socket.local())]);
                false
            }
        }
    }

    /// The app that owns a room, and whether the socket may be in it; `None` if no app of the namespace has such rooms.
    async fn judge(&self, socket: &Socket, room: &Room) -> Result<Option<(&dyn App, bool)>, AppError> {
        for app in self.apps_of(socket.namespace().as_str()) {
            let claims = socket.claims();
            if let Some(may) = app.admits(&claims, room).get().await? {
                return Ok(Some((&**app, may)));
            }
        }
        Ok(None)
    }

    async fn remove(&self, app: &dyn App, socket: &Arc<Socket>, room: &Room) {
        let fanout = &self.context.fanout;
        if !socket.local().is_in(room.as_str()) {
            fanout.unwatch(socket.local(), room.as_str());
            return;
        }
        let left = fanout.leave_at_once(socket.local(), room.as_str()).await;
        if !left.was_member {
            return;
        }
        tracing::info!(socket = %socket.id(), user = %socket.user(), room = %room, "a socket lost access to a room");
        socket.emit(&self.context, REMOVED, &Removed { room: room.as_str() });
        if let Some(hook) = app.on_removed(socket, room, left) {
            hook.await;
        }
    }
}

/// The event that notifies a client of its removal from a room.
pub(super) const REMOVED: &str = "muster:removed";

#[cfg(test)]
mod tests {
    use fanout::SocketInfo;
    use serde_json::{Value, json};
    use shared::auth::Claims;
    use shared::config::{Config, Layers};
    use shared::ids::{NodeId, SessionId};
    use shared::names::Namespace;

    use super::*;
    use crate::apps::{self, Mount};
    use crate::context::Context;

    const NODE: [u8; 4] = [0; 4];

    /// Relay on a single node.
    async fn relay() -> Namespaces {
        let config: Config = Layers::new(apps::declarations()).resolve().unwrap();
        let namespace = Namespace::parse("/relay").unwrap();
        let context = Context::alone(std::slice::from_ref(&namespace)).await;
        let relay = apps::find("relay").unwrap();
        let mount = Mount { context: context.clone(), namespace: namespace.clone(), neighbours: &[relay] };
        let app = (relay.start)(mount);
        Namespaces::new(context, vec![(app, namespace)], &config.auth, 0).unwrap()
    }

    fn claims(rooms: Value) -> Claims {
        let claims = json!({"sub": "u", "exp": 1, "rooms": rooms});
        Claims::from_json(claims.as_object().unwrap()).unwrap()
    }

    /// A socket with this claim, in these rooms.
    async fn socket(namespaces: &Namespaces, id: u8, may: Value, rooms: &[&str]) -> Arc<Socket> {
        let (fanout, claims) = (&namespaces.context.fanout, claims(may));
        let node = NodeId::from_random(NODE);
        let info = SocketInfo {
            id: SocketId::new(node, [id; 16]),
            user: claims.user.clone(),
            display_name: "U".into(),
            connected_at_ms: 0,
            email: None,
            role: None,
        };
        let queue = fanout.send_queue(SessionId::new(node, [id; 16]));
        let local = fanout.prepare("/relay", info).await.unwrap().attach(queue, || ()).unwrap();
        for room in rooms {
            fanout.enter(&local, &Room::parse(room).unwrap()).await.unwrap();
        }
        let share = namespaces.users.share(&claims.user);
        Arc::new(Socket::new(local, claims, share))
    }

    fn rooms(socket: &Socket) -> Vec<String> {
        let mut rooms: Vec<_> = socket.local().rooms().iter().map(|room| room.as_str().to_owned()).collect();
        rooms.sort_unstable();
        rooms
    }

    #[tokio::test]
    async fn a_socket_keeps_the_rooms_that_its_token_opens() {
        let namespaces = relay().await;
        let phone = socket(&namespaces, 1, json!(["*"]), &["a", "b1", "b2"]).await;
        let desk = socket(&namespaces, 2, json!(["*"]), &["a", "b1"]).await;
        phone.renew(claims(json!(["b*"])));
        assert!(namespaces.review_socket(&phone).await);
        assert_eq!(rooms(&phone), ["b1", "b2"]);
        assert_eq!(rooms(&desk), ["a", "b1"], "each socket by its own token");
        phone.renew(claims(json!([])));
        assert!(namespaces.review_socket(&phone).await && rooms(&phone).is_empty());
    }

    #[tokio::test]
    async fn a_rooms_sockets_are_judged_each_by_its_own_token() {
        let namespaces = relay().await;
        let stays = socket(&namespaces, 1, json!(["a"]), &["a"]).await;
        let goes = socket(&namespaces, 2, json!(["b"]), &["a", "b"]).await;
        let all = vec![Arc::clone(&stays), Arc::clone(&goes)];
        assert!(namespaces.review_room(all, &Room::parse("a").unwrap()).await);
        assert_eq!((rooms(&stays), rooms(&goes)), (vec!["a".to_owned()], vec!["b".to_owned()]));
    }

    #[tokio::test]
    async fn only_sockets_with_access_are_moved_into_a_room() {
        let namespaces = relay().await;
        let may = socket(&namespaces, 1, json!(["a"]), &[]).await;
        let may_not = socket(&namespaces, 2, json!(["b"]), &[]).await;
        let both = vec![Arc::clone(&may), Arc::clone(&may_not)];
        namespaces.bring(both, &Room::parse("a").unwrap()).await.unwrap();
        assert_eq!((rooms(&may).len(), rooms(&may_not).len()), (1, 0));
    }

    #[tokio::test]
    async fn a_socket_that_cannot_be_checked_waits_once() {
        let namespaces = relay().await;
        let socket = socket(&namespaces, 1, json!([]), &[]).await;
        for _ in 0..3 {
            namespaces.unreviewed.add([Arc::clone(socket.local())]);
        }
        assert_eq!(namespaces.unreviewed.take().await.len(), 1);
    }
}
