//! Decodes and validates client events (document 004, "Client → Server").

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use shared::blank::is_blank;
use shared::limits::PAGE_MAX;
use shared::names::{UserId, is_name};
use shared::sio::Args;

use super::limits::{
    CALL_SIGNAL_MAX, CARE_ATTACHMENTS_MAX, CARE_JSON_MAX, CARE_MESSAGE_MAX, PRESENCE_TEXT_MAX,
    PRESENCE_USERS_MAX,
};
use super::room_id::RoomId;
use super::status::Chosen;
use crate::apps::{first, unknown_event};
use crate::describe::forms::{Name, RoomName, UserIdText};
use crate::error::AppError;
use crate::text::{bounded, trim};

/// The refusal of an event that names no call.
const CALL: &str = "Expected {callId}";

/// The other side of a conversation.
#[derive(Debug, Clone)]
pub(super) enum Peer {
    User(UserId),
    Visit(String, RoomId),
    Room(RoomId),
}

/// `message:send`.
#[derive(Debug)]
pub(super) struct NewMessage {
    pub(super) to: Peer,
    pub(super) message: String,
    /// JSON texts.
    pub(super) attachments: String,
    pub(super) metadata: String,
    pub(super) client_id: Option<String>,
}

/// A request for a page of messages.
#[derive(Debug)]
pub(super) struct History {
    pub(super) of: Peer,
    pub(super) page: Page,
}

/// A request for a page.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) before: Option<String>,
    pub(super) limit: u32,
    pub(super) unread_only: bool,
}

/// `room:participants`.
#[derive(Debug)]
pub(super) struct OfRoom {
    pub(super) room: RoomId,
    pub(super) after: Option<UserId>,
    pub(super) limit: usize,
}

/// `call:initiate`.
#[derive(Debug)]
pub(super) struct NewCall {
    pub(super) recipient: UserId,
    pub(super) call_type: &'static str,
    pub(super) visit: Option<String>,
}

/// A client event.
#[derive(Debug)]
pub(super) enum ClientEvent {
    RoomJoin(RoomId),
    Participants(OfRoom),
    RoomLeave(RoomId),
    TypingStart(RoomId),
    TypingStop(RoomId),
    Send(NewMessage),
    Read(Vec<String>),
    History(History),
    Conversations(Page),
    Initiate(NewCall),
    Accept(String),
    Reject(String, Option<String>),
    End(String),
    Signal(String, Box<RawValue>),
    PresenceGet(Vec<UserId>),
    SetStatus(Chosen),
    Subscribe(Vec<UserId>),
    Unsubscribe(Option<Vec<UserId>>),
    NotificationRead(String),
    NotificationReadAll,
    NotificationList(Page),
    UnreadCount,
}

/// A room.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "RoomReference")]
#[serde(rename_all = "camelCase")]
pub(super) struct RoomBody {
    #[schemars(with = "RoomName")]
    room_id: String,
}

/// A request for a page of a room's participants.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "RoomParticipantsQuery")]
#[serde(rename_all = "camelCase")]
pub(super) struct ParticipantsBody {
    #[schemars(with = "RoomName")]
    room_id: String,
    /// The user after whom the page begins. Default: from the first.
    #[schemars(with = "Option<UserIdText>")]
    after: Option<String>,
    /// 1 to 100, clamped. Default: 100.
    limit: Option<i64>,
}

/// The recipient or the conversation: exactly one of these.
#[derive(Deserialize, JsonSchema, Default)]
#[schemars(rename = "ConversationReference")]
#[serde(rename_all = "camelCase", default)]
struct PeerBody {
    /// Another user.
    #[schemars(with = "Option<UserIdText>")]
    recipient_id: Option<String>,
    /// The room of a visit.
    #[schemars(with = "Option<Name>")]
    visit_id: Option<String>,
    #[schemars(with = "Option<RoomName>")]
    room_id: Option<String>,
}

/// A message to send.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "NewCareMessage")]
#[serde(rename_all = "camelCase")]
pub(super) struct SendBody {
    #[serde(flatten)]
    to: PeerBody,
    /// Trimmed, then at most 5,000 characters without NUL. May be empty if there are attachments.
    #[serde(default)]
    message: String,
    /// At most 10, and 8,192 bytes of JSON.
    #[schemars(with = "Option<Vec<Map<String, Value>>>")]
    attachments: Option<Vec<Value>>,
    /// At most 8,192 bytes of JSON.
    metadata: Option<Map<String, Value>>,
    /// An id that the sender chooses. A second message with the same id is not sent.
    #[schemars(with = "Option<Name>")]
    client_message_id: Option<String>,
}

