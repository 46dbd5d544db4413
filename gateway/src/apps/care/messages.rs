//! Messages: stored, then sent to their recipients and to the sender's other sockets. Their status is `sent`,
//! `delivered` or `read`.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use shared::auth::Claims;
use shared::names::UserId;
use uuid::Uuid;

use super::events::{History, NewMessage, Page, Peer};
use super::message::{Message, Status};
use super::message_store as store;
use super::room_id::{RoomId, conversation_of};
use super::{Care, NAME, if_late, notifications_room};
use crate::apps::{Handled, Reply};
use crate::clock::{iso, now_ms};
use crate::describe::forms::{False, OwnId, RoomName, Time, UserIdText};
use crate::error::AppError;
use crate::jobs::{Audience, Batch, Job, Ran};
use crate::records::LAST_ID;
use crate::socket::Socket;

const NEW: &str = "message:new";

/// The kind of the job that records whether a message has been delivered.
pub(super) const DELIVERED: &str = "delivered";

/// A new status of a message.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MessageStatusChanged")]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusChanged<'a> {
    #[schemars(with = "OwnId")]
    message_id: &'a str,
    conversation_id: &'a str,
    status: Status,
    /// The user who received or read it; `null` if it was delivered to a group room.
    #[schemars(with = "Option<UserIdText>")]
    user_id: Option<&'a str>,
    #[schemars(with = "Time")]
    timestamp: String,
}

/// The stored message.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MessageSent")]
pub(super) struct Sent<'a> {
    message: &'a Message,
    /// `false` if the message is stored but will be delivered later, because Redis is unavailable.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "False")]
    realtime: Option<bool>,
}

/// The result of marking messages as read.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MessagesRead")]
pub(super) struct Updated {
    /// How many of the messages were unread.
    updated: usize,
}

/// A page of a conversation.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Messages")]
pub(super) struct Found {
    /// Oldest first.
    messages: Vec<Message>,
    /// Whether older messages exist.
    has_more: bool,
}

/// A conversation and its last message.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Conversation")]
struct Listed {
    conversation_id: String,
    /// The other user; `null` for a group room.
    #[schemars(with = "Option<UserIdText>")]
    recipient_id: Option<String>,
    #[schemars(with = "Option<RoomName>")]
    room_id: Option<String>,
    last_message: Message,
    /// The number of unread messages to the user; 0 for a group room.
    unread_count: i64,
}

/// The user's conversations.
#[derive(Serialize, JsonSchema)]
pub(super) struct Conversations {
    /// Most recent message first.
    conversations: Vec<Listed>,
}

/// A conversation's id and participants.
struct Conversation {
    id: String,
    recipient: Option<UserId>,
    room: Option<RoomId>,
    visit: Option<String>,
}

impl Care {
    /// Resolves the conversation that a user addresses, if they have access to it.
    async fn conversation(&self, claims: &Claims, with: &Peer) -> Result<Conversation, AppError> {
        let direct = |recipient: UserId, room| Conversation {
            id: conversation_of(&claims.user, &recipient),
            recipient: Some(recipient),
            room,
            visit: None,
        };
        let (room, visit) = match with {
            Peer::User(user) if *user == claims.user => {
                return Err(AppError::BadInput("Recipient must be another user".into()));
            }
            Peer::User(user) => return Ok(direct(user.clone(), None)),
            Peer::Visit(visit, room) => (room, Some(visit.clone())),
            Peer::Room(room) => (room, None),
        };
        self.must_have_access(claims, room).await?;
        if let Some((a, b)) = room.two() {
            // The room of two users is their conversation, whether they have joined it or not.
            let other = if claims.user.as_str() == a { b } else { a };
            let other = UserId::parse(&other).map_err(|_| AppError::BadInput("Invalid room id".into()))?;
            return Ok(direct(other, Some(room.clone())));
        }
        Ok(Conversation { id: room.as_str().to_owned(), recipient: None, room: Some(room.clone()), visit })
    }

    /// The jobs after a message: events to its recipients and the sender's other sockets, and a check whether a
    /// recipient was connected.
    fn after_message(&self, socket: &Socket, message: &Message, to: &Conversation) -> Batch {
        let sending = Sending::of(message);
        let subject = sending.subject();
        let new = match (&to.recipient, &to.room) {
            (Some(recipient), _) => self.to_user(&subject, recipient, NEW, message),
            (None, Some(room)) => {
                let audience = Audience::Room(room.room().clone());
                let event = Job::event_to(&subject, (&self.namespace, audience), NEW, message);
                event.except_user(socket.user())
            }
            (None, None) => return self.context.jobs.batch([]),
        };
        let sent = self.to_user(&subject, socket.user(), "message:sent", message).except(socket.id());
        let delivered = Job::of_app(NAME, DELIVERED, &subject, &sending).apart();
        self.context.jobs.batch([new.into(), sent.into(), delivered])
    }

