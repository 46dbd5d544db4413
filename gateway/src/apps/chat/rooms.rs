//! The operations on rooms: joining, leaving, sending, typing, paging.

use std::sync::Arc;

use fanout::{Entered, Target};

use super::events::{
    Author, InRoom, Message, NewMessage, Page, RoomHistory, RoomId, Sent, UserMoved, UserStoppedTyping,
    UserTyping,
};
use super::ledger::Stored;
use super::limits::CHAT_HISTORY;
use super::store::{self, Draft};
use super::{Chat, order};
use crate::apps::{Handled, Reply};
use crate::clock::{iso, now_ms};
use crate::error::AppError;
use crate::socket::{self, Socket};

/// Enters the room and sends its history to the socket. If this is the user's first socket there, notifies the
/// other members.
pub(super) async fn join(chat: Arc<Chat>, socket: Arc<Socket>, room: RoomId) -> Handled {
    let records = &chat.context.records;
    // Follow the room before reading the records: earlier messages are in the records, and later ones arrive live.
    let _follow = chat.context.fanout.follow(socket.namespace().as_str(), room.room().as_str()).await;
    let hold = chat.orders.hold(room.room());
    let known = records.run(store::last_seq(records.pool(), &room)).await?;
    let mut messages = records.run(store::newest(records.pool(), &room)).await?;
    let mut order = hold.order.lock().await;
    let last = order.join_at(known, chat.orders.belongs_to_members(&hold));
    let outcome = enter_at(&chat, &socket, &room, (&mut messages, last)).await;
    chat.orders.entered(&hold);
    if outcome.is_ok() {
        order.joined(socket.id());
    }
    // Deliver what has arrived meanwhile, even if entering failed.
    order::release(&chat.context, (socket.namespace(), &room), &hold.order, order).await;
    drop(hold);
    let entered = outcome?;
    if entered.first_of_user {
        let claims = socket.claims();
        let body = UserMoved {
            user_id: socket.user().as_str(),
            email: claims.email.as_deref(),
            timestamp: iso(now_ms()),
        };
        log_failure(notify_others(&chat, &socket, &room, "user_joined", &body).await);
    }
    Ok(Reply::success(&InRoom { room_id: room.as_str() }))
}

/// Enters the room at sequence number `last` of its locked order. The socket receives the history up to `last`, and
/// later messages live.
async fn enter_at(
    chat: &Chat,
    socket: &Socket,
    room: &RoomId,
    (messages, last): (&mut Vec<Message>, i64),
) -> Result<Entered, AppError> {
    let records = &chat.context.records;
    let shown = messages.last().map_or(0, |message| message.seq);
    if last > shown {
        let newer = store::between(records.pool(), room, (shown, last + 1), CHAT_HISTORY);
        messages.extend(records.run(newer).await?);
    }
    // Messages that are stored but not delivered yet come live.
    messages.retain(|message| message.seq <= last);
    // Do nothing that can fail after entering the room.
    let entered = chat.context.fanout.enter(socket.local(), room.room()).await?;
    let first = messages.len().saturating_sub(CHAT_HISTORY as usize);
    let body = RoomHistory { room_id: room.as_str(), messages: &messages[first..] };
    socket.emit(&chat.context, "room_history", &body);
    Ok(entered)
}

/// Leaves the room. If it was the user's last socket there, notifies the other members at once.
pub(super) async fn leave(chat: Arc<Chat>, socket: Arc<Socket>, room: RoomId) -> Handled {
    // Keep the leave behind the client's own messages in the room.
    order::after_all_said(&chat.context, &chat.orders, &room).await;
    let left = chat.context.fanout.leave_at_once(socket.local(), room.room().as_str()).await;
    if left.last_of_user {
        let claims = socket.claims();
        let body = UserMoved {
            user_id: socket.user().as_str(),
            email: claims.email.as_deref(),
            timestamp: iso(now_ms()),
        };
        log_failure(notify_others(&chat, &socket, &room, "user_left", &body).await);
    }
    Ok(Reply::success(&InRoom { room_id: room.as_str() }))
}

/// Stores a message, then broadcasts it to the room, sender included.
pub(super) async fn send_message(chat: Arc<Chat>, socket: Arc<Socket>, message: NewMessage) -> Handled {
    must_be_in(&socket, &message.room)?;
    let claims = socket.claims();
    let author = Author {
        id: socket.user().as_str().to_owned(),
        name: claims.display_name.as_ref().to_owned(),
        avatar: claims.avatar.as_deref().map(str::to_owned),
    };
    socket.charge_room(&chat.context, message.room.room().as_str());
    let draft = Draft { room: message.room, content: message.content, author };
    let Stored { message, realtime } = chat.ledger.append(socket.namespace(), draft).await?;
    // Otherwise it is stored, and the other members receive it later.
    let realtime = if realtime { None } else { Some(false) };
    Ok(Reply::success(&Sent { message, realtime }))
}

/// Notifies the other members that the user is typing. Volatile.
pub(super) async fn typing_start(chat: Arc<Chat>, socket: Arc<Socket>, room: RoomId) -> Handled {
    must_be_in(&socket, &room)?;
    let claims = socket.claims();
    socket.charge_room(&chat.context, room.room().as_str());
    let body = UserTyping { user_id: socket.user().as_str(), email: claims.email.as_deref() };
    let target = Target::room(socket.namespace(), room.room().as_str()).except(socket.id()).volatile();
    socket::broadcast(&chat.context, target, "user_typing", &body).await?;
    Ok(Reply::ok())
}

/// Notifies the other members that the user has stopped typing. Not volatile: clients that saw the start would wait
/// forever.
pub(super) async fn typing_stop(chat: Arc<Chat>, socket: Arc<Socket>, room: RoomId) -> Handled {
    must_be_in(&socket, &room)?;
    socket.charge_room(&chat.context, room.room().as_str());
    let body = UserStoppedTyping { user_id: socket.user().as_str() };
    notify_others(&chat, &socket, &room, "user_stopped_typing", &body).await?;
    Ok(Reply::ok())
}

/// Sends an older page, as the event `room_history` and in the ack.
pub(super) async fn history(chat: Arc<Chat>, socket: Arc<Socket>, page: Page) -> Handled {
    must_be_in(&socket, &page.room)?;
    let records = &chat.context.records;
    let before = match &page.before {
        None => i64::MAX,
        Some(id) => records
            .run(store::seq_of(records.pool(), &page.room, id))
            .await?
            .ok_or_else(|| AppError::NotFound("Message not found".into()))?,
    };
    let found = store::between(records.pool(), &page.room, (0, before), page.limit);
    let messages = records.run(found).await?;
    let body = RoomHistory { room_id: page.room.as_str(), messages: &messages };
    socket.emit_with_answer("room_history", &body);
    Ok(Reply::success(&body))
}

fn must_be_in(socket: &Socket, room: &RoomId) -> Result<(), AppError> {
    if socket.local().is_in(room.room().as_str()) {
        Ok(())
    } else {
        Err(AppError::Forbidden("You must join the room first".into()))
    }
}

async fn notify_others(
    chat: &Chat,
    socket: &Socket,
    room: &RoomId,
    event: &str,
    body: &(impl serde::Serialize + Sync),
) -> Result<(), AppError> {
    let target = Target::room(socket.namespace(), room.room().as_str()).except(socket.id());
    socket::broadcast(&chat.context, target, event, body).await?;
    Ok(())
}

/// Logs a failed notification. The user has entered or left anyway.
fn log_failure(outcome: Result<(), AppError>) {
    if let Err(error) = outcome {
        tracing::warn!(?error, "the other members of a room were not notified");
    }
}