/// A request for a page.
#[derive(Deserialize, JsonSchema, Default)]
#[schemars(rename = "PageQuery")]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PageBody {
    /// The id of the entry before which the page ends.
    #[schemars(with = "Option<Name>")]
    before: Option<String>,
    /// 1 to 100, clamped. Default: 50.
    limit: Option<i64>,
    /// Only for notifications: whether to list unread ones only.
    unread_only: Option<bool>,
}

/// A request for a page of a conversation.
#[derive(JsonSchema)]
#[schemars(rename = "MessageHistoryQuery")]
#[expect(dead_code, reason = "its two halves are decoded separately, with different refusals")]
pub(super) struct HistoryBody {
    #[schemars(flatten)]
    of: PeerBody,
    #[schemars(flatten)]
    page: PageBody,
}

/// Messages to mark as read.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "MessageReferences")]
#[serde(rename_all = "camelCase")]
pub(super) struct ReadBody {
    /// 1 to 100.
    #[schemars(with = "Vec<Name>")]
    message_ids: Vec<String>,
}

/// The user to call.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "CallInvitation")]
#[serde(rename_all = "camelCase")]
pub(super) struct InitiateBody {
    #[schemars(with = "UserIdText")]
    recipient_id: String,
    /// Default: `video`.
    #[schemars(extend("enum" = ["video", "audio", null]))]
    call_type: Option<String>,
    #[schemars(with = "Option<Name>")]
    visit_id: Option<String>,
}

/// A call.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "CallReference")]
#[serde(rename_all = "camelCase")]
pub(super) struct CallBody {
    #[schemars(with = "Name")]
    call_id: String,
}

/// A call to reject.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "CallRejection")]
#[serde(rename_all = "camelCase")]
pub(super) struct RejectBody {
    #[schemars(with = "Name")]
    call_id: String,
    /// At most 128 characters, without NUL.
    reason: Option<String>,
}

/// A WebRTC signal for the other party of a call.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "CallSignal")]
#[serde(rename_all = "camelCase")]
pub(super) struct SignalBody {
    #[schemars(with = "Name")]
    call_id: String,
    /// At most 65,536 bytes of JSON; anything but `null`.
    #[schemars(with = "Value")]
    signal: Option<Box<RawValue>>,
}

/// Some users.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PresenceQuery")]
#[serde(rename_all = "camelCase")]
pub(super) struct UsersBody {
    /// At most 500.
    #[schemars(with = "Vec<UserIdText>")]
    user_ids: Vec<String>,
}

/// Some users, or all of them.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PresenceUnsubscription")]
#[serde(rename_all = "camelCase")]
pub(super) struct UsersOrAllBody {
    /// At most 500. Default: all watched users.
    #[schemars(with = "Option<Vec<UserIdText>>")]
    user_ids: Option<Vec<String>>,
}

/// The status to set.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PresenceUpdate")]
#[serde(rename_all = "camelCase")]
pub(super) struct StatusBody {
    #[schemars(extend("enum" = ["online", "away", "busy"]))]
    status: String,
    /// Trimmed, then at most 128 characters without NUL. Default: none.
    custom_status: Option<String>,
}

/// A notification.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "NotificationReference")]
#[serde(rename_all = "camelCase")]
pub(super) struct NotificationBody {
    notification_id: String,
}

fn bad<T>(say: &'static str) -> Result<T, AppError> {
    Err(AppError::BadInput(say.into()))
}

fn expect<T: serde::de::DeserializeOwned>(args: &Args<'_>, what: &'static str) -> Result<T, AppError> {
    first(args).ok_or(AppError::BadInput(what.into()))
}

fn user(text: &str, what: &'static str) -> Result<UserId, AppError> {
    UserId::parse(text).map_err(|_| AppError::BadInput(what.into()))
}

impl ClientEvent {
    /// Whether the answer describes current state about which the client also receives events.
    pub(super) fn is_snapshot(&self) -> bool {
        match self {
            Self::RoomJoin(_)
            | Self::Participants(_)
            | Self::History(_)
            | Self::Conversations(_)
            | Self::PresenceGet(_)
            | Self::SetStatus(_)
            | Self::Subscribe(_)
            | Self::NotificationRead(_)
            | Self::NotificationReadAll
            | Self::NotificationList(_)
            | Self::UnreadCount => true,
            Self::RoomLeave(_)
            | Self::TypingStart(_)
            | Self::TypingStop(_)
            | Self::Send(_)
            | Self::Read(_)
            | Self::Initiate(_)
            | Self::Accept(_)
            | Self::Reject(..)
            | Self::End(_)
            | Self::Signal(..)
            | Self::Unsubscribe(_) => false,
        }
    }