    fn status_changed(&self, of: &Sending, status: Status, reader: Option<&str>) -> Option<(String, Job)> {
        let sender = UserId::parse(&of.sender_id).ok()?;
        let body = StatusChanged {
            message_id: &of.message_id,
            conversation_id: &of.conversation_id,
            status,
            user_id: reader,
            timestamp: iso(now_ms()),
        };
        let event = self.to_user(&of.subject(), &sender, "message:status", &body);
        Some((of.message_id.clone(), event.into()))
    }

    /// Advances messages to a status. Returns how many messages changed, without waiting for the events.
    async fn advance(&self, changes: Vec<(String, Job)>, to: Status) -> Result<usize, AppError> {
        if changes.is_empty() {
            return Ok(0);
        }
        let (records, jobs) = (&self.context.records, &self.context.jobs);
        let batch = |list: Vec<Job>| jobs.batch(list);
        let (changed, batch) = records.run(store::advance(records.pool(), changes, to, batch)).await?;
        batch.run_later();
        Ok(changed)
    }
}

/// A sent message whose delivery is to be checked.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sending {
    message_id: String,
    conversation_id: String,
    sender_id: String,
    recipient_id: Option<String>,
    room_id: Option<String>,
}

impl Sending {
    fn of(message: &Message) -> Self {
        Self {
            message_id: message.id.clone(),
            conversation_id: message.conversation_id.clone(),
            sender_id: message.sender_id.clone(),
            recipient_id: message.recipient_id.clone(),
            room_id: message.room_id.clone(),
        }
    }

    /// The subject of jobs about the message.
    fn subject(&self) -> String {
        format!("care:{}", self.conversation_id)
    }
}

/// Stores a message and sends it. A repeated client message id returns the first message.
pub(super) async fn send(care: &Arc<Care>, socket: &Arc<Socket>, new: NewMessage) -> Handled {
    let claims = socket.claims();
    care.rates.send(&claims.user)?;
    let conversation = care.conversation(&claims, &new.to).await?;
    if let (None, Some(room)) = (&conversation.recipient, &conversation.room) {
        socket.charge_room(&care.context, room.as_str());
    }
    let at_ms = now_ms();
    let raw = |text: String| RawValue::from_string(text).map_err(|error| AppError::internal(&error));
    let message = Message {
        id: Uuid::now_v7().to_string(),
        conversation_id: conversation.id.clone(),
        room_id: conversation.room.as_ref().map(|room| room.as_str().to_owned()),
        sender_id: claims.user.as_str().to_owned(),
        sender_name: claims.display_name.to_string(),
        sender_role: claims.role.as_deref().map(str::to_owned),
        recipient_id: conversation.recipient.as_ref().map(|user| user.as_str().to_owned()),
        visit_id: conversation.visit.clone(),
        message: new.message,
        attachments: raw(new.attachments)?,
        metadata: raw(new.metadata)?,
        timestamp: iso(at_ms),
        status: Status::Sent,
        client_message_id: new.client_id,
        seq: 0,
    };
    let (care, socket, context) = (Arc::clone(care), Arc::clone(socket), care.context.clone());
    context
        .to_the_end(async move {
            let records = &care.context.records;
            let follow = |message: &Message| care.after_message(&socket, message, &conversation);
            let appended = store::append(records.pool(), &message, at_ms, follow);
            let Some((message, batch)) = records.run(appended).await? else {
                let client_id = message.client_message_id.as_deref().unwrap_or_default();
                let before = store::by_client_id(records.pool(), &message.sender_id, client_id);
                let before = records.run(before).await?.ok_or(AppError::Internal)?;
                if (&before.conversation_id, &before.message) != (&message.conversation_id, &message.message)
                {
                    return Err(AppError::Conflict("clientMessageId was used for something else".into()));
                }
                return Ok(Reply::success(&Sent { message: &before, realtime: None }));
            };
            let realtime = batch.run().await.is_done;
            Ok(Reply::success(&Sent { message: &message, realtime: if_late(realtime) }))
        })
        .await
}

/// Marks a sent message as delivered if a recipient has a socket.
pub(super) async fn run_delivered(care: &Care, job: &Job) -> Ran {
    let Some(sending) = job.payload::<Sending>() else { return Ran::done() };
    match is_received(care, &sending).await {
        Ok(true) => {}
        Ok(false) => return Ran::done(),
        Err(_) => return Ran::Failed,
    }
    let reader = sending.recipient_id.as_deref();
    let changes = care.status_changed(&sending, Status::Delivered, reader).into_iter().collect();
    match care.advance(changes, Status::Delivered).await {
        Ok(_) => Ran::done(),
        Err(_) => Ran::Failed,
    }
}

