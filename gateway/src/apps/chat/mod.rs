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
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use fanout::{FanoutError, Gone, Sequenced, Target};
use shared::auth::Claims;
use shared::config::AppDeclaration;
use shared::limits::CHAT_UNTOLD_RETRY_MS;
use shared::names::Room;
use tokio::sync::Notify;

use super::{Admission, App, AppKind, Departure, Event, Handling, Hook, Mount, OwnRooms, hook};
use crate::clock::{iso, now_ms};
use crate::context::Context;
use crate::socket::{self, Socket};
use events::{ChatEvent, ROOM_PREFIX};
use ledger::Ledger;
use order::Orders;

/// What the app is.
pub(super) static KIND: AppKind = AppKind {
    declaration: AppDeclaration {
        name: "chat",
        namespace: "/",
        keeps_records: true,
        pushes: false,
        settings: &[],
    },
    describe: describe::describe,
    rooms: OwnRooms { names: &[], prefixes: &[ROOM_PREFIX] },
    start: |Mount { context, .. }| Arc::new(Chat::start(context)),
};

/// The app.
#[derive(Debug)]
struct Chat {
    context: Context,
    ledger: Ledger,
    orders: Arc<Orders>,
    /// Messages may have been missed.
    missed: Arc<Notify>,
}

impl Chat {
    /// Makes the app and starts the tasks that store messages and find what was missed.
    fn start(context: Context) -> Arc<Self> {
        let orders = Arc::new(Orders::default());
        let ledger = Ledger::start(context.clone());
        let missed = Arc::<Notify>::default();
        let keeping_up = order::keep_up(context.clone(), Arc::clone(&orders), Arc::clone(&missed));
        context.tasks.spawn_until_stop(keeping_up);
        Arc::new(Self { context, ledger, orders, missed })
    }
}

impl App for Arc<Chat> {
    fn kind(&self) -> &'static AppKind {
        &KIND
    }

    fn on_event(&self, socket: &Arc<Socket>, event: Event<'_>) -> Handling {
        let event = match ChatEvent::decode(&event.name, &event.args) {
            Ok(event) => event,
            Err(error) => return Handling::Done(Err(error)),
        };
        let (chat, socket) = (Self::clone(self), Arc::clone(socket));
        match event {
            ChatEvent::Join(room) => Handling::later(rooms::join(chat, socket, room)),
            ChatEvent::Leave(room) => Handling::later(rooms::leave(chat, socket, room)),
            ChatEvent::Send(message) => Handling::later(rooms::send_message(chat, socket, message)),
            ChatEvent::TypingStart(room) => Handling::later(rooms::typing_start(chat, socket, room)),
            ChatEvent::TypingStop(room) => Handling::later(rooms::typing_stop(chat, socket, room)),
            ChatEvent::History(page) => Handling::later(rooms::history(chat, socket, page)),
        }
    }

    /// Any token opens every room.
    fn admits<'a>(&'a self, _claims: &'a Claims, room: &'a Room) -> Admission<'a> {
        Admission::Known(is_room(room).then_some(true))
    }

    fn on_disconnect(&self, departure: &Departure) {
        for room in departure.rooms.iter().filter(|room| is_room(room)) {
            self.orders.release(room);
        }
    }

    fn on_gone<'a>(&'a self, gone: &'a Gone) -> Hook<'a> {
        if is_room(&gone.room) { hook(tell_moved(self, gone, false)) } else { None }
    }

    fn on_back<'a>(&'a self, back: &'a Gone) -> Hook<'a> {
        if is_room(&back.room) { hook(tell_moved(self, back, true)) } else { None }
    }

    /// A message was broadcast: it is delivered when its turn in the room has come.
    fn on_sequenced(&self, broadcast: &Sequenced) -> bool {
        let Some(room) = events::RoomId::of_cluster(&broadcast.room) else { return false };
        order::arrived(&self.context, &self.orders, room, broadcast.clone());
        true
    }

    /// Messages may have been missed: the records know them.
    fn on_resubscribed(&self) -> Hook<'_> {
        self.missed.notify_one();
        None
    }
}

/// Whether a room is one of chat's.
fn is_room(room: &Room) -> bool {
    events::RoomId::of_room(room).is_some()
}

/// Tells the others in a room that a user has left it or is back. While Redis is away that waits, and then only what is still
/// true is told.
async fn tell_moved(chat: &Chat, gone: &Gone, is_there: bool) {
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
