//! `chat`: discussion rooms with history and typing (document 003; contract, "chat").
//!
//! The node stores each message before it broadcasts it, and never broadcasts a message that it could not store. A
//! socket that joins receives the history and then every later message. None is missing and none comes twice
//! ([`order`]).

mod catch_up;
mod describe;
mod events;
mod ledger;
mod limits;
mod order;
mod rooms;
mod store;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use fanout::{Gone, Sequenced};
use futures_util::future::BoxFuture;
use shared::auth::Claims;
use shared::config::AppDeclaration;
use shared::names::{Namespace, Room};
use tokio::sync::Notify;

use super::{Admission, App, AppKind, Event, Handling, Hook, Mount, OwnRooms, hook};
use crate::context::Context;
use crate::jobs::{Job, Ran};
use crate::socket::Socket;
use catch_up::Behind;
use events::{ChatEvent, ROOM_PREFIX};
use ledger::Ledger;
use order::Orders;

/// The app's name.
const NAME: &str = "chat";

pub(super) static KIND: AppKind = AppKind {
    declaration: AppDeclaration { name: NAME, namespace: "/", keeps_records: true, settings: &[] },
    describe: describe::describe,
    limits: limits::ALL,
    rooms: OwnRooms { names: &[], prefixes: &[ROOM_PREFIX] },
    start: |Mount { context, namespace, .. }| Arc::new(Chat::start(context, namespace)),
};

/// The running app.
#[derive(Debug)]
struct Chat {
    context: Context,
    ledger: Ledger,
    orders: Arc<Orders>,
    /// Rooms whose last message could not be broadcast.
    behind: Arc<Behind>,
    /// Wakes the task that delivers missed messages.
    missed: Arc<Notify>,
}

impl Chat {
    /// Creates the app and starts the tasks that store messages and find missed ones.
    fn start(context: Context, namespace: Namespace) -> Arc<Self> {
        let orders = Arc::new(Orders::new(context.fanout.clone(), namespace));
        let behind = Arc::<Behind>::default();
        let ledger = Ledger::start(context.clone(), Arc::clone(&behind));
        let missed = Arc::<Notify>::default();
        let keeping_up = order::keep_up(context.clone(), Arc::clone(&orders), Arc::clone(&missed));
        context.tasks.spawn_until_stop(keeping_up);
        Arc::new(Self { context, ledger, orders, behind, missed })
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
            ChatEvent::History(page) => Handling::snapshot(rooms::history(chat, socket, page)),
        }
    }

    /// Every token may enter every chat room.
    fn admits<'a>(&'a self, _claims: &'a Claims, room: &'a Room) -> Admission<'a> {
        Admission::Known(is_room(room).then_some(true))
    }

    fn on_gone<'a>(&'a self, gone: &'a Gone) -> Hook<'a> {
        if is_room(&gone.room) { hook(catch_up::report(self, gone, false)) } else { None }
    }

    fn on_back<'a>(&'a self, back: &'a Gone) -> Hook<'a> {
        if is_room(&back.room) { hook(catch_up::report(self, back, true)) } else { None }
    }

    /// Delivers a broadcast to a chat room when its turn in the room's order has come.
    fn on_sequenced(&self, broadcast: Sequenced) -> Option<Sequenced> {
        let Some(room) = events::RoomId::of_cluster(&broadcast.room) else { return Some(broadcast) };
        order::arrived(&self.context, &self.orders, room, broadcast);
        None
    }

    /// Runs work that could not be done at once.
    fn run_job<'a>(&'a self, job: &'a Job) -> BoxFuture<'a, Ran> {
        Box::pin(async move {
            match job.kind() {
                catch_up::LAST_MESSAGE => catch_up::run_last_message(self, job).await,
                catch_up::RECOVER => catch_up::run_recover(self, job).await,
                catch_up::MOVED => catch_up::run_moved(self, job).await,
                _ => Ran::done(),
            }
        })
    }

    fn on_departure(&self, namespace: &Namespace) {
        catch_up::recover(self, namespace);
    }

    /// Missed messages are read from the records.
    fn on_resubscribed(&self) -> Hook<'_> {
        // Another node may have taken over these rooms' jobs meanwhile.
        self.behind.clear();
        self.missed.notify_one();
        None
    }
}

/// Whether a room is a chat room.
fn is_room(room: &Room) -> bool {
    events::RoomId::of_room(room).is_some()
}
