//! `chat`: discussion rooms with history and typing (document 003; contract, "chat").
//!
//! A message is stored before it is broadcast, and a message that cannot be stored is not broadcast. Who
//! joins gets the history and after it everything that came later: no message is missing between the two
//! and none is in both ([`order`]).

mod departures;
mod events;
mod ledger;
mod order;
mod rooms;
mod store;

use std::sync::Arc;

use shared::limits::DEPARTURES_MAX;

use super::{Departure, Event, Handling};
use crate::context::Context;
use crate::socket::Socket;
use departures::Departures;
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
    departures: Arc<Departures>,
}

impl Chat {
    /// Makes the app and starts its tasks: the one that stores messages and the one that tells who has not
    /// come back.
    pub(crate) fn start(context: Context) -> Arc<Self> {
        let orders = Arc::new(Orders::default());
        let departures = Arc::new(Departures::new(context.leave_holdback, DEPARTURES_MAX));
        let ledger = Ledger::start(context.clone(), Arc::clone(&orders));
        context.tasks.spawn_until_stop(Arc::clone(&departures).run(context.clone()));
        Arc::new(Self { context, ledger, orders, departures })
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

pub(crate) fn on_disconnect(chat: &Chat, socket: &Socket, departure: &Departure) {
    let claims = socket.claims();
    for (room, left) in &departure.rooms {
        if events::RoomId::of_room(room).is_none() {
            continue;
        }
        chat.orders.release(room);
        if left.last_of_user {
            chat.departures.add(socket.namespace(), room, socket.user(), claims.email.clone());
        }
    }
}
