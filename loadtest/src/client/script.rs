//! The packets of every connection between the TCP handshake and its first message.

use anyhow::Result;

use crate::args::TargetArgs;
use crate::text::{self, Namespace};
use crate::token::Tokens;
use crate::upgrade::Upgrade;

/// The ack id of a connection's join.
const JOIN_ACK: u32 = 1;
/// The ack id of its leave. Other requests have larger ones.
pub(crate) const LEAVE_ACK: u32 = 2;

/// Assigns connections to rooms in order; the first connection of each room publishes.
#[derive(Clone, Debug)]
pub(crate) struct Rooms {
    prefix: String,
    size: usize,
}

impl Rooms {
    /// Rooms of `size` members each; `size` is at least 1.
    pub(crate) fn new(prefix: &str, size: usize) -> Self {
        Self { prefix: prefix.to_owned(), size: size.max(1) }
    }

    /// The room of a connection.
    pub(crate) fn of(&self, conn: usize) -> usize {
        conn / self.size
    }

    /// The connection that publishes to a room.
    pub(crate) fn publisher(&self, room: usize) -> usize {
        room * self.size
    }

    /// How many rooms `connections` fill; the last may be smaller.
    pub(crate) fn count(&self, connections: usize) -> usize {
        connections.div_ceil(self.size)
    }

    /// A room's name on the server.
    pub(crate) fn name(&self, room: usize) -> String {
        format!("{}{room}", self.prefix)
    }
}

/// The packets of the dialogue, and how to recognise success.
#[derive(Debug)]
pub(crate) struct Script {
    /// One for each server.
    upgrades: Vec<Upgrade>,
    pub(crate) namespace: Namespace,
    /// The event that confirms a join; `None` where the ack does.
    pub(crate) joined_on: Option<String>,
    tokens: Tokens,
    rooms: Rooms,
    join_event: String,
    join_payload: String,
    leave_event: String,
    leave_payload: String,
}

impl Script {
    /// The dialogue that the command line describes.
    pub(crate) fn new(target: &TargetArgs, rooms: Rooms, key: [u8; 16]) -> Result<Self> {
        Ok(Self {
            upgrades: target.url.iter().map(|url| Upgrade::new(url, key)).collect(),
            namespace: Namespace::new(&target.namespace)?,
            joined_on: target.joined_on.clone(),
            tokens: Tokens::new(target.token.as_deref(), target.jwt_secret.as_deref()),
            rooms,
            join_event: target.join_event.clone(),
            join_payload: target.join_payload.clone(),
            leave_event: target.leave_event.clone(),
            leave_payload: target.leave_payload.clone(),
        })
    }

    /// The WebSocket handshake of a connection.
    pub(crate) fn upgrade(&self, conn: usize) -> &Upgrade {
        &self.upgrades[conn % self.upgrades.len()]
    }

    /// The CONNECT packet of a connection.
    pub(crate) fn connect(&self, conn: usize) -> Result<String> {
        Ok(self.namespace.connect(&self.tokens.auth(conn)?))
    }

    /// The join of a connection; `None` if the server needs none.
    pub(crate) fn join(&self, conn: usize) -> Option<String> {
        if self.join_event.is_empty() {
            return None;
        }
        let room = self.rooms.name(self.rooms.of(conn));
        let payload = text::fill(&self.join_payload, &room, conn);
        // With an ack id the server's handler gets a callback, which a handler that does not ack may
        // mistake for an argument.
        let ack = self.joined_on.is_none().then_some(JOIN_ACK);
        Some(self.namespace.event(ack, &self.join_event, &payload))
    }

    /// The leave of a connection, acknowledged as [`LEAVE_ACK`].
    pub(crate) fn leave(&self, conn: usize) -> String {
        let room = self.rooms.name(self.rooms.of(conn));
        let payload = text::fill(&self.leave_payload, &room, conn);
        self.namespace.event(Some(LEAVE_ACK), &self.leave_event, &payload)
    }
}
