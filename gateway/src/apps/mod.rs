//! The applications. Each is a folder with the same face: an [`AppKind`] that says what it is, and an [`App`] that
//! runs. Apps use [`Socket`] and [`Context`] and never each other.
//!
//! A new app is a folder and an entry in [`APPS`] (ARCHITECTURE.md, "Adding an app").

mod care;
mod chat;
mod emergencies;
mod reconciler;
mod relay;
mod sos;

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use fanout::{Gone, Left, Sequenced};
use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shared::auth::Claims;
use shared::config::AppDeclaration;
use shared::names::{Namespace, Room, UserId};
use shared::sio::Args;

use crate::context::Context;
use crate::describe::Section;
use crate::describe::forms::True;
use crate::error::{AppError, Say};
use crate::jobs::{Job, Ran};
use crate::limiter::Meters;
use crate::metrics::{self, Limit};
use crate::rest::Served;
use crate::socket::Socket;
use crate::text::json;

/// Every app of this program, in the order of the README, whether it is mounted or not.
pub(crate) static APPS: &[&AppKind] =
    &[&sos::KIND, &emergencies::KIND, &chat::KIND, &care::KIND, &relay::KIND];

/// What an app is, whether it is mounted or not.
#[derive(Debug)]
pub(crate) struct AppKind {
    /// What settings need to know of it: its name, where it is mounted by default, and its own settings.
    pub(crate) declaration: AppDeclaration,
    /// Describes the app and its events. A node takes exactly the events of clients that are described here.
    pub(crate) describe: fn(&mut Section),
    /// The rooms that are its own: no other app's client may name them.
    pub(crate) rooms: OwnRooms,
    /// Starts it where it is mounted.
    pub(crate) start: fn(Mount<'_>) -> Arc<dyn App>,
}

/// Rooms that belong to an app.
#[derive(Debug, Default)]
pub(crate) struct OwnRooms {
    /// They are called so.
    pub(crate) names: &'static [&'static str],
    /// They begin so.
    pub(crate) prefixes: &'static [&'static str],
}

/// Where an app is mounted, and with what.
#[derive(Debug)]
pub(crate) struct Mount<'a> {
    pub(crate) context: Context,
    pub(crate) namespace: Namespace,
    /// All apps of the namespace, this one among them.
    pub(crate) neighbours: &'a [&'static AppKind],
}

/// What a hook has to wait for; `None` where there is nothing to do, which costs nothing.
pub(crate) type Hook<'a> = Option<BoxFuture<'a, ()>>;

/// An app that runs. All hooks but [`Self::on_event`] do nothing unless an app has its own.
///
/// An app whose futures outlive a call implements this for its `Arc`, so that a hook can hand the app on.
pub(crate) trait App: Debug + Send + Sync {
    /// What it is.
    fn kind(&self) -> &'static AppKind;

    /// Handles one of the events that the app's description has.
    fn on_event(&self, socket: &Arc<Socket>, event: Event<'_>) -> Handling;

    /// Its endpoints.
    fn routes(&self) -> Served {
        Served::default()
    }

    /// Whether a socket with these claims may be in a room. The one place where an app says so: joins ask it, and it is
    /// asked again whenever access changes.
    fn admits<'a>(&'a self, _claims: &'a Claims, _room: &'a Room) -> Admission<'a> {
        Admission::Known(None)
    }

    /// A socket is connected, and its client has been told.
    fn on_connect<'a>(&'a self, _socket: &'a Arc<Socket>) -> Hook<'a> {
        None
    }

    /// A socket was taken out of a room that it may not be in any more: the others are told.
    fn on_removed<'a>(&'a self, _socket: &'a Arc<Socket>, _room: &'a Room, _left: Left) -> Hook<'a> {
        None
    }

    /// A socket has a newer token, which may give it more rights.
    fn on_renewed<'a>(&'a self, _socket: &'a Arc<Socket>) -> Hook<'a> {
        None
    }

    /// A socket is disconnected.
    fn on_disconnect(&self, _departure: &Departure) {}

    /// A user's last socket in a room has left for good.
    fn on_gone<'a>(&'a self, _gone: &'a Gone) -> Hook<'a> {
        None
    }

    /// A user whose departure was announced is there: their node had been cut off.
    fn on_back<'a>(&'a self, _back: &'a Gone) -> Hook<'a> {
        None
    }

    /// A broadcast with a place in an order that this app keeps; false when it is none of its.
    fn on_sequenced(&self, _broadcast: &Sequenced) -> bool {
        false
    }

    /// Does what one of its jobs says. It may be done a second time after a crash.
    fn run_job<'a>(&'a self, _job: &'a Job) -> BoxFuture<'a, Ran> {
        Box::pin(std::future::ready(Ran::done()))
    }

    /// Another node is gone: called on one of those that are left.
    fn on_departure(&self, _namespace: &Namespace) {}

    /// Turns what a node of an older version has left to be done into jobs.
    fn adopt_older(&self) -> Hook<'_> {
        None
    }

    /// Something may have been missed in any room.
    fn on_resubscribed(&self) -> Hook<'_> {
        None
    }
}