    pub(super) fn decode(name: &str, args: &Args<'_>) -> Result<Self, AppError> {
        let room = || RoomId::parse(&expect::<RoomBody>(args, "Expected {roomId}")?.room_id);
        Ok(match name {
            "room:join" => Self::RoomJoin(room()?),
            "room:participants" => Self::Participants(participants(args)?),
            "room:leave" => Self::RoomLeave(room()?),
            "typing:start" => Self::TypingStart(room()?),
            "typing:stop" => Self::TypingStop(room()?),
            "message:send" => Self::Send(new_message(args)?),
            "message:read" => Self::Read(message_ids(args)?),
            "message:history" => {
                Self::History(History { of: peer(first(args).unwrap_or_default())?, page: page(args)? })
            }
            "message:conversations" => Self::Conversations(page(args)?),
            "call:initiate" => Self::Initiate(new_call(args)?),
            "call:accept" => Self::Accept(call(args)?),
            "call:reject" => {
                let RejectBody { call_id, reason } = expect(args, CALL)?;
                let call = call_id_of(call_id)?;
                let reason = reason.map(|reason| bounded(&reason, "Reason", PRESENCE_TEXT_MAX));
                Self::Reject(call, reason.transpose()?)
            }
            "call:end" => Self::End(call(args)?),
            "call:signal" => {
                let SignalBody { call_id, signal } = expect(args, CALL)?;
                match (call_id_of(call_id)?, signal) {
                    (call, Some(signal)) if signal.get().len() <= CALL_SIGNAL_MAX => {
                        Self::Signal(call, signal)
                    }
                    (_, Some(_)) => return bad("Signal too large"),
                    (_, None) => return bad("Expected {callId, signal}"),
                }
            }
            "presence:get" => Self::PresenceGet(users(args)?),
            "presence:setStatus" => Self::SetStatus(chosen(args)?),
            "presence:subscribe" => Self::Subscribe(users(args)?),
            "presence:unsubscribe" => match first(args) {
                Some(UsersOrAllBody { user_ids: Some(_) }) => Self::Unsubscribe(Some(users(args)?)),
                Some(UsersOrAllBody { user_ids: None }) => Self::Unsubscribe(None),
                None if args.raw.first().is_none_or(|raw| *raw == "null") => Self::Unsubscribe(None),
                None => return bad("Expected {userIds?}"),
            },
            "notification:read" => {
                let body: NotificationBody = expect(args, "Expected {notificationId}")?;
                Self::NotificationRead(body.notification_id)
            }
            "notification:readAll" => Self::NotificationReadAll,
            "notification:list" => Self::NotificationList(page(args)?),
            "notification:getUnreadCount" => Self::UnreadCount,
            _ => return Err(unknown_event()),
        })
    }
}

fn participants(args: &Args<'_>) -> Result<OfRoom, AppError> {
    let body: ParticipantsBody = expect(args, "Expected {roomId, after?, limit?}")?;
    let most = i64::from(PAGE_MAX);
    let limit = body.limit.unwrap_or(most).clamp(1, most);
    Ok(OfRoom {
        room: RoomId::parse(&body.room_id)?,
        after: body.after.map(|after| user(&after, "Invalid after")).transpose()?,
        limit: usize::try_from(limit).unwrap_or(1),
    })
}

/// Requires exactly one of the three.
fn peer(body: PeerBody) -> Result<Peer, AppError> {
    match body {
        PeerBody { recipient_id: Some(id), visit_id: None, room_id: None } => {
            Ok(Peer::User(user(&id, "Invalid recipientId")?))
        }
        PeerBody { recipient_id: None, visit_id: Some(id), room_id: None } => {
            let room = RoomId::of_visit(&id).map_err(|_| AppError::BadInput("Invalid visitId".into()))?;
            Ok(Peer::Visit(id, room))
        }
        PeerBody { recipient_id: None, visit_id: None, room_id: Some(id) } => {
            let room = RoomId::parse(&id)?;
            let visit = id.strip_prefix("visit:").map(str::to_owned);
            Ok(visit.map_or_else(|| Peer::Room(room.clone()), |visit| Peer::Visit(visit, room.clone())))
        }
        _ => bad("Expected one of recipientId, visitId and roomId"),
    }
}

