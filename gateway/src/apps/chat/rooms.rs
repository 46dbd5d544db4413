//! The stories: joining, leaving, sending, typing, paging.

use std::sync::Arc;

use fanout::{Entered, Target};
use shared::limits::CHAT_HISTORY;

use super::events::{
    Author, InRoom, Message, NewMessage, Page, RoomHistory, RoomId, Sent, UserMoved, UserStoppedTyping,
    UserTyping,
};
use super::ledger::Stored;
use super::store::{self, Draft};
use super::{Chat, order};
use crate::apps::{Handled, Reply};
use crate::clock::{iso, now_ms};
use crate::error::AppError;
use crate::socket::{self, Socket};

/// Enters the room, shows the joiner its history, and tells the others if the user was not there.
pub(super) async fn join(chat: Arc<Chat>, socket: Arc<Socket>, room: RoomId) -> Handled {
    let records = &chat.context.records;
    // Heard before the records are read: what is broadcast from now on arrives, what was is in the records.
    let _follow = chat.context.fanout.follow(socket.namespace().as_str(), room.room().as_str()).await;
    let hold = chat.orders.hold(room.room());
    let known = records.run(store::last_seq(records.pool(), &room)).await?;
    let mut messages = records.run(store::newest(records.pool(), &room)).await?;
    let mut order = Arc::clone(&hold.order).lock_owned().await;
    let last = *order.last.get_or_insert(known);
    order.namespace.get_or_insert_with(|| socket.namespace().clone());
    let outcome = enter_at(&chat, &socket, &room, (&mut messages, last)).await;
    // Whatever became of it, what has arrived meanwhile is delivered.
    order::release(&chat.context, &hold, &room, order).await;
    let entered = outcome?;
    if entered.new {
        hold.keep();
    }
    if entered.first_of_user {
        let claims = socket.claims();
        let body = UserMoved {
            user_id: socket.user().as_str(),
            email: claims.email.as_deref(),
            timestamp: iso(now_ms()),
        };
        told(tell_others(&chat, &socket, &room, "user_joined", &body).await);
    }
    Ok(Reply::success(&InRoom { room_id: room.as_str() }))
}

/// Enters the room at place `last` of its order, which is held: the history up to it is shown, what comes
/// after it comes live.
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
    // What is stored and not delivered yet comes live.
    messages.retain(|message| message.seq <= last);
    // Nothing can fail any more once the socket is in the room.
    let entered = chat.context.fanout.enter(socket.local(), room.room()).await?;
    let first = messages.len().saturating_sub(CHAT_HISTORY as usize);
    let body = RoomHistory { room_id: room.as_str(), messages: &messages[first..] };
    socket.emit(&chat.context, "room_history", &body);
    Ok(entered)
}

/// Leaves the room; the others hear of it at once if it was the user's last socket there.
pub(super) async fn leave(chat: Arc<Chat>, socket: Arc<Socket>, room: RoomId) -> Handled {
    let left = chat.context.fanout.leave(socket.local(), room.room().as_str()).await;
    if left.was_member {
        chat.orders.release(room.room());
    }
    if left.last_of_user {
        let claims = socket.claims();
        let body = UserMoved {
            user_id: socket.user().as_str(),
            email: claims.email.as_deref(),
            timestamp: iso(now_ms()),
        };
        told(tell_others(&chat, &socket, &room, "user_left", &body).await);
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
    // Else it is stored, and told to the others as soon as that is possible.
    let realtime = if realtime { None } else { Some(false) };
    Ok(Reply::success(&Sent { message, realtime }))
}

/// Tells the others that the user types. Lost without harm.
pub(super) async fn typing_start(chat: Arc<Chat>, socket: Arc<Socket>, room: RoomId) -> Handled {
    must_be_in(&socket, &room)?;
    let claims = socket.claims();
    socket.charge_room(&chat.context, room.room().as_str());
    let body = UserTyping { user_id: socket.user().as_str(), email: claims.email.as_deref() };
    let target = Target::room(socket.namespace(), room.room().as_str()).except(socket.id()).volatile();
    socket::broadcast(&chat.context, target, "user_typing", &body).await?;
    Ok(Reply::ok())
}

/// Tells the others that the user has stopped. Not volatile: who saw the start would wait for ever.
pub(super) async fn typing_stop(chat: Arc<Chat>, socket: Arc<Socket>, room: RoomId) -> Handled {
    must_be_in(&socket, &room)?;
    socket.charge_room(&chat.context, room.room().as_str());
    let body = UserStoppedTyping { user_id: socket.user().as_str() };
    tell_others(&chat, &socket, &room, "user_stopped_typing", &body).await?;
    Ok(Reply::ok())
}

/// Shows an older page, as the event that joining shows too, and in the ack.
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
    socket.emit(&chat.context, "room_history", &body);
    Ok(Reply::success(&body))
}

fn must_be_in(socket: &Socket, room: &RoomId) -> Result<(), AppError> {
    if socket.local().is_in(room.room().as_str()) {
        Ok(())
    } else {
        Err(AppError::Forbidden("You must join the room first".into()))
    }
}

async fn tell_others(
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

/// The user is in, or out, whether the others could be told or not.
fn told(outcome: Result<(), AppError>) {
    if let Err(error) = outcome {
        tracing::warn!(?error, "the others of a room were not told");
    }
}
