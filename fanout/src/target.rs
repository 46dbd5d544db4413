//! What is sent, and to which sockets.

use std::borrow::Cow;

use futures_util::future::BoxFuture;
use shared::ids::SocketId;
use shared::names::{Namespace, USER_ROOM_PREFIX, UserId};
use shared::sio::{Encoded, Event};

use crate::error::FanoutError;

/// The recipients of a broadcast.
#[derive(Debug, Clone, Copy)]
pub enum To<'a> {
    /// The members of a room.
    Room(&'a str),
    /// Every socket of a user.
    User(&'a UserId),
    /// All sockets of the namespace.
    All,
}

impl To<'_> {
    /// The room that stands for it: a user has their own room; the whole namespace has none.
    pub(crate) fn room(&self) -> Option<Cow<'_, str>> {
        match self {
            Self::Room(room) => Some(Cow::Borrowed(room)),
            Self::User(user) => Some(Cow::Owned(format!("{USER_ROOM_PREFIX}{user}"))),
            Self::All => None,
        }
    }
}

/// The recipients and options of a broadcast.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The namespace.
    pub namespace: &'a Namespace,
    /// The recipients.
    pub to: To<'a>,
    /// A socket that does not receive it.
    pub except: Option<SocketId>,
    /// A user whose sockets do not receive it.
    pub except_user: Option<&'a UserId>,
    /// Dropped for clients that cannot take it now.
    pub volatile: bool,
    /// Gets an offset in its room and is kept for a while; members are notified when they have missed one.
    pub tracked: bool,
    /// Its place in an order that an app keeps: every node passes it to the app instead of delivering it
    /// ([`crate::Sequenced`]).
    pub sequence: Option<i64>,
    /// Drops further broadcasts with this key for five minutes. Implies `tracked`.
    pub idempotency: Option<&'a str>,
}

impl<'a> Target<'a> {
    /// The rooms whose members do not receive it.
    pub(crate) fn excepted(&self) -> Vec<String> {
        let socket = self.except.map(|socket| socket.as_str().to_owned());
        let user = self.except_user.map(|user| format!("{USER_ROOM_PREFIX}{user}"));
        socket.into_iter().chain(user).collect()
    }

    fn to(namespace: &'a Namespace, to: To<'a>) -> Self {
        Self {
            namespace,
            to,
            except: None,
            except_user: None,
            volatile: false,
            tracked: false,
            sequence: None,
            idempotency: None,
        }
    }

    /// To the members of `room`.
    #[must_use]
    pub fn room(namespace: &'a Namespace, room: &'a str) -> Self {
        Self::to(namespace, To::Room(room))
    }

    /// To every socket of `user`.
    #[must_use]
    pub fn user(namespace: &'a Namespace, user: &'a UserId) -> Self {
        Self::to(namespace, To::User(user))
    }

    /// To all sockets of the namespace.
    #[must_use]
    pub fn all(namespace: &'a Namespace) -> Self {
        Self::to(namespace, To::All)
    }

    /// Not to `socket`.
    #[must_use]
    pub fn except(self, socket: SocketId) -> Self {
        Self { except: Some(socket), ..self }
    }

    /// Not to any socket of `user`.
    #[must_use]
    pub fn except_user(self, user: &'a UserId) -> Self {
        Self { except_user: Some(user), ..self }
    }

    /// Dropped for clients that cannot take it now.
    #[must_use]
    pub fn volatile(self) -> Self {
        Self { volatile: true, ..self }
    }

    /// With an offset in its room.
    #[must_use]
    pub fn tracked(self) -> Self {
        Self { tracked: true, ..self }
    }

    /// At place `sequence` in an order that an app keeps.
    #[must_use]
    pub fn sequenced(self, sequence: i64) -> Self {
        Self { sequence: Some(sequence), tracked: true, ..self }
    }

    /// Sent once, however often it is requested under `key`.
    #[must_use]
    pub fn once(self, key: &'a str) -> Self {
        Self { idempotency: Some(key), tracked: true, ..self }
    }
}

/// An event, encoded once for this node: made by [`crate::Fanout::packet`].
#[derive(Debug, Clone)]
pub struct Packet(pub(crate) Form);

#[derive(Debug, Clone)]
pub(crate) enum Form {
    /// For this node's own clients.
    Ready(Encoded),
    /// For Redis, which returns it to this node's clients as well.
    Message(Vec<u8>),
    /// It cannot be encoded; sending it fails with this error.
    Bad(FanoutError),
}

impl Packet {
    /// For clients of this node.
    #[must_use]
    pub fn ready(event: &Event<'_>) -> Self {
        Self(Form::Ready(event.encode()))
    }
}

/// A broadcast that has its place in the order.
pub enum Posted {
    /// The outcome is known.
    Done(Result<Receipt, FanoutError>),
    /// The outcome comes later. The broadcast goes on whether or not a caller waits.
    Waits(BoxFuture<'static, Result<Receipt, FanoutError>>),
}

impl Posted {
    /// Waits for the outcome.
    ///
    /// # Errors
    /// Those of [`crate::Fanout::broadcast`].
    pub async fn outcome(self) -> Result<Receipt, FanoutError> {
        match self {
            Self::Done(done) => done,
            Self::Waits(waiting) => waiting.await,
        }
    }
}

impl std::fmt::Debug for Posted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Done(done) => f.debug_tuple("Done").field(done).finish(),
            Self::Waits(_) => f.write_str("Waits"),
        }
    }
}

/// The outcome of a broadcast.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Receipt {
    /// Nodes and Node.js servers that received it, including this one.
    pub nodes: usize,
    /// Its place, `epoch:offset`, if it is tracked.
    pub place: Option<String>,
    /// It had been sent before under its key and was not sent again.
    pub repeated: bool,
}
