//! What the fan-out cannot do itself and tells its owner.

use std::sync::Arc;
use std::time::Duration;

use shared::adapter::Body;
use shared::ids::SessionId;
use shared::names::{Namespace, Room};
use shared::sio::{Answer, Encoded};
use tokio::sync::{mpsc, oneshot};

use crate::fanout::Fanout;
use crate::local::registry::LocalSocket;
use crate::presence::Gone;

/// Something to be done by whoever owns sessions and apps.
#[derive(Debug)]
pub enum Control {
    /// Sockets are to be disconnected.
    Disconnect {
        /// Which.
        sockets: Vec<Arc<LocalSocket>>,
        /// The whole connection, not the namespace alone.
        close: bool,
        /// To be dropped when they hear nothing any more.
        turn: Turn,
    },
    /// Sockets are to be asked, and what they answer told.
    Ask {
        /// Which; all of one namespace.
        sockets: Vec<Arc<LocalSocket>>,
        /// What.
        body: Body,
        /// How long they may take.
        timeout: Duration,
        /// Whom to tell.
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
        /// Whom to tell when it is done; nobody waits where there is none.
        reply: Option<Reply>,
    },
    /// Who may be in a room has changed: sockets that may not be there any more are to leave it.
    Review {
        /// Those in the room; all of one namespace.
        sockets: Vec<Arc<LocalSocket>>,
        /// Where.
        room: Room,
        /// Whom to tell when all of them have been judged; nobody waits where there is none.
        reply: Option<Reply>,
    },
    /// A user's last socket in a room is gone for good.
    Gone(Gone),
    /// A user who was told to be gone is there: their node had been taken for dead.
    Back(Gone),
    /// The subscriptions were made anew: something may have been missed in any room.
    Resubscribed,
}

/// What has been said after an order waits until this is dropped.
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

/// A broadcast with a place in an order that an app keeps: the app delivers it ([`Fanout::deliver`]).
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

/// Everything a fan-out tells its owner; each must be read.
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

/// The asker of a [`Control::Ask`].
#[derive(Debug, Clone)]
pub struct Reply {
    pub(crate) fanout: Fanout,
    pub(crate) namespace: Namespace,
    pub(crate) id: String,
}

impl Reply {
    /// Whether a client asks, of this or of another node.
    #[must_use]
    pub fn is_of_client(&self) -> bool {
        crate::backplane::questions::is_of_client(&self.id)
    }

    /// Tells how many sockets were asked: once, before the first answer.
    pub fn asked(&self, sockets: usize) {
        self.fanout.tell_asked(self, sockets);
    }

    /// Tells that what was asked of this node is done, and that no socket has anything to answer.
    pub fn done(&self) {
        self.asked(0);
    }

    /// Tells what a socket answered. Ends for a large answer when Redis has it, so that many of them wait for each other.
    pub async fn answered(&self, answer: Answer) {
        self.fanout.tell_answer(self, answer).await;
    }
}
