//! Requests to all nodes, this one included, and their answers.

use std::collections::HashSet;
use std::time::Duration;

use shared::adapter::{self, Selection};
use shared::ids::SocketId;
use shared::limits::{JOIN_WAIT_MS, REACH_PAUSE_MS, REACH_WAIT_MS};
use shared::names::{Namespace, Room, UserId};
use shared::sio::Event;
use tokio::time::Instant;

use super::backplane::RedisBackplane;
use super::connection::Post;
use crate::backplane::questions::Question;
use crate::collector::{Answers, Asker, Expected};
use crate::error::FanoutError;
use crate::events::Turn;
use crate::target::Target;

/// How long a node may take to carry out a request.
const WAIT: Duration = Duration::from_millis(JOIN_WAIT_MS);

impl RedisBackplane {
    async fn request(&self, namespace: &Namespace, message: &[u8]) -> Result<(), FanoutError> {
        self.post_request(namespace, message)?.await
    }

    /// Queues a request in the order of everything that this node publishes: earlier posts take effect before it.
    fn post_request(
        &self,
        namespace: &Namespace,
        message: &[u8],
    ) -> Result<impl Future<Output = Result<(), FanoutError>>, FanoutError> {
        let publish = Post::publish(&self.channels.request(namespace.as_str()), message);
        let published = self.posts.post(&self.commands, publish)?;
        Ok(async move {
            published.await?.map_err(|error| self.commands.refused(&error))?;
            Ok(())
        })
    }

    /// A question to every Muster node that listens.
    async fn ask_nodes(&self, namespace: &Namespace) -> Result<Question, FanoutError> {
        // Node.js servers do not answer. A node that has just died still holds its lease but does not listen.
        let listening = self.servers(namespace.as_str()).await?;
        let nodes = self.presence.living_among(listening).await?;
        self.questions.open(Asker::Node, Expected::Reports { nodes })
    }

    /// Every socket of a user enters a room; with `if_allowed`, only the sockets that the rules of its app allow.
    pub(crate) async fn join_user(
        &self,
        namespace: &Namespace,
        (user, room): (&UserId, &Room),
        if_allowed: bool,
    ) -> Result<(), FanoutError> {
        let question = self.ask_nodes(namespace).await?;
        let from = (self.node.id.as_str(), &*question.id);
        let of = of_rooms([Room::of_user(user).as_str()]);
        let message = adapter::encode_join_sockets(from, &of, &[room.as_str()], if_allowed);
        self.request(namespace, &message).await?;
        question.done_by_all(WAIT).await
    }

    /// Removes sockets from a room that may no longer be in it. Returns whether all nodes have done so.
    ///
    /// # Errors
    /// The request could not be published.
    pub(crate) async fn review(&self, namespace: &Namespace, room: &Room) -> Result<bool, FanoutError> {
        let question = self.ask_nodes(namespace).await?;
        let message = adapter::encode_review(self.node.id.as_str(), &question.id, room.as_str());
        self.request(namespace, &message).await?;
        Ok(question.done_by_all(WAIT).await.is_ok())
    }

    /// Counts the sockets that receive what is sent to `target`. `None` when a node does not report in time, or lately did
    /// not.
    pub(crate) async fn reach(
        &self,
        target: &Target<'_>,
        of: &Selection,
    ) -> Result<Option<usize>, FanoutError> {
        let pause = Duration::from_millis(REACH_PAUSE_MS);
        if self.unreached.lock().is_some_and(|at| at.elapsed() < pause) {
            return Ok(None);
        }
        let nodes = self.presence.living_nodes().await?;
        let question = self.questions.open(Asker::Backend, Expected::Reports { nodes })?;
        let message = adapter::encode_count(self.node.id.as_str(), &question.id, of);
        self.request(target.namespace, &message).await?;
        let reached = question.counted(Duration::from_millis(REACH_WAIT_MS)).await;
        if reached.is_none() {
            *self.unreached.lock() = Some(Instant::now());
        }
        Ok(reached)
    }

    /// The sockets in the room `of` leave another room.
    pub(crate) async fn take_out(
        &self,
        namespace: &Namespace,
        of: &str,
        room: &Room,
    ) -> Result<(), FanoutError> {
        let question = self.ask_nodes(namespace).await?;
        let from = (self.node.id.as_str(), &*question.id);
        let message = adapter::encode_leave_sockets(from, &of_rooms([of]), &[room.as_str()]);
        self.request(namespace, &message).await?;
        question.done_by_all(WAIT).await
    }

    /// Disconnects sockets from the namespace. Each Muster node answers when its own have left.
    pub(crate) async fn disconnect(
        &self,
        namespace: &Namespace,
        ids: &[SocketId],
    ) -> Result<(), FanoutError> {
        let nodes = ids.iter().map(SocketId::node).collect::<HashSet<_>>().len();
        let question = self.questions.open(Asker::Node, Expected::Reports { nodes })?;
        let (from, of) = ((self.node.id.as_str(), &*question.id), of_rooms(ids.iter().map(SocketId::as_str)));
        self.request(namespace, &adapter::encode_disconnect_sockets(from, &of, false)).await?;
        question.done_by_all(WAIT).await
    }

    /// Sends an event to the other servers of the namespace.
    pub(crate) async fn server_side_emit(
        &self,
        namespace: &Namespace,
        name: &str,
        args: &[&str],
    ) -> Result<(), FanoutError> {
        let message = adapter::encode_server_side_emit(self.node.id.as_str(), name, args);
        self.request(namespace, &message).await
    }

    /// Sends the event to the sockets of all servers, and waits for the acks of their clients.
    pub(crate) async fn ask(
        &self,
        target: &Target<'_>,
        event: &Event<'_>,
        (at_most, turn): (Duration, Turn),
    ) -> Result<Answers, FanoutError> {
        let nodes = self.servers(target.namespace.as_str()).await?;
        let question = self.questions.open(Asker::Client, Expected::Sockets { nodes })?;
        let (room, excepted) = (target.to.room(), target.excepted());
        let except: Vec<&str> = excepted.iter().map(String::as_str).collect();
        let ms = u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX);
        let from = (self.node.id.as_str(), &*question.id);
        let message = adapter::encode_ack_broadcast(from, event, room.as_deref().as_slice(), &except, ms)
            .map_err(|_| FanoutError::BadPacket)?;
        let published = self.post_request(target.namespace, &message)?;
        self.note_post(target);
        drop(turn);
        published.await?;
        Ok(question.answers(at_most).await)
    }
}

fn of_rooms<'a>(rooms: impl IntoIterator<Item = &'a str>) -> Selection {
    Selection { rooms: rooms.into_iter().map(str::to_owned).collect(), except: Vec::new() }
}