/// Whether a socket may be in a room; `None` where it is none of the app's rooms.
pub(crate) enum Admission<'a> {
    /// The claims and the room's name decide.
    Known(Option<bool>),
    /// The records decide, and may not answer.
    Asked(BoxFuture<'a, Result<Option<bool>, AppError>>),
}

impl Admission<'_> {
    /// The answer.
    ///
    /// # Errors
    /// Where the records decide and do not answer.
    pub(crate) async fn get(self) -> Result<Option<bool>, AppError> {
        match self {
            Self::Known(known) => Ok(known),
            Self::Asked(asked) => asked.await,
        }
    }
}

/// A hook that waits for `future`.
fn hook<'a>(future: impl Future<Output = ()> + Send + 'a) -> Hook<'a> {
    Some(Box::pin(future))
}

/// The names of all apps, by their numbers.
pub(crate) fn names() -> Vec<&'static str> {
    APPS.iter().map(|kind| kind.name()).collect()
}

/// What settings need to know of all apps.
pub(crate) fn declarations() -> Vec<&'static AppDeclaration> {
    APPS.iter().map(|kind| &kind.declaration).collect()
}

/// The app called `name`.
pub(crate) fn find(name: &str) -> Option<&'static AppKind> {
    APPS.iter().copied().find(|kind| kind.name() == name)
}

impl AppKind {
    /// Its name in settings, metrics and documents.
    pub(crate) fn name(&self) -> &'static str {
        self.declaration.name
    }

    /// Its number among [`APPS`], by which metrics count.
    pub(crate) fn number(&self) -> usize {
        APPS.iter().position(|kind| kind.name() == self.name()).unwrap_or_default()
    }

    /// The description of the app and its events, mounted on `namespace`.
    pub(crate) fn section(&self, namespace: &Namespace) -> Section {
        let mut section = Section::new(self.name(), vec![namespace.as_str().to_owned()]);
        (self.describe)(&mut section);
        section
    }
}

/// An event for an app.
#[derive(Debug)]
pub(crate) struct Event<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) args: Args<'a>,
    pub(crate) attachments: Vec<Bytes>,
}

/// A successful answer: raw JSON of the ack's arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) json: String,
    pub(crate) attachments: Vec<Bytes>,
}

/// What became of an event.
pub(crate) type Handled = Result<Reply, AppError>;

/// How an app handles an event.
pub(crate) enum Handling {
    /// It is done: nothing had to be waited for.
    Done(Handled),
    /// It waits; the client's next event waits for it.
    Later(BoxFuture<'static, Handled>),
    /// It waits for clients, perhaps for this one, or it has its place in the order already: the client's next
    /// events are handled meanwhile.
    Apart(BoxFuture<'static, Handled>),
}

/// A socket has gone.
#[derive(Debug)]
pub(crate) struct Departure {
    /// The rooms it was in. Whose last socket it was is reported later, by [`App::on_gone`].
    pub(crate) rooms: Vec<Room>,
}

/// A success, with what it brings.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "{T}Ack")]
pub(crate) struct Success<'a, T> {
    #[schemars(with = "True")]
    success: bool,
    #[serde(flatten)]
    body: &'a T,
}

/// The ack of an event that is answered with `{success: true, …T}`, for its description.
pub(crate) type Ack<T> = Success<'static, T>;

/// A success that brings nothing.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Done {
    #[schemars(with = "True")]
    success: bool,
}

impl Reply {
    /// `{success: true, …body}`.
    pub(crate) fn success(body: &impl Serialize) -> Self {
        Self { json: json(&Success { success: true, body }), attachments: Vec::new() }
    }

    /// `{success: true}`.
    pub(crate) fn ok() -> Self {
        Self { json: json(&Done { success: true }), attachments: Vec::new() }
    }
}

impl Handling {
    pub(crate) fn later(future: impl Future<Output = Handled> + Send + 'static) -> Self {
        Self::Later(Box::pin(future))
    }

    pub(crate) fn refuse(say: impl Into<Say>) -> Self {
        Self::Done(Err(AppError::BadInput(say.into())))
    }
}

