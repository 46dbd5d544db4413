//! What the fan-out reports to its owner, and what only the owner can do.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use shared::adapter::Body;
use shared::ids::{NODE_CHARS, SessionId};
use shared::names::{Namespace, Room};
use shared::sio::{Answer, Encoded};
use tokio::sync::{mpsc, oneshot};

use crate::local::socket::LocalSocket;
use crate::presence::Gone;

/// Something to be done by the owner of sessions and apps.
#[derive(Debug)]
pub enum Control {
    /// Sockets are to be disconnected.
    Disconnect {
        /// Which.
        sockets: Vec<Arc<LocalSocket>>,
        /// The whole connection, not the namespace alone.
        close: bool,
        /// To be dropped when they receive nothing any more.
        turn: Turn,
    },
    /// Sockets are to be asked, and their answers passed on.
    Ask {
        /// Which; all of one namespace.
        sockets: Vec<Arc<LocalSocket>>,
        /// What.
        body: Body,
        /// How long they may take.
        timeout: Duration,
        /// Where their answers go.
        reply: Reply,
        /// To be dropped when the question has its place in the order of what each of them gets.
        turn: Turn,
    },
    /// Sockets are to enter a room, those that may be there by the rules of its app.
    Bring {
        /// Which; all of one namespace.
        sockets: Vec<Arc<LocalSocket>>,
        /// Where.
        room: Room,
        /// Where to report that it is done; nobody waits where there is none.
        reply: Option<Reply>,
    },
    /// Who may be in a room has changed: sockets that may not be there any more are to leave it.
    Review {
        /// Those in the room; all of one namespace.
        sockets: Vec<Arc<LocalSocket>>,
        /// Where.
        room: Room,
        /// Where to report that all of them have been judged; nobody waits where there is none.
        reply: Option<Reply>,
    },
    /// A user's last socket in a room is gone for good.
    Gone(Gone),
    /// A user who was reported as gone is there: their node had been taken for dead.
    Back(Gone),
    /// The subscriptions had to be renewed: something may have been missed in any room.
    Resubscribed,
}

/// What was received after an order waits until this is dropped.
#[derive(Debug)]
pub struct Turn {
    _over: Option<oneshot::Sender<()>>,
}

impl Turn {
    /// A turn, and what ends when that is over.
    pub(crate) fn new() -> (Self, oneshot::Receiver<()>) {
        let (over, is_over) = oneshot::channel();
        (Self { _over: Some(over) }, is_over)
    }

    /// For what nothing waits for.
    pub(crate) fn free() -> Self {
        Self { _over: None }
    }
}

/// A broadcast with a place in an order that an app keeps: the app delivers it ([`crate::Fanout::deliver`]).
#[derive(Debug, Clone)]
pub struct Sequenced {
    /// Where.
    pub namespace: Namespace,
    /// The room.
    pub room: String,
    /// The place.
    pub sequence: i64,
    /// What is to be delivered.
    pub packet: Encoded,
}

/// Everything a fan-out reports to its owner; each must be read.
#[derive(Debug)]
pub struct Events {
    /// Sessions whose send queue overflowed, to be closed.
    pub overflowed: mpsc::Receiver<SessionId>,
    /// What is to be done at once.
    pub control: mpsc::Receiver<Control>,
    /// Who is gone or back, in order; it may take its time.
    pub moved: mpsc::Receiver<Control>,
    /// Broadcasts that apps deliver.
    pub sequenced: mpsc::Receiver<Sequenced>,
}

/// What the ids of clients' questions have behind the node's id, so that the nodes that are asked know them.
/// No id of a Node.js server has such a character.
pub(crate) const OF_CLIENT: char = '~';

/// Whether a question, of this or of another node of ours, is a client's.
pub(crate) fn is_of_client(id: &str) -> bool {
    let number = id.get(NODE_CHARS..).and_then(|rest| rest.strip_prefix(OF_CLIENT));
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Where the answers to a question go: to an asker on this node, or through the backplane to another one.
pub(crate) trait Answerable: Send + Sync {
    /// This many sockets of this node were asked question `id`.
    fn asked(&self, id: &str, sockets: usize);
    /// One of them has answered.
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
    /// Whether a client asks, of this or of another node.
    #[must_use]
    pub fn is_of_client(&self) -> bool {
        is_of_client(&self.id)
    }

    /// Reports how many sockets were asked: once, before the first answer.
    pub fn asked(&self, sockets: usize) {
        self.to.asked(&self.id, sockets);
    }

    /// Reports that what was asked of this node is done, and that no socket has anything to answer.
    pub fn done(&self) {
        self.asked(0);
    }

    /// Passes on what a socket answered. A large answer takes until Redis has it, so that many of them wait for each other.
    pub async fn answered(&self, answer: Answer) {
        self.to.answered(&self.id, answer).await;
    }
}
