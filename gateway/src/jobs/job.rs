//! [`Job`]: work that follows from a change of a record.

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

/// The kind of jobs that deliver an event. They belong to no app.
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

/// The described type of an event with this body.
pub(crate) type Identified<T> = WithId<'static, T>;

impl<'a, T> WithId<'a, T> {
    /// `body` as the argument of the event with the id `event_id`.
    pub(crate) fn new(event_id: &'a str, body: &'a T) -> Self {
        Self { body, event_id }
    }
}

/// The recipients of an event.
#[derive(Debug, Clone)]
pub(crate) enum Audience {
    Room(Room),
    User(UserId),
}

/// The result of an app's job.
#[derive(Debug)]
pub(crate) enum Ran {
    /// It is done. The value goes to the caller that waits for it, if any.
    Done(Value),
    /// It failed. It is retried after a pause, which grows with each failure.
    Failed,
    /// It must run again after this time.
    Later(Duration),
}

impl Ran {
    /// Done, without a value.
    pub(crate) fn done() -> Self {
        Self::Done(Value::Null)
    }
}

/// Work that follows from a change of a record. It is stored in the transaction that changes the record, run after the
/// commit, and deleted when it is done. After a crash it may run a second time.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(super) id: String,
    /// Empty for an event.
    pub(super) app: String,
    pub(super) kind: String,
    /// The entity that the job is about: jobs of one subject run in the order of their commits.
    pub(super) subject: String,
    /// JSON.
    pub(super) payload: String,
    /// How long after the commit the job is due.
    pub(super) delay: Duration,
    /// Neither later jobs of the subject nor the caller wait for it.
    pub(super) is_apart: bool,
    event: Option<StoredEvent>,
}

impl Job {
    /// A job for an app's `run_job`.
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

    /// A job that delivers an event with one argument.
    pub(crate) fn event_to(
        subject: &str,
        (namespace, to): (&Namespace, Audience),
        name: &str,
        body: &impl Serialize,
    ) -> EventJob {
        Self::event_known_as(&Uuid::now_v7().to_string(), subject, (namespace, to), name, body)
    }

    /// Like [`Self::event_to`], with an id that the app knows, so that the app can withdraw it ([`super::take_back`]).
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

    /// Sets an id that the app knows. A job enqueued under an existing id replaces the earlier one.
    pub(crate) fn known_as(self, id: String) -> Self {
        Self { id, ..self }
    }

    /// Delays the job after the commit. It gets a separate lane.
    pub(crate) fn after(self, delay: Duration) -> Self {
        Self { subject: self.id.clone(), delay, ..self }
    }

    /// Neither later jobs of the subject nor the caller that waits for the batch wait for this job.
    pub(crate) fn apart(self) -> Self {
        Self { is_apart: true, ..self }
    }

    /// The name of the app that runs it; empty for an event.
    pub(crate) fn app(&self) -> &str {
        &self.app
    }

    /// The app's name for the kind of work.
    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    /// The app's payload; `None` if it is not a `T`.
    pub(crate) fn payload<T: for<'a> Deserialize<'a>>(&self) -> Option<T> {
        serde_json::from_str(&self.payload).ok()
    }

    /// The event that it delivers.
    pub(super) fn event(&self) -> Option<&StoredEvent> {
        self.event.as_ref()
    }

    /// Reads a job from the records.
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

/// A builder for a job that delivers an event.
#[derive(Debug)]
pub(crate) struct EventJob {
    id: String,
    subject: String,
    event: StoredEvent,
}

impl EventJob {
    /// Excludes this socket.
    pub(crate) fn except(mut self, socket: SocketId) -> Self {
        self.event.except = Some(socket);
        self
    }

    /// Excludes this user's sockets.
    pub(crate) fn except_user(mut self, user: &UserId) -> Self {
        self.event.except_user = Some(user.clone());
        self
    }

    /// Lets the app deliver the event, with this number, on every node that has members of the room.
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

/// An event about a record.
#[derive(Debug, Clone)]
pub(super) struct StoredEvent {
    pub(super) namespace: Namespace,
    to: Audience,
    except: Option<SocketId>,
    except_user: Option<UserId>,
    sequence: Option<i64>,
    pub(super) name: String,
    /// Raw JSON of its argument, including its id.
    pub(super) body: String,
}

/// The stored form of an event.
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
        // The body was serialized as JSON.
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

/// An event that the previous version stored, in its own table.
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
