//! What the fan-out reports to its owner, and what it asks the owner to do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use shared::adapter::Body;
use shared::ids::{NODE_CHARS, SessionId};
use shared::names::Room;
use shared::sio::Answer;
use tokio::sync::{mpsc, oneshot};

use crate::local::audience::Audience;
use crate::local::socket::LocalSocket;
use crate::presence::Gone;

/// Something for the owner of sessions and apps to do.
#[derive(Debug)]
pub enum Control {
    /// Disconnect sockets.
    Disconnect {
        /// The sockets.
        sockets: Vec<Arc<LocalSocket>>,
        /// Whether to close the whole connection, not only leave the namespace.
        close: bool,
        /// Dropped when the sockets receive nothing any more.
        turn: Turn,
        /// Dropped when the sockets have left their rooms on all nodes and their clients have been notified.
        left: Turn,
    },
    /// Ask sockets, and pass on their answers.
    Ask {
        /// The sockets.
        audience: Audience,
        /// The question.
        body: Body,
        /// How long they may take to answer.
        timeout: Duration,
        /// The recipient of their answers.
        reply: Reply,
        /// Dropped when the question has its place in the order of what each socket receives.
        turn: Turn,
    },
    /// Move sockets into a room, as far as the rules of its app allow them.
    Bring {
        /// The sockets; all of one namespace.
        sockets: Vec<Arc<LocalSocket>>,
        /// The room.
        room: Room,
        /// Where to report completion; `None` where no caller waits.
        reply: Option<Reply>,
    },
    /// The rules of a room have changed: remove the sockets that may no longer be in it.
    Review {
        /// The sockets in the room; all of one namespace.
        sockets: Vec<Arc<LocalSocket>>,
        /// The room.
        room: Room,
        /// Where to report that all of them have been checked; `None` where no caller waits.
        reply: Option<Reply>,
    },
    /// A user's last socket has left a room for good.
    Gone(Gone),
    /// A user who was reported as gone is in the room: their node had wrongly counted as dead.
    Back(Gone),
    /// The subscriptions were renewed: members of any room may have missed something.
    Resubscribed,
}

/// Something waits until this is dropped: the next item in an order, or an answer.
pub struct Turn {
    _over: Option<oneshot::Sender<()>>,
    _held: Option<Box<dyn Send + Sync>>,
}

impl Turn {
    /// A turn, and a receiver that ends when the turn is over.
    #[must_use]
    pub fn new() -> (Self, oneshot::Receiver<()>) {
        let (over, is_over) = oneshot::channel();
        (Self { _over: Some(over), _held: None }, is_over)
    }

    /// A turn that ends when `held` is dropped.
    pub(crate) fn holding(held: impl Send + Sync + 'static) -> Self {
        Self { _over: None, _held: Some(Box::new(held)) }
    }

    /// A turn that nothing waits for.
    pub(crate) fn free() -> Self {
        Self { _over: None, _held: None }
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").finish_non_exhaustive()
    }
}

/// Everything a fan-out reports to its owner; each must be read.
#[derive(Debug)]
pub struct Events {
    /// Sessions to close because their send queues overflowed.
    pub overflowed: mpsc::Receiver<SessionId>,
    /// Requests to carry out at once.
    pub control: mpsc::Receiver<Control>,
    /// Users who are gone or back, in order; the owner may take its time.
    pub moved: mpsc::Receiver<Control>,
}

/// Follows the node's id in the ids of clients' questions, so that the asked nodes recognise them. No id of a Node.js
/// server has this character.
pub(crate) const OF_CLIENT: char = '~';

/// Whether a client asks the question, on this or another Muster node.
pub(crate) fn is_of_client(id: &str) -> bool {
    let number = id.get(NODE_CHARS..).and_then(|rest| rest.strip_prefix(OF_CLIENT));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The recipient of answers: an asker on this node, or through the backplane on another one.
pub(crate) trait Answerable: Send + Sync {
    /// This node has asked this many sockets question `id`.
    fn asked(&self, id: &str, sockets: usize);
    /// A socket has answered.
    fn answered<'a>(&'a self, id: &'a str, answer: Answer) -> BoxFuture<'a, ()>;
}

/// The asker of a [`Control`].
#[derive(Clone)]
pub struct Reply {
    pub(crate) to: Arc<dyn Answerable>,
    pub(crate) id: String,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Reply {
    /// Whether a client asks, on this or another node.
    #[must_use]
    pub fn is_of_client(&self) -> bool {
        is_of_client(&self.id)
    }

    /// Reports how many sockets were asked: once, before the first answer.
    pub fn asked(&self, sockets: usize) {
        self.to.asked(&self.id, sockets);
    }

    /// Reports that this node's part is done, and that no socket answers.
    pub fn done(&self) {
        self.asked(0);
    }

    /// Passes on a socket's answer. A large answer waits until Redis has it, so that many of them go one after the other.
    pub async fn answered(&self, answer: Answer) {
        self.to.answered(&self.id, answer).await;
    }
}