/// Takes a unit of a user's rate.
///
/// # Errors
/// [`AppError::Limited`], counted.
fn within(meters: &Meters<UserId>, user: &UserId) -> Result<(), AppError> {
    if meters.take(user.clone(), Instant::now()) {
        return Ok(());
    }
    Err(limited(1))
}

/// What a user is refused who is over a rate, counted; `seconds` are until it is worth trying again.
fn limited(seconds: u64) -> AppError {
    metrics::get().rate_limited(Limit::UserRate);
    AppError::Limited("Too many requests".into(), seconds)
}

/// What a client is told whose event the app does not know.
fn unknown_event() -> AppError {
    AppError::BadInput("Unknown event".into())
}

/// The first argument as `T`; `None` when it is not there or not one.
pub(crate) fn first<T: DeserializeOwned>(args: &Args<'_>) -> Option<T> {
    shared::json::read(args.raw.first()?).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use axum::body::Body;
    use axum::http::Request;
    use fanout::SocketInfo;
    use serde_json::json;
    use shared::ids::{NodeId, SessionId, SocketId};
    use shared::limits::USER_EVENTS_FACTOR;
    use tower::ServiceExt as _;

    use super::*;
    use crate::users::Users;

    /// Every app, on a namespace of its own, and a socket there that may do everything.
    async fn started() -> Vec<(Arc<dyn App>, Arc<Socket>)> {
        let of = |kind: &AppKind| Namespace::parse(&format!("/{}", kind.name())).unwrap();
        let context = Context::alone(&APPS.iter().map(|kind| of(kind)).collect::<Vec<_>>()).await;
        let mut all = Vec::new();
        for (kind, id) in APPS.iter().zip(1..) {
            let mount = Mount { context: context.clone(), namespace: of(kind), neighbours: &[] };
            let claims = json!({"sub": "u", "exp": 1, "rooms": ["*"], "publish": ["*"]});
            let claims = Claims::from_json(claims.as_object().unwrap()).unwrap();
            let node = NodeId::from_random([0; 4]);
            let info = SocketInfo {
                id: SocketId::new(node, [id; 16]),
                user: claims.user.clone(),
                display_name: "U".into(),
                connected_at_ms: 0,
                email: None,
                role: None,
            };
            let queue = context.fanout.send_queue(SessionId::new(node, [id; 16]));
            let local = context.fanout.attach(of(kind).as_str(), info, queue).await.unwrap();
            let share = Users::new(0).share(&claims.user);
            all.push(((kind.start)(mount), Arc::new(Socket::new(local, claims, share))));
        }
        all
    }

    #[tokio::test]
    async fn an_app_handles_the_events_that_it_describes_and_no_others() {
        for (app, socket) in started().await {
            let kind = app.kind();
            let is_known = |name: &str| {
                let event = Event { name: name.into(), args: Args::default(), attachments: Vec::new() };
                let unknown = unknown_event();
                match app.on_event(&socket, event) {
                    Handling::Done(Err(error)) => error.say() != unknown.say(),
                    Handling::Done(Ok(_)) | Handling::Later(_) | Handling::Apart(_) => true,
                }
            };
            let section = kind.section(&Namespace::parse("/").unwrap());
            for (event, weight) in section.taken() {
                assert!(is_known(event), "{} describes {event}", kind.name());
                assert!((1..=USER_EVENTS_FACTOR).contains(&weight), "{event}");
            }
            assert!(!is_known("no:such:event"), "{}", kind.name());
        }
    }

    #[tokio::test]
    async fn an_endpoint_lets_in_whom_it_says() {
        for (app, _) in started().await {
            let Served { public, internal, operations } = app.routes();
            for operation in operations {
                let path = operation.path().replace(['{', '}'], "");
                let request = Request::builder()
                    .method(&*operation.method().to_uppercase())
                    .uri(&path)
                    .body(Body::empty());
                let router = if operation.is_public() { &public } else { &internal };
                let status = router.clone().oneshot(request.unwrap()).await.unwrap().status();
                let expected = if operation.is_of_user() { 401 } else { 403 };
                assert_eq!(status, expected, "{} {path}", operation.method());
                assert!(operation.is_of_user() == operation.is_public(), "{path}");
            }
        }
    }

    #[tokio::test]
    async fn apps_share_no_endpoint_and_no_name() {
        let mut endpoints = HashSet::new();
        for (app, _) in started().await {
            for operation in app.routes().operations {
                let endpoint = (operation.method(), operation.path());
                assert!(endpoints.insert(endpoint), "{endpoint:?}");
            }
        }
        assert_eq!(names().into_iter().collect::<HashSet<_>>().len(), APPS.len());
    }
}