async fn is_received(care: &Care, sending: &Sending) -> Result<bool, AppError> {
    let (fanout, namespace) = (&care.context.fanout, care.namespace.as_str());
    match sending.recipient_id.as_deref().map(UserId::parse) {
        Some(Ok(recipient)) => {
            let room = notifications_room(&recipient);
            Ok(fanout.count(namespace, room.as_str()).await?.count.sockets > 0)
        }
        Some(Err(_)) => Ok(false),
        None => {
            let room = sending.room_id.as_deref().unwrap_or_default();
            let members = fanout.members(namespace, room).await?;
            Ok(members.iter().any(|member| member.user.as_str() != sending.sender_id))
        }
    }
}

/// Marks messages as read and notifies their senders.
pub(super) async fn read(care: &Arc<Care>, socket: &Socket, ids: Vec<String>) -> Handled {
    let claims = socket.claims();
    care.rates.read(&claims.user, ids.len())?;
    let records = &care.context.records;
    let mut changes = Vec::with_capacity(ids.len());
    for id in &ids {
        let Some(message) = records.run(store::find(records.pool(), id)).await? else { continue };
        let user = claims.user.as_str();
        let is_for = match &message.recipient_id {
            Some(recipient) => recipient == user,
            None => {
                let room = RoomId::parse(message.room_id.as_deref().unwrap_or_default())?;
                message.sender_id != user && care.must_have_access(&claims, &room).await.is_ok()
            }
        };
        if is_for {
            changes.extend(care.status_changed(&Sending::of(&message), Status::Read, Some(user)));
        }
    }
    let (care, context) = (Arc::clone(care), care.context.clone());
    let updated = context.to_the_end(async move { care.advance(changes, Status::Read).await }).await?;
    Ok(Reply::success(&Updated { updated }))
}

/// A page of a conversation, oldest first. Messages in it become delivered to the reader.
pub(super) async fn history(care: &Arc<Care>, socket: &Socket, asked: History) -> Handled {
    let claims = socket.claims();
    care.rates.list_records(&claims.user, asked.page.limit, 1)?;
    let conversation = care.conversation(&claims, &asked.of).await?;
    let records = &care.context.records;
    let before = match &asked.page.before {
        None => i64::MAX,
        Some(id) => records
            .run(store::seq_of(records.pool(), &conversation.id, id))
            .await?
            .ok_or_else(|| AppError::NotFound("Message not found".into()))?,
    };
    // One more than requested shows whether more exist.
    let limit = i64::from(asked.page.limit);
    let found = store::before(records.pool(), &conversation.id, before, limit + 1);
    let mut messages = records.run(found).await?;
    let has_more = messages.len() > asked.page.limit as usize;
    if has_more {
        messages.remove(0);
    }
    let user = claims.user.as_str();
    let unseen =
        messages.iter().filter(|message| message.status == Status::Sent && message.sender_id != user);
    let changes = unseen
        .filter_map(|message| care.status_changed(&Sending::of(message), Status::Delivered, Some(user)));
    let changes: Vec<_> = changes.collect();
    if !changes.is_empty() {
        let care = Arc::clone(care);
        drop(care.context.clone().tasks.spawn(async move {
            if let Err(error) = care.advance(changes, Status::Delivered).await {
                tracing::debug!(error = error.say(), "the delivery of messages was not recorded");
            }
        }));
    }
    Ok(Reply::success(&Found { messages, has_more }))
}

/// The user's conversations, most recent message first.
pub(super) async fn conversations(care: &Care, socket: &Socket, page: Page) -> Handled {
    care.rates.list_records(socket.user(), page.limit, 3)?;
    let claims = socket.claims();
    let (records, user) = (&care.context.records, socket.user().as_str());
    let before = page.before.as_deref().unwrap_or(LAST_ID);
    let found = store::last_of_each(records.pool(), user, before, i64::from(page.limit));
    let mut conversations = Vec::new();
    for message in records.run(found).await? {
        if message.recipient_id.is_none() {
            let room = RoomId::parse(message.room_id.as_deref().unwrap_or_default())?;
            if care.must_have_access(&claims, &room).await.is_err() {
                continue;
            }
        }
        let unread = records.run(store::unread_in(records.pool(), &message.conversation_id, user)).await?;
        let other = if message.sender_id == user {
            message.recipient_id.clone()
        } else {
            Some(message.sender_id.clone())
        };
        conversations.push(Listed {
            conversation_id: message.conversation_id.clone(),
            recipient_id: message.recipient_id.as_ref().and(other),
            room_id: message.room_id.clone(),
            last_message: message,
            unread_count: unread,
        });
    }
    Ok(Reply::success(&Conversations { conversations }))
}
