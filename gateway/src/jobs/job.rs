//! [`Job`]: something that must be done because a record says so.

use std::time::Duration;

use fanout::Target;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use shared::ids::SocketId;
use shared::names::{Namespace, Room, UserId};
use uuid::Uuid;

use crate::text::json;

/// The kind of jobs that deliver an event. They are of no app.
const EVENT: &str = "event";

/// An event's argument with the event's id.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "{T}Event")]
pub(crate) struct WithId<'a, T> {
    #[serde(flatten)]
    body: &'a T,
    /// The event's id. After a crash of the server an event may come a second time, with the same id: drop it then.
    event_id: &'a str,
}

/// What an event with this body is described as.
pub(crate) type Identified<T> = WithId<'static, T>;

impl<'a, T> WithId<'a, T> {
    /// `body` as the argument of the event that is called `event_id`.
    pub(crate) fn new(event_id: &'a str, body: &'a T) -> Self {
        Self { body, event_id }
    }
}

/// The receivers of an event.
#[derive(Debug, Clone)]
pub(crate) enum Audience {
    Room(Room),
    User(UserId),
}

/// What became of an app's job.
#[derive(Debug)]
pub(crate) enum Ran {
    /// It is done. The value is for the caller that waits for it, if one does.
    Done(Value),
    /// It could not be done. It is tried again after a while, longer each time.
    Failed,
    /// It is to be run again after so long.
    Later(Duration),
}

impl Ran {
    /// It is done, and there is nothing to say about it.
    pub(crate) fn done() -> Self {
        Self::Done(Value::Null)
    }
}

/// Something that must be done because a record says so: stored in the transaction that changes the record, run after its
/// commit, and deleted when it is done. After a crash it may be run a second time.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(super) id: String,
    /// Empty for an event.
    pub(super) app: String,
    pub(super) kind: String,
    /// The entity that it is about: jobs of one subject are run in the order of their commits.
    pub(super) subject: String,
    /// JSON.
    pub(super) payload: String,
    /// How long after the commit it is due.
    pub(super) delay: Duration,
    /// Jobs behind it do not wait until it is done, nor does the caller.
    pub(super) is_apart: bool,
    event: Option<StoredEvent>,
}

impl Job {
    /// A job of an app, which its `run_job` gets.
    pub(crate) fn of_app(app: &str, kind: &str, subject: &str, payload: &impl Serialize) -> Self {
        Self {
            id: Uuid::now_v7().to_string(),
            app: app.to_owned(),
            kind: kind.to_owned(),
            subject: subject.to_owned(),
            payload: json(payload),
            delay: Duration::ZERO,
            is_apart: false,
            event: None,
        }
    }

    /// Delivers an event with one argument.
    pub(crate) fn event_to(
        subject: &str,
        (namespace, to): (&Namespace, Audience),
        name: &str,
        body: &impl Serialize,
    ) -> EventJob {
        Self::event_known_as(&Uuid::now_v7().to_string(), subject, (namespace, to), name, body)
    }

    /// As [`Self::event_to`], under an id that its app knows, so that it can be taken back ([`super::take_back`]).
    pub(crate) fn event_known_as(
        id: &str,
        subject: &str,
        (namespace, to): (&Namespace, Audience),
        name: &str,
        body: &impl Serialize,
    ) -> EventJob {
        let event = StoredEvent {
            namespace: namespace.clone(),
            to,
            except: None,
            except_user: None,
            sequence: None,
            name: name.to_owned(),
            body: json(&WithId::new(id, body)),
        };
        EventJob { id: id.to_owned(), subject: subject.to_owned(), event }
    }

    /// Under an id that its app knows. A job that is enqueued under the id of another replaces it.
    pub(crate) fn known_as(self, id: String) -> Self {
        Self { id, ..self }
    }

    /// Due so long after the commit. It has a lane of its own.
    pub(crate) fn after(self, delay: Duration) -> Self {
        Self { subject: self.id.clone(), delay, ..self }
    }

    /// Jobs behind it do not wait until it is done, nor does the caller that waits for the batch.
    pub(crate) fn apart(self) -> Self {
        Self { is_apart: true, ..self }
    }

    /// The app's word for what is to be done.
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    /// What the app stored with it; `None` where it is not a `T`.
    pub(crate) fn payload<T: for<'a> Deserialize<'a>>(&self) -> Option<T> {
        serde_json::from_str(&self.payload).ok()
    }

    /// The event that it delivers.
    pub(super) fn event(&self) -> Option<&StoredEvent> {
        self.event.as_ref()
    }

    /// A job as the records have it.
    pub(super) fn of_record(
        (id, app, kind): (String, String, String),
        subject: String,
        payload: String,
    ) -> Option<Self> {
        let event = match (app.as_str(), kind.as_str()) {
            ("", EVENT) => Some(StoredEvent::of_payload(&payload)?),
            _ => None,
        };
        Some(Self { id, app, kind, subject, payload, delay: Duration::ZERO, is_apart: false, event })
    }
}

/// A job that delivers an event, while its receivers are being said.
#[derive(Debug)]
pub(crate) struct EventJob {
    id: String,
    subject: String,
    event: StoredEvent,
}

impl EventJob {
    /// Not to this socket.
    pub(crate) fn except(mut self, socket: SocketId) -> Self {
        self.event.except = Some(socket);
        self
    }