fn new_message(args: &Args<'_>) -> Result<NewMessage, AppError> {
    let body: SendBody = expect(args, "Expected {recipientId | visitId | roomId, message}")?;
    let message = bounded(trim(&body.message), "Message", CARE_MESSAGE_MAX)?;
    let attachments = body.attachments.unwrap_or_default();
    if is_blank(&message) && attachments.is_empty() {
        return bad("Message cannot be empty");
    }
    if attachments.len() > CARE_ATTACHMENTS_MAX || !attachments.iter().all(Value::is_object) {
        return Err(AppError::BadInput(
            format!("Invalid attachments: expected at most {CARE_ATTACHMENTS_MAX} objects").into(),
        ));
    }
    let attachments = Value::Array(attachments).to_string();
    let metadata = Value::Object(body.metadata.unwrap_or_default()).to_string();
    for (text, what) in [(&attachments, "Attachments"), (&metadata, "Metadata")] {
        if text.len() > CARE_JSON_MAX {
            return Err(AppError::BadInput(format!("{what} too large (max {CARE_JSON_MAX} bytes)").into()));
        }
    }
    if body.client_message_id.as_deref().is_some_and(|id| !is_name(id)) {
        return bad("Invalid clientMessageId");
    }
    Ok(NewMessage { to: peer(body.to)?, message, attachments, metadata, client_id: body.client_message_id })
}

fn message_ids(args: &Args<'_>) -> Result<Vec<String>, AppError> {
    let ReadBody { message_ids } = expect(args, "Expected {messageIds}")?;
    let is_bad =
        |ids: &[String]| ids.is_empty() || ids.len() > PAGE_MAX as usize || !ids.iter().all(|id| is_name(id));
    if is_bad(&message_ids) { bad("Invalid messageIds: expected 1 to 100 ids") } else { Ok(message_ids) }
}

fn page(args: &Args<'_>) -> Result<Page, AppError> {
    let body: PageBody = match args.raw.first() {
        None => PageBody::default(),
        Some(raw) if *raw == "null" => PageBody::default(),
        Some(_) => expect(args, "Expected {before?, limit?}")?,
    };
    if body.before.as_deref().is_some_and(|before| !is_name(before)) {
        return bad("Invalid before");
    }
    let limit = body.limit.unwrap_or(50).clamp(1, i64::from(PAGE_MAX));
    let limit = u32::try_from(limit).unwrap_or(PAGE_MAX);
    Ok(Page { before: body.before, limit, unread_only: body.unread_only.unwrap_or_default() })
}

fn new_call(args: &Args<'_>) -> Result<NewCall, AppError> {
    let body: InitiateBody = expect(args, "Expected {recipientId, callType?}")?;
    let call_type = match body.call_type.as_deref() {
        None | Some("video") => "video",
        Some("audio") => "audio",
        Some(_) => return bad("Invalid callType: expected video or audio"),
    };
    if body.visit_id.as_deref().is_some_and(|visit| !is_name(visit)) {
        return bad("Invalid visitId");
    }
    Ok(NewCall {
        recipient: user(&body.recipient_id, "Invalid recipientId")?,
        call_type,
        visit: body.visit_id,
    })
}

fn call(args: &Args<'_>) -> Result<String, AppError> {
    let CallBody { call_id } = expect(args, CALL)?;
    call_id_of(call_id)
}

fn call_id_of(id: String) -> Result<String, AppError> {
    if is_name(&id) { Ok(id) } else { bad("Invalid callId") }
}

fn users(args: &Args<'_>) -> Result<Vec<UserId>, AppError> {
    let UsersBody { user_ids: ids } = expect(args, "Expected {userIds}")?;
    if ids.len() > PRESENCE_USERS_MAX {
        return Err(AppError::BadInput(format!("Too many userIds (max {PRESENCE_USERS_MAX})").into()));
    }
    let mut seen = HashSet::with_capacity(ids.len());
    let each = ids.iter().filter(|id| seen.insert(id.as_str()));
    each.map(|id| user(id, "Invalid userId")).collect()
}

fn chosen(args: &Args<'_>) -> Result<Chosen, AppError> {
    let StatusBody { status, custom_status } = expect(args, "Expected {status, customStatus?}")?;
    let custom =
        custom_status.map(|text| bounded(trim(&text), "customStatus", PRESENCE_TEXT_MAX)).transpose()?;
    let custom = custom.filter(|text| !is_blank(text));
    Chosen::new(&status, custom)
        .ok_or_else(|| AppError::BadInput("Invalid status: expected online, away or busy".into()))
}
