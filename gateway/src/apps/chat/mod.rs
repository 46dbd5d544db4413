//! `chat`: discussion rooms with history and typing (document 003; contract, "chat").
//!
//! A message is stored before it is broadcast, and a message that cannot be stored is not broadcast. Who
//! joins gets the history and after it everything that came later: no message is missing between the two
//! and none is in both ([`order`]).

mod describe;
mod events;
mod ledger;
mod order;
mod rooms;
mod store;

use std::sync::Arc;
use std::time::Duration;

use fanout::{FanoutError, Gone, Sequenced, Target};
use shared::limits::CHAT_UNTOLD_RETRY_MS;
use shared::names::Room;
use tokio::sync::Notify;

use super::{Departure, Event, Handling};
use crate::clock::{iso, now_ms};
use crate::context::Context;
use crate::socket::{self, Socket};
pub(crate) use describe::describe;
use events::ChatEvent;
pub(crate) use events::{EVENTS, ROOM_PREFIX};
use ledger::Ledger;
use order::Orders;

/// The app.
#[derive(Debug)]
pub(crate) struct Chat {
    context: Context,
    ledger: Ledger,
    orders: Arc<Orders>,
    /// Messages may have been missed.
    missed: Arc<Notify>,
}

impl Chat {
    /// Makes the app and starts the tasks that store messages and find what was missed.
    pub(crate) fn start(context: Context) -> Arc<Self> {
        let orders = Arc::new(Orders::default());
        let ledger = Ledger::start(context.clone());
        let missed = Arc::<Notify>::default();
        let keeping_up = order::keep_up(context.clone(), Arc::clone(&orders), Arc::clone(&missed));
        context.tasks.spawn_until_stop(keeping_up);
        Arc::new(Self { context, ledger, orders, missed })
    }
}

/// What an event of this name weighs, where a plain one weighs 1.
pub(crate) fn weight(event: &str) -> u32 {
    match event {
        "join_room" | "send_message" | "room_history" => 10,
        _ => 1,
    }
}

pub(crate) fn on_event(chat: &Arc<Chat>, socket: &Arc<Socket>, event: &Event<'_>) -> Handling {
    let event = match ChatEvent::decode(&event.name, &event.args) {
        Ok(event) => event,
        Err(error) => return Handling::Done(Err(error)),
    };
    let (chat, socket) = (Arc::clone(chat), Arc::clone(socket));
    match event {
        ChatEvent::Join(room) => Handling::later(rooms::join(chat, socket, room)),
        ChatEvent::Leave(room) => Handling::later(rooms::leave(chat, socket, room)),
        ChatEvent::Send(message) => Handling::later(rooms::send_message(chat, socket, message)),
        ChatEvent::TypingStart(room) => Handling::later(rooms::typing_start(chat, socket, room)),
        ChatEvent::TypingStop(room) => Handling::later(rooms::typing_stop(chat, socket, room)),
        ChatEvent::History(page) => Handling::later(rooms::history(chat, socket, page)),
    }
}

/// Whether a room is one of chat's.
pub(crate) fn is_room(room: &Room) -> bool {
    events::RoomId::of_room(room).is_some()
}

pub(crate) fn on_disconnect(chat: &Chat, departure: &Departure) {
    for room in departure.rooms.iter().filter(|room| is_room(room)) {
        chat.orders.release(room);
    }
}

/// A user is gone from a room: the others are told.
pub(crate) async fn on_gone(chat: &Chat, gone: &Gone) {
    tell_moved(chat, gone, false).await;
}

/// A user who was told to have left is there.
pub(crate) async fn on_back(chat: &Chat, back: &Gone) {
    tell_moved(chat, back, true).await;
}

/// While Redis is away that waits, and then only what is still true is told.
async fn tell_moved(chat: &Chat, gone: &Gone, is_there: bool) {
    if events::RoomId::of_room(&gone.room).is_none() {
        return;
    }
    let event = if is_there { "user_joined" } else { "user_left" };
    let body = events::UserMoved {
        user_id: gone.user.as_str(),
        email: gone.email.as_deref(),
        timestamp: iso(now_ms()),
    };
    let target = Target::room(&gone.namespace, gone.room.as_str());
    while let Err(error) = socket::broadcast(&chat.context, target, event, &body).await {
        if error != FanoutError::Unavailable {
            tracing::warn!(%error, room = %gone.room, event, "a room was not told");
            return;
        }
        let members = loop {
            tokio::time::sleep(Duration::from_millis(CHAT_UNTOLD_RETRY_MS)).await;
            if let Ok(members) =
                chat.context.fanout.members(gone.namespace.as_str(), gone.room.as_str()).await
            {
                break members;
            }
        };
        if members.iter().any(|member| member.user == gone.user) != is_there {
            return;
        }
    }
}

/// A message has been broadcast: it is delivered when its turn in the room has come.
pub(crate) fn on_sequenced(chat: &Chat, broadcast: &Sequenced) -> bool {
    let Some(room) = events::RoomId::of_cluster(&broadcast.room) else { return false };
    order::arrived(&chat.context, &chat.orders, room, broadcast.clone());
    true
}

/// Messages may have been missed: the records know them.
pub(crate) fn on_resubscribed(chat: &Chat) {
    chat.missed.notify_one();
}
