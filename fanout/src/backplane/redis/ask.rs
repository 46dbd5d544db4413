//! What this node has all nodes do, itself among them: a request that every node receives, and their answers.

use std::time::Duration;

use shared::adapter::{self, Selection};
use shared::ids::SocketId;
use shared::limits::{JOIN_WAIT_MS, REACH_PAUSE_MS, REACH_WAIT_MS};
use shared::names::{Namespace, Room, UserId};
use shared::sio::Event;
use tokio::time::Instant;

use super::backplane::RedisBackplane;
use crate::backplane::questions::{Answers, Asker, Question};
use crate::error::FanoutError;
use crate::target::Target;

impl RedisBackplane {
    async fn request(&self, namespace: &Namespace, message: &[u8]) -> Result<(), FanoutError> {
        self.publish_plain(&self.channels.request(namespace.as_str()), message).await?;
        Ok(())
    }

    /// A question to every node of ours that listens.
    async fn ask_nodes(&self, namespace: &Namespace) -> Result<Question<'_>, FanoutError> {
        // Node.js servers do not answer; a node that has just died holds its lease but does not listen.
        let listening = self.servers(namespace.as_str()).await?;
        let nodes = self.presence.living_nodes().await?.min(listening);
        self.questions.open(Asker::Node, self.node.id.as_str(), nodes).ok_or(FanoutError::TooManyQuestions)
    }

    /// Every socket of a user enters a room; with `if_allowed`, those that the rules of its app let in.
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
        if is_done(question).await { Ok(()) } else { Err(FanoutError::Unavailable) }
    }

    /// Sockets in a room that may not be there any more leave it. Returns whether all nodes have done that.
    ///
    /// # Errors
    /// Nobody could be asked.
    pub(crate) async fn review(&self, namespace: &Namespace, room: &Room) -> Result<bool, FanoutError> {
        let question = self.ask_nodes(namespace).await?;
        let message = adapter::encode_review(self.node.id.as_str(), &question.id, room.as_str());
        self.request(namespace, &message).await?;
        Ok(is_done(question).await)
    }

    /// How many sockets get what is sent to `target`; `None` when one of the nodes does not report in time, or lately did not.
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
        let node = self.node.id.as_str();
        let question =
            self.questions.open_count(Asker::Backend, node, nodes).ok_or(FanoutError::TooManyQuestions)?;
        let message = adapter::encode_count(node, &question.id, of);
        self.request(target.namespace, &message).await?;
        let reached = question.counted(Duration::from_millis(REACH_WAIT_MS)).await;
        if reached.is_none() {
            *self.unreached.lock() = Some(Instant::now());
        }
        Ok(reached)
    }

    /// The sockets in a room leave another one.
    pub(crate) async fn take_out(
        &self,
        namespace: &Namespace,
        of: &str,
        room: &Room,
    ) -> Result<(), FanoutError> {
        let message = adapter::encode_leave_sockets(self.node.id.as_str(), &of_rooms([of]), &[room.as_str()]);
        self.request(namespace, &message).await
    }

    /// Sockets are disconnected from the namespace.
    pub(crate) async fn disconnect(
        &self,
        namespace: &Namespace,
        ids: &[SocketId],
    ) -> Result<(), FanoutError> {
        let of = of_rooms(ids.iter().map(SocketId::as_str));
        let message = adapter::encode_disconnect_sockets(self.node.id.as_str(), &of, false);
        self.request(namespace, &message).await
    }

    /// Tells other servers of the namespace an event.
    pub(crate) async fn server_side_emit(
        &self,
        namespace: &Namespace,
        name: &str,
        args: &[&str],
    ) -> Result<(), FanoutError> {
        let message = adapter::encode_server_side_emit(self.node.id.as_str(), name, args);
        self.request(namespace, &message).await
    }

    /// Has the sockets of all servers ask their clients, and waits for the answers.
    pub(crate) async fn ask(
        &self,
        target: &Target<'_>,
        event: &Event<'_>,
        at_most: Duration,
    ) -> Result<Answers, FanoutError> {
        let (node, nodes) = (self.node.id.as_str(), self.servers(target.namespace.as_str()).await?);
        let question =
            self.questions.open(Asker::Client, node, nodes).ok_or(FanoutError::TooManyQuestions)?;
        let (room, excepted) = (target.to.room(), target.excepted());
        let except: Vec<&str> = excepted.iter().map(String::as_str).collect();
        let ms = u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX);
        let from = (node, &*question.id);
        let message = adapter::encode_ack_broadcast(from, event, room.as_deref().as_slice(), &except, ms)
            .map_err(|_| FanoutError::BadPacket)?;
        self.request(target.namespace, &message).await?;
        Ok(question.answers(at_most).await)
    }
}

fn of_rooms<'a>(rooms: impl IntoIterator<Item = &'a str>) -> Selection {
    Selection { rooms: rooms.into_iter().map(str::to_owned).collect(), except: Vec::new() }
}

async fn is_done(question: Question<'_>) -> bool {
    question.all_done(Duration::from_millis(JOIN_WAIT_MS)).await
}