    /// Not to this user's sockets.
    pub(crate) fn except_user(mut self, user: &UserId) -> Self {
        self.event.except_user = Some(user.clone());
        self
    }

    /// Delivered by the app on every node that has members of the room, which gets this number with it.
    pub(crate) fn sequenced(mut self, sequence: i64) -> Self {
        self.event.sequence = Some(sequence);
        self
    }
}

impl From<EventJob> for Job {
    fn from(EventJob { id, subject, event }: EventJob) -> Self {
        Self {
            id,
            app: String::new(),
            kind: EVENT.to_owned(),
            subject,
            payload: event.to_payload(),
            delay: Duration::ZERO,
            is_apart: false,
            event: Some(event),
        }
    }
}

/// An event that reports a record.
#[derive(Debug, Clone)]
pub(super) struct StoredEvent {
    pub(super) namespace: Namespace,
    to: Audience,
    except: Option<SocketId>,
    except_user: Option<UserId>,
    sequence: Option<i64>,
    pub(super) name: String,
    /// Raw JSON of its argument, its id in it.
    pub(super) body: String,
}

/// How an event is stored.
#[derive(Serialize, Deserialize)]
struct Payload<'a> {
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    room: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    except: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    except_user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<i64>,
    event: String,
    #[serde(borrow)]
    body: &'a RawValue,
}

impl StoredEvent {
    /// Where it goes.
    pub(super) fn target(&self) -> Target<'_> {
        let target = match &self.to {
            Audience::Room(room) => Target::room(&self.namespace, room.as_str()),
            Audience::User(user) => Target::user(&self.namespace, user),
        };
        let (except_user, sequence) = (self.except_user.as_ref(), self.sequence);
        Target { except: self.except, except_user, sequence, ..target }
    }

    fn to_payload(&self) -> String {
        let (room, user) = match &self.to {
            Audience::Room(room) => (Some(room.as_str().to_owned()), None),
            Audience::User(user) => (None, Some(user.as_str().to_owned())),
        };
        // It was written as JSON.
        let Ok(body) = serde_json::from_str::<&RawValue>(&self.body) else { return String::new() };
        json(&Payload {
            namespace: self.namespace.as_str().to_owned(),
            room,
            user,
            except: self.except.map(|socket| socket.as_str().to_owned()),
            except_user: self.except_user.as_ref().map(|user| user.as_str().to_owned()),
            sequence: self.sequence,
            event: self.name.clone(),
            body,
        })
    }

    fn of_payload(payload: &str) -> Option<Self> {
        let payload: Payload<'_> = serde_json::from_str(payload).ok()?;
        let to = match (payload.room, payload.user) {
            (Some(room), _) => Audience::Room(Room::of_cluster(&room)?),
            (None, user) => Audience::User(UserId::parse(&user?).ok()?),
        };
        Some(Self {
            namespace: Namespace::parse(&payload.namespace).ok()?,
            to,
            except: payload.except.as_deref().and_then(SocketId::parse),
            except_user: payload.except_user.and_then(|user| UserId::parse(&user).ok()),
            sequence: payload.sequence,
            name: payload.event,
            body: payload.body.get().to_owned(),
        })
    }
}

/// An event of the version before, which kept each in a row of its own.
pub(super) struct OlderEvent {
    pub(super) id: String,
    pub(super) namespace: String,
    pub(super) is_to_room: bool,
    pub(super) recipient: String,
    pub(super) except: Option<String>,
    pub(super) except_user: Option<String>,
    pub(super) sequence: Option<i64>,
    pub(super) event: String,
    pub(super) body: String,
}

impl OlderEvent {
    /// The job that delivers it.
    pub(super) fn into_job(self) -> Option<Job> {
        let to = if self.is_to_room {
            Audience::Room(Room::of_cluster(&self.recipient)?)
        } else {
            Audience::User(UserId::parse(&self.recipient).ok()?)
        };
        let event = StoredEvent {
            namespace: Namespace::parse(&self.namespace).ok()?,
            to,
            except: self.except.as_deref().and_then(SocketId::parse),
            except_user: self.except_user.and_then(|user| UserId::parse(&user).ok()),
            sequence: self.sequence,
            name: self.event,
            body: self.body,
        };
        Some(EventJob { subject: self.recipient, id: self.id, event }.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_event_is_read_as_it_was_stored() {
        let namespace = Namespace::parse("/a").unwrap();
        let (room, user) = (Room::of_cluster("sos:1").unwrap(), UserId::parse("u\"1").unwrap());
        let stored: Job =
            Job::event_to("s", (&namespace, Audience::Room(room)), "e", &json!({"n": 1.0, "t": "ü\u{2028}"}))
                .except_user(&user)
                .sequenced(7)
                .into();
        let parts = (stored.id.clone(), stored.app.clone(), stored.kind.clone());
        let read = Job::of_record(parts, stored.subject.clone(), stored.payload.clone()).unwrap();
        assert_eq!(format!("{:?}", read.event), format!("{:?}", stored.event));
        let body: Value = serde_json::from_str(&read.event().unwrap().body).unwrap();
        assert_eq!(body, json!({"n": 1.0, "t": "ü\u{2028}", "eventId": stored.id}));
    }
}
